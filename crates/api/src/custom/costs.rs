//! Whether the rules of a schema may become too costly: each by what one object can hold of the values that it is about, and all together
//! (apiextensions-apiserver, pkg/apis/apiextensions/validation/cel_validation.go).

use std::sync::Arc;

use serde_json::Value as Json;

use super::schema::{Additional, Structural, Type};
use crate::cel::{Extent, Within};
use crate::error::{FieldError, FieldErrors};

/// Cost of one expression (validation.go there, StaticEstimatedCostLimit).
pub(crate) const EXPRESSION_MAX: u64 = 10_000_000;
/// Cost of all expressions of a schema (StaticEstimatedCRDCostLimit).
const SCHEMA_MAX: u64 = 100_000_000;
/// Expressions that are named where all together cost too much, and the least that each of them must cost.
const NAMED_MAX: usize = 4;
const NAMED_LEAST: u64 = SCHEMA_MAX / 100;

/// What the expressions of a schema cost that were looked at so far.
#[derive(Default)]
struct Total {
    cost: u64,
    /// Those that cost most, the dearest first.
    dearest: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, path: String, cost: u64) {
        self.cost = self.cost.saturating_add(cost);
        if cost >= NAMED_LEAST {
            self.dearest.push((cost, path));
            self.dearest.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.dearest.truncate(NAMED_MAX);
        }
    }
}

/// What costs too much in the schema of whole objects.
pub(super) fn check_schema(schema: &Structural, raw: &Json, path: &str, errors: &mut FieldErrors) {
    let mut total = Total::default();
    walk(schema, raw, path, Some(1), &mut total, errors);
    if total.cost > SCHEMA_MAX {
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.extend(total.dearest.iter().map(|(_, path)| FieldError::forbidden(path, why)));
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(path, &exceeds(what, total.cost, SCHEMA_MAX)));
    }
}

/// `count`: how many values of this schema there can be in one object; none where a list or map around it says nothing. Yields a value at its largest,
/// so that each is measured once, however many schemas with rules there are around it.
fn walk(
    schema: &Structural,
    raw: &Json,
    path: &str,
    count: Option<u64>,
    total: &mut Total,
    errors: &mut FieldErrors,
) -> Option<Arc<Extent>> {
    let inner_count = count.and_then(|count| Some(count.saturating_mul(factor(schema, raw)?)));
    let mut within = Within::default();
    if let Additional::Schema(inner) = &schema.additional {
        let path = format!("{path}.additionalProperties");
        within.additional = walk(inner, &raw["additionalProperties"], &path, inner_count, total, errors);
    }
    for (key, property) in &schema.properties {
        let found = walk(property, &raw["properties"][key.as_str()], &format!("{path}.properties[{key}]"), inner_count, total, errors);
        within.properties.extend(found.map(|found| (key.as_str(), found)));
    }
    if let Some(items) = &schema.items {
        within.items = walk(items, &raw["items"], &format!("{path}.items"), inner_count, total, errors);
    }
    let extent = Arc::new(Extent::around(schema, &within)?);
    let count = count.unwrap_or(extent.count());
    for (index, rule) in schema.rules.iter().enumerate() {
        let at = format!("{path}.x-kubernetes-validations[{index}]");
        let (rule, message) = rule.costs(&extent);
        // The message of one object is that of its first fault: it is not made for each.
        let expressions = [("rule", "estimated rule cost", Some(rule.saturating_mul(count)))];
        for (key, what, cost) in expressions.into_iter().chain([("messageExpression", "estimated messageExpression cost", message)]) {
            let Some(cost) = cost else { continue };
            let at = format!("{at}.{key}");
            if cost > EXPRESSION_MAX {
                errors.push(FieldError::forbidden(&at, &exceeds(what, cost, EXPRESSION_MAX)));
            }
            total.add(at, cost);
        }
    }
    Some(extent)
}

/// How many values there can be within one of this schema.
fn factor(schema: &Structural, raw: &Json) -> Option<u64> {
    match schema.ty {
        Type::Object if !raw["additionalProperties"].is_null() => schema.checks.max_properties,
        Type::Array => schema.checks.max_items,
        _ => Some(1),
    }
}

fn exceeds(what: &str, cost: u64, most: u64) -> String {
    let factor = cost as f64 / most as f64;
    let factor = match factor {
        _ if factor > 100.0 => "more than 100x".to_owned(),
        // "a factor of 1.0" would say nothing.
        _ if factor < 1.5 => format!("{factor:.6}x"),
        _ => format!("{factor:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}
