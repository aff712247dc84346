//! Mutating policies and webhooks see the object one after the other. Those that wish are asked once more if others changed it since
//! (apiserver, admission/reinvocation.go). There are two rounds and no third, so that no two can chase each other.

use std::collections::BTreeSet;

use knarr_api::Object;

/// What one sort of them remembers between the rounds; `I` tells them apart.
pub(super) struct Reinvocation<I> {
    /// Asked, and of those that want to be asked again.
    asked: BTreeSet<I>,
    wanted: BTreeSet<I>,
    round: usize,
    /// The object as the first round left it.
    last: Option<Object>,
}

impl<I> Default for Reinvocation<I> {
    fn default() -> Self {
        Self { asked: BTreeSet::new(), wanted: BTreeSet::new(), round: 0, last: None }
    }
}

impl<I: Ord> Reinvocation<I> {
    /// A round begins.
    pub(super) fn begin(&mut self, object: &Object) {
        if self.last.as_ref().is_some_and(|last| last != object) {
            self.object_changed();
        }
    }

    pub(super) fn round(&self) -> usize {
        self.round
    }

    /// Whether this one is to be asked in this round.
    pub(super) fn is_due(&self, one: &I) -> bool {
        self.last.is_none() || self.wanted.contains(one)
    }

    pub(super) fn object_changed(&mut self) {
        self.wanted.append(&mut self.asked);
    }

    /// Asked, and wants to be asked again if the object changes.
    pub(super) fn asked(&mut self, one: I) {
        self.asked.insert(one);
    }

    pub(super) fn end(&mut self, object: &Object) {
        self.round += 1;
        self.last = Some(object.clone());
    }
}
