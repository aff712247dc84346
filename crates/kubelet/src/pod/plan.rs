//! What to do next for one pod.
//!
//! Pure: the pod object, what is seen, and the time give the actions, the status and the next deadline. It is asked again after
//! every change, so it plans only what may start now; what is already under way (`Seen::busy`) is left out.
//!
//! Order of a start: volumes and sandbox, init containers one by one (a sidecar counts once it has started), containers in
//! their order, each when the one before it was started. Order of an end: containers, then sidecars from the last to the first,
//! then the sandbox, the volumes, and at last the API object.
//! Never: restarts a pod whose phase is final; starts anything in a pod that shall end.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus};

use super::seen::{BackOff, ContainerSeen, Failure, Seen, State, Volumes, after};
use super::{lint, status};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    SetUpVolumes,
    CreateSandbox {
        attempt: u32,
    },
    /// Fetch the image, create the container, start it, run its postStart hook.
    Start {
        container: String,
        attempt: u32,
    },
    /// Run the preStop hook, send the stop signal, kill at the deadline.
    Stop {
        id: String,
        container: String,
        deadline: Timestamp,
        why: String,
    },
    /// Give a running container the limits that the pod asks for now.
    Resize {
        id: String,
        container: String,
    },
    /// Give a running pod as a whole the limits that it asks for now.
    ResizePod {
        sandbox: String,
    },
    StopSandbox {
        id: String,
    },
    RemoveContainer {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Unmount and delete the volumes of a pod that has ended: it may not be deleted for long.
    ReleaseVolumes,
    /// Unmount and delete everything that the pod has on the node's disk.
    TearDown,
    /// Tell the API, by an event, that the image is being waited for.
    AnnounceBackOff {
        container: String,
    },
    /// Write the final status, then delete the API object with grace 0, if it still is this pod.
    DeleteObject,
}

impl Action {
    /// Two actions of one key are never under way together.
    pub(crate) fn key(&self) -> String {
        match self {
            Action::SetUpVolumes => "volumes".into(),
            Action::CreateSandbox { .. } => "sandbox".into(),
            Action::Start { container, .. } => format!("start {container}"),
            // A shorter deadline may overtake a stop that waits for a longer one.
            Action::Stop { id, deadline, .. } => format!("stop {id} {}", deadline.as_second()),
            Action::Resize { id, .. } => format!("resize {id}"),
            Action::ResizePod { sandbox } => format!("resize-pod {sandbox}"),
            Action::StopSandbox { id } => format!("stop-sandbox {id}"),
            Action::RemoveContainer { id } => format!("remove {id}"),
            Action::RemoveSandbox { id } => format!("remove-sandbox {id}"),
            Action::ReleaseVolumes => "release".into(),
            Action::TearDown => "tear-down".into(),
            Action::AnnounceBackOff { container } => format!("announce {container}"),
            Action::DeleteObject => "delete".into(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    pub(crate) status: PodStatus,
    /// When to plan again though nothing happened.
    pub(crate) wake: Option<Timestamp>,
    /// The worker has nothing left to do and may end.
    pub(crate) done: bool,
}

/// Why a pod shall end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// deletionTimestamp is set, or the object is gone.
    Deleted,
    /// `activeDeadlineSeconds` passed.
    Deadline,
    /// The node refused or evicted it.
    Rejected,
    /// Its containers have ended and none shall be restarted.
    Completed,
    /// Its phase was final already.
    Final,
}

/// Shortest time that a container gets to end after its stop signal (upstream: minimumGracePeriodInSeconds, 2, or 1 on request).
const GRACE_MIN_S: i64 = 1;
/// Used where the pod says nothing (the API's default).
const GRACE_DEFAULT_S: i64 = 30;
/// An image error is shown as itself this long before it becomes a back-off, as upstream's next sync would.
pub(crate) const IMAGE_ERROR_SHOWN_S: i64 = 2;

pub(crate) fn plan(pod: &Pod, seen: &Seen, now: Timestamp) -> Plan {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut planner = Planner { pod, spec, seen, now, actions: Vec::new(), wake: None };
    let ending = planner.ending();
    let mut done = false;
    match &ending {
        Some(ending) => done = planner.end(ending),
        None => planner.start(),
    }
    planner.collect_garbage();
    let Planner { mut actions, wake, .. } = planner;
    actions.retain(|it| !seen.busy.contains(&it.key()));
    let status = status::status(pod, spec, seen, ending.as_ref(), now);
    let plan = Plan { actions, status, wake, done };
    debug_assert_eq!(lint::faults(pod, seen, now, &plan), [""; 0], "a plan that must never be: {:?}", plan.actions);
    plan
}

struct Planner<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    seen: &'a Seen,
    now: Timestamp,
    actions: Vec<Action>,
    wake: Option<Timestamp>,
}

impl Planner<'_> {
    fn ending(&mut self) -> Option<Ending> {
        if self.seen.gone || self.pod.metadata.deletion_timestamp.is_some() {
            return Some(Ending::Deleted);
        }
        if self.seen.rejected.is_some() {
            return Some(Ending::Rejected);
        }
        if status::is_final(&self.seen.last) {
            return Some(Ending::Final);
        }
        if let Some(seconds) = self.spec.active_deadline_seconds {
            let started = (self.seen.last.start_time.as_ref()).map_or(self.seen.first_seen, |t| t.0);
            let deadline = after(started, seconds);
            if self.now >= deadline {
                return Some(Ending::Deadline);
            }
            self.wake_at(deadline);
        }
        completed(self.spec, self.seen).then_some(Ending::Completed)
    }

    /// Plans one step of the end. True once nothing is left to do.
    fn end(&mut self, ending: &Ending) -> bool {
        let since = self.seen.ending_since.unwrap_or(self.now);
        let grace_s = (self.pod.metadata.deletion_grace_period_seconds)
            .or(self.spec.termination_grace_period_seconds)
            .unwrap_or(GRACE_DEFAULT_S)
            .max(GRACE_MIN_S);
        // A pod that is evicted is in the way: it gets the least.
        let grace_s = if *ending == Ending::Rejected { GRACE_MIN_S } else { grace_s };
        let deadline = after(since, grace_s);
        let running: Vec<&ContainerSeen> = (self.seen.containers.iter()).filter(|it| it.is_running()).collect();
        let (sidecars, others): (Vec<_>, Vec<_>) = running.into_iter().partition(|it| sidecar_rank(self.spec, &it.name).is_some());
        let starting = self.seen.busy.iter().any(|key| key.starts_with("start "));
        if !others.is_empty() {
            for container in others {
                self.stop(container, deadline);
            }
            return false;
        }
        // The last sidecar goes first: those before it may serve it.
        if let Some(last) = (sidecars.into_iter()).max_by_key(|it| sidecar_rank(self.spec, &it.name)) {
            self.stop(last, deadline);
            return false;
        }
        if starting || self.seen.busy.contains("sandbox") || self.seen.busy.contains("volumes") {
            return false;
        }
        let mut stopping = false;
        for sandbox in self.seen.sandboxes.iter().filter(|it| it.ready) {
            self.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
            stopping = true;
        }
        if stopping {
            return false;
        }
        if *ending != Ending::Deleted {
            // Logs and records stay until the object is deleted; only what costs goes.
            if !self.seen.released {
                self.actions.push(Action::ReleaseVolumes);
            }
            return false;
        }
        if !self.seen.torn_down {
            self.actions.push(Action::TearDown);
            return false;
        }
        if self.seen.gone {
            return true;
        }
        self.actions.push(Action::DeleteObject);
        false
    }

    fn stop(&mut self, container: &ContainerSeen, deadline: Timestamp) {
        // A container that was doomed already keeps its earlier deadline.
        let deadline = (self.seen.doomed.get(&container.id)).map_or(deadline, |it| it.deadline.min(deadline));
        self.actions.push(Action::Stop {
            id: container.id.clone(),
            container: container.name.clone(),
            deadline,
            why: format!("Stopping container {}", container.name),
        });
    }

    fn start(&mut self) {
        // Two live sandboxes of one pod: the older is a leftover of a crash.
        for sandbox in self.seen.sandboxes.iter().skip(1).filter(|it| it.ready) {
            self.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
        }
        let resizes = |it: &ContainerSeen| self::container(self.spec, &it.name).is_some_and(|wanted| status::is_resizing(&wanted, it));
        // Where a container is resized too, that sees to the order of the two.
        if let Some(sandbox) = self.seen.sandbox().filter(|it| status::is_pod_resizing(self.spec, it))
            && !self.seen.containers.iter().any(resizes)
        {
            self.actions.push(Action::ResizePod { sandbox: sandbox.id.clone() });
        }
        for container in self.seen.containers.iter().filter(|it| it.is_running()) {
            let wanted = self::container(self.spec, &container.name);
            if wanted.is_some_and(|wanted| status::is_resizing(&wanted, container)) {
                self.actions.push(Action::Resize { id: container.id.clone(), container: container.name.clone() });
            }
            if let Some(doom) = self.seen.doomed.get(&container.id) {
                self.actions.push(Action::Stop {
                    id: container.id.clone(),
                    container: container.name.clone(),
                    deadline: doom.deadline,
                    why: doom.why.clone(),
                });
            }
        }
        let volumes = self.volumes();
        let sandbox = self.sandbox();
        if !volumes || !sandbox {
            return;
        }
        for container in ephemeral(self.spec) {
            if self.seen.newest(&container.name).is_none() {
                self.start_container(&container.name, None);
            }
        }
        if !self.init_containers() {
            return;
        }
        for container in &self.spec.containers {
            if self.seen.busy.contains(&format!("start {}", container.name)) {
                // The next one waits until this one, and its postStart hook, is done.
                return;
            }
            self.keep(container);
        }
    }

    fn volumes(&mut self) -> bool {
        match &self.seen.volumes {
            Volumes::Ready => return true,
            Volumes::Unset => self.actions.push(Action::SetUpVolumes),
            Volumes::Failed(failure) => {
                if self.due(failure) {
                    self.actions.push(Action::SetUpVolumes);
                }
            }
        }
        false
    }

    fn sandbox(&mut self) -> bool {
        if self.seen.sandbox().is_some() {
            return true;
        }
        let attempt = self.seen.sandboxes.first().map_or(0, |it| it.attempt + 1);
        match &self.seen.sandbox_failure {
            Some(failure) if !self.due(failure) => {}
            _ => self.actions.push(Action::CreateSandbox { attempt }),
        }
        false
    }

    /// True once the init containers let the others start.
    fn init_containers(&mut self) -> bool {
        let initialized = (self.spec.containers.iter()).any(|it| self.seen.current(&it.name).is_some());
        for container in self.spec.init_containers.iter().flatten() {
            let current = self.seen.current(&container.name);
            if is_sidecar(container) {
                self.keep(container);
                let started = current.is_some_and(|it| status::is_started(container, it, self.seen));
                if !started && !initialized {
                    return false;
                }
                continue;
            }
            if initialized {
                continue;
            }
            if !current.is_some_and(|it| has_succeeded(it, self.seen)) {
                self.keep(container);
                return false;
            }
        }
        true
    }

    /// Starts a container that should run and does not, at its time.
    fn keep(&mut self, container: &Container) {
        let name = container.name.as_str();
        let newest = self.seen.newest(name);
        match self.seen.current(name).map(|it| &it.state) {
            Some(State::Running { .. }) => {}
            Some(State::Created) => self.start_container(name, newest),
            Some(State::Exited(_)) => {
                if newest.is_some_and(|it| is_over(self.spec, container, it, self.seen)) {
                    return;
                }
                if let Some(at) = restart_at(self.seen, name)
                    && self.now < at
                {
                    self.wake_at(at);
                    return;
                }
                self.start_container(name, newest);
            }
            // The sandbox is new: whether it runs again depends on how it ended in the old one.
            None => {
                if newest.is_some_and(|it| is_over(self.spec, container, it, self.seen)) && !is_init(self.spec, name) {
                    return;
                }
                self.start_container(name, newest);
            }
        }
    }

    fn start_container(&mut self, name: &str, newest: Option<&ContainerSeen>) {
        if let Some(failure) = self.seen.failures.get(name) {
            if failure.reason == "ErrImagePull" && !failure.announced {
                let shown_until = after(failure.at, IMAGE_ERROR_SHOWN_S);
                if self.now >= shown_until {
                    self.actions.push(Action::AnnounceBackOff { container: name.to_owned() });
                } else {
                    self.wake_at(shown_until);
                }
            }
            if !self.due(failure) {
                return;
            }
        }
        let attempt = match newest {
            Some(it) if it.state == State::Created => it.attempt,
            Some(it) => it.attempt + 1,
            // Its record may have been lost; the status still knows how often it was restarted.
            None => status::known_restarts(&self.seen.last, name).map_or(0, |n| n + 1),
        };
        self.actions.push(Action::Start { container: name.to_owned(), attempt });
    }

    /// Keeps the newest dead container of each name, for its status and `logs --previous`; older ones go, and dead sandboxes
    /// once nothing in them is kept.
    fn collect_garbage(&mut self) {
        if self.actions.contains(&Action::TearDown) || self.seen.torn_down {
            return;
        }
        let mut kept_sandboxes: Vec<&str> = Vec::new();
        let mut met: Vec<(&str, usize)> = Vec::new();
        for container in &self.seen.containers {
            let dead = match met.iter_mut().find(|it| it.0 == container.name) {
                Some(entry) => &mut entry.1,
                None => {
                    met.push((&container.name, 0));
                    &mut met.last_mut().expect("just pushed").1
                }
            };
            let is_dead = container.exit().is_some();
            if is_dead && *dead >= DEAD_KEPT {
                self.actions.push(Action::RemoveContainer { id: container.id.clone() });
                continue;
            }
            *dead += usize::from(is_dead);
            kept_sandboxes.push(&container.sandbox);
        }
        for sandbox in self.seen.sandboxes.iter().skip(1) {
            if !sandbox.ready && !kept_sandboxes.contains(&sandbox.id.as_str()) {
                self.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        }
    }

    /// True if the step that failed may be tried again; else asks to be woken then.
    fn due(&mut self, failure: &Failure) -> bool {
        if self.now >= failure.retry_at {
            return true;
        }
        self.wake_at(failure.retry_at);
        false
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |it| it.min(at)));
    }
}

/// Dead containers kept per name (upstream: MaxPerPodContainer, 1).
const DEAD_KEPT: usize = 1;

/// When a container that ended may be started again; `None`: at once.
pub(crate) fn restart_at(seen: &Seen, name: &str) -> Option<Timestamp> {
    let exit = seen.newest(name)?.exit()?;
    let BackOff { delay_s, updated } = *seen.back_off.get(name)?;
    if super::seen::seconds_between(updated, exit.finished) > super::seen::BACK_OFF_RESET_S {
        return None;
    }
    Some(after(exit.finished, delay_s))
}

/// Whether a container that ended with this code shall be started again.
pub(crate) fn restarts(spec: &PodSpec, container: &Container, code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let matches = rule.exit_codes.as_ref().is_some_and(|it| {
            let listed = it.values.iter().flatten().any(|value| *value == code);
            match it.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        });
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    match policy(spec, container) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

pub(crate) fn policy<'a>(spec: &'a PodSpec, container: &'a Container) -> &'a str {
    (container.restart_policy.as_deref()).or(spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether this run has ended and none shall follow it.
pub(crate) fn is_over(spec: &PodSpec, container: &Container, it: &ContainerSeen, seen: &Seen) -> bool {
    it.exit().is_some_and(|exit| !seen.is_anew(&it.id) && !restarts(spec, container, exit.code))
}

/// Whether this run of an init container has done its work.
pub(crate) fn has_succeeded(it: &ContainerSeen, seen: &Seen) -> bool {
    it.exit().is_some_and(|exit| exit.code == 0) && !seen.is_anew(&it.id)
}

/// Whether every container has ended for good, or an init container has failed for good.
fn completed(spec: &PodSpec, seen: &Seen) -> bool {
    if seen.busy.iter().any(|key| key.starts_with("start ")) {
        return false;
    }
    let ended_for_good = |container: &Container| seen.newest(&container.name).is_some_and(|it| is_over(spec, container, it, seen));
    let init_failed = (spec.init_containers.iter().flatten())
        .filter(|it| !is_sidecar(it))
        .any(|it| ended_for_good(it) && seen.newest(&it.name).and_then(ContainerSeen::exit).is_some_and(|exit| exit.code != 0));
    init_failed || (!spec.containers.is_empty() && spec.containers.iter().all(ended_for_good))
}

pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn is_init(spec: &PodSpec, name: &str) -> bool {
    (spec.init_containers.iter().flatten()).any(|it| it.name == name)
}

pub(crate) fn sidecar_rank(spec: &PodSpec, name: &str) -> Option<usize> {
    (spec.init_containers.iter().flatten()).position(|it| it.name == name && is_sidecar(it))
}

/// The ephemeral containers, as containers. They are never restarted.
pub(crate) fn ephemeral(spec: &PodSpec) -> impl Iterator<Item = Container> + '_ {
    spec.ephemeral_containers.iter().flatten().map(as_container)
}

fn as_container(it: &EphemeralContainer) -> Container {
    Container {
        name: it.name.clone(),
        image: it.image.clone(),
        command: it.command.clone(),
        args: it.args.clone(),
        working_dir: it.working_dir.clone(),
        env: it.env.clone(),
        env_from: it.env_from.clone(),
        image_pull_policy: it.image_pull_policy.clone(),
        volume_mounts: it.volume_mounts.clone(),
        security_context: it.security_context.clone(),
        stdin: it.stdin,
        stdin_once: it.stdin_once,
        tty: it.tty,
        termination_message_path: it.termination_message_path.clone(),
        termination_message_policy: it.termination_message_policy.clone(),
        restart_policy: Some("Never".into()),
        ..Container::default()
    }
}

/// The container of this name, of whichever list.
pub(crate) fn container(spec: &PodSpec, name: &str) -> Option<Container> {
    (spec.containers.iter())
        .chain(spec.init_containers.iter().flatten())
        .find(|it| it.name == name)
        .cloned()
        .or_else(|| ephemeral(spec).find(|it| it.name == name))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
