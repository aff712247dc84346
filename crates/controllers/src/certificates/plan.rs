//! What one request needs now.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

use super::rules::{self, Asked};

/// A request stays this long after it was decided (controller/certificates/cleaner, approvedExpiration, deniedExpiration).
const DECIDED_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// And this long if it was not, or not yet signed (there, pendingExpiration).
const PENDING_LIFE: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It waits for others, or for its end.
    Rest,
    Delete {
        why: &'static str,
    },
    /// To be approved if the requester has one of these rights.
    Review(Vec<&'static str>),
    Sign,
    Fail {
        why: String,
    },
}

pub(super) fn plan(request: &CertificateSigningRequest, now: Timestamp) -> Plan {
    if request.metadata.deletion_timestamp.is_some() {
        return Plan::Rest;
    }
    if let Some((at, why)) = end(request)
        && at <= now
    {
        return Plan::Delete { why };
    }
    if certificate(request).is_some() || condition(request, "Denied").is_some() || condition(request, "Failed").is_some() {
        return Plan::Rest;
    }
    let usages: Vec<&str> = request.spec.usages.iter().flatten().map(String::as_str).collect();
    let asked = Asked::read(&request.spec.request.0);
    let approved = condition(request, "Approved").is_some();
    match asked {
        Ok(asked) if approved => match rules::check(&request.spec.signer_name, &asked, &usages) {
            Some(Ok(())) => Plan::Sign,
            Some(Err(why)) => Plan::Fail { why },
            None => Plan::Rest,
        },
        Ok(asked) => rights(request, &asked, &usages),
        Err(why) if approved && rules::check(&request.spec.signer_name, &Asked::default(), &usages).is_some() => Plan::Fail { why },
        Err(_) => Plan::Rest,
    }
}

fn rights(request: &CertificateSigningRequest, asked: &Asked, usages: &[&str]) -> Plan {
    if request.spec.signer_name != rules::KUBELET_CLIENT || rules::kubelet_client(asked, usages).is_err() {
        return Plan::Rest;
    }
    let own = asked.common_names.first() == request.spec.username.as_ref();
    Plan::Review(if own { vec![rules::SELF_NODE, rules::NODE] } else { vec![rules::NODE] })
}

/// When the request is to be deleted, if nothing changes.
pub(super) fn goes_at(request: &CertificateSigningRequest) -> Option<Timestamp> {
    end(request).map(|(at, _)| at)
}

fn end(request: &CertificateSigningRequest) -> Option<(Timestamp, &'static str)> {
    let created = request.metadata.creation_timestamp.as_ref().map(|time| time.0)?;
    let since = |condition: &CertificateSigningRequestCondition| condition.last_update_time.as_ref().map_or(created, |time| time.0);
    // Approvers write the time of their decision: it may be any.
    let after = |start: Timestamp, life: SignedDuration| start.checked_add(life).unwrap_or(Timestamp::MAX);
    let decided = [("Denied", "it was denied"), ("Failed", "it failed")];
    for (ty, why) in decided {
        if let Some(condition) = condition(request, ty) {
            return Some((after(since(condition), DECIDED_LIFE), why));
        }
    }
    Some(match (condition(request, "Approved"), certificate(request)) {
        (Some(approved), Some(certificate)) => {
            let known = after(since(approved), DECIDED_LIFE);
            // A certificate that has ended is of no use to anyone.
            match not_after(certificate).filter(|end| *end < known) {
                Some(end) => (end, "its certificate has expired"),
                None => (known, "it was approved and signed"),
            }
        }
        (Some(approved), None) => (after(since(approved), PENDING_LIFE), "nobody signed it"),
        (None, _) => (after(created, PENDING_LIFE), "nobody decided on it"),
    })
}

fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    (!certificate.0.is_empty()).then_some(&certificate.0)
}

fn condition<'a>(request: &'a CertificateSigningRequest, ty: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().find(|condition| condition.type_ == ty)
}

fn not_after(pem: &[u8]) -> Option<Timestamp> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = block.parse_x509().ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::{Value, json};

    use super::*;

    /// PEM of a request for this subject and these alternative names.
    fn pem(cn: &str, org: &str, names: &[&str]) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, org);
        params.distinguished_name.push(rcgen::DnType::CommonName, cn);
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
    }

    /// A request of `user` at `2026-01-01T00:00:00Z`.
    fn request(user: &str, signer: &str, usages: &[&str], pem: Vec<u8>, status: Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({
            "metadata": { "name": "r", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "username": user, "signerName": signer, "usages": usages, "request": ByteString(pem) },
            "status": status,
        }))
        .unwrap()
    }

    fn check(request: &CertificateSigningRequest, at: &str, expected: &str) {
        let plan = match plan(request, format!("2026-01-{at}Z").parse().unwrap()) {
            Plan::Rest => "rest".to_owned(),
            Plan::Delete { why } => format!("delete: {why}"),
            Plan::Review(rights) => format!("review {}", rights.join(" ")),
            Plan::Sign => "sign".to_owned(),
            Plan::Fail { why } => format!("fail: {why}"),
        };
        assert_eq!(plan, expected);
    }

    const SOON: &str = "01T00:00:01";
    const CLIENT: [&str; 2] = ["digital signature", "client auth"];
    const SERVING: [&str; 3] = ["digital signature", "key encipherment", "server auth"];

    fn approved() -> Value {
        json!({ "conditions": [{ "type": "Approved", "status": "True", "lastUpdateTime": "2026-01-01T02:00:00Z" }] })
    }

    #[test]
    fn only_kubelets_own_client_certificates_are_approved_by_themselves() {
        let node = || pem("system:node:n", "system:nodes", &[]);
        let ask = |user: &str, signer: &str, usages: &[&str], pem: Vec<u8>, expected: &str| {
            check(&request(user, signer, usages, pem, json!({})), SOON, expected);
        };
        ask("system:node:n", rules::KUBELET_CLIENT, &CLIENT, node(), "review selfnodeclient nodeclient");
        ask("system:bootstrap:a", rules::KUBELET_CLIENT, &CLIENT, node(), "review nodeclient");
        ask("system:node:n", rules::KUBELET_CLIENT, &SERVING, node(), "rest");
        ask("system:node:n", rules::KUBELET_CLIENT, &CLIENT, pem("system:node:n", "system:nodes", &["n"]), "rest");
        ask("system:node:n", rules::KUBELET_CLIENT, &CLIENT, pem("system:node:n", "system:masters", &[]), "rest");
        ask("admin", rules::KUBELET_CLIENT, &CLIENT, pem("admin", "system:nodes", &[]), "rest");
        ask("system:node:n", rules::KUBELET_SERVING, &SERVING, pem("system:node:n", "system:nodes", &["n"]), "rest");
        ask("ann", rules::CLIENT, &CLIENT, pem("ann", "devs", &[]), "rest");
        ask("system:node:n", "example.com/x", &CLIENT, node(), "rest");
        ask("system:node:n", rules::KUBELET_CLIENT, &CLIENT, b"junk".to_vec(), "rest");
    }

    #[test]
    fn what_is_approved_is_signed_by_the_rules_of_its_signer() {
        let ask = |signer: &str, usages: &[&str], pem: Vec<u8>, expected: &str| {
            check(&request("x", signer, usages, pem, approved()), SOON, expected);
        };
        ask(rules::CLIENT, &CLIENT, pem("ann", "devs", &[]), "sign");
        ask(rules::CLIENT, &["server auth"], pem("ann", "devs", &[]), "fail: invalid usage for client certificate: server auth");
        ask(rules::CLIENT, &["digital signature"], pem("a", "b", &[]), "fail: missing required usage for client certificate: client auth");
        ask(rules::KUBELET_SERVING, &SERVING, pem("system:node:n", "system:nodes", &["n", "10.0.0.1"]), "sign");
        ask(rules::KUBELET_SERVING, &SERVING, pem("system:node:n", "system:nodes", &[]), "fail: DNS or IP subjectAltName is required");
        ask(
            rules::KUBELET_SERVING,
            &SERVING,
            pem("n", "system:nodes", &["n"]),
            "fail: subject common name does not begin with system:node:",
        );
        ask(rules::KUBELET_CLIENT, &CLIENT, pem("system:node:n", "x", &[]), "fail: subject organization is not system:nodes");
        ask("example.com/x", &CLIENT, pem("ann", "devs", &[]), "rest");
        ask("kubernetes.io/legacy-unknown", &CLIENT, pem("ann", "devs", &[]), "rest");
        let mut denied = approved();
        denied["conditions"][0]["type"] = "Denied".into();
        check(&request("x", rules::CLIENT, &CLIENT, pem("ann", "devs", &[]), denied), SOON, "rest");
    }

    #[test]
    fn old_requests_go() {
        let with = |status: Value| request("x", "example.com/x", &CLIENT, pem("a", "b", &[]), status);
        let decided =
            |ty: &str| with(json!({ "conditions": [{ "type": ty, "status": "True", "lastUpdateTime": "2026-01-01T02:00:00Z" }] }));
        check(&with(json!({})), "01T23:59:59", "rest");
        check(&with(json!({})), "02T00:00:00", "delete: nobody decided on it");
        check(&decided("Denied"), "01T02:59:59", "rest");
        check(&decided("Denied"), "01T03:00:00", "delete: it was denied");
        check(&decided("Failed"), "01T03:00:00", "delete: it failed");
        check(&decided("Approved"), "02T01:59:59", "rest");
        check(&decided("Approved"), "02T02:00:00", "delete: nobody signed it");
        let mut signed = approved();
        signed["certificate"] = json!(ByteString(b"-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n".to_vec()));
        check(&with(signed.clone()), "01T02:59:59", "rest");
        check(&with(signed), "01T03:00:00", "delete: it was approved and signed");
        let for_ever = json!({ "conditions": [{ "type": "Denied", "status": "True", "lastUpdateTime": "9999-12-30T21:59:59Z" }] });
        check(&with(for_ever), "01T03:00:00", "rest");
    }
}
