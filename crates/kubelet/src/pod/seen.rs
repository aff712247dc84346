//! What is known of one pod at one instant: the input of `plan` beside the pod object.
//!
//! The sandboxes and containers are read from the runtime. The rest is the worker's memory, all of which may be lost at any
//! time: it is rebuilt from the runtime, the API object, or by doing an idempotent step once more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Newest first.
    pub(crate) sandboxes: Vec<SandboxSeen>,
    /// Newest first, of all names.
    pub(crate) containers: Vec<ContainerSeen>,
    pub(crate) volumes: Volumes,
    /// Why the last attempt to make a sandbox failed.
    pub(crate) sandbox_failure: Option<Failure>,
    /// Why the last attempt to start a container failed, by container name.
    pub(crate) failures: BTreeMap<String, Failure>,
    /// Restart back-off, by container name.
    pub(crate) back_off: BTreeMap<String, BackOff>,
    /// What the probes say, by container id.
    pub(crate) verdicts: BTreeMap<String, Verdict>,
    /// Containers that must be stopped and mostly started anew; by container id.
    pub(crate) doomed: BTreeMap<String, Doom>,
    /// Keys of the actions under way.
    pub(crate) busy: BTreeSet<String>,
    /// Addresses of the current sandbox.
    pub(crate) ips: Vec<IpAddr>,
    /// The object is no longer in the API.
    pub(crate) gone: bool,
    /// When the worker first saw that the pod shall end.
    pub(crate) ending_since: Option<Timestamp>,
    /// The node refused or evicted the pod: reason and message of its status.
    pub(crate) rejected: Option<(String, String)>,
    /// Its volumes are gone from the node.
    pub(crate) released: bool,
    /// Nothing of the pod is left on the node.
    pub(crate) torn_down: bool,
    /// The status last planned; at first, that of the API object.
    pub(crate) last: PodStatus,
    /// When the worker first saw the pod.
    pub(crate) first_seen: Timestamp,
    pub(crate) host_ips: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
pub(crate) struct SandboxSeen {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    /// Its keeper lives and it has its network.
    pub(crate) ready: bool,
    /// The limits of the pod as a whole.
    pub(crate) resources: knarr_runtime::Resources,
}

#[derive(Clone, Debug)]
pub(crate) struct ContainerSeen {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) sandbox: String,
    pub(crate) state: State,
    /// As the pod names it.
    pub(crate) image: String,
    /// As `containerStatus.imageID` shows it.
    pub(crate) image_id: String,
    /// Fingerprint of the part of the container's spec whose change needs a restart.
    pub(crate) hash: String,
    /// The limits that hold now.
    pub(crate) resources: knarr_runtime::Resources,
    /// What the pod as a whole asked for when it was made: it need not have held yet.
    pub(crate) whole: Option<knarr_runtime::Resources>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Created,
    Running {
        since: Timestamp,
        /// Its postStart hook has ended well, or it has none.
        hooked: bool,
    },
    Exited(Exit),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Volumes {
    #[default]
    Unset,
    Ready,
    Failed(Failure),
}

/// A step that failed, what the status shows meanwhile, and when to try again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
    pub(crate) retry_at: Timestamp,
    /// Failures in a row.
    pub(crate) count: u32,
    /// For images: the back-off was announced by its event.
    pub(crate) announced: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    /// `None`: not probed yet.
    pub(crate) ready: Option<bool>,
    pub(crate) started: Option<bool>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doom {
    /// Message of the Killing event.
    pub(crate) why: String,
    pub(crate) deadline: Timestamp,
    /// It is started anew whatever it ends with: that end is the kubelet's doing. Else the restart policy judges its exit code.
    pub(crate) anew: bool,
}

/// Restart back-off of one container: the delay after its next exit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BackOff {
    pub(crate) delay_s: i64,
    pub(crate) updated: Timestamp,
}

/// First delay of a container's restart back-off (upstream kubelet: 10 s, doubled each time).
pub(crate) const BACK_OFF_FIRST_S: i64 = 10;
/// Longest delay (upstream: MaxContainerBackOff, 5 minutes).
pub(crate) const BACK_OFF_MAX_S: i64 = 300;
/// A container that ran this long starts afresh (upstream: twice the longest delay).
pub(crate) const BACK_OFF_RESET_S: i64 = 600;

impl BackOff {
    /// The back-off after one more restart at `now`.
    pub(crate) fn next(previous: Option<BackOff>, now: Timestamp) -> BackOff {
        let delay_s = match previous {
            Some(it) if seconds_between(it.updated, now) <= BACK_OFF_RESET_S => (it.delay_s * 2).min(BACK_OFF_MAX_S),
            _ => BACK_OFF_FIRST_S,
        };
        BackOff { delay_s, updated: now }
    }

    /// What a worker that has just started assumes of a container that was restarted `attempt` times, the last time at `started`.
    pub(crate) fn remembered(attempt: u32, started: Timestamp) -> Option<BackOff> {
        let doublings = attempt.checked_sub(1)?.min(5);
        Some(BackOff { delay_s: (BACK_OFF_FIRST_S << doublings).min(BACK_OFF_MAX_S), updated: started })
    }
}

impl Failure {
    /// The failure that follows `previous` at `now`, with delays doubling from `first_s` to `max_s`.
    pub(crate) fn after(
        previous: Option<&Failure>,
        reason: &str,
        message: String,
        now: Timestamp,
        (first_s, max_s): (i64, i64),
    ) -> Failure {
        let count = previous.filter(|it| it.reason == reason).map_or(0, |it| it.count).saturating_add(1);
        let delay_s = first_s.saturating_mul(1 << (count - 1).min(16)).min(max_s);
        Failure { reason: reason.to_owned(), message, at: now, retry_at: after(now, delay_s), count, announced: false }
    }
}

impl Seen {
    /// The newest container of this name.
    pub(crate) fn newest(&self, name: &str) -> Option<&ContainerSeen> {
        self.containers.iter().find(|it| it.name == name)
    }

    /// The one before it.
    pub(crate) fn previous(&self, name: &str) -> Option<&ContainerSeen> {
        self.containers.iter().filter(|it| it.name == name).nth(1)
    }

    /// Whether the container of this id is to be started anew whatever it ends with.
    pub(crate) fn is_anew(&self, id: &str) -> bool {
        self.doomed.get(id).is_some_and(|it| it.anew)
    }

    /// The sandbox that containers may be started in.
    pub(crate) fn sandbox(&self) -> Option<&SandboxSeen> {
        self.sandboxes.first().filter(|it| it.ready)
    }

    /// The newest container of this name, if it is in the current sandbox.
    pub(crate) fn current(&self, name: &str) -> Option<&ContainerSeen> {
        let sandbox = self.sandbox()?;
        self.newest(name).filter(|it| it.sandbox == sandbox.id)
    }
}

impl ContainerSeen {
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    pub(crate) fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

/// `t` and `seconds` more, at most the end of time.
pub(crate) fn after(t: Timestamp, seconds: i64) -> Timestamp {
    t.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}
