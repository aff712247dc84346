//! The probes of one pod that run now. Which shall run follows from what is seen: [`Probes::keep`] starts and ends them.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use knarr_client::EventType;
use tokio::task::AbortHandle;

use super::plan;
use super::probe::{self, Kind, Told};
use super::seen::{Doom, Seen, State, after};
use super::worker::{Worker, grace_s};
use crate::hook::Target;

#[derive(Default)]
pub(crate) struct Probes {
    /// By container id.
    running: HashMap<(String, Kind), AbortHandle>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in self.running.values() {
            task.abort();
        }
    }
}

impl Probes {
    /// Starts the probes that should run and ends those that should not.
    pub(crate) fn keep(&mut self, worker: &Arc<Worker>, pod: &Arc<Pod>, seen: &Seen) {
        let Some(spec) = &pod.spec else {
            return;
        };
        let mut wanted = Vec::new();
        let sidecars = spec.init_containers.iter().flatten().filter(|it| plan::is_sidecar(it));
        for container in spec.containers.iter().chain(sidecars) {
            let Some(it) = seen.current(&container.name) else {
                continue;
            };
            let State::Running { since, hooked: true } = it.state else {
                continue;
            };
            let verdict = seen.verdicts.get(&it.id).copied().unwrap_or_default();
            let starting = container.startup_probe.is_some() && verdict.started != Some(true);
            let ending = seen.ending_since.is_some() || seen.doomed.contains_key(&it.id);
            let kinds: &[Kind] = match (starting, ending) {
                (true, false) => &[Kind::Startup],
                (true, true) => &[],
                (false, true) => &[Kind::Readiness],
                (false, false) => &[Kind::Readiness, Kind::Liveness],
            };
            for kind in kinds.iter().filter(|kind| kind.of(container).is_some()) {
                let known = match kind {
                    Kind::Readiness => verdict.ready,
                    _ => None,
                };
                wanted.push((it.id.clone(), *kind, container, since, known));
            }
        }
        self.running.retain(|(id, kind), task| {
            let keep = wanted.iter().any(|it| it.0 == *id && it.1 == *kind);
            if !keep {
                task.abort();
            }
            keep
        });
        for (id, kind, container, since, known) in wanted {
            self.running.entry((id.clone(), kind)).or_insert_with(|| start(worker, pod, container, id, kind, since, known));
        }
    }
}

fn start(
    worker: &Arc<Worker>,
    pod: &Arc<Pod>,
    container: &Container,
    id: String,
    kind: Kind,
    since: Timestamp,
    known: Option<bool>,
) -> AbortHandle {
    let probe = kind.of(container).cloned().unwrap_or_default();
    let asked = {
        let (worker, container, probe, id) = (worker.clone(), Arc::new(container.clone()), Arc::new(probe.clone()), id.clone());
        let host_network = pod.spec.as_ref().and_then(|it| it.host_network) == Some(true);
        Arc::new(move || {
            let (worker, container, probe, id) = (worker.clone(), container.clone(), probe.clone(), id.clone());
            let pod_ip = if host_network { worker.node.host_ips().first().copied() } else { worker.memory.lock().ips.first().copied() };
            Box::pin(async move {
                let target = Target { runtime: &worker.node.runtime, container: &container, container_id: &id, pod_ip };
                probe::once(&probe, &target).await
            }) as futures::future::BoxFuture<'static, _>
        })
    };
    let grace = probe.termination_grace_period_seconds;
    let tell = {
        let (worker, pod, name) = (worker.clone(), pod.clone(), container.name.clone());
        move |told: Told| match told {
            Told::Healthy(took) => worker.tallies.lock().entry((name.clone(), kind)).or_default().succeeded(took),
            Told::Unhealthy(text) => {
                worker.tallies.lock().entry((name.clone(), kind)).or_default().failed();
                let message = format!("{} probe failed: {text}", kind.title());
                worker.node.say(&pod, Some(&name), EventType::Warning, "Unhealthy", &message);
            }
            Told::StillUnhealthy => worker.tallies.lock().entry((name.clone(), kind)).or_default().failed(),
            Told::Verdict(good) => decide(&worker, &pod, &name, &id, kind, good, grace),
        }
    };
    tokio::spawn(probe::run(probe, kind, since, known, asked, tell)).abort_handle()
}

fn decide(worker: &Worker, pod: &Pod, name: &str, id: &str, kind: Kind, good: bool, grace: Option<i64>) {
    let mut memory = worker.memory.lock();
    match (kind, good) {
        (Kind::Readiness, good) => memory.verdicts.entry(id.to_owned()).or_default().ready = Some(good),
        (Kind::Startup, true) => memory.verdicts.entry(id.to_owned()).or_default().started = Some(true),
        (Kind::Liveness, true) => return,
        (Kind::Startup | Kind::Liveness, false) => {
            let what = kind.title().to_lowercase();
            let why = format!("Container {name} failed {what} probe, will be restarted");
            let deadline = after(Timestamp::now(), grace.unwrap_or_else(|| grace_s(pod)));
            let anew = pod.spec.as_ref().is_some_and(|spec| {
                let container = plan::container(spec, name);
                container.is_some_and(|it| plan::policy(spec, &it) != "Never")
            });
            memory.doomed.entry(id.to_owned()).or_insert(Doom { why, deadline, anew });
        }
    }
    drop(memory);
    worker.wake.notify_one();
}
