//! Seats and who waits for them: pure bookkeeping, without clock or tasks.
//!
//! Every level has its nominal seats. What it lends may be used by others while it is free, at once and without a timer: a request takes a seat
//! where one is left beside those that other levels must be able to have at any time. Within a level, requests of one flow are dealt a hand
//! of queues and wait in the shortest (shuffle sharding); seats go round between the queues in the order of what each has used (start-time
//! fair queuing, Goyal 1996), so that a flow that asks for much waits for itself and not before others.

use std::collections::VecDeque;

use super::schema::Share;

/// What a request is thought to use before it is known, in milliseconds of one seat.
const GUESS_MS: u64 = 10;

/// Identifies one that waits.
pub(super) type Ticket = u64;

/// A seat that was taken, to be given back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) level: usize,
    queue: Option<usize>,
    width: usize,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    width: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    running: usize,
    /// Seat-milliseconds it was given, or was passed over with while it had nothing to ask for.
    used: u64,
}

#[derive(Debug, Default)]
struct Level {
    share: Share,
    queues: Vec<Queue>,
    in_use: usize,
    waiting: usize,
    /// `used` of the queue that was served last.
    clock: u64,
}

/// What came of asking for a seat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Seated(Taken),
    /// Called with this ticket later.
    Waits(Ticket),
    Refused,
}

/// The seats of all levels.
#[derive(Debug)]
pub(super) struct Seats {
    total: usize,
    in_use: usize,
    levels: Vec<Level>,
    next: Ticket,
}

impl Seats {
    pub(super) fn new(total: usize) -> Self {
        Self { total, in_use: 0, levels: Vec::new(), next: 0 }
    }

    /// Changes a level, or makes it. What waits and runs stays.
    pub(super) fn set(&mut self, level: usize, share: Share) {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Level::default);
        }
        let level = &mut self.levels[level];
        level.share = share;
        let wanted = share.queuing.map_or(0, |queuing| queuing.queues);
        // Queues that are no longer dealt are emptied, and stay: tickets and seats know them by number.
        if level.queues.len() < wanted {
            level.queues.resize_with(wanted, Queue::default);
        }
    }

    /// Asks for `width` seats. `flow` is the hash of the flow.
    pub(super) fn ask(&mut self, level: usize, flow: u64, width: usize) -> Asked {
        let width = self.fitting(level, width);
        let queue = self.deal(level, flow);
        if self.levels[level].waiting == 0 && self.may_take(level, width) {
            return Asked::Seated(self.take(level, queue, width));
        }
        let limit = self.levels[level].share.queuing.map_or(0, |queuing| queuing.queue_length_limit);
        let Some(index) = queue.filter(|queue| self.levels[level].queues[*queue].waiting.len() < limit) else { return Asked::Refused };
        self.next += 1;
        let level = &mut self.levels[level];
        let queue = &mut level.queues[index];
        if queue.waiting.is_empty() && queue.running == 0 {
            // What it did not ask for while it was idle it cannot ask for now.
            queue.used = queue.used.max(level.clock);
        }
        queue.waiting.push_back(Waiting { ticket: self.next, width });
        level.waiting += 1;
        Asked::Waits(self.next)
    }

    /// Takes one out of the line.
    pub(super) fn forget(&mut self, level: usize, ticket: Ticket) {
        let level = &mut self.levels[level];
        for queue in &mut level.queues {
            let before = queue.waiting.len();
            queue.waiting.retain(|waiting| waiting.ticket != ticket);
            level.waiting -= before - queue.waiting.len();
        }
    }

    /// Gives a seat back that was used for `ms`.
    pub(super) fn give_back(&mut self, taken: Taken, ms: u64) {
        self.in_use -= taken.width;
        let level = &mut self.levels[taken.level];
        level.in_use -= taken.width;
        if let Some(queue) = taken.queue.map(|queue| &mut level.queues[queue]) {
            queue.running -= 1;
            let width = taken.width as u64;
            queue.used = (queue.used + ms * width).saturating_sub(GUESS_MS * width);
        }
    }

    /// Seats in use and requests that wait.
    pub(super) fn count(&self, level: usize) -> (usize, usize) {
        (self.levels[level].in_use, self.levels[level].waiting)
    }

    /// Who is next, with his seat; to be repeated until no one is.
    pub(super) fn call(&mut self) -> Option<(Ticket, Taken)> {
        // The level that has used the least of its own comes first.
        let mut candidates: Vec<usize> = (0..self.levels.len()).filter(|level| self.levels[*level].waiting > 0).collect();
        candidates.sort_by_key(|level| self.levels[*level].in_use * 1000 / self.levels[*level].share.nominal.max(1));
        for index in candidates {
            let level = &self.levels[index];
            let first = level.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty()).min_by_key(|(_, queue)| queue.used);
            let Some((queue, _)) = first else { continue };
            let width = self.levels[index].queues[queue].waiting[0].width;
            if !self.may_take(index, width) {
                continue;
            }
            let level = &mut self.levels[index];
            let Some(waiting) = level.queues[queue].waiting.pop_front() else { continue };
            level.waiting -= 1;
            level.clock = level.clock.max(level.queues[queue].used);
            return Some((waiting.ticket, self.take(index, Some(queue), width)));
        }
        None
    }

    /// No request is wider than its level, or it could never be seated.
    fn fitting(&self, level: usize, width: usize) -> usize {
        width.clamp(1, self.levels[level].share.nominal.max(1))
    }

    fn may_take(&self, index: usize, width: usize) -> bool {
        let level = &self.levels[index];
        let Share { nominal, borrowable, .. } = level.share;
        // A level without seats of its own still moves, one request at a time (upstream gives each at least one).
        if level.in_use == 0 && nominal == 0 {
            return true;
        }
        let guaranteed = nominal - level.share.lendable.min(nominal);
        if level.in_use + width <= guaranteed {
            return true;
        }
        // What all others must be able to have at any time stays free.
        let kept = |(other, level): (usize, &Level)| {
            let guaranteed = level.share.nominal - level.share.lendable.min(level.share.nominal);
            if other == index { 0 } else { guaranteed.saturating_sub(level.in_use) }
        };
        let kept: usize = self.levels.iter().enumerate().map(kept).sum();
        level.in_use + width <= nominal + borrowable && self.in_use + width + kept <= self.total
    }

    fn take(&mut self, index: usize, queue: Option<usize>, width: usize) -> Taken {
        self.in_use += width;
        let level = &mut self.levels[index];
        level.in_use += width;
        if let Some(queue) = queue.map(|queue| &mut level.queues[queue]) {
            if queue.running == 0 && queue.waiting.is_empty() {
                queue.used = queue.used.max(level.clock);
            }
            queue.running += 1;
            queue.used += GUESS_MS * width as u64;
        }
        Taken { level: index, queue, width }
    }

    /// The shortest queue of the flow's hand.
    fn deal(&self, level: usize, flow: u64) -> Option<usize> {
        let level = &self.levels[level];
        let queuing = level.share.queuing?;
        let hand = hand(flow, queuing.queues, queuing.hand_size);
        hand.into_iter().min_by_key(|queue| {
            let queue = &level.queues[*queue];
            (queue.waiting.len(), queue.running)
        })
    }
}

/// `size` different queues out of `queues`, by the hash alone (shufflesharding/dealer.go).
fn hand(mut hash: u64, queues: usize, size: usize) -> Vec<usize> {
    let mut hand: Vec<usize> = Vec::with_capacity(size);
    for dealt in 0..size.clamp(1, queues) {
        let left = (queues - dealt) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // The card-th of those that are not in the hand yet.
        let mut sorted = hand.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if taken <= card {
                card += 1;
            }
        }
        hand.push(card);
    }
    hand
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::schema::Queuing, *};

    fn share(nominal: usize, lendable: usize) -> Share {
        let queuing = Queuing { queues: 8, hand_size: 2, queue_length_limit: 5 };
        Share { nominal, lendable, borrowable: usize::MAX / 4, queuing: Some(queuing) }
    }

    fn seats(total: usize, shares: &[Share]) -> Seats {
        let mut seats = Seats::new(total);
        shares.iter().enumerate().for_each(|(level, share)| seats.set(level, *share));
        seats
    }

    fn seat(seats: &mut Seats, level: usize) -> Taken {
        match seats.ask(level, 1, 1) {
            Asked::Seated(taken) => taken,
            other => panic!("{other:?}"),
        }
    }

    fn is_seated(asked: &Asked) -> bool {
        matches!(asked, Asked::Seated(_))
    }

    #[test]
    fn a_level_borrows_what_is_lent_and_never_what_is_not() {
        let mut seats = seats(10, &[share(4, 0), share(6, 3)]);
        let mut taken: Vec<Taken> = (0..7).map(|_| seat(&mut seats, 0)).collect();
        assert!(matches!(seats.ask(0, 1, 1), Asked::Waits(_)), "4 of its own and 3 lent ones are in use");
        for _ in 0..3 {
            seat(&mut seats, 1);
        }
        assert!(matches!(seats.ask(1, 1, 1), Asked::Waits(_)), "the lent ones are still away");
        seats.give_back(taken.pop().unwrap(), 1);
        let (_, back) = seats.call().expect("someone waits");
        assert_eq!(back.level, 1, "the owner, who has used less of his own, comes before the borrower");
        assert_eq!(seats.call(), None);
    }

    #[test]
    fn a_borrowing_limit_holds() {
        let mut seats = seats(10, &[Share { borrowable: 1, ..share(4, 0) }, share(6, 6)]);
        for _ in 0..5 {
            seat(&mut seats, 0);
        }
        assert!(!is_seated(&seats.ask(0, 1, 1)));
    }

    #[test]
    fn the_line_has_an_end_and_a_level_without_queues_refuses() {
        let mut seats = seats(1, &[share(1, 0), Share { queuing: None, ..share(0, 0) }]);
        seat(&mut seats, 0);
        let asked: Vec<Asked> = (0..11).map(|_| seats.ask(0, 7, 1)).collect();
        assert_eq!(asked.iter().filter(|asked| matches!(asked, Asked::Waits(_))).count(), 10, "two queues of five");
        assert_eq!(asked[10], Asked::Refused);
        seat(&mut seats, 1);
        assert_eq!(seats.ask(1, 7, 1), Asked::Refused);
    }

    #[test]
    fn who_asks_for_much_waits_for_himself() {
        let mut seats = seats(1, &[share(1, 0)]);
        let Asked::Seated(mut running) = seats.ask(0, 5, 1) else { panic!("it is free") };
        let heavy: Vec<Ticket> = (0..5)
            .map(|_| match seats.ask(0, 3, 1) {
                Asked::Waits(ticket) => ticket,
                other => panic!("{other:?}"),
            })
            .collect();
        let Asked::Waits(light) = seats.ask(0, 0, 1) else { panic!("no seat is free") };
        let mut order = Vec::new();
        for _ in 0..6 {
            seats.give_back(running, 50);
            let (ticket, taken) = seats.call().unwrap();
            order.push(ticket);
            running = taken;
        }
        let place = order.iter().position(|ticket| *ticket == light).unwrap();
        assert!(place <= 2, "{place} of {order:?}, behind at most one of each queue of {heavy:?}");
    }

    #[test]
    fn who_leaves_the_line_is_not_called() {
        let mut seats = seats(1, &[share(1, 0)]);
        let taken = seat(&mut seats, 0);
        let Asked::Waits(ticket) = seats.ask(0, 1, 1) else { panic!("no seat is free") };
        seats.forget(0, ticket);
        seats.give_back(taken, 1);
        assert_eq!(seats.call(), None);
        assert!(is_seated(&seats.ask(0, 1, 1)));
    }

    #[test]
    fn wide_requests_fit_in_their_level() {
        let mut seats = seats(4, &[share(3, 0), share(1, 0)]);
        let Asked::Seated(taken) = seats.ask(0, 1, 10) else { panic!("it is cut to the level") };
        assert_eq!(taken.width, 3);
        assert!(!is_seated(&seats.ask(0, 1, 1)));
        seats.give_back(taken, 1);
        assert_eq!((seats.in_use, seats.levels[0].in_use), (0, 0));
    }

    #[test]
    fn a_changed_level_keeps_who_waits() {
        let mut seats = seats(1, &[share(1, 0)]);
        seat(&mut seats, 0);
        let Asked::Waits(ticket) = seats.ask(0, 1, 1) else { panic!("no seat is free") };
        let fewer = Queuing { queues: 1, hand_size: 1, queue_length_limit: 1 };
        seats.set(0, Share { nominal: 2, queuing: Some(fewer), ..share(2, 0) });
        assert_eq!(seats.call().map(|(called, _)| called), Some(ticket));
    }

    #[test]
    fn hands_are_different_queues_and_differ_between_flows() {
        let mut seen = BTreeSet::new();
        for flow in 0..10_000_u64 {
            let mut hand = hand(flow.wrapping_mul(0x9e37_79b9_7f4a_7c15), 16, 4);
            hand.sort_unstable();
            assert!(hand.windows(2).all(|pair| pair[0] < pair[1]) && hand[3] < 16, "{hand:?}");
            seen.insert(hand);
        }
        assert!(seen.len() > 1_700, "of 1820 hands {} were dealt", seen.len());
    }
}
