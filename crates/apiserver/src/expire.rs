//! Events do not stay: an hour after its last change an event goes. A queue of deadlines, filled by a watch; nothing polls.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use knarr_store::{Collection, CommitError, EventKind, Expect, HistoryError, Key, Revision, Store, Write};
use serde_json::Value;
use tokio::time::Instant;

/// How long an event stays after its last change: upstream's --event-ttl.
const EVENT_LIFE: Duration = Duration::from_secs(3600);
/// Events deleted in one commit, so that a burst of old ones does not hold up other writers.
const BATCH_MAX: usize = 256;

struct Due {
    at: Instant,
    key: Key,
    /// Changed again, it has a later deadline of its own.
    revision: Revision,
}

/// Deletes old events until the store closes.
pub(crate) async fn run(store: Arc<dyn Store>) {
    let events = Collection::new("core/events");
    // Fallen behind, it begins again from the present.
    while follow(&store, &events).await != HistoryError::Closed {}
}

/// Ends with the reason why it cannot go on.
async fn follow(store: &Arc<dyn Store>, events: &Collection) -> HistoryError {
    let snapshot = store.snapshot();
    let mut watch = match store.watch(events, snapshot.revision) {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    let (now, today) = (Instant::now(), Timestamp::now());
    let mut queue: Vec<Due> = snapshot
        .range(events, "", None)
        .map(|entry| Due { at: now + left(&entry.value, today), key: entry.key.clone(), revision: entry.revision })
        .collect();
    queue.sort_by_key(|due| due.at);
    let mut queue = VecDeque::from(queue);
    drop(snapshot);
    loop {
        let next = queue.front().map(|due| due.at);
        tokio::select! {
            batch = watch.next() => {
                // What has just changed has a whole life before it, so that the queue stays in order.
                let at = Instant::now() + EVENT_LIFE;
                let batch = match batch {
                    Ok(batch) => batch,
                    Err(error) => return error,
                };
                let puts = batch.events.into_iter().filter(|event| event.kind == EventKind::Put);
                queue.extend(puts.map(|event| Due { at, key: event.entry.key.clone(), revision: event.entry.revision }));
            }
            () = until(next) => if let Err(error) = expire(store, &mut queue).await {
                return error;
            },
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The rest of the life of an event that was found in the store.
fn left(value: &[u8], now: Timestamp) -> Duration {
    let event: Value = serde_json::from_slice(value).unwrap_or_default();
    let times = ["/lastTimestamp", "/series/lastObservedTime", "/eventTime", "/metadata/creationTimestamp"];
    let last = times.iter().filter_map(|path| event.pointer(path)?.as_str()?.parse::<Timestamp>().ok()).max();
    let age = last.map_or(SignedDuration::ZERO, |last| now.duration_since(last));
    EVENT_LIFE.saturating_sub(Duration::try_from(age).unwrap_or_default())
}

async fn expire(store: &Arc<dyn Store>, queue: &mut VecDeque<Due>) -> Result<(), HistoryError> {
    let now = Instant::now();
    let snapshot = store.snapshot();
    let mut writes = Vec::new();
    while let Some(due) = queue.pop_front_if(|due| due.at <= now) {
        if snapshot.get(&due.key).is_some_and(|entry| entry.revision == due.revision) {
            writes.push(Write::Delete { key: due.key, expect: Expect::Revision(due.revision) });
        }
        if writes.len() == BATCH_MAX {
            break;
        }
    }
    match store.commit(writes).await {
        Ok(_) => Ok(()),
        // One of them has changed meanwhile: all are looked at again with the next, or when the server starts.
        Err(CommitError::Conflict { .. }) => Err(HistoryError::Future { current: snapshot.revision }),
        Err(CommitError::Closed) => Err(HistoryError::Closed),
        Err(error) => {
            tracing::warn!(%error, "delete old events");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_life_counts_from_the_last_time() {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let event = br#"{"metadata":{"creationTimestamp":"2026-01-01T00:00:00Z"},"lastTimestamp":"2026-01-01T00:50:00Z"}"#;
        assert_eq!(left(event, now), Duration::from_secs(50 * 60));
        assert_eq!(left(br#"{"metadata":{"creationTimestamp":"2025-01-01T00:00:00Z"}}"#, now), Duration::ZERO);
        assert_eq!(left(b"{}", now), EVENT_LIFE);
    }
}
