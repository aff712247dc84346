//! Keys that wait to be looked at.
//!
//! A key is in the queue at most once, is never given to two workers at a time, and comes again when it was added while it was being
//! worked on. So the queue is as long as there are objects, however many changes there are.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    hash::Hash,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// How long a key waits after its n-th failure in a row: `base · 2ⁿ`, at most `max`.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        // As upstream's controllers (client-go util/workqueue, DefaultTypedControllerRateLimiter), with an end that a person can wait for.
        Self { base: Duration::from_millis(5), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    pub fn delay(&self, failures: u32) -> Duration {
        self.base.saturating_mul(2u32.saturating_pow(failures.min(31))).min(self.max)
    }
}

/// A set of keys in the order in which they became due.
#[derive(Debug)]
pub struct WorkQueue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<T> {
    due: VecDeque<T>,
    /// In `due`, or to be put there when its work is done.
    dirty: HashSet<T>,
    working: HashSet<T>,
    /// Earliest first. An entry counts only while `deadlines` still says the same instant for its key.
    later: BinaryHeap<Reverse<(Instant, u64)>>,
    deadlines: HashMap<T, Instant>,
    /// The keys of `later`, by the number that stands for them there.
    numbered: HashMap<u64, T>,
    next_number: u64,
    failures: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            due: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            later: BinaryHeap::new(),
            deadlines: HashMap::new(),
            numbered: HashMap::new(),
            next_number: 0,
            failures: HashMap::new(),
        };
        Self { state: Mutex::new(state), wake: Notify::new(), backoff }
    }

    /// Makes `key` due now.
    pub fn add(&self, key: T) {
        self.state.lock().add(key);
        self.wake.notify_one();
    }

    /// Makes `key` due at `deadline`, or earlier when it is already to come earlier.
    pub fn add_at(&self, key: T, deadline: Instant) {
        self.state.lock().add_at(key, deadline);
        self.wake.notify_one();
    }

    pub fn add_after(&self, key: T, delay: Duration) {
        // What lies beyond the clock is never due.
        if let Some(deadline) = Instant::now().checked_add(delay) {
            self.add_at(key, deadline);
        }
    }

    /// Waits for a key that is due. Whoever gets it must call [`done`](Self::done), or [`failed`](Self::failed).
    pub async fn next(&self) -> T {
        loop {
            let deadline = {
                let mut state = self.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    if !state.due.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.later.peek().map(|Reverse((deadline, _))| *deadline)
            };
            match deadline {
                Some(deadline) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(deadline) => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// The work on `key` succeeded.
    pub fn done(&self, key: &T) {
        let mut state = self.state.lock();
        state.failures.remove(key);
        state.finish(key);
        drop(state);
        self.wake.notify_one();
    }

    /// The work on `key` failed: it comes again after a pause that grows. Returns the pause.
    pub fn failed(&self, key: &T) -> Duration {
        let mut state = self.state.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        let delay = self.backoff.delay(*failures);
        *failures = failures.saturating_add(1);
        state.finish(key);
        state.add_at(key.clone(), Instant::now() + delay);
        drop(state);
        self.wake.notify_one();
        delay
    }

    /// Keys due or being worked on.
    pub fn len(&self) -> usize {
        let state = self.state.lock();
        state.due.len() + state.working.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T) {
        self.deadlines.remove(&key);
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.due.push_back(key);
        }
    }

    fn add_at(&mut self, key: T, deadline: Instant) {
        if self.dirty.contains(&key) || self.deadlines.get(&key).is_some_and(|earlier| *earlier <= deadline) {
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.deadlines.insert(key.clone(), deadline);
        self.numbered.insert(number, key);
        self.later.push(Reverse((deadline, number)));
    }

    /// Moves what has become due. Entries that a newer deadline replaced are dropped on the way.
    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((deadline, number))) = self.later.peek().copied() {
            let stale = self.numbered.get(&number).is_none_or(|key| self.deadlines.get(key) != Some(&deadline));
            if !stale && deadline > now {
                return;
            }
            self.later.pop();
            if let Some(key) = self.numbered.remove(&number)
                && !stale
            {
                self.add(key);
            }
        }
    }

    fn take(&mut self) -> Option<T> {
        let key = self.due.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    fn finish(&mut self, key: &T) {
        self.working.remove(key);
        if self.dirty.contains(key) {
            self.due.push_back(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_added_twice_comes_once() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        assert!(futures::poll!(std::pin::pin!(queue.next())).is_pending());
    }

    #[tokio::test]
    async fn a_key_added_while_worked_on_comes_again_and_never_twice_at_once() {
        let queue = WorkQueue::default();
        queue.add("a");
        let key = queue.next().await;
        queue.add("a");
        assert!(futures::poll!(std::pin::pin!(queue.next())).is_pending());
        queue.done(&key);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_deadline_counts() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(90));
        let key = queue.next().await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        queue.done(&key);
        let second = tokio::time::timeout(Duration::from_secs(3600), queue.next()).await;
        assert!(second.is_err(), "one deadline, one turn");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_success_forgets_them() {
        let queue = WorkQueue::new(Backoff { base: Duration::from_secs(10), max: Duration::from_secs(300) });
        let mut pauses = Vec::new();
        queue.add("a");
        for _ in 0..7 {
            let key = queue.next().await;
            pauses.push(queue.failed(&key).as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        let key = queue.next().await;
        queue.done(&key);
        queue.add("a");
        let key = queue.next().await;
        assert_eq!(queue.failed(&key).as_secs(), 10);
    }

    #[tokio::test]
    async fn several_workers_share_the_keys() {
        let queue = std::sync::Arc::new(WorkQueue::default());
        let workers: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.next().await }
                })
            })
            .collect();
        for key in ["a", "b", "c"] {
            queue.add(key);
        }
        let mut got = Vec::new();
        for worker in workers {
            got.push(worker.await.unwrap());
        }
        got.sort_unstable();
        assert_eq!(got, ["a", "b", "c"]);
    }
}
