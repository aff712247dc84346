//! certificates.k8s.io/v1.

use std::sync::LazyLock;

use serde_json::Value;

use super::apps::apply;
use super::columns::{age, name, or_none, text};
use super::defaults::Defaults;
use super::prepare::OBJECT_METADATA;
use super::row::row;
use super::validate::certificates as rules;
use crate::kind::{Kind, VerbSet};
use crate::object::Object;
use crate::time;

const GROUP: &str = "certificates.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row(GROUP, "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .cluster()
            .short(&["csr"])
            .named(crate::names::path_segment)
            .sub("approval", "certificates.k8s.io/v1 CertificateSigningRequest", VerbSet::GET_PATCH_UPDATE)
            .status()
            // The spec says who asks: it is written once, by the server.
            .resets(&["spec"])
            .validate_by(rules::request)
            .validate_status_by(|new, old| rules::request_part(new, old, false))
            .validate_part_by(|new, old, _| rules::request_part(new, old, true))
            .columns(vec![
                name(),
                age(),
                text("SignerName", |o, _| o.str(&["spec", "signerName"]).into()),
                text("Requestor", |o, _| o.str(&["spec", "username"]).into()),
                text("RequestedDuration", |o, _| match o.int(&["spec", "expirationSeconds"]) {
                    Some(seconds) => time::human_duration(seconds).into(),
                    None => "<none>".into(),
                }),
                text("Condition", condition),
            ])
            .select("spec.signerName", |o| o.str(&["spec", "signerName"]).to_owned()),
        row(GROUP, "v1", "ClusterTrustBundle", "clustertrustbundles")
            .cluster()
            .named(rules::bundle_name)
            .validate_by(rules::trust_bundle)
            .validate_change_by(rules::trust_bundle_change)
            .columns(vec![name(), text("SignerName", |o, _| or_none(o.str(&["spec", "signerName"]))), age()])
            .select("spec.signerName", |o| o.str(&["spec", "signerName"]).to_owned()),
        row(GROUP, "v1", "PodCertificateRequest", "podcertificaterequests")
            .status()
            .status_leaves(&OBJECT_METADATA)
            .default_by(|object| apply(object, &POD_REQUEST))
            .validate_by(rules::pod_request)
            .validate_change_by(rules::pod_request_change)
            .validate_status_by(rules::pod_request_status)
            .columns(vec![
                name(),
                text("PodName", |o, _| o.str(&["spec", "podName"]).into()),
                text("ServiceAccountName", |o, _| o.str(&["spec", "serviceAccountName"]).into()),
                text("NodeName", |o, _| o.str(&["spec", "nodeName"]).into()),
                text("SignerName", |o, _| o.str(&["spec", "signerName"]).into()),
                text("State", state),
                age(),
            ])
            .select("spec.signerName", |o| o.str(&["spec", "signerName"]).to_owned())
            .select("spec.podName", |o| o.str(&["spec", "podName"]).to_owned())
            .select("spec.nodeName", |o| o.str(&["spec", "nodeName"]).to_owned()),
    ]
}

static POD_REQUEST: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse("spec.maxExpirationSeconds = 86400"));

fn conditions(object: &Object) -> impl Iterator<Item = &str> {
    object.list(&["status", "conditions"]).iter().filter_map(|condition| condition["type"].as_str())
}

/// `Pending`, or `Approved,Issued`
fn condition(object: &Object, _: jiff::Timestamp) -> Value {
    let has = |ty: &str| conditions(object).any(|have| have == ty);
    // A denial outweighs an approval.
    let mut words = vec![match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    }];
    if has("Failed") {
        words.push("Failed");
    }
    if !object.str(&["status", "certificate"]).is_empty() {
        words.push("Issued");
    }
    words.join(",").into()
}

fn state(object: &Object, _: jiff::Timestamp) -> Value {
    let known = ["Issued", "Denied", "Failed"];
    known.into_iter().find(|known| conditions(object).any(|have| have == *known)).unwrap_or("Pending").into()
}
