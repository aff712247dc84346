//! A small language for the tests of `plan` and `status`: a pod and what is seen of it, one fact a line.
//!
//! ```text
//! pod restart=OnFailure grace=10 deleted deadline=60 memory=64
//! init setup            sidecar proxy            container web readiness startup strict
//! volumes ready         sandbox 0 ready 10.42.0.5
//! run web#1 since=90    exit web#0 code=1 at=80  created web#0
//! ready web#1           started web#1            doom web#1 at=120 anew
//! fail web ErrImagePull at=90 retry=100          backoff web 10 at=90
//! busy start web        last Succeeded           now 100
//! ```
//! A `strict` container is started anew where its pod's memory changes; `run web#0 whole=96` was made in a pod that had so much, and is
//! doomed, by 130, where `doom::why` finds that it must be.

use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerResizePolicy, ContainerState, Pod, PodCondition, PodReadinessGate, PodSpec, Probe, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use knarr_runtime::Resources;

use super::plan::{Action, Plan, plan};
use super::seen::{BackOff, ContainerSeen, Doom, Exit, Failure, SandboxSeen, Seen, State, Volumes};
use super::{act, doom};

fn at(seconds: &str) -> Timestamp {
    Timestamp::from_second(seconds.parse().expect("seconds")).expect("a time")
}

/// The value of `name=value` among the words.
fn value<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    (words.iter()).find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn named(id: &str) -> (String, u32) {
    let (name, attempt) = id.split_once('#').expect("name#attempt");
    (name.to_owned(), attempt.parse().expect("attempt"))
}

fn container(words: &[&str]) -> Container {
    let has = |word| words.contains(&word);
    Container {
        name: words[1].to_owned(),
        image: Some("img".into()),
        restart_policy: (words[0] == "sidecar").then(|| "Always".to_owned()),
        readiness_probe: has("readiness").then(Probe::default),
        startup_probe: has("startup").then(Probe::default),
        resize_policy: has("strict")
            .then(|| vec![ContainerResizePolicy { resource_name: "memory".into(), restart_policy: "RestartContainer".into() }]),
        ..Container::default()
    }
}

pub(crate) fn read(text: &str) -> (Pod, Seen, Timestamp) {
    let mut pod = Pod {
        metadata: ObjectMeta { name: Some("p".into()), namespace: Some("default".into()), uid: Some("u".into()), ..ObjectMeta::default() },
        ..Pod::default()
    };
    let mut spec = PodSpec::default();
    // Of containers that ask for nothing, and have no limits.
    let whole = crate::resources::of_pod(&PodSpec { containers: vec![Container::default()], ..PodSpec::default() });
    let mut seen = Seen::default();
    let mut now = at("100");
    for line in text.lines().map(str::trim).filter(|it| !it.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[0] {
            "pod" => {
                spec.restart_policy = value(&words, "restart").map(str::to_owned);
                spec.termination_grace_period_seconds = value(&words, "grace").map(|it| it.parse().unwrap());
                spec.active_deadline_seconds = value(&words, "deadline").map(|it| it.parse().unwrap());
                spec.resources = value(&words, "memory").map(|it| ResourceRequirements {
                    limits: Some([("memory".to_owned(), Quantity(it.into()))].into()),
                    ..ResourceRequirements::default()
                });
                if words.contains(&"deleted") {
                    pod.metadata.deletion_timestamp = Some(Time(at("130")));
                    pod.metadata.deletion_grace_period_seconds = spec.termination_grace_period_seconds;
                    seen.ending_since = Some(at("100"));
                }
                seen.gone = words.contains(&"gone");
                seen.torn_down = words.contains(&"torn-down");
                if let Some(gate) = value(&words, "gate") {
                    spec.readiness_gates = Some(vec![PodReadinessGate { condition_type: gate.into() }]);
                }
            }
            "init" | "sidecar" => spec.init_containers.get_or_insert_default().push(container(&words)),
            "container" => spec.containers.push(container(&words)),
            "volumes" => seen.volumes = Volumes::Ready,
            "sandbox" => {
                seen.sandboxes.insert(
                    0,
                    SandboxSeen {
                        id: format!("s{}", words[1]),
                        attempt: words[1].parse().unwrap(),
                        ready: words[2] == "ready",
                        resources: Resources {
                            cpu_shares: value(&words, "shares").map_or(whole.cpu_shares, |it| it.parse().ok()),
                            memory_bytes: value(&words, "memory").and_then(|it| it.parse().ok()),
                            ..whole.clone()
                        },
                    },
                );
                if let Some(ip) = words.get(3).filter(|word| !word.contains('=')) {
                    seen.ips = vec![ip.parse().unwrap()];
                }
            }
            "run" | "exit" | "created" => {
                let (name, attempt) = named(words[1]);
                let state = match words[0] {
                    "run" => State::Running { since: at(value(&words, "since").unwrap_or("50")), hooked: !words.contains(&"unhooked") },
                    "created" => State::Created,
                    _ => State::Exited(Exit {
                        code: value(&words, "code").unwrap().parse().unwrap(),
                        started: Some(at("50")),
                        finished: at(value(&words, "at").unwrap_or("90")),
                        ..Exit::default()
                    }),
                };
                seen.containers.push(ContainerSeen {
                    id: words[1].to_owned(),
                    name,
                    attempt,
                    sandbox: format!("s{}", value(&words, "sandbox").unwrap_or("0")),
                    state,
                    image: "img".into(),
                    image_id: "sha256:1".into(),
                    hash: String::new(),
                    resources: match value(&words, "shares") {
                        Some(shares) => knarr_runtime::Resources { cpu_shares: shares.parse().ok(), ..Default::default() },
                        None => crate::resources::of_container(&Container::default()),
                    },
                    whole: value(&words, "whole").map(|it| Resources { memory_bytes: it.parse().ok(), ..whole.clone() }),
                });
            }
            "ready" => seen.verdicts.entry(words[1].into()).or_default().ready = Some(true),
            "started" => seen.verdicts.entry(words[1].into()).or_default().started = Some(true),
            "doom" => {
                let anew = words.contains(&"anew");
                seen.doomed.insert(words[1].into(), Doom { why: "doomed".into(), deadline: at(value(&words, "at").unwrap()), anew });
            }
            "fail" => {
                seen.failures.insert(
                    words[1].into(),
                    Failure {
                        reason: words[2].into(),
                        message: "why".into(),
                        at: at(value(&words, "at").unwrap()),
                        retry_at: at(value(&words, "retry").unwrap()),
                        count: 1,
                        announced: words.contains(&"announced"),
                    },
                );
            }
            "backoff" => {
                seen.back_off
                    .insert(words[1].into(), BackOff { delay_s: words[2].parse().unwrap(), updated: at(value(&words, "at").unwrap()) });
            }
            "busy" => {
                seen.busy.insert(words[1..].join(" "));
            }
            "last" => seen.last.phase = Some(words[1].to_owned()),
            "condition" => seen.last.conditions.get_or_insert_default().push(PodCondition {
                type_: words[1].into(),
                status: words[2].into(),
                ..PodCondition::default()
            }),
            "rejected" => seen.rejected = Some((words[1].into(), words[2..].join(" "))),
            "released" => seen.released = true,
            "now" => now = at(words[1]),
            other => panic!("unknown fact {other}"),
        }
    }
    seen.containers.sort_by_key(|it| std::cmp::Reverse(it.attempt));
    for it in &mut seen.containers {
        it.hash = super::plan::container(&spec, &it.name).as_ref().map(act::hash).unwrap_or_default();
        let sandbox = seen.sandboxes.iter().find(|sandbox| sandbox.id == it.sandbox);
        if let Some(why) = doom::why(&spec, it, sandbox.map(|it| &it.resources)) {
            seen.doomed.insert(it.id.clone(), Doom { why, deadline: at("130"), anew: true });
        }
    }
    seen.first_seen = at("10");
    seen.host_ips = vec!["192.0.2.1".parse().unwrap()];
    pod.spec = Some(spec);
    (pod, seen, now)
}

fn action(it: &Action) -> String {
    match it {
        Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Action::Start { container, attempt } => format!("start {container}#{attempt}"),
        Action::Stop { id, deadline, .. } => format!("stop {id} by {}", deadline.as_second()),
        other => other.key(),
    }
}

pub(crate) fn actions(text: &str) -> String {
    let (pod, seen, now) = read(text);
    let Plan { actions, wake, done, .. } = plan(&pod, &seen, now);
    let mut out: Vec<String> = actions.iter().map(action).collect();
    if let Some(wake) = wake {
        out.push(format!("wake {}", wake.as_second()));
    }
    if done {
        out.push("done".into());
    }
    out.join(", ")
}

fn state(it: Option<&ContainerState>) -> String {
    let Some(it) = it else {
        return "none".into();
    };
    if let Some(waiting) = &it.waiting {
        return format!("waiting({})", waiting.reason.as_deref().unwrap_or_default());
    }
    if it.running.is_some() {
        return "running".into();
    }
    it.terminated.as_ref().map_or("none".into(), |it| format!("terminated({} {})", it.exit_code, it.reason.as_deref().unwrap_or_default()))
}

pub(crate) fn status(text: &str) -> String {
    let (pod, seen, now) = read(text);
    let status = plan(&pod, &seen, now).status;
    let mut out = status.phase.unwrap_or_default();
    if let Some(reason) = status.reason {
        let _ = write!(out, " ({reason})");
    }
    out.push('\n');
    for it in (status.init_container_statuses.iter().flatten()).chain(status.container_statuses.iter().flatten()) {
        let _ = write!(out, "{} {}", it.name, state(it.state.as_ref()));
        if it.last_state.is_some() {
            let _ = write!(out, " last={}", state(it.last_state.as_ref()));
        }
        let _ = writeln!(
            out,
            "{}{} restarts={}",
            if it.ready { " ready" } else { "" },
            if it.started == Some(true) { " started" } else { "" },
            it.restart_count
        );
    }
    for it in status.conditions.iter().flatten() {
        let _ = write!(out, "{}={}", it.type_, it.status);
        if let Some(reason) = &it.reason {
            let _ = write!(out, " {reason}");
        }
        if let Some(message) = &it.message {
            let _ = write!(out, ": {message}");
        }
        out.push('\n');
    }
    out
}
