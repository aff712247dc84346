//! The part of kubectl's JSONPath that definitions use: `.spec.replicas`, `.metadata.labels['a/b']`, `.status.conditions[?(@.type=="Ready")].status`,
//! `.items[0]`, `.items[*].name`.

use serde_json::{Map, Value};

/// Steps of one path. Upstream refuses longer ones nowhere; a definition has a few.
const STEPS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Negative counts from the end.
    Index(i64),
    All,
    /// Items whose value at a path equals, or does not equal, a literal.
    Where {
        path: Vec<String>,
        equal: bool,
        literal: Value,
    },
    /// Items that have a value at a path.
    Having(Vec<String>),
}

impl Path {
    /// The error says what cannot be read.
    pub fn parse(text: &str) -> Result<Path, String> {
        let mut rest = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(text);
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == STEPS_MAX {
                return Err(format!("the path has more than {STEPS_MAX} steps"));
            }
            let (step, after) = step(rest)?;
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() {
            return Err("the path is empty".to_owned());
        }
        Ok(Path { steps })
    }

    /// The names, where the path has nothing but names.
    pub fn names(&self) -> Option<Vec<&str>> {
        self.steps.iter().map(Step::name).collect()
    }

    /// All values that the path leads to in an object.
    pub fn find<'a>(&self, object: &'a Map<String, Value>) -> Vec<&'a Value> {
        let Some((first, rest)) = self.steps.split_first() else { return Vec::new() };
        let mut found: Vec<&Value> = match first {
            Step::Field(name) => object.get(name).into_iter().collect(),
            Step::All => object.values().collect(),
            _ => Vec::new(),
        };
        for step in rest {
            found = found.into_iter().flat_map(|value| step.follow(value)).collect();
        }
        found
    }
}

impl Step {
    fn name(&self) -> Option<&str> {
        match self {
            Step::Field(name) => Some(name),
            _ => None,
        }
    }

    fn follow<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Step::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Step::Index(index), Value::Array(list)) => {
                let at = if *index < 0 { list.len() as i64 + index } else { *index };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            (Step::All, Value::Array(list)) => list.iter().collect(),
            (Step::All, Value::Object(map)) => map.values().collect(),
            (Step::Where { path, equal, literal }, Value::Array(list)) => {
                let fits = |item: &&Value| at(item, path).is_some_and(|found| same(found, literal) == *equal);
                list.iter().filter(fits).collect()
            }
            (Step::Having(path), Value::Array(list)) => list.iter().filter(|item| at(item, path).is_some()).collect(),
            _ => Vec::new(),
        }
    }
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

fn same(found: &Value, literal: &Value) -> bool {
    found == literal || matches!((found.as_f64(), literal.as_f64()), (Some(one), Some(two)) if one == two)
}

fn step(text: &str) -> Result<(Step, &str), String> {
    if let Some(rest) = text.strip_prefix('.') {
        if let Some(after) = rest.strip_prefix('*') {
            return Ok((Step::All, after));
        }
        if rest.starts_with('[') {
            return step(rest);
        }
        let mut name = String::new();
        let mut letters = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => name.extend(letters.next().map(|(_, escaped)| escaped)),
                '.' | '[' => {
                    end = at;
                    break;
                }
                letter => name.push(letter),
            }
        }
        return if name.is_empty() { Err(format!("a name is missing at {text:?}")) } else { Ok((Step::Field(name), &rest[end..])) };
    }
    let inner = text.strip_prefix('[').ok_or_else(|| format!("a step begins with . or [, not {text:?}"))?;
    if let Some(filter) = inner.strip_prefix("?(") {
        let (condition, after) = filter.split_once(")]").ok_or_else(|| format!("the filter at {text:?} has no end"))?;
        return Ok((self::filter(condition)?, after));
    }
    if let Some(quote) = inner.chars().next().filter(|letter| ['\'', '"'].contains(letter)) {
        let (name, after) = inner[1..].split_once(&format!("{quote}]")).ok_or_else(|| format!("the name at {text:?} has no end"))?;
        return Ok((Step::Field(name.replace('\\', "")), after));
    }
    let (index, after) = inner.split_once(']').ok_or_else(|| format!("{text:?} has no closing bracket"))?;
    match index {
        "*" => Ok((Step::All, after)),
        index => index.parse().map(|index| (Step::Index(index), after)).map_err(|_| format!("{index:?} is no index")),
    }
}

fn filter(condition: &str) -> Result<Step, String> {
    let names = |text: &str| -> Result<Vec<String>, String> {
        let rest = text.trim().strip_prefix("@.").ok_or_else(|| format!("a filter begins with @., not {text:?}"))?;
        Ok(rest.split('.').map(str::to_owned).collect())
    };
    let (equal, parts) = match (condition.split_once("=="), condition.split_once("!=")) {
        (Some(parts), _) => (true, parts),
        (None, Some(parts)) => (false, parts),
        (None, None) => return names(condition).map(Step::Having),
    };
    let text = parts.1.trim();
    let quoted = text.strip_prefix('\'').and_then(|inner| inner.strip_suffix('\''));
    let literal = match quoted {
        Some(inner) => Value::from(inner),
        None => serde_json::from_str(text).map_err(|_| format!("{text:?} is no literal"))?,
    };
    Ok(Step::Where { path: names(parts.0)?, equal, literal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_kubectl_finds() {
        let object = json!({
            "metadata": {"labels": {"a/b.c": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False", "n": 2}]},
            "list": [1, 2, 3],
        });
        for (path, expected) in [
            (".list[0]", json!([1])),
            (".list[-1]", json!([3])),
            (".list[*]", json!([1, 2, 3])),
            (".metadata.labels['a/b.c']", json!(["x"])),
            (r".metadata.labels.a/b\.c", json!(["x"])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".status.conditions[?(@.n==2)].type", json!(["Other"])),
            (".status.conditions[?(@.n)].type", json!(["Other"])),
            (".status.none.deeper", json!([])),
            ("{.list[1]}", json!([2])),
        ] {
            let found: Vec<&Value> = Path::parse(path).unwrap_or_else(|error| panic!("{path}: {error}")).find(object.as_object().unwrap());
            assert_eq!(json!(found), expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_told() {
        for text in ["", "spec", ".spec..x", ".a[", ".a[x]", ".a[?(b)]", ".a['x]"] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }
}
