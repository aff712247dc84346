//! ValidatingAdmissionPolicy over the real server.

use knarr_apiserver::User;
use serde_json::{Value, json};

use crate::{
    kit::{CONFIG_MAPS, Client, Cluster, PODS, pod},
    rights::{allow, rule, user},
};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn policy(spec: Value) -> Value {
    let mut spec = spec;
    spec["matchConstraints"] = json!({"resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}]});
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn binding(spec: Value) -> Value {
    let mut spec = spec;
    spec["policyName"] = "p".into();
    json!({"metadata": {"name": "b"}, "spec": spec})
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

/// The policy, in force.
async fn put(admin: &Client, policy: &Value) {
    admin.post(&format!("{GROUP}/validatingadmissionpolicies"), policy).await.expect(201);
    admin.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding(json!({"validationActions": ["Deny"]}))).await.expect(201);
}

#[tokio::test]
async fn a_policy_is_in_force_with_the_next_request() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let spec = json!({
        "variables": [{"name": "size", "expression": "object.data.size()"}],
        "matchConditions": [{"name": "not-free", "expression": "!object.metadata.name.startsWith('free')"}],
        "validations": [{"expression": "variables.size <= 1", "messageExpression": "'at most 1, not ' + string(variables.size)", "reason": "Forbidden"}],
    });
    admin.post(&format!("{GROUP}/validatingadmissionpolicies"), &policy(spec)).await.expect(201);
    let two = json!({"a": "1", "b": "2"});
    admin.post(CONFIG_MAPS, &config_map("before", two.clone())).await.expect(201);
    let bindings = format!("{GROUP}/validatingadmissionpolicybindings");
    admin.post(&bindings, &binding(json!({"validationActions": ["Deny"]}))).await.expect(201);
    let (reason, message) = admin.post(CONFIG_MAPS, &config_map("after", two.clone())).await.refused(403);
    assert_eq!(reason, "Forbidden");
    let denied = "configmaps \"after\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: at most 1, not 2";
    assert_eq!(message, denied);
    admin.post(CONFIG_MAPS, &config_map("free", two.clone())).await.expect(201);
    admin.post(CONFIG_MAPS, &config_map("small", json!({"a": "1"}))).await.expect(201);
    admin.delete(&format!("{bindings}/b")).await.expect(200);
    admin.post(&bindings, &binding(json!({"validationActions": ["Warn"]}))).await.expect(201);
    let warned = admin.post(CONFIG_MAPS, &config_map("warned", two.clone())).await;
    let told = "299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': at most 1, not 2\"";
    assert_eq!(warned.header("warning"), told);
    warned.expect(201);
    admin.delete(&format!("{bindings}/b")).await.expect(200);
    admin.post(CONFIG_MAPS, &config_map("again", two)).await.expect(201);
}

#[tokio::test]
async fn policies_read_parameters_and_ask_the_authorizer() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.metadata.name == 'limits' || object.data.size() <= int(params.data.max) || authorizer.group('').resource('nodes').check('delete').allowed()"}],
    });
    admin.post(CONFIG_MAPS, &config_map("limits", json!({"max": "1"}))).await.expect(201);
    admin.post(&format!("{GROUP}/validatingadmissionpolicies"), &policy(spec)).await.expect(201);
    let reference = json!({"name": "limits", "parameterNotFoundAction": "Deny"});
    let spec = json!({"validationActions": ["Deny"], "paramRef": reference});
    admin.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding(spec)).await.expect(201);
    let editor = json!({
        "metadata": {"name": "editor"}, "subjects": [{"kind": "User", "name": "ed", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}});
    admin.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", &editor).await.expect(201);
    let two = json!({"a": "1", "b": "2"});
    let ed = cluster.as_user(User::authenticated("ed", Vec::<String>::new()));
    // The role is in force when the authorizer has seen it.
    let begun = std::time::Instant::now();
    let refused = loop {
        let answer = ed.post(CONFIG_MAPS, &config_map("x", two.clone())).await;
        if answer.code == 422 || begun.elapsed() > std::time::Duration::from_secs(60) {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert!(refused.refused(422).1.contains("denied request: failed expression: object.metadata.name == 'limits'"), "{refused:?}");
    admin.post(CONFIG_MAPS, &config_map("x", two)).await.expect(201);
    admin.delete(&format!("{CONFIG_MAPS}/limits")).await.expect(200);
    let (_, message) = admin.post(CONFIG_MAPS, &config_map("y", json!({}))).await.refused(422);
    assert!(
        message.ends_with("failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{message}"
    );
}

#[tokio::test]
async fn objects_are_judged_in_the_version_that_the_policy_names() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let scalers = json!({"resourceRules": [
        {"apiGroups": ["autoscaling"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["horizontalpodautoscalers"]}]});
    let spec = json!({"matchConstraints": scalers, "validations": [
        {"expression": "object.apiVersion == 'autoscaling/v1' && object.spec.targetCPUUtilizationPercentage < 50"}]});
    admin.post(&format!("{GROUP}/validatingadmissionpolicies"), &json!({"metadata": {"name": "p"}, "spec": spec})).await.expect(201);
    admin.post(&format!("{GROUP}/validatingadmissionpolicybindings"), &binding(json!({"validationActions": ["Deny"]}))).await.expect(201);
    let scaler = |percent: u8| {
        json!({"metadata": {"name": format!("s{percent}")}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}]}})
    };
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    admin.post(path, &scaler(40)).await.expect(201);
    admin.post(path, &scaler(60)).await.refused(422);
}

#[tokio::test]
async fn a_variable_that_fails_fails_only_who_reads_it() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let spec = json!({
        "variables": [{"name": "none", "expression": "object.data.none"}, {"name": "of", "expression": "variables.none + 'x'"}],
        "validations": [
            {"expression": "object.kind == 'ConfigMap' || variables.none == ''"},
            {"expression": "variables.of == '' || object.kind == 'ConfigMap'"},
            {"expression": "object.kind != 'ConfigMap' ? variables.of == '' : has(variables.of)"},
            {"expression": "object.metadata.name == 'well' || variables.of == ''"}],
    });
    put(&admin, &policy(spec)).await;
    admin.post(CONFIG_MAPS, &config_map("well", json!({"a": "1"}))).await.expect(201);
    let (_, message) = admin.post(CONFIG_MAPS, &config_map("ill", json!({"a": "1"}))).await.refused(422);
    let why = "resulted in error: composited variable \"of\" fails to evaluate: composited variable \"none\" fails to evaluate: no such key: none";
    assert!(message.ends_with(why), "{message}");
}

/// Forty such variables together cost more than all expressions of a policy may, and each less than one may.
#[tokio::test]
async fn a_variable_that_nobody_reads_costs_nothing_and_one_that_is_read_twice_costs_once() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let numbers = (0..300).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    let mut variables = vec![json!({"name": "many", "expression": format!("[{numbers}]")})];
    // About half a million each.
    let dear = "variables.many.filter(one, variables.many.all(two, one > -1)).size()";
    let dear: Vec<Value> = (0..40).map(|place| json!({"name": format!("dear{place}"), "expression": dear})).collect();
    variables.extend(dear);
    let spec = |validations: Vec<String>| {
        let validations: Vec<Value> = validations.into_iter().map(|expression| json!({"expression": expression})).collect();
        policy(json!({"variables": variables, "validations": validations}))
    };
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    // The left sides decide, so that nothing is spent on the right.
    put(&admin, &spec((0..40).map(|place| format!("object.metadata.name == 'cheap' || variables.dear{place} == 300")).collect())).await;
    admin.post(&dry, &config_map("cheap", json!({}))).await.expect(201);
    let (_, message) = admin.post(&dry, &config_map("other", json!({}))).await.refused(422);
    assert!(message.contains("running out of cost budget"), "{message}");
    // Whoever reads first pays for all.
    let again = spec((0..40).map(|_| "variables.dear0 == 300 && variables.dear1 == 300".to_owned()).collect());
    cluster.write("admissionregistration.k8s.io/validatingadmissionpolicies", again).await;
    admin.post(&dry, &config_map("other", json!({}))).await.expect(201);
}

#[tokio::test]
async fn chains_of_variables_are_limited_and_longer_ones_that_are_stored_do_no_harm() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let chain = |length: usize| {
        let variable = |place: usize| match place {
            0 => json!({"name": "v0", "expression": "object.data.size()"}),
            place => json!({"name": format!("v{place}"), "expression": format!("variables.v{}", place - 1)}),
        };
        let variables: Vec<Value> = (0..length).map(variable).collect();
        policy(json!({"variables": variables, "validations": [{"expression": format!("variables.v{} == 1", length - 1)}]}))
    };
    let refused = admin.post(&format!("{GROUP}/validatingadmissionpolicies"), &chain(257)).await;
    assert!(refused.refused(422).1.contains("spec.variables: Too many: 257: must have at most 256 items"), "{refused:?}");
    put(&admin, &chain(256)).await;
    let judged = async || {
        admin.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("one", json!({"a": "1"}))).await.expect(201);
        admin.post(CONFIG_MAPS, &config_map("two", json!({"a": "1", "b": "2"}))).await.refused(422);
    };
    judged().await;
    // Past validation.
    cluster.write("admissionregistration.k8s.io/validatingadmissionpolicies", chain(20_000)).await;
    judged().await;
}

#[tokio::test]
async fn expressions_see_the_options_and_annotations_the_authorizer() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let spec = json!({
        "validations": [{"expression": "request.options.kind == 'CreateOptions' && request.options.fieldManager == 'me'"}],
        "auditAnnotations": [{"key": "k", "valueExpression": "string(authorizer.path('/').check('get').allowed())"}],
    });
    put(&admin, &policy(spec)).await;
    admin.post(&format!("{CONFIG_MAPS}?fieldManager=me"), &config_map("x", json!({}))).await.expect(201);
    admin.post(&format!("{CONFIG_MAPS}?fieldManager=you"), &config_map("y", json!({}))).await.refused(422);
}

#[tokio::test]
async fn a_namespace_is_selected_by_the_labels_that_it_gets() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let named = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    admin.post("/api/v1/namespaces", &named("watched", json!({"watched": "yes"}))).await.expect(201);
    let constraints = json!({"namespaceSelector": {"matchLabels": {"watched": "yes"}}, "resourceRules": [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": ["namespaces"]}]});
    let spec = json!({"matchConstraints": constraints, "validations": [{"expression": "false"}]});
    put(&admin, &json!({"metadata": {"name": "p"}, "spec": spec})).await;
    admin.post("/api/v1/namespaces", &named("other", json!({"watched": "yes"}))).await.refused(422);
    admin.post("/api/v1/namespaces", &named("free", json!({}))).await.expect(201);
    let label = async |name: &str, value: Value| {
        admin.patch(&format!("/api/v1/namespaces/{name}"), "merge-patch", json!({"metadata": {"labels": {"watched": value}}})).await
    };
    label("free", "yes".into()).await.refused(422);
    admin.delete("/api/v1/namespaces/watched").await.refused(422);
    label("watched", Value::Null).await.expect(200);
    admin.delete("/api/v1/namespaces/watched").await.expect(200);
}

#[tokio::test]
async fn an_eviction_is_no_deletion() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let rules = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["pods"]}]});
    let spec = json!({"matchConstraints": rules, "validations": [{"expression": "false"}]});
    put(&admin, &json!({"metadata": {"name": "p"}, "spec": spec})).await;
    admin.post(PODS, &pod("a")).await.expect(201);
    admin.delete(&format!("{PODS}/a")).await.refused(422);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    admin.post(&format!("{PODS}/a/eviction"), &eviction).await.expect(201);
    admin.get(&format!("{PODS}/a")).await.refused(404);
}

/// The message of a policy that refuses tells its reader what the parameters say: who makes the policy must be allowed to read them.
#[tokio::test]
async fn who_makes_a_policy_may_read_its_parameters() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let registration = "admissionregistration.k8s.io";
    let mutations = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]);
    let ends = [
        ("validatingadmissionpolicies", "validatingadmissionpolicybindings", "validations", json!([{"expression": "true"}])),
        ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings", "mutations", mutations),
    ];
    let all: Vec<Value> = ends.iter().flat_map(|end| [end.0, end.1]).map(|resource| rule(registration, resource, &["*"], &[])).collect();
    allow(&admin, "policies", user("pam"), all.into()).await;
    let pam = cluster.as_user(User::authenticated("pam", [""; 0]));
    for (policies, bindings, key, list) in &ends {
        let made = |name: &str, kind: Value| {
            let mut made = policy(json!({"paramKind": kind, "reinvocationPolicy": "Never"}));
            made["spec"][key] = list.clone();
            if *key == "validations" {
                made["spec"].as_object_mut().unwrap().remove("reinvocationPolicy");
            }
            made["metadata"]["name"] = name.into();
            made
        };
        let secrets = json!({"apiVersion": "v1", "kind": "Secret"});
        let (reason, message) = pam.post(&format!("{GROUP}/{policies}"), &made("s", secrets.clone())).await.refused(422);
        let why = r#"spec.paramKind: Forbidden: user "pam" must have "get" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)"#;
        assert_eq!((reason.as_str(), message.contains(why)), ("Invalid", true), "{message}");
        pam.post(&format!("{GROUP}/{policies}"), &made("none", Value::Null)).await.expect(201);
        let path = format!("{GROUP}/{policies}/none");
        assert!(pam.patch(&path, "merge-patch", json!({"spec": {"paramKind": secrets}})).await.refused(422).1.contains(why));
        admin.post(&format!("{GROUP}/{policies}"), &made("s", secrets)).await.expect(201);
        // What is there already may be changed in other ways.
        pam.patch(&format!("{GROUP}/{policies}/s"), "merge-patch", json!({"spec": {"failurePolicy": "Ignore"}})).await.expect(200);
        let bound = |policy: &str, reference: Value| {
            let mut spec = json!({"policyName": policy, "paramRef": reference});
            if *key == "validations" {
                spec["validationActions"] = json!(["Deny"]);
            }
            json!({"metadata": {"name": "b"}, "spec": spec})
        };
        let path = format!("{GROUP}/{bindings}");
        let named = json!({"name": "one", "namespace": "default", "parameterNotFoundAction": "Deny"});
        let chosen = json!({"selector": {}, "parameterNotFoundAction": "Deny"});
        for (binding, why) in [
            (bound("s", named.clone()), r#"user "pam" does not have "get" permission on the object referenced by paramRef"#),
            (bound("s", chosen), r#"user "pam" does not have "list" permission on the object referenced by paramRef"#),
            (
                bound("gone", named.clone()),
                r#"unable to get policy gone to determine minimum required permissions and user "pam" does not have "get" permission for all groups, versions and resources"#,
            ),
        ] {
            let (_, message) = pam.post(&path, &binding).await.refused(422);
            assert!(message.contains(&format!("spec.paramRef: Forbidden: {why}")), "{message}");
        }
        let binding = bound("s", named);
        admin.post(&path, &binding).await.expect(201);
        pam.patch(&format!("{path}/b"), "merge-patch", json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
        let other = json!({"spec": {"paramRef": {"name": "two"}}});
        assert!(pam.patch(&format!("{path}/b"), "merge-patch", &other).await.refused(422).1.contains("does not have \"get\" permission"));
    }
    allow(&admin, "secrets", user("pam"), json!([rule("", "secrets", &["get"], &["two"])])).await;
    let other = json!({"spec": {"paramRef": {"name": "two"}}});
    pam.patch(&format!("{GROUP}/validatingadmissionpolicybindings/b"), "merge-patch", &other).await.expect(200);
}
