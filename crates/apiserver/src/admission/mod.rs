//! Admission: what the cluster adds to an object before it is validated and stored, and what it refuses.
//!
//! [`Chain::admit`] runs the plug-ins that change objects, [`Chain::validate`] those that only refuse, after the object's own validation. A plug-in
//! is a function over a [`Request`] that looks at the store's snapshot, never at the disk or the network; the lists below are all of them
//! in their order, and [`configuration`] is what an administrator may choose. After each come the [`policies`] and then the [`webhooks`]. Those, and
//! the authorizers that [`ASKING`] asks, are the only ones that are waited for.

mod authorizer_library;
mod certificates;
mod classes;
mod configuration;
mod devices;
mod limits;
mod matching;
mod namespaces;
mod node_restriction;
mod pod_security;
mod pods;
mod policies;
mod priority;
mod reinvocation;
mod service_accounts;
mod storage;
#[cfg(test)]
mod tests;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::BoxFuture;
use knarr_api::status::{self, Status};
use knarr_api::{Kind, Object, ssa};
use knarr_store::{Collection, Key, Snapshot, Store};
use serde_json::Value;

use crate::User;
use crate::authz::Authorizer;
use crate::callout::Callout;
use crate::custom::{Conversions, Registry};
pub(crate) use configuration::Configuration;

const MANAGED_FIELDS: [&str; 2] = ["metadata", "managedFields"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach, port-forward, proxy: `object` is the options of the stream.
    Connect,
}

/// One write on its way to the store, after decoding, defaulting and [`Kind::prepare_create`] or [`Kind::prepare_update`], and before validation.
pub struct Request<'a> {
    pub user: &'a User,
    pub kind: &'a Kind,
    /// `status`, `scale`, `binding`, `eviction`, `ephemeralcontainers`, `finalize`, `exec`, ...; empty for the object itself.
    pub subresource: &'a str,
    pub operation: Operation,
    /// Whether an update came as a patch, which is another verb.
    pub patches: bool,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    pub name: &'a str,
    /// The new state, which may be changed; for a deletion what is deleted, and changes are lost. Of parts that have a kind of their own (Scale,
    /// Binding, Eviction) that.
    pub object: &'a mut Object,
    /// The state before an update or deletion.
    pub old: Option<&'a Object>,
    pub dry_run: bool,
    /// CreateOptions, UpdateOptions, DeleteOptions or null; made when someone looks at them.
    pub options: &'a (dyn Fn() -> Value + Sync),
    /// For Warning headers.
    pub warnings: &'a mut Vec<String>,
    /// For the audit log.
    pub annotations: &'a mut BTreeMap<String, String>,
}

impl Request<'_> {
    /// Whether this writes the resource itself, not a subresource.
    fn is(&self, group: &str, resource: &str) -> bool {
        self.subresource.is_empty() && self.is_of(group, resource)
    }

    fn is_of(&self, group: &str, resource: &str) -> bool {
        self.kind.group == group && self.kind.resource == resource
    }

    /// Whether an update touches nothing but what the garbage collector and the migration of stored objects write (registry/rbac,
    /// IsOnlyMutatingGCFields).
    fn changes_only_upkeep(&self) -> bool {
        const UPKEEP: [&str; 4] = ["metadata.ownerReferences", "metadata.finalizers", "metadata.managedFields", "metadata.resourceVersion"];
        self.old.is_some_and(|old| changed_fields(self.object, old).iter().all(|field| UPKEEP.contains(&field.as_str())))
    }

    fn forbidden(&self, why: &str) -> Status {
        let names = [self.name, self.object.name(), self.object.generate_name()];
        let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or("");
        status::forbidden(&self.kind.group, &self.kind.resource, name, why)
    }
}

type PlugIn = fn(&Chain, &Snapshot, &mut Request<'_>) -> Result<(), Status>;
type Asking = for<'a> fn(&'a Chain, &'a Request<'_>) -> Option<BoxFuture<'a, Result<(), Status>>>;

/// Plug-ins that may change the object, in upstream's order (kubeapiserver/options/plugins.go, AllOrderedPlugins).
const MUTATING: [PlugIn; 13] = [
    namespaces::lifecycle,
    service_accounts::fill,
    pods::taint_new_node,
    limits::fill,
    priority::resolve,
    pods::default_tolerations,
    pods::tolerate_extended_resources,
    priority::class_is_only_default,
    classes::default,
    storage::protect,
    classes::apply_runtime,
    certificates::requester,
    pods::topology_labels,
];

/// Plug-ins that only refuse.
const VALIDATING: [PlugIn; 10] = [
    // Upstream's refuses before any other does.
    node_restriction::check,
    limits::check,
    service_accounts::check,
    pod_security::check,
    pods::deny_external_addresses,
    namespaces::protect,
    storage::check_growth,
    classes::check_runtime,
    certificates::check,
    devices::check,
];

/// Plug-ins that refuse what the authorizers do not allow, who may have to be waited for; none where they have nothing to ask.
const ASKING: [Asking; 6] = [
    node_restriction::check_audience,
    node_restriction::check_signer,
    certificates::check_rights,
    policies::check_rights,
    rbac_escalation,
    devices::check_rights,
];

pub struct Chain {
    store: Arc<dyn Store>,
    authorizer: Arc<Authorizer>,
    /// Where the kinds of policies' parameters are found.
    registry: Arc<Registry>,
    policies: policies::Cache,
    callout: Callout,
    conversions: Arc<Conversions>,
    configuration: Configuration,
    webhooks: webhooks::Cache,
    pub(crate) webhook_counts: webhooks::Counts,
}

impl Chain {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        authorizer: Arc<Authorizer>,
        registry: Arc<Registry>,
        callout: Callout,
        conversions: Arc<Conversions>,
        configuration: Configuration,
    ) -> Chain {
        Chain {
            store,
            authorizer,
            registry,
            policies: policies::Cache::default(),
            callout,
            conversions,
            configuration,
            webhooks: webhooks::Cache::default(),
            webhook_counts: webhooks::Counts::default(),
        }
    }

    /// Completes the object, and says whether a policy or webhook changed it. The error is the answer to the client.
    pub async fn admit(&self, request: &mut Request<'_>) -> Result<bool, Status> {
        self.run(&MUTATING, request)?;
        let any = |snapshot: &Snapshot| webhooks::any(snapshot, webhooks::MUTATING) || policies::any(snapshot, policies::MUTATING);
        if !any(&self.store.snapshot()) {
            return Ok(false);
        }
        let owners = request.object.get(&MANAGED_FIELDS).cloned();
        let (mut policies_again, mut hooks_again) = Default::default();
        let mut changed = Box::pin(policies::mutate(self, request, &mut policies_again)).await?;
        changed |= Box::pin(webhooks::mutate(self, request, &mut hooks_again)).await?;
        if !changed {
            return Ok(false);
        }
        // The others have not seen what these made of it.
        self.run(&MUTATING, request)?;
        Box::pin(policies::mutate(self, request, &mut policies_again)).await?;
        Box::pin(webhooks::mutate(self, request, &mut hooks_again)).await?;
        keep_readable_owners(request, owners);
        Ok(true)
    }

    /// Refuses what may not be. Changes nothing.
    pub async fn validate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        self.run(&VALIDATING, request)?;
        for question in ASKING.iter().filter_map(|ask| ask(self, request)).collect::<Vec<_>>() {
            question.await?;
        }
        if policies::any(&self.store.snapshot(), policies::VALIDATING) {
            Box::pin(policies::validate(self, request)).await?;
        }
        match webhooks::any(&self.store.snapshot(), webhooks::VALIDATING) {
            true => Box::pin(webhooks::validate(self, request)).await,
            false => Ok(()),
        }
    }

    /// The kind of nodes.
    fn nodes(&self) -> Option<Arc<Kind>> {
        self.registry.now().kinds.resource("", "v1", "nodes")
    }

    fn run(&self, plug_ins: &[PlugIn], request: &mut Request<'_>) -> Result<(), Status> {
        let snapshot = self.store.snapshot();
        plug_ins.iter().try_for_each(|plug_in| plug_in(self, &snapshot, request))
    }
}

/// Who owns which fields is recorded before admission, which may change the record, but not into one that cannot be read (apiserver,
/// endpoints/handlers/fieldmanager/admission.go).
fn keep_readable_owners(request: &mut Request<'_>, before: Option<Value>) {
    let Err(fault) = ssa::check_managed(request.object) else { return };
    match before {
        Some(owners) => request.object.set(&MANAGED_FIELDS, owners),
        None => drop(request.object.remove(&MANAGED_FIELDS)),
    }
    request.warnings.push(format!(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; \
         please fix your requests: {fault}"
    ));
}

/// Nobody gives away rights that he does not hold, see `authz::escalation`.
fn rbac_escalation<'a>(chain: &'a Chain, request: &'a Request<'_>) -> Option<BoxFuture<'a, Result<(), Status>>> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || request.kind.group != crate::authz::escalation::GROUP {
        return None;
    }
    let (object, resource, old) = (&request.object, &request.kind.resource, request.old.map(|old| &old.0));
    Some(Box::pin(chain.authorizer.check_escalation(request.user, resource, request.namespace, object.name(), &object.0, old)))
}

/// Where two states of an object differ, one level below its parts: `metadata.labels`, `spec.volumeName`.
fn changed_fields(new: &Object, old: &Object) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    for part in new.0.keys().chain(old.0.keys()) {
        match (new.0.get(part), old.0.get(part)) {
            (new, old) if new == old => {}
            (new, old) if [new, old].into_iter().flatten().all(Value::is_object) => {
                let fields = |part: Option<&'_ Value>| part.and_then(Value::as_object).cloned().unwrap_or_default();
                let (new, old) = (fields(new), fields(old));
                let differs = |field: &&String| new.get(*field) != old.get(*field);
                changed.extend(new.keys().chain(old.keys()).filter(differs).map(|field| format!("{part}.{field}")));
            }
            _ => drop(changed.insert(part.clone())),
        }
    }
    changed
}

/// A stored object. What is not JSON is taken as absent: nothing but this server writes there.
fn stored(snapshot: &Snapshot, collection: &str, namespace: &str, name: &str) -> Option<Object> {
    let entry = snapshot.get(&Key::new(&Collection::new(collection), namespace, name))?;
    serde_json::from_slice(&entry.value).ok()
}

/// All stored objects of a collection whose names begin with `prefix`.
fn stored_all(snapshot: &Snapshot, collection: &str, prefix: &str) -> Vec<Object> {
    let collection = Collection::new(collection);
    let entries = snapshot.range(&collection, prefix, None);
    entries.filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()
}

/// The list at `field` of a map, made if it is missing.
fn list_mut<'a>(map: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let slot = map.as_object_mut()?.entry(field).or_insert(Value::Null);
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}
