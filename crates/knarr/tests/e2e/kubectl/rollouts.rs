//! Deployments: images, scale, and the history of both.

use super::{cluster, holds, rows, text, words};

#[test]
fn a_deployment_rolls_forward_and_back() {
    cluster(|kubectl| {
        kubectl.web();
        let image = || kubectl.ok("get pods -l app=web -o jsonpath={.items[*].spec.containers[*].image}");
        let rolled = || holds(&kubectl.ok("rollout status deployment/web --timeout=60s"), &["deployment \"web\" successfully rolled out"]);
        assert_eq!(kubectl.ok("set image deployment/web web=busybox:2"), "deployment.apps/web image updated\n");
        rolled();
        kubectl.knarr.eventually("only pods of the second image are left", |_| image() == "busybox:2 busybox:2");
        kubectl.ok("annotate deployment web kubernetes.io/change-cause=third");
        kubectl.ok("set env deployment/web COLOUR=red");
        rolled();
        assert_eq!(kubectl.ok("set env deployment/web --list"), "# Deployment web, container web\nCOLOUR=red\n");
        let history = kubectl.ok("rollout history deployment/web");
        assert_eq!(rows(&history)[1..4], [["1", "<none>"], ["2", "third"], ["3", "third"]], "{history}");
        holds(&kubectl.ok("rollout history deployment/web --revision=1"), &["with revision #1", "Image:\tbusybox:1"]);

        assert_eq!(kubectl.ok("rollout undo deployment/web --to-revision=1"), "deployment.apps/web rolled back\n");
        rolled();
        kubectl.knarr.eventually("only pods of the first image are left", |_| image() == "busybox:1 busybox:1");
        holds(&kubectl.fails(1, "rollout undo deployment/web --to-revision=77"), &["unable to find specified revision 77 in history"]);

        kubectl.ok("rollout pause deployment/web");
        kubectl.ok("set image deployment/web web=busybox:2");
        holds(&kubectl.fails(1, "rollout undo deployment/web"), &["cannot rollback a paused deployment"]);
        assert_eq!(kubectl.ok("get deployment web -o jsonpath={.spec.paused}"), "true");
        kubectl.ok(
            "wait deployment/web --for=jsonpath={.status.conditions[?(@.type==\"Progressing\")].reason}=DeploymentPaused --timeout=60s",
        );
        assert_eq!(image(), "busybox:1 busybox:1", "a paused deployment stays as it is");
        kubectl.ok("rollout resume deployment/web");
        rolled();
        kubectl.knarr.eventually("the image that was set while it was paused", |_| image() == "busybox:2 busybox:2");

        let before = kubectl.ok("get pods -l app=web -o name");
        assert_eq!(kubectl.ok("rollout restart deployment/web"), "deployment.apps/web restarted\n");
        rolled();
        kubectl.knarr.eventually("every pod is another", |_| {
            let now = kubectl.ok("get pods -l app=web -o name");
            now.lines().count() == 2 && now.lines().all(|pod| !before.contains(pod))
        });
    });
}

#[test]
fn a_deployment_scales_and_what_is_set_reaches_its_pods() {
    cluster(|kubectl| {
        kubectl.web();
        assert_eq!(kubectl.ok("scale deployment/web --replicas=3"), "deployment.apps/web scaled\n");
        kubectl.ok("wait deployment/web --for=jsonpath={.status.readyReplicas}=3 --timeout=60s");
        assert_eq!(kubectl.fails(1, "scale deployment/web --replicas=9 --current-replicas=7"), "error: Expected replicas to be 7, was 3\n");
        kubectl.ok(r#"patch deployment web --subresource=scale --type=merge -p {"spec":{"replicas":1}}"#);
        kubectl.ok("wait deployment/web --for=jsonpath={.status.replicas}=1 --timeout=60s");
        kubectl.ok("set resources deployment/web --requests=cpu=10m --limits=memory=64Mi");
        kubectl.ok("set serviceaccount deployment/web default");
        kubectl.ok("rollout status deployment/web --timeout=60s");
        let newest = "get pods -l app=web --sort-by=.metadata.creationTimestamp -o jsonpath={.items[-1:].spec.containers[0].resources}";
        assert_eq!(kubectl.ok(newest), r#"{"limits":{"memory":"64Mi"},"requests":{"cpu":"10m","memory":"64Mi"}}"#);
        kubectl.ok("set selector service/web app=other");
        assert_eq!(kubectl.ok("get service web -o jsonpath={.spec.selector}"), r#"{"app":"other"}"#);
    });
}

#[test]
fn a_rollout_is_followed_through_a_watch_large_enough_to_be_compressed() {
    cluster(|kubectl| {
        kubectl.web();
        let patch = serde_json::json!({
            "metadata": {"annotations": {"large": "x".repeat(200_000)}},
            // What is Ready is not available yet: a rollout is still under way when kubectl looks.
            "spec": {"minReadySeconds": 2, "template": {"metadata": {"labels": {"turn": "second"}}}},
        });
        let patch = kubectl.file("patch.json", &patch.to_string());
        kubectl.ok(&format!("patch deployment web --patch-file {patch}"));
        let mut status = kubectl.knarr.kubectl_command(&words("rollout status deployment/web --timeout=60s -v=6"));
        let output = status.env("KUBE_FEATURE_WatchListClient", "true").output().unwrap();
        let (told, log) = (text(&output.stdout), text(&output.stderr));
        assert!(log.contains("sendInitialEvents=true"), "{log}");
        holds(&told, &["Waiting for deployment \"web\" rollout to finish", "successfully rolled out"]);
    });
}

#[test]
fn the_examples_apply() {
    cluster(|kubectl| {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
        let applied = kubectl.ok(&format!("apply --recursive -f {examples}"));
        assert!(applied.lines().count() > 0 && applied.lines().all(|line| line.ends_with(" created")), "{applied}");
        // kubectl calls some objects configured for which it sent a patch that changes nothing.
        let versions = || {
            let generations = kubectl.ok("get deployments -o jsonpath={.items[*].metadata.generation}");
            generations + " " + &kubectl.ok("get secrets,configmaps,services -o jsonpath={.items[*].metadata.resourceVersion}")
        };
        let before = versions();
        kubectl.ok(&format!("apply --recursive -f {examples}"));
        assert_eq!(versions(), before, "applying again changes nothing");
    });
}
