//! Deleting: at once, after a grace period, or when the last finalizer is gone.
//!
//! [`plan`] decides for one live object. An object that may not go yet gets its `deletionTimestamp`, and goes with the write that takes away what
//! held it ([`is_finished`]): its last finalizer, for a namespace `spec.finalizers` too, or for a pod the kubelet's final delete.

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use knarr_api::{Kind, Object, Status, status};
use serde_json::{Value, json};

use super::{
    list,
    write::{self, Change, Live, Outcome, Written},
};
use crate::{
    admission::Operation,
    body::{self, Body},
    call::{Act, Call, Phase},
    render::{self, Shown},
    request::options::{DeleteOptions, ListOptions, Propagation},
};

/// Finalizers that the garbage collector removes when it has done what they ask for.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Grace of a pod whose spec does not say (core/v1 defaults, DefaultTerminationGracePeriodSeconds).
const POD_GRACE_SECONDS: i64 = 30;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    Now,
    /// It stays for now, marked.
    Mark(Object),
    /// It is being deleted already, and not more slowly than is asked for.
    Wait,
}

/// What a deletion does to a live object.
pub(crate) fn plan(kind: &Kind, live: &Object, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut next = live.clone();
    let collected = live.finalizers().any(|name| matches!(name, ORPHAN | FOREGROUND));
    let usual = (kind.orphans && !collected).then_some(Propagation::Orphan);
    propagate(&mut next, options.propagation.or(usual));
    if live.deletion_timestamp().is_empty() {
        (kind.strategy.prepare_delete)(&mut next);
    }
    let held = held(kind, &next);
    let grace = if kind.graceful { pod_grace(live, options) } else { 0 };
    if grace == 0 && !held {
        return Plan::Now;
    }
    let deleting = !live.deletion_timestamp().is_empty();
    let before = live.int(&["metadata", "deletionGracePeriodSeconds"]);
    if !deleting || before.is_some_and(|before| grace < before) {
        mark(kind, &mut next, grace, deleting, now);
    }
    if next == *live { Plan::Wait } else { Plan::Mark(next) }
}

/// Whether the write from `old` to `new` takes away the last thing that held a deleted object.
pub(crate) fn is_finished(kind: &Kind, new: &Object, old: &Object) -> bool {
    let deleting = !old.deletion_timestamp().is_empty();
    let grace_over = new.int(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0;
    deleting && grace_over && held(kind, old) && !held(kind, new)
}

/// Whether finalizers hold the object.
fn held(kind: &Kind, object: &Object) -> bool {
    let namespace = is_namespace(kind) && !object.list(&["spec", "finalizers"]).is_empty();
    namespace || object.finalizers().next().is_some()
}

fn is_namespace(kind: &Kind) -> bool {
    kind.collection == "core/namespaces"
}

fn mark(kind: &Kind, object: &mut Object, grace: i64, deleting: bool, now: Timestamp) {
    // Of a graceful deletion, the time at which it is over; shortened, that moves nearer.
    let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    object.set(&["metadata", "deletionTimestamp"], knarr_api::time::format(at).into());
    object.set(&["metadata", "deletionGracePeriodSeconds"], grace.into());
    if !deleting && object.generation() > 0 {
        object.set(&["metadata", "generation"], (object.generation() + 1).into());
    }
    if is_namespace(kind) {
        object.set(&["status", "phase"], "Terminating".into());
    }
}

/// Seconds that a pod has for its end. None are needed where no container can be running.
fn pod_grace(pod: &Object, options: &DeleteOptions) -> i64 {
    let over = matches!(pod.str(&["status", "phase"]), "Succeeded" | "Failed");
    if pod.str(&["spec", "nodeName"]).is_empty() || over {
        return 0;
    }
    let own = pod.int(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(POD_GRACE_SECONDS);
    options.grace_seconds.unwrap_or(own).max(0)
}

/// Adds or takes away the garbage collector's finalizers, by what is asked for.
fn propagate(object: &mut Object, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers: Vec<Value> = object.finalizers().filter(|name| *name != ORPHAN && *name != FOREGROUND).map(Value::from).collect();
    match propagation {
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    if finalizers.is_empty() {
        object.remove(&["metadata", "finalizers"]);
    } else {
        object.set(&["metadata", "finalizers"], Value::Array(finalizers));
    }
}

struct Delete<'a> {
    call: &'a Call,
    options: &'a DeleteOptions,
    /// Whether admission has still to be asked.
    asks: bool,
}

impl Delete<'_> {
    async fn next(&self, live: Option<&Live>) -> Result<Outcome, Status> {
        let live = live.ok_or_else(|| self.call.not_found(&self.call.path.name))?;
        let (uid, version) = (self.options.uid.as_deref(), self.options.resource_version.as_deref());
        write::check_preconditions(self.call, &live.object, uid, version)?;
        if self.asks {
            admit(self.call, &live.object, self.options).await?;
        }
        Ok(match plan(&self.call.kind, &live.object, self.options, Timestamp::now()) {
            Plan::Now => Outcome::Delete,
            Plan::Mark(object) => Outcome::Put(object),
            Plan::Wait => Outcome::Same,
        })
    }
}

impl Change for Delete<'_> {
    fn apply<'a>(&'a self, live: Option<&'a Live>) -> BoxFuture<'a, Result<Outcome, Status>> {
        Box::pin(self.next(live))
    }

    fn retries(&self) -> bool {
        true
    }
}

/// Admission of a deletion.
async fn admit(call: &Call, live: &Object, options: &DeleteOptions) -> Result<(), Status> {
    let shown = || options.to_value();
    let act = Act { operation: Operation::Delete, subresource: "", name: live.name(), dry_run: options.dry_run, options: &shown };
    let mut object = live.clone();
    call.admit(&act, Phase::Mutate, &mut object, Some(live)).await?;
    call.admit(&act, Phase::Validate, &mut object, Some(live)).await.map(drop)
}

/// DELETE of one object.
pub(crate) async fn delete(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let options = read_options(call, body).await?;
    warn(call, &options);
    let written = delete_named(call, &call.path.name, &options).await?;
    answer(call, written)
}

fn warn(call: &Call, options: &DeleteOptions) {
    if options.propagation.is_none() {
        call.warnings.add(call.kind.orphan_warning.map(str::to_owned));
    }
}

/// Deletes one object of the call's kind and namespace.
pub(crate) async fn delete_named(call: &Call, name: &str, options: &DeleteOptions) -> Result<Written, Status> {
    write::write(call, &call.key_of(name), options.dry_run, &Delete { call, options, asks: true }).await
}

/// The same of what admission was asked about as another act, like an eviction.
pub(crate) async fn delete_admitted(call: &Call, name: &str, options: &DeleteOptions) -> Result<Written, Status> {
    write::write(call, &call.key_of(name), options.dry_run, &Delete { call, options, asks: false }).await
}

/// The options in the body, or else in the query.
pub(crate) async fn read_options(call: &Call, body: body::Incoming) -> Result<DeleteOptions, Status> {
    let (bytes, format) = write::read_body(call, body).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return DeleteOptions::from_query(&call.query);
    }
    match format.value(&bytes) {
        Ok(Value::Object(map)) => DeleteOptions::from_object(&map),
        Ok(_) => Err(status::bad_request("the body of a DELETE must be a DeleteOptions")),
        Err(error) => Err(status::bad_request(format!("couldn't get version/kind; {error}"))),
    }
}

/// The object when it is still there, and a success with its identity when it is gone.
fn answer(call: &Call, written: Written) -> Result<Response<Body>, Status> {
    let gone = match written {
        Written::Created(shown) | Written::Updated(shown) => return render::one(call, StatusCode::OK, shown),
        Written::Deleted(shown) if call.kind.answers_deleted() => {
            return render::one(call, StatusCode::OK, shown);
        }
        Written::Deleted(Shown::Stored(entry)) => crate::call::decode(&call.kind, &entry)?,
        Written::Deleted(Shown::Made(object)) => object,
    };
    let mut details = json!({"name": gone.name(), "kind": call.kind.resource, "uid": gone.uid()});
    if !call.kind.group.is_empty() {
        details["group"] = call.kind.group.as_ref().into();
    }
    let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(render::value_body(StatusCode::OK, call.answer, &success))
}

/// DELETE of all that a list would show. Answers what it deleted.
pub(crate) async fn delete_collection(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let options = read_options(call, body).await?;
    warn(call, &options);
    let list_options = ListOptions::parse(&call.query, false)?;
    let (entries, meta) = match list::Asked::new(call, &list_options) {
        Ok(asked) => asked.page(&call.core).await?,
        Err(refusal) => return refusal.answer(call),
    };
    let selection = list::Selection::parse(call, &list_options)?;
    let mut deleted = Vec::with_capacity(entries.len());
    for entry in entries {
        // A page shows a state that may be long past: what was made anew since, or has left the selection, is not meant.
        let live = call.core.store.snapshot().get(&entry.key).cloned();
        let Some(live) = live else { continue };
        let uid = crate::call::decode(&call.kind, &entry)?.uid().to_owned();
        if crate::call::decode(&call.kind, &live)?.uid() != uid || !selection.holds(&call.core, live).await? {
            continue;
        }
        let options = DeleteOptions { uid: options.uid.clone().or(Some(uid)), ..options.clone() };
        match delete_named(call, write::name_of(&entry.key), &options).await {
            Ok(_) => deleted.push(entry),
            // Someone else was faster.
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    list::answer(call, &meta, deleted).await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use knarr_api::Kinds;

    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).expect("an object")
    }

    fn kind(resource: &str) -> Arc<Kind> {
        Kinds::builtin().resource("", "v1", resource).expect(resource)
    }

    fn check(resource: &str, live: Value, options: DeleteOptions, expected: &str) {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let text = match plan(&kind(resource), &object(live), &options, now) {
            Plan::Now => "now".to_owned(),
            Plan::Wait => "wait".to_owned(),
            Plan::Mark(object) => {
                format!("{} {}", object.deletion_timestamp(), object.metadata().unwrap()["deletionGracePeriodSeconds"])
                    + &object.finalizers().map(|name| format!(" {name}")).collect::<String>()
            }
        };
        assert_eq!(text, expected);
    }

    fn grace(seconds: i64) -> DeleteOptions {
        DeleteOptions { grace_seconds: Some(seconds), ..DeleteOptions::default() }
    }

    fn propagation(propagation: Propagation) -> DeleteOptions {
        DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() }
    }

    #[test]
    fn what_nothing_holds_goes_at_once() {
        check("configmaps", json!({"metadata": {"name": "a"}}), DeleteOptions::default(), "now");
        check("configmaps", json!({"metadata": {"name": "a"}}), propagation(Propagation::Background), "now");
    }

    #[test]
    fn finalizers_hold() {
        let held = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}});
        check("configmaps", held, DeleteOptions::default(), "2026-01-01T00:00:00Z 0 x/y");
        let marked = json!({"metadata": {"name": "a", "finalizers": ["x/y"], "deletionTimestamp": "2025-12-31T00:00:00Z", "deletionGracePeriodSeconds": 0}});
        check("configmaps", marked, DeleteOptions::default(), "wait");
    }

    #[test]
    fn propagation_is_a_finalizer() {
        check(
            "configmaps",
            json!({"metadata": {"name": "a"}}),
            propagation(Propagation::Foreground),
            "2026-01-01T00:00:00Z 0 foregroundDeletion",
        );
        let orphaned = json!({"metadata": {"name": "a", "finalizers": ["orphan"]}});
        check("configmaps", orphaned, propagation(Propagation::Background), "now");
    }

    #[test]
    fn pods_have_time_to_end() {
        let pod = |phase: &str, node: &str| json!({"metadata": {"name": "a"}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 20}, "status": {"phase": phase}});
        check("pods", pod("Running", "n"), DeleteOptions::default(), "2026-01-01T00:00:20Z 20");
        check("pods", pod("Running", "n"), grace(5), "2026-01-01T00:00:05Z 5");
        check("pods", pod("Running", "n"), grace(0), "now");
        check("pods", pod("Running", ""), DeleteOptions::default(), "now");
        check("pods", pod("Succeeded", "n"), DeleteOptions::default(), "now");
    }

    #[test]
    fn a_grace_period_can_only_shrink() {
        let pod = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:20Z", "deletionGracePeriodSeconds": 20},
            "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        check("pods", pod.clone(), grace(30), "wait");
        check("pods", pod.clone(), grace(3), "2026-01-01T00:00:03Z 3");
        check("pods", pod, grace(0), "now");
    }

    #[test]
    fn namespaces_wait_for_their_content() {
        let namespace = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}});
        check("namespaces", namespace, DeleteOptions::default(), "2026-01-01T00:00:00Z 0");
    }

    #[test]
    fn the_write_that_removes_the_last_finalizer_deletes() {
        let old = object(json!({"metadata": {"deletionTimestamp": "x", "deletionGracePeriodSeconds": 0, "finalizers": ["a/b"]}}));
        let new = object(json!({"metadata": {"deletionTimestamp": "x", "deletionGracePeriodSeconds": 0}}));
        assert!(is_finished(&kind("configmaps"), &new, &old));
        assert!(!is_finished(&kind("configmaps"), &old, &old));
        assert!(!is_finished(&kind("configmaps"), &new, &new));
    }
}
