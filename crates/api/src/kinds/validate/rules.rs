//! Rules as a table: a line is a path, a rule and its arguments.
//!
//! `a[].b` is the field in each element of a list. A rule looks at a value that is there; only `required` minds that it is not,
//! and then only if its parent is there. Rules:
//! `required`, `enum x y`, `min n`, `range a b`, `port`, `cidr`, `label` (DNS-1123), `subdomain`, `1035`, `portname`, `qualified`,
//! `segment` (of a path), `domainpath` (`example.com/path`), `selector`,
//! `labels`, `amounts` (a resource list without negatives), `ip`, `endpointip` (one that an endpoint may have).

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::quantity::Quantity;
use crate::validate::labels_at;

/// A table, parsed on first use.
pub(in crate::kinds) struct Rules(Vec<Line>);

struct Line {
    steps: Vec<Step>,
    rule: Rule,
}

enum Step {
    Key(&'static str),
    Each,
}

enum Rule {
    Required(String),
    Enum(Vec<&'static str>),
    OneOf(Vec<&'static str>),
    Min(i64),
    Positive,
    /// Least and most, and what is said of others.
    Range(i64, i64, String),
    Port {
        empty_too: bool,
    },
    Name {
        form: fn(&str) -> Vec<String>,
        empty_too: bool,
    },
    Selector,
    Labels,
    Amounts,
    Ip {
        empty_too: bool,
    },
    Cidr,
    EndpointIp,
}

impl Rules {
    /// Panics on a line that is no rule: tables are constants, and each is parsed by a test.
    pub(in crate::kinds) fn parse(text: &'static str) -> Rules {
        Rules(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(line).collect())
    }

    /// `at` is the path of `root`.
    pub(in crate::kinds) fn check(&self, root: &Value, at: &str, errors: &mut FieldErrors) {
        if let Value::Object(map) = root {
            self.check_map(map, at, errors);
        }
    }

    /// `at` is the path of `root`, empty for an object.
    pub(in crate::kinds) fn check_map(&self, root: &Map<String, Value>, at: &str, errors: &mut FieldErrors) {
        for Line { steps, rule } in &self.0 {
            let [Step::Key(key), rest @ ..] = steps.as_slice() else { continue };
            let path = Path { parent: None, part: Part::Key(at) };
            walk(root.get(*key), rest, &Path { parent: Some(&path), part: Part::Key(key) }, rule, errors);
        }
    }
}

/// Where the walk is. It lives on the stack and is written out only for a fault: most values have none.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

enum Part<'a> {
    Key(&'a str),
    Index(usize),
}

impl Path<'_> {
    fn text(&self) -> String {
        let parent = self.parent.map(Path::text).unwrap_or_default();
        match self.part {
            Part::Key(key) => join(&parent, key),
            Part::Index(index) => format!("{parent}[{index}]"),
        }
    }
}

fn line(text: &'static str) -> Line {
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let path = words.next().expect("empty lines are dropped");
    let rule = words.next().unwrap_or_else(|| panic!("the line {text:?} has no rule"));
    let mut steps = Vec::new();
    for part in path.split('.') {
        match part.strip_suffix("[]") {
            Some(key) => steps.extend([Step::Key(key), Step::Each]),
            None => steps.push(Step::Key(part)),
        }
    }
    let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("number in {text:?}"));
    let rule = match rule {
        "required" => Rule::Required(words.collect::<Vec<_>>().join(" ")),
        "min" => Rule::Min(number()),
        "positive" => Rule::Positive,
        "range" => {
            let (least, most) = (number(), number());
            Rule::Range(least, most, format!("must be between {least} and {most}, inclusive"))
        }
        "weight" => Rule::Range(1, 100, "must be in the range 1-100".to_owned()),
        "mode" => Rule::Range(0, 0o777, "must be a number between 0 and 0777 (octal), both inclusive".to_owned()),
        "enum" => Rule::Enum(words.collect()),
        "oneof" => Rule::OneOf(words.collect()),
        "port" | "port!" => Rule::Port { empty_too: rule.ends_with('!') },
        "selector" => Rule::Selector,
        "labels" => Rule::Labels,
        "amounts" => Rule::Amounts,
        "ip" | "ip!" => Rule::Ip { empty_too: rule.ends_with('!') },
        "cidr" => Rule::Cidr,
        "endpointip" => Rule::EndpointIp,
        form => Rule::Name { form: name_form(form.trim_end_matches('!'), text), empty_too: form.ends_with('!') },
    };
    Line { steps, rule }
}

fn name_form(word: &str, line: &str) -> fn(&str) -> Vec<String> {
    match word {
        "label" => names::dns1123_label,
        "subdomain" => names::dns1123_subdomain,
        "1035" => names::dns1035_label,
        "portname" => names::port_name,
        "qualified" => names::qualified_name,
        "segment" => names::path_segment,
        "domainpath" => names::domain_prefixed_path,
        other => panic!("unknown rule {other:?} in {line:?}"),
    }
}

fn walk(value: Option<&Value>, steps: &[Step], path: &Path<'_>, rule: &Rule, errors: &mut FieldErrors) {
    match steps {
        [] => apply(value, path, rule, errors),
        [Step::Key(key), rest @ ..] => {
            if let Some(Value::Object(map)) = value {
                walk(map.get(*key), rest, &Path { parent: Some(path), part: Part::Key(key) }, rule, errors);
            }
        }
        [Step::Each, rest @ ..] => {
            for (index, item) in value.and_then(Value::as_array).into_iter().flatten().enumerate() {
                walk(Some(item), rest, &Path { parent: Some(path), part: Part::Index(index) }, rule, errors);
            }
        }
    }
}

/// `a.b`, or `b` at the root.
pub(in crate::kinds) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

pub(in crate::kinds) fn is_missing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

fn apply(value: Option<&Value>, path: &Path<'_>, rule: &Rule, errors: &mut FieldErrors) {
    match rule {
        Rule::Required(detail) if is_missing(value) => errors.push(FieldError::required(path.text(), detail)),
        Rule::Name { form, empty_too: true } if is_missing(value) => invalid(path, &"".into(), form(""), errors),
        Rule::Port { empty_too: true } if is_missing(value) => port(&0.into(), &path.text(), errors),
        Rule::Ip { empty_too: true } if is_missing(value) => errors.push(FieldError::invalid(path.text(), &"".into(), NOT_AN_IP)),
        _ => {}
    }
    let Some(value) = value.filter(|value| !value.is_null()) else { return };
    let text = value.as_str();
    match rule {
        Rule::Enum(valid) => {
            if text.is_some_and(|text| !text.is_empty() && !valid.contains(&text)) {
                errors.push(FieldError::not_supported(path.text(), value, valid));
            }
        }
        Rule::OneOf(valid) => {
            if text.is_some_and(|text| !text.is_empty() && !valid.contains(&text)) {
                errors.push(FieldError::not_supported_as_listed(path.text(), value, valid));
            }
        }
        Rule::Positive => {
            if value.as_i64().is_some_and(|number| number <= 0) {
                errors.push(FieldError::invalid(path.text(), value, "must be greater than zero"));
            }
        }
        Rule::Min(least) => {
            if value.as_i64().is_some_and(|number| number < *least) {
                let detail = if *least == 1 { "must be greater than 0".to_owned() } else { at_least(*least) };
                errors.push(FieldError::invalid(path.text(), value, &detail));
            }
        }
        Rule::Range(least, most, why) => {
            if value.as_i64().is_some_and(|number| !(*least..=*most).contains(&number)) {
                errors.push(FieldError::invalid(path.text(), value, why));
            }
        }
        Rule::Port { .. } => port(value, &path.text(), errors),
        Rule::Name { form, .. } => {
            invalid(path, value, text.filter(|text| !text.is_empty()).map(form).unwrap_or_default(), errors);
        }
        Rule::Selector => selector(value, &path.text(), errors),
        Rule::Labels => errors.extend(labels_at(value, &path.text())),
        Rule::Amounts => amounts(value, &path.text(), errors),
        Rule::Ip { .. } | Rule::EndpointIp => {
            let Some(text) = text.filter(|text| !text.is_empty()) else { return };
            if text.parse::<IpAddr>().is_err() {
                errors.push(FieldError::invalid(path.text(), value, NOT_AN_IP));
            } else if let (Rule::EndpointIp, Some(detail)) = (rule, of_no_endpoint(text)) {
                errors.push(FieldError::invalid(path.text(), value, &detail));
            }
        }
        Rule::Cidr => {
            if text.is_some_and(|text| !is_cidr(text)) {
                errors.push(FieldError::invalid(path.text(), value, NOT_A_CIDR));
            }
        }
        Rule::Required(_) => {}
    }
}

fn invalid(path: &Path<'_>, value: &Value, reasons: Vec<String>, errors: &mut FieldErrors) {
    errors.extend(reasons.iter().map(|reason| FieldError::invalid(path.text(), value, reason)));
}

/// Why no endpoint may be at an address: behind one of these a Service would lead to whatever listens on the node itself (CVE-2021-25737;
/// upstream's ValidateNonSpecialIP). None for names and for addresses that may be.
pub(in crate::kinds) fn of_no_endpoint(text: &str) -> Option<String> {
    let address = text.parse::<IpAddr>().ok()?.to_canonical();
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        Some(format!("may not be unspecified ({text})"))
    } else if address.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned())
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned())
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned())
    } else {
        None
    }
}

/// What is said of text that is no address.
pub(in crate::kinds) const NOT_AN_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// What is said of text that is no range of addresses.
pub(in crate::kinds) const NOT_A_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// `10.9.8.0/24`
pub(in crate::kinds) fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = if address.contains(':') { 128 } else { 32 };
    let digits = !bits.is_empty() && bits.bytes().all(|c| c.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    digits && bits.parse::<u8>().is_ok_and(|bits| bits <= most) && address.parse::<IpAddr>().is_ok()
}

fn at_least(least: i64) -> String {
    format!("must be greater than or equal to {least}")
}

/// A number from 1 to 65535, or where it is a string the name of a port.
pub(in crate::kinds) fn port(value: &Value, path: &str, errors: &mut FieldErrors) {
    match (value.as_i64(), value.as_str()) {
        (Some(number), _) => {
            errors.extend(names::port_number(number).map(|reason| FieldError::invalid(path, value, reason)));
        }
        (_, Some(name)) => errors.extend(names::port_name(name).iter().map(|reason| FieldError::invalid(path, value, reason))),
        _ => {}
    }
}

/// A metav1.LabelSelector.
pub(in crate::kinds) fn selector(value: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(labels) = value.get("matchLabels") {
        errors.extend(labels_at(labels, &format!("{path}.matchLabels")));
    }
    let expressions = value["matchExpressions"].as_array();
    for (index, expression) in expressions.into_iter().flatten().enumerate() {
        let at = format!("{path}.matchExpressions[{index}]");
        let has_values = !is_missing(expression.get("values"));
        match expression["operator"].as_str().unwrap_or("") {
            "In" | "NotIn" if !has_values => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(format!("{at}.values"), detail));
            }
            "Exists" | "DoesNotExist" if has_values => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(format!("{at}.values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(format!("{at}.operator"), &expression["operator"], detail));
            }
        }
        for reason in names::qualified_name(expression["key"].as_str().unwrap_or("")) {
            errors.push(FieldError::invalid(format!("{at}.key"), &expression["key"], &reason));
        }
        for (index, value) in expression["values"].as_array().into_iter().flatten().enumerate() {
            for reason in names::label_value(value.as_str().unwrap_or("")) {
                errors.push(FieldError::invalid(format!("{at}.values[{index}]"), value, &reason));
            }
        }
    }
}

/// A resource list: known names or qualified ones, no negative amounts, whole numbers of what cannot be divided.
fn amounts(list: &Value, path: &str, errors: &mut FieldErrors) {
    for (name, amount) in list.as_object().into_iter().flatten() {
        let at = format!("{path}[{name}]");
        for reason in names::qualified_name(name) {
            errors.push(FieldError::invalid(path, &name.as_str().into(), &reason));
        }
        if let Some(Ok(quantity)) = amount.as_str().map(Quantity::parse)
            && quantity.is_negative()
        {
            errors.push(FieldError::invalid(at, amount, &at_least(0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_walk_lists_and_pass_over_what_is_not_there() {
        let rules = Rules::parse(
            "a required\n a[].n required\n a[].n label\n a[].p port\n a[].t enum X Y\n b.c min 0\n b.d range 1 5\n b.r amounts",
        );
        let value = json!({"a": [{"n": "A", "p": 0}, {"t": "Z"}], "b": {"c": -1, "d": 6, "r": {"cpu": "-1"}}});
        let mut errors = Vec::new();
        rules.check(&value, "spec", &mut errors);
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(lines[0], "spec.a[1].n: Required value");
        assert!(lines[1].starts_with("spec.a[0].n: Invalid value: \"A\": a lowercase RFC 1123 label"));
        assert_eq!(
            lines[2..],
            [
                "spec.a[0].p: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.a[1].t: Unsupported value: \"Z\": supported values: \"X\", \"Y\"",
                "spec.b.c: Invalid value: -1: must be greater than or equal to 0",
                "spec.b.d: Invalid value: 6: must be between 1 and 5, inclusive",
                "spec.b.r[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
        errors.clear();
        rules.check(&json!({}), "", &mut errors);
        assert_eq!(errors.len(), 1);
    }
}
