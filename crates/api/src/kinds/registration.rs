//! admissionregistration.k8s.io/v1 and apiregistration.k8s.io/v1: what takes part in the API from outside.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::apps::apply;
use super::columns::{age, int, len, name, text};
use super::defaults::Defaults;
use super::prepare::OBJECT_METADATA;
use super::row::row;
use super::validate::{policies, registration as rules};
use crate::kind::Kind;
use crate::object::Object;

const GROUP: &str = "admissionregistration.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    let webhooks = |kind, resource| {
        row(GROUP, "v1", kind, resource).cluster().category("api-extensions").counts_generations().conditional_update().columns(vec![
            name(),
            int("Webhooks", |o, _| len(o, &["webhooks"]).into()),
            age(),
        ])
    };
    let binding = |kind, resource| {
        row(GROUP, "v1", kind, resource)
            .cluster()
            .category("api-extensions")
            .counts_generations()
            .conditional_update()
            .default_by(|object| apply(object, &BINDING))
            .columns(vec![name(), text("PolicyName", |o, _| o.str(&["spec", "policyName"]).into()), text("ParamRef", param_ref), age()])
    };
    vec![
        webhooks("MutatingWebhookConfiguration", "mutatingwebhookconfigurations")
            .default_by(|object| {
                apply(object, &WEBHOOKS);
                apply(object, &MUTATING_WEBHOOKS);
            })
            .validate_by(rules::webhooks),
        webhooks("ValidatingWebhookConfiguration", "validatingwebhookconfigurations")
            .default_by(|object| apply(object, &WEBHOOKS))
            .validate_by(rules::webhooks),
        row(GROUP, "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies")
            .cluster()
            .category("api-extensions")
            .status()
            .status_leaves(&OBJECT_METADATA)
            .counts_generations()
            .conditional_update()
            .default_by(|object| apply(object, &POLICY))
            .validate_by(policies::validating_policy)
            .validate_status_by(policies::validating_policy_status)
            .columns(vec![
                name(),
                int("Validations", |o, _| len(o, &["spec", "validations"]).into()),
                text("ParamKind", param_kind),
                age(),
            ]),
        binding("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings").validate_by(policies::validating_binding),
        row(GROUP, "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies")
            .cluster()
            .category("api-extensions")
            .counts_generations()
            .conditional_update()
            .default_by(|object| apply(object, &POLICY))
            .validate_by(policies::mutating_policy)
            .columns(vec![name(), int("Mutations", |o, _| len(o, &["spec", "mutations"]).into()), text("ParamKind", param_kind), age()]),
        binding("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings").validate_by(policies::mutating_binding),
        row("apiregistration.k8s.io", "v1", "APIService", "apiservices")
            .cluster()
            .category("api-extensions")
            .status()
            .status_leaves(&OBJECT_METADATA)
            .conditional_update()
            .named(crate::names::path_segment)
            .default_by(|object| apply(object, &API_SERVICE))
            .prepare_by(create_api_service, |_, _| ())
            .validate_by(rules::api_service)
            .validate_status_by(rules::api_service_status)
            .columns(vec![name(), text("Service", service), text("Available", available), age()]),
    ]
}

static WEBHOOKS: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        webhooks[].failurePolicy = "Fail"
        webhooks[].matchPolicy = "Equivalent"
        webhooks[].namespaceSelector = {}
        webhooks[].objectSelector = {}
        webhooks[].timeoutSeconds = 10
        webhooks[].rules[].scope = "*"
        webhooks[].clientConfig.service.port = 443
        "#,
    )
});

static MUTATING_WEBHOOKS: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse(r#"webhooks[].reinvocationPolicy = "Never""#));

static POLICY: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.failurePolicy = "Fail"
        spec.matchConstraints.matchPolicy = "Equivalent"
        spec.matchConstraints.namespaceSelector = {}
        spec.matchConstraints.objectSelector = {}
        spec.matchConstraints.resourceRules[].scope = "*"
        spec.matchConstraints.excludeResourceRules[].scope = "*"
        "#,
    )
});

static BINDING: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec.matchResources.matchPolicy = "Equivalent"
        spec.matchResources.namespaceSelector = {}
        spec.matchResources.objectSelector = {}
        spec.matchResources.resourceRules[].scope = "*"
        spec.matchResources.excludeResourceRules[].scope = "*"
        "#,
    )
});

static API_SERVICE: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse("spec.service.port = 443"));

/// A version that this server has itself is there from the start.
fn create_api_service(object: &mut Object) {
    if object.get(&["spec", "service"]).is_none() {
        let condition = json!({
            "type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available",
            "lastTransitionTime": object.creation_timestamp(),
        });
        object.set(&["status", "conditions"], json!([condition]));
    }
}

fn param_kind(object: &Object, _: jiff::Timestamp) -> Value {
    let part = |key: &str| object.str(&["spec", "paramKind", key]);
    match object.get(&["spec", "paramKind"]) {
        Some(_) => format!("{}/{}", part("apiVersion"), part("kind")).into(),
        None => "<unset>".into(),
    }
}

fn param_ref(object: &Object, _: jiff::Timestamp) -> Value {
    let part = |key: &str| object.str(&["spec", "paramRef", key]);
    match (object.get(&["spec", "paramRef"]), part("namespace"), part("name")) {
        (None, ..) => "<unset>".into(),
        (_, "", "") => "*".into(),
        (_, "", name) => name.into(),
        (_, namespace, "") => format!("{namespace}/*").into(),
        (_, namespace, name) => format!("{namespace}/{name}").into(),
    }
}

fn service(object: &Object, _: jiff::Timestamp) -> Value {
    match object.get(&["spec", "service"]) {
        Some(_) => format!("{}/{}", object.str(&["spec", "service", "namespace"]), object.str(&["spec", "service", "name"])).into(),
        None => "Local".into(),
    }
}

/// `True`, or `False (MissingEndpoints)`
fn available(object: &Object, _: jiff::Timestamp) -> Value {
    let condition = object.list(&["status", "conditions"]).iter().find(|condition| condition["type"] == "Available");
    let part = |key: &str| condition.and_then(|condition| condition[key].as_str()).unwrap_or("");
    match part("status") {
        "" => "Unknown".into(),
        "True" => "True".into(),
        status => format!("{status} ({})", part("reason")).into(),
    }
}
