//! Defaults as a table: a line is a path and the value that is set where there is none.
//!
//! `a.b = 1` sets `b` in `a` if `a` is there and `b` is not (or null, or ""). `a.b ~ 1` also replaces 0, which for Go's plain
//! integers means "not set". `a[]` is each element of a list. A parent is never made: a line of its own does that (`a = {}`).
//! Sources: upstream's pkg/apis/*/v1/defaults.go and the defaults declared in the schema.

use serde_json::Value;

/// A table, parsed on first use.
pub(crate) struct Defaults(Vec<Rule>);

struct Rule {
    steps: Vec<Step>,
    value: Value,
    replaces_zero: bool,
}

enum Step {
    Key(&'static str),
    Each,
}

impl Defaults {
    /// Panics on a line that is no rule: tables are constants, and each is parsed by a test.
    pub(crate) fn parse(text: &'static str) -> Defaults {
        Defaults(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(rule).collect())
    }

    pub(crate) fn apply(&self, root: &mut Value) {
        for rule in &self.0 {
            set(root, &rule.steps, rule);
        }
    }
}

fn rule(line: &'static str) -> Rule {
    let mut parts = line.splitn(3, ' ');
    let (Some(path), Some(operator), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
        panic!("a default is `path = value`: {line:?}");
    };
    let mut steps = Vec::new();
    for part in path.split('.') {
        match part.strip_suffix("[]") {
            Some(key) => steps.extend([Step::Key(key), Step::Each]),
            None => steps.push(Step::Key(part)),
        }
    }
    let value = serde_json::from_str(value).unwrap_or_else(|e| panic!("value of the default {line:?}: {e}"));
    Rule { steps, value, replaces_zero: operator == "~" }
}

fn set(value: &mut Value, steps: &[Step], rule: &Rule) {
    match steps {
        [Step::Key(key)] => {
            let Some(map) = value.as_object_mut() else { return };
            let unset = match map.get(*key) {
                None | Some(Value::Null) => true,
                Some(Value::String(text)) => text.is_empty() && rule.value != "",
                Some(Value::Number(number)) => rule.replaces_zero && number.as_i64() == Some(0),
                Some(_) => false,
            };
            if unset {
                map.insert((*key).to_owned(), rule.value.clone());
            }
        }
        [Step::Key(key), rest @ ..] => {
            if let Some(child) = value.get_mut(*key) {
                set(child, rest, rule);
            }
        }
        [Step::Each, rest @ ..] => {
            for item in value.as_array_mut().into_iter().flatten() {
                set(item, rest, rule);
            }
        }
        [] => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_fill_in_and_never_replace() {
        let table = Defaults::parse("a = {}\n a.b = 1\n c[].d ~ 2\n e.f = 3\n g = \"x\"");
        let mut value = json!({"c": [{}, {"d": 0}, {"d": 9}], "g": ""});
        table.apply(&mut value);
        assert_eq!(value, json!({"a": {"b": 1}, "c": [{"d": 2}, {"d": 2}, {"d": 9}], "g": "x"}));
    }
}
