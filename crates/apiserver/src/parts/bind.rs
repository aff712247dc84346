//! `pods/<name>/binding`: the scheduler gives a pod its node. `bindings` is the older way to say the same, with the pod's name in the body.

use futures::future::BoxFuture;
use http::Response;
use jiff::Timestamp;
use knarr_api::{FieldError, Object, Status, status, time};
use serde_json::{Value, json};

use super::success;
use crate::{
    body::{self, Body},
    call::Call,
    request::options::WriteOptions,
    verbs::write::{self, Change, Live, Outcome},
};

pub(super) async fn bind(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&call.query)?;
    let binding = super::read_object(call, body).await?;
    commit(call, call, &binding, &options).await
}

/// The binding that was created by itself. Whoever admits it sees a Binding and no part of a pod, as upstream.
pub(crate) async fn create(call: &Call, binding: &Object, options: &WriteOptions) -> Result<Response<Body>, Status> {
    let pod = call.about("pods", binding.name(), "binding")?;
    commit(call, &pod, binding, options).await
}

/// Writes what `pod` is about; the call is answered.
async fn commit(call: &Call, pod: &Call, binding: &Object, options: &WriteOptions) -> Result<Response<Body>, Status> {
    check(binding)?;
    let change = Bind { call, pod, binding, options };
    write::write(pod, &pod.key(), options.dry_run, &change).await?;
    Ok(success(call))
}

fn check(binding: &Object) -> Result<(), Status> {
    let invalid = |error| status::invalid("", "Binding", binding.name(), &[error]);
    if binding.str(&["target", "name"]).is_empty() {
        return Err(invalid(FieldError::required("target.name", "")));
    }
    if !matches!(binding.str(&["target", "kind"]), "" | "Node") {
        let kind = binding.get(&["target", "kind"]).cloned().unwrap_or_default();
        return Err(invalid(FieldError::not_supported("target.kind", &kind, &["Node", "<empty>"])));
    }
    Ok(())
}

struct Bind<'a> {
    /// What was asked for, which is admitted.
    call: &'a Call,
    /// The same as a write of the pod.
    pod: &'a Call,
    binding: &'a Object,
    options: &'a WriteOptions,
}

impl Bind<'_> {
    async fn next(&self, live: Option<&Live>) -> Result<Outcome, Status> {
        let call = self.pod;
        let pod = &live.ok_or_else(|| call.not_found(&call.path.name))?.object;
        let refuse = |why: String| Err(call.conflict(pod.name(), &why));
        if !self.binding.uid().is_empty() && self.binding.uid() != pod.uid() {
            return refuse(format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", self.binding.uid(), pod.uid()));
        }
        if !pod.deletion_timestamp().is_empty() {
            return refuse(format!("pod {} is being deleted, cannot be assigned to a host", pod.name()));
        }
        let bound = pod.str(&["spec", "nodeName"]);
        if !bound.is_empty() {
            return refuse(format!("pod {} is already assigned to node {bound:?}", pod.name()));
        }
        if !pod.list(&["spec", "schedulingGates"]).is_empty() {
            return refuse(format!("pod {} has non-empty .spec.schedulingGates", pod.name()));
        }
        let now = Timestamp::now();
        let mut binding = self.binding.clone();
        super::admit_act(self.call, &mut binding, pod, self.options).await?;
        check(&binding)?;
        // Nobody owns what a binding sets, as upstream (registry/core/pod/storage, setPodNodeAndMetadata).
        Ok(Outcome::Put(bound_pod(pod, &binding, now)))
    }
}

impl Change for Bind<'_> {
    fn apply<'a>(&'a self, live: Option<&'a Live>) -> BoxFuture<'a, Result<Outcome, Status>> {
        Box::pin(self.next(live))
    }

    fn retries(&self) -> bool {
        true
    }
}

fn bound_pod(pod: &Object, binding: &Object, now: Timestamp) -> Object {
    let mut new = pod.clone();
    new.set(&["spec", "nodeName"], binding.str(&["target", "name"]).into());
    for (key, value) in binding.annotations() {
        new.set(&["metadata", "annotations", key], value.into());
    }
    for (key, value) in binding.labels() {
        new.set(&["metadata", "labels", key], value.into());
    }
    let mut conditions: Vec<Value> = new.list(&["status", "conditions"]).to_vec();
    conditions.retain(|condition| condition.get("type").and_then(Value::as_str) != Some("PodScheduled"));
    let mut scheduled = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": time::format(now)});
    if new.generation() > 0 {
        scheduled["observedGeneration"] = new.generation().into();
    }
    conditions.push(scheduled);
    new.set(&["status", "conditions"], conditions.into());
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_pod_is_scheduled() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}, {"type": "X", "status": "True"}]}});
        let binding = Object::from_value(json!({"target": {"name": "n"}})).unwrap();
        let bound = bound_pod(&Object::from_value(pod).unwrap(), &binding, "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(bound.str(&["spec", "nodeName"]), "n");
        let conditions: Vec<_> = bound.list(&["status", "conditions"]).iter().map(|c| (c["type"].as_str(), c["status"].as_str())).collect();
        assert_eq!(conditions, [(Some("X"), Some("True")), (Some("PodScheduled"), Some("True"))]);
    }
}
