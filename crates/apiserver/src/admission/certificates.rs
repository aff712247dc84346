//! Certificate signing requests: the server writes down who asks, and deciding or signing needs a right on the signer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use knarr_api::status::{self, Status};
use knarr_api::{FieldError, Object};
use knarr_store::Snapshot;
use serde_json::json;

use super::{Chain, Operation, Request};
use crate::auth::GROUP_MASTERS;
use crate::authz::Attributes;
use crate::pki;

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
/// Signs client certificates that the API server accepts.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// The requester is who the server knows it to be, whatever the body says.
pub(super) fn requester(_: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is(GROUP, RESOURCE) {
        return Ok(());
    }
    let user = request.user;
    let spec = [("username", json!(user.name)), ("uid", json!(user.uid)), ("groups", json!(user.groups)), ("extra", json!(user.extra))];
    for (key, value) in spec {
        let empty = value == "" || value == json!([]) || value == json!({});
        if empty {
            request.object.remove(&["spec", key]);
        } else {
            request.object.set(&["spec", key], value);
        }
    }
    Ok(())
}

/// A request must prove its key and not ask for almightiness.
pub(super) fn check(_: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let is_new = request.operation == Operation::Create && request.is(GROUP, RESOURCE);
    if is_new { contents(request) } else { Ok(()) }
}

/// Its approval takes the right to `approve` for its signer, the certificate itself the right to `sign`.
pub(super) fn check_rights<'a>(chain: &'a Chain, request: &'a Request<'_>) -> Option<BoxFuture<'a, Result<(), Status>>> {
    if !request.is_of(GROUP, RESOURCE) || request.operation != Operation::Update {
        return None;
    }
    let old = request.old?;
    let verb = match request.subresource {
        "approval" => "approve",
        "status" => {
            let part = |object: &Object, key: &str| object.get(&["status", key]).cloned();
            ["certificate", "conditions"].iter().find(|key| part(request.object, key) != part(old, key))?;
            "sign"
        }
        _ => return None,
    };
    Some(Box::pin(signer_right(chain, request, verb, old)))
}

/// The right is given for the signer by name, or for all signers of its domain: `example.com/*`.
async fn signer_right(chain: &Chain, request: &Request<'_>, verb: &str, old: &Object) -> Result<(), Status> {
    let signer = old.str(&["spec", "signerName"]);
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    for name in [signer, &domain] {
        let right = Attributes { name, version: "*", ..Attributes::resource(request.user, verb, GROUP, "signers") };
        if chain.authorizer.decide(&right).await.allowed() {
            return Ok(());
        }
    }
    Err(request.forbidden(&format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

/// The request must be one, and signed by its own key: whoever approves it then knows that the requester has the key.
fn contents(request: &Request<'_>) -> Result<(), Status> {
    let text = request.object.str(&["spec", "request"]);
    let invalid = |error: &dyn std::fmt::Display| {
        let error = FieldError::invalid("spec.request", &text.into(), &error.to_string());
        status::invalid(GROUP, "CertificateSigningRequest", request.object.name(), &[error])
    };
    let pem = STANDARD.decode(text).map_err(|error| invalid(&error))?;
    let der = pki::request_from_pem(&pem).map_err(|error| invalid(&error))?;
    let parsed = pki::parse_request(&der).map_err(|error| invalid(&error))?;
    if request.object.str(&["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let subject = &parsed.certification_request_info.subject;
    let mut organizations = subject.iter_organization().filter_map(|organization| organization.as_str().ok());
    match organizations.any(|organization| organization == GROUP_MASTERS) {
        true => Err(request.forbidden(&format!("use of {CLIENT_SIGNER} signer with {GROUP_MASTERS} group is not allowed"))),
        false => Ok(()),
    }
}
