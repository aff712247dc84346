//! How much a queue of events may hold: they are as long as what clients send.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Events that wait: a few seconds of a busy server on a slow disk.
pub(super) const EVENTS_MAX: usize = 10_000;
/// Bytes of them: 1.6 KB for each, of which most need less; without bodies, few have more. As many again may be on their way to the disk.
pub(super) const BYTES_MAX: usize = 16 << 20;

/// Bytes that are in a queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Room(Arc<AtomicUsize>);

impl Room {
    /// Whether there is room for `bytes`, which then is taken.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= BYTES_MAX);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_until_others_have_gone() {
        let room = Room::default();
        assert!(room.take(BYTES_MAX - 1));
        assert!(!room.take(2) && room.take(1) && !room.take(1));
        room.give_back(1);
        assert!(room.take(1));
    }
}
