//! Owners and what they own: who waits for whom, who is left, and which references count. ConfigMaps suffice for that.

use super::{Kubectl, cluster, holds};

/// Keeps an object from going once it is deleted.
const HOLD: &str = "example.com/hold";

impl Kubectl<'_> {
    fn uid(&self, object: &str) -> String {
        self.ok(&format!("get {object} -o jsonpath={{.metadata.uid}}"))
    }

    /// A ConfigMap, and by whom it is owned: names and uids of ConfigMaps, and whether it blocks them.
    fn owned(&self, name: &str, owners: &[(&str, &str, bool)], finalizers: &str) {
        let owners: Vec<String> = (owners.iter())
            .map(|(name, uid, blocks)| {
                format!("{{apiVersion: v1, kind: ConfigMap, name: {name}, uid: {uid}, blockOwnerDeletion: {blocks}}}")
            })
            .collect();
        let owners = owners.join(", ");
        self.apply(&format!(
            "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, ownerReferences: [{owners}], finalizers: [{finalizers}]}}}}"
        ));
    }

    fn owner(&self, name: &str) -> String {
        self.ok(&format!("create configmap {name}"));
        self.uid(&format!("configmap {name}"))
    }

    fn exists(&self, object: &str) -> bool {
        !self.ok(&format!("get {object} --ignore-not-found -o name")).is_empty()
    }

    fn goes(&self, object: &str) {
        self.knarr.eventually(&format!("{object} goes"), |_| !self.exists(object));
    }

    fn begins_to_go(&self, object: &str) {
        self.ok(&format!("wait {object} --for=jsonpath={{.metadata.deletionTimestamp}} --timeout=60s"));
    }

    fn release(&self, object: &str) {
        self.ok(&format!("patch {object} --type=json -p '[{{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}}]'"));
    }

    /// The names of its owners.
    fn owners(&self, object: &str) -> String {
        self.ok(&format!("get {object} -o jsonpath={{.metadata.ownerReferences[*].name}}"))
    }
}

#[test]
fn a_foreground_deletion_waits_for_those_that_block_it_and_for_no_others() {
    cluster(|kubectl| {
        let owner = kubectl.owner("owner");
        kubectl.owned("blocks", &[("owner", &owner, true)], HOLD);
        kubectl.owned("free", &[("owner", &owner, false)], HOLD);
        kubectl.ok("delete configmap owner --cascade=foreground --wait=false");
        for dependent in ["configmap/blocks", "configmap/free"] {
            kubectl.begins_to_go(dependent);
        }
        assert_eq!(kubectl.ok("get configmap owner -o jsonpath={.metadata.finalizers[*]}"), "foregroundDeletion");
        kubectl.release("configmap/blocks");
        kubectl.goes("configmap/owner");
        assert!(kubectl.exists("configmap/free") && !kubectl.exists("configmap/blocks"));
        kubectl.release("configmap/free");
        kubectl.goes("configmap/free");

        // One that blocks and has dependents of its own goes after them.
        let top = kubectl.owner("top");
        kubectl.owned("middle", &[("top", &top, true)], "");
        kubectl.owned("bottom", &[("middle", &kubectl.uid("configmap/middle"), true)], HOLD);
        kubectl.ok("delete configmap top --cascade=foreground --wait=false");
        kubectl.begins_to_go("configmap/bottom");
        assert!(kubectl.exists("configmap/top") && kubectl.exists("configmap/middle"));
        kubectl.release("configmap/bottom");
        kubectl.goes("configmap/top");
        assert!(!kubectl.exists("configmap/middle"));

        // Who blocks no longer is waited for no longer.
        let owner = kubectl.owner("owner");
        kubectl.owned("blocks", &[("owner", &owner, true)], HOLD);
        kubectl.ok("delete configmap owner --cascade=foreground --wait=false");
        kubectl.begins_to_go("configmap/blocks");
        assert!(kubectl.exists("configmap/owner"));
        let unblock = r#"[{"op":"replace","path":"/metadata/ownerReferences/0/blockOwnerDeletion","value":false}]"#;
        kubectl.ok(&format!("patch configmap blocks --type=json -p '{unblock}'"));
        kubectl.goes("configmap/owner");
        kubectl.release("configmap/blocks");
    });
}

#[test]
fn in_the_background_the_owner_goes_first_and_orphans_stay() {
    cluster(|kubectl| {
        let owner = kubectl.owner("owner");
        kubectl.owned("held", &[("owner", &owner, true)], HOLD);
        kubectl.ok("delete configmap owner --cascade=background --timeout=60s");
        kubectl.begins_to_go("configmap/held");
        kubectl.release("configmap/held");
        kubectl.goes("configmap/held");

        let owner = kubectl.owner("owner");
        kubectl.owned("orphan", &[("owner", &owner, true)], "");
        kubectl.ok("delete configmap owner --cascade=orphan --timeout=60s");
        assert_eq!(kubectl.owners("configmap/orphan"), "");
    });
}

#[test]
fn an_object_stays_as_long_as_one_of_its_owners_does() {
    cluster(|kubectl| {
        let (first, second) = (kubectl.owner("first"), kubectl.owner("second"));
        let third = kubectl.owner("third");
        kubectl.owned("one", &[("first", &first, true), ("second", &second, true)], "");
        kubectl.owned("two", &[("third", &third, true), ("second", &second, true)], "");
        for (owner, policy, dependent) in [("first", "background", "configmap/one"), ("third", "foreground", "configmap/two")] {
            kubectl.ok(&format!("delete configmap {owner} --cascade={policy} --timeout=60s"));
            kubectl.knarr.eventually("the one that is gone is forgotten", |_| kubectl.owners(dependent) == "second");
        }
        kubectl.ok("delete configmap second --timeout=60s");
        kubectl.goes("configmap/one");
        kubectl.goes("configmap/two");
    });
}

#[test]
fn references_that_lead_nowhere_or_out_of_reach_are_no_owners() {
    cluster(|kubectl| {
        kubectl.owned("nobodys", &[("nosuch", "00000000-0000-4000-8000-000000000000", true)], "");
        kubectl.goes("configmap/nobodys");
        // The uid is right and the name is wrong.
        let owner = kubectl.owner("owner");
        kubectl.owned("misnamed", &[("other", &owner, true)], "");
        kubectl.goes("configmap/misnamed");

        // From another namespace: it goes, and an Event says why. It does not harm those who name the owner rightly.
        kubectl.ok("create namespace far");
        kubectl.ok("create configmap owner -n far");
        let far = kubectl.ok("get configmap owner -n far -o jsonpath={.metadata.uid}");
        kubectl.owned("across", &[("owner", &far, true)], "");
        kubectl.goes("configmap/across");
        let near = format!(
            "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: near, namespace: far,
              ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {far}}}]}}}}"
        );
        kubectl.apply(&near);
        // What is in no namespace cannot be owned by what is in one. It stays.
        let role = format!(
            "---\n{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, rules: [], metadata: {{name: across,
              ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {far}}}]}}}}"
        );
        kubectl.apply(&role);
        let events = "get events -A --field-selector=reason=OwnerRefInvalidNamespace -o \
                      'jsonpath={range .items[*]}{.type} {.involvedObject.kind}/{.involvedObject.name} {.message}{\"\\n\"}{end}'";
        let said = |object: &str, namespace: &str| {
            format!(
                "Warning {object} ownerRef [v1/ConfigMap, namespace: {namespace}, name: owner, uid: {far}] does not exist in namespace \"{namespace}\"\n"
            )
        };
        kubectl.knarr.eventually("both are told of", |_| {
            let told = kubectl.ok(events);
            told.contains(&said("ConfigMap/across", "default")) && told.contains(&said("ClusterRole/across", ""))
        });
        assert_eq!(kubectl.ok(events).lines().count(), 2);
        // Whatever was to go has gone before this.
        kubectl.owned("last", &[("nosuch", "00000000-0000-4000-8000-000000000001", true)], "");
        kubectl.goes("configmap/last");
        assert!(kubectl.exists("clusterrole/across"));
        assert_eq!(kubectl.ok("get configmap near -n far -o name"), "configmap/near\n");
        kubectl.ok("delete configmap owner -n far");
        kubectl.knarr.eventually("the rightful dependent follows", |_| {
            kubectl.ok("get configmap near -n far --ignore-not-found -o name").is_empty()
        });
        assert!(kubectl.exists("clusterrole/across"));
    });
}

/// The condition of the namespace `shop`: its status, reason and message.
fn condition(kubectl: &Kubectl<'_>, kind: &str) -> String {
    let namespace: serde_json::Value = serde_json::from_str(&kubectl.ok("get namespace shop -o json")).expect("JSON");
    let conditions = namespace["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.filter(|it| it["type"] == kind).map(|it| {
        let text = |field: &str| it[field].as_str().unwrap_or_default();
        [text("status"), text("reason"), text("message")].join(" ")
    });
    found.collect()
}

#[test]
fn in_a_namespace_that_goes_pods_go_before_all_else() {
    cluster(|kubectl| {
        kubectl.ok("create namespace shop");
        let pod = format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: held, namespace: shop, finalizers: [{HOLD}]}},
              spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: 'busybox:1', command: [sleep, '1000']}}]}}}}"
        );
        kubectl.apply(&pod);
        kubectl.ok("wait pod/held -n shop --for=condition=Ready --timeout=60s");
        let policy = "---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: closed, namespace: shop}, spec: {podSelector: {}}}";
        kubectl.apply(policy);
        kubectl.ok("create configmap settings -n shop");
        let protected = format!("---\n{{apiVersion: v1, kind: Secret, metadata: {{name: held, namespace: shop, finalizers: [{HOLD}]}}}}");
        kubectl.apply(&protected);

        kubectl.ok("delete namespace shop --wait=false");
        kubectl.knarr.eventually("it says for what it waits", |_| condition(kubectl, "NamespaceFinalizersRemaining").starts_with("True"));
        kubectl.ok("wait pod/held -n shop --for=jsonpath={.status.containerStatuses[0].state.terminated.reason} --timeout=60s");
        holds(
            &condition(kubectl, "NamespaceContentRemaining"),
            &["True SomeResourcesRemain Some resources are remaining: ", "pods. has 1 resource instances"],
        );
        holds(
            &condition(kubectl, "NamespaceFinalizersRemaining"),
            &["True SomeFinalizersRemain Some content in the namespace has finalizers remaining: ", "example.com/hold in "],
        );
        let content = "False ContentDeleted All content successfully deleted, may be waiting on finalization";
        assert_eq!(condition(kubectl, "NamespaceDeletionContentFailure"), content);
        let others = kubectl
            .ok("get configmap/settings networkpolicy/closed secret/held -n shop -o jsonpath={.items[*].metadata.deletionTimestamp}");
        assert_eq!(others, "", "nothing else has begun to go");
        assert_eq!(kubectl.ok("get namespace shop -o jsonpath={.status.phase}"), "Terminating");
        let late = kubectl.fails(1, "create configmap late -n shop");
        holds(&late, &["is forbidden", "because it is being terminated"]);

        kubectl.release("pod/held -n shop");
        kubectl.ok("wait secret/held -n shop --for=jsonpath={.metadata.deletionTimestamp} --timeout=60s");
        kubectl.knarr.eventually("only what is held is left", |_| {
            condition(kubectl, "NamespaceContentRemaining")
                == "True SomeResourcesRemain Some resources are remaining: secrets. has 1 resource instances"
        });
        let finalizers =
            "True SomeFinalizersRemain Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
        assert_eq!(condition(kubectl, "NamespaceFinalizersRemaining"), finalizers);
        kubectl.release("secret/held -n shop");
        kubectl.ok("wait namespace/shop --for=delete --timeout=60s");
    });
}

#[test]
fn a_namespace_says_what_may_not_be_deleted() {
    cluster(|kubectl| {
        kubectl.apply(
            r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: keep}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [DELETE], resources: [configmaps]}]
  validations: [{expression: "oldObject.metadata.name != 'kept'", message: it is needed}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: keep}
spec: {policyName: keep, validationActions: [Deny]}
"#,
        );
        kubectl.ok("create namespace shop");
        kubectl.ok("create configmap kept -n shop");
        kubectl.knarr.eventually("the policy is in force", |knarr| {
            !knarr.kubectl(&["delete", "configmap", "kept", "-n", "shop", "--dry-run=server"]).status.success()
        });
        kubectl.ok("delete namespace shop --wait=false");
        kubectl.knarr.eventually("it says what was refused", |_| condition(kubectl, "NamespaceDeletionContentFailure").starts_with("True"));
        holds(
            &condition(kubectl, "NamespaceDeletionContentFailure"),
            &[
                "True ContentDeletionFailed Failed to delete all resource types, 1 remaining: ",
                "configmaps \"kept\" is forbidden",
                "it is needed",
            ],
        );
        kubectl.ok("delete validatingadmissionpolicybinding keep");
        kubectl.ok("wait namespace/shop --for=delete --timeout=60s");
    });
}
