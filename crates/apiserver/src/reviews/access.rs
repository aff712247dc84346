//! Access reviews: the authorizer's word, without doing the thing.

use std::collections::BTreeMap;

use knarr_api::status::{self, Status};
use knarr_api::{FieldError, Kind, Object};
use serde_json::{Value, json};

use super::Reviews;
use crate::User;
use crate::authz::{Attributes, Rule, Selectors, Verdict};

impl Reviews {
    /// May the user named in the spec do it? In a local review the namespace must be the path's.
    pub(super) async fn subject_access(&self, kind: &Kind, namespace: &str, review: &mut Object) -> Result<(), Status> {
        let mut errors = spec_errors(review);
        if review.str(&["spec", "user"]).is_empty() && review.list(&["spec", "groups"]).is_empty() {
            errors.push(FieldError::invalid("spec.user", &"".into(), "at least one of user or group must be specified"));
        }
        if !namespace.is_empty() {
            let asked = review.get(&["spec", "resourceAttributes", "namespace"]).cloned().unwrap_or_default();
            if asked != namespace {
                errors.push(FieldError::invalid("spec.resourceAttributes.namespace", &asked, "must match metadata.namespace"));
            }
        }
        refuse(kind, review, &errors)?;
        let user = User {
            name: review.str(&["spec", "user"]).to_owned(),
            uid: review.str(&["spec", "uid"]).to_owned(),
            groups: strings(review.list(&["spec", "groups"])),
            extra: extra(review.get(&["spec", "extra"])),
        };
        self.answer(&user, review).await;
        Ok(())
    }

    /// May the caller himself do it?
    pub(super) async fn self_access(&self, user: &User, kind: &Kind, review: &mut Object) -> Result<(), Status> {
        refuse(kind, review, &spec_errors(review))?;
        self.answer(user, review).await;
        Ok(())
    }

    async fn answer(&self, user: &User, review: &mut Object) {
        let of = |part: &str, field: &str| review.str(&["spec", part, field]).to_owned();
        let (resource, path) = ("resourceAttributes", "nonResourceAttributes");
        let resource_request = review.get(&["spec", resource]).is_some();
        let verb = of(if resource_request { resource } else { path }, "verb");
        let (selectors, gaps) = review.get(&["spec", resource]).map(Selectors::of_review).unwrap_or_default();
        // Who names no version means any, as upstream (registry/authorization/util, matchAllVersionIfEmpty).
        let version = Some(of(resource, "version")).filter(|version| !version.is_empty()).unwrap_or("*".to_owned());
        let decision = self
            .authorizer
            .decide(&Attributes {
                user,
                verb: &verb,
                group: &of(resource, "group"),
                version: &version,
                resource: &of(resource, "resource"),
                subresource: &of(resource, "subresource"),
                name: &of(resource, "name"),
                namespace: &of(resource, "namespace"),
                path: &of(path, "path"),
                resource_request,
                selectors: &selectors,
            })
            .await;
        let mut answer = json!({ "allowed": decision.allowed() });
        if decision.verdict == Verdict::Deny {
            answer["denied"] = true.into();
        }
        if !decision.reason.is_empty() {
            answer["reason"] = decision.reason.into();
        }
        if !gaps.is_empty() {
            answer["evaluationError"] = gaps.join("; ").into();
        }
        review.set(&["status"], answer);
    }

    /// What may the caller do in a namespace? `kubectl auth can-i --list` shows it.
    pub(super) fn self_rules(&self, user: &User, review: &mut Object) -> Result<(), Status> {
        let namespace = review.str(&["spec", "namespace"]).to_owned();
        if namespace.is_empty() {
            return Err(status::bad_request("no namespace on request"));
        }
        let (rules, gap) = self.authorizer.rules_for(user, &namespace);
        let (paths, resources): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|rule| !rule.urls.is_empty());
        let values = |rules: Vec<&Rule>| -> Value { rules.into_iter().map(Rule::to_value).collect() };
        let mut answer = json!({
            "resourceRules": values(resources),
            "nonResourceRules": values(paths),
            "incomplete": gap.is_some(),
        });
        if let Some(gap) = gap {
            answer["evaluationError"] = gap.into();
        }
        review.set(&["status"], answer);
        Ok(())
    }
}

/// Exactly one of the two kinds of attributes, and selectors that say something.
fn spec_errors(review: &Object) -> Vec<FieldError> {
    let mut errors = review.get(&["spec", "resourceAttributes"]).map(Selectors::faults).unwrap_or_default();
    let has = |part: &str| review.get(&["spec", part]).is_some_and(Value::is_object);
    match (has("resourceAttributes"), has("nonResourceAttributes")) {
        (true, true) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            &review.get(&["spec", "nonResourceAttributes"]).cloned().unwrap_or_default(),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    errors
}

fn refuse(kind: &Kind, review: &Object, errors: &[FieldError]) -> Result<(), Status> {
    match errors.is_empty() {
        true => Ok(()),
        false => Err(status::invalid(&kind.group, &kind.kind, review.name(), errors)),
    }
}

fn strings(list: &[Value]) -> Vec<String> {
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn extra(extra: Option<&Value>) -> BTreeMap<String, Vec<String>> {
    let extra = extra.and_then(Value::as_object).into_iter().flatten();
    extra.map(|(key, values)| (key.to_lowercase(), strings(values.as_array().map_or(&[], Vec::as_slice)))).collect()
}
