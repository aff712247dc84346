//! One request, once it is known who asks for what.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use http::{HeaderMap, Method, header};
use hyper::upgrade::OnUpgrade;
use knarr_api::{Kind, Object, Status, status};
use knarr_store::{Collection, Entry, Key};
use parking_lot::Mutex;
use serde_json::Value;

use crate::{
    User,
    admission::{self, Operation},
    audit::Trail,
    request::{media::Answer, options::Query, path::ResourcePath},
    server::Core,
};

/// A request for a resource that exists, by someone who may.
pub(crate) struct Call {
    pub(crate) core: Arc<Core>,
    pub(crate) user: Arc<User>,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) raw_query: Option<String>,
    pub(crate) path: ResourcePath,
    pub(crate) kind: Arc<Kind>,
    pub(crate) answer: Answer,
    pub(crate) warnings: Warnings,
    /// What admission tells the audit log.
    pub(crate) annotations: Mutex<BTreeMap<String, String>>,
    /// Where the request is recorded, if it is.
    pub(crate) trail: Option<Arc<Trail>>,
    /// Where the client's connection comes from; none for a component of this process.
    pub(crate) address: Option<IpAddr>,
    pub(crate) upgrade: Mutex<Option<OnUpgrade>>,
}

impl Call {
    /// The same request, had it been for a part of an object of another kind of the group.
    pub(crate) fn about(&self, resource: &str, name: &str, subresource: &str) -> Result<Self, Status> {
        let kind = self.core.published().kinds.resource(&self.path.group, &self.path.version, resource);
        let (resource, name, subresource) = (resource.to_owned(), name.to_owned(), subresource.to_owned());
        Ok(Self {
            core: self.core.clone(),
            user: self.user.clone(),
            method: self.method.clone(),
            headers: self.headers.clone(),
            query: self.query.clone(),
            raw_query: self.raw_query.clone(),
            path: ResourcePath { resource, name, subresource, ..self.path.clone() },
            kind: kind.ok_or_else(status::no_such_resource)?,
            answer: self.answer,
            warnings: Warnings::default(),
            annotations: Mutex::default(),
            trail: self.trail.clone(),
            upgrade: Mutex::default(),
            address: self.address,
        })
    }

    pub(crate) fn collection(&self) -> Collection {
        Collection::new(self.kind.storage_collection())
    }

    /// The key of the object `name` in the path's namespace.
    pub(crate) fn key_of(&self, name: &str) -> Key {
        Key::new(&self.collection(), self.namespace(), name)
    }

    pub(crate) fn key(&self) -> Key {
        self.key_of(&self.path.name)
    }

    /// Where the object lives; empty for cluster-scoped kinds, `namespaces` among them.
    pub(crate) fn namespace(&self) -> &str {
        if self.path.namespaced { &self.path.namespace } else { "" }
    }

    /// What the path names, as it is now.
    pub(crate) fn live(&self) -> Result<Arc<Entry>, Status> {
        self.core.store.snapshot().get(&self.key()).cloned().ok_or_else(|| self.not_found(&self.path.name))
    }

    pub(crate) fn live_object(&self) -> Result<Object, Status> {
        decode(&self.kind, &*self.live()?)
    }

    pub(crate) fn not_found(&self, name: &str) -> Status {
        status::not_found(&self.kind.group, &self.kind.resource, name)
    }

    pub(crate) fn conflict(&self, name: &str, message: &str) -> Status {
        status::conflict(&self.kind.group, &self.kind.resource, name, message)
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Asks the admission chain about an act on this call's resource: it may change `object`, or refuse.
    ///
    /// The answer is whether someone outside changed it, so that what was prepared before is to be prepared once more.
    pub(crate) async fn admit(&self, act: &Act<'_>, phase: Phase, object: &mut Object, old: Option<&Object>) -> Result<bool, Status> {
        let mut warnings = Vec::new();
        let mut annotations = BTreeMap::new();
        let mut request = admission::Request {
            user: &self.user,
            kind: &self.kind,
            subresource: act.subresource,
            operation: act.operation,
            patches: self.method == Method::PATCH,
            namespace: self.namespace(),
            name: act.name,
            object,
            old,
            dry_run: act.dry_run,
            options: act.options,
            warnings: &mut warnings,
            annotations: &mut annotations,
        };
        let result = match phase {
            Phase::Mutate => self.core.admission.admit(&mut request).await,
            Phase::Validate => self.core.admission.validate(&mut request).await.map(|()| false),
        };
        self.warnings.add(warnings);
        self.annotations.lock().append(&mut annotations);
        result
    }

    pub(crate) fn take_upgrade(&self) -> Option<OnUpgrade> {
        self.upgrade.lock().take()
    }

    /// Whose fields a write owns: `fieldManager`, or the first word of the user agent (endpoints/handlers/create.go, managerOrUserAgent).
    pub(crate) fn manager(&self, field_manager: &str) -> String {
        if !field_manager.is_empty() {
            return field_manager.to_owned();
        }
        let agent = self.header(header::USER_AGENT).unwrap_or_default();
        let word: String = agent.split('/').next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(128).collect();
        if word.is_empty() { component(&self.user.name).to_owned() } else { word }
    }
}

/// What a user without a user agent is called: components in this process send none.
fn component(user: &str) -> &str {
    match user.strip_prefix("system:").map(|rest| rest.split_once(':').unwrap_or((rest, ""))) {
        Some(("node", _)) => "kubelet",
        Some((name, _)) if !name.is_empty() => name,
        _ => "unknown",
    }
}

/// The stored object, taken apart, as an object of `kind`.
pub(crate) fn decode(kind: &Kind, entry: &Entry) -> Result<Object, Status> {
    let object = serde_json::from_slice(&entry.value).ok().and_then(Object::from_value);
    let mut object = object.ok_or_else(|| status::internal(format!("stored {} is not an object", entry.key)))?;
    kind.from_storage(&mut object);
    Ok(object)
}

/// What admission is asked about.
#[derive(Clone, Copy)]
pub(crate) struct Act<'a> {
    pub(crate) operation: Operation,
    pub(crate) subresource: &'a str,
    pub(crate) name: &'a str,
    pub(crate) dry_run: bool,
    pub(crate) options: &'a (dyn Fn() -> Value + Sync),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Before validation: the object may be changed.
    Mutate,
    /// After it.
    Validate,
}

/// What the client shall be told beside the answer, in Warning headers.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

/// Bytes of all warnings together. Above that each is cut, and then what does not fit is left out (KEP-1693).
const WARNING_BYTES_MAX: usize = 4 << 10;
const CUT_WARNING_BYTES: usize = 256;

impl Warnings {
    pub(crate) fn add(&self, warnings: impl IntoIterator<Item = String>) {
        let mut known = self.0.lock();
        for warning in warnings {
            if !known.contains(&warning) {
                known.push(warning);
            }
        }
    }

    /// The values of the Warning headers (RFC 7234, 5.5).
    pub(crate) fn headers(&self) -> Vec<String> {
        let texts = self.0.lock();
        let cut = texts.iter().map(String::len).sum::<usize>() > WARNING_BYTES_MAX;
        let mut left = WARNING_BYTES_MAX;
        let mut values = Vec::new();
        for text in texts.iter() {
            let text = if cut { &text[..text.floor_char_boundary(CUT_WARNING_BYTES)] } else { text };
            match left.checked_sub(text.len()) {
                Some(rest) => left = rest,
                None => break,
            }
            values.push(format!("299 - \"{}\"", quoted(text)));
        }
        values
    }
}

fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_told_once_and_quoted() {
        let warnings = Warnings::default();
        warnings.add(["unknown field \"x\"".to_owned(), "unknown field \"x\"".to_owned(), "a\nb".to_owned()]);
        assert_eq!(warnings.headers(), [r#"299 - "unknown field \"x\"""#, r#"299 - "a b""#]);
    }

    #[test]
    fn long_warnings_are_cut_and_then_left_out() {
        let warnings = Warnings::default();
        warnings.add((0..100).map(|n| format!("{n:03}{}", "x".repeat(1000))));
        let headers = warnings.headers();
        assert_eq!(headers.len(), WARNING_BYTES_MAX / CUT_WARNING_BYTES);
        assert!(headers.iter().all(|header| header.len() < CUT_WARNING_BYTES + 20));
    }
}
