//! What the server says about itself.

use super::{cluster, holds, rows};

#[test]
fn the_api_explains_itself() {
    cluster(|kubectl| {
        let resources = kubectl.ok("api-resources");
        for row in [["pods", "po", "v1", "true", "Pod"], ["deployments", "deploy", "apps/v1", "true", "Deployment"]] {
            assert!(rows(&resources).iter().any(|found| found[..] == row), "{row:?} in {resources}");
        }
        let wide = kubectl.ok("api-resources --api-group=apps --namespaced --verbs=list,watch -o wide");
        holds(&wide, &["deployments", "create,delete,deletecollection,get,list,patch,update,watch", "all"]);
        let versions = kubectl.ok("api-versions");
        assert!(["v1", "apps/v1", "rbac.authorization.k8s.io/v1"].iter().all(|wanted| versions.lines().any(|line| line == *wanted)));
        let image = kubectl.ok("explain pod.spec.containers.image");
        holds(&image, &["KIND:       Pod", "VERSION:    v1", "FIELD: image <string>", "Container image name."]);
        holds(&kubectl.ok("explain deployments"), &["GROUP:      apps", "FIELDS:", "spec\t<DeploymentSpec>"]);
        holds(&kubectl.ok("explain service --recursive"), &["ports\t<[]ServicePort>", "nodePort\t<integer>"]);
        holds(&kubectl.fails(1, "explain pod.spec.nosuch"), &["field \"nosuch\" does not exist"]);
    });
}

#[test]
fn the_cluster_introduces_itself() {
    cluster(|kubectl| {
        holds(&kubectl.ok("cluster-info"), &["Kubernetes control plane", " is running at ", "https://127.0.0.1:6443"]);
        kubectl.pod("box", "echo said; exec sleep 1000");
        let dump = kubectl.ok("cluster-info dump");
        holds(&dump, &["\"kind\": \"NodeList\"", "logs for container box of pod default/box", "said"]);
        holds(&kubectl.ok("version -o json"), &["\"serverVersion\"", "\"gitVersion\": \"v1.37."]);
        let node = kubectl.ok("get node node-1 -o jsonpath={.status.nodeInfo.kubeletVersion}");
        holds(&kubectl.ok("version -o json"), &[&format!("\"gitVersion\": \"{node}\"")]);
        assert_eq!(kubectl.ok("get --raw /healthz"), "ok");
        holds(&kubectl.ok("get --raw /readyz?verbose"), &["[+]ping ok", "readyz check passed"]);
        holds(&kubectl.ok("config view"), &["server: https://127.0.0.1:6443", "client-key-data: DATA+OMITTED"]);
        assert_eq!(kubectl.ok("config current-context"), "knarr\n");
        let context = kubectl.ok("config get-contexts --no-headers");
        assert_eq!(context.split_whitespace().collect::<Vec<_>>(), ["*", "knarr", "knarr", "kubernetes-admin"]);
        kubectl.ok("config set-context --current --namespace=kube-system");
        assert_eq!(kubectl.ok("get pods -o name"), "");
    });
}
