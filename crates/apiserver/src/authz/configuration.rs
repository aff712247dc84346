//! AuthorizationConfiguration (apiserver.config.k8s.io/v1): which authorizers decide, in which order. Read from YAML or JSON, with every rule that
//! upstream has for it (apiserver, apis/apiserver/validation). All faults are told at once, each with the path of its field.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use knarr_api::cel::{Program, Static};
use knarr_api::schema::Schema;
use knarr_api::{FieldError, duration, names};
use serde_json::Value;

use super::webhook::Webhook;
use crate::callout::Target;
use crate::strict::{self, Errors, list, only};

const VERSIONS: [&str; 3] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
/// Fields that hold a text.
const TEXTS: [&str; 9] = [
    "apiVersion",
    "kind",
    "type",
    "name",
    "subjectAccessReviewVersion",
    "matchConditionSubjectAccessReviewVersion",
    "failurePolicy",
    "kubeConfigFile",
    "expression",
];
/// What `request` is in match conditions.
const REQUEST: &str = "k8s.io.api.authorization.v1.SubjectAccessReviewSpec";
/// Upstream's defaults for authorizedTTL and unauthorizedTTL, and the longest timeout.
const ALLOWED_FOR: Duration = Duration::from_secs(5 * 60);
const REFUSED_FOR: Duration = Duration::from_secs(30);
const TIME_MAX: Duration = Duration::from_secs(30);
/// Conditions of one webhook (there, maxWebhookMatchConditions).
const CONDITIONS_MAX: usize = 64;

/// One of those who decide.
pub(super) enum Member {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Arc<Webhook>),
}

/// The authorizers in their order. Paths to kubeconfig files are relative to `folder`.
pub(super) fn parse(text: &[u8], folder: &Path) -> Result<Vec<Member>, String> {
    let value = strict::document(text)?;
    let mut errors = Errors::new();
    if !VERSIONS.contains(&value["apiVersion"].as_str().unwrap_or_default()) {
        errors.push(FieldError::not_supported("apiVersion", &value["apiVersion"], &VERSIONS));
    }
    if value["kind"] != "AuthorizationConfiguration" {
        errors.push(FieldError::not_supported("kind", &value["kind"], &["AuthorizationConfiguration"]));
    }
    only(&value, "", &["apiVersion", "kind", "authorizers"], &mut errors);
    strict::typed(&value, "", &TEXTS, &mut errors);
    let all = list(&value, "authorizers", "authorizers", &mut errors);
    if all.is_empty() {
        errors.push(FieldError::required("authorizers", "at least one authorization mode must be defined"));
    }
    let (mut seen, mut named) = (BTreeSet::new(), BTreeSet::new());
    let mut members = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let at = format!("authorizers[{index}]");
        only(one, &at, &["type", "name", "webhook"], &mut errors);
        let ty = one["type"].as_str().unwrap_or_default();
        if ty.is_empty() {
            errors.push(FieldError::required(format!("{at}.type"), ""));
            continue;
        }
        if !TYPES.contains(&ty) {
            errors.push(FieldError::not_supported(format!("{at}.type"), &ty.into(), &TYPES));
            continue;
        }
        if ty != "Webhook" && !seen.insert(ty) {
            errors.push(FieldError::duplicate(format!("{at}.type"), &ty.into()));
        }
        let name = one["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !named.insert(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
        } else if let Some(fault) = names::dns1123_subdomain(name).into_iter().next() {
            errors.push(FieldError::invalid(format!("{at}.name"), &name.into(), &fault));
        }
        match (ty, one["webhook"].is_null()) {
            ("Webhook", true) => errors.push(FieldError::required(format!("{at}.webhook"), "required when type=Webhook")),
            ("Webhook", false) => {
                let webhook = webhook(name, &one["webhook"], &format!("{at}.webhook"), folder, &mut errors);
                members.extend(webhook.map(|webhook| Member::Webhook(Arc::new(webhook))));
            }
            (_, false) => {
                let detail = "may only be specified when type=Webhook";
                errors.push(FieldError::invalid(format!("{at}.webhook"), &"non-null".into(), detail));
            }
            ("Node", true) => members.push(Member::Node),
            ("RBAC", true) => members.push(Member::Rbac),
            ("AlwaysAllow", true) => members.push(Member::AlwaysAllow),
            (_, true) => members.push(Member::AlwaysDeny),
        }
    }
    match errors.is_empty() {
        true => Ok(members),
        false => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}

fn webhook(name: &str, value: &Value, at: &str, folder: &Path, errors: &mut Errors) -> Option<Webhook> {
    let before = errors.len();
    let known = [
        "timeout",
        "authorizedTTL",
        "cacheAuthorizedRequests",
        "unauthorizedTTL",
        "cacheUnauthorizedRequests",
        "subjectAccessReviewVersion",
        "matchConditionSubjectAccessReviewVersion",
        "failurePolicy",
        "connectionInfo",
        "matchConditions",
    ];
    only(value, at, &known, errors);
    let one_of = |field: &str, known: &[&str], errors: &mut Errors| {
        let given = value[field].as_str().unwrap_or_default();
        if given.is_empty() {
            errors.push(FieldError::required(format!("{at}.{field}"), ""));
        } else if !known.contains(&given) {
            errors.push(FieldError::not_supported(format!("{at}.{field}"), &given.into(), known));
        }
        given.to_owned()
    };
    let time_max = time(value, "timeout", at, None, errors);
    if time_max.is_some_and(|time| time > TIME_MAX) {
        errors.push(FieldError::invalid(format!("{at}.timeout"), &value["timeout"], "must be <= 30s"));
    }
    let allowed_for = life(value, "authorizedTTL", "cacheAuthorizedRequests", at, ALLOWED_FOR, errors);
    let refused_for = life(value, "unauthorizedTTL", "cacheUnauthorizedRequests", at, REFUSED_FOR, errors);
    let version = one_of("subjectAccessReviewVersion", &["v1", "v1beta1"], errors);
    let policy = one_of("failurePolicy", &["NoOpinion", "Deny"], errors);
    let conditions = conditions(value, at, errors);
    if !conditions.is_empty() || !value["matchConditionSubjectAccessReviewVersion"].is_null() {
        one_of("matchConditionSubjectAccessReviewVersion", &["v1"], errors);
    }
    let target = target(&value["connectionInfo"], &format!("{at}.connectionInfo"), folder, errors)?;
    (errors.len() == before).then(|| Webhook {
        name: name.to_owned(),
        target,
        version,
        time_max: time_max.unwrap_or(TIME_MAX),
        allowed_for,
        refused_for,
        denies_on_failure: policy == "Deny",
        conditions,
        answers: Default::default(),
    })
}

/// How long answers are remembered: not at all where the switch `remembered` is off.
fn life(value: &Value, field: &str, remembered: &str, at: &str, default: Duration, errors: &mut Errors) -> Duration {
    let life = time(value, field, at, Some(default), errors).unwrap_or(default);
    match &value[remembered] {
        Value::Null | Value::Bool(true) => life,
        Value::Bool(false) => Duration::ZERO,
        other => {
            errors.push(FieldError::invalid(format!("{at}.{remembered}"), other, "must be true or false"));
            life
        }
    }
}

fn target(value: &Value, at: &str, folder: &Path, errors: &mut Errors) -> Option<Target> {
    only(value, at, &["type", "kubeConfigFile"], errors);
    let ty = value["type"].as_str().unwrap_or_default();
    match ty {
        "KubeConfigFile" => {}
        "" => errors.push(FieldError::required(format!("{at}.type"), "")),
        "InClusterConfig" => {
            errors.push(FieldError::invalid(format!("{at}.type"), &ty.into(), "InClusterConfig is not allowed for the API server itself"));
        }
        _ => errors.push(FieldError::not_supported(format!("{at}.type"), &ty.into(), &["KubeConfigFile"])),
    }
    let at = format!("{at}.kubeConfigFile");
    let Some(file) = value["kubeConfigFile"].as_str().filter(|file| !file.is_empty()) else {
        errors.push(FieldError::required(at, ""));
        return None;
    };
    match Target::from_kubeconfig(&folder.join(file)) {
        Ok(target) => Some(target),
        Err(error) => {
            errors.push(FieldError::invalid(at, &file.into(), &crate::connect::chain(&error)));
            None
        }
    }
}

fn conditions(value: &Value, at: &str, errors: &mut Errors) -> Vec<Program> {
    let all = list(value, "matchConditions", &format!("{at}.matchConditions"), errors);
    let request = Schema::get().id(REQUEST).map_or(Static::Dyn, Static::Message);
    if all.len() > CONDITIONS_MAX {
        errors.push(FieldError::too_many(format!("{at}.matchConditions"), all.len(), CONDITIONS_MAX));
    }
    let mut seen = BTreeSet::new();
    let mut programs = Vec::new();
    for (index, one) in all.iter().enumerate() {
        let at = format!("{at}.matchConditions[{index}]");
        only(one, &at, &["expression"], errors);
        let at = format!("{at}.expression");
        let expression = one["expression"].as_str().unwrap_or_default().trim();
        if expression.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        if !seen.insert(expression) {
            errors.push(FieldError::duplicate(&at, &expression.into()));
        }
        match Program::compile(expression, &[("request", request.clone())], &Static::Bool) {
            Ok(program) => programs.push(program),
            Err(error) => errors.push(FieldError::invalid(at, &expression.into(), &error.detail())),
        }
    }
    programs
}

fn time(value: &Value, field: &str, at: &str, default: Option<Duration>, errors: &mut Errors) -> Option<Duration> {
    let at = format!("{at}.{field}");
    match (&value[field], default) {
        (Value::Null, Some(default)) => Some(default),
        (Value::Null, None) => {
            errors.push(FieldError::required(at, ""));
            None
        }
        (given, _) => {
            let read = given.as_str().and_then(duration::parse).and_then(|nanos| u64::try_from(nanos).ok()).filter(|nanos| *nanos > 0);
            if read.is_none() {
                errors.push(FieldError::invalid(at, given, "must be a duration above 0s, such as 5m or 30s"));
            }
            read.map(Duration::from_nanos)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is said of a configuration of RBAC and a webhook, after `value` was put at `pointer` of the webhook.
    fn check(pointer: &str, value: Value, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let cluster = json!({"name": "c", "cluster": {"server": "https://127.0.0.1:1"}});
        let context = json!({"name": "c", "context": {"cluster": "c", "user": ""}});
        let kubeconfig = json!({"current-context": "c", "clusters": [cluster], "contexts": [context]});
        std::fs::write(dir.path().join("k"), kubeconfig.to_string()).unwrap();
        let mut configuration = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
            "authorizers": [{"type": "RBAC", "name": "rbac"}, {"type": "Webhook", "name": "hook", "webhook": {
                "timeout": "3s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
                "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "k"},
            }}],
        });
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        configuration["authorizers"][1].pointer_mut(parent).unwrap()[field] = value;
        let said = parse(configuration.to_string().as_bytes(), dir.path()).err().unwrap_or_default();
        assert!(if expected.is_empty() { said.is_empty() } else { said.contains(expected) }, "{pointer}: {said}");
    }

    #[test]
    fn every_rule_names_its_field() {
        check("/name", "hook".into(), "");
        check("/name", "rbac".into(), "authorizers[1].name: Duplicate value: \"rbac\"");
        check("/name", "A".into(), "authorizers[1].name: Invalid value");
        check("/type", "RBAC".into(), "authorizers[1].type: Duplicate value: \"RBAC\"");
        check("/type", "Node".into(), "authorizers[1].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook");
        check("/type", "ABAC".into(), "authorizers[1].type: Unsupported value: \"ABAC\"");
        check("/webhook", Value::Null, "authorizers[1].webhook: Required value");
        check("/webhook/timeout", Value::Null, "authorizers[1].webhook.timeout: Required value");
        check("/webhook/timeout", "31s".into(), "authorizers[1].webhook.timeout: Invalid value: \"31s\": must be <= 30s");
        check("/webhook/timeout", "0s".into(), "must be a duration above 0s");
        check("/webhook/authorizedTTL", "x".into(), "authorizers[1].webhook.authorizedTTL: Invalid value");
        check("/webhook/authorizedTTL", "5m0s".into(), "");
        check("/webhook/subjectAccessReviewVersion", "v2".into(), "subjectAccessReviewVersion: Unsupported value: \"v2\"");
        check(
            "/webhook/matchConditionSubjectAccessReviewVersion",
            "v1beta1".into(),
            "matchConditionSubjectAccessReviewVersion: Unsupported value",
        );
        check("/webhook/failurePolicy", "Fail".into(), "failurePolicy: Unsupported value: \"Fail\"");
        check("/webhook/connectionInfo/type", "InClusterConfig".into(), "InClusterConfig is not allowed for the API server itself");
        check(
            "/webhook/connectionInfo/kubeConfigFile",
            "none".into(),
            "authorizers[1].webhook.connectionInfo.kubeConfigFile: Invalid value",
        );
        check("/webhook/matchConditions", json!([{"expression": "request.user == 'a'"}]), "");
        for wrong in ["request.usr == 'a'", "request.resourceAttributes.nmespace == 'a'", "request.user == 1", "request.groups == 'a'"] {
            check("/webhook/matchConditions", json!([{"expression": wrong}]), "matchConditions[0].expression: Invalid value");
        }
        let good =
            "has(request.resourceAttributes) && 'a' in request.groups && request.extra['k'].exists(v, v == 'b') && request.uid == ''";
        check("/webhook/matchConditions", json!([{"expression": good}]), "");
        check("/webhook/matchConditions", json!({"expression": "true"}), "authorizers[1].webhook.matchConditions: Invalid value");
        check("/webhook/matchConditions", json!([{"expresion": "true"}]), "matchConditions[0].expresion: Unsupported value");
        check(
            "/webhook/matchConditions",
            json!([{"expression": true}]),
            "matchConditions[0].expression: Invalid value: true: must be a string",
        );
        check("/webhook/cacheAuthorizedRequests", false.into(), "");
        check(
            "/webhook/cacheUnauthorizedRequests",
            "false".into(),
            "cacheUnauthorizedRequests: Invalid value: \"false\": must be true or false",
        );
        check("/webhook/cacheRequests", false.into(), "authorizers[1].webhook.cacheRequests: Unsupported value");
        check("/webhook/connectionInfo/file", "k".into(), "authorizers[1].webhook.connectionInfo.file: Unsupported value");
        check("/webhooks", json!({}), "authorizers[1].webhooks: Unsupported value");
        check("/webhook/matchConditions", json!([{"expression": "1"}]), "matchConditions[0].expression: Invalid value");
        check(
            "/webhook/matchConditions",
            json!([{"expression": "true"}, {"expression": "true"}]),
            "matchConditions[1].expression: Duplicate",
        );
        check("/webhook/matchConditions", Value::Array(vec![json!({"expression": "true"}); 65]), "matchConditions: Too many: 65");
    }

    #[test]
    fn a_field_that_is_there_twice_is_a_fault() {
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: RBAC, name: a}]\n";
        assert!(parse(text.as_bytes(), Path::new(".")).is_ok());
        let twice = format!("{text}authorizers: [{{type: AlwaysAllow, name: b}}]\n");
        assert_eq!(parse(twice.as_bytes(), Path::new(".")).err().as_deref(), Some("line 4: key \"authorizers\" already set in map"));
    }

    #[test]
    fn what_is_not_to_be_remembered_has_no_life() {
        let lives = |value: Value| {
            let mut errors = Errors::new();
            let life = life(&value, "authorizedTTL", "cacheAuthorizedRequests", "", ALLOWED_FOR, &mut errors);
            errors.is_empty().then_some(life)
        };
        assert_eq!(lives(json!({})), Some(ALLOWED_FOR));
        assert_eq!(lives(json!({"cacheAuthorizedRequests": true, "authorizedTTL": "1s"})), Some(Duration::from_secs(1)));
        assert_eq!(lives(json!({"cacheAuthorizedRequests": false, "authorizedTTL": "1s"})), Some(Duration::ZERO));
    }
}
