//! Pods that wait for a node.
//!
//! A pod is active (to be tried now, the most important first), backing off (tried lately; pauses grow), or parked until something happens that may
//! help it. When nothing is active, pods that back off come early, except after errors: a pause protects the other pods from one that
//! fails, and when no other waits it would only cost time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use knarr_client::{Backoff, ObjectKey};
use tokio::time::Instant;

use crate::plugins::{Happening, PlugIns, may_help};
use crate::pod::PodInfo;

/// Pauses between attempts for one pod (scheduler defaults podInitialBackoffSeconds, podMaxBackoffSeconds).
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(10) };

/// More important pods first, then those that came first.
type Rank = (Reverse<i32>, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active(Rank),
    BackingOff {
        until: Instant,
        after_error: bool,
    },
    Parked {
        rejected_by: PlugIns,
    },
    /// Handed out by `pop`.
    InFlight,
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    place: Place,
    arrival: u64,
    attempts: u32,
    tried_at: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    pods: HashMap<ObjectKey, Waiting>,
    active: BTreeSet<(Rank, ObjectKey)>,
    /// By whether an error was the cause, then by the end of the pause.
    backing_off: BTreeSet<(bool, Instant, ObjectKey)>,
    arrivals: u64,
}

impl Queue {
    /// A pod came, or changed. One whose spec and labels are the same stays where it is.
    pub(crate) fn set(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let key = pod.key.clone();
        let Some(waiting) = self.pods.get_mut(&key) else {
            self.arrivals += 1;
            let waiting = Waiting { pod, place: Place::InFlight, arrival: self.arrivals, attempts: 0, tried_at: now };
            self.pods.insert(key.clone(), waiting);
            self.activate(&key);
            return;
        };
        let (old, new) = (&waiting.pod.pod, &pod.pod);
        let other = old.spec != new.spec || old.metadata.labels != new.metadata.labels || old.metadata.uid != new.metadata.uid;
        waiting.pod = pod;
        if other && matches!(waiting.place, Place::Parked { .. }) {
            self.retry(&key, now);
        }
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        self.leave(key);
        self.pods.remove(key);
    }

    /// The next pod to try. Its caller tells what became of it: `remove`, `park` or `failed`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        let due = |(after_error, until, _): &&(bool, Instant, ObjectKey)| !after_error || *until <= now;
        let key = match self.active.first() {
            Some((_, key)) => key.clone(),
            // Pauses after errors sort last; the first of them has the earliest end.
            None => {
                let early = self.backing_off.first().filter(due);
                early?.2.clone()
            }
        };
        self.leave(&key);
        let waiting = self.pods.get_mut(&key)?;
        waiting.attempts = waiting.attempts.saturating_add(1);
        waiting.tried_at = now;
        Some(waiting.pod.clone())
    }

    /// No node would do: wait for something that may change that.
    pub(crate) fn park(&mut self, key: &ObjectKey, rejected_by: PlugIns) {
        if let Some(waiting) = self.pods.get_mut(key) {
            waiting.place = Place::Parked { rejected_by };
        }
    }

    /// The attempt failed for a reason that has nothing to do with nodes.
    pub(crate) fn failed(&mut self, key: &ObjectKey, now: Instant) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let until = now + BACKOFF.delay(waiting.attempts.saturating_sub(1));
        waiting.place = Place::BackingOff { until, after_error: true };
        self.backing_off.insert((true, until, key.clone()));
    }

    /// Wakes the parked pods that `happening` may help. Answers whether there are any.
    pub(crate) fn happened(&mut self, happening: Happening, now: Instant) -> bool {
        let helped = |waiting: &Waiting| matches!(waiting.place, Place::Parked { rejected_by } if may_help(rejected_by, happening));
        let keys: Vec<ObjectKey> = self.pods.iter().filter(|(_, waiting)| helped(waiting)).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.retry(key, now);
        }
        !keys.is_empty()
    }

    /// When a pause after an error ends, for a queue with nothing else to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.backing_off.first().map(|(_, until, _)| *until)
    }

    /// Active, or after the rest of its pause.
    fn retry(&mut self, key: &ObjectKey, now: Instant) {
        self.leave(key);
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let until = waiting.tried_at + BACKOFF.delay(waiting.attempts.saturating_sub(1));
        if waiting.attempts == 0 || until <= now {
            return self.activate(key);
        }
        waiting.place = Place::BackingOff { until, after_error: false };
        self.backing_off.insert((false, until, key.clone()));
    }

    fn activate(&mut self, key: &ObjectKey) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        let rank = (Reverse(waiting.pod.priority()), waiting.arrival);
        waiting.place = Place::Active(rank);
        self.active.insert((rank, key.clone()));
    }

    /// Takes the pod out of the order that it stands in.
    fn leave(&mut self, key: &ObjectKey) {
        let Some(waiting) = self.pods.get_mut(key) else { return };
        match waiting.place {
            Place::Active(rank) => self.active.remove(&(rank, key.clone())),
            Place::BackingOff { until, after_error } => self.backing_off.remove(&(after_error, until, key.clone())),
            Place::Parked { .. } | Place::InFlight => false,
        };
        waiting.place = Place::InFlight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::PlugIn;
    use serde_json::json;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let pod = json!({ "metadata": { "name": name, "namespace": "a" }, "spec": { "containers": [], "priority": priority } });
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("a", name)
    }

    fn popped(queue: &mut Queue, now: Instant) -> String {
        queue.pop(now).map_or("-".to_owned(), |pod| pod.key.name.clone())
    }

    fn by(plug_in: PlugIn) -> PlugIns {
        let mut set = PlugIns::default();
        set.insert(plug_in);
        set
    }

    #[test]
    fn important_pods_first_then_in_order() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.set(pod(name, priority), now);
        }
        queue.remove(&key("c"));
        let order: Vec<String> = (0..4).map(|_| popped(&mut queue, now)).collect();
        assert_eq!(order, ["b", "d", "a", "-"]);
    }

    #[test]
    fn parked_pods_wake_for_what_may_help_them() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        queue.pop(now);
        queue.park(&key("a"), by(PlugIn::NodeResourcesFit));
        queue.set(pod("a", 0), now);
        assert_eq!(popped(&mut queue, now), "-", "an equal state is no change");
        assert!(!queue.happened(Happening::PodPlaced, now));
        assert!(!queue.happened(Happening::NodeChanged { labels: true, taints: true, resources: false }, now));
        assert!(queue.happened(Happening::PodLeft, now));
        assert_eq!(popped(&mut queue, now), "a");
        queue.park(&key("a"), by(PlugIn::NodeResourcesFit));
        queue.set(pod("a", 9), now);
        assert_eq!(popped(&mut queue, now), "a", "a changed pod is tried again");
    }

    #[test]
    fn a_pod_in_its_pause_comes_after_the_others_but_does_not_wait_for_nothing() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 9), now);
        queue.pop(now);
        queue.park(&key("a"), by(PlugIn::NodePorts));
        queue.set(pod("b", 0), now);
        queue.happened(Happening::PodLeft, now);
        assert_eq!(popped(&mut queue, now), "b");
        assert_eq!(popped(&mut queue, now), "a");
    }

    #[test]
    fn after_an_error_the_pause_is_kept() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        queue.pop(now);
        queue.failed(&key("a"), now);
        assert_eq!(popped(&mut queue, now), "-");
        let until = queue.deadline().unwrap();
        assert_eq!(until - now, Duration::from_secs(1));
        assert_eq!(popped(&mut queue, until), "a");
        queue.failed(&key("a"), until);
        assert_eq!(queue.deadline().unwrap() - until, Duration::from_secs(2));
    }
}
