//! Priority and fairness: whose request is served now, whose waits, and whose must come again (KEP-1040).
//!
//! Every request belongs to the first FlowSchema that matches it, and by that to a priority level. A level has seats; who finds none waits in
//! the line of his flow, and who finds that full, or waits too long, is told to come back (429). Requests of exempt levels take no
//! seat. `schema` reads the configuration and matches, `seats` is the bookkeeping; this file joins them with the store and with tasks.
//!
//! A change of the configuration is in force as soon as the store tells of it. The mandatory objects (`exempt`, `catch-all`) come back when
//! they are deleted, and hold meanwhile.

mod follow;
mod schema;
mod seats;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use knarr_api::exposition::{Kind, Page};
use knarr_store::Store;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::authz::Attributes;
use schema::{FlowSchema, PriorityLevel};
use seats::{Asked, Seats, Taken, Ticket};

/// Requests at once, of all levels that are not exempt: upstream's --max-requests-inflight (400) and --max-mutating-requests-inflight (200)
/// together, as upstream has it.
const SEATS_TOTAL: usize = 600;
/// How long to wait for a seat: a quarter of the request's own time, as upstream (server/filters/priority-and-fairness.go).
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Objects of a list that cost one seat, and the most seats that one request costs (flowcontrol/request/config.go, objectsPerSeat and
/// maximumSeatsLimit).
const OBJECTS_PER_SEAT: usize = 100;
const WIDTH_MAX: usize = 10;

/// Seconds after which a client that was turned away shall try again.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 1;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

pub(crate) struct Fairness {
    store: Arc<dyn Store>,
    pool: Arc<Mutex<Pool>>,
    config: ArcSwap<Config>,
    rejected: AtomicU64,
}

/// Seats, and those who wait for them.
struct Pool {
    seats: Seats,
    waiting: HashMap<Ticket, oneshot::Sender<Seat>>,
    /// Numbers of the levels by name. A level that is deleted keeps its own: its requests still run.
    numbers: BTreeMap<String, usize>,
}

/// Schemas in the order in which they are asked.
#[derive(Default)]
struct Config {
    classes: Vec<Arc<Class>>,
}

/// One schema and its level.
struct Class {
    schema: Arc<FlowSchema>,
    /// None is exempt.
    level: Option<usize>,
    level_name: String,
    schema_uid: Option<HeaderValue>,
    level_uid: Option<HeaderValue>,
}

/// Where a request belongs.
#[derive(Clone)]
pub(crate) struct Classified {
    class: Arc<Class>,
    flow: u64,
}

/// Held while a request runs.
pub(crate) struct Seat {
    /// None for one that is exempt.
    held: Option<(Arc<Mutex<Pool>>, Taken, Instant)>,
}

/// No seat, and no room to wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overloaded;

impl Fairness {
    /// The limiter for the store's present configuration, and the future that keeps it current.
    pub(crate) async fn open(store: Arc<dyn Store>) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let pool = Pool { seats: Seats::new(SEATS_TOTAL), waiting: HashMap::new(), numbers: BTreeMap::new() };
        let config = ArcSwap::default();
        let fairness = Arc::new(Self { store, pool: Arc::new(Mutex::new(pool)), config, rejected: AtomicU64::new(0) });
        fairness.settle().await;
        let revision = fairness.rebuild();
        (fairness.clone(), follow::run(fairness, revision))
    }

    /// Puts `schemas` and `levels` in force.
    fn set(&self, mut schemas: Vec<Arc<FlowSchema>>, levels: &[Arc<PriorityLevel>]) {
        schemas.sort_by(|one, other| {
            let order = |schema: &FlowSchema| schema.spec.matching_precedence;
            order(one).cmp(&order(other)).then_with(|| one.metadata.name.cmp(&other.metadata.name))
        });
        let mut pool = self.pool.lock();
        let mut numbers = BTreeMap::new();
        for (level, share) in levels.iter().zip(schema::shares(levels, SEATS_TOTAL)) {
            let number = share.map(|share| {
                let next = pool.numbers.len();
                let number = *pool.numbers.entry(level.metadata.name.clone()).or_insert(next);
                pool.seats.set(number, share);
                number
            });
            numbers.insert(level.metadata.name.as_str(), (number, &level.metadata.uid));
        }
        // Deleted levels give up their seats; who waits there is still called.
        for (name, number) in pool.numbers.clone() {
            if !matches!(numbers.get(name.as_str()), Some((Some(_), _))) {
                pool.seats.set(number, schema::Share::default());
            }
        }
        let class = |schema: Arc<FlowSchema>| {
            let level_name = schema.spec.priority_level_configuration.name.clone();
            // A schema that names no level has no part in this (its condition Dangling says so).
            let (level, uid) = numbers.get(level_name.as_str())?;
            let (schema_uid, level_uid) = (header(&schema.metadata.uid), header(uid));
            Some(Arc::new(Class { schema, level: *level, level_name, schema_uid, level_uid }))
        };
        let classes = schemas.into_iter().filter_map(class).collect();
        let called = pool.call();
        drop(pool);
        self.config.store(Arc::new(Config { classes }));
        self.seat_all(called);
    }

    /// Where a request belongs: the schemas end with one that matches everyone.
    pub(crate) fn classify(&self, asked: &Attributes<'_>) -> Option<Classified> {
        let config = self.config.load();
        let class = config.classes.iter().find(|class| class.schema.matches(asked))?;
        let mut hasher = DefaultHasher::new();
        class.schema.metadata.name.hash(&mut hasher);
        class.schema.distinguisher(asked).hash(&mut hasher);
        Some(Classified { class: class.clone(), flow: hasher.finish() })
    }

    /// Waits for a seat.
    pub(crate) async fn seat(&self, classified: &Classified, width: usize) -> Result<Seat, Overloaded> {
        let Some(level) = classified.class.level else { return Ok(Seat { held: None }) };
        let (called, _place) = {
            let mut pool = self.pool.lock();
            match pool.seats.ask(level, classified.flow, width) {
                Asked::Seated(taken) => return Ok(self.seated(taken)),
                Asked::Refused => {
                    drop(pool);
                    self.rejected.fetch_add(1, Ordering::Relaxed);
                    return Err(Overloaded);
                }
                Asked::Waits(ticket) => {
                    let (call, called) = oneshot::channel();
                    pool.waiting.insert(ticket, call);
                    // Also when the client goes away while it waits.
                    (called, Place { pool: self.pool.clone(), level, ticket })
                }
            }
        };
        match tokio::time::timeout(WAIT_MAX, called).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) | Err(_) => {
                self.rejected.fetch_add(1, Ordering::Relaxed);
                Err(Overloaded)
            }
        }
    }

    fn seated(&self, taken: Taken) -> Seat {
        Seat { held: Some((self.pool.clone(), taken, Instant::now())) }
    }

    fn seat_all(&self, called: Vec<(oneshot::Sender<Seat>, Taken)>) {
        for (call, taken) in called {
            // One who left meanwhile gives the seat back by dropping it.
            drop(call.send(self.seated(taken)));
        }
    }

    /// Adds what is seated, waits and was turned away to the page of metrics.
    pub(crate) fn render(&self, page: &mut Page) {
        let levels: Vec<(String, usize, usize)> = {
            let pool = self.pool.lock();
            let count = |(name, level): (&String, &usize)| {
                let (seated, waiting) = pool.seats.count(*level);
                (name.clone(), seated, waiting)
            };
            pool.numbers.iter().map(count).collect()
        };
        let mut by_level = |name, help, value: fn(&(String, usize, usize)) -> usize| {
            let mut metric = page.metric(name, Kind::Gauge, help);
            levels.iter().for_each(|level| metric.sample(&[("priority_level", &level.0)], value(level) as f64, None));
        };
        by_level("apiserver_flowcontrol_current_executing_seats", "Seats that are taken, by priority level.", |level| level.1);
        by_level("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait, by priority level.", |level| level.2);
        let rejected = self.rejected.load(Ordering::Relaxed) as f64;
        page.single("apiserver_flowcontrol_rejected_requests_total", Kind::Counter, "Requests that were turned away.", rejected);
    }
}

/// A uid as the value of a header; none where there is none.
fn header(uid: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(uid).ok().filter(|value| !value.is_empty())
}

/// Seats that a list of `objects` costs.
pub(crate) fn list_width(objects: usize) -> usize {
    objects.div_ceil(OBJECTS_PER_SEAT).clamp(1, WIDTH_MAX)
}

impl Classified {
    /// Tells the client where its request belonged.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        for (name, uid) in [(SCHEMA_UID, &self.class.schema_uid), (LEVEL_UID, &self.class.level_uid)] {
            if let Some(uid) = uid {
                headers.insert(name, uid.clone());
            }
        }
    }

    /// Schema and level, for the log.
    pub(crate) fn names(&self) -> (&str, &str) {
        (&self.class.schema.metadata.name, &self.class.level_name)
    }
}

impl Pool {
    /// Everyone who can be seated now.
    fn call(&mut self) -> Vec<(oneshot::Sender<Seat>, Taken)> {
        let mut called = Vec::new();
        while let Some((ticket, taken)) = self.seats.call() {
            match self.waiting.remove(&ticket) {
                Some(call) => called.push((call, taken)),
                None => self.seats.give_back(taken, 0),
            }
        }
        called
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((pool, taken, since)) = self.held.take() else { return };
        let called = {
            let mut pool = pool.lock();
            pool.seats.give_back(taken, u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
            pool.call()
        };
        for (call, taken) in called {
            drop(call.send(Self { held: Some((pool.clone(), taken, Instant::now())) }));
        }
    }
}

/// In the line until dropped.
struct Place {
    pool: Arc<Mutex<Pool>>,
    level: usize,
    ticket: Ticket,
}

impl Drop for Place {
    fn drop(&mut self) {
        let called = {
            let mut pool = self.pool.lock();
            if pool.waiting.remove(&self.ticket).is_none() {
                return;
            }
            pool.seats.forget(self.level, self.ticket);
            // Those behind may fit where the first in line did not.
            pool.call()
        };
        for (call, taken) in called {
            drop(call.send(Seat { held: Some((self.pool.clone(), taken, Instant::now())) }));
        }
    }
}
