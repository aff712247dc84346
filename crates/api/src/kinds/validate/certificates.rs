//! certificates.k8s.io/v1. The contents of a request are read by the signer, which has the means.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use base64::Engine;
use serde_json::Value;

use super::rules::Rules;
use super::{by_table, text};
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

pub(in crate::kinds) fn request(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let pem = object.get(&["spec", "request"]).unwrap_or(&Value::Null);
    if blocks(&decoded(pem.as_str().unwrap_or(""))).next().is_none_or(|block| block.label != "CERTIFICATE REQUEST") {
        errors.push(FieldError::invalid("spec.request", pem, "PEM block type must be CERTIFICATE REQUEST"));
    }
    let usages = object.list(&["spec", "usages"]);
    if usages.is_empty() {
        errors.push(FieldError::required("spec.usages", ""));
    }
    let mut seen = HashSet::new();
    for (index, usage) in usages.iter().enumerate() {
        let at = format!("spec.usages[{index}]");
        if !USAGES.iter().any(|known| usage == known) {
            errors.push(FieldError::not_supported(&at, usage, &USAGES));
        }
        if !seen.insert(usage.as_str()) {
            errors.push(FieldError::duplicate(&at, usage));
        }
    }
    let signer = object.str(&["spec", "signerName"]);
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid("spec.signerName", &signer.into(), detail));
    } else {
        signer_name(signer, &mut errors);
    }
    if let Some(seconds) = object.int(&["spec", "expirationSeconds"]).filter(|seconds| *seconds < SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid("spec.expirationSeconds", &seconds.into(), detail));
    }
    conditions(object.list(&["status", "conditions"]), &mut errors);
    errors
}

/// Conditions that say either that something is so, or are not there.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

fn conditions(conditions: &[Value], errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = format!("status.conditions[{index}]");
        let (ty, status) = (text(condition, "type"), text(condition, "status"));
        if ty.is_empty() {
            errors.push(FieldError::required(format!("{at}.type"), ""));
        }
        let statuses: &[&str] = if FINAL.contains(&ty) { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.push(FieldError::required(format!("{at}.status"), ""));
        } else if !statuses.contains(&status) {
            errors.push(FieldError::not_supported(format!("{at}.status"), &status.into(), statuses));
        }
        let other = if ty == "Approved" { "Denied" } else { "Approved" };
        if DECISIONS.contains(&ty) && seen.contains(other) {
            errors.push(FieldError::invalid("status.conditions", &ty.into(), "Approved and Denied conditions are mutually exclusive"));
        }
        if !seen.insert(ty) {
            errors.push(FieldError::duplicate(format!("{at}.type"), &ty.into()));
        }
    }
}

fn decoded(base64: &str) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A PEM block (RFC 7468), not decoded.
struct Block<'a> {
    label: &'a str,
    body: &'a str,
}

/// The whole blocks of a text, one after the other. An end belongs to the last beginning before it, so that each byte is looked at a few times only.
fn blocks(text: &str) -> impl Iterator<Item = Block<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while let Some((before, after)) = rest.split_once("-----END ") {
            rest = after;
            let begun = before.rsplit_once("-----BEGIN ").and_then(|(_, begun)| begun.split_once("-----"));
            if let Some((label, body)) = begun
                && let Some(after) = after.strip_prefix(label).and_then(|after| after.strip_prefix("-----"))
            {
                rest = after;
                return Some(Block { label, body });
            }
        }
        None
    })
}

/// `Proc-Type: 4,ENCRYPTED`: the encoded part itself has no colon.
fn has_headers(block: &Block<'_>) -> bool {
    block.body.contains(':')
}

/// `domain/path`, as `kubernetes.io/kube-apiserver-client` (core/validation, ValidateSignerName).
fn signer_name(name: &str, errors: &mut FieldErrors) {
    let at = "spec.signerName";
    if name.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(FieldError::invalid(at, &name.into(), detail));
        return;
    };
    if domain.len() > names::DNS1123_SUBDOMAIN_MAX {
        errors.push(FieldError::too_long(at, names::DNS1123_SUBDOMAIN_MAX));
    }
    labels(domain, names::dns1123_label, at, errors);
    if !domain.contains('.') {
        errors.push(FieldError::invalid(at, &domain.into(), "should be a domain with at least two segments separated by dots"));
    }
    labels(path, names::dns1123_subdomain, at, errors);
    if name.len() > SIGNER_BYTES_MAX {
        errors.push(FieldError::too_long(at, SIGNER_BYTES_MAX));
    }
}

/// A domain, a slash, and `<namespace>.<name>`.
const SIGNER_BYTES_MAX: usize = names::DNS1123_SUBDOMAIN_MAX * 2 + names::DNS1123_LABEL_MAX + 2;

/// What is wrong with the first label that is.
fn labels(segment: &str, form: fn(&str) -> Vec<String>, at: &str, errors: &mut FieldErrors) {
    if let Some((label, wrong)) = segment.split('.').map(|label| (label, form(label))).find(|(_, wrong)| !wrong.is_empty()) {
        let detail = |reason: &String| format!("validating label {label:?}: {reason}");
        errors.extend(wrong.iter().map(|reason| FieldError::invalid(at, &segment.into(), &detail(reason))));
    }
}

/// Conditions by which requests are decided: they are set through the approval alone, and stay.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// A change through `status`, or through `approval` with `deciding`.
pub(in crate::kinds) fn request_part(new: &Object, old: &Object, deciding: bool) -> FieldErrors {
    let mut errors = Vec::new();
    if !deciding {
        conditions(new.list(&["status", "conditions"]), &mut errors);
    }
    let (before, after) = (old.str(&["status", "certificate"]), new.str(&["status", "certificate"]));
    if before != after
        && !after.is_empty()
        && let Some(why) = no_certificate(&decoded(after))
    {
        errors.push(FieldError::invalid("status.certificate", &"<certificate data>".into(), &why));
    }
    let mut forbid = |key: &str, detail: &str| errors.push(FieldError::forbidden(format!("status.{key}"), detail));
    let of = |object: &Object, ty: &str| -> Vec<Value> {
        object.list(&["status", "conditions"]).iter().filter(|condition| condition["type"] == ty).map(compact).collect()
    };
    for ty in FINAL.into_iter().filter(|ty| of(new, ty).len() < of(old, ty).len()) {
        forbid("conditions", &format!("updates may not remove a condition of type {ty:?}"));
    }
    for ty in DECISIONS.into_iter().filter(|_| !deciding) {
        let (before, after) = (of(old, ty), of(new, ty));
        if after.len() > before.len() {
            forbid("conditions", &format!("updates may not add a condition of type {ty:?}"));
        } else if after.len() == before.len() && after != before {
            forbid("conditions", &format!("updates may not modify a condition of type {ty:?}"));
        }
    }
    if before != after && !before.is_empty() {
        forbid("certificate", "updates may not modify existing certificate content");
    }
    errors
}

/// Without the texts that are empty, which is as good as absent.
fn compact(condition: &Value) -> Value {
    let mut condition = condition.clone();
    if let Some(fields) = condition.as_object_mut() {
        fields.retain(|_, value| value != "");
    }
    condition
}

fn no_certificate(pem: &str) -> Option<String> {
    let blocks: Vec<Block<'_>> = blocks(pem).collect();
    match blocks.iter().find(|block| block.label != "CERTIFICATE") {
        Some(other) => Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", other.label)),
        None if blocks.iter().any(has_headers) => Some("no PEM block headers are permitted".to_owned()),
        None => blocks.is_empty().then(|| "must contain at least one CERTIFICATE PEM block".to_owned()),
    }
}

/// A bundle of a signer is named after it: `example.com:path:name`.
pub(in crate::kinds) fn bundle_name(name: &str) -> Vec<String> {
    name.split(':').flat_map(names::dns1123_subdomain).collect()
}

pub(in crate::kinds) fn trust_bundle(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let (signer, name) = (object.str(&["spec", "signerName"]), object.name());
    let prefix = format!("{}:", signer.replace('/', ":"));
    if !signer.is_empty() && !name.starts_with(&prefix) {
        let detail = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
        errors.push(FieldError::invalid("metadata.name", &name.into(), &detail));
    }
    if signer.is_empty() && name.contains(':') {
        let detail = "ClusterTrustBundle without signer name must not have \":\" in its name";
        errors.push(FieldError::invalid("metadata.name", &name.into(), detail));
    }
    if !signer.is_empty() {
        signer_name(signer, &mut errors);
    }
    anchors(object.str(&["spec", "trustBundle"]), &mut errors);
    errors
}

/// Bytes of a trust bundle (upstream's MaxTrustBundleSize).
const BUNDLE_BYTES_MAX: usize = 1 << 20;

/// Certificates, each once. That each is of an authority is seen by who reads them.
fn anchors(bundle: &str, errors: &mut FieldErrors) {
    let at = "spec.trustBundle";
    if bundle.len() > BUNDLE_BYTES_MAX {
        errors.push(FieldError::too_long(at, BUNDLE_BYTES_MAX));
        return;
    }
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(at, &"<value omitted>".into(), detail));
    let blocks: Vec<Block<'_>> = blocks(bundle).collect();
    let fault = |(index, block): (usize, &Block<'_>)| match block.label {
        "CERTIFICATE" => has_headers(block).then(|| format!("entry {index} has PEM block headers")),
        other => Some(format!("entry {index} has bad block type: {other}")),
    };
    let faults: Vec<String> = blocks.iter().enumerate().filter_map(fault).collect();
    if !faults.is_empty() {
        return faults.iter().for_each(|fault| wrong(fault));
    }
    if blocks.is_empty() {
        wrong("at least one trust anchor must be provided");
    }
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (index, block) in blocks.iter().enumerate() {
        places.entry(block.body.split_whitespace().collect()).or_default().push(index.to_string());
    }
    for indices in places.values().filter(|indices| indices.len() > 1) {
        wrong(&format!("duplicate trust anchor (indices [{}])", indices.join(" ")));
    }
}

pub(in crate::kinds) fn trust_bundle_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec", "signerName"]])
}

static POD_REQUEST: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        spec.podName subdomain!
        spec.serviceAccountName subdomain!
        spec.nodeName subdomain!
        spec.stubPKCS10Request required
        "#,
    )
});

/// Bytes of a uid in a request.
const UID_BYTES_MAX: usize = 128;
/// Seconds that a pod's certificate may last: from an hour to a day of Kubernetes' own signers, and to 91 days of others.
const LIFE_MIN: i64 = 3600;
const LIFE_MAX_OWN: i64 = 86_400;
const LIFE_MAX: i64 = 7_862_400;

pub(in crate::kinds) fn pod_request(object: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let signer = object.str(&["spec", "signerName"]);
    signer_name(signer, &mut errors);
    errors.extend(by_table(&POD_REQUEST, object));
    for key in ["podUID", "serviceAccountUID", "nodeUID"] {
        let (at, uid) = (format!("spec.{key}"), object.str(&["spec", key]));
        if uid.is_empty() {
            errors.push(FieldError::invalid(at, &"".into(), "must not be empty"));
        } else if uid.len() > UID_BYTES_MAX {
            errors.push(FieldError::too_long(at, UID_BYTES_MAX));
        }
    }
    let domain = signer.split('/').next().unwrap_or("");
    let most = if domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") { LIFE_MAX_OWN } else { LIFE_MAX };
    let at = "spec.maxExpirationSeconds";
    match object.int(&["spec", "maxExpirationSeconds"]) {
        None => errors.push(FieldError::required(at, "must be set")),
        Some(seconds) if !(LIFE_MIN..=most).contains(&seconds) => {
            errors.push(FieldError::invalid(at, &seconds.into(), &format!("must be in the range [{LIFE_MIN}, {most}]")));
        }
        Some(_) => {}
    }
    errors
}

pub(in crate::kinds) fn pod_request_change(new: &Object, old: &Object) -> FieldErrors {
    immutable(new, old, &[&["spec"]])
}

/// How a pod's request may end.
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];

/// It ends once, and nothing else of its status is written before or after.
pub(in crate::kinds) fn pod_request_status(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = Vec::new();
    let given = new.list(&["status", "conditions"]);
    let mut has_end = false;
    for (index, condition) in given.iter().enumerate() {
        // Upstream writes the index as a field of its own.
        let (ty, at) = (text(condition, "type"), format!("status.conditions.[{index}]"));
        if !ENDS.contains(&ty) {
            errors.push(FieldError::not_supported_as_listed(format!("{at}.type"), &ty.into(), &ENDS));
            continue;
        }
        if std::mem::replace(&mut has_end, true) {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(FieldError::invalid(format!("{at}.type"), &ty.into(), detail));
        }
        if text(condition, "status") != "True" {
            errors.push(FieldError::not_supported(format!("{at}.status"), &condition["status"], &["True"]));
        }
    }
    super::conditions::conditions(given, "status.conditions", &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    let end = |object: &Object| object.list(&["status", "conditions"]).first().map(|condition| text(condition, "type").to_owned());
    let (before, after) = (old.get(&["status"]), new.get(&["status"]));
    let others = after.and_then(Value::as_object).is_some_and(|status| status.keys().any(|key| key != "conditions"));
    let detail = match (end(old), end(new).as_deref()) {
        (Some(_), _) if before != after => "immutable after PodCertificateRequest is issued, denied, or failed",
        (None, Some("Denied" | "Failed")) if others => {
            "non-condition status fields must be empty when denying or failing the PodCertificateRequest"
        }
        (None, None) if before != after => "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"",
        _ => return errors,
    };
    errors.push(FieldError::invalid_without_value("status", detail));
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
        check("example.com/a/b", 1);
        check("example.com/ns.name", 0);
        check("", 1);
        check("example.com", 1);
        check("example/a", 1);
        check("Example.com/a", 1);
        check("example.com/A", 1);
    }
}
