//! AdmissionReview: the question that a hook is sent and the answer that it gives (admission.k8s.io/v1 and v1beta1;
//! apiserver, admission/plugin/webhook/request/admissionreview.go).

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use knarr_api::Status;
use serde_json::{Value, json};

const GROUP: &str = "admission.k8s.io";

/// `request` is an AdmissionRequest without its uid.
pub(super) fn question(version: &str, mut request: Value, uid: &str) -> Bytes {
    request["uid"] = uid.into();
    let review = json!({"kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{version}"), "request": request});
    review.to_string().into()
}

/// An answer that keeps to the rules.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// JSON patch; empty if nothing is to be changed.
    pub(super) patch: Vec<u8>,
    pub(super) status: Value,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) warnings: Vec<String>,
}

impl Answer {
    /// The error is upstream's message.
    pub(super) fn read(bytes: &[u8], version: &str, uid: &str, mutating: bool) -> Result<Answer, String> {
        let review: Value = serde_json::from_slice(bytes).map_err(|error| format!("the answer is not JSON: {error}"))?;
        let response = &review["response"];
        if !response.is_object() {
            return Err("webhook response was absent".to_owned());
        }
        let patch = match response["patch"].as_str() {
            Some(text) => base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| format!("response.patch: {error}"))?,
            None => Vec::new(),
        };
        if version == "v1" {
            check(&review, uid, mutating, &patch)?;
        }
        if mutating && !patch.is_empty() && version == "v1" && response["patchType"] != "JSONPatch" {
            return Err(format!("unsupported patch type {}", response["patchType"]));
        }
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
        Ok(Answer {
            allowed: response["allowed"] == true,
            patch: if mutating { patch } else { Vec::new() },
            status: response["status"].clone(),
            annotations: annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            warnings: texts(&response["warnings"]),
        })
    }

    /// What the client of the denied request is answered (admission/plugin/webhook/errors, ToStatusErr).
    pub(super) fn denial(&self, hook: &str) -> Status {
        let text = |key: &str| self.status[key].as_str().unwrap_or_default();
        let denied = format!("admission webhook \"{hook}\" denied the request");
        let message = match (text("message"), text("reason")) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        let code = self.status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
        Status::new(code.unwrap_or(400), knarr_api::status::reason(text("reason")), message).with_json_details(&self.status["details"])
    }
}

fn check(review: &Value, uid: &str, mutating: bool, patch: &[u8]) -> Result<(), String> {
    let response = &review["response"];
    let answered = response["uid"].as_str().unwrap_or_default();
    if answered != uid {
        return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
    }
    let text = |key: &str| review[key].as_str().unwrap_or_default();
    if (text("apiVersion"), text("kind")) != ("admission.k8s.io/v1", "AdmissionReview") {
        return Err(format!(
            "expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {}, Kind={}",
            text("apiVersion"),
            text("kind")
        ));
    }
    let typed = !response["patchType"].is_null();
    match (mutating, patch.is_empty(), typed) {
        (true, false, false) => Err("webhook returned response.patch but not response.patchType".to_owned()),
        (true, true, true) => Err("webhook returned response.patchType but not response.patch".to_owned()),
        (true, false, true) if response["patchType"] == "" => Err("webhook returned invalid response.patchType of \"\"".to_owned()),
        (false, false, _) => Err("validating webhook may not return response.patch".to_owned()),
        (false, true, true) => Err("validating webhook may not return response.patchType".to_owned()),
        _ => Ok(()),
    }
}
