//! What the worker sees of its pod: the runtime's records, joined with the worker's memory; and how that memory is rebuilt.

use std::hash::{Hash as _, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use knarr_runtime::{ContainerState as RunState, ContainerStatus, SandboxState};

use super::plan;
use super::seen::{BackOff, ContainerSeen, Doom, Exit, SandboxSeen, Seen, State, Verdict, Volumes, after};
use super::status;
use super::worker::{Desired, Memory, OWN_CONDITIONS, Worker, grace_s, label, name_of, time_of};
use super::{act, doom};

/// Bytes of a termination message that the status shows (upstream: MaxContainerTerminationMessageLength).
const MESSAGE_BYTES_MAX: usize = 4096;
/// Bytes and lines of the log that stand in for a missing termination message (upstream: …LogLength, …LogLines).
const MESSAGE_LOG_BYTES_MAX: usize = 2048;
const MESSAGE_LOG_LINES_MAX: usize = 80;

impl Worker {
    /// Rebuilds the memory of a pod that was here before this process.
    pub(super) async fn adopt(&self) {
        let Desired { pod, .. } = self.desired();
        let now = Timestamp::now();
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let sandboxes = self.sandboxes();
        if let Some((sandbox, _)) = sandboxes.first()
            && sandbox.state == SandboxState::Ready
        {
            match act::attach(self, &pod, &sandbox.id, sandbox.netns.as_deref()).await {
                Ok(()) => {}
                Err(error) => {
                    // The pod runs: it keeps the addresses that it has told, rather than being started anew.
                    tracing::warn!(pod = %name_of(&pod), error = %error, "adopt the pod's network");
                    let status = pod.status.as_ref();
                    let ips = status.and_then(|it| it.pod_ips.as_ref()).into_iter().flatten();
                    let mut memory = self.memory.lock();
                    memory.ips = ips.filter_map(|it| it.ip.parse().ok()).collect();
                    if !memory.ips.is_empty() {
                        memory.networked = Some(sandbox.id.clone());
                    }
                }
            }
        }
        let known = pod.status.as_ref();
        let statuses = known
            .into_iter()
            .flat_map(|it| (it.container_statuses.iter().flatten()).chain(it.init_container_statuses.iter().flatten()).collect::<Vec<_>>());
        let mut memory = self.memory.lock();
        if let Some(deleted) = &pod.metadata.deletion_timestamp {
            // Its end began before this process did: what is left of the grace period is left.
            memory.ending_since = Some(after(deleted.0, -grace_s(&pod)).min(now));
        }
        for it in statuses {
            let id = it.container_id.as_deref().and_then(|id| id.strip_prefix(status::SCHEME));
            if let Some(id) = id {
                memory.verdicts.insert(id.to_owned(), Verdict { ready: Some(it.ready), started: it.started });
            }
        }
        for container in self.containers(&sandboxes) {
            let started = container.started_at_ns.map_or(now, time_of);
            if container.attempt > 0 && plan::container(spec, &container.name).is_some() {
                let entry = memory.back_off.entry(container.name.clone());
                if let Some(it) = BackOff::remembered(container.attempt, started) {
                    entry.or_insert(it);
                }
            }
        }
    }

    fn sandboxes(&self) -> Vec<(knarr_runtime::SandboxStatus, u32)> {
        let mut list: Vec<_> = (self.node.runtime.list_sandboxes().into_iter())
            .filter(|it| it.labels.get(label::UID) == Some(&self.uid))
            .map(|it| {
                let attempt = it.id.rsplit_once('-').and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
                (it, attempt)
            })
            .collect();
        list.sort_by_key(|it| std::cmp::Reverse(it.1));
        list
    }

    fn containers(&self, sandboxes: &[(knarr_runtime::SandboxStatus, u32)]) -> Vec<ContainerStatus> {
        let mut list: Vec<_> = (self.node.runtime.list_containers().into_iter())
            .filter(|it| sandboxes.iter().any(|(sandbox, _)| sandbox.id == it.sandbox))
            .collect();
        list.sort_by_key(|it| std::cmp::Reverse((it.attempt, it.created_at_ns)));
        list
    }

    pub(super) fn see(&self, pod: &Pod, gone: bool, now: Timestamp) -> Seen {
        let sandboxes = self.sandboxes();
        let containers = self.containers(&sandboxes);
        let spec = pod.spec.as_ref();
        let host_network = spec.and_then(|it| it.host_network) == Some(true);
        let mut memory = self.memory.lock();
        let ending = gone || pod.metadata.deletion_timestamp.is_some() || status::is_final(&memory.last);
        if ending || memory.rejected.is_some() {
            memory.ending_since.get_or_insert(now);
        }
        self.note_inputs(&mut memory, pod, now);
        let seen_containers: Vec<ContainerSeen> = (containers.iter())
            .map(|it| {
                let state = match it.state {
                    RunState::Created => State::Created,
                    RunState::Running { .. } => {
                        State::Running { since: it.started_at_ns.map_or(now, time_of), hooked: !memory.unhooked.contains(&it.id) }
                    }
                    RunState::Exited(exit) => State::Exited(self.exit(&mut memory, pod, it, exit)),
                };
                let of = |name: &str| it.labels.get(name).cloned().unwrap_or_default();
                ContainerSeen {
                    id: it.id.clone(),
                    name: it.name.clone(),
                    attempt: it.attempt,
                    sandbox: it.sandbox.clone(),
                    state,
                    image: of(label::IMAGE),
                    image_id: of(label::IMAGE_ID),
                    hash: of(label::HASH),
                    resources: it.resources.clone(),
                    whole: it.labels.get(label::WHOLE).and_then(|text| serde_json::from_str(text).ok()),
                }
            })
            .collect();
        for it in seen_containers.iter().filter(|_| !ending) {
            let why = spec.and_then(|spec| {
                doom::why(spec, it, sandboxes.iter().find(|(sandbox, _)| sandbox.id == it.sandbox).map(|(it, _)| &it.resources))
            });
            if let Some(why) = why
                && !memory.doomed.contains_key(&it.id)
            {
                memory.doomed.insert(it.id.clone(), Doom { why, deadline: after(now, grace_s(pod)), anew: true });
            }
        }
        // The API object may hold conditions of others: they are shown as they are.
        let others = pod.status.as_ref().and_then(|it| it.conditions.clone()).unwrap_or_default();
        let own = memory.last.conditions.get_or_insert_default();
        for condition in others {
            if OWN_CONDITIONS.contains(&condition.type_.as_str()) {
                continue;
            }
            match own.iter_mut().find(|it| it.type_ == condition.type_) {
                Some(it) => *it = condition,
                None => own.push(condition),
            }
        }
        Seen {
            sandboxes: (sandboxes.iter())
                .map(|(it, attempt)| SandboxSeen {
                    id: it.id.clone(),
                    attempt: *attempt,
                    ready: it.state == SandboxState::Ready && (host_network || memory.networked.as_ref() == Some(&it.id) || ending),
                    resources: it.resources.clone(),
                })
                .collect(),
            containers: seen_containers,
            volumes: memory.volumes.clone(),
            sandbox_failure: memory.sandbox_failure.clone(),
            failures: memory.failures.clone(),
            back_off: memory.back_off.clone(),
            verdicts: memory.verdicts.clone(),
            doomed: memory.doomed.clone(),
            busy: memory.busy.clone(),
            ips: memory.ips.clone(),
            gone,
            ending_since: memory.ending_since,
            rejected: memory.rejected.clone(),
            released: memory.released,
            torn_down: memory.torn_down,
            last: memory.last.clone(),
            first_seen: memory.first_seen,
            host_ips: self.node.host_ips().to_vec(),
        }
    }

    /// How a container ended, with its message; read once.
    fn exit(&self, memory: &mut Memory, pod: &Pod, it: &ContainerStatus, exit: knarr_runtime::Exit) -> Exit {
        if let Some(known) = memory.exits.get(&it.id) {
            return known.clone();
        }
        let container = pod.spec.as_ref().and_then(|spec| plan::container(spec, &it.name));
        let mut message = read_start(&self.dir.termination_message(&it.name, it.attempt));
        let fallback = container.is_some_and(|it| it.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"));
        if message.is_empty() && fallback && exit.code != 0 {
            message = it.log_path.as_deref().map(log_end).unwrap_or_default();
        }
        if message.is_empty() {
            message.clone_from(&it.message);
        }
        let seen = Exit {
            code: exit.code,
            signal: exit.signal,
            reason: it.reason.clone(),
            message,
            started: it.started_at_ns.map(time_of),
            finished: time_of(exit.finished_at_ns),
        };
        // Old ids leave with the records that the plan lets go of.
        if memory.exits.len() > 64 {
            memory.exits.clear();
        }
        memory.exits.insert(it.id.clone(), seen.clone());
        seen
    }

    /// Notices that something the pod uses has changed: what failed for want of it is tried again at once.
    fn note_inputs(&self, memory: &mut Memory, pod: &Pod, now: Timestamp) {
        let mut changed = false;
        for (name, version) in versions(memory, pod) {
            let before = memory.inputs.insert(name, version.clone());
            changed |= before.is_some_and(|it| it != version);
        }
        if !changed {
            return;
        }
        for failure in memory.failures.values_mut().filter(|it| it.reason == "CreateContainerConfigError") {
            failure.retry_at = now;
        }
        match &mut memory.volumes {
            Volumes::Failed(failure) => failure.retry_at = now,
            Volumes::Ready => memory.volumes_stale = true,
            Volumes::Unset => {}
        }
    }
}

fn versions(memory: &Memory, pod: &Pod) -> Vec<(String, String)> {
    let used = memory.used.iter().filter_map(|((kind, name), used)| Some((format!("{kind}/{name}"), used.version()?)));
    let mut hasher = std::hash::DefaultHasher::new();
    pod.metadata.labels.hash(&mut hasher);
    pod.metadata.annotations.hash(&mut hasher);
    used.chain([("pod".to_owned(), hasher.finish().to_string())]).collect()
}

/// The beginning of a termination message; nothing where there is none.
fn read_start(path: &std::path::Path) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MESSAGE_BYTES_MAX as u64).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// The last lines of a container's log, without their CRI heads.
fn log_end(path: &std::path::Path) -> String {
    use std::io::{Read as _, Seek as _};
    // Heads make the file longer than the text; four times is enough for lines of ordinary length.
    const TAIL_BYTES: u64 = 4 * MESSAGE_LOG_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        file.take(TAIL_BYTES).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let mut out = lines[lines.len().saturating_sub(MESSAGE_LOG_LINES_MAX)..].join("\n");
    if !out.is_empty() {
        out.push('\n');
    }
    let mut start = out.len().saturating_sub(MESSAGE_LOG_BYTES_MAX);
    while !out.is_char_boundary(start) {
        start += 1;
    }
    out[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_stands_in_for_a_message() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F hello\n2026-01-01T00:00:01Z stderr F it broke\n").unwrap();
        assert_eq!(log_end(&path), "hello\nit broke\n");
    }
}
