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

use crate::callout::{Callout, Target};

/// Events that wait to be sent.
const QUEUE_MAX: usize = 10_000;
/// Events of one batch, and how long the first of them waits for others.
const BATCH_MAX: usize = 400;
const BATCH_WAIT: Duration = Duration::from_secs(30);
/// One call. Upstream's client has no limit of its own here; a server that hangs must not hold the queue for ever.
const CALL_TIME_MAX: Duration = Duration::from_secs(30);
/// Attempts for one batch, and the pause before the second; each further one is twice as long.
const ATTEMPTS_MAX: u32 = 4;
const BACKOFF: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(super) struct Webhook {
    events: mpsc::Sender<Bytes>,
    lost: Arc<AtomicU64>,
}

impl Webhook {
    /// The future sends for as long as it is polled.
    pub(super) fn new(callout: Callout, target: Target) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (events, queue) = mpsc::channel(QUEUE_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        (Self { events, lost: lost.clone() }, run(callout, target, queue, lost, BATCH_WAIT))
    }

    pub(super) fn send(&self, event: Bytes) {
        if self.events.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

async fn run(callout: Callout, target: Target, mut queue: mpsc::Receiver<Bytes>, lost: Arc<AtomicU64>, wait: Duration) {
    let mut failing = false;
    while let Some(first) = queue.recv().await {
        let mut batch = vec![first];
        let timer = tokio::time::sleep(wait);
        tokio::pin!(timer);
        while batch.len() < BATCH_MAX {
            tokio::select! {
                () = &mut timer => break,
                next = queue.recv() => match next {
                    Some(event) => batch.push(event),
                    None => break,
                },
            }
        }
        match send(&callout, &target, &batch).await {
            Ok(()) => {
                if std::mem::take(&mut failing) {
                    tracing::warn!(lost = lost.load(Ordering::Relaxed), "the audit webhook takes events again");
                }
            }
            Err(error) => {
                lost.fetch_add(batch.len() as u64, Ordering::Relaxed);
                // Once for each trouble.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(error, "the audit webhook does not take events; they are lost until it does, requests go on");
                }
            }
        }
    }
}

async fn send(callout: &Callout, target: &Target, batch: &[Bytes]) -> Result<(), String> {
    let document = event_list(batch);
    let mut pause = BACKOFF;
    for attempt in 1.. {
        match callout.post(target, "", document.clone(), CALL_TIME_MAX).await {
            Ok(_) => return Ok(()),
            Err(error) if attempt < ATTEMPTS_MAX && error.is_transient() => {}
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
