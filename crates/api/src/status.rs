//! `Status`: the one form in which the API says that something went wrong. Reasons, codes and words are upstream's
//! (apimachinery, pkg/api/errors), because clients branch on the reason and people search for the words.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use crate::error::FieldError;

/// A failure, as a client will see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// Boxed: a Status travels in many a `Result`, and details are wanted only at its end.
    pub details: Option<Box<Details>>,
}

/// Different reasons that others may give in a server's life. Webhooks choose theirs freely, and some put a whole message there.
const REASONS_MAX: usize = 1000;

/// A reason that someone else gave; none when there were too many different ones already.
pub fn reason(text: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match known.get(text) {
        Some(reason) => reason,
        None if text.is_empty() || known.len() == REASONS_MAX => "",
        None => {
            let kept: &'static str = Box::leak(text.into());
            known.insert(kept);
            kept
        }
    }
}

/// What the failure was about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource's plural, or the kind where the object is invalid, as upstream.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    /// 0 = the client is not told when to come back.
    pub retry_after_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

impl Status {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Status {
        Status { code, reason, message: message.into(), details: None }
    }

    pub fn with_details(mut self, details: Details) -> Status {
        self.details = Some(Box::new(details));
        self
    }

    /// With the details of another Status, in its JSON form.
    pub fn with_json_details(mut self, details: &Value) -> Status {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let cause = |cause: &Value| Cause { reason: text(cause, "reason"), message: text(cause, "message"), field: text(cause, "field") };
        if details.is_object() {
            self.details = Some(Box::new(Details {
                name: text(details, "name"),
                group: text(details, "group"),
                kind: text(details, "kind"),
                uid: text(details, "uid"),
                causes: details["causes"].as_array().into_iter().flatten().map(cause).collect(),
                retry_after_seconds: details["retryAfterSeconds"].as_u64().and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(0),
            }));
        }
        self
    }

    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
    }

    /// The `v1` Status object.
    pub fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_json();
        }
        status
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Details {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (key, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            put(&mut map, key, value);
        }
        if !self.causes.is_empty() {
            map.insert("causes".into(), self.causes.iter().map(Cause::to_json).collect());
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (key, value) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            put(&mut map, key, value);
        }
        Value::Object(map)
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        map.insert(key.into(), value.into());
    }
}

/// `deployments.apps`, or `pods` in the core group. Also right for kinds.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn about(group: &str, resource: &str, name: &str) -> Details {
    Details { name: name.to_owned(), group: group.to_owned(), kind: resource.to_owned(), ..Details::default() }
}

fn retry(seconds: u32) -> Details {
    Details { retry_after_seconds: seconds, ..Details::default() }
}

/// `pods "x" not found`
pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
    Status::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, resource))).with_details(about(group, resource, name))
}

/// For paths that name no resource at all.
pub fn no_such_resource() -> Status {
    Status::new(404, "NotFound", "the server could not find the requested resource").with_details(Details::default())
}

/// `deployments.apps "web" already exists`
pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
    Status::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(group, resource)))
        .with_details(about(group, resource, name))
}

/// For a `generateName` whose every attempt was taken.
pub fn generate_name_conflict(group: &str, resource: &str, name: &str, retry_after_seconds: u32) -> Status {
    let message =
        format!("{} {name:?} already exists, the server was not able to generate a unique name for the object", qualified(group, resource));
    Status::new(409, "AlreadyExists", message).with_details(Details { retry_after_seconds, ..about(group, resource, name) })
}

/// The words upstream gives for a stale resourceVersion.
pub const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// `Operation cannot be fulfilled on deployments.apps "web": <why>`
pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource));
    Status::new(409, "Conflict", message).with_details(about(group, resource, name))
}

/// `Pod "x" is invalid: spec.containers: Required value`. Takes the kind, not the resource.
pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
    let mut lines: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let line = error.to_string();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let list = match lines.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    let mut message = format!("{} {name:?} is invalid", qualified(group, kind));
    if !errors.is_empty() {
        message.push_str(": ");
        message.push_str(&list);
    }
    let causes = errors
        .iter()
        .map(|error| Cause { reason: error.kind.reason().to_owned(), message: error.message.clone(), field: error.path.clone() })
        .collect();
    Status::new(422, "Invalid", message).with_details(Details { causes, ..about(group, kind, name) })
}

pub fn bad_request(message: impl Into<String>) -> Status {
    Status::new(400, "BadRequest", message)
}

/// `pods "x" is forbidden: <why>`; name and resource may be empty.
pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
    let message = match (qualified(group, resource).as_str(), name) {
        ("", _) => format!("forbidden: {why}"),
        (resource, "") => format!("{resource} is forbidden: {why}"),
        (resource, name) => format!("{resource} {name:?} is forbidden: {why}"),
    };
    Status::new(403, "Forbidden", message).with_details(about(group, resource, name))
}

pub fn unauthorized() -> Status {
    Status::new(401, "Unauthorized", "Unauthorized")
}

/// 410: the asked resourceVersion is no longer in history.
pub fn gone_expired(message: impl Into<String>) -> Status {
    Status::new(410, "Expired", message)
}

/// 504: the asked resourceVersion is not there yet. Reflectors look for the cause's reason.
pub fn timeout_too_large_rv(asked: u64, current: u64) -> Status {
    let cause =
        Cause { reason: "ResourceVersionTooLarge".to_owned(), message: "Too large resource version".to_owned(), field: String::new() };
    let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
    Status::new(504, "Timeout", message).with_details(Details { causes: vec![cause], ..retry(1) })
}

pub fn timeout(message: &str, retry_after_seconds: u32) -> Status {
    Status::new(504, "Timeout", format!("Timeout: {message}")).with_details(retry(retry_after_seconds))
}

/// `patch is not supported on resources of kind "pods"`
pub fn method_not_allowed(group: &str, resource: &str, action: &str) -> Status {
    let message = format!("{action} is not supported on resources of kind {:?}", qualified(group, resource));
    Status::new(405, "MethodNotAllowed", message).with_details(about(group, resource, ""))
}

/// 415. `accepted`: the media types that would have been read.
pub fn unsupported_media_type(accepted: &[&str]) -> Status {
    let message = format!("the body of the request was in an unknown format - accepted media types include: {}", accepted.join(", "));
    Status::new(415, "UnsupportedMediaType", message)
}

/// 406. `accepted`: the media types that could have been written.
pub fn not_acceptable(accepted: &[&str]) -> Status {
    Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {}", accepted.join(", ")))
}

pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
    Status::new(429, "TooManyRequests", message).with_details(retry(retry_after_seconds))
}

pub fn service_unavailable(message: impl Into<String>, retry_after_seconds: u32) -> Status {
    Status::new(503, "ServiceUnavailable", message).with_details(retry(retry_after_seconds))
}

pub fn internal(message: impl Into<String>) -> Status {
    let message = message.into();
    let cause = Cause { message: message.clone(), ..Cause::default() };
    Status::new(500, "InternalError", format!("Internal error occurred: {message}"))
        .with_details(Details { causes: vec![cause], ..Details::default() })
}

pub fn request_entity_too_large(limit_bytes: usize) -> Status {
    let message = format!("Request entity is too large: limit is {limit_bytes}");
    Status::new(413, "RequestEntityTooLarge", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: Status, code: u16, reason: &str, message: &str) {
        assert_eq!((status.code, status.reason, status.message.as_str()), (code, reason, message));
    }

    #[test]
    fn words_are_upstreams() {
        check(not_found("", "pods", "x"), 404, "NotFound", r#"pods "x" not found"#);
        check(already_exists("apps", "deployments", "web"), 409, "AlreadyExists", r#"deployments.apps "web" already exists"#);
        check(
            conflict("apps", "deployments", "web", MODIFIED),
            409,
            "Conflict",
            "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your changes to the latest version and try again",
        );
        let errors = [FieldError::required("spec.containers", "")];
        check(invalid("", "Pod", "x", &errors), 422, "Invalid", r#"Pod "x" is invalid: spec.containers: Required value"#);
        check(forbidden("", "pods", "x", "no"), 403, "Forbidden", r#"pods "x" is forbidden: no"#);
        check(forbidden("", "pods", "", "no"), 403, "Forbidden", "pods is forbidden: no");
        check(forbidden("", "", "", "no"), 403, "Forbidden", "forbidden: no");
    }

    #[test]
    fn invalid_lists_each_fault_once_and_as_a_cause() {
        let one = FieldError::invalid("spec.ports[0].port", &0.into(), "must be between 1 and 65535, inclusive");
        let two = FieldError::not_supported("spec.type", &"X".into(), &["NodePort", "ClusterIP"]);
        let status = invalid("", "Service", "s", &[one.clone(), one.clone(), two]);
        assert_eq!(
            status.message,
            "Service \"s\" is invalid: [spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive, \
             spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"NodePort\"]"
        );
        let json = status.to_json();
        assert_eq!(json["details"]["causes"][0]["field"], "spec.ports[0].port");
        assert_eq!(json["details"]["causes"][0]["reason"], "FieldValueInvalid");
        assert_eq!(json["details"]["kind"], "Service");
    }
}
