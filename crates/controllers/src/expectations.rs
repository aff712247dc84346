//! What a controller has done and its informer does not show yet.
//!
//! A controller that counted again before its own creations came back through the watch would create them twice. So it notes the uid of what it
//! created or deleted; the informer's subscriber strikes it off; until all is struck off, the key is left alone.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct Expectations<K> {
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    pending: HashMap<K, HashSet<String>>,
    /// Seen before they were noted: the watch can be faster than the answer to the request.
    early: HashSet<String>,
    noting: usize,
}

impl<K> Default for Expectations<K> {
    fn default() -> Self {
        Self { state: Mutex::new(State { pending: HashMap::new(), early: HashSet::new(), noting: 0 }) }
    }
}

impl<K: Clone + Eq + Hash> Expectations<K> {
    /// Whether everything done for `key` has been seen.
    pub(crate) fn met(&self, key: &K) -> bool {
        !self.state.lock().pending.contains_key(key)
    }

    /// Must be called before requests are sent, and be answered by as many calls of [`note`](Self::note) or [`give_up`](Self::give_up).
    pub(crate) fn begin(&self, requests: usize) {
        self.state.lock().noting += requests;
    }

    /// A request succeeded on the object `uid`; its event is to come, unless it came already.
    pub(crate) fn note(&self, key: &K, uid: String) {
        let mut state = self.state.lock();
        if !state.early.remove(&uid) {
            state.pending.entry(key.clone()).or_default().insert(uid);
        }
        state.settle();
    }

    /// A request failed; nothing is to come of it.
    pub(crate) fn give_up(&self) {
        self.state.lock().settle();
    }

    /// An event of the object `uid`, which belongs to `key`, has been seen.
    pub(crate) fn seen(&self, key: &K, uid: &str) {
        let mut state = self.state.lock();
        if let Some(pending) = state.pending.get_mut(key) {
            let was = pending.remove(uid);
            if pending.is_empty() {
                state.pending.remove(key);
            }
            if was {
                return;
            }
        }
        if state.noting > 0 {
            state.early.insert(uid.to_owned());
        }
    }

    /// The key is gone, and with it whatever was to come.
    pub(crate) fn forget(&self, key: &K) {
        self.state.lock().pending.remove(key);
    }
}

impl<K> State<K> {
    fn settle(&mut self) {
        self.noting = self.noting.saturating_sub(1);
        if self.noting == 0 {
            self.early.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_left_alone_until_its_creations_are_seen() {
        let expectations = Expectations::default();
        expectations.begin(2);
        expectations.note(&"web", "1".to_owned());
        expectations.note(&"web", "2".to_owned());
        expectations.seen(&"web", "1");
        assert!(!expectations.met(&"web"));
        expectations.seen(&"web", "2");
        assert!(expectations.met(&"web"));
    }

    #[test]
    fn an_event_before_the_answer_counts() {
        let expectations = Expectations::default();
        expectations.begin(1);
        expectations.seen(&"web", "1");
        expectations.note(&"web", "1".to_owned());
        assert!(expectations.met(&"web"));
    }

    #[test]
    fn a_failed_request_leaves_nothing_to_wait_for() {
        let expectations = Expectations::<&str>::default();
        expectations.begin(1);
        expectations.give_up();
        assert!(expectations.met(&"web"));
        assert!(expectations.state.lock().early.is_empty());
    }
}
