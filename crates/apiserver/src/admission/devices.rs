//! Access to devices that others have claimed, which only namespaces with an administrator's label may ask for (KEP-5018).

use knarr_api::status::{self, Status};
use knarr_api::{FieldError, Object};
use knarr_store::Snapshot;
use serde_json::Value;

use super::{Chain, Operation, Request, stored};

const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Claims and their templates do not change once they are made; what they get is written once, into the status.
pub(super) fn check(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.kind.group != "resource.k8s.io" {
        return Ok(());
    }
    let granted = |claim: &Object| with_access(claim.list(&["status", "allocation", "devices", "results"]), "");
    let at = match (&*request.kind.resource, request.subresource, request.operation) {
        ("resourceclaims", "", Operation::Create) => asked(request.object, &["spec", "devices", "requests"]),
        ("resourceclaimtemplates", "", Operation::Create) => asked(request.object, &["spec", "spec", "devices", "requests"]),
        ("resourceclaims", "status", Operation::Update) if request.old.and_then(granted).is_none() => {
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

/// Upstream names the field so, in templates too, though it lies deeper (registry/resource/utils.go).
fn asked(object: &Object, requests: &[&str]) -> Option<String> {
    with_access(object.list(requests), "/exactly").map(|index| format!("spec.devices.requests[{index}].adminAccess"))
}

/// The first that wants it.
fn with_access(list: &[Value], within: &str) -> Option<usize> {
    list.iter().position(|one| one.pointer(&format!("{within}/adminAccess")) == Some(&true.into()))
}
