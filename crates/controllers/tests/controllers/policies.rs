//! The policy type checking controller with the real API server.

use k8s_openapi::{
    api::admissionregistration::v1::ValidatingAdmissionPolicy,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::json;

use crate::world::{DEADLINE, World};

/// The text of all warnings, as soon as they are `expected`.
async fn warnings(policies: &Api<ValidatingAdmissionPolicy>, expected: &str) {
    let text = |policy: &ValidatingAdmissionPolicy| {
        let status = policy.status.as_ref()?;
        let seen = status.observed_generation == policy.metadata.generation;
        let warnings = status.type_checking.iter().flat_map(|checked| checked.expression_warnings.iter().flatten());
        seen.then(|| warnings.map(|warning| format!("{} {}", warning.field_ref, warning.warning)).collect::<String>())
    };
    let wanted = expected.to_owned();
    let there = await_condition(policies.clone(), "p", move |policy: Option<&ValidatingAdmissionPolicy>| {
        policy.and_then(text).as_ref() == Some(&wanted)
    });
    let there = tokio::time::timeout(DEADLINE, there).await;
    assert!(there.is_ok(), "{:?}, and not {expected}", policies.get("p").await.expect("a policy").status);
}

#[tokio::test]
async fn a_policy_says_which_expressions_do_not_fit_what_it_is_about() {
    let world = World::start().await;
    let client = world.client.clone();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let rule = |group: &str, resource: &str| json!({"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]});
    let policy = json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [rule("apps", "deployments"), rule("example.com", "toys")]},
        "validations": [{"expression": "object.spec.replicas < 5"}]}});
    policies.create(&PostParams::default(), &serde_json::from_value(policy).expect("a policy")).await.expect("created");
    warnings(&policies, "").await;
    // What the policy names may come later.
    let definition = json!({"metadata": {"name": "toys.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "toys", "kind": "Toy"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"spec": {"type": "object", "properties": {"replicas": {"type": "string"}}}}}}}]}});
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    definitions.create(&PostParams::default(), &serde_json::from_value(definition).expect("a definition")).await.expect("created");
    let toy = "spec.validations[0].expression example.com/v1, Kind=Toy: ERROR: <input>:1:22: found no matching overload for '_<_' applied to '(string, int)'\n | object.spec.replicas < 5\n | .....................^\n";
    warnings(&policies, toy).await;
    let mended = json!({"spec": {"validations": [{"expression": "has(object.spec.replicas)"}]}});
    policies.patch("p", &PatchParams::default(), &Patch::Merge(mended)).await.expect("patched");
    warnings(&policies, "").await;
}
