//! rbac.authorization.k8s.io/v1.

use serde_json::Value;

use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(in crate::kinds) fn role(object: &Object) -> FieldErrors {
    rules(object, true)
}

pub(in crate::kinds) fn cluster_role(object: &Object) -> FieldErrors {
    let mut errors = rules(object, false);
    if object.get(&["aggregationRule"]).is_some() && object.list(&["aggregationRule", "clusterRoleSelectors"]).is_empty() {
        let detail = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.push(FieldError::required("aggregationRule.clusterRoleSelectors", detail));
    }
    for (index, selector) in object.list(&["aggregationRule", "clusterRoleSelectors"]).iter().enumerate() {
        super::rules::selector(selector, &format!("aggregationRule.clusterRoleSelectors[{index}]"), &mut errors);
    }
    errors
}

fn rules(object: &Object, namespaced: bool) -> FieldErrors {
    let mut errors = Vec::new();
    for (index, rule) in object.list(&["rules"]).iter().enumerate() {
        let at = format!("rules[{index}]");
        if list(rule, "verbs").is_empty() {
            errors.push(FieldError::required(format!("{at}.verbs"), "verbs must contain at least one value"));
        }
        let (groups, resources) = (list(rule, "apiGroups"), list(rule, "resources"));
        if !list(rule, "nonResourceURLs").is_empty() {
            let urls = &rule["nonResourceURLs"];
            let path = format!("{at}.nonResourceURLs");
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(&path, urls, detail));
            }
            if !groups.is_empty() || !resources.is_empty() || !list(rule, "resourceNames").is_empty() {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(path, urls, detail));
            }
            continue;
        }
        if groups.is_empty() {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(format!("{at}.apiGroups"), detail));
        }
        if resources.is_empty() {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(format!("{at}.resources"), detail));
        }
    }
    errors
}

pub(in crate::kinds) fn role_binding(object: &Object) -> FieldErrors {
    binding(object, &["Role", "ClusterRole"], true)
}

pub(in crate::kinds) fn cluster_role_binding(object: &Object) -> FieldErrors {
    binding(object, &["ClusterRole"], false)
}

fn binding(object: &Object, kinds: &[&str], namespaced: bool) -> FieldErrors {
    let mut errors = Vec::new();
    let part = |key: &str| object.str(&["roleRef", key]);
    if part("apiGroup") != GROUP {
        errors.push(FieldError::not_supported("roleRef.apiGroup", &part("apiGroup").into(), &[GROUP]));
    }
    if !kinds.contains(&part("kind")) {
        errors.push(FieldError::not_supported_as_listed("roleRef.kind", &part("kind").into(), kinds));
    }
    if part("name").is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for reason in names::path_segment(part("name")) {
        errors.push(FieldError::invalid("roleRef.name", &part("name").into(), &reason));
    }
    for (index, subject) in object.list(&["subjects"]).iter().enumerate() {
        check_subject(subject, namespaced, &format!("subjects[{index}]"), &mut errors);
    }
    errors
}

/// In a binding of a namespace, a service account without one is of that namespace.
fn check_subject(subject: &Value, namespaced: bool, at: &str, errors: &mut FieldErrors) {
    let (name, group) = (text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    }
    let wanted_group = match text(subject, "kind") {
        "ServiceAccount" => {
            for reason in Some(name).filter(|name| !name.is_empty()).map(names::dns1123_subdomain).unwrap_or_default() {
                errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), &reason));
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.push(FieldError::required(format!("{at}.namespace"), ""));
            }
            ""
        }
        "User" | "Group" => GROUP,
        other => {
            let valid = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported_as_listed(format!("{at}.kind"), &other.into(), &valid));
            return;
        }
    };
    if group != wanted_group {
        errors.push(FieldError::not_supported(format!("{at}.apiGroup"), &group.into(), &[wanted_group]));
    }
}

pub(in crate::kinds) fn binding_change(new: &Object, old: &Object) -> FieldErrors {
    let role = |object: &Object| object.get(&["roleRef"]).cloned().unwrap_or_default();
    if role(new) == role(old) {
        return Vec::new();
    }
    vec![FieldError::invalid("roleRef", &role(new), "cannot change roleRef")]
}
