//! What policies and webhooks are about: rules of operations and resources, selectors of namespaces and objects, match conditions
//! (apiserver, admission/plugin/webhook/predicates).

use knarr_api::{
    Object,
    cel::{Budget, EvalError, Value as Cel},
    select::LabelSelector,
};
use knarr_store::Snapshot;
use serde_json::{Value, json};

use super::{Operation, Request, stored};

impl Operation {
    pub(super) fn word(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// Whether `resources` (`matchConstraints`, `matchResources`, or a webhook) is about the request.
pub(super) fn is_about(resources: &Value, rules: &str, request: &Request<'_>, snapshot: &Snapshot) -> bool {
    let list = |key: &str| resources[key].as_array().map_or(&[][..], Vec::as_slice);
    let equivalent = resources["matchPolicy"] != "Exact";
    if list("excludeResourceRules").iter().any(|rule| rule_fits(rule, request, equivalent)) {
        return false;
    }
    // A binding without rules is about whatever its policy is about.
    let rules = list(rules);
    if !rules.is_empty() && !rules.iter().any(|rule| rule_fits(rule, request, equivalent)) {
        return false;
    }
    namespace_fits(&resources["namespaceSelector"], request, snapshot) && object_fits(&resources["objectSelector"], request)
}

fn rule_fits(rule: &Value, request: &Request<'_>, equivalent: bool) -> bool {
    let has = |key: &str, wanted: &str| rule[key].as_array().into_iter().flatten().any(|one| one == "*" || one == wanted);
    let kind = request.kind;
    let scope = match rule["scope"].as_str().unwrap_or("*") {
        "Namespaced" => kind.namespaced(),
        "Cluster" => !kind.namespaced(),
        _ => true,
    };
    let names = rule["resourceNames"].as_array().map_or(&[][..], Vec::as_slice);
    scope
        && has("operations", request.operation.word())
        && has("apiGroups", &kind.group)
        // The same objects under another version are meant, too.
        && (equivalent || has("apiVersions", &kind.version))
        && rule["resources"].as_array().into_iter().flatten().filter_map(Value::as_str).any(|one| resource_fits(one, &kind.resource, request.subresource))
        && (names.is_empty() || names.iter().any(|name| name == request.name))
}

/// `pods`, `pods/status`, `pods/*`, `*`, `*/status`, `*/*`
fn resource_fits(rule: &str, resource: &str, subresource: &str) -> bool {
    let (wanted, part) = rule.split_once('/').unwrap_or((rule, ""));
    (wanted == "*" || wanted == resource) && (part == subresource || part == "*")
}

fn namespace_fits(selector: &Value, request: &Request<'_>, snapshot: &Snapshot) -> bool {
    if is_empty(selector) {
        return true;
    }
    let labels = |object: &Object| selects(selector, object);
    if request.kind.collection == "core/namespaces" {
        return labels(request.object) || request.old.is_some_and(labels);
    }
    match request.namespace {
        // Objects of the cluster are never left out by it.
        "" => true,
        namespace => labels(&stored(snapshot, "core/namespaces", "", namespace).unwrap_or_default()),
    }
}

fn object_fits(selector: &Value, request: &Request<'_>) -> bool {
    is_empty(selector) || selects(selector, request.object) || request.old.is_some_and(|old| selects(selector, old))
}

fn is_empty(selector: &Value) -> bool {
    selector.as_object().is_none_or(serde_json::Map::is_empty)
}

/// Whether a label selector selects the object; one that cannot be read selects nothing.
pub(super) fn selects(selector: &Value, object: &Object) -> bool {
    LabelSelector::from_value(selector).is_ok_and(|selector| selector.matches(|key| object.label(key)))
}

/// The request as policies see it and webhooks are sent it.
pub(super) fn attributes(request: &Request<'_>, uid: &str) -> Value {
    let kind = request.kind;
    let gvk = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let gvr = json!({"group": kind.group, "version": kind.version, "resource": kind.resource});
    let mut user = json!({"username": request.user.name, "groups": request.user.groups});
    if !request.user.uid.is_empty() {
        user["uid"] = request.user.uid.as_str().into();
    }
    if !request.user.extra.is_empty() {
        user["extra"] = json!(request.user.extra);
    }
    let mut value = json!({
        "uid": uid, "kind": gvk, "resource": gvr, "requestKind": gvk, "requestResource": gvr,
        "name": request.name, "operation": request.operation.word(), "userInfo": user, "dryRun": request.dry_run,
    });
    for (key, text) in [("namespace", request.namespace), ("subResource", request.subresource), ("requestSubResource", request.subresource)]
    {
        if !text.is_empty() {
            value[key] = text.into();
        }
    }
    value
}

/// What expressions about a request can name.
pub(super) struct Subject {
    pub(super) object: Value,
    pub(super) old: Value,
    pub(super) request: Value,
    pub(super) namespace: Value,
    pub(super) authorizer: std::sync::Arc<dyn knarr_api::cel::Host>,
}

impl Subject {
    pub(super) fn new(request: &Request<'_>, snapshot: &Snapshot, authorizer: std::sync::Arc<dyn knarr_api::cel::Host>) -> Subject {
        let whole = |object: &Object| Value::Object(object.0.clone());
        let namespace = match request.namespace {
            "" => Value::Null,
            name => stored(snapshot, "core/namespaces", "", name).map_or(Value::Null, Object::into_value),
        };
        Subject {
            object: if request.operation == Operation::Delete { Value::Null } else { whole(request.object) },
            old: request.old.map_or(Value::Null, whole),
            request: attributes(request, ""),
            namespace,
            authorizer,
        }
    }

    pub(super) fn variable(&self, name: &str) -> Option<Cel<'_>> {
        Some(match name {
            "object" => Cel::json(&self.object),
            "oldObject" => Cel::json(&self.old),
            "request" => Cel::json(&self.request),
            "namespaceObject" => Cel::json(&self.namespace),
            "authorizer" => Cel::Host(self.authorizer.clone()),
            _ => return None,
        })
    }
}

/// Whether all conditions hold. One that is false decides, even if another fails; the error is of the first that fails.
pub(super) fn conditions_hold<'p>(
    conditions: impl Iterator<Item = (&'p str, &'p knarr_api::cel::Program)>,
    subject: &Subject,
    params: &Value,
    budget: &Budget,
) -> Result<bool, String> {
    let lookup = |name: &str| if name == "params" { Some(Cel::json(params)) } else { subject.variable(name) };
    let mut failure = None;
    for (name, program) in conditions {
        match program.evaluate(&lookup, budget) {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => return Ok(false),
            Err(EvalError::Failed(error)) => drop(failure.get_or_insert(format!("match condition '{name}' failed: {error}"))),
            Err(error) => return Err(error.to_string()),
        }
    }
    failure.map_or(Ok(true), Err)
}
