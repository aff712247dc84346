//! MutatingAdmissionPolicy over the real server.

use serde_json::{Value, json};

use crate::{
    hook::{Hook, patch},
    kit::{Answer, CONFIG_MAPS, Client, Cluster, PODS, pod},
};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const SCALERS: &str = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";

fn apply(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn json_patch(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

/// A policy about config maps unless `more` says otherwise.
fn policy(name: &str, mutations: &[Value], more: Value) -> Value {
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]);
    let mut spec = json!({"mutations": mutations, "reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": rules}});
    more.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn bind(admin: &Client, name: &str, more: Value) {
    let mut spec = json!({"policyName": name});
    more.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone());
    let binding = json!({"metadata": {"name": name}, "spec": spec});
    admin.post(&format!("{GROUP}/mutatingadmissionpolicybindings"), &binding).await.expect(201);
}

/// The policy, in force.
async fn put(admin: &Client, name: &str, mutations: &[Value], more: Value) {
    admin.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy(name, mutations, more)).await.expect(201);
    bind(admin, name, json!({})).await;
}

async fn remove(admin: &Client, name: &str) {
    for resource in ["mutatingadmissionpolicybindings", "mutatingadmissionpolicies"] {
        admin.delete(&format!("{GROUP}/{resource}/{name}")).await.expect(200);
    }
}

async fn create(admin: &Client, name: &str) -> Answer {
    admin.post(CONFIG_MAPS, &json!({"metadata": {"name": name, "labels": {"a/b": "c"}}, "data": {"key": "value"}})).await
}

#[tokio::test]
async fn a_policy_sets_what_it_says_with_the_next_request() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let mutations = [
        apply("Object{data: {'by': variables.who, 'was': object.data.key}, metadata: Object.metadata{?annotations: optional.none()}}"),
        // Each mutation is made on what the one before made.
        json_patch(
            "[JSONPatch{op: 'test', path: '/data/by', value: 'kubernetes-admin'},
              JSONPatch{op: 'replace', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'd'},
              JSONPatch{op: 'move', from: '/data/was', path: '/data/before'}]",
        ),
        // A test that does not hold is no failure.
        json_patch("[JSONPatch{op: 'add', path: '/data/never', value: ''}, JSONPatch{op: 'test', path: '/data/key', value: 'other'}]"),
    ];
    let more = json!({
        "variables": [{"name": "who", "expression": "request.userInfo.username"}],
        "matchConditions": [{"name": "not-free", "expression": "request.operation == 'DELETE' || object.metadata.name != 'free'"}],
    });
    admin.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy("p", &mutations, more)).await.expect(201);
    assert_eq!(create(&admin, "unbound").await.expect(201)["data"], json!({"key": "value"}));
    bind(&admin, "p", json!({})).await;
    let made = create(&admin, "bound").await.expect(201);
    assert_eq!(made["data"], json!({"key": "value", "by": "kubernetes-admin", "before": "value"}));
    assert_eq!(made["metadata"]["labels"], json!({"a/b": "d"}));
    assert_eq!(create(&admin, "free").await.expect(201)["data"], json!({"key": "value"}));
    admin.delete(&format!("{CONFIG_MAPS}/bound")).await.expect(200);
    remove(&admin, "p").await;
    assert_eq!(create(&admin, "bound").await.expect(201)["data"], json!({"key": "value"}));
}

#[tokio::test]
async fn lists_are_merged_by_their_keys_and_the_result_is_defaulted_and_admitted() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let rules = json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]);
    let sidecar = "Object{spec: Object.spec{
        containers: object.spec.containers.map(c, Object.spec.containers{name: c.name, imagePullPolicy: 'Always'}),
        initContainers: [Object.spec.initContainers{name: 'mesh', image: 'mesh/proxy:v1', restartPolicy: 'Always',
            ports: [Object.spec.initContainers.ports{containerPort: 80}]}],
        hostNetwork: true}}";
    put(&admin, "p", &[apply(sidecar)], json!({"matchConstraints": {"resourceRules": rules}})).await;
    let made = admin.post(PODS, &pod("a")).await.expect(201);
    let container = &made["spec"]["containers"][0];
    assert_eq!((&container["name"], &container["image"], &container["imagePullPolicy"]), (&json!("c"), &json!("i"), &json!("Always")));
    let mesh = &made["spec"]["initContainers"][0];
    assert_eq!(mesh["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]), "what was added has its defaults");
    // What admission gives to pods is given to what the policy made, and what it forbids is forbidden.
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    admin.patch("/api/v1/namespaces/default", "merge-patch", labels).await.expect(200);
    let (_, message) = admin.post(PODS, &pod("b")).await.refused(403);
    assert!(message.contains("host namespaces"), "{message}");
}

#[tokio::test]
async fn policies_come_before_webhooks_and_are_run_again_once_if_they_wish() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let append = |letter: &str| {
        json_patch(&format!("[JSONPatch{{op: 'add', path: '/data/trace', value: object.data.?trace.orValue('') + '{letter}'}}]"))
    };
    put(&admin, "a", &[append("a")], json!({"reinvocationPolicy": "IfNeeded"})).await;
    put(&admin, "b", &[append("b")], json!({})).await;
    let trace = |made: &Value| made["data"]["trace"].as_str().unwrap_or("").to_owned();
    assert_eq!(trace(&create(&admin, "one").await.expect(201)), "aba", "a is run again after b, and b is not");
    // Two that both wish to see what the other made end nevertheless.
    put(&admin, "c", &[append("c")], json!({"reinvocationPolicy": "IfNeeded"})).await;
    assert_eq!(trace(&create(&admin, "two").await.expect(201)), "abcac");
    remove(&admin, "b").await;
    remove(&admin, "c").await;
    let late = json!([{"name": "traced", "expression": "request.operation == 'CREATE' && has(object.data.trace)"}]);
    put(&admin, "0", &[append("0")], json!({"reinvocationPolicy": "IfNeeded", "matchConditions": late})).await;
    assert_eq!(trace(&create(&admin, "late").await.expect(201)), "a", "what was not run is not run again");
    remove(&admin, "0").await;
    assert_eq!(trace(&create(&admin, "three").await.expect(201)), "a", "nothing changed after a");
    let server = Hook::start(&cluster, |_, review| {
        let before = review["request"]["object"]["data"]["trace"].as_str().unwrap_or("").to_owned();
        patch(review, json!([{"op": "add", "path": "/data/trace", "value": before + "w"}]))
    })
    .await;
    let hook = json!({"name": "w.hook.example", "clientConfig": server.client_config("/w"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]});
    let hooks = json!({"metadata": {"name": "w"}, "webhooks": [hook]});
    admin.post(&format!("{GROUP}/mutatingwebhookconfigurations"), &hooks).await.expect(201);
    assert_eq!(trace(&create(&admin, "four").await.expect(201)), "awa", "the policy, the webhook, and the policy again");
}

#[tokio::test]
async fn each_parameter_is_a_run_of_its_own() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for name in ["x", "y"] {
        let params = json!({"metadata": {"name": name, "labels": {"params": "yes"}}, "data": {"letter": name}});
        admin.post(CONFIG_MAPS, &params).await.expect(201);
    }
    let mutations = [apply("Object{data: {params.data.letter: 'set'}}")];
    let kind = json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}});
    admin.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy("p", &mutations, kind)).await.expect(201);
    let selector = json!({"matchLabels": {"params": "yes"}});
    bind(&admin, "p", json!({"paramRef": {"selector": selector, "parameterNotFoundAction": "Deny"}})).await;
    assert_eq!(create(&admin, "m").await.expect(201)["data"], json!({"key": "value", "x": "set", "y": "set"}));
    for name in ["x", "y"] {
        admin.delete(&format!("{CONFIG_MAPS}/{name}")).await.expect(200);
    }
    let (reason, message) = create(&admin, "n").await.refused(403);
    assert_eq!(reason, "Forbidden");
    assert_eq!(
        message,
        "policy 'p' with binding 'p' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
}

#[tokio::test]
async fn a_mutation_that_fails_refuses_the_request_or_is_passed_over() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let pods = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]});
    for (mutation, why) in [
        (apply("Object{metadata: Object.metadata{name: object.data.none}}"), "resulted in error: no such key: data"),
        (
            apply("Object{spec: Object.metadata{}}"),
            "type mismatch: unexpected type name \"Object.metadata\", expected \"Object.spec\", which matches field name path from root Object type",
        ),
        (
            apply("Object{spec: Object.spec{tolerations: [Object.spec.tolerations{key: 'k'}]}}"),
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.tolerations",
        ),
        (apply("Object{spec: Object.spec{nothing: 1}}"), "error applying patch: failed to convert patch object to typed object: "),
        (
            apply("Object{spec: Object.spec{containers: [Object.spec.containers{image: 'x'}]}}"),
            "error applying patch: failed to convert patch object to typed object: .spec.containers: element 0: associative list",
        ),
        (apply("object.metadata.name"), "unsupported return type from ApplyConfiguration expression: string"),
        (json_patch("[JSONPatch{op: 'remove', path: '/nothing'}]"), "JSONPatch: "),
        (json_patch("[JSONPatch{op: 'add', path: '/spec/nothing', value: 1}]"), "unknown field \"spec.nothing\""),
    ] {
        for (failures, passes) in [("Fail", false), ("Ignore", true)] {
            put(&admin, "p", std::slice::from_ref(&mutation), json!({"matchConstraints": pods, "failurePolicy": failures})).await;
            let answer = admin.post(&format!("{PODS}?dryRun=All"), &pod("x")).await;
            if passes {
                answer.expect(201);
            } else {
                let (reason, message) = answer.refused(403);
                assert_eq!(reason, "Invalid");
                assert!(message.starts_with("policy 'p' with binding 'p' denied request: ") && message.contains(why), "{message}");
                assert_eq!(answer.json()["details"]["causes"][0]["message"], *message);
            }
            remove(&admin, "p").await;
        }
    }
}

#[tokio::test]
async fn another_version_of_the_same_objects_is_changed_in_that_version() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let v1 = json!({"resourceRules": [
        {"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["horizontalpodautoscalers"]}]});
    let mutation = apply("Object{spec: Object.spec{maxReplicas: object.spec.targetCPUUtilizationPercentage}}");
    put(&admin, "p", &[mutation], json!({"matchConstraints": v1})).await;
    let scaler = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let made = admin.post(SCALERS, &scaler).await.expect(201);
    assert_eq!((&made["apiVersion"], &made["spec"]["maxReplicas"]), (&json!("autoscaling/v2"), &json!(50)));
    assert_eq!(made["spec"]["metrics"], scaler["spec"]["metrics"], "nothing is lost on the way");
}

#[tokio::test]
async fn what_does_not_compile_is_refused_when_it_is_written() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for (mutation, field, why) in [
        (apply("Object{"), "applyConfiguration", "Syntax error"),
        (apply("{'data': {}}"), "applyConfiguration", "must evaluate to Object but got map(string, dyn)"),
        (apply("Object.spec{}"), "applyConfiguration", "must evaluate to Object but got Object.spec"),
        (apply("Thing{}"), "applyConfiguration", "undeclared reference to 'Thing'"),
        (apply("Object{data: params.data}"), "applyConfiguration", "undeclared reference to 'params'"),
        (apply("Object{data: variables.none}"), "applyConfiguration", "undefined field 'none'"),
        (json_patch("JSONPatch{op: 'add'}"), "jsonPatch", "must evaluate to list(JSONPatch) but got JSONPatch"),
        (json_patch("[JSONPatch{op: 1}]"), "jsonPatch", "expected type of field 'op' is 'string' but provided type is 'int'"),
        (json_patch("[JSONPatch{what: ''}]"), "jsonPatch", "undefined field 'what'"),
    ] {
        let refused = admin.post(&format!("{GROUP}/mutatingadmissionpolicies"), &policy("p", &[mutation], json!({}))).await;
        let (_, message) = refused.refused(422);
        assert!(message.contains(&format!("spec.mutations[0].{field}.expression: Invalid value")), "{message}");
        assert!(message.contains(why) && message.contains("compilation failed: ERROR: <input>:1:") != why.starts_with("must"), "{message}");
    }
    let judge = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": policy("p", &[], json!({}))["spec"]["matchConstraints"],
        "variables": [{"name": "a", "expression": "variables.b"}, {"name": "b", "expression": "1"}],
        "matchConditions": [{"name": "c", "expression": "variables.b == 1"}, {"name": "d", "expression": "request.uid == ''"}],
        "validations": [{"expression": "object.x + 1", "messageExpression": "authorizer.path('/').check('get').reason()"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "1"}]}});
    let (_, message) = admin.post(&format!("{GROUP}/validatingadmissionpolicies"), &judge).await.refused(422);
    for (at, why) in [
        ("spec.variables[0].expression", "undefined field 'b'"),
        ("spec.matchConditions[0].expression", "undeclared reference to 'variables'"),
        ("spec.matchConditions[1].expression", "undefined field 'uid'"),
        ("spec.validations[0].expression", "must evaluate to bool but got int"),
        ("spec.validations[0].messageExpression", "undeclared reference to 'authorizer'"),
        ("spec.auditAnnotations[0].valueExpression", "must evaluate to one of [string null_type] but got int"),
    ] {
        assert!(message.contains(at) && message.contains(why), "{at}: {message}");
    }
}

#[tokio::test]
async fn what_is_applied_keeps_the_name_of_its_path() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    put(&admin, "p", &[json_patch("[JSONPatch{op: 'replace', path: '/metadata/name', value: 'other'}]")], json!({})).await;
    let path = format!("{CONFIG_MAPS}/mine");
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}});
    let made = admin.patch(&format!("{path}?fieldManager=m"), "apply", applied).await.expect(201);
    assert_eq!(made["metadata"]["name"], "mine");
    assert_eq!(admin.get(&path).await.expect(200)["metadata"]["name"], "mine");
    assert_eq!(create(&admin, "posted").await.expect(201)["metadata"]["name"], "other");
    admin.get(&format!("{CONFIG_MAPS}/other")).await.expect(200);
}

#[tokio::test]
async fn bodies_of_subresources_are_changed_by_configurations_too() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let about = |resource: &str, group: &str, operation: &str| {
        let rules = json!([{"apiGroups": [group], "apiVersions": ["v1"], "operations": [operation], "resources": [resource]}]);
        json!({"matchConstraints": {"resourceRules": rules}})
    };
    let most = "Object{spec: Object.spec{replicas: object.spec.replicas > 3 ? 3 : object.spec.replicas}}";
    put(&admin, "scales", &[apply(most)], about("deployments/scale", "apps", "UPDATE")).await;
    let note = "Object{metadata: Object.metadata{annotations: {'bound': object.target.name}}}";
    put(&admin, "bindings", &[apply(note)], about("pods/binding", "", "CREATE")).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    admin.post(deployments, &deployment).await.expect(201);
    let scaled = admin.patch(&format!("{deployments}/d/scale"), "merge-patch", json!({"spec": {"replicas": 9}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    admin.post(PODS, &pod("p")).await.expect(201);
    let binding = json!({"target": {"kind": "Node", "name": "n"}});
    admin.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    assert_eq!(admin.get(&format!("{PODS}/p")).await.expect(200)["metadata"]["annotations"]["bound"], "n");
    admin.post(PODS, &pod("q")).await.expect(201);
    // Of what its schema takes as a whole, and of what it does not have, nothing can be set.
    for (mutation, why) in [
        (apply("Object{target: Object.target{name: 'x'}}"), "may not mutate atomic arrays, maps or structs: .target"),
        (apply("Object{spec: Object.spec{replicas: 1}}"), "failed to convert patch object to typed object: "),
        (json_patch("[JSONPatch{op: 'add', path: '/nothing', value: 1}]"), "unknown field \"nothing\""),
    ] {
        put(&admin, "bad", &[mutation], about("pods/binding", "", "CREATE")).await;
        let (_, message) = admin.post(&format!("{PODS}/q/binding?dryRun=All"), &binding).await.refused(403);
        assert!(message.contains(why), "{message}");
        remove(&admin, "bad").await;
    }
}
