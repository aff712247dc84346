//! Label selectors and node selectors.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

pub(crate) type Labels = BTreeMap<String, String>;

/// Whether `selector` selects something with `labels`. An absent selector selects nothing, an empty one everything.
pub(crate) fn selects(selector: Option<&LabelSelector>, labels: Option<&Labels>) -> bool {
    let Some(selector) = selector else { return false };
    let value = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let exact = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    exact
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            holds(&requirement.operator, value(&requirement.key), values)
        })
}

/// Whether a node is what a term of a node selector describes. A term that says nothing describes no node.
pub(crate) fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| node.metadata.name.as_deref().filter(|_| key == "metadata.name");
    let all = |requirements: &[NodeSelectorRequirement], value: &dyn Fn(&str) -> Option<String>| {
        requirements.iter().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            holds(&requirement.operator, value(&requirement.key).as_deref(), values)
        })
    };
    !(expressions.is_empty() && fields.is_empty())
        && all(expressions, &|key| label(key).map(str::to_owned))
        && all(fields, &|key| field(key).map(str::to_owned))
}

fn holds(operator: &str, value: Option<&str>, values: &[String]) -> bool {
    let listed = |value: &str| values.iter().any(|wanted| wanted == value);
    match operator {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" | "Lt" => {
            let number = |text: &str| text.parse::<i64>().ok();
            let (Some(value), Some(bound)) = (value.and_then(number), values.first().and_then(|text| number(text))) else {
                return false;
            };
            if operator == "Gt" { value > bound } else { value < bound }
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_mean_what_they_say() {
        for (operator, value, values, expected) in [
            ("In", Some("a"), &["a", "b"][..], true),
            ("In", None, &["a"], false),
            ("NotIn", Some("a"), &["a"], false),
            ("NotIn", None, &["a"], true),
            ("Exists", Some(""), &[], true),
            ("DoesNotExist", None, &[], true),
            ("Gt", Some("5"), &["4"], true),
            ("Gt", Some("5"), &["5"], false),
            ("Lt", Some("x"), &["5"], false),
            ("Like", Some("a"), &["a"], false),
        ] {
            let values: Vec<String> = values.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(holds(operator, value, &values), expected, "{operator} {value:?} {values:?}");
        }
    }
}
