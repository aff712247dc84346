//! Pods, and what `kubectl get pods` says of them.

use serde_json::Value;

use super::columns::{age, name, or_none, text, wide};
use super::podspec;
use super::row::row;
use super::validate::{self, pod as rules, pod_change as change, pod_status};
use crate::kind::{Kind, VerbSet};
use crate::object::Object;
use crate::time;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("", "v1", "Pod", "pods")
            .short(&["po"])
            .in_all()
            .graceful()
            .counts_generations()
            .sub("attach", "v1 PodAttachOptions", VerbSet::CREATE_GET)
            .sub("binding", "v1 Binding", VerbSet::CREATE)
            .sub("ephemeralcontainers", "v1 Pod", VerbSet::GET_PATCH_UPDATE)
            .sub("eviction", "policy/v1 Eviction", VerbSet::CREATE)
            .sub("exec", "v1 PodExecOptions", VerbSet::CREATE_GET)
            .sub("log", "v1 Pod", VerbSet::GET)
            .sub("portforward", "v1 PodPortForwardOptions", VerbSet::CREATE_GET)
            .sub("proxy", "v1 PodProxyOptions", VerbSet::PROXY)
            .sub("resize", "v1 Pod", VerbSet::GET_PATCH_UPDATE)
            .status()
            // Old kubelets corrupt them in a way that breaks garbage collection (pod/strategy.go).
            .status_leaves(&["ownerReferences"])
            .default_by(default_pod)
            .prepare_by(create_pod, |_, _| ())
            .prepare_status_by(keep_what_stays)
            .validate_by(rules::pod)
            .validate_creation_by(rules::pod_creation)
            .validate_change_by(change::pod_change)
            .validate_part_by(change::pod_part_change)
            .validate_status_by(pod_status::pod_status_change)
            .warn_by(validate::pod_warnings)
            .columns(vec![
                name(),
                text("Ready", |o, _| Summary::of(o).ready_cell()),
                text("Status", |o, _| Summary::of(o).status.into()),
                text("Restarts", |o, now| Summary::of(o).restarts_cell(now)),
                age(),
                wide("IP", |o, _| or_none(pod_ip(o))),
                wide("Node", |o, _| or_none(o.str(&["spec", "nodeName"]))),
                wide("Nominated Node", |o, _| or_none(o.str(&["status", "nominatedNodeName"]))),
                wide("Readiness Gates", readiness_gates),
            ])
            .select("spec.nodeName", |o| o.str(&["spec", "nodeName"]).to_owned())
            .select("spec.restartPolicy", |o| o.str(&["spec", "restartPolicy"]).to_owned())
            .select("spec.schedulerName", |o| o.str(&["spec", "schedulerName"]).to_owned())
            .select("spec.serviceAccountName", |o| o.str(&["spec", "serviceAccountName"]).to_owned())
            .select("spec.hostNetwork", |o| o.bool(&["spec", "hostNetwork"]).to_string())
            .select("status.phase", |o| o.str(&["status", "phase"]).to_owned())
            .select("status.podIP", |o| o.str(&["status", "podIP"]).to_owned())
            .select("status.nominatedNodeName", |o| o.str(&["status", "nominatedNodeName"]).to_owned()),
    ]
}

fn default_pod(object: &mut Object) {
    if let Some(spec) = object.get_mut(&["spec"]) {
        podspec::default_pod(spec);
    }
}

/// A new pod waits; its quality of service follows from its resources and stays.
fn create_pod(object: &mut Object) {
    object.set(&["status", "phase"], "Pending".into());
    let class = qos_class(object);
    object.set(&["status", "qosClass"], class.into());
}

/// The class is decided when the pod is made, and a generation that was seen was seen: no writer of the status needs to repeat them
/// (pod/strategy.go, preserveOldObservedGeneration).
fn keep_what_stays(new: &mut Object, old: &Object) {
    for key in ["qosClass", "observedGeneration"] {
        let path = ["status", key];
        if let Some(value) = old.get(&path).filter(|_| is_unsaid(new.get(&path))) {
            new.set(&path, value.clone());
        }
    }
    let Some(Value::Array(conditions)) = new.get_mut(&["status", "conditions"]) else { return };
    for condition in conditions.iter_mut().filter(|condition| is_unsaid(condition.get("observedGeneration"))) {
        let before = old.list(&["status", "conditions"]).iter().find(|before| before["type"] == condition["type"]);
        if let Some(seen) = before.and_then(|before| before.get("observedGeneration")) {
            condition["observedGeneration"] = seen.clone();
        }
    }
}

/// Go's client sends no more of what is empty than of what is not there.
fn is_unsaid(value: Option<&Value>) -> bool {
    value.is_none_or(|value| value.is_null() || value == "" || value == 0)
}

/// `Guaranteed` if each container's limits are its requests for cpu and memory, `BestEffort` if there are none at all.
pub(crate) fn qos_class(pod: &Object) -> &'static str {
    let (mut any, mut all_guaranteed) = (false, true);
    let whole = pod.get(&["spec"]).filter(|spec| ["requests", "limits"].iter().any(|list| !is_empty(&spec["resources"][*list])));
    let containers = ["initContainers", "containers"].into_iter().flat_map(|list| pod.list(&["spec", list]));
    // Resources of the pod as a whole decide alone.
    let containers = whole.into_iter().chain(containers.filter(|_| whole.is_none()));
    for container in containers {
        for resource in ["cpu", "memory"] {
            let amount = |list: &str| container["resources"][list][resource].as_str().filter(|amount| *amount != "0");
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            all_guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, all_guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn is_empty(list: &Value) -> bool {
    list.as_object().is_none_or(serde_json::Map::is_empty)
}

fn pod_ip(object: &Object) -> &str {
    let first = object.list(&["status", "podIPs"]).first().and_then(|ip| ip["ip"].as_str());
    first.unwrap_or(object.str(&["status", "podIP"]))
}

fn readiness_gates(object: &Object, _: jiff::Timestamp) -> Value {
    let gates = object.list(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let met = |gate: &&Value| condition(object, gate["conditionType"].as_str().unwrap_or("")) == Some("True");
    format!("{}/{}", gates.iter().filter(met).count(), gates.len()).into()
}

fn condition<'a>(object: &'a Object, ty: &str) -> Option<&'a str> {
    object.list(&["status", "conditions"]).iter().find(|condition| condition["type"] == ty)?["status"].as_str()
}

/// What the first columns say, worked out as upstream's printer does.
struct Summary {
    ready: usize,
    containers: usize,
    status: String,
    restarts: i64,
    last_restart: Option<jiff::Timestamp>,
}

impl Summary {
    fn of(pod: &Object) -> Summary {
        let sidecars = pod.list(&["spec", "initContainers"]).iter().filter(|container| is_sidecar(container)).count();
        let phase = pod.str(&["status", "phase"]);
        let reason = pod.str(&["status", "reason"]);
        let mut summary = Summary {
            ready: 0,
            containers: pod.list(&["spec", "containers"]).len() + sidecars,
            status: if reason.is_empty() { phase } else { reason }.to_owned(),
            restarts: 0,
            last_restart: None,
        };
        let gated = |condition: &Value| condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated";
        if pod.list(&["status", "conditions"]).iter().any(gated) {
            summary.status = "SchedulingGated".to_owned();
        }
        let initialising = summary.init_containers(pod);
        if !initialising || condition(pod, "Initialized") == Some("True") {
            summary.app_containers(pod, initialising);
        }
        summary.deletion(pod);
        summary
    }

    /// True while an init container stands in the way.
    fn init_containers(&mut self, pod: &Object) -> bool {
        let specs = pod.list(&["spec", "initContainers"]);
        let (mut sidecar_restarts, mut sidecar_last) = (0, None);
        for (index, status) in pod.list(&["status", "initContainerStatuses"]).iter().enumerate() {
            let restarts = status["restartCount"].as_i64().unwrap_or(0);
            let sidecar = specs.iter().any(|spec| spec["name"] == status["name"] && is_sidecar(spec));
            self.restarts += restarts;
            self.last_restart = self.last_restart.max(finished_at(status));
            if sidecar {
                sidecar_restarts += restarts;
                sidecar_last = sidecar_last.max(finished_at(status));
            }
            let state = &status["state"];
            if state["terminated"].is_object() && state["terminated"]["exitCode"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            if sidecar && status["started"] == true {
                if status["ready"] == true {
                    self.ready += 1;
                }
                continue;
            }
            self.status = match (state["terminated"].is_object(), state["waiting"]["reason"].as_str().unwrap_or("")) {
                (true, _) => format!("Init:{}", ended(&state["terminated"])),
                (false, "" | "PodInitializing") => format!("Init:{index}/{}", specs.len()),
                (false, reason) => format!("Init:{reason}"),
            };
            return true;
        }
        // All are done: from here only the sidecars' restarts count.
        (self.restarts, self.last_restart) = (sidecar_restarts, sidecar_last);
        false
    }

    fn app_containers(&mut self, pod: &Object, initialising: bool) {
        if initialising {
            (self.restarts, self.last_restart) = (0, None);
        }
        let mut running = false;
        for status in pod.list(&["status", "containerStatuses"]).iter().rev() {
            self.restarts += status["restartCount"].as_i64().unwrap_or(0);
            self.last_restart = self.last_restart.max(finished_at(status));
            let state = &status["state"];
            let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if state["terminated"].is_object() {
                self.status = ended(&state["terminated"]);
            } else if status["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && running {
            self.status = if condition(pod, "Ready") == Some("True") { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn deletion(&mut self, pod: &Object) {
        if pod.deletion_timestamp().is_empty() {
            return;
        }
        if pod.str(&["status", "reason"]) == "NodeLost" {
            self.status = "Unknown".to_owned();
        } else if !["Failed", "Succeeded"].contains(&pod.str(&["status", "phase"])) {
            self.status = "Terminating".to_owned();
        }
    }

    fn ready_cell(&self) -> Value {
        format!("{}/{}", self.ready, self.containers).into()
    }

    /// `3 (5s ago)`
    fn restarts_cell(&self, now: jiff::Timestamp) -> Value {
        match self.last_restart {
            Some(last) if self.restarts > 0 => {
                format!("{} ({} ago)", self.restarts, time::human_duration(now.as_second() - last.as_second())).into()
            }
            _ => self.restarts.to_string().into(),
        }
    }
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn finished_at(status: &Value) -> Option<jiff::Timestamp> {
    time::parse(status["lastState"]["terminated"]["finishedAt"].as_str()?)
}

/// The reason why a container ended, or its signal or exit code.
fn ended(terminated: &Value) -> String {
    match (terminated["reason"].as_str().unwrap_or(""), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Ready, status and restarts at 00:01:00.
    #[track_caller]
    fn check(pod: Value, expected: &str) {
        let pod = Object::from_value(pod).unwrap();
        let summary = Summary::of(&pod);
        let now = time::parse("2026-01-01T00:01:00Z").unwrap();
        let text = |value: Value| value.as_str().unwrap().to_owned();
        assert_eq!(format!("{} {} {}", text(summary.ready_cell()), summary.status, text(summary.restarts_cell(now))), expected);
    }

    #[test]
    fn the_status_column_says_what_matters_most() {
        let two = json!([{"name": "a"}, {"name": "b"}]);
        let init = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]);
        check(json!({"spec": {"containers": two}, "status": {"phase": "Pending"}}), "0/2 Pending 0");
        let ready = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
        check(json!({"spec": {"containers": two}, "status": {"phase": "Running", "containerStatuses": [ready, ready]}}), "2/2 Running 0");
        let crashing = json!({
            "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:55Z"}},
        });
        check(
            json!({"spec": {"containers": two}, "status": {"phase": "Running", "containerStatuses": [crashing, ready]}}),
            "1/2 CrashLoopBackOff 3 (5s ago)",
        );
        check(
            json!({"spec": {"containers": two, "initContainers": init},
                "status": {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}, {"name": "s", "state": {"waiting": {"reason": "PodInitializing"}}}]}}),
            "0/3 Init:0/2 0",
        );
        let failed = json!({"name": "i", "restartCount": 1, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
        check(
            json!({"spec": {"containers": two, "initContainers": init}, "status": {"phase": "Pending", "initContainerStatuses": [failed]}}),
            "0/3 Init:Error 1",
        );
        let done = json!({"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        check(
            json!({"spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Succeeded", "containerStatuses": [done]}}),
            "0/1 Completed 0",
        );
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": two}, "status": {"phase": "Running", "containerStatuses": [ready, ready]}}),
            "2/2 Terminating 0",
        );
        check(json!({"spec": {"containers": two}, "status": {"phase": "Failed", "reason": "Evicted"}}), "0/2 Evicted 0");
    }

    #[test]
    fn quality_of_service_follows_from_resources() {
        let class = |resources: Value| qos_class(&Object::from_value(json!({"spec": {"containers": [{"resources": resources}]}})).unwrap());
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(class(json!({"requests": both, "limits": both})), "Guaranteed");
        assert_eq!(class(json!({"limits": {"cpu": "1"}})), "Burstable");
        let whole =
            json!({"spec": {"resources": {"requests": both, "limits": both}, "containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        assert_eq!(qos_class(&Object::from_value(whole).unwrap()), "Guaranteed");
    }
}
