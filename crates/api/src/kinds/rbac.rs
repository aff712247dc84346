//! rbac.authorization.k8s.io/v1.

use std::sync::LazyLock;

use serde_json::Value;

use super::apps::apply;
use super::columns::{age, name, text, wide};
use super::defaults::Defaults;
use super::row::row;
use super::validate::rbac as rules;
use crate::kind::Kind;
use crate::names::path_segment;
use crate::object::Object;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row(GROUP, "v1", "Role", "roles").put_creates().named(path_segment).validate_by(rules::role).columns(vec![name(), created_at()]),
        row(GROUP, "v1", "ClusterRole", "clusterroles")
            .cluster()
            .put_creates()
            .named(path_segment)
            .validate_by(rules::cluster_role)
            .columns(vec![name(), created_at()]),
        row(GROUP, "v1", "RoleBinding", "rolebindings")
            .put_creates()
            .named(path_segment)
            .default_by(default_binding)
            .validate_by(rules::role_binding)
            .validate_change_by(rules::binding_change)
            .columns(binding_columns()),
        row(GROUP, "v1", "ClusterRoleBinding", "clusterrolebindings")
            .cluster()
            .put_creates()
            .named(path_segment)
            .default_by(default_binding)
            .validate_by(rules::cluster_role_binding)
            .validate_change_by(rules::binding_change)
            .columns(binding_columns()),
    ]
}

fn created_at() -> crate::kind::Column {
    text("Created At", |o, _| o.creation_timestamp().into())
}

fn binding_columns() -> Vec<crate::kind::Column> {
    vec![
        name(),
        text("Role", |o, _| format!("{}/{}", o.str(&["roleRef", "kind"]), o.str(&["roleRef", "name"])).into()),
        age(),
        wide("Users", |o, _| subjects(o, "User")),
        wide("Groups", |o, _| subjects(o, "Group")),
        wide("ServiceAccounts", |o, _| subjects(o, "ServiceAccount")),
    ]
}

fn subjects(object: &Object, kind: &str) -> Value {
    let list: Vec<String> = object
        .list(&["subjects"])
        .iter()
        .filter(|subject| subject["kind"] == kind)
        .map(|subject| match (subject["namespace"].as_str(), subject["name"].as_str().unwrap_or("")) {
            (Some(namespace), name) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
            (_, name) => name.to_owned(),
        })
        .collect();
    list.join(", ").into()
}

static BINDING: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse(r#"roleRef.apiGroup = "rbac.authorization.k8s.io""#));

fn default_binding(object: &mut Object) {
    apply(object, &BINDING);
    let Some(Value::Array(subjects)) = object.get_mut(&["subjects"]) else { return };
    for subject in subjects {
        let group = match subject["kind"].as_str() {
            Some("User" | "Group") => GROUP,
            _ => continue,
        };
        if let Some(map) = subject.as_object_mut()
            && map.get("apiGroup").and_then(Value::as_str).unwrap_or("").is_empty()
        {
            map.insert("apiGroup".to_owned(), group.into());
        }
    }
}
