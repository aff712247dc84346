//! Resource quotas: what an object uses, which quotas it falls under, and whether there is room (apiserver, pkg/quota/v1 and
//! admission/plugin/resourcequota; kubernetes, pkg/quota/v1/evaluator/core).
//!
//! [`usage`] measures one object, [`Request::charge`] puts a write on the quotas of its namespace or says in upstream's words why it does not fit,
//! [`tally`] adds up what is there. Admission and the controller that keeps the status count by the same rules.

mod scopes;
#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::object::Object;
use crate::quantity::Quantity;

pub use scopes::in_scope;
pub use usage::{counts, of_spec, usage};

/// Amounts by the names that quotas have for them: `pods`, `requests.cpu`, `count/deployments.apps`.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts in a JSON map. What is no quantity is left out; validation refuses it.
pub fn amounts(map: Option<&Value>) -> Amounts {
    let map = map.and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?))).collect()
}

pub fn to_value(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect()
}

/// A write that may need room.
pub struct Request<'a> {
    pub group: &'a str,
    pub resource: &'a str,
    pub new: &'a Object,
    /// None for a create.
    pub old: Option<&'a Object>,
}

impl Request<'_> {
    /// Whether a write of this sort is counted at all: most objects only when they are made.
    pub fn is_counted(&self, subresource: &str) -> bool {
        match (self.group, self.resource, subresource) {
            ("", "events", _) | ("events.k8s.io", _, _) => false,
            ("", "pods", "resize") => self.old.is_some(),
            ("", "services" | "persistentvolumeclaims", "") => true,
            // What a volume has been given, and the class that it has, are told in its status.
            ("", "persistentvolumeclaims", "status") => self.old.is_some(),
            (_, _, "") => self.old.is_none(),
            _ => false,
        }
    }

    /// What becomes used of the quotas on which this is a charge, by their place in `quotas`. The error is the end of a refusal.
    pub fn charge(&self, quotas: &[Object]) -> Result<Vec<(usize, Amounts)>, String> {
        let mut charged = Vec::new();
        let used_by = usage(self.group, self.resource, self.new);
        let before = self.old.map(|old| usage(self.group, self.resource, old));
        for (index, quota) in quotas.iter().enumerate().filter(|(_, quota)| self.falls_under(quota, self.new)) {
            let hard = amounts(quota.get(&["status", "hard"]));
            let used = amounts(quota.get(&["status", "used"]));
            let counted: Vec<&String> = hard.keys().filter(|name| counts(self.group, self.resource, name)).collect();
            if (self.group, self.resource) == ("", "pods") {
                usage::require(self.new, &counted).map_err(|why| format!("failed quota: {}: {why}", quota.name()))?;
            }
            if counted.iter().any(|name| !used.contains_key(*name)) {
                let names: Vec<&str> = counted.iter().map(|name| name.as_str()).collect();
                return Err(format!("status unknown for quota: {}, resources: {}", quota.name(), names.join(",")));
            }
            // What was charged before counts only if it was charged here.
            let before = before.as_ref().filter(|_| self.old.is_some_and(|old| self.falls_under(quota, old)));
            let more = used_by.iter().filter(|(name, _)| counted.contains(name)).filter_map(|(name, amount)| {
                let less = before.and_then(|before| before.get(name)).copied().unwrap_or(Quantity::ZERO);
                (*amount > less).then(|| (name.clone(), *amount - less))
            });
            let more: Amounts = more.collect();
            if more.is_empty() {
                continue;
            }
            let now: Amounts = more.iter().map(|(name, amount)| (name.clone(), used[name] + *amount)).collect();
            let exceeded: Vec<&String> = now.iter().filter(|(name, amount)| **amount > hard[*name]).map(|(name, _)| name).collect();
            if !exceeded.is_empty() {
                let shown = |all: &Amounts| {
                    let shown: Vec<String> = exceeded.iter().map(|name| format!("{name}={}", all[*name])).collect();
                    shown.join(",")
                };
                let name = quota.name();
                return Err(format!(
                    "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                    shown(&more),
                    shown(&used),
                    shown(&hard)
                ));
            }
            charged.push((index, used.into_iter().chain(now).collect()));
        }
        Ok(charged)
    }

    fn falls_under(&self, quota: &Object, object: &Object) -> bool {
        let hard = quota.get(&["status", "hard"]).and_then(Value::as_object);
        let counted = hard.into_iter().flatten().any(|(name, _)| counts(self.group, self.resource, name));
        counted && in_scope(quota, self.group, self.resource, object)
    }
}

/// What the objects of one resource use together of the quota, of each resource that its `spec.hard` names; nothing of what they are not counted in.
pub fn tally<'o>(quota: &Object, group: &str, resource: &str, objects: impl Iterator<Item = &'o Object>) -> Amounts {
    let hard = amounts(quota.get(&["spec", "hard"]));
    let names = hard.keys().filter(|name| counts(group, resource, name));
    let mut total: Amounts = names.map(|name| (name.clone(), Quantity::ZERO)).collect();
    for object in objects.filter(|object| in_scope(quota, group, resource, object)) {
        for (name, amount) in usage(group, resource, object) {
            if let Some(sum) = total.get_mut(&name) {
                *sum = *sum + amount;
            }
        }
    }
    total
}
