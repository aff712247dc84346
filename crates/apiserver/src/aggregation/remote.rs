//! What is known of the versions that other servers serve: whom to call, whether it works, and what its documents said last.
//!
//! Requests read a [`Remotes`] that is published with the kinds; the follower publishes another when something changes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use knarr_api::Object;
use serde_json::Value;

use super::local::Priorities;
use crate::{
    callout,
    request::path::{ResourcePath, Target},
};

/// The Service in front of an extension server, and how its certificate is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) port: u16,
    /// PEM of the authorities that its certificate must be of; empty for those of the host.
    pub(super) ca_bundle: Vec<u8>,
    pub(super) insecure: bool,
}

impl Service {
    /// None of an APIService of this server's own.
    pub(super) fn of(api_service: &Object) -> Option<Service> {
        use base64::Engine;
        api_service.get(&["spec", "service"]).filter(|service| service.is_object())?;
        let text = |key: &str| api_service.str(&["spec", "service", key]).to_owned();
        let bundle = api_service.str(&["spec", "caBundle"]);
        Some(Service {
            namespace: text("namespace"),
            name: text("name"),
            port: api_service.int(&["spec", "service", "port"]).and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            ca_bundle: base64::engine::general_purpose::STANDARD.decode(bundle).unwrap_or_default(),
            insecure: api_service.bool(&["spec", "insecureSkipTLSVerify"]),
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Not asked yet.
    #[default]
    Unknown,
    Available,
    Unavailable {
        reason: &'static str,
        message: String,
    },
}

/// A document of an extension server, and the tag by which it tells whether it has changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Document {
    pub(super) tag: String,
    pub(super) bytes: Bytes,
}

/// What a server has told of one of its versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    /// The resources, as an aggregated discovery document lists them. They stay when the server goes: stale, but known.
    pub(crate) resources: Option<Value>,
    /// Where its OpenAPI document of version 3 is, hash included.
    pub(crate) openapi_v3: Option<String>,
    /// Its whole document of version 2.
    pub(crate) openapi_v2: Document,
    pub(super) discovery: Document,
}

/// One version of a group that another server serves.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) priorities: Priorities,
    pub(crate) service: Service,
    /// None if the APIService cannot be used, which its condition then tells.
    pub(crate) target: Option<Arc<callout::Target>>,
    pub(crate) availability: Availability,
    pub(crate) told: Told,
}

impl Remote {
    /// `/apis/metrics.k8s.io/v1beta1`
    pub(crate) fn root(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }

    /// Whether clients would see no difference.
    pub(super) fn same(&self, other: &Remote) -> bool {
        self.priorities == other.priorities
            && self.service == other.service
            && self.availability == other.availability
            && self.told == other.told
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("version", &self.root()).field("service", &self.service.name).finish_non_exhaustive()
    }
}

/// All of them, by group and version.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remotes(pub(super) BTreeMap<(String, String), Arc<Remote>>);

impl Remotes {
    pub(crate) fn get(&self, group: &str, version: &str) -> Option<&Arc<Remote>> {
        // Nearly every server has none, and nearly every request comes by here.
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(group.to_owned(), version.to_owned()))
    }

    /// Who serves a request, if it is another server: a resource of its version, or the list of them.
    pub(crate) fn serving(&self, target: &Target, url_path: &str) -> Option<&Arc<Remote>> {
        if self.0.is_empty() {
            return None;
        }
        match target {
            Target::Resource(ResourcePath { group, version, .. }) => self.get(group, version),
            Target::Other => {
                let mut segments = url_path.trim_end_matches('/').split('/').skip(1);
                let path = (segments.next()?, segments.next()?, segments.next()?, segments.next());
                match path {
                    ("apis", group, version, None) => self.get(group, version),
                    _ => None,
                }
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Remote>> {
        self.0.values()
    }
}
