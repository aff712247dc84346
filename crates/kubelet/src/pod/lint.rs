//! What a plan must never hold, whatever was seen. Debug builds check every plan against it, so that every test of the node does, and
//! a test feeds it random facts.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::plan::{self, Action, Plan};
use super::seen::{ContainerSeen, Seen, State};
use super::status;

/// The rules that the plan breaks, for people; empty if it is sound.
pub(crate) fn faults(pod: &Pod, seen: &Seen, now: Timestamp, plan: &Plan) -> Vec<String> {
    let lint = Lint { pod, seen, plan };
    let mut out = lint.actions();
    if plan.wake.is_some_and(|wake| wake <= now) {
        out.push("woken at once, for ever".into());
    }
    if status::is_final(&seen.last) && plan.status.phase != seen.last.phase {
        out.push("a final phase is left".into());
    }
    if plan.done && !(seen.gone && seen.torn_down) {
        out.push("done with something left".into());
    }
    if lint.stuck() {
        out.push("nothing runs, nothing is done, and nothing will wake the worker".into());
    }
    out
}

struct Lint<'a> {
    pod: &'a Pod,
    seen: &'a Seen,
    plan: &'a Plan,
}

impl Lint<'_> {
    fn actions(&self) -> Vec<String> {
        let mut keys = BTreeSet::new();
        let mut out = Vec::new();
        for action in &self.plan.actions {
            let key = action.key();
            if self.seen.busy.contains(&key) {
                out.push(format!("{key}: is under way"));
            }
            if let Some(fault) = self.action(action) {
                out.push(format!("{key}: {fault}"));
            }
            if !keys.insert(key.clone()) {
                out.push(format!("{key}: twice"));
            }
        }
        out
    }

    fn action(&self, action: &Action) -> Option<&'static str> {
        let seen = self.seen;
        match action {
            Action::Start { container, attempt } => {
                let newest = seen.newest(container);
                let fresh = newest.is_none_or(|it| *attempt > it.attempt || it.state == State::Created);
                let runs = seen.current(container).is_some_and(ContainerSeen::is_running);
                self.begins().or(if seen.sandbox().is_none() {
                    Some("start without a sandbox")
                } else if runs {
                    Some("start of what runs")
                } else if !fresh {
                    Some("an attempt comes twice")
                } else {
                    None
                })
            }
            Action::CreateSandbox { .. } | Action::SetUpVolumes => self.begins(),
            Action::Stop { id, container, .. } => {
                let sidecar = self.pod.spec.as_ref().is_some_and(|spec| plan::sidecar_rank(spec, container).is_some());
                if !self.runs(id) {
                    Some("stop of what does not run")
                } else if sidecar && self.ends() && self.main_runs() {
                    Some("a sidecar ends before what it serves")
                } else {
                    None
                }
            }
            Action::StopSandbox { id } => {
                let live = seen.containers.iter().any(|it| it.sandbox == *id && it.is_running());
                let newest = seen.sandboxes.first().is_some_and(|it| it.id == *id);
                (live && newest).then_some("its containers were not asked to end")
            }
            Action::Resize { id, .. } if !self.runs(id) => Some("limits of what does not run"),
            Action::ResizePod { sandbox } if !seen.sandboxes.iter().any(|it| it.id == *sandbox && it.ready) => {
                Some("limits of a sandbox that is not up")
            }
            Action::Resize { .. } | Action::ResizePod { .. } => self.begins(),
            Action::RemoveContainer { id } => self.runs(id).then_some("removal of what runs"),
            Action::RemoveSandbox { id } => {
                (seen.sandboxes.iter().any(|it| it.id == *id && it.ready)).then_some("removal of a sandbox that is up")
            }
            Action::TearDown if !seen.gone && self.pod.metadata.deletion_timestamp.is_none() => Some("files of a pod that is wanted"),
            Action::TearDown => seen.containers.iter().any(ContainerSeen::is_running).then_some("files of what runs"),
            Action::DeleteObject => {
                let due = seen.torn_down && self.pod.metadata.deletion_timestamp.is_some() && !seen.gone;
                (!due).then_some("deletion too early")
            }
            Action::ReleaseVolumes => seen.containers.iter().any(ContainerSeen::is_running).then_some("volumes of what runs"),
            Action::AnnounceBackOff { .. } => None,
        }
    }

    fn begins(&self) -> Option<&'static str> {
        self.ends().then_some("begun in a pod that ends")
    }

    fn ends(&self) -> bool {
        self.seen.gone
            || self.pod.metadata.deletion_timestamp.is_some()
            || self.seen.rejected.is_some()
            || status::is_final(&self.seen.last)
    }

    fn runs(&self, id: &str) -> bool {
        self.seen.containers.iter().any(|it| it.id == id && it.is_running())
    }

    fn main_runs(&self) -> bool {
        let main = |name: &str| self.pod.spec.as_ref().is_some_and(|spec| spec.containers.iter().any(|it| it.name == name));
        self.seen.containers.iter().any(|it| it.is_running() && main(&it.name))
    }

    fn stuck(&self) -> bool {
        let over = self.ends() || status::is_final(&self.plan.status);
        let idle = self.plan.actions.is_empty() && self.plan.wake.is_none() && self.seen.busy.is_empty();
        !over && idle && !self.seen.containers.iter().any(ContainerSeen::is_running)
    }
}
