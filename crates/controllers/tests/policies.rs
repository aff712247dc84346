//! The policy type checking controller with the real API server.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::admissionregistration::v1::ValidatingAdmissionPolicy,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use knarr_apiserver::{ApiServer, Config, User, auth::GROUP_MASTERS};
use knarr_client::Cluster;
use knarr_store::{Embedded, Options, Store};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde_json::json;

/// The machine that runs this may be loaded.
const DEADLINE: Duration = Duration::from_secs(60);

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
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(Embedded::open(&dir.path().join("store"), Options { reserve_bytes: 0, ..Options::default() }).expect("a store"));
    let config = Config::new(dir.path().to_owned(), (Ipv4Addr::LOCALHOST, 0).into());
    let server = ApiServer::start(config, store as Arc<dyn Store>).await.expect("a server");
    let managers = User::authenticated("system:kube-controller-manager", Vec::<String>::new());
    let managers = Cluster::new(Client::new(server.service_for(managers), "default"));
    let controllers = tokio::spawn(async move {
        drop(knarr_controllers::run(managers, knarr_controllers::Config::default()).await);
    });
    let client = Client::new(server.service_for(User::authenticated("admin", [GROUP_MASTERS])), "default");
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
    let toy = "spec.validations[0].expression example.com/v1, Kind=Toy: found no matching overload for '_<_' applied to '(string, int)'\n";
    warnings(&policies, toy).await;
    let mended = json!({"spec": {"validations": [{"expression": "has(object.spec.replicas)"}]}});
    policies.patch("p", &PatchParams::default(), &Patch::Merge(mended)).await.expect("patched");
    warnings(&policies, "").await;
    controllers.abort();
}
