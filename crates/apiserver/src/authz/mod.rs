//! May this caller do that?
//!
//! Two authorizers in this order, the first that allows wins: the node authorizer, which lets a kubelet read what the pods on its
//! node refer to ([`node`]), and RBAC ([`rbac`]). `system:masters` may always do everything. The RBAC index is built from the
//! store's snapshot and then follows its watches; the node authorizer asks the snapshot itself and holds nothing.

pub(crate) mod escalation;
mod node;
mod rbac;
mod rules;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use knarr_api::status::{self, Status};
use knarr_store::{Collection, EventKind, HistoryError, Revision, Store, Watch};
use parking_lot::RwLock;

use crate::User;
use crate::auth::GROUP_MASTERS;
pub(crate) use node::{Referent, visit_references};
pub(crate) use rules::{Rule, uncovered};

/// What a caller wants to do. Empty strings stand for what does not apply.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `bind`, `escalate`, `impersonate`, ...;
    /// for paths that are no resource the HTTP method in lower case.
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
    /// The URL's path.
    pub path: &'a str,
    /// Whether the resource fields apply; otherwise only `path` does.
    pub resource_request: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
    /// This authorizer does not know; without another, it is a denial.
    NoOpinion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// For the message of the 403 and for reviews.
    pub reason: String,
}

impl Decision {
    pub fn allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

impl<'a> Attributes<'a> {
    /// A request by `user` for a resource; the other fields are empty.
    pub fn resource(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str) -> Attributes<'a> {
        Attributes { user, verb, group, version: "", resource, subresource: "", name: "", namespace: "", path: "", resource_request: true }
    }

    /// The 403 for this request, worded as upstream words it (apiserver's responsewriters, forbiddenMessage).
    pub fn forbidden(&self, decision: &Decision) -> Status {
        let mut message = if self.resource_request {
            let resource = match self.subresource {
                "" => self.resource.to_owned(),
                subresource => format!("{}/{subresource}", self.resource),
            };
            let scope = match self.namespace {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!("User {:?} cannot {} resource {resource:?} in API group {:?} {scope}", self.user.name, self.verb, self.group)
        } else {
            format!("User {:?} cannot {} path {:?}", self.user.name, self.verb, self.path)
        };
        if !decision.reason.is_empty() {
            message.push_str(": ");
            message.push_str(&decision.reason);
        }
        match self.resource_request {
            true => status::forbidden(self.group, self.resource, self.name, &message),
            false => status::forbidden("", "", "", &message),
        }
    }
}

/// Decides every request. Shared by the request pipeline, impersonation, reviews and the escalation checks.
pub struct Authorizer {
    store: Arc<dyn Store>,
    index: RwLock<rbac::Index>,
}

impl Authorizer {
    /// The authorizer for the store's present roles, and the future that keeps it current for as long as it is polled.
    pub fn open(store: Arc<dyn Store>) -> (Arc<Authorizer>, impl Future<Output = ()> + Send + 'static) {
        let authorizer = Arc::new(Authorizer { store, index: RwLock::default() });
        let revision = authorizer.rebuild();
        (authorizer.clone(), follow(authorizer, revision))
    }

    pub fn authorize(&self, request: &Attributes<'_>) -> Decision {
        if request.user.in_group(GROUP_MASTERS) {
            return Decision { verdict: Verdict::Allow, reason: String::new() };
        }
        if let Some(node) = request.user.node_name() {
            let decision = node::authorize(&self.store.snapshot(), node, request);
            if decision.verdict != Verdict::NoOpinion {
                return decision;
            }
            let rbac = self.index.read().authorize(request);
            return match rbac.verdict {
                Verdict::NoOpinion => decision,
                _ => rbac,
            };
        }
        self.index.read().authorize(request)
    }

    /// [`Authorizer::authorize`], as the 403 that the caller gets.
    pub fn require(&self, request: &Attributes<'_>) -> Result<(), Status> {
        let decision = self.authorize(request);
        match decision.allowed() {
            true => Ok(()),
            false => Err(request.forbidden(&decision)),
        }
    }

    /// Every rule that `user` holds in `namespace`, and why the list may be incomplete.
    pub(crate) fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Option<String>) {
        let (mut rules, mut gap) = self.index.read().rules_for(user, namespace);
        if user.in_group(GROUP_MASTERS) {
            rules.insert(0, Rule::everything());
            rules.insert(1, Rule::every_path());
        }
        if user.node_name().is_some() {
            gap = Some("node authorizer does not support user rule resolution".to_owned());
        }
        (rules, gap)
    }

    /// Reads all roles and bindings anew; answers the revision that the index then stands for.
    fn rebuild(&self) -> Revision {
        let snapshot = self.store.snapshot();
        let mut index = rbac::Index::default();
        for collection in rbac::COLLECTIONS {
            for entry in snapshot.range(&Collection::new(collection), "", None) {
                apply(&mut index, collection, &entry.key.name, Some(&entry.value));
            }
        }
        *self.index.write() = index;
        snapshot.revision
    }
}

fn apply(index: &mut rbac::Index, collection: &str, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(serde_json::from_slice).transpose() {
        Ok(object) => index.apply(collection, name, object.as_ref()),
        Err(error) => {
            // Nothing but the API server writes there. A role that cannot be read gives nothing.
            tracing::error!(collection, name, %error, "stored role or binding is not JSON; it is taken as absent");
            index.apply(collection, name, None);
        }
    }
}

/// Applies every change of the four collections after `revision`. Ends when the store is closed.
async fn follow(authorizer: Arc<Authorizer>, mut revision: Revision) {
    loop {
        match watch_all(&authorizer, revision).await {
            HistoryError::Closed => return,
            // Too slow, or the history was cut: begin again from the present.
            HistoryError::Compacted { .. } | HistoryError::Future { .. } => revision = authorizer.rebuild(),
        }
    }
}

async fn watch_all(authorizer: &Authorizer, revision: Revision) -> HistoryError {
    let mut waiting = FuturesUnordered::new();
    for collection in rbac::COLLECTIONS {
        match authorizer.store.watch(&Collection::new(collection), revision) {
            Ok(watch) => waiting.push(next(watch, collection)),
            Err(error) => return error,
        }
    }
    while let Some((watch, collection, batch)) = waiting.next().await {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return error,
        };
        let mut index = authorizer.index.write();
        for event in &batch.events {
            let bytes = (event.kind == EventKind::Put).then_some(&*event.entry.value);
            apply(&mut index, collection, &event.entry.key.name, bytes);
        }
        drop(index);
        waiting.push(next(watch, collection));
    }
    HistoryError::Closed
}

type Next = (Watch, &'static str, Result<knarr_store::Batch, HistoryError>);

async fn next(mut watch: Watch, collection: &'static str) -> Next {
    let batch = watch.next().await;
    (watch, collection, batch)
}
