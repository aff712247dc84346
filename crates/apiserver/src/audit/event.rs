//! The audit event as upstream writes it (audit.k8s.io/v1, Event), field by field in the same order.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap as _};
use serde_json::Value;

use super::policy::{Level, Stage};
use crate::User;

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    pub(super) kind: &'static str,
    pub(super) api_version: &'static str,
    pub(super) level: Level,
    #[serde(rename = "auditID")]
    pub(super) audit_id: String,
    pub(super) stage: Stage,
    #[serde(rename = "requestURI")]
    pub(super) request_uri: String,
    pub(super) verb: String,
    #[serde(serialize_with = "user_info")]
    pub(super) user: Arc<User>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_user_info")]
    pub(super) impersonated_user: Option<Arc<User>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) authentication_metadata: Option<AuthenticationMetadata>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub(super) source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_status: Option<ResponseStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_object: Option<Value>,
    #[serde(serialize_with = "micros")]
    pub(super) request_received_timestamp: Timestamp,
    #[serde(serialize_with = "micros")]
    pub(super) stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "Annotations::is_empty")]
    pub(super) annotations: Annotations,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AuthenticationMetadata {
    pub(super) impersonation_constraint: &'static str,
}

fn user_info<S: Serializer>(user: &User, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct UserInfo<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        username: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        uid: &'a str,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        groups: &'a [String],
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        extra: &'a BTreeMap<String, Vec<String>>,
    }

    UserInfo { username: &user.name, uid: &user.uid, groups: &user.groups, extra: &user.extra }.serialize(serializer)
}

fn some_user_info<S: Serializer>(user: &Option<Arc<User>>, serializer: S) -> Result<S::Ok, S::Error> {
    match user {
        Some(user) => user_info(user, serializer),
        None => serializer.serialize_none(),
    }
}

/// What a request was answered with.
#[derive(Clone, Debug)]
pub(super) enum ResponseStatus {
    /// Nearly always: only a code.
    Code(u16),
    /// A meta.k8s.io/v1 Status.
    Told(Value),
}

impl Serialize for ResponseStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Empty {}

        match self {
            Self::Code(code) => {
                let mut status = serializer.serialize_map(Some(2))?;
                status.serialize_entry("metadata", &Empty {})?;
                status.serialize_entry("code", code)?;
                status.end()
            }
            Self::Told(status) => status.serialize(serializer),
        }
    }
}

/// A few, which every request has: cheaper in a row than in a map.
#[derive(Clone, Debug, Default)]
pub(super) struct Annotations(Vec<(Cow<'static, str>, String)>);

impl Annotations {
    /// The first value of a key stays.
    pub(super) fn add(&mut self, key: Cow<'static, str>, value: &str) {
        if self.0.iter().all(|(have, _)| *have != key) {
            self.0.push((key, value.to_owned()));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Annotations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sorted: Vec<_> = self.0.iter().map(|(key, value)| (key, value)).collect();
        sorted.sort_unstable();
        serializer.collect_map(sorted)
    }
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) subresource: String,
}

/// A MicroTime: always six digits.
fn micros<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

/// Takes `metadata.managedFields` off an object, or off each item of a list.
pub(super) fn without_managed_fields(value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(without_managed_fields);
    }
}
