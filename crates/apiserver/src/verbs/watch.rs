//! Watches: the objects as they are, if that is asked for, and then every change.
//!
//! A watch is a stream that reads the store's history as fast as the client takes it. An event is put into a frame once for everyone who
//! sees it the same way (whole or metadata only, as JSON or protobuf); who watches through a selector sees objects come and go by it.
//! The stream ends when its time is over, when the server stops, or with an error event when the client was too slow to follow.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, Response, header};
use jiff::Timestamp;
use knarr_api::{Object, Status, encode, partial, status, table};
use knarr_store::{Entry, Event, EventKind, HistoryError, Revision, Watch};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::list::{self, Selection};
use crate::{
    User,
    body::Body,
    call::{Call, decode},
    render,
    request::{
        media::{self, Answer, Format, Shape},
        options::ListOptions,
    },
    server::Core,
};

/// Bookmarks tell a client with a quiet watch how far it is, so that it can go on there after a break. Upstream's period
/// (storage/cacher, defaultBookmarkFrequency), listed among the timers.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A watch without timeoutSeconds lasts this long, and up to twice this, so that clients do not all come back at once: upstream's
/// --min-request-timeout.
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// Nothing lasts longer, whatever a client asks for: the clock has an end.
const TIMEOUT_MAX: Duration = Duration::from_hours(365 * 24);
/// Frames are sent together up to this many bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// Tells that all objects of the initial state have been sent (KEP-3157).
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Ways of seeing an event that are encoded once and shared; see [`Event::encoded`].
mod slot {
    pub(super) const PLAIN: usize = 0;
    /// For those whose selector the object has just begun to match.
    pub(super) const ENTERED: usize = 1;
    /// For those whose selector it no longer matches.
    pub(super) const LEFT: usize = 2;
    /// Added to the three: as metadata alone.
    pub(super) const METADATA: usize = 3;
    /// Added to the six: in protobuf.
    pub(super) const PROTOBUF: usize = 6;
}

const _: () = assert!(slot::LEFT + slot::METADATA + slot::PROTOBUF < knarr_store::ENCODINGS_MAX);

pub(crate) async fn watch(call: &Call, options: &ListOptions) -> Result<Response<Body>, Status> {
    if call.answer.format == Format::Yaml {
        // YAML has no framing for streams; upstream refuses it, too.
        return Err(status::not_acceptable(if call.kind.message.is_some() { &[media::JSON, media::PROTOBUF] } else { &[media::JSON] }));
    }
    let selection = if call.path.name.is_empty() { Selection::parse(call, options)? } else { Selection::single(call, options)? };
    let timeout =
        options.timeout.unwrap_or_else(|| TIMEOUT_MIN + Duration::from_secs(fastrand::u64(..TIMEOUT_MIN.as_secs()))).min(TIMEOUT_MAX);
    let (source, initial) = open(call, options, &selection)?;
    let initial = call.core.conversions.entries(&call.kind, initial).await?;
    let initial_bytes = initial.iter().map(|entry| entry.value.len() as u64).sum();
    let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher = Watcher {
        state: State::Initial { entries: initial.into_iter(), end: options.initial_events == Some(true) },
        source,
        view: View { selection, answer: call.answer, include: render::include_object(&call.query)? },
        bookmarks: options.bookmarks.then_some(bookmarks),
        deadline: Instant::now() + timeout,
        core: Counted::new(call),
    };
    let frames =
        stream::unfold(watcher, |mut watcher| async move { watcher.next().await.map(|chunk| (Ok::<_, Infallible>(chunk), watcher)) });
    let mut response = Response::new(Body::stream(frames).expecting(initial_bytes));
    let content_type = match call.answer.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Format::Json | Format::Yaml => media::JSON,
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// The changes to follow, and the objects to show before them.
fn open(call: &Call, options: &ListOptions, selection: &Selection) -> Result<(Watch, Vec<Arc<Entry>>), Status> {
    let store = &call.core.store;
    let asked = list::revision(&options.resource_version)?.filter(|asked| asked.0 != 0);
    let snapshot = store.snapshot();
    let initial = match options.initial_events {
        Some(wanted) => wanted,
        None => asked.is_none(),
    };
    if options.initial_events.is_some() {
        list::not_older(&options.resource_version, snapshot.revision)?;
    }
    let entries = match initial {
        true => selection.select(&snapshot, None).cloned().collect(),
        false => Vec::new(),
    };
    let after = if initial { snapshot.revision } else { asked.unwrap_or(snapshot.revision) };
    let watch = store.watch(&selection.collection, after).map_err(|error| history(error, after))?;
    Ok((watch, entries))
}

/// Why a watch cannot go on after `revision`. A revision of the future is one that a lost disk has taken back: the client must list again.
fn history(error: HistoryError, revision: Revision) -> Status {
    match error {
        HistoryError::Compacted { oldest } => status::gone_expired(format!("too old resource version: {revision} ({oldest})")),
        HistoryError::Future { current } => status::gone_expired(format!("too large resource version: {revision}, current: {current}")),
        HistoryError::Closed => status::service_unavailable("the server is stopping", 1),
    }
}

struct Watcher {
    state: State,
    source: Watch,
    view: View,
    bookmarks: Option<Interval>,
    deadline: Instant,
    core: Counted,
}

enum State {
    /// The objects as they were are being sent. Goes to Following with the last, and the bookmark that says so if `end`.
    Initial {
        entries: std::vec::IntoIter<Arc<Entry>>,
        end: bool,
    },
    Following,
    /// The last frame has been sent.
    Over,
}

/// Counts open watches for the metrics.
struct Counted {
    core: Arc<Core>,
    user: Arc<User>,
}

impl Counted {
    fn new(call: &Call) -> Self {
        let (core, user) = (call.core.clone(), call.user.clone());
        core.metrics.watches.fetch_add(1, Ordering::Relaxed);
        if let Some(watches) = core.components.watches_of(&user.name) {
            watches.fetch_add(1, Ordering::Relaxed);
        }
        Self { core, user }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.core.metrics.watches.fetch_sub(1, Ordering::Relaxed);
        if let Some(watches) = self.core.components.watches_of(&self.user.name) {
            watches.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Watcher {
    /// The next frames, or none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut chunk = BytesMut::new();
        while chunk.is_empty() {
            match &mut self.state {
                State::Initial { entries, end } => {
                    while chunk.len() < CHUNK_BYTES {
                        match entries.next() {
                            Some(entry) => chunk.extend_from_slice(&self.view.initial(&entry)),
                            None => {
                                if *end {
                                    chunk.extend_from_slice(&self.view.bookmark(self.source.progress(), true));
                                }
                                self.state = State::Following;
                                break;
                            }
                        }
                    }
                }
                State::Following => self.follow(&mut chunk).await,
                State::Over => return None,
            }
        }
        Some(chunk.freeze())
    }

    /// Waits for one thing to happen. The chunk stays empty when no one needs to know.
    async fn follow(&mut self, chunk: &mut BytesMut) {
        tokio::select! {
            biased;
            () = self.core.core.stop.cancelled() => self.state = State::Over,
            // The definition has changed: the client comes back, and sees the kind as it is now.
            () = self.core.core.registry.gone(&self.view.selection.kind) => self.state = State::Over,
            batch = self.source.next() => match batch {
                Ok(batch) => match self.core.core.conversions.events(&self.view.selection, batch.events).await {
                    Ok(events) => events.iter().filter_map(|event| self.view.event(event)).for_each(|frame| chunk.extend_from_slice(&frame)),
                    Err(status) => {
                        chunk.extend_from_slice(&self.view.framed("ERROR", &status.to_json()));
                        self.state = State::Over;
                    }
                },
                Err(error) => {
                    let revision = self.source.progress();
                    chunk.extend_from_slice(&self.view.framed("ERROR", &history(error, revision).to_json()));
                    self.state = State::Over;
                }
            },
            () = tokio::time::sleep_until(self.deadline) => {
                // So that the client's next watch begins where this one ends.
                if self.bookmarks.is_some() {
                    chunk.extend_from_slice(&self.view.bookmark(self.source.progress(), false));
                }
                self.state = State::Over;
            }
            () = tick(&mut self.bookmarks) => chunk.extend_from_slice(&self.view.bookmark(self.source.progress(), false)),
        }
    }
}

async fn tick(bookmarks: &mut Option<Interval>) {
    match bookmarks {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// How one watcher sees events.
struct View {
    selection: Selection,
    answer: Answer,
    include: table::IncludeObject,
}

impl View {
    fn initial(&self, entry: &Entry) -> Bytes {
        self.frame("ADDED", entry)
    }

    /// What this watcher is told of an event, if anything.
    fn event(&self, event: &Event) -> Option<Bytes> {
        let before = event.previous.as_ref().is_some_and(|previous| self.selection.matches(previous));
        let after = event.kind == EventKind::Put && self.selection.matches(&event.entry);
        let (word, way) = match (before, after) {
            (false, false) => return None,
            (true, true) => ("MODIFIED", slot::PLAIN),
            (false, true) if event.previous.is_none() => ("ADDED", slot::PLAIN),
            (false, true) => ("ADDED", slot::ENTERED),
            (true, false) if event.kind == EventKind::Delete => ("DELETED", slot::PLAIN),
            (true, false) => ("DELETED", slot::LEFT),
        };
        let encode = || match (way, &event.previous) {
            // It left: the client gets the state that it knows, under the revision at which it left.
            (slot::LEFT, Some(previous)) => self.frame(word, &previous.restamped(event.entry.revision)),
            _ => self.frame(word, &event.entry),
        };
        let way = if self.answer.format == Format::Protobuf { slot::PROTOBUF + way } else { way };
        let kind = &self.selection.kind;
        let as_stored =
            [Some(&event.entry), event.previous.as_ref()].into_iter().flatten().all(|entry| kind.shows_stored(entry.revision.0));
        Some(match self.answer.shape {
            // Kinds that are stored as others would share their slots with them.
            Shape::Whole if as_stored => event.encoded(way, encode),
            Shape::Metadata if self.answer.version == "v1" => event.encoded(slot::METADATA + way, encode),
            Shape::Whole | Shape::Metadata | Shape::Table => encode(),
        })
    }

    /// One event with the object in the watcher's format and shape. What cannot be encoded is told in its place.
    fn frame(&self, word: &str, entry: &Entry) -> Bytes {
        let kind = &self.selection.kind;
        match (self.answer.format, self.answer.shape) {
            (Format::Json, Shape::Whole) if kind.shows_stored(entry.revision.0) => return frame(word, &entry.value),
            (Format::Protobuf, Shape::Whole) => match render::message(kind, entry) {
                Ok(raw) => return encode::watch_event(word, &encode::enveloped(&kind.api_version(), &kind.kind, &raw)).into(),
                Err(status) => return self.framed("ERROR", &status.to_json()),
            },
            _ => {}
        }
        match decode(kind, entry) {
            Ok(object) => self.framed(word, &self.shaped(object)),
            Err(status) => self.framed("ERROR", &status.to_json()),
        }
    }

    /// One event with any value that says its type.
    fn framed(&self, word: &str, value: &Value) -> Bytes {
        let encoded = match self.answer.format {
            Format::Protobuf => encode::value(value),
            Format::Json | Format::Yaml => return frame(word, value.to_string().as_bytes()),
        };
        match encoded.or_else(|error| encode::value(&status::internal(error.to_string()).to_json())) {
            Ok(object) => encode::watch_event(word, &object).into(),
            // A Status is always in the schema.
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "encode an event");
                Bytes::new()
            }
        }
    }

    fn shaped(&self, object: Object) -> Value {
        let version = format!("meta.k8s.io/{}", self.answer.version);
        match self.answer.shape {
            Shape::Whole => object.into_value(),
            Shape::Metadata => {
                let mut value = partial::metadata_only(&object);
                value["apiVersion"] = version.into();
                value
            }
            Shape::Table => {
                let mut value = table::render(&self.selection.kind, &mut std::iter::once(&object), self.include, Timestamp::now());
                value["apiVersion"] = version.into();
                value["metadata"] = json!({"resourceVersion": object.resource_version()});
                value
            }
        }
    }

    /// `end`: all of the initial state has been sent.
    fn bookmark(&self, revision: Revision, end: bool) -> Bytes {
        let kind = &self.selection.kind;
        let mut object = Object::default();
        object.set_type(&kind.api_version(), &kind.kind);
        object.set(&["metadata", "resourceVersion"], revision.to_string().into());
        object.set(&["metadata", "creationTimestamp"], Value::Null);
        if end {
            object.set(&["metadata", "annotations", INITIAL_END], "true".into());
        }
        self.framed("BOOKMARK", &self.shaped(object))
    }
}

fn frame(word: &str, object: &[u8]) -> Bytes {
    let (head, tail) = (r#"{"type":""#, b"}\n");
    let mut bytes = BytesMut::with_capacity(head.len() + word.len() + 12 + object.len() + tail.len());
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(word.as_bytes());
    bytes.extend_from_slice(br#"","object":"#);
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(tail);
    bytes.freeze()
}
