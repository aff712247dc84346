//! ClusterRole aggregation controller.
//! Watches: ClusterRole.  Writes: the rules of ClusterRoles that have an aggregation rule.
//! Converges: such a role has the rules of all roles that its selectors name, each once, in the order of the roles' names.
//! Never: touches a role without an aggregation rule; collects by an empty selector, which would name every role.
//! Wakes: on change of any ClusterRole; a role that collects from aggregated ones settles after them.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use knarr_client::{Change, Cluster, Informer, WorkQueue};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::owner;
use crate::runner::{Activation, Controller, Runner, Step as _, StepError};

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner) {
    let roles = cluster.informer::<ClusterRole>();
    let queue = Arc::new(WorkQueue::default());
    roles.subscribe({
        let (queue, roles) = (queue.clone(), roles.clone());
        move |change: &Change<ClusterRole>| {
            for role in roles.list().iter().filter(|role| role.aggregation_rule.is_some()) {
                queue.add(role.name_any());
            }
            if change.object().aggregation_rule.is_some() {
                queue.add(change.object().name_any());
            }
        }
    });
    let controller = ClusterRoles { cluster: cluster.clone(), roles: roles.clone() };
    runner.start(controller, queue, async move { roles.ready().await });
}

struct ClusterRoles {
    cluster: Cluster,
    roles: Informer<ClusterRole>,
}

impl Controller for ClusterRoles {
    type Key = String;

    const NAME: &'static str = "clusterrole-aggregation";

    async fn reconcile(&self, name: &String) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let Some(rules) = self.roles.get("", name).and_then(|role| plan(&role, &self.roles.list())) else {
            return Ok(activation);
        };
        let roles: Api<ClusterRole> = self.cluster.all();
        let patch = Patch::Merge(json!({ "rules": rules }));
        roles.patch(name, &PatchParams::default(), &patch).await.step(|| "write the collected rules".to_owned())?;
        activation.changed(format!("collect the rules of cluster role {name}"));
        Ok(activation)
    }
}

/// The rules that the role should have; `None` where it has them, or collects none.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut sources: Vec<&Arc<ClusterRole>> = all
        .iter()
        .filter(|other| {
            other.metadata.name != role.metadata.name && selectors.iter().any(|selector| owner::selects(selector, &other.metadata))
        })
        .collect();
    sources.sort_by_key(|source| source.name_any());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in sources.iter().flat_map(|source| source.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, label: &str, collects: &str, verbs: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<_> = verbs.iter().map(|verb| json!({ "verbs": [verb] })).collect();
        let mut role = json!({ "metadata": { "name": name, "labels": {} }, "rules": rules });
        if !label.is_empty() {
            role["metadata"]["labels"][label] = "true".into();
        }
        if !collects.is_empty() {
            role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { collects: "true" } }] });
        }
        Arc::new(serde_json::from_value(role).unwrap())
    }

    /// The verbs that `name` should have, or `-` where it is as it should be.
    fn check(all: &[Arc<ClusterRole>], name: &str, expected: &str) {
        let role = all.iter().find(|role| role.name_any() == name).unwrap();
        let text =
            plan(role, all).map_or("-".to_owned(), |rules| rules.iter().map(|rule| rule.verbs.join(",")).collect::<Vec<_>>().join(" "));
        assert_eq!(text, expected);
    }

    #[test]
    fn rules_are_collected_once_and_in_order() {
        let (b, a) = (role("b", "view", "", &["get", "list"]), role("a", "view", "", &["list", "watch"]));
        let (other, view) = (role("c", "edit", "", &["update"]), role("view", "edit", "view", &["old"]));
        check(&[b.clone(), a.clone(), other.clone(), view.clone()], "view", "list watch get");
        let settled = role("view", "edit", "view", &["list", "watch", "get"]);
        check(&[b.clone(), a.clone(), settled.clone()], "view", "-");
        check(&[b, a, settled, other, role("edit", "", "edit", &[])], "edit", "update list watch get");
        check(&[view], "view", "");
        check(&[role("plain", "", "", &["get"])], "plain", "-");
    }
}
