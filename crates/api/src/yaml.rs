//! JSON values as YAML text.
//!
//! Block style with sorted keys, as upstream's answers and kubectl's own output have it. A string is written plain only where no YAML 1.1 or 1.2
//! reader can take it for something else; otherwise quoted as JSON, which YAML contains.

use std::fmt::Write;

use serde_json::Value;

pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut text, value, 0),
        Value::Array(items) if !items.is_empty() => block(&mut text, value, 0),
        scalar => {
            inline(&mut text, scalar);
            text.push('\n');
        }
    }
    text
}

fn block(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) => {
            for (n, (key, value)) in map.iter().enumerate() {
                if n > 0 || !text.ends_with("- ") {
                    indent(text, depth);
                }
                string(text, key);
                text.push(':');
                child(text, value, depth + 1);
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                if n > 0 || !text.ends_with("- ") {
                    indent(text, depth);
                }
                text.push('-');
                match item {
                    Value::Object(map) if !map.is_empty() => {
                        text.push(' ');
                        block(text, item, depth + 1);
                    }
                    Value::Array(inner) if !inner.is_empty() => {
                        text.push(' ');
                        block(text, item, depth + 1);
                    }
                    scalar => {
                        text.push(' ');
                        inline(text, scalar);
                        text.push('\n');
                    }
                }
            }
        }
        scalar => inline(text, scalar),
    }
}

/// What follows a key's colon. Lists stand under their key without further indentation.
fn child(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(text, value, depth);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            block(text, value, depth - 1);
        }
        scalar => {
            text.push(' ');
            inline(text, scalar);
            text.push('\n');
        }
    }
}

fn indent(text: &mut String, depth: usize) {
    for _ in 0..depth {
        text.push_str("  ");
    }
}

fn inline(text: &mut String, value: &Value) {
    match value {
        Value::String(s) => string(text, s),
        // Numbers, true, false, null, {} and [] read the same in both.
        other => write!(text, "{other}").expect("writing to a String does not fail"),
    }
}

fn string(text: &mut String, s: &str) {
    if is_plain(s) {
        text.push_str(s);
    } else {
        write!(text, "{}", Value::from(s)).expect("writing to a String does not fail");
    }
}

/// Starts with a letter or one of `/ _`, has nothing that YAML gives a meaning to, and is no YAML 1.1 word or number.
fn is_plain(s: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let starts = s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let ends = !s.ends_with([' ', ':']);
    let inner = s.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@ +=,()".contains(c));
    starts && ends && inner && !s.contains(": ") && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(s))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(value: Value, expected: Expect) {
        expected.assert_eq(&to_yaml(&value));
    }

    #[test]
    fn objects_and_lists() {
        check(
            json!({"a": {"b": [1, {"c": "d", "e": [["f"], []]}], "g": {}}, "h": null}),
            expect![[r#"
                a:
                  b:
                  - 1
                  - c: d
                    e:
                    - - f
                    - []
                  g: {}
                h: null
            "#]],
        );
        check(json!("x"), expect!["x\n"]);
    }

    #[test]
    fn strings_that_would_read_as_something_else_are_quoted() {
        check(
            json!({"a": "yes", "b": "1", "c": "", "d": "x: y", "e": "#", "f": "a\nb", "g": "ok value", "no": "~", "h": "2026-01-01", "i": "e # f"}),
            expect![[r##"
                a: "yes"
                b: "1"
                c: ""
                d: "x: y"
                e: "#"
                f: "a\nb"
                g: ok value
                h: "2026-01-01"
                i: "e # f"
                "no": "~"
            "##]],
        );
    }
}
