//! Deletion: graceful and forced, and what becomes of those that an object owns.

use super::{cluster, holds};

/// A process that does not heed SIGTERM.
const STUBBORN: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 1000
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "trap '' TERM; while true; do sleep 1; done"]
"#;

#[test]
fn a_pod_is_given_its_time_unless_forced() {
    cluster(|kubectl| {
        // It says good-bye and ends by itself, long before its time is over.
        kubectl.pod("polite", "trap \"exit 0\" TERM; while true; do sleep 0.1; done");
        assert_eq!(kubectl.ok("delete pod polite --timeout=20s"), "pod \"polite\" deleted\n");
        assert_eq!(kubectl.ok("get pods -o name"), "");

        kubectl.apply(STUBBORN);
        kubectl.ok("wait pod/stubborn --for=condition=Ready --timeout=60s");
        kubectl.ok("delete pod stubborn --wait=false");
        let deletion = "get pod stubborn -o jsonpath={.metadata.deletionGracePeriodSeconds}";
        assert_eq!(kubectl.ok(deletion), "1000");
        // Less time may be given later, never more.
        assert_eq!(kubectl.ok("delete pod stubborn --grace-period=1 --timeout=60s"), "pod \"stubborn\" deleted\n");

        kubectl.apply(STUBBORN);
        kubectl.ok("wait pod/stubborn --for=condition=Ready --timeout=60s");
        assert_eq!(kubectl.ok("delete pod stubborn --force --timeout=60s"), "pod \"stubborn\" force deleted\n");
        assert_eq!(kubectl.fails(1, "get pod stubborn"), "Error from server (NotFound): pods \"stubborn\" not found\n");

        assert_eq!(kubectl.fails(1, "delete pod nosuch"), "Error from server (NotFound): pods \"nosuch\" not found\n");
        assert_eq!(kubectl.ok("delete pod nosuch --ignore-not-found"), "");
    });
}

#[test]
fn owners_take_those_they_own_with_them_or_leave_them() {
    cluster(|kubectl| {
        let left = || kubectl.ok("get deployments,replicasets,pods -l app=web -o name");
        kubectl.web();
        assert_eq!(kubectl.ok("delete deployment web --cascade=foreground --timeout=60s"), "deployment.apps \"web\" deleted\n");
        assert_eq!(left(), "", "a foreground deletion ends after all that it owns");

        kubectl.web();
        kubectl.ok("delete deployment web --cascade=background --timeout=60s");
        kubectl.knarr.eventually("those it owned follow", |_| left().is_empty());

        kubectl.web();
        kubectl.ok("delete deployment web --cascade=orphan --timeout=60s");
        assert_eq!(left().matches("replicaset.apps/").count(), 1);
        assert_eq!(kubectl.ok("get replicaset -l app=web -o jsonpath={.items[*].metadata.ownerReferences}"), "");
        kubectl.ok("delete replicaset -l app=web --cascade=orphan --timeout=60s");
        assert_eq!(left().matches("pod/").count(), 2, "the pods run on without an owner");
        assert_eq!(kubectl.ok("delete pods --all --timeout=60s").lines().count(), 2);
    });
}

#[test]
fn a_namespace_goes_with_all_that_is_in_it() {
    cluster(|kubectl| {
        kubectl.ok("create namespace shop");
        holds(&kubectl.fails(1, "create namespace shop"), &["namespaces \"shop\" already exists"]);
        kubectl.ok("run busy -n shop --image=busybox:1 -- sh -c 'trap exit TERM; while true; do sleep 0.1; done'");
        kubectl.ok("create configmap settings -n shop --from-literal=a=1");
        kubectl.ok("wait pod/busy -n shop --for=condition=Ready --timeout=60s");
        assert_eq!(kubectl.ok("delete namespace shop --timeout=60s"), "namespace \"shop\" deleted\n");
        assert_eq!(kubectl.ok("get pods,configmaps -n shop -o name"), "");
        kubectl.ok("create namespace shop");
        kubectl.knarr.eventually("a new namespace starts afresh", |_| {
            kubectl.ok("get serviceaccounts,configmaps -n shop -o name") == "serviceaccount/default\nconfigmap/kube-root-ca.crt\n"
        });
    });
}
