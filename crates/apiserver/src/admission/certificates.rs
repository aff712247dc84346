//! Certificate signing requests: the server writes down who asks, and deciding or signing needs a right on the signer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

/// A request must prove its key and not ask for almightiness; `approve` on a signer for its approval, `sign` for the certificate itself.
pub(super) fn check(chain: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if !request.is_of(GROUP, RESOURCE) {
        return Ok(());
    }
    match (request.operation, request.subresource, request.old) {
        (Operation::Create, "", _) => contents(request),
        (Operation::Update, "approval", Some(old)) => signer_right(chain, request, "approve", old),
        (Operation::Update, "status", Some(old)) => {
            let part = |object: &Object, key: &str| object.get(&["status", key]).cloned();
            let signs = ["certificate", "conditions"].iter().any(|key| part(request.object, key) != part(old, key));
            if signs { signer_right(chain, request, "sign", old) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// The right is given for the signer by name, or for all signers of its domain: `example.com/*`.
fn signer_right(chain: &Chain, request: &Request<'_>, verb: &str, old: &Object) -> Result<(), Status> {
    let signer = old.str(&["spec", "signerName"]);
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let ask = |name: &str| {
        chain.authorizer.require(&Attributes { name, version: "*", ..Attributes::resource(request.user, verb, GROUP, "signers") })
    };
    match ask(signer).or_else(|_| ask(&domain)) {
        Ok(()) => Ok(()),
        Err(_) => {
            let what = if verb == "approve" { "approve" } else { "sign" };
            Err(request.forbidden(&format!("user not permitted to {what} requests with signerName {signer:?}")))
        }
    }
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
