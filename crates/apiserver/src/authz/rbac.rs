//! RBAC: roles and bindings of the store, indexed by subject.
//!
//! The index holds only what decides: rules by role, and for every subject its bindings. A request looks up the caller's name and
//! groups, so that its cost grows with the caller's bindings and not with the cluster's.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::rules::Rule;
use super::{Attributes, Decision, Verdict};
use crate::User;

pub(crate) const ROLES: &str = "rbac.authorization.k8s.io/roles";
pub(crate) const ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
pub(crate) const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
pub(crate) const CLUSTER_ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";
pub(crate) const COLLECTIONS: [&str; 4] = [ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS];

/// Who a binding gives its role to. Service accounts are the users that they authenticate as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
}

/// The role that a binding refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RoleRef {
    Role { namespace: Box<str>, name: Box<str> },
    ClusterRole { name: Box<str> },
}

#[derive(Debug)]
struct Binding {
    /// `namespace/name` or `name`, as in the store.
    key: Box<str>,
    role: RoleRef,
    subjects: Vec<(Subject, SubjectText)>,
}

/// A subject as reasons show it: `Group "devs"`, `ServiceAccount "robot/ci"`.
type SubjectText = Box<str>;

#[derive(Debug, Default)]
struct Bindings {
    all: HashMap<Box<str>, Arc<Binding>>,
    by_subject: HashMap<Subject, Vec<Arc<Binding>>>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    roles: HashMap<RoleRef, Arc<[Rule]>>,
    cluster: Bindings,
    /// By namespace.
    namespaced: HashMap<Box<str>, Bindings>,
}

impl Index {
    /// Takes the state of one object: `object` is `None` when it was deleted. `key` is its name in `collection`.
    pub(super) fn apply(&mut self, collection: &str, key: &str, object: Option<&Value>) {
        let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
        match collection {
            ROLES | CLUSTER_ROLES => {
                let role = role_of_key(key);
                match object {
                    Some(object) => self.roles.insert(role, Rule::list(object).into()),
                    None => self.roles.remove(&role),
                };
            }
            CLUSTER_ROLE_BINDINGS => self.cluster.apply(key, "", object),
            ROLE_BINDINGS => {
                let bindings = self.namespaced.entry(namespace.into()).or_default();
                bindings.apply(key, namespace, object);
                if bindings.all.is_empty() {
                    self.namespaced.remove(namespace);
                }
            }
            _ => {}
        }
    }

    pub(super) fn authorize(&self, request: &Attributes<'_>) -> Decision {
        let mut missing = Vec::new();
        let mut reason = None;
        self.visit(
            request.user,
            request.namespace,
            &mut |grant| {
                if grant.rules.iter().any(|rule| rule.allows(request)) {
                    reason = Some(grant.reason());
                }
                reason.is_none()
            },
            &mut |role| missing.push(role.missing_text()),
        );
        match reason {
            Some(reason) => Decision { verdict: Verdict::Allow, reason },
            None => Decision { verdict: Verdict::NoOpinion, reason: missing_reason(missing) },
        }
    }

    /// Every rule that `user` holds in `namespace` (cluster-wide ones included; those alone where it is empty).
    pub(super) fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Option<String>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        self.visit(
            user,
            namespace,
            &mut |grant| {
                rules.extend_from_slice(grant.rules);
                true
            },
            &mut |role| missing.push(role.missing_text()),
        );
        let reason = missing_reason(missing);
        (rules, (!reason.is_empty()).then_some(reason))
    }

    pub(super) fn rules_of(&self, role: &RoleRef) -> Option<&[Rule]> {
        self.roles.get(role).map(|rules| &**rules)
    }

    /// Calls `grant` for each binding that names the user, cluster-wide ones first, until it returns false; `missing` for each
    /// binding whose role is not there.
    fn visit(&self, user: &User, namespace: &str, grant: &mut dyn FnMut(Grant<'_>) -> bool, missing: &mut dyn FnMut(&RoleRef)) {
        let namespaced = match namespace {
            "" => None,
            namespace => self.namespaced.get(namespace),
        };
        for bindings in [Some(&self.cluster), namespaced].into_iter().flatten() {
            let subjects = std::iter::once(Subject::User(user.name.as_str().into()))
                .chain(user.groups.iter().map(|group| Subject::Group(group.as_str().into())));
            for subject in subjects {
                for binding in bindings.by_subject.get(&subject).into_iter().flatten() {
                    match self.roles.get(&binding.role) {
                        None => missing(&binding.role),
                        Some(rules) if !grant(Grant { binding, subject: &subject, rules }) => {
                            return;
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }
}

impl Bindings {
    fn apply(&mut self, key: &str, namespace: &str, object: Option<&Value>) {
        if let Some(old) = self.all.remove(key) {
            for (subject, _) in &old.subjects {
                if let Some(list) = self.by_subject.get_mut(subject) {
                    list.retain(|binding| !Arc::ptr_eq(binding, &old));
                    if list.is_empty() {
                        self.by_subject.remove(subject);
                    }
                }
            }
        }
        let Some(binding) = object.and_then(|object| Binding::parse(key, namespace, object)) else {
            return;
        };
        let binding = Arc::new(binding);
        for (subject, _) in &binding.subjects {
            let list = self.by_subject.entry(subject.clone()).or_default();
            if !list.iter().any(|have| Arc::ptr_eq(have, &binding)) {
                list.push(binding.clone());
            }
        }
        self.all.insert(key.into(), binding);
    }
}

impl Binding {
    fn parse(key: &str, namespace: &str, object: &Value) -> Option<Binding> {
        let role = role_ref_of_binding(object, namespace)?;
        let subjects = object.get("subjects").and_then(Value::as_array);
        let subjects = subjects.into_iter().flatten().filter_map(|subject| Subject::parse(subject, namespace)).collect();
        Some(Binding { key: key.into(), role, subjects })
    }
}

impl Subject {
    fn parse(subject: &Value, namespace: &str) -> Option<(Subject, SubjectText)> {
        let text = |field: &str| subject.get(field).and_then(Value::as_str).unwrap_or("");
        let name = text("name");
        match text("kind") {
            "User" => Some((Subject::User(name.into()), format!("User {name:?}").into())),
            "Group" => Some((Subject::Group(name.into()), format!("Group {name:?}").into())),
            "ServiceAccount" => {
                // A role binding's subject without a namespace is of the binding's own.
                let namespace = Some(text("namespace")).filter(|text| !text.is_empty()).unwrap_or(namespace);
                if namespace.is_empty() {
                    return None;
                }
                let user = format!("system:serviceaccount:{namespace}:{name}");
                Some((Subject::User(user.into()), format!("ServiceAccount \"{name}/{namespace}\"").into()))
            }
            _ => None,
        }
    }
}

impl RoleRef {
    fn missing_text(&self) -> String {
        match self {
            RoleRef::Role { name, .. } => format!("role.rbac.authorization.k8s.io {name:?} not found"),
            RoleRef::ClusterRole { name } => format!("clusterrole.rbac.authorization.k8s.io {name:?} not found"),
        }
    }
}

/// The role that a binding in `namespace` (empty for a cluster role binding) refers to.
pub(crate) fn role_ref_of_binding(binding: &Value, namespace: &str) -> Option<RoleRef> {
    let text = |field: &str| binding.get("roleRef").and_then(|role| role.get(field)).and_then(Value::as_str);
    let name = text("name")?.into();
    match text("kind")? {
        "ClusterRole" => Some(RoleRef::ClusterRole { name }),
        // A cluster role binding cannot refer to a role of a namespace.
        "Role" if !namespace.is_empty() => Some(RoleRef::Role { namespace: namespace.into(), name }),
        _ => None,
    }
}

/// The role stored under `key`.
fn role_of_key(key: &str) -> RoleRef {
    match key.split_once('/') {
        Some((namespace, name)) => RoleRef::Role { namespace: namespace.into(), name: name.into() },
        None => RoleRef::ClusterRole { name: key.into() },
    }
}

fn missing_reason(mut missing: Vec<String>) -> String {
    missing.dedup();
    match missing.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        many => format!("RBAC: [{}]", many.join(", ")),
    }
}

/// A binding that names the caller, with the rules of its role.
struct Grant<'a> {
    binding: &'a Binding,
    subject: &'a Subject,
    rules: &'a [Rule],
}

impl Grant<'_> {
    /// As upstream words it in reviews and audit annotations (plugin/pkg/auth/authorizer/rbac, clusterRoleBindingDescriber).
    fn reason(&self) -> String {
        let role = match &self.binding.role {
            RoleRef::Role { name, .. } => format!("Role {name:?}"),
            RoleRef::ClusterRole { name } => format!("ClusterRole {name:?}"),
        };
        let subjects = self.binding.subjects.iter();
        let to = subjects.filter(|(subject, _)| subject == self.subject).map(|(_, text)| &**text).next().unwrap_or("");
        match self.binding.key.split_once('/') {
            None => format!("RBAC: allowed by ClusterRoleBinding {:?} of {role} to {to}", self.binding.key),
            Some((namespace, name)) => format!("RBAC: allowed by RoleBinding \"{name}/{namespace}\" of {role} to {to}"),
        }
    }
}
