//! Label selectors, in the query form and as metav1.LabelSelector.

use std::fmt;

use serde_json::Value;

use crate::names;

/// Longest query form, in bytes: a URL would hardly hold more.
const TEXT_MAX: usize = 64 * 1024;

/// A label selector: all requirements must hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Made from no selector at all: matches nothing.
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted.
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// One of the values; also `=` and `==`, with one value.
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    /// The query form: `a=b,c!=d,e in (f,g),h,!i`. The error says what is wrong.
    pub fn parse(text: &str) -> Result<LabelSelector, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("selector may not be longer than {TEXT_MAX} bytes"));
        }
        let mut parser = Parser { rest: text.trim() };
        let mut requirements = Vec::new();
        while !parser.rest.is_empty() {
            let requirement = parser.requirement()?;
            requirement.check()?;
            requirements.push(requirement);
            if parser.rest.is_empty() {
                break;
            }
            if !parser.take(",") {
                return Err(format!("unable to parse requirement: found {:?}, expected: ',' or the end", parser.rest));
            }
            if parser.rest.is_empty() {
                return Err("unable to parse requirement: found '', expected: identifier after ','".to_owned());
            }
        }
        requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// `metav1.LabelSelector`. Null matches nothing; `{}` matches everything.
    pub fn from_value(value: &Value) -> Result<LabelSelector, String> {
        let Some(map) = value.as_object() else { return Ok(LabelSelector { requirements: Vec::new(), nothing: true }) };
        let mut requirements = Vec::new();
        for (key, value) in map.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or("").to_owned();
            requirements.push(Requirement { key: key.clone(), operator: Operator::In, values: vec![value] });
        }
        for expression in map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            requirements.push(from_expression(expression)?);
        }
        requirements.iter().try_for_each(Requirement::check)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// A plain map of labels, as services and replication controllers have it.
    pub fn from_map<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> LabelSelector {
        let requirement =
            |(key, value): (&str, &str)| Requirement { key: key.to_owned(), operator: Operator::In, values: vec![value.to_owned()] };
        LabelSelector { requirements: labels.map(requirement).collect(), nothing: false }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// `labels`: the value of a label of the object.
    pub fn matches<'a>(&self, labels: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels(&requirement.key)))
    }
}

fn from_expression(expression: &Value) -> Result<Requirement, String> {
    let operator = match expression["operator"].as_str().unwrap_or("") {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => return Err(format!("{other:?} is not a valid label selector operator")),
    };
    let values = expression["values"].as_array().into_iter().flatten();
    let mut values: Vec<String> = values.filter_map(Value::as_str).map(str::to_owned).collect();
    values.sort();
    Ok(Requirement { key: expression["key"].as_str().unwrap_or("").to_owned(), operator, values })
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|value| self.values.iter().any(|v| v == value));
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
        let compare = |holds: fn(i64, i64) -> bool| {
            let wanted = number(self.values.first().map(String::as_str));
            number(value).zip(wanted).is_some_and(|(value, wanted)| holds(value, wanted))
        };
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compare(|value, wanted| value > wanted),
            Operator::LessThan => compare(|value, wanted| value < wanted),
        }
    }

    fn check(&self) -> Result<(), String> {
        let first = |reasons: Vec<String>| reasons.into_iter().next();
        if let Some(reason) = first(names::qualified_name(&self.key)) {
            return Err(format!("key: Invalid value: {:?}: {reason}", self.key));
        }
        match self.operator {
            Operator::In | Operator::NotIn if self.values.is_empty() => {
                return Err("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned());
            }
            Operator::Exists | Operator::DoesNotExist if !self.values.is_empty() => {
                return Err("values: Invalid value: values set must be empty for exists and does not exist".to_owned());
            }
            Operator::GreaterThan | Operator::LessThan if self.values[0].parse::<i64>().is_err() => {
                let value = &self.values[0];
                return Err(format!("values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"));
            }
            _ => {}
        }
        for (index, value) in self.values.iter().enumerate() {
            if let Some(reason) = first(names::label_value(value)) {
                return Err(format!("values[{index}][{}]: Invalid value: {value:?}: {reason}", self.key));
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// Takes a token and the spaces after it.
    fn take(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    /// A key or value, which may be empty.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.take("!");
        let key = self.word().to_owned();
        if key.is_empty() {
            return Err(format!("unable to parse requirement: found {:?}, expected: identifier", self.rest));
        }
        let made = |operator, values| Ok(Requirement { key: key.clone(), operator, values });
        if absent {
            return made(Operator::DoesNotExist, Vec::new());
        }
        if self.rest.is_empty() || self.rest.starts_with(',') {
            return made(Operator::Exists, Vec::new());
        }
        for (token, operator) in
            [("==", Operator::In), ("=", Operator::In), ("!=", Operator::NotIn), (">", Operator::GreaterThan), ("<", Operator::LessThan)]
        {
            if self.take(token) {
                return made(operator, vec![self.word().to_owned()]);
            }
        }
        match self.word() {
            "in" => made(Operator::In, self.values()?),
            "notin" => made(Operator::NotIn, self.values()?),
            other => Err(format!("unable to parse requirement: found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if !self.take("(") {
            return Err(format!("unable to parse requirement: found {:?}, expected: '('", self.rest));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.word().to_owned());
            if self.take(")") {
                break;
            }
            if !self.take(",") {
                return Err(format!("unable to parse requirement: found {:?}, expected: ',', or ')'", self.rest));
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

impl fmt::Display for LabelSelector {
    /// The query form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, operator, values }) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match (operator, values.as_slice()) {
                (Operator::In, [value]) => write!(f, "{key}={value}")?,
                (Operator::In, values) => write!(f, "{key} in ({})", values.join(","))?,
                (Operator::NotIn, [value]) => write!(f, "{key}!={value}")?,
                (Operator::NotIn, values) => write!(f, "{key} notin ({})", values.join(","))?,
                (Operator::Exists, _) => f.write_str(key)?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
                (Operator::GreaterThan, values) => write!(f, "{key}>{}", values.join(","))?,
                (Operator::LessThan, values) => write!(f, "{key}<{}", values.join(","))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn lookup<'a>(labels: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
        move |key| labels.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }

    #[track_caller]
    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let selector = LabelSelector::parse(selector).unwrap();
        assert_eq!(selector.matches(lookup(labels)), expected, "{selector}");
    }

    #[test]
    fn each_operator_matches_as_upstream() {
        check("", &[], true);
        check("a=b", &[("a", "b")], true);
        check("a==b", &[("a", "c")], false);
        check("a=", &[("a", "")], true);
        check("a!=b", &[], true);
        check("a!=b", &[("a", "b")], false);
        check("a in (b, c),d", &[("a", "c"), ("d", "")], true);
        check("a notin (b,c)", &[("a", "b")], false);
        check("a notin (b)", &[], true);
        check("!a", &[], true);
        check("a", &[], false);
        check("a>5", &[("a", "7")], true);
        check("a<5", &[("a", "x")], false);
        check("x.io/a = b , c", &[("x.io/a", "b"), ("c", "1")], true);
        check("in in (in)", &[("in", "in")], true);
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in ["a=b=c", ",a", "a,", "a in", "a in (b", "a in b", "!", "a/b/c", "-a", "a=-", "a>x", "a b", "=a", "a in ("] {
            assert!(LabelSelector::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_object_form_matches_too() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d"]}]});
        let selector = LabelSelector::from_value(&selector).unwrap();
        assert_eq!(selector.to_string(), "a=b,c!=d");
        assert!(selector.matches(lookup(&[("a", "b")])));
        assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(lookup(&[])));
        assert!(LabelSelector::from_value(&json!({})).unwrap().matches(lookup(&[])));
        assert!(LabelSelector::from_value(&json!({"matchExpressions": [{"key": "c", "operator": "In"}]})).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
            }
        }
    }
}
