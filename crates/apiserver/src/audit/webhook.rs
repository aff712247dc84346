//! The audit webhook: events in batches to a server that a kubeconfig file names.
//!
//! A batch goes when it is full or has waited for its time. What fails in a way that may pass is sent again, a few times with growing pauses;
//! meanwhile events gather, and what does not fit is lost and said. Upstream's defaults throughout (--audit-webhook-batch-*, server/options/audit.go).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::room::{EVENTS_MAX, Room};
use crate::callout::{Callout, Target};

/// Events of one batch and their bytes, and how long the first of them waits for others.
const BATCH_MAX: usize = 400;
const BATCH_BYTES_MAX: usize = 4 << 20;
const BATCH_WAIT: Duration = Duration::from_secs(30);
/// One call. Upstream's client has no limit of its own here; a server that hangs must not hold the queue for ever.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Attempts for one batch, and the pause before the second; each further one is twice as long.
const ATTEMPTS_MAX: u32 = 4;
const BACKOFF: Duration = Duration::from_secs(10);
/// When Knarr stops, what waits is sent once more, for this long.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Webhook {
    events: mpsc::Sender<Bytes>,
    room: Room,
    lost: Arc<AtomicU64>,
}

impl Webhook {
    /// The future sends until `stop`, and then what still waits.
    pub(super) fn new(callout: Callout, target: Target, stop: CancellationToken) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (events, queue) = mpsc::channel(EVENTS_MAX);
        let (lost, room) = (Arc::new(AtomicU64::new(0)), Room::default());
        let sender = Sender { callout, target, queue, room: room.clone(), lost: lost.clone(), batch: Vec::new(), failing: false, told: 0 };
        (Self { events, room, lost }, sender.run(stop))
    }

    pub(super) fn send(&self, event: Bytes) {
        let bytes = event.len();
        let taken = self.room.take(bytes);
        if taken && self.events.try_send(event).is_ok() {
            return;
        }
        if taken {
            self.room.give_back(bytes);
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

struct Sender {
    callout: Callout,
    target: Target,
    queue: mpsc::Receiver<Bytes>,
    room: Room,
    lost: Arc<AtomicU64>,
    /// What goes next, until it has arrived or is given up.
    batch: Vec<Bytes>,
    /// Whether the present trouble was said.
    failing: bool,
    /// Lost events that were said.
    told: u64,
}

impl Sender {
    async fn run(mut self, stop: CancellationToken) {
        if stop.run_until_cancelled(self.follow()).await.is_some() {
            return;
        }
        self.queue.close();
        let rest = async {
            while self.fill(Duration::ZERO).await {
                self.send(1).await;
            }
        };
        if tokio::time::timeout(CLOSE_TIME_MAX, rest).await.is_err() {
            let left = self.batch.len() + self.queue.len();
            tracing::warn!(lost = left, "the audit webhook did not take the last events in time");
        }
    }

    async fn follow(&mut self) {
        while self.fill(BATCH_WAIT).await {
            self.send(ATTEMPTS_MAX).await;
        }
    }

    /// Gathers a batch for as long as `wait`. False where there is none, and no more will come.
    async fn fill(&mut self, wait: Duration) -> bool {
        if self.batch.is_empty() {
            match self.queue.recv().await {
                Some(first) => self.batch.push(first),
                None => return false,
            }
        }
        let timer = tokio::time::sleep(wait);
        tokio::pin!(timer);
        while self.batch.len() < BATCH_MAX && self.bytes() < BATCH_BYTES_MAX {
            tokio::select! {
                biased;
                next = self.queue.recv() => match next {
                    Some(event) => self.batch.push(event),
                    None => break,
                },
                () = &mut timer => break,
            }
        }
        true
    }

    fn bytes(&self) -> usize {
        self.batch.iter().map(Bytes::len).sum()
    }

    async fn send(&mut self, attempts: u32) {
        let sent = send(&self.callout, &self.target, &self.batch, attempts).await;
        if sent.is_err() {
            self.lost.fetch_add(self.batch.len() as u64, Ordering::Relaxed);
        }
        self.room.give_back(self.bytes());
        self.batch.clear();
        self.tell(sent);
    }

    /// Each trouble is said once, and how many events it cost when it is over.
    fn tell(&mut self, sent: Result<(), String>) {
        let lost = self.lost.load(Ordering::Relaxed);
        match sent {
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(error, "the audit webhook does not take events; they are lost until it does, requests go on");
            }
            Err(_) => {}
            Ok(()) => {
                if self.failing || lost > self.told {
                    tracing::warn!(lost = lost - self.told, "the audit webhook lost events, and takes them again");
                }
                (self.failing, self.told) = (false, lost);
            }
        }
    }
}

async fn send(callout: &Callout, target: &Target, batch: &[Bytes], attempts: u32) -> Result<(), String> {
    let document = event_list(batch);
    let mut pause = BACKOFF;
    for attempt in 1.. {
        match callout.post(target, "", document.clone(), CALL_TIME_MAX).await {
            Ok(_) => return Ok(()),
            Err(error) if attempt < attempts && error.is_transient() => {}
            Err(error) => return Err(error.to_string()),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    unreachable!("the last attempt returns")
}

/// The events are JSON already.
fn event_list(batch: &[Bytes]) -> Bytes {
    let mut list = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
    for (index, event) in batch.iter().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        list.extend_from_slice(event.trim_ascii_end());
    }
    list.extend_from_slice(b"]}");
    list.into()
}
