//! The part of kubectl's JSONPath that definitions use: `.spec.replicas`, `.metadata.labels['a/b']`, `.status.conditions[?(@.type=="Ready")].status`,
//! `.items[0]`, `.items[*].name`, `.items[-1:]`, `.items[0,2]`.

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
    /// From `start` up to `end`, which is past the last unless it is given, every so many.
    Slice {
        start: i64,
        end: Option<i64>,
        step: i64,
    },
    /// What each of the steps leads to, one after the other.
    Union(Vec<Step>),
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
            (Step::Slice { start, end, step }, Value::Array(list)) => slice(list, *start, *end, *step),
            (Step::Union(steps), value) => steps.iter().flat_map(|step| step.follow(value)).collect(),
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

/// Nothing where an end is outside of the list or the step leads nowhere: kubectl makes these errors, and a column of them is empty.
fn slice(list: &[Value], start: i64, end: Option<i64>, step: i64) -> Vec<&Value> {
    let length = list.len() as i64;
    let place = |at: i64| usize::try_from(if at < 0 { length.saturating_add(at) } else { at }).ok();
    let range = place(start).zip(place(end.unwrap_or(length)));
    let found = range.and_then(|(start, end)| list.get(start..end));
    let step = usize::try_from(step).ok().filter(|step| *step > 0);
    found.zip(step).map_or_else(Vec::new, |(found, step)| found.iter().step_by(step).collect())
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
    let (mut steps, mut rest) = (Vec::new(), inner);
    loop {
        if steps.len() == STEPS_MAX {
            return Err(format!("the brackets have more than {STEPS_MAX} parts"));
        }
        let (step, after) = subscript(rest.trim_start())?;
        steps.push(step);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(more) => more,
            None => {
                let after = after.strip_prefix(']').ok_or_else(|| format!("{text:?} has no closing bracket"))?;
                let step = if steps.len() == 1 { steps.swap_remove(0) } else { Step::Union(steps) };
                return Ok((step, after));
            }
        };
    }
}

/// One of what stands between brackets: a name in quotes, a star, an index or a slice.
fn subscript(text: &str) -> Result<(Step, &str), String> {
    if let Some(quote) = text.chars().next().filter(|letter| ['\'', '"'].contains(letter)) {
        let inner = &text[1..];
        let ends = |at: usize| inner[at + 1..].trim_start().starts_with([']', ',']);
        let end = inner.match_indices(quote).map(|(at, _)| at).find(|at| ends(*at));
        let end = end.ok_or_else(|| format!("the name at {text:?} has no end"))?;
        return Ok((Step::Field(inner[..end].replace('\\', "")), &inner[end + 1..]));
    }
    let end = text.find([']', ',']).ok_or_else(|| format!("{text:?} has no closing bracket"))?;
    let (index, after) = (text[..end].trim_end(), &text[end..]);
    let number = |text: &str| text.parse::<i64>().map_err(|_| format!("{index:?} is no index"));
    let given = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(number).transpose();
    let step = match index.splitn(3, ':').collect::<Vec<_>>()[..] {
        ["*"] => Step::All,
        [index] => Step::Index(number(index)?),
        ref parts => Step::Slice {
            start: given(parts.first().copied())?.unwrap_or(0),
            end: given(parts.get(1).copied())?,
            step: given(parts.get(2).copied())?.unwrap_or(1),
        },
    };
    Ok((step, after))
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
            (".list[-1:]", json!([3])),
            (".status.conditions[-1:].type", json!(["Other"])),
            (".list[:2]", json!([1, 2])),
            (".list[:-1]", json!([1, 2])),
            (".list[::2]", json!([1, 3])),
            (".list[1:3:1]", json!([2, 3])),
            (".list[2:1]", json!([])),
            (".list[1:9]", json!([])),
            (".list[-4:]", json!([])),
            (".list[::0]", json!([])),
            (".list[2, 0]", json!([3, 1])),
            (".list[0,1:]", json!([1, 2, 3])),
            (".status.conditions[0]['status', 'type']", json!(["True", "Ready"])),
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
        for text in ["", "spec", ".spec..x", ".a[", ".a[x]", ".a[1:x]", ".a[1:2:3:4]", ".a[0,]", ".a[0,1", ".a[?(b)]", ".a['x]"] {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }
}
