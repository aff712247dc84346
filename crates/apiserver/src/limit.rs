//! How much is done at once.
//!
//! Reads and writes have seats of their own, so that neither can starve the other. Who finds no seat waits in line, first come first
//! served; who finds the line full, or waits too long, is told to come back (429). Watches and streams of exec, logs and the like take no
//! seat: they last, and cost little while nothing happens.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads at once: upstream's --max-requests-inflight.
const READS_MAX: usize = 400;
/// Writes at once: upstream's --max-mutating-requests-inflight.
const WRITES_MAX: usize = 200;
/// Requests that may wait for a seat, of both sorts together. With 3 MiB of body each not yet read, waiting costs a task of a few KiB.
const WAITING_MAX: usize = 2_000;
/// How long to wait for a seat: a quarter of the request's own time, as upstream's priority and fairness does.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Seconds after which a client that was turned away shall try again.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 1;

#[derive(Debug)]
pub(crate) struct Limits {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    waiting: Semaphore,
    wait: Duration,
}

/// Held while a request runs.
#[derive(Debug)]
pub(crate) struct Seat(#[expect(dead_code, reason = "its drop frees the seat")] OwnedSemaphorePermit);

/// No seat, and no room to wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overloaded;

impl Default for Limits {
    fn default() -> Self {
        Self::new(READS_MAX, WRITES_MAX, WAITING_MAX, WAIT_MAX)
    }
}

impl Limits {
    fn new(reads: usize, writes: usize, waiting: usize, wait: Duration) -> Self {
        let seats = |count| Arc::new(Semaphore::new(count));
        Self { reads: seats(reads), writes: seats(writes), waiting: Semaphore::new(waiting), wait }
    }

    pub(crate) async fn seat(&self, mutating: bool) -> Result<Seat, Overloaded> {
        let seats = if mutating { &self.writes } else { &self.reads };
        if let Ok(permit) = seats.clone().try_acquire_owned() {
            return Ok(Seat(permit));
        }
        let _place = self.waiting.try_acquire().map_err(|_| Overloaded)?;
        match tokio::time::timeout(self.wait, seats.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Seat(permit)),
            Ok(Err(_)) | Err(_) => Err(Overloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_no_seat_waits_and_who_finds_no_place_to_wait_is_turned_away() {
        let limits = Limits::new(1, 1, 1, WAIT_MAX);
        let first = limits.seat(false).await.unwrap();
        let waits = limits.seat(false);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(limits.seat(false).await.err(), Some(Overloaded));
        assert!(limits.seat(true).await.is_ok(), "writes have seats of their own");
        drop(first);
        assert!(waits.await.is_ok());
    }

    #[tokio::test]
    async fn waiting_ends() {
        let limits = Limits::new(1, 1, 1, Duration::ZERO);
        let _first = limits.seat(false).await.unwrap();
        assert_eq!(limits.seat(false).await.err(), Some(Overloaded));
    }
}
