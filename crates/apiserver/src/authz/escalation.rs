//! Nobody gives away rights that he does not hold.
//!
//! Who writes a role must hold all its rules, or the verb `escalate` on it; who writes a binding must hold all rules of its role, or the
//! verb `bind` on that role. `system:masters` may do both. A write that changes neither rules nor subjects is not looked at, so that the garbage
//! collector can mend owner references.

use std::collections::BTreeMap;

use knarr_api::status::{self, Status};
use serde_json::{Map, Value};

use super::rbac::{self, RoleRef};
use super::rules::{Rule, uncovered};
use super::{Attributes, Authorizer};
use crate::User;
use crate::auth::GROUP_MASTERS;

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
/// Combinations of verb, group, resource and name in one role's rules that are compared with what the writer holds. The largest role that upstream
/// ships has about 600; a body of 3 MB could ask for 10^15.
const COMBINATIONS_MAX: usize = 100_000;
/// Rights listed in the message of a refusal.
const LISTED_MAX: usize = 50;

type Object = Map<String, Value>;

impl Authorizer {
    /// Refuses a write of a role or binding that would give rights which `user` does not hold. Other resources pass.
    pub(crate) async fn check_escalation(
        &self,
        user: &User,
        resource: &str,
        namespace: &str,
        name: &str,
        new: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        if user.in_group(GROUP_MASTERS) || old.is_some_and(|old| same_rights(new, old)) {
            return Ok(());
        }
        let write = Write { user, resource, namespace, name, is_new: old.is_none() };
        match resource {
            "roles" | "clusterroles" => self.check_role(&write, new).await,
            "rolebindings" | "clusterrolebindings" => self.check_binding(&write, new).await,
            _ => Ok(()),
        }
    }

    async fn check_role(&self, write: &Write<'_>, role: &Object) -> Result<(), Status> {
        let escalate = Attributes {
            namespace: write.namespace,
            // A creation names nothing yet (registry/rbac/role/policybased): who may escalate one role by its name may not make it.
            name: if write.is_new { "" } else { write.name },
            ..Attributes::resource(write.user, "escalate", GROUP, write.resource)
        };
        if self.decide(&escalate).await.allowed() {
            return Ok(());
        }
        self.confirm_held(write, &Rule::list_of(role))?;
        match role.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
            // What an aggregated role will hold is not known yet, so that its author must hold everything.
            true => self.confirm_held(write, &[Rule::everything(), Rule::every_path()]),
            false => Ok(()),
        }
    }

    async fn check_binding(&self, write: &Write<'_>, binding: &Object) -> Result<(), Status> {
        let Some(role) = rbac::role_ref_of_binding(&Value::Object(binding.clone()), write.namespace) else {
            // Validation refuses a reference to anything else.
            return Ok(());
        };
        let (resource, name) = match &role {
            RoleRef::Role { name, .. } => ("roles", &**name),
            RoleRef::ClusterRole { name } => ("clusterroles", &**name),
        };
        let bind = Attributes { namespace: write.namespace, name, ..Attributes::resource(write.user, "bind", GROUP, resource) };
        if self.decide(&bind).await.allowed() {
            return Ok(());
        }
        let rules = self.index.read().rules_of(&role).map(<[Rule]>::to_vec);
        let rules = rules.ok_or_else(|| status::not_found(GROUP, resource, name))?;
        self.confirm_held(write, &rules)
    }

    fn confirm_held(&self, write: &Write<'_>, wanted: &[Rule]) -> Result<(), Status> {
        let refuse = |message: String| Err(status::forbidden(GROUP, write.resource, write.name, &message));
        if wanted.iter().map(Rule::combinations).fold(0, usize::saturating_add) > COMBINATIONS_MAX {
            return refuse(format!("the rules have more than {COMBINATIONS_MAX} combinations of verb, group, resource and name"));
        }
        // What others than RBAC allow cannot be granted by roles.
        let (held, gap) = self.index.read().rules_for(write.user, write.namespace);
        let missing = uncovered(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = write.user.groups.iter().map(|group| format!("{group:?}")).collect();
        let mut message = format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            write.user.name,
            groups.join(" "),
            describe(&missing),
        );
        if let Some(gap) = gap {
            message.push_str(&format!("; resolution errors: [{gap}]"));
        }
        refuse(message)
    }
}

struct Write<'a> {
    user: &'a User,
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
    is_new: bool,
}

fn same_rights(new: &Object, old: &Object) -> bool {
    ["rules", "aggregationRule", "roleRef", "subjects"].iter().all(|field| new.get(*field) == old.get(*field))
}

/// One line for each group and resource, verbs joined and sorted, as upstream lists them.
fn describe(missing: &[Rule]) -> String {
    let quoted = |names: &[Box<str>]| -> String {
        let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        format!("[{}]", names.join(" "))
    };
    let mut lines: BTreeMap<String, Vec<Box<str>>> = BTreeMap::new();
    for rule in missing {
        let mut line = String::new();
        for (field, names) in
            [("APIGroups", &rule.groups), ("Resources", &rule.resources), ("ResourceNames", &rule.names), ("NonResourceURLs", &rule.urls)]
        {
            if !names.is_empty() {
                line.push_str(&format!("{field}:{}, ", quoted(names)));
            }
        }
        lines.entry(line).or_default().extend(rule.verbs.iter().cloned());
    }
    let more = lines.len().saturating_sub(LISTED_MAX);
    let mut lines: Vec<String> = lines
        .into_iter()
        .take(LISTED_MAX)
        .map(|(line, mut verbs)| {
            verbs.sort();
            verbs.dedup();
            format!("{{{line}Verbs:{}}}", quoted(&verbs))
        })
        .collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}
