//! certificates.k8s.io/v1. The contents of a request are read by the signer, which has the means.

use std::sync::LazyLock;

use base64::Engine;

use super::by_table;
use super::rules::Rules;
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::validate::immutable;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Signers may not be asked for certificates that end before a client could renew them.
const SECONDS_MIN: i64 = 600;

static REQUEST: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.request required
        spec.usages required
        spec.signerName required
        "#,
    )
});

pub(in crate::kinds) fn request(object: &Object) -> FieldErrors {
    let mut errors = by_table(&REQUEST, object);
    let pem = object.str(&["spec", "request"]);
    if !pem.is_empty() && !is_pem(pem, "CERTIFICATE REQUEST") {
        let detail = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(FieldError::invalid("spec.request", &pem.into(), detail));
    }
    let usages = object.list(&["spec", "usages"]);
    for (index, usage) in usages.iter().enumerate() {
        let at = format!("spec.usages[{index}]");
        if !USAGES.iter().any(|known| usage == known) {
            errors.push(FieldError::not_supported(&at, usage, &USAGES));
        }
        if usages[..index].contains(usage) {
            errors.push(FieldError::duplicate(&at, usage));
        }
    }
    let signer = object.str(&["spec", "signerName"]);
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "\"kubernetes.io/legacy-unknown\" is not allowed via this API version";
        errors.push(FieldError::invalid("spec.signerName", &signer.into(), detail));
    } else {
        signer_name(signer, &mut errors);
    }
    if let Some(seconds) = object.int(&["spec", "expirationSeconds"]).filter(|seconds| *seconds < SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid("spec.expirationSeconds", &seconds.into(), detail));
    }
    let has = |ty: &str| object.list(&["status", "conditions"]).iter().any(|condition| condition["type"] == ty);
    if has("Approved") && has("Denied") {
        errors.push(FieldError::invalid("status.conditions", &"Approved".into(), "Approved and Denied conditions are mutually exclusive"));
    }
    errors
}

fn is_pem(base64: &str, block: &str) -> bool {
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(base64) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    text.contains(&format!("-----BEGIN {block}-----")) && text.contains(&format!("-----END {block}-----"))
}

/// `domain/path`, as `kubernetes.io/kube-apiserver-client`.
fn signer_name(name: &str, errors: &mut FieldErrors) {
    if name.is_empty() {
        return;
    }
    let mut fault = |detail: &str| errors.push(FieldError::invalid("spec.signerName", &name.into(), detail));
    let Some((domain, path)) = name.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty()) else {
        fault("must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    for reason in names::dns1123_subdomain(domain) {
        fault(&reason);
    }
    if !domain.contains('.') {
        fault("should be a domain with at least two segments separated by dots");
    }
    for reason in path.split('/').flat_map(names::dns1123_subdomain) {
        fault(&reason);
    }
}

/// Conditions by which requests are decided: they are set through the approval alone, and stay.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// A change through `status`, or through `approval` with `deciding`.
pub(in crate::kinds) fn request_part(new: &Object, old: &Object, deciding: bool) -> FieldErrors {
    let mut errors = Vec::new();
    let conditions = |object: &Object| object.list(&["status", "conditions"]).to_vec();
    let count = |object: &Object, ty: &str| conditions(object).iter().filter(|condition| condition["type"] == ty).count();
    for ty in ["Approved", "Denied", "Failed"] {
        if count(new, ty) < count(old, ty) {
            errors.push(FieldError::forbidden("status.conditions", &format!("updates may not remove a condition of type {ty:?}")));
        }
        if !deciding && DECISIONS.contains(&ty) && count(new, ty) > count(old, ty) {
            errors.push(FieldError::forbidden("status.conditions", &format!("updates may not add a condition of type {ty:?}")));
        }
    }
    for (index, condition) in conditions(new).iter().enumerate() {
        let at = format!("status.conditions[{index}]");
        let ty = condition["type"].as_str().unwrap_or("");
        if ty.is_empty() {
            errors.push(FieldError::required(format!("{at}.type"), ""));
        }
        let statuses = ["True", "False", "Unknown"];
        let status = condition["status"].as_str().unwrap_or("");
        match status {
            "" => errors.push(FieldError::required(format!("{at}.status"), "")),
            "True" => {}
            _ if !statuses.contains(&status) => errors.push(FieldError::not_supported(format!("{at}.status"), &status.into(), &statuses)),
            _ if ["Approved", "Denied", "Failed"].contains(&ty) => {
                errors.push(FieldError::not_supported(format!("{at}.status"), &status.into(), &["True"]));
            }
            _ => {}
        }
    }
    if DECISIONS.iter().all(|ty| count(new, ty) > 0) {
        errors.push(FieldError::invalid("status.conditions", &"Approved".into(), "Approved and Denied conditions are mutually exclusive"));
    }
    let certificate = new.str(&["status", "certificate"]);
    if !certificate.is_empty() && !is_pem(certificate, "CERTIFICATE") {
        let detail = "must contain one or more PEM blocks";
        errors.push(FieldError::invalid("status.certificate", &certificate.into(), detail));
    }
    if !old.str(&["status", "certificate"]).is_empty() {
        errors.extend(immutable(new, old, &[&["status", "certificate"]]));
    }
    errors
}

/// A bundle of a signer is named after it: `example.com:path:name`.
pub(in crate::kinds) fn bundle_name(name: &str) -> Vec<String> {
    name.split(':').flat_map(names::dns1123_subdomain).collect()
}

pub(in crate::kinds) fn trust_bundle(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (signer, name) = (object.str(&["spec", "signerName"]), object.name());
    signer_name(signer, &mut errors);
    let prefix = format!("{}:", signer.replace('/', ":"));
    if !signer.is_empty() && !name.starts_with(&prefix) {
        let detail = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
        errors.push(FieldError::invalid("metadata.name", &name.into(), &detail));
    }
    if signer.is_empty() && name.contains(':') {
        let detail = "ClusterTrustBundle without signer name must not have \":\" in its name";
        errors.push(FieldError::invalid("metadata.name", &name.into(), detail));
    }
    let bundle = object.str(&["spec", "trustBundle"]);
    if !(bundle.contains("-----BEGIN CERTIFICATE-----") && bundle.contains("-----END CERTIFICATE-----")) {
        let detail = "at least one trust anchor must be provided";
        errors.push(FieldError::invalid("spec.trustBundle", &"<value omitted>".into(), detail));
    }
    errors
}

pub(in crate::kinds) fn trust_bundle_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "signerName"]])
}

static POD_REQUEST: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.signerName required
        spec.podName required
        spec.podName subdomain
        spec.podUID required
        spec.serviceAccountName required
        spec.serviceAccountName subdomain
        spec.serviceAccountUID required
        spec.nodeName required
        spec.nodeName subdomain
        spec.nodeUID required
        spec.stubPKCS10Request required
        spec.maxExpirationSeconds range 3600 7862400
        "#,
    )
});

pub(in crate::kinds) fn pod_request(object: &Object) -> FieldErrors {
    let mut errors = by_table(&POD_REQUEST, object);
    signer_name(object.str(&["spec", "signerName"]), &mut errors);
    if object.get(&["spec", "maxExpirationSeconds"]).is_none() {
        errors.push(FieldError::required("spec.maxExpirationSeconds", ""));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signers_have_a_domain_and_a_path() {
        let check = |name: &str, faults: usize| {
            let mut errors = Vec::new();
            signer_name(name, &mut errors);
            assert_eq!(errors.len(), faults, "{name}: {errors:?}");
        };
        check("kubernetes.io/kube-apiserver-client", 0);
        check("example.com/a/b", 0);
        check("example.com", 1);
        check("example/a", 1);
        check("Example.com/a", 1);
        check("example.com/A", 1);
    }
}
