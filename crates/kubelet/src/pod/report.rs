//! How the API learns of a pod: its status, written when it differs, and the events of its restarts.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use knarr_client::EventType;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::seen::Failure;
use super::worker::{Busy, Worker, name_of};

/// Delays between attempts to write a status, in seconds.
const WRITE_RETRY_S: (i64, i64) = (1, 30);

impl Worker {
    pub(super) fn write_if_due(self: &Arc<Self>, pod: &Arc<Pod>, now: Timestamp, tasks: &mut JoinSet<()>) -> Option<Timestamp> {
        let mut memory = self.memory.lock();
        if memory.last == memory.reported || memory.busy.contains("status") {
            return None;
        }
        if let Some(failure) = &memory.write_failure
            && now < failure.retry_at
        {
            return Some(failure.retry_at);
        }
        let busy = Busy::new(self, &mut memory, "status".into());
        drop(memory);
        let (worker, pod) = (self.clone(), pod.clone());
        tasks.spawn(async move {
            let _busy = busy;
            // A failure is kept in the memory, and tried again at its time.
            let _ = worker.write_status(&pod).await;
        });
        None
    }

    /// Writes the newest status to the API, if it differs from what was written last.
    pub(crate) async fn write_status(&self, pod: &Pod) -> Result<(), kube::Error> {
        let _turn = self.writing.lock().await;
        let (new, patch) = {
            let memory = self.memory.lock();
            (memory.last.clone(), status_patch(&memory.reported, &memory.last))
        };
        let Some(patch) = patch else {
            return Ok(());
        };
        let api = self.node.cluster.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let body = json!({"metadata": {"uid": self.uid}, "status": patch});
        let params = PatchParams { field_manager: Some("kubelet".into()), ..PatchParams::default() };
        let result = api.patch_status(name, &params, &Patch::Strategic(body)).await;
        let mut memory = self.memory.lock();
        match result {
            Ok(_) => {
                memory.reported = new;
                memory.write_failure = None;
                Ok(())
            }
            // It is gone, or is another pod of the same name: there is nobody to tell.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                memory.reported = new;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(pod = %name_of(pod), %error, "write the pod's status");
                let failure = Failure::after(memory.write_failure.as_ref(), "Status", error.to_string(), Timestamp::now(), WRITE_RETRY_S);
                memory.write_failure = Some(failure);
                Err(error)
            }
        }
    }

    /// Tells of containers that have just begun to wait for their restart.
    pub(super) fn announce(&self, pod: &Pod, new: &PodStatus) {
        let waits = |status: &PodStatus| -> Vec<String> {
            (status.container_statuses.iter().flatten())
                .chain(status.init_container_statuses.iter().flatten())
                .filter(|it| {
                    let waiting = it.state.as_ref().and_then(|state| state.waiting.as_ref());
                    waiting.is_some_and(|it| it.reason.as_deref() == Some("CrashLoopBackOff"))
                })
                .map(|it| it.name.clone())
                .collect()
        };
        let before = waits(&self.memory.lock().last);
        for name in waits(new).into_iter().filter(|it| !before.contains(it)) {
            let message = format!("Back-off restarting failed container {name} in pod {}({})", name_of(pod), self.uid);
            self.node.say(pod, Some(&name), EventType::Warning, "BackOff", &message);
        }
    }
}

/// The fields of the status that differ, as a strategic merge patch; `None` if none does.
fn status_patch(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let object = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        // A status is an object of strings, numbers and lists.
        _ => Map::new(),
    };
    let (old, new) = (object(old), object(new));
    let mut patch = Map::new();
    for (key, value) in &new {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let value = match (key.as_str(), value) {
            ("conditions", Value::Array(list)) => {
                let known = before.and_then(Value::as_array);
                let changed = list.iter().filter(|it| !known.is_some_and(|known| known.contains(it)));
                let kept = |it: &&Value| list.iter().any(|new| new["type"] == it["type"]);
                let gone = known.into_iter().flatten().filter(|it| !kept(it));
                let gone = gone.map(|it| json!({"$patch": "delete", "type": it["type"]}));
                Value::Array(changed.map(complete_condition).chain(gone).collect())
            }
            // These lists are merged by address unless told otherwise.
            ("podIPs" | "hostIPs", Value::Array(list)) => {
                let mut all = vec![json!({"$patch": "replace"})];
                all.extend(list.iter().cloned());
                Value::Array(all)
            }
            _ => value.clone(),
        };
        patch.insert(key.clone(), value);
    }
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// A condition whose reason or message went away says so: the list is merged by type, field by field.
fn complete_condition(condition: &Value) -> Value {
    let mut condition = condition.clone();
    if let Value::Object(map) = &mut condition {
        for key in ["reason", "message"] {
            map.entry(key).or_insert(Value::Null);
        }
    }
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_holds_only_what_changed() {
        let old: PodStatus = serde_json::from_value(json!({
            "phase": "Pending", "reason": "x", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "no"}, {"type": "Initialized", "status": "True"}],
        }))
        .unwrap();
        let new: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
        }))
        .unwrap();
        assert_eq!(
            status_patch(&old, &new),
            Some(json!({
                "phase": "Running", "reason": null, "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}],
            }))
        );
        assert_eq!(status_patch(&new, &new), None);
        let mut without = new.clone();
        without.conditions.as_mut().unwrap().truncate(1);
        let patch = json!({"conditions": [{"$patch": "delete", "type": "Initialized"}]});
        assert_eq!(status_patch(&new, &without), Some(patch), "a condition that no longer is");
    }
}
