//! Numbers out of a range, each given once.
//!
//! A band at the beginning is left for those who ask for a certain number; numbers that nobody chose come from the rest first
//! (KEP-3668), so that a manifest with a fixed node port rarely finds it taken.

use std::collections::HashSet;
use std::ops::RangeInclusive;

/// Random tries before the range is searched in order. At half full, 16 tries miss once in 65,536.
const TRIES: usize = 16;

pub(super) struct Pool {
    first: u128,
    last: u128,
    /// Numbers below this are given only when asked for by number, or when nothing else is left.
    dynamic: u128,
    taken: HashSet<u128>,
}

impl Pool {
    pub(super) fn of_ports(ports: RangeInclusive<u16>) -> Pool {
        let (first, last) = (u128::from(*ports.start()), u128::from(*ports.end()));
        let size = last.saturating_sub(first) + 1;
        // min(max(16, size / 32), 128): KEP-3668.
        Pool::new(first, last, (size / 32).clamp(16, 128))
    }

    fn new(first: u128, last: u128, band: u128) -> Pool {
        // A band that would leave nothing is no band.
        let dynamic = Some(first + band).filter(|dynamic| *dynamic <= last).unwrap_or(first);
        Pool { first, last, dynamic, taken: HashSet::new() }
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Takes this number; false where it is taken or outside.
    pub(super) fn take(&mut self, number: u128) -> bool {
        self.contains(number) && self.taken.insert(number)
    }

    pub(super) fn free(&mut self, number: u128) {
        self.taken.remove(&number);
    }

    /// Takes any number; `None` where all are taken.
    pub(super) fn take_any(&mut self) -> Option<u128> {
        if self.last < self.first || self.taken.len() as u128 > self.last - self.first {
            return None;
        }
        for _ in 0..TRIES {
            let number = fastrand::u128(self.dynamic..=self.last);
            if self.taken.insert(number) {
                return Some(number);
            }
        }
        let free = (self.dynamic..=self.last).chain(self.first..self.dynamic).find(|number| !self.taken.contains(number))?;
        self.taken.insert(free);
        Some(free)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.taken.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_given_once_and_the_band_last() {
        let mut pool = Pool::new(1, 100, 16);
        let given: Vec<u128> = std::iter::from_fn(|| pool.take_any()).collect();
        assert_eq!(given.len(), 100);
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), 100);
        assert!(given[..84].iter().all(|number| *number > 16));
        pool.free(5);
        assert_eq!(pool.take_any(), Some(5));
        assert_eq!(pool.take_any(), None);
    }

    #[test]
    fn chosen_numbers_must_be_inside_and_free() {
        let mut pool = Pool::of_ports(30000..=30099);
        assert!(pool.take(30010) && !pool.take(30010));
        assert!(!pool.take(29999) && !pool.take(30100) && pool.take(30099));
        pool.free(30010);
        assert!(pool.take(30010));
    }

    #[test]
    fn the_band_is_that_of_the_kep() {
        assert_eq!(Pool::of_ports(30000..=32767).dynamic, 30086);
    }
}
