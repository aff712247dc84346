//! The status of a pod, from what is seen of it. Pure; equal input gives equal status, so that a patch is sent only for a change.
//!
//! Words and rules are upstream's: phase from `getPhase`, conditions from `pkg/kubelet/status/generate.go`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP, Pod,
    PodCondition, PodIP, PodSpec, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::{Ending, IMAGE_ERROR_SHOWN_S, ephemeral, has_succeeded, is_over, is_sidecar, restart_at, restarts};
use super::seen::{ContainerSeen, Exit, Failure, SandboxSeen, Seen, State, after};

/// The prefix of container ids in the API: `knarr://<id>`.
pub(crate) const SCHEME: &str = "knarr://";
/// Exit code of a container whose end nobody saw (upstream's).
const LOST_CODE: i32 = 137;
const LOST_REASON: &str = "ContainerStatusUnknown";
const LOST_MESSAGE: &str = "The container could not be located when the pod was terminated";

/// Whether the phase can change no more.
pub(crate) fn is_final(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// How often a container was restarted, as the last status says; `None` if it was never started.
pub(crate) fn known_restarts(last: &PodStatus, name: &str) -> Option<u32> {
    let it = known(last, name)?;
    it.container_id.as_ref()?;
    u32::try_from(it.restart_count).ok()
}

fn known<'a>(last: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    (last.container_statuses.iter().flatten())
        .chain(last.init_container_statuses.iter().flatten())
        .chain(last.ephemeral_container_statuses.iter().flatten())
        .find(|it| it.name == name)
}

/// Running, its postStart hook done, its startup probe passed.
pub(crate) fn is_started(container: &Container, it: &ContainerSeen, seen: &Seen) -> bool {
    match it.state {
        State::Running { hooked, .. } => {
            hooked && (container.startup_probe.is_none() || (seen.verdicts.get(&it.id)).is_some_and(|v| v.started == Some(true)))
        }
        _ => false,
    }
}

fn is_ready(container: &Container, it: &ContainerSeen, seen: &Seen) -> bool {
    is_started(container, it, seen)
        && (container.readiness_probe.is_none() || (seen.verdicts.get(&it.id)).is_some_and(|v| v.ready == Some(true)))
}

pub(crate) fn status(pod: &Pod, spec: &PodSpec, seen: &Seen, ending: Option<&Ending>, now: Timestamp) -> PodStatus {
    let last = &seen.last;
    // One that was created and is not being started now never will be.
    let over = ending.is_some()
        && !seen.containers.iter().any(ContainerSeen::is_running)
        && !seen.busy.iter().any(|key| key.starts_with("start "));
    let generation = pod.metadata.generation;
    let statuses = Statuses { pod, spec, seen, over, initialized: has_initialized(spec, seen), ending: ending.is_some(), now };
    let init: Vec<ContainerStatus> = (spec.init_containers.iter().flatten()).map(|it| statuses.of(it, Role::Init)).collect();
    let mut main: Vec<ContainerStatus> = (spec.containers.iter()).map(|it| statuses.of(it, Role::Main)).collect();
    let debug: Vec<ContainerStatus> = ephemeral(spec).map(|it| statuses.of(&it, Role::Ephemeral)).collect();
    let mut phase = phase(spec, &init, &main, over);
    let (mut reason, mut message) = (None, None);
    if is_final(last) {
        phase = last.phase.clone().unwrap_or_default();
        reason.clone_from(&last.reason);
        message.clone_from(&last.message);
    } else if over && ending == Some(&Ending::Deadline) {
        phase = "Failed".into();
        reason = Some("DeadlineExceeded".into());
        message = Some("Pod was active on the node longer than the specified deadline".into());
    } else if let Some((why, text)) = seen.rejected.as_ref().filter(|_| over) {
        phase = "Failed".into();
        reason = Some(why.clone());
        message = Some(text.clone());
    }
    let sandbox_up = seen.sandbox().is_some();
    let mut conditions = last.conditions.clone().unwrap_or_default();
    let facts = Facts { pod, spec, phase: &phase, init: &init, main: &main, sandbox_up };
    for (kind, verdict) in facts.conditions(&conditions) {
        set_condition(&mut conditions, kind, verdict, generation, now);
    }
    if let Some((_, text)) = seen.rejected.as_ref().filter(|(why, _)| why == "Evicted") {
        let finding = Finding { holds: true, reason: Some("TerminationByKubelet"), message: Some(text.clone()) };
        set_condition(&mut conditions, "DisruptionTarget", finding, generation, now);
    }
    let mut running = spec.containers.iter().filter_map(|it| Some((it, seen.newest(&it.name)?)));
    let pod_resizes = seen.sandbox().is_some_and(|it| is_pod_resizing(spec, it));
    if pod_resizes || running.any(|(container, it)| is_resizing(container, it)) {
        set_condition(&mut conditions, "PodResizeInProgress", Finding::holds(), generation, now);
    } else {
        conditions.retain(|it| it.type_ != "PodResizeInProgress");
    }
    main.sort_by(|a, b| a.name.cmp(&b.name));

    let host_network = spec.host_network == Some(true);
    let ips: Vec<String> = if host_network {
        seen.host_ips.iter().map(ToString::to_string).collect()
    } else if !seen.ips.is_empty() {
        seen.ips.iter().map(ToString::to_string).collect()
    } else {
        // As upstream, the addresses stay in the status after the end.
        (last.pod_ips.iter().flatten()).map(|it| it.ip.clone()).collect()
    };
    let (allocated, in_force) = match &spec.resources {
        Some(own) if sandbox_up => {
            // Until a resize is done, the limits that held before it hold.
            let before = last.resources.clone().filter(|_| pod_resizes);
            (own.requests.clone(), before.or_else(|| Some(ResourceRequirements { claims: None, ..own.clone() })))
        }
        _ => (last.allocated_resources.clone(), last.resources.clone()),
    };
    let host_ips: Vec<String> = seen.host_ips.iter().map(ToString::to_string).collect();
    PodStatus {
        phase: Some(phase),
        reason,
        message,
        conditions: Some(conditions),
        host_ip: host_ips.first().cloned(),
        host_ips: none_if_empty(host_ips.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: none_if_empty(ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: (last.start_time.clone()).or(Some(time(seen.first_seen))),
        qos_class: Some(crate::resources::qos(spec).as_str().to_owned()),
        observed_generation: generation,
        allocated_resources: allocated,
        resources: in_force,
        init_container_statuses: none_if_empty(init),
        container_statuses: none_if_empty(main),
        ephemeral_container_statuses: none_if_empty(debug),
        ..last.clone()
    }
}

fn none_if_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// The API keeps whole seconds.
pub(crate) fn time(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Init,
    Main,
    Ephemeral,
}

struct Statuses<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    seen: &'a Seen,
    /// The pod shall end and nothing of it runs.
    over: bool,
    /// The init containers are done: a container that was not found is one that was lost.
    initialized: bool,
    ending: bool,
    now: Timestamp,
}

fn has_initialized(spec: &PodSpec, seen: &Seen) -> bool {
    let began = |it: &Container| seen.newest(&it.name).is_some() || known_restarts(&seen.last, &it.name).is_some();
    let ended_well = |it: &Container| {
        let known = known(&seen.last, &it.name).is_some_and(|it| it.ready);
        is_sidecar(it) || known || seen.newest(&it.name).is_some_and(|it| has_succeeded(it, seen))
    };
    spec.containers.iter().any(began) || spec.init_containers.iter().flatten().all(ended_well)
}

impl Statuses<'_> {
    fn of(&self, container: &Container, role: Role) -> ContainerStatus {
        let name = container.name.as_str();
        let newest = self.seen.newest(name);
        let known = known(&self.seen.last, name);
        let mut it =
            ContainerStatus { name: name.to_owned(), image: container.image.clone().unwrap_or_default(), ..ContainerStatus::default() };
        match newest {
            Some(newest) => {
                it.image = newest.image.clone();
                it.image_id = newest.image_id.clone();
                it.container_id = Some(format!("{SCHEME}{}", newest.id));
                it.restart_count = i32::try_from(newest.attempt).unwrap_or(i32::MAX);
                it.last_state = (self.seen.previous(name))
                    .and_then(|old| Some(terminated(old, old.exit()?)))
                    .or_else(|| known.filter(|k| k.restart_count == it.restart_count).and_then(last_terminated));
                self.seen_state(container, newest, role, &mut it);
            }
            None => self.unseen_state(container, known, &mut it),
        }
        let began = self.initialized && role != Role::Init || it.container_id.is_some();
        if self.over && began && it.state.as_ref().is_none_or(|state| state.terminated.is_none()) {
            it.state = Some(lost(it.container_id.clone()));
            it.ready = false;
            it.started = Some(false);
        }
        if let Some(resources) = &container.resources {
            it.allocated_resources.clone_from(&resources.requests);
        }
        if it.container_id.is_some() {
            // Until a resize is done, the limits that held before it hold.
            let resizing = newest.is_some_and(|newest| is_resizing(container, newest));
            it.resources = match known.and_then(|it| it.resources.clone()).filter(|_| resizing) {
                Some(before) => Some(before),
                None => Some(ResourceRequirements { claims: None, ..container.resources.clone().unwrap_or_default() }),
            };
            it.volume_mounts = mounts(container);
        }
        it
    }

    fn seen_state(&self, container: &Container, newest: &ContainerSeen, role: Role, it: &mut ContainerStatus) {
        match &newest.state {
            State::Running { since, .. } => {
                it.state = Some(ContainerState {
                    running: Some(ContainerStateRunning { started_at: Some(time(*since)) }),
                    ..ContainerState::default()
                });
                it.started = Some(is_started(container, newest, self.seen));
                it.ready = match role {
                    Role::Main => is_ready(container, newest, self.seen),
                    Role::Init if is_sidecar(container) => is_ready(container, newest, self.seen),
                    _ => false,
                };
            }
            State::Created => {
                it.state = Some(self.waiting_to_start(&container.name));
                it.started = Some(false);
            }
            State::Exited(exit) => {
                let ended = terminated(newest, exit);
                it.started = Some(false);
                it.ready = role == Role::Init && !is_sidecar(container) && has_succeeded(newest, self.seen);
                match self.waiting_for_restart(container, role, newest) {
                    Some(waiting) => {
                        it.state = Some(waiting);
                        it.last_state = Some(ended);
                    }
                    None => it.state = Some(ended),
                }
            }
        }
    }

    /// The waiting state of a container that ended and will be started again, once there is something to say.
    fn waiting_for_restart(&self, container: &Container, role: Role, newest: &ContainerSeen) -> Option<ContainerState> {
        let name = container.name.as_str();
        let initialized = role == Role::Init && !is_sidecar(container) && has_succeeded(newest, self.seen);
        if self.ending || initialized || is_over(self.spec, container, newest, self.seen) {
            return None;
        }
        if let Some(failure) = self.seen.failures.get(name) {
            return Some(waiting_failure(failure, self.now));
        }
        let at = restart_at(self.seen, name)?;
        let delay_s = self.seen.back_off.get(name)?.delay_s;
        let meta = &self.pod.metadata;
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        let pod = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
        (self.now < at).then(|| {
            let message = format!("back-off {} restarting failed container={name} pod={pod}", spoken(delay_s));
            waiting("CrashLoopBackOff", message)
        })
    }

    /// The state of a container of which the runtime shows nothing.
    fn unseen_state(&self, container: &Container, known: Option<&ContainerStatus>, it: &mut ContainerStatus) {
        it.started = Some(false);
        let Some(known) = known.filter(|it| it.container_id.is_some()) else {
            it.state = Some(self.waiting_to_start(&container.name));
            return;
        };
        it.image = known.image.clone();
        it.image_id = known.image_id.clone();
        it.container_id = known.container_id.clone();
        it.restart_count = known.restart_count;
        let ended = (known.state.as_ref()).and_then(|state| state.terminated.as_ref());
        match ended {
            // Its record is gone with the sandbox: the status remembers.
            Some(ended) if self.ending || !restarts(self.spec, container, ended.exit_code) => {
                it.state.clone_from(&known.state);
                it.last_state.clone_from(&known.last_state);
                it.ready = known.ready;
            }
            Some(_) => {
                it.state = Some(self.waiting_to_start(&container.name));
                it.last_state.clone_from(&known.state);
            }
            None if self.ending => it.state = Some(lost(known.container_id.clone())),
            None => {
                it.state = Some(self.waiting_to_start(&container.name));
                it.last_state = match &known.state {
                    Some(ContainerState { running: Some(_), .. }) => Some(lost(known.container_id.clone())),
                    _ => known.last_state.clone(),
                };
            }
        }
    }

    fn waiting_to_start(&self, name: &str) -> ContainerState {
        if let Some(failure) = self.seen.failures.get(name) {
            return waiting_failure(failure, self.now);
        }
        let reason = match self.spec.init_containers.as_deref() {
            None | Some([]) => "ContainerCreating",
            Some(_) => "PodInitializing",
        };
        ContainerState {
            waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message: None }),
            ..ContainerState::default()
        }
    }
}

/// Runs under other limits than the pod now asks for.
pub(crate) fn is_resizing(container: &Container, it: &ContainerSeen) -> bool {
    it.is_running() && it.resources != crate::resources::of_container(container)
}

/// The same of the pod as a whole.
pub(crate) fn is_pod_resizing(spec: &PodSpec, it: &SandboxSeen) -> bool {
    it.ready && it.resources != crate::resources::of_pod(spec)
}

fn last_terminated(known: &ContainerStatus) -> Option<ContainerState> {
    known.last_state.clone().filter(|state| state.terminated.is_some())
}

fn waiting_failure(failure: &Failure, now: Timestamp) -> ContainerState {
    if failure.reason == "ErrImagePull" && (failure.announced || now >= after(failure.at, IMAGE_ERROR_SHOWN_S)) {
        return waiting("ImagePullBackOff", format!("Back-off pulling image: ErrImagePull: {}", failure.message));
    }
    waiting(&failure.reason, failure.message.clone())
}

fn waiting(reason: &str, message: String) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message: (!message.is_empty()).then_some(message) }),
        ..ContainerState::default()
    }
}

fn terminated(it: &ContainerSeen, exit: &Exit) -> ContainerState {
    let reason = match (exit.reason.as_str(), exit.code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(format!("{SCHEME}{}", it.id)),
            exit_code: exit.code,
            signal: None,
            reason: Some(reason.to_owned()),
            message: (!exit.message.is_empty()).then(|| exit.message.clone()),
            started_at: exit.started.map(time),
            finished_at: Some(time(exit.finished)),
        }),
        ..ContainerState::default()
    }
}

fn lost(container_id: Option<String>) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id,
            exit_code: LOST_CODE,
            reason: Some(LOST_REASON.into()),
            message: Some(LOST_MESSAGE.into()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let list = (container.volume_mounts.iter().flatten())
        .map(|it| VolumeMountStatus {
            mount_path: it.mount_path.clone(),
            name: it.name.clone(),
            read_only: it.read_only,
            recursive_read_only: (it.read_only == Some(true)).then(|| "Disabled".to_owned()),
            ..VolumeMountStatus::default()
        })
        .collect();
    none_if_empty(list)
}

/// Seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
pub(crate) fn spoken(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

/// The phase, as upstream's `getPhase` reads it from the container statuses.
fn phase(spec: &PodSpec, init: &[ContainerStatus], main: &[ContainerStatus], over: bool) -> String {
    let code = |it: &Option<ContainerState>| -> Option<i32> { Some(it.as_ref()?.terminated.as_ref()?.exit_code) };
    let running = |it: &ContainerStatus| it.state.as_ref().is_some_and(|s| s.running.is_some());
    let never = spec.restart_policy.as_deref() == Some("Never");

    let any_main_began = main.iter().any(|it| it.container_id.is_some());
    let mut pending_init = false;
    let mut failed_init = false;
    for (container, it) in spec.init_containers.iter().flatten().zip(init) {
        if is_sidecar(container) {
            pending_init |= !(any_main_began || running(it) && it.started == Some(true));
            continue;
        }
        match (code(&it.state), code(&it.last_state)) {
            (Some(0), _) => {}
            (Some(_), _) => failed_init = true,
            (None, Some(last)) if last != 0 => failed_init |= never,
            (None, _) => pending_init |= !any_main_began,
        }
    }
    let (mut up, mut stopped, mut succeeded, mut waiting) = (0, 0, 0, 0);
    for it in main {
        match (running(it), code(&it.state), code(&it.last_state)) {
            (true, ..) => up += 1,
            (_, Some(code), _) | (_, None, Some(code)) => {
                stopped += 1;
                succeeded += usize::from(code == 0 && it.state.as_ref().is_some_and(|s| s.terminated.is_some()));
            }
            _ => waiting += 1,
        }
    }
    let phase = if over {
        let all_well = !failed_init && succeeded == main.len();
        if all_well { "Succeeded" } else { "Failed" }
    } else if failed_init && never {
        "Failed"
    } else if pending_init || (failed_init && !any_main_began) || waiting > 0 {
        "Pending"
    } else if up > 0 {
        "Running"
    } else if stopped > 0 {
        // All have ended, and some shall run again: the pod is between two runs.
        "Running"
    } else {
        "Pending"
    };
    phase.to_owned()
}

/// True or false, with the reason and the message of a condition.
struct Finding {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Finding {
    fn holds() -> Finding {
        Finding { holds: true, reason: None, message: None }
    }

    fn fails(reason: &'static str, message: String) -> Finding {
        Finding { holds: false, reason: Some(reason), message: (!message.is_empty()).then_some(message) }
    }
}

struct Facts<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    phase: &'a str,
    init: &'a [ContainerStatus],
    main: &'a [ContainerStatus],
    sandbox_up: bool,
}

impl Facts<'_> {
    fn conditions(&self, present: &[PodCondition]) -> Vec<(&'static str, Finding)> {
        let containers = self.containers_ready();
        let ready = self.ready(&containers, present);
        let sandbox = Finding { holds: self.sandbox_up, reason: None, message: None };
        vec![
            ("PodReadyToStartContainers", sandbox),
            ("Initialized", self.initialized()),
            ("Ready", ready),
            ("ContainersReady", containers),
            ("PodScheduled", Finding::holds()),
        ]
    }

    fn initialized(&self) -> Finding {
        if self.phase == "Succeeded" {
            return Finding { holds: true, reason: Some("PodCompleted"), message: None };
        }
        if self.main.iter().any(|it| it.container_id.is_some()) {
            return Finding::holds();
        }
        let pending: Vec<&str> = (self.spec.init_containers.iter().flatten())
            .zip(self.init)
            .filter(|(container, it)| if is_sidecar(container) { it.started != Some(true) } else { !it.ready })
            .map(|(_, it)| it.name.as_str())
            .collect();
        if pending.is_empty() {
            return Finding::holds();
        }
        Finding::fails("ContainersNotInitialized", format!("containers with incomplete status: [{}]", pending.join(" ")))
    }

    fn containers_ready(&self) -> Finding {
        match self.phase {
            "Succeeded" => return Finding::fails("PodCompleted", String::new()),
            "Failed" => return Finding::fails("PodFailed", String::new()),
            _ => {}
        }
        let sidecars =
            (self.spec.init_containers.iter().flatten()).zip(self.init).filter(|(container, _)| is_sidecar(container)).map(|(_, it)| it);
        let unready: Vec<&str> = sidecars.chain(self.main).filter(|it| !it.ready).map(|it| it.name.as_str()).collect();
        if unready.is_empty() {
            return Finding::holds();
        }
        Finding::fails("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
    }

    fn ready(&self, containers: &Finding, present: &[PodCondition]) -> Finding {
        if !containers.holds {
            return Finding { holds: false, reason: containers.reason, message: containers.message.clone() };
        }
        let mut missing = Vec::new();
        for gate in self.spec.readiness_gates.iter().flatten() {
            let gate = &gate.condition_type;
            match present.iter().find(|it| it.type_ == *gate) {
                None => missing.push(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
                Some(it) if it.status != "True" => {
                    missing.push(format!("the status of pod readiness gate \"{gate}\" is not \"True\", but {}", it.status))
                }
                Some(_) => {}
            }
        }
        // A pod that is being deleted leaves its Services through its endpoints, not through this condition.
        let _ = self.pod;
        if missing.is_empty() {
            return Finding::holds();
        }
        Finding::fails("ReadinessGatesNotReady", missing.join(", "))
    }
}

fn set_condition(conditions: &mut Vec<PodCondition>, kind: &str, finding: Finding, generation: Option<i64>, now: Timestamp) {
    let status = if finding.holds { "True" } else { "False" };
    let reason = finding.reason.map(str::to_owned);
    if let Some(it) = conditions.iter_mut().find(|it| it.type_ == kind) {
        if it.status != status {
            it.last_transition_time = Some(time(now));
            status.clone_into(&mut it.status);
        }
        it.reason = reason;
        it.message = finding.message;
        it.observed_generation = generation;
        return;
    }
    conditions.push(PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message: finding.message,
        last_transition_time: Some(time(now)),
        observed_generation: generation,
        ..PodCondition::default()
    });
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
