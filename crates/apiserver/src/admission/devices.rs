//! Access to devices that others have claimed, which only namespaces with an administrator's label may ask for (KEP-5018), and the rights that the parts
//! of a claim's status need (KEP-4817).

use std::collections::BTreeSet;

use futures::future::BoxFuture;
use knarr_api::status::{self, Status};
use knarr_api::{FieldError, Object, names};
use knarr_store::Snapshot;
use serde_json::Value;

use super::{Chain, Operation, Request, stored};
use crate::User;
use crate::authn::EXTRA_NODE_NAME;
use crate::authz::Attributes;

const GROUP: &str = "resource.k8s.io";
const CLAIMS: &str = "resourceclaims";
const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Claims and their templates do not change once they are made; what they get is written once, into the status.
pub(super) fn check(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.kind.group != GROUP {
        return Ok(());
    }
    let granted = |claim: &Object| with_access(claim.list(&["status", "allocation", "devices", "results"]), "");
    let at = match (&*request.kind.resource, request.subresource, request.operation) {
        (CLAIMS, "", Operation::Create) => asked(request.object, &["spec", "devices", "requests"]),
        ("resourceclaimtemplates", "", Operation::Create) => asked(request.object, &["spec", "spec", "devices", "requests"]),
        (CLAIMS, "status", Operation::Update) if request.old.and_then(granted).is_none() => {
            granted(request.object).map(|index| format!("status.allocation.devices.results[{index}].adminAccess"))
        }
        _ => None,
    };
    let Some(at) = at else { return Ok(()) };
    let namespace = stored(snapshot, "core/namespaces", "", request.namespace);
    if namespace.is_some_and(|namespace| namespace.label(LABEL) == Some("true")) {
        return Ok(());
    }
    let detail = format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    let error = FieldError::forbidden(at, &detail);
    Err(status::invalid(&request.kind.group, &request.kind.kind, request.object.name(), &[error]))
}

/// Who writes the status of a claim needs a right besides for what he changes in it: to bind the claim anywhere, or to speak for each driver whose devices
/// he tells of (registry/resource/utils.go). Neither is a subresource that anyone could ask for.
pub(super) fn check_rights<'a>(chain: &'a Chain, request: &'a Request<'_>) -> Option<BoxFuture<'a, Result<(), Status>>> {
    if !request.is_of(GROUP, CLAIMS) || (request.subresource, request.operation) != ("status", Operation::Update) {
        return None;
    }
    let (new, old) = (&*request.object, request.old?);
    let given = |object: &Object| object.get(&["status", "allocation"]).filter(|given| !given.is_null()).cloned();
    let consumers = ["status", "reservedFor"];
    let binds = given(new) != given(old) || new.list(&consumers) != old.list(&consumers);
    let drivers = changed_drivers(new.list(&DEVICES), old.list(&DEVICES));
    if !binds && drivers.is_empty() {
        return None;
    }
    Some(Box::pin(async move {
        let verb = if request.patches { "patch" } else { "update" };
        let mut errors = Vec::new();
        if binds {
            let right = right(request, verb, "binding", "", "");
            let decision = chain.authorizer.decide(&right).await;
            if !decision.allowed() {
                let why = right.forbidden(&decision).message;
                let needs = format!("resource=\"resourceclaims/binding\", verb=\"{verb}\"");
                let detail = format!("changing status.allocation or status.reservedFor requires {needs} permission: {why}");
                errors.push(FieldError::forbidden("status", &detail));
            }
        }
        let arbitrary = format!("arbitrary-node:{verb}");
        let verbs = match only_node(request.object).is_some_and(|node| runs_on(request.user, node)) {
            true => vec![format!("associated-node:{verb}"), arbitrary],
            false => vec![arbitrary],
        };
        for driver in drivers {
            if let Some(why) = refusal(chain, request, &verbs, driver).await {
                let needs = format!("resource=\"resourceclaims/driver\", verb=\"[{}]\"", verbs.join(" "));
                let detail = format!("changing status.devices requires {needs} permission: {why}");
                errors.push(FieldError::forbidden("status.devices", &detail));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(status::invalid(GROUP, &request.kind.kind, request.object.name(), &errors)) }
    }))
}

const DEVICES: [&str; 2] = ["status", "devices"];

fn right<'a>(request: &'a Request<'_>, verb: &'a str, part: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
    Attributes {
        version: &request.kind.version,
        subresource: part,
        namespace,
        name,
        ..Attributes::resource(request.user, verb, GROUP, CLAIMS)
    }
}

/// Why none of the verbs is allowed for the driver; none if one is.
async fn refusal(chain: &Chain, request: &Request<'_>, verbs: &[String], driver: &str) -> Option<String> {
    let mut first = None;
    for verb in verbs {
        let right = right(request, verb, "driver", request.namespace, driver);
        let decision = chain.authorizer.decide(&right).await;
        if decision.allowed() {
            return None;
        }
        first.get_or_insert_with(|| right.forbidden(&decision).message);
    }
    first
}

/// The drivers of devices of which something else is told than before.
fn changed_drivers<'a>(new: &'a [Value], old: &'a [Value]) -> BTreeSet<&'a str> {
    let unlike = |these: &'a [Value], those: &'a [Value]| these.iter().filter(|this| !those.contains(this));
    unlike(new, old).chain(unlike(old, new)).map(|device| device["driver"].as_str().unwrap_or_default()).collect()
}

/// The node on which a claim's devices are, if its allocation names just one.
fn only_node(claim: &Object) -> Option<&str> {
    let [term] = claim.list(&["status", "allocation", "nodeSelector", "nodeSelectorTerms"]) else { return None };
    let list = |key: &str| term[key].as_array().map_or(&[][..], Vec::as_slice);
    let ([field], []) = (list("matchFields"), list("matchExpressions")) else { return None };
    let [value] = field["values"].as_array().map_or(&[][..], Vec::as_slice) else { return None };
    let names_one = field["key"] == "metadata.name" && field["operator"] == "In";
    value.as_str().filter(|name| names_one && !name.is_empty())
}

/// Whether the user is a service account whose token is bound to a pod on the node.
fn runs_on(user: &User, node: &str) -> bool {
    let at = user.extra.get(EXTRA_NODE_NAME).map(Vec::as_slice);
    user.service_account_name().is_some() && at == Some(&[node.to_owned()]) && names::dns1123_subdomain(node).is_empty()
}

/// Upstream names the field so, in templates too, though it lies deeper (registry/resource/utils.go).
fn asked(object: &Object, requests: &[&str]) -> Option<String> {
    with_access(object.list(requests), "/exactly").map(|index| format!("spec.devices.requests[{index}].adminAccess"))
}

/// The first that wants it.
fn with_access(list: &[Value], within: &str) -> Option<usize> {
    list.iter().position(|one| one.pointer(&format!("{within}/adminAccess")) == Some(&true.into()))
}
