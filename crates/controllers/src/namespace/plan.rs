//! What to delete next in a namespace, and how to say what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::world::{Item, Resource};

#[derive(Default)]
pub(super) struct Plan {
    pub(super) delete: Vec<Arc<Resource>>,
    /// Objects left, by resource.
    remaining: BTreeMap<String, usize>,
    /// Objects left that have a finalizer, by finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What the server said to deletions that it refused.
    pub(super) failures: Vec<String>,
    /// Versions whose kinds are not known, because their server does not answer.
    pub(super) silent: Vec<String>,
}

/// Pods go before everything else: what they lean on (network policies, secrets) must not go first.
pub(super) fn plan(items: &[Arc<Item>], resources: &[Arc<Resource>], silent: Vec<String>) -> Plan {
    let mut plan = Plan { silent, ..Plan::default() };
    for item in items {
        *plan.remaining.entry(item.resource.qualified()).or_default() += 1;
        for finalizer in &item.finalizers {
            *plan.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
    let pods_left = plan.remaining.contains_key("pods");
    let wanted: BTreeSet<String> = items
        .iter()
        .filter(|item| !item.deleting)
        .map(|item| item.resource.qualified())
        .filter(|resource| !pods_left || resource == "pods")
        .collect();
    plan.delete = resources.iter().filter(|resource| wanted.contains(&resource.qualified())).cloned().collect();
    plan
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.remaining.is_empty()
    }

    /// The five conditions of a namespace on its way out, in upstream's words; those that say what they said keep their time.
    pub(super) fn conditions(&self, old: &[NamespaceCondition], now: Timestamp) -> Vec<NamespaceCondition> {
        let counted = |counts: &BTreeMap<String, usize>, what: fn(&str, usize) -> String| {
            counts.iter().map(|(name, count)| what(name, *count)).collect::<Vec<_>>().join(", ")
        };
        let resources = counted(&self.remaining, |name, count| {
            let dot = if name.contains('.') { "" } else { "." };
            format!("{name}{dot} has {count} resource instances")
        });
        let finalizers = counted(&self.finalizers, |name, count| format!("{name} in {count} resource instances"));
        let silent =
            self.silent.iter().map(|version| format!("{version}: stale GroupVersion discovery: {version}")).collect::<Vec<_>>().join(", ");
        let rows: [(&str, bool, [&str; 2], [String; 2]); 5] = [
            (
                "NamespaceDeletionDiscoveryFailure",
                !self.silent.is_empty(),
                ["DiscoveryFailed", "ResourcesDiscovered"],
                [
                    format!(
                        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {silent}",
                        self.silent.len()
                    ),
                    "All resources successfully discovered".to_owned(),
                ],
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                ["GroupVersionParsingFailed", "ParsedGroupVersions"],
                [String::new(), "All legacy kube types successfully parsed".to_owned()],
            ),
            (
                "NamespaceDeletionContentFailure",
                !self.failures.is_empty(),
                ["ContentDeletionFailed", "ContentDeleted"],
                [
                    format!("Failed to delete all resource types, {} remaining: {}", self.failures.len(), self.failures.join(", ")),
                    "All content successfully deleted, may be waiting on finalization".to_owned(),
                ],
            ),
            (
                "NamespaceContentRemaining",
                !self.remaining.is_empty(),
                ["SomeResourcesRemain", "ContentRemoved"],
                [format!("Some resources are remaining: {resources}"), "All content successfully removed".to_owned()],
            ),
            (
                "NamespaceFinalizersRemaining",
                !self.finalizers.is_empty(),
                ["SomeFinalizersRemain", "ContentHasNoFinalizers"],
                [
                    format!("Some content in the namespace has finalizers remaining: {finalizers}"),
                    "All content-preserving finalizers finished".to_owned(),
                ],
            ),
        ];
        rows.into_iter()
            .map(|(type_, holds, reasons, messages)| {
                let [message_if, message_else] = messages;
                let (status, reason, message) = if holds { ("True", reasons[0], message_if) } else { ("False", reasons[1], message_else) };
                let known = old.iter().find(|condition| condition.type_ == type_ && condition.status == status);
                NamespaceCondition {
                    type_: type_.to_owned(),
                    status: status.to_owned(),
                    reason: Some(reason.to_owned()),
                    message: Some(message),
                    last_transition_time: known.and_then(|known| known.last_transition_time.clone()).or(Some(Time(now))),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use knarr_client::ObjectKey;
    use kube::discovery::ApiResource;

    use super::*;

    fn resource(group: &str, kind: &str) -> Arc<Resource> {
        let plural = format!("{}s", kind.to_lowercase());
        let api = ApiResource { group: group.into(), version: "v1".into(), api_version: "v1".into(), kind: kind.into(), plural };
        Arc::new(Resource { api, namespaced: true, collection_deletable: true, watched: true, listed: true.into() })
    }

    /// Items one a line: `Pod a [deleting] [finalizer=x]`.
    #[track_caller]
    fn check(text: &str, expected: Expect) {
        let resources = [resource("", "Pod"), resource("", "Secret"), resource("apps", "Deployment")];
        let items: Vec<Arc<Item>> = text
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                Arc::new(Item {
                    resource: resources.iter().find(|resource| resource.api.kind == words[0]).cloned().expect("a known kind"),
                    key: ObjectKey::new("doomed", words[1]),
                    uid: words[1].to_owned(),
                    resource_version: "1".to_owned(),
                    owners: Vec::new(),
                    finalizers: words.iter().filter_map(|word| word.strip_prefix("finalizer=")).map(str::to_owned).collect(),
                    deleting: words.contains(&"deleting"),
                })
            })
            .collect();
        let plan = plan(&items, &resources, Vec::new());
        let delete: Vec<String> = plan.delete.iter().map(|resource| resource.qualified()).collect();
        let conditions = plan.conditions(&[], Timestamp::UNIX_EPOCH);
        let said = conditions.iter().filter(|condition| condition.status == "True").filter_map(|condition| condition.message.clone());
        let lines: Vec<String> = [format!("delete {}", delete.join(" "))].into_iter().chain(said).collect();
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn pods_go_first() {
        check(
            "Pod a\nSecret b\nDeployment c",
            expect![[r#"
            delete pods
            Some resources are remaining: deployments.apps has 1 resource instances, pods. has 1 resource instances, secrets. has 1 resource instances"#]],
        );
        check(
            "Pod a deleting\nSecret b",
            expect![[r#"
            delete 
            Some resources are remaining: pods. has 1 resource instances, secrets. has 1 resource instances"#]],
        );
        check(
            "Secret b\nDeployment c",
            expect![[r#"
            delete secrets deployments.apps
            Some resources are remaining: deployments.apps has 1 resource instances, secrets. has 1 resource instances"#]],
        );
    }

    #[test]
    fn what_is_on_its_way_is_waited_for() {
        check(
            "Secret b deleting finalizer=example.com/hold",
            expect![[r#"
            delete 
            Some resources are remaining: secrets. has 1 resource instances
            Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"#]],
        );
        check("", expect!["delete "]);
    }

    #[test]
    fn an_extension_server_that_does_not_answer_is_named() {
        let plan = plan(&[], &[], vec!["g/v1".to_owned()]);
        let conditions = plan.conditions(&[], Timestamp::UNIX_EPOCH);
        let said = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: g/v1: stale GroupVersion discovery: g/v1";
        assert_eq!((&*conditions[0].status, conditions[0].message.as_deref()), ("True", Some(said)));
    }

    #[test]
    fn what_the_server_refuses_to_delete_is_told_in_its_words() {
        let plan = Plan { failures: vec!["configmaps \"a\" is forbidden: why".to_owned()], ..Plan::default() };
        let conditions = plan.conditions(&[], Timestamp::UNIX_EPOCH);
        let said = "Failed to delete all resource types, 1 remaining: configmaps \"a\" is forbidden: why";
        assert_eq!((&*conditions[2].type_, conditions[2].message.as_deref()), ("NamespaceDeletionContentFailure", Some(said)));
    }

    #[test]
    fn conditions_keep_their_time_while_they_say_the_same() {
        let first = Plan::default().conditions(&[], Timestamp::UNIX_EPOCH);
        assert_eq!(Plan::default().conditions(&first, Timestamp::now()), first);
    }
}
