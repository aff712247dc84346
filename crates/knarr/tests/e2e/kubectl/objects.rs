//! Creating, reading, changing.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use super::{WEB, cluster, holds, rows, text};

#[test]
fn what_is_applied_is_created_then_configured_then_unchanged() {
    cluster(|kubectl| {
        let settings = |colour: &str| {
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings}}\ndata: {{colour: {colour}, size: '1'}}\n")
        };
        assert_eq!(kubectl.apply(&settings("blue")), "configmap/settings created\n");
        assert_eq!(kubectl.apply(&settings("blue")), "configmap/settings unchanged\n");
        assert_eq!(kubectl.apply(&settings("red")), "configmap/settings configured\n");
        let dry = kubectl.fed("apply --dry-run=server -f -", settings("green").as_bytes());
        assert_eq!(dry, "configmap/settings configured (server dry run)\n");
        assert_eq!(kubectl.ok("get cm settings -o jsonpath={.data.colour}"), "red");
        let without = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red}\n";
        kubectl.apply(without);
        assert_eq!(kubectl.ok("get cm settings -o jsonpath={.data}"), r#"{"colour":"red"}"#);
        holds(&kubectl.ok("apply view-last-applied cm/settings"), &["data:", "colour: red"]);

        let changed = kubectl.file("green.yaml", &settings("green"));
        let difference = kubectl.output(&format!("diff -f {changed}"));
        assert_eq!(difference.status.code(), Some(1), "1 says that there is a difference");
        holds(&text(&difference.stdout), &["-  colour: red", "+  colour: green"]);
        kubectl.apply(&settings("green"));
        assert_eq!(kubectl.ok(&format!("diff -f {changed}")), "");

        let unknown = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd}\ndat: {}\n";
        let odd = kubectl.file("odd.yaml", unknown);
        holds(&kubectl.fails(1, &format!("create -f {odd}")), &["strict decoding error: unknown field \"dat\""]);
        kubectl.ok(&format!("create -f {odd} --validate=ignore"));
    });
}

#[test]
fn server_side_apply_names_who_owns_what() {
    cluster(|kubectl| {
        let web = kubectl.file("web.yaml", WEB);
        let applied = "deployment.apps/web serverside-applied\nservice/web serverside-applied\n";
        assert_eq!(kubectl.ok(&format!("apply --server-side -f {web}")), applied);
        kubectl.ok("scale deployment web --replicas=3");
        let conflict = kubectl.fails(1, &format!("apply --server-side -f {web}"));
        holds(&conflict, &["Apply failed with 1 conflict: conflict with \"kubectl\"", ": .spec.replicas"]);
        kubectl.ok(&format!("apply --server-side --force-conflicts -f {web}"));
        assert_eq!(kubectl.ok("get deployment web -o jsonpath={.spec.replicas}"), "2");
        // The second manager shares what it wishes alike, and is refused where it wishes otherwise.
        kubectl.ok(&format!("apply --server-side --field-manager=second -f {web}"));
        let other = kubectl.file("other.yaml", &WEB.replace("busybox:1", "busybox:2"));
        let conflict = kubectl.fails(1, &format!("apply --server-side --field-manager=second -f {other}"));
        holds(&conflict, &["conflict with \"kubectl\": .spec.template.spec.containers[name=\"web\"].image"]);
        let managers = kubectl.ok("get deployment web --show-managed-fields -o jsonpath={.metadata.managedFields[*].manager}");
        assert!(managers.split(' ').any(|manager| manager == "second"), "{managers}");
    });
}

#[test]
fn every_way_of_reading() {
    cluster(|kubectl| {
        kubectl.web();
        let wide = kubectl.ok("get pods -o wide");
        holds(&wide, &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
        for row in rows(&wide) {
            assert_eq!((row[1], row[2], row[3], row[6]), ("1/1", "Running", "0", "node-1"), "{wide}");
        }
        assert_eq!(rows(&kubectl.ok("get deployment -o wide"))[0][5..], ["web", "busybox:1", "app=web"]);
        let columns = "get deployment web -o custom-columns=NAME:.metadata.name,WISHED:.spec.replicas";
        assert_eq!(kubectl.ok(columns), "NAME   WISHED\nweb    2\n");
        let json: serde_json::Value = serde_json::from_str(&kubectl.ok("get service web -o json")).unwrap();
        assert_eq!((json["kind"].as_str(), json["spec"]["ports"][0]["port"].as_i64()), (Some("Service"), Some(80)));
        holds(&kubectl.ok("get service web -o yaml"), &["apiVersion: v1", "kind: Service", "  - port: 80", "    targetPort: http"]);
        assert_eq!(kubectl.ok("get deployment -o jsonpath={.items[*].spec.template.spec.containers[*].image}"), "busybox:1");
        assert_eq!(kubectl.ok("get deployment -o go-template={{range.items}}{{.metadata.name}}{{end}}"), "web");
        let all = kubectl.ok("get all -o name");
        holds(&all, &["pod/web-", "pod/web-", "service/kubernetes", "service/web", "deployment.apps/web", "replicaset.apps/web-"]);
        assert_eq!(kubectl.ok("get pods -l 'app in (web,x),!y' -o name").lines().count(), 2);
        assert_eq!(kubectl.ok("get pods --chunk-size=1 -o name").lines().count(), 2);
        assert_eq!(kubectl.ok("get pods --field-selector=status.phase!=Running -o name"), "");
        holds(&kubectl.fails(1, "get pods --field-selector=colour=red"), &["field label not supported: colour"]);
        assert_eq!(rows(&kubectl.ok("get deployment web --subresource=scale"))[0][..3], ["web", "2", "2"]);
        assert_eq!(kubectl.fails(1, "get pod nosuch"), "Error from server (NotFound): pods \"nosuch\" not found\n");
        assert_eq!(kubectl.fails(1, "get colours"), "error: the server doesn't have a resource type \"colours\"\n");
    });
}

#[test]
fn a_watch_shows_each_change() {
    cluster(|kubectl| {
        kubectl.ok("create configmap settings --from-literal=a=1");
        let mut watch = kubectl
            .start(r#"get configmap settings --watch --output-watch-events --request-timeout=60s -o jsonpath={.type}{.object.data}{"\n"}"#);
        let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut next = || lines.next().expect("an event before the request times out");
        assert_eq!(next(), r#"ADDED{"a":"1"}"#);
        kubectl.ok(r#"patch configmap settings -p {"data":{"a":"2"}}"#);
        assert_eq!(next(), r#"MODIFIED{"a":"2"}"#);
        kubectl.ok("delete configmap settings");
        assert_eq!(next(), r#"DELETED{"a":"2"}"#);
    });
}

#[test]
fn objects_describe_themselves() {
    cluster(|kubectl| {
        kubectl.web();
        let deployment = ["Replicas:               2 desired | 2 updated | 2 total | 2 available | 0 unavailable", "Image:      busybox:1"];
        holds(&kubectl.ok("describe deployment web"), &deployment);
        holds(&kubectl.ok("describe deployment web"), &["NewReplicaSet:   web-", "ScalingReplicaSet", "Scaled up replica set web-"]);
        let service = kubectl.ok("describe service web");
        holds(&service, &["Selector:                 app=web", "TargetPort:               http/TCP", "Endpoints:", ":8080,", ":8080"]);
        let pods = kubectl.ok("describe pod -l app=web");
        holds(&pods, &["Node:             node-1/", "Controlled By:  ReplicaSet/web-", "Container ID:  knarr://", "Ready:          True"]);
        holds(&pods, &["Events:", "Scheduled", "Pulled", "Created", "Started"]);
        let node = kubectl.ok("describe node node-1");
        holds(&node, &["Ready            True", "KubeletReady", "Non-terminated Pods:", "(2 in total)", "Allocated resources:"]);
        for (kind, parts) in [
            ("namespace default", &["Status:       Active", "No resource quota."][..]),
            ("replicaset", &["Controlled By:  Deployment/web", "2 Running / 0 Waiting"]),
            ("endpoints web", &["NotReadyAddresses:  <none>"]),
            ("endpointslice -l kubernetes.io/service-name=web", &["AddressType:  IPv4", "TargetRef:  Pod/web-"]),
            ("configmap kube-root-ca.crt", &["-----BEGIN CERTIFICATE-----"]),
            ("serviceaccount default", &["Name:                default"]),
            ("clusterrole view", &["PolicyRule:"]),
            ("lease node-1 -n kube-node-lease", &["Holder Identity:         node-1"]),
            ("priorityclass system-node-critical", &["Value:             2000001000"]),
        ] {
            holds(&kubectl.ok(&format!("describe {kind}")), parts);
        }
    });
}

#[test]
fn an_editor_a_patch_of_each_kind_labels_and_annotations_change_an_object() {
    cluster(|kubectl| {
        kubectl.ok("create configmap settings --from-literal=a=1");
        let data = || kubectl.ok("get configmap settings -o jsonpath={.data}");
        let editor = kubectl.file("editor.sh", "sed -i 's/a: \"1\"/a: edited/' \"$1\"\n");
        let edit = |editor: &str| {
            let mut command = kubectl.knarr.kubectl_command(&["edit", "configmap", "settings"]);
            let output = command.env("KUBE_EDITOR", editor).stdin(Stdio::null()).output().unwrap();
            text(&output.stdout) + &text(&output.stderr)
        };
        assert_eq!(edit(&format!("sh {editor}")), "configmap/settings edited\n");
        assert_eq!(data(), r#"{"a":"edited"}"#);
        assert_eq!(edit("true"), "Edit cancelled, no changes made.\n");

        kubectl.ok(r#"patch configmap settings -p {"data":{"b":"2"}}"#);
        kubectl.ok(r#"patch configmap settings --type=merge -p {"data":{"a":null}}"#);
        kubectl.ok(r#"patch configmap settings --type=json -p [{"op":"move","from":"/data/b","path":"/data/c"}]"#);
        assert_eq!(data(), r#"{"c":"2"}"#);
        let refused = kubectl.fails(1, r#"patch configmap settings --type=json -p [{"op":"remove","path":"/data/nosuch"}]"#);
        holds(&refused, &["the server rejected our request due to an error in our request"]);

        kubectl.ok("label configmap settings tier=web");
        holds(&kubectl.fails(1, "label configmap settings tier=db"), &["'tier' already has a value (web), and --overwrite is false"]);
        kubectl.ok("label configmap settings tier=db --overwrite");
        assert_eq!(kubectl.ok("get configmap -l tier=db -o name"), "configmap/settings\n");
        kubectl.ok("annotate configmap settings note=1");
        kubectl.ok("label configmap settings tier-");
        kubectl.ok("annotate configmap settings note-");
        // Nothing is left of the last label: not even an empty map.
        assert_eq!(kubectl.ok("get configmap settings -o jsonpath={.metadata.labels}{.metadata.annotations}"), "");

        let file = kubectl.file("new.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {d: '4'}\n");
        assert_eq!(kubectl.ok(&format!("replace -f {file}")), "configmap/settings replaced\n");
        assert_eq!(data(), r#"{"d":"4"}"#);
        let replaced = kubectl.ok(&format!("replace --force -f {file}"));
        assert_eq!(replaced, "configmap \"settings\" deleted\nconfigmap/settings replaced\n");
    });
}
