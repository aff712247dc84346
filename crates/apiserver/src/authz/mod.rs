//! May this caller do that?
//!
//! The node authorizer, which lets a kubelet read what the pods on its node refer to ([`node`]), and RBAC ([`rbac`]), in this order; or those of an
//! AuthorizationConfiguration ([`configuration`]), webhooks among them. The first that allows or denies wins. `system:masters` may always do
//! everything. The RBAC index is built from the store's snapshot and then follows its watches; the node authorizer asks the snapshot itself and
//! holds nothing. Only a webhook that must be asked makes anyone wait, and never a thread: who cannot wait has his [`Questions`] answered.

mod configuration;
pub(crate) mod escalation;
mod node;
mod questions;
mod rbac;
mod rules;
mod selectors;
#[cfg(test)]
mod tests;
mod webhook;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use futures::stream::{FuturesUnordered, StreamExt};
use knarr_api::status::{self, Status};
use knarr_store::{Collection, EventKind, HistoryError, Revision, Store, Watch};
use parking_lot::RwLock;

use crate::User;
use crate::auth::GROUP_MASTERS;
use crate::callout::Callout;
use crate::reload::{self, ConfigurationError};
use configuration::Member;
pub(crate) use node::{Referent, ephemeral_claim, visit_references};
pub(crate) use questions::{Answer, Questions};
pub(crate) use rules::{Rule, uncovered};
pub use selectors::Selectors;

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
    /// What a list, watch or deletion of a collection is narrowed to.
    pub selectors: &'a Selectors,
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
        Attributes {
            user,
            verb,
            group,
            version: "",
            resource,
            subresource: "",
            name: "",
            namespace: "",
            path: "",
            resource_request: true,
            selectors: &selectors::NONE,
        }
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
    members: ArcSwap<Vec<Member>>,
    /// What webhooks are asked with.
    callout: OnceLock<Callout>,
}

/// How far a question has come.
enum Progress {
    Decided(Decision),
    /// The webhook at this place must be asked; the reasons are of those before it.
    Ask {
        at: usize,
        question: webhook::Question,
        reason: String,
    },
}

impl Authorizer {
    /// The authorizer for the store's present roles, and the future that keeps it current for as long as it is polled.
    pub fn open(store: Arc<dyn Store>) -> (Arc<Authorizer>, impl Future<Output = ()> + Send + 'static) {
        let authorizer = Arc::new(Authorizer {
            store,
            index: RwLock::default(),
            members: ArcSwap::from_pointee(vec![Member::Node, Member::Rbac]),
            callout: OnceLock::new(),
        });
        let revision = authorizer.rebuild();
        (authorizer.clone(), follow(authorizer, revision))
    }

    /// The authorizers of an AuthorizationConfiguration in `file`, in the place of the usual. The future follows the file.
    pub(crate) fn configure(
        self: &Arc<Authorizer>,
        file: &Path,
        callout: Callout,
    ) -> Result<impl Future<Output = ()> + Send + 'static + use<>, ConfigurationError> {
        let _ = self.callout.set(callout);
        let (authorizer, folder) = (self.clone(), file.parent().unwrap_or(Path::new(".")).to_owned());
        reload::follow(file, move |text| {
            authorizer.members.store(Arc::new(configuration::parse(text, &folder)?));
            Ok(())
        })
    }

    /// May the caller? Waits where a webhook must be asked.
    pub async fn decide(&self, request: &Attributes<'_>) -> Decision {
        let members = self.members.load_full();
        let mut progress = self.walk(&members, 0, String::new(), request);
        loop {
            let (at, question, reason) = match progress {
                Progress::Decided(decision) => return decision,
                Progress::Ask { at, question, reason } => (at, question, reason),
            };
            // Whoever configured a webhook gave the means to ask it, and `walk` stops only there.
            let (Member::Webhook(webhook), Some(callout)) = (&members[at], self.callout.get()) else { return deny("") };
            let decision = webhook.ask(callout, question).await;
            progress = match decision.verdict {
                Verdict::NoOpinion => self.walk(&members, at + 1, joined(reason, &decision.reason), request),
                Verdict::Allow | Verdict::Deny => Progress::Decided(decision),
            };
        }
    }

    /// The decision, if no webhook must be asked for it.
    fn decided(&self, request: &Attributes<'_>) -> Option<Decision> {
        match self.walk(&self.members.load(), 0, String::new(), request) {
            Progress::Decided(decision) => Some(decision),
            Progress::Ask { .. } => None,
        }
    }

    /// Asks the members from `at` on, until one decides or a webhook must be asked.
    fn walk(&self, members: &[Member], at: usize, mut reason: String, request: &Attributes<'_>) -> Progress {
        if request.user.in_group(GROUP_MASTERS) {
            return Progress::Decided(allow());
        }
        for (at, member) in members.iter().enumerate().skip(at) {
            let decision = match member {
                Member::Node => match request.user.node_name() {
                    Some(node) => node::authorize(&self.store.snapshot(), node, request),
                    None => continue,
                },
                Member::Rbac => self.index.read().authorize(request),
                Member::AlwaysAllow => allow(),
                Member::AlwaysDeny => deny("Everything is forbidden."),
                Member::Webhook(webhook) => match webhook.known(request) {
                    webhook::Known::Decision(decision) => decision,
                    webhook::Known::Ask(question) => return Progress::Ask { at, question, reason },
                },
            };
            if decision.verdict != Verdict::NoOpinion {
                return Progress::Decided(decision);
            }
            reason = joined(reason, &decision.reason);
        }
        Progress::Decided(Decision { verdict: Verdict::NoOpinion, reason })
    }

    /// [`Authorizer::decide`], as the 403 that the caller gets.
    pub async fn permit(&self, request: &Attributes<'_>) -> Result<(), Status> {
        let decision = self.decide(request).await;
        if decision.allowed() { Ok(()) } else { Err(request.forbidden(&decision)) }
    }

    /// Every rule that `user` holds in `namespace` by those who decide, and why the list may be incomplete.
    pub(crate) fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Option<String>) {
        let (mut rules, mut gaps) = (Vec::new(), Vec::new());
        let everything = [Rule::everything(), Rule::every_path()];
        if user.in_group(GROUP_MASTERS) {
            rules.extend(everything.clone());
        }
        for member in self.members.load().iter() {
            match member {
                Member::Rbac => {
                    let (held, gap) = self.index.read().rules_for(user, namespace);
                    rules.extend(held);
                    gaps.extend(gap);
                }
                Member::AlwaysAllow => rules.extend(everything.clone()),
                Member::AlwaysDeny => {}
                Member::Node if user.node_name().is_none() => {}
                Member::Node => gaps.push("node authorizer does not support user rule resolution".to_owned()),
                Member::Webhook(_) => gaps.push("webhook authorizer does not support user rule resolution".to_owned()),
            }
        }
        let gap = match gaps.len() {
            0 | 1 => gaps.pop(),
            _ => Some(format!("[{}]", gaps.join(", "))),
        };
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

fn allow() -> Decision {
    Decision { verdict: Verdict::Allow, reason: String::new() }
}

fn deny(reason: &str) -> Decision {
    Decision { verdict: Verdict::Deny, reason: reason.to_owned() }
}

/// The reasons of those who had no opinion, as upstream's union joins them.
fn joined(mut all: String, one: &str) -> String {
    if !all.is_empty() && !one.is_empty() {
        all.push('\n');
    }
    all.push_str(one);
    all
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
