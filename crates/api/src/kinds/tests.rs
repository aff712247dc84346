//! Defaults and validation of the rows, through the registry as the server uses them.

use serde_json::{Value, json};

use super::Kinds;
use crate::kind::Kind;
use crate::object::Object;

mod allocation;
mod core;
mod devices;
mod document;
mod groups;
mod registration;
mod rule_costs;
mod system;
mod words;

fn kind(resource: &str) -> std::sync::Arc<Kind> {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    Kinds::builtin().resource(group, "v1", resource).unwrap_or_else(|| panic!("no {resource}.{group}"))
}

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

/// A pod with one container and more in its spec.
fn pod(spec: Value) -> Object {
    let mut pod = object(json!({
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }));
    for (key, value) in spec.as_object().unwrap() {
        pod.set(&["spec", key], value.clone());
    }
    pod
}

fn deployment(spec: Value) -> Object {
    let mut deployment = object(json!({
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {
            "selector": {"matchLabels": {"app": "x"}},
            "template": {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    }));
    for (key, value) in spec.as_object().unwrap() {
        deployment.set(&["spec", key], value.clone());
    }
    deployment
}

fn service(spec: Value) -> Object {
    object(json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec}))
}

/// Defaulted, then all faults; each must begin as expected.
#[track_caller]
fn faults(resource: &str, mut object: Object, expected: &[&str]) {
    let kind = kind(resource);
    kind.default(&mut object);
    let errors: Vec<String> = kind.validate(&object).iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}\nshould begin with\n{expected}");
    }
}

/// The faults of a change.
#[track_caller]
fn change(resource: &str, mut old: Object, mut new: Object, expected: &[&str]) {
    let kind = kind(resource);
    kind.default(&mut old);
    kind.default(&mut new);
    kind.prepare_update(&mut new, &old, "");
    let errors: Vec<String> = kind.validate_update(&new, &old, "").iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}\nshould begin with\n{expected}");
    }
}

#[test]
fn every_row_has_its_schema_and_its_own_place() {
    let kinds = Kinds::builtin();
    assert!(kinds.iter().count() > 35);
    for kind in kinds.iter() {
        assert!(kind.message.is_some(), "{kind:?}");
        assert_eq!(kinds.by_kind(&kind.group, &kind.version, &kind.kind).unwrap().resource, kind.resource);
        let known = kind.subresources.iter().all(|sub| !sub.kind.is_empty() && !sub.version.is_empty());
        assert!(known, "{kind:?}");
    }
}

#[test]
fn every_hook_bears_an_empty_object() {
    for kind in Kinds::builtin().iter() {
        for value in [json!({}), json!({"spec": null}), json!({"spec": [], "metadata": 1, "status": "x"})] {
            let mut new = object(value);
            let old = new.clone();
            kind.default(&mut new);
            kind.prepare_create(&mut new);
            kind.prepare_update(&mut new, &old, "");
            kind.prepare_update(&mut new, &old, "status");
            let _ = (kind.validate(&new), kind.validate_update(&new, &old, ""), kind.warn(&new, None), kind.warn(&new, Some(&old)));
        }
    }
}

#[test]
fn defaults_are_upstreams() {
    let default = |resource: &str, mut object: Object| {
        kind(resource).default(&mut object);
        object
    };
    let pod = default(
        "pods",
        pod(json!({"containers": [{
        "name": "c", "image": "nginx:1.25", "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
        "resources": {"limits": {"cpu": "1"}},
    }], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}}]})),
    );
    assert_eq!(
        pod.get(&["spec"]).unwrap(),
        &json!({
            "containers": [{
                "name": "c", "image": "nginx:1.25", "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}, {"name": "h", "hostPath": {"path": "/", "type": ""}}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler", "enableServiceLinks": true,
        })
    );
    let deployment = default("deployments.apps", deployment(json!({})));
    assert_eq!(
        deployment.get(&["spec", "strategy"]),
        Some(&json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}))
    );
    assert_eq!(deployment.int(&["spec", "replicas"]), Some(1));
    assert_eq!(deployment.str(&["spec", "template", "spec", "restartPolicy"]), "Always");
    assert_eq!(deployment.get(&["spec", "template", "spec", "enableServiceLinks"]), None);
    let service = default("services", service(json!({"ports": [{"port": 80}]})));
    assert_eq!(
        service.get(&["spec"]),
        Some(
            &json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"})
        )
    );
    let secret = default("secrets", object(json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}})));
    assert_eq!(secret.into_value(), json!({"data": {"a": "Yg==", "c": "ZA=="}, "type": "Opaque"}));
    let namespace = default("namespaces", object(json!({"metadata": {"name": "x"}})));
    assert_eq!(namespace.label("kubernetes.io/metadata.name"), Some("x"));
}

#[test]
fn images_are_pulled_by_their_tag() {
    for (image, expected) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1", "IfNotPresent"),
        ("reg:5000/nginx", "Always"),
        ("reg:5000/a/nginx:1", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
    ] {
        let mut pod = pod(json!({"containers": [{"name": "c", "image": image}]}));
        kind("pods").default(&mut pod);
        assert_eq!(pod.list(&["spec", "containers"])[0]["imagePullPolicy"], expected, "{image}");
    }
}

#[test]
fn pods_have_their_rules() {
    faults("pods", pod(json!({})), &[]);
    faults("pods", pod(json!({"containers": []})), &["spec.containers: Required value"]);
    let container = |more: Value| {
        let mut container = json!({"name": "c", "image": "i"});
        for (key, value) in more.as_object().unwrap() {
            container[key] = value.clone();
        }
        pod(json!({"containers": [container], "volumes": [{"name": "v"}]}))
    };
    for (more, expected) in [
        (json!({"name": ""}), "spec.containers[0].name: Required value"),
        (json!({"name": "A"}), "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label"),
        (json!({"image": ""}), "spec.containers[0].image: Required value"),
        (json!({"image": " i"}), "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace"),
        (json!({"ports": [{"containerPort": 0}]}), "spec.containers[0].ports[0].containerPort: Required value"),
        (json!({"ports": [{"containerPort": 80, "hostPort": 99999}]}), "spec.containers[0].ports[0].hostPort: Invalid value: 99999"),
        (json!({"env": [{"name": "a=b"}]}), "spec.containers[0].env[0].name: Invalid value: \"a=b\""),
        (json!({"env": [{"name": "a", "valueFrom": {}}]}), "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of"),
        (
            json!({"env": [{"name": "a", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            json!({"env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"x\"",
        ),
        (json!({"volumeMounts": [{"name": "w", "mountPath": "/"}]}), "spec.containers[0].volumeMounts[0].name: Not found: \"w\""),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/x"}]}),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../y"}]}),
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../y\": must not contain '..'",
        ),
        (
            json!({"imagePullPolicy": "X"}),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"X\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"resources": {"limits": {"cpu": "-1"}, "requests": {"cpu": "-1"}}}),
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"resources": {"limits": {"gpu": "1"}, "requests": {}}}),
            "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\"",
        ),
        (json!({"livenessProbe": {}}), "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (json!({"readinessProbe": {"httpGet": {"port": 0}}}), "spec.containers[0].readinessProbe.httpGet.port: Invalid value: 0"),
    ] {
        let errors = {
            let kind = kind("pods");
            let mut pod = container(more.clone());
            kind.default(&mut pod);
            kind.validate(&pod)
        };
        assert!(errors.iter().any(|error| error.to_string().starts_with(expected)), "{more}: {errors:#?}");
    }
    for (spec, expected) in [
        (json!({"restartPolicy": "X"}), "spec.restartPolicy: Unsupported value"),
        (json!({"volumes": [{"name": "v"}, {"name": "v"}]}), "spec.volumes[1].name: Duplicate value: \"v\""),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]}),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (json!({"initContainers": [{"name": "c", "image": "i"}]}), "spec.initContainers[0].name: Duplicate value: \"c\""),
        (
            json!({"initContainers": [{"name": "d", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
            "spec.initContainers[0].readinessProbe: Forbidden",
        ),
        (json!({"dnsPolicy": "None"}), "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"),
        (
            json!({"tolerations": [{"operator": "Equal"}]}),
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists",
        ),
        (json!({"nodeSelector": {"a": "-"}}), "spec.nodeSelector: Invalid value: \"-\""),
    ] {
        faults("pods", pod(spec), &[expected]);
    }
}

#[test]
fn pods_hardly_change() {
    let image = |image: &str| pod(json!({"containers": [{"name": "c", "image": image}]}));
    change("pods", image("a:1"), image("b:1"), &[]);
    change(
        "pods",
        image("a:1"),
        pod(json!({"containers": [{"name": "d", "image": "a:1"}]})),
        &["spec: Forbidden: pod updates may not change fields other than"],
    );
    change("pods", pod(json!({})), pod(json!({"nodeName": "n"})), &["spec: Forbidden"]);
    let two = json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]);
    change(
        "pods",
        pod(json!({})),
        pod(json!({"containers": two})),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    let tolerant = json!({"tolerations": [{"key": "a", "operator": "Exists"}]});
    change("pods", pod(json!({})), pod(tolerant.clone()), &[]);
    change("pods", pod(tolerant), pod(json!({})), &["spec.tolerations: Forbidden"]);
    change(
        "pods",
        pod(json!({"activeDeadlineSeconds": 5})),
        pod(json!({"activeDeadlineSeconds": 9})),
        &["spec.activeDeadlineSeconds: Invalid value: 9"],
    );
}

#[test]
fn workloads_have_their_rules() {
    faults("deployments.apps", deployment(json!({})), &[]);
    for (spec, expected) in [
        (json!({"replicas": -1}), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (
            json!({"selector": {"matchLabels": {"app": "y"}}}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`",
        ),
        (json!({"selector": {}}), "spec.selector: Invalid value: {}: empty selector is invalid for deployment"),
        (json!({"selector": null}), "spec.selector: Required value"),
        (
            json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (json!({"minReadySeconds": 600}), "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"),
    ] {
        let mut object = deployment(spec.clone());
        if spec.get("selector") == Some(&Value::Null) {
            object.remove(&["spec", "selector"]);
        }
        faults("deployments.apps", object, &[expected]);
    }
    change(
        "deployments.apps",
        deployment(json!({})),
        deployment(json!({"selector": {"matchLabels": {}, "matchExpressions": [{"key": "app", "operator": "Exists"}]}})),
        &["spec.selector: Invalid value: {\"matchExpressions\""],
    );
    let set = |more: Value| {
        let mut object = deployment(json!({"serviceName": "s"}));
        for (key, value) in more.as_object().unwrap() {
            object.set(&["spec", key], value.clone());
        }
        object
    };
    change("statefulsets.apps", set(json!({})), set(json!({"replicas": 3})), &[]);
    change("statefulsets.apps", set(json!({})), set(json!({"serviceName": "t"})), &["spec: Forbidden: updates to statefulset spec"]);
}

#[test]
fn services_have_their_rules() {
    faults("services", service(json!({"ports": [{"port": 80}]})), &[]);
    faults("services", service(json!({"clusterIP": "None"})), &[]);
    for (spec, expected) in [
        (json!({}), "spec.ports: Required value"),
        (json!({"ports": [{"port": 0}]}), "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        (
            json!({"ports": [{"port": 1, "nodePort": 30000}]}),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (json!({"ports": [{"port": 1}], "type": "X"}), "spec.type: Unsupported value: \"X\""),
        (json!({"ports": [{"port": 1, "name": "a"}, {"port": 2}]}), "spec.ports[1].name: Required value"),
        (json!({"ports": [{"port": 1}], "clusterIP": "x"}), "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address"),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
    ] {
        let kind = kind("services");
        let mut object = service(spec.clone());
        kind.default(&mut object);
        let errors = kind.validate(&object);
        assert!(errors.iter().any(|error| error.to_string().starts_with(expected)), "{spec}: {errors:#?}");
    }
    let at = |ip: &str| service(json!({"ports": [{"port": 80}], "clusterIP": ip, "clusterIPs": [ip]}));
    change("services", at("10.0.0.1"), at("10.0.0.2"), &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]);
    // What the client did not send is kept.
    change("services", at("10.0.0.1"), service(json!({"ports": [{"port": 81}]})), &[]);
}

#[test]
fn small_kinds_have_their_rules() {
    let meta = json!({"name": "a", "namespace": "b"});
    for (resource, body, expected) in [
        ("configmaps", json!({"data": {"a/b": ""}}), "data[a/b]: Invalid value"),
        ("secrets", json!({"type": "kubernetes.io/tls"}), "data[tls.crt]: Required value"),
        (
            "roles.rbac.authorization.k8s.io",
            json!({"rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            "roles.rbac.authorization.k8s.io",
            json!({"rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ),
        (
            "rolebindings.rbac.authorization.k8s.io",
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "X", "name": "n"}]}),
            "subjects[0].kind: Unsupported value: \"X\"",
        ),
        (
            "leases.coordination.k8s.io",
            json!({"spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            "endpointslices.discovery.k8s.io",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]}),
            "endpoints[0].addresses[0]: Invalid value: \"::1\"",
        ),
        (
            "endpointslices.discovery.k8s.io",
            json!({"addressType": "IPv6", "endpoints": [{"addresses": ["ff02::1"]}]}),
            "endpoints[0].addresses[0]: Invalid value: \"ff02::1\": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
        (
            "endpoints",
            json!({"subsets": [{"notReadyAddresses": [{"ip": "127.0.0.1"}]}]}),
            "subsets[0].notReadyAddresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            "networkpolicies.networking.k8s.io",
            json!({"spec": {"ingress": [{"from": [{}]}]}}),
            "spec.ingress[0].from[0]: Required value: must specify a peer",
        ),
        (
            "ingresses.networking.k8s.io",
            json!({"spec": {}}),
            "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified",
        ),
        ("poddisruptionbudgets.policy", json!({"spec": {"minAvailable": 1, "maxUnavailable": 1}}), "spec: Invalid value"),
        ("persistentvolumeclaims", json!({"spec": {}}), "spec.accessModes: Required value: at least 1 access mode is required"),
        (
            "limitranges",
            json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than",
        ),
    ] {
        let kind = kind(resource);
        let mut object = object(body.clone());
        object.set(&["metadata"], meta.clone());
        kind.default(&mut object);
        let errors = kind.validate(&object);
        assert!(errors.iter().any(|error| error.to_string().starts_with(expected)), "{resource} {body}: {errors:#?}");
    }
}

#[test]
fn spec_and_status_are_kept_apart_and_generations_counted() {
    let kind = kind("deployments.apps");
    let mut old = deployment(json!({"replicas": 1}));
    old.set(&["status", "replicas"], 1.into());
    old.set(&["metadata", "generation"], 4.into());
    let mut new = old.clone();
    new.set(&["spec", "replicas"], 2.into());
    new.set(&["status", "replicas"], 9.into());
    new.set(&["metadata", "generation"], 77.into());
    let mut main = new.clone();
    kind.prepare_update(&mut main, &old, "");
    assert_eq!((main.int(&["spec", "replicas"]), main.int(&["status", "replicas"]), main.generation()), (Some(2), Some(1), 5));
    let mut status = new.clone();
    status.set(&["metadata", "labels", "x"], "y".into());
    kind.prepare_update(&mut status, &old, "status");
    assert_eq!((status.int(&["spec", "replicas"]), status.int(&["status", "replicas"]), status.generation()), (Some(1), Some(9), 4));
    assert_eq!(status.label("x"), None);
    let mut created = new;
    kind.prepare_create(&mut created);
    assert_eq!((created.get(&["status"]), created.generation()), (Some(&json!({})), 1));
    let mut set = deployment(json!({}));
    Kinds::builtin().resource("apps", "v1", "replicasets").unwrap().prepare_create(&mut set);
    assert_eq!(set.get(&["status"]), Some(&json!({"replicas": 0})));
}

#[test]
fn a_node_registers_with_its_status_and_a_pod_without() {
    let mut node = object(json!({"metadata": {"name": "n"}, "status": {"capacity": {"cpu": "1"}}}));
    kind("nodes").prepare_create(&mut node);
    assert_eq!(node.str(&["status", "capacity", "cpu"]), "1");
    let mut pod = pod(json!({}));
    pod.set(&["status", "phase"], "Running".into());
    kind("pods").prepare_create(&mut pod);
    assert_eq!(pod.get(&["status"]), Some(&json!({"phase": "Pending", "qosClass": "BestEffort"})));
    let mut status = pod.clone();
    status.set(&["status"], json!({"phase": "Running"}));
    kind("pods").prepare_update(&mut status, &pod, "status");
    assert_eq!(status.get(&["status"]), Some(&json!({"phase": "Running", "qosClass": "BestEffort"})));
}
