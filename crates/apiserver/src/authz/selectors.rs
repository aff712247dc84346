//! What a list, a watch or the deletion of a collection selects, as authorizers see it (KEP-4601).
//!
//! All requirements must hold, so that one which cannot be read, or has no form in a review, may be left out: the question only becomes broader.

use knarr_api::FieldError;
use knarr_api::select::{FieldSelector, LabelSelector, Operator, Requirement};
use serde_json::{Value, json};

/// Empty for requests that select nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    fields: FieldSelector,
    labels: Vec<Requirement>,
}

pub(super) static NONE: Selectors = Selectors { fields: FieldSelector::EVERYTHING, labels: Vec::new() };

impl Selectors {
    /// Of the query parameters `fieldSelector` and `labelSelector`.
    pub(crate) fn of_texts(fields: &str, labels: &str) -> Selectors {
        let labels = LabelSelector::parse(labels).unwrap_or_default();
        Selectors { fields: FieldSelector::parse_any(fields).unwrap_or_default(), labels: labels.requirements().to_vec() }
    }

    pub(crate) fn with_fields(mut self, text: &str) -> Selectors {
        self.fields = FieldSelector::parse_any(text).unwrap_or_default();
        self
    }

    pub(crate) fn with_labels(mut self, text: &str) -> Selectors {
        self.labels = LabelSelector::parse(text).unwrap_or_default().requirements().to_vec();
        self
    }

    /// Whether they leave only what has this value in this field.
    pub(super) fn require(&self, path: &str, value: &str) -> bool {
        self.fields.terms().any(|term| term == (path, true, value))
    }

    /// Adds what there is to the resourceAttributes of a review.
    pub(super) fn describe(&self, attributes: &mut Value) {
        let fields: Vec<Value> = self
            .fields
            .terms()
            .map(|(path, equal, value)| json!({"key": path, "operator": if equal { "In" } else { "NotIn" }, "values": [value]}))
            .collect();
        let labels: Vec<Value> = self
            .labels
            .iter()
            .filter_map(|Requirement { key, operator, values }| {
                Some(match operator {
                    Operator::In => json!({"key": key, "operator": "In", "values": values}),
                    Operator::NotIn => json!({"key": key, "operator": "NotIn", "values": values}),
                    Operator::Exists => json!({"key": key, "operator": "Exists"}),
                    Operator::DoesNotExist => json!({"key": key, "operator": "DoesNotExist"}),
                    Operator::GreaterThan | Operator::LessThan => return None,
                })
            })
            .collect();
        for (key, requirements) in [("fieldSelector", fields), ("labelSelector", labels)] {
            if !requirements.is_empty() {
                attributes[key] = json!({ "requirements": requirements });
            }
        }
    }

    /// Of the resourceAttributes of a review, and what could not be read of them, in upstream's words.
    pub(crate) fn of_review(attributes: &Value) -> (Selectors, Vec<String>) {
        let mut selectors = Selectors::default();
        let mut gaps = Vec::new();
        let mut gap = |which: &str, read: bool| {
            let partially = if read { "partially " } else { "" };
            gaps.push(format!("spec.resourceAttributes.{which} {partially}ignored due to parse error"));
        };
        let (fields, labels) = (&attributes["fieldSelector"], &attributes["labelSelector"]);
        match text(fields) {
            "" => {
                let (terms, whole) = readable(fields, field_term);
                if !whole {
                    gap("fieldSelector", !terms.is_empty());
                }
                selectors.fields = FieldSelector::of_terms(terms);
            }
            text => match FieldSelector::parse_any(text) {
                Ok(read) => selectors.fields = read,
                Err(_) => gap("fieldSelector", false),
            },
        }
        match text(labels) {
            "" => {
                let (requirements, whole) = readable(labels, label_requirement);
                if !whole {
                    gap("labelSelector", !requirements.is_empty());
                }
                selectors.labels = requirements;
            }
            text => match LabelSelector::parse(text) {
                Ok(read) => selectors.labels = read.requirements().to_vec(),
                Err(_) => gap("labelSelector", false),
            },
        }
        (selectors, gaps)
    }

    /// Faults of a review's selectors. An operator that is not known is none: a newer client may know it (apis/authorization/validation).
    pub(crate) fn faults(attributes: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for which in ["fieldSelector", "labelSelector"] {
            let Some(selector) = attributes.get(which).filter(|selector| !selector.is_null()) else { continue };
            let at = format!("spec.resourceAttributes.{which}");
            let all = requirements(selector);
            match (text(selector), all.is_empty()) {
                ("", true) => {
                    let detail = format!("when {at} is specified, requirements or rawSelector is required");
                    errors.push(FieldError::required(format!("{at}.requirements"), &detail));
                }
                ("", false) | (_, true) => {}
                (text, false) => {
                    let detail = "may not specified at the same time as requirements";
                    errors.push(FieldError::invalid(format!("{at}.rawSelector"), &text.into(), detail));
                }
            }
            for (index, one) in all.iter().enumerate() {
                requirement_faults(one, which == "labelSelector", &format!("{at}.requirements[{index}]"), &mut errors);
            }
        }
        errors
    }
}

fn requirement_faults(one: &Value, of_labels: bool, at: &str, errors: &mut Vec<FieldError>) {
    let key = one["key"].as_str().unwrap_or_default();
    let values = one["values"].as_array().map_or(0, Vec::len);
    match one["operator"].as_str().unwrap_or_default() {
        "In" | "NotIn" if values == 0 => {
            errors.push(FieldError::required(format!("{at}.values"), "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(format!("{at}.values"), detail));
        }
        _ => {}
    }
    if of_labels {
        errors.extend(knarr_api::names::qualified_name(key).iter().map(|why| FieldError::invalid(format!("{at}.key"), &key.into(), why)));
    } else if key.is_empty() {
        errors.push(FieldError::required(format!("{at}.key"), "must be specified"));
    }
}

fn text(selector: &Value) -> &str {
    selector["rawSelector"].as_str().unwrap_or_default()
}

fn requirements(selector: &Value) -> &[Value] {
    selector["requirements"].as_array().map_or(&[], Vec::as_slice)
}

/// Those that `read` can read, and whether these are all.
fn readable<T>(selector: &Value, read: impl Fn(&Value) -> Option<T>) -> (Vec<T>, bool) {
    let all = requirements(selector);
    let some: Vec<T> = all.iter().filter_map(read).collect();
    let whole = some.len() == all.len();
    (some, whole)
}

/// Path, whether it must be equal, and value.
fn field_term(one: &Value) -> Option<(String, bool, String)> {
    let [Value::String(value)] = one["values"].as_array()?.as_slice() else { return None };
    let equal = match one["operator"].as_str()? {
        "In" => true,
        "NotIn" => false,
        _ => return None,
    };
    Some((one["key"].as_str()?.to_owned(), equal, value.clone()))
}

fn label_requirement(one: &Value) -> Option<Requirement> {
    let selector = LabelSelector::from_value(&json!({ "matchExpressions": [one] })).ok()?;
    selector.requirements().first().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(selectors: &Selectors) -> Value {
        let mut attributes = json!({});
        selectors.describe(&mut attributes);
        attributes
    }

    #[test]
    fn a_review_tells_what_is_selected() {
        let selectors = Selectors::of_texts("spec.nodeName=n,status.phase!=Failed", "a=b,c!=d,e in (f,g),h notin (i),j,!k,l>5");
        let requirement = |key: &str, operator: &str, values: &[&str]| match values {
            [] => json!({"key": key, "operator": operator}),
            values => json!({"key": key, "operator": operator, "values": values}),
        };
        assert_eq!(
            described(&selectors),
            json!({
                "fieldSelector": {"requirements": [requirement("spec.nodeName", "In", &["n"]), requirement("status.phase", "NotIn", &["Failed"])]},
                "labelSelector": {"requirements": [
                    requirement("a", "In", &["b"]), requirement("c", "NotIn", &["d"]), requirement("e", "In", &["f", "g"]),
                    requirement("h", "NotIn", &["i"]), requirement("j", "Exists", &[]), requirement("k", "DoesNotExist", &[])]},
            })
        );
        assert!(selectors.require("spec.nodeName", "n") && !selectors.require("status.phase", "Failed"));
        // What cannot be read selects nothing.
        assert_eq!(described(&Selectors::of_texts("x", "a in")), json!({}));
    }

    #[test]
    fn a_review_is_read_as_far_as_it_can_be() {
        let read = |attributes: Value| {
            let (selectors, gaps) = Selectors::of_review(&attributes);
            (described(&selectors), gaps.join("; "))
        };
        let good = Selectors::of_texts("a=b", "c=d");
        let raw = json!({"fieldSelector": {"rawSelector": "a=b"}, "labelSelector": {"rawSelector": "c=d"}});
        assert_eq!(read(raw), (described(&good), String::new()));
        assert_eq!(read(described(&good)), (described(&good), String::new()));
        let fields = json!([{"key": "a", "operator": "In", "values": ["b"]}, {"key": "a", "operator": "Exists"}]);
        let (selected, gaps) = read(json!({"fieldSelector": {"requirements": fields}, "labelSelector": {"rawSelector": "a in"}}));
        assert_eq!(selected, described(&Selectors::of_texts("a=b", "")));
        assert_eq!(
            gaps,
            "spec.resourceAttributes.fieldSelector partially ignored due to parse error; \
             spec.resourceAttributes.labelSelector ignored due to parse error"
        );
    }

    #[test]
    fn faults_of_a_reviews_selectors_name_their_field() {
        let all = |which: &str, selector: Value| {
            Selectors::faults(&json!({ which: selector })).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let one = |operator: &str, values: Value| json!({"requirements": [{"key": "a", "operator": operator, "values": values}]});
        for which in ["fieldSelector", "labelSelector"] {
            for (selector, said) in [
                (json!({"rawSelector": "a=b"}), ""),
                (one("In", json!(["b"])), ""),
                (one("Newer", json!(["b"])), ""),
                (json!({}), "requirements: Required value: when spec.resourceAttributes."),
                (json!({"rawSelector": "a", "requirements": [{"key": "a", "operator": "Exists"}]}), "rawSelector: Invalid value: \"a\""),
                (one("In", json!([])), "requirements[0].values: Required value"),
                (one("Exists", json!(["b"])), "requirements[0].values: Forbidden"),
                (json!({"requirements": [{"operator": "Exists"}]}), "requirements[0].key: "),
            ] {
                let faults = all(which, selector);
                assert!(if said.is_empty() { faults.is_empty() } else { faults.contains(said) }, "{which}: {faults}");
            }
        }
    }
}
