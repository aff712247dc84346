//! Certificates: the server writes down who asks for one, and whoever speaks for a signer needs a right on it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use knarr_api::status::{self, Status};
use knarr_api::{FieldError, Object};
use knarr_store::Snapshot;
use serde_json::json;

use super::{Chain, Operation, Request};
use crate::User;
use crate::auth::GROUP_MASTERS;
use crate::authz::Attributes;
use crate::pki;

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";
const POD_REQUESTS: &str = "podcertificaterequests";
const TRUST_BUNDLES: &str = "clustertrustbundles";
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

/// The approval of a request takes the right to `approve` for its signer, its certificate the right to `sign`, as does any end of a pod's request; and
/// what is to be trusted in a signer's name is told by those who may `attest` for it.
pub(super) fn check_rights<'a>(chain: &'a Chain, request: &'a Request<'_>) -> Option<BoxFuture<'a, Result<(), Status>>> {
    if request.kind.group != GROUP {
        return None;
    }
    let changes = |paths: &[&[&str]]| request.old.is_some_and(|old| paths.iter().any(|path| request.object.get(path) != old.get(path)));
    let verb = match (&*request.kind.resource, request.subresource, request.operation) {
        (RESOURCE, "approval", Operation::Update) => "approve",
        (RESOURCE, "status", Operation::Update) if changes(&[&["status", "certificate"], &["status", "conditions"]]) => "sign",
        (POD_REQUESTS, "status", Operation::Update) if changes(&[&["status"]]) => "sign",
        (TRUST_BUNDLES, "", Operation::Create) => "attest",
        (TRUST_BUNDLES, "", Operation::Update) if !request.changes_only_upkeep() => "attest",
        _ => return None,
    };
    // No update changes it.
    let signer = request.old.unwrap_or(request.object).str(&["spec", "signerName"]);
    if signer.is_empty() {
        return None;
    }
    Some(Box::pin(async move {
        match has_right(chain, request.user, verb, signer).await {
            true => Ok(()),
            false => Err(refusal(request, verb, signer)),
        }
    }))
}

/// The right is given for the signer by name, or for all signers of its domain: `example.com/*`.
async fn has_right(chain: &Chain, user: &User, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    for name in [signer, &domain] {
        let right = Attributes { name, version: "*", ..Attributes::resource(user, verb, GROUP, "signers") };
        if chain.authorizer.decide(&right).await.allowed() {
            return true;
        }
    }
    false
}

/// As upstream answers, which asks for pods' requests where it validates them (registry/certificates/podcertificaterequest/strategy.go).
fn refusal(request: &Request<'_>, verb: &str, signer: &str) -> Status {
    match &*request.kind.resource {
        POD_REQUESTS => {
            let detail = format!("User {:?} is not permitted to {verb:?} for signer {signer:?}", request.user.name);
            let error = FieldError::forbidden("spec.signerName", &detail);
            status::invalid(GROUP, &request.kind.kind, request.object.name(), &[error])
        }
        TRUST_BUNDLES => request.forbidden(&format!("user not permitted to {verb} for signerName {signer:?}")),
        _ => request.forbidden(&format!("user not permitted to {verb} requests with signerName {signer:?}")),
    }
}

/// The request must be one, and signed by its own key: whoever approves it then knows that the requester has the key.
fn contents(request: &Request<'_>) -> Result<(), Status> {
    let invalid = |error: &dyn std::fmt::Display| {
        let error = FieldError::invalid("spec.request", &request.object.str(&["spec", "request"]).into(), &error.to_string());
        status::invalid(GROUP, "CertificateSigningRequest", request.object.name(), &[error])
    };
    let der = der(request.object).map_err(|error| invalid(&*error))?;
    let parsed = pki::parse_request(&der).map_err(|error| invalid(&error))?;
    if request.object.str(&["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let subject = &parsed.certification_request_info.subject;
    let organizations = pki::organizations(subject).ok_or_else(|| invalid(&"an organization of its subject cannot be read"))?;
    match organizations.contains(&GROUP_MASTERS) {
        true => Err(request.forbidden(&format!("use of {CLIENT_SIGNER} signer with {GROUP_MASTERS} group is not allowed"))),
        false => Ok(()),
    }
}

/// The PKCS #10 request in a CertificateSigningRequest.
fn der(object: &Object) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let pem = STANDARD.decode(object.str(&["spec", "request"]))?;
    Ok(pki::request_from_pem(&pem)?)
}

/// The name that a CertificateSigningRequest asks for; the error is why it cannot be read.
pub(super) fn requested_name(object: &Object) -> Result<String, String> {
    let der = der(object).map_err(|error| error.to_string())?;
    let parsed = pki::parse_request(&der).map_err(|error| error.to_string())?;
    Ok(pki::common_name(&parsed.certification_request_info.subject).unwrap_or_default().to_owned())
}
