//! GET: one object, or those that selectors name, at the revision that is asked for.

use std::sync::Arc;

use http::{Response, StatusCode};
use knarr_api::{
    Kind, Status,
    select::{FieldSelector, LabelSelector},
    status,
};
use knarr_store::{Collection, Entry, HistoryError, Key, Meta, Revision, Snapshot};
use serde_json::Value;

use super::{page::Token, write};
use crate::{
    body::Body,
    call::Call,
    render::{self, ListMeta, Shown},
    request::options::{ListOptions, VersionMatch},
    server::Core,
};

pub(crate) async fn get(call: &Call) -> Result<Response<Body>, Status> {
    let entry = {
        let snapshot = call.core.store.snapshot();
        not_older(call.query.text("resourceVersion"), snapshot.revision)?;
        snapshot.get(&call.key()).cloned().ok_or_else(|| call.not_found(&call.path.name))?
    };
    let entry = call.core.conversions.entry(&call.kind, entry).await?;
    render::one(call, StatusCode::OK, Shown::Stored(entry))
}

/// The revision that a client means by `resourceVersion`; none for the empty one.
pub(crate) fn revision(text: &str) -> Result<Option<Revision>, Status> {
    match text {
        "" => Ok(None),
        text => match text.parse() {
            Ok(revision) => Ok(Some(Revision(revision))),
            Err(_) => Err(status::bad_request(format!("invalid resource version {text:?}"))),
        },
    }
}

/// The present is not older than what was asked for, unless that is in the future.
pub(crate) fn not_older(asked: &str, current: Revision) -> Result<(), Status> {
    match revision(asked)? {
        Some(asked) if asked > current => Err(status::timeout_too_large_rv(asked.0, current.0)),
        _ => Ok(()),
    }
}

/// Which objects of the call's resource are meant.
#[derive(Clone)]
pub(crate) struct Selection {
    pub(crate) kind: Arc<Kind>,
    pub(crate) collection: Collection,
    /// `namespace/` or empty.
    prefix: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub(crate) fn parse(call: &Call, options: &ListOptions) -> Result<Self, Status> {
        let labels = LabelSelector::parse(&options.label_selector)
            .map_err(|error| status::bad_request(format!("unable to parse requirement: {error}")))?;
        let fields = FieldSelector::parse(&options.field_selector, &call.kind)?;
        let namespace = match call.namespace() {
            "" if call.kind.namespaced() => fields.exact("metadata.namespace").unwrap_or_default(),
            namespace => namespace,
        };
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        Ok(Self { kind: call.kind.clone(), collection: call.collection(), prefix, labels, fields })
    }

    /// The one object that the path names, while the selectors hold for it (endpoints/handlers/get.go, ListResource).
    pub(crate) fn single(call: &Call, options: &ListOptions) -> Result<Self, Status> {
        let name = call.path.name.as_str();
        let fields = FieldSelector::parse(&options.field_selector, &call.kind)?;
        if fields.is_empty() {
            return Self::parse(call, &ListOptions { field_selector: format!("metadata.name={name}"), ..options.clone() });
        }
        if fields.exact("metadata.name") != Some(name) {
            return Err(status::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        Self::parse(call, options)
    }

    /// Whether what lies in the store must be converted before it is known whether it matches.
    fn looks_inside(&self) -> bool {
        let by_key = |path: &str| matches!(path, "metadata.name" | "metadata.namespace");
        self.kind.custom.as_ref().is_some_and(|custom| custom.conversion.is_some())
            && !(self.labels.is_empty() && self.fields.paths().all(by_key))
    }

    /// What matches in the order of names, in the version of the kind where that is needed to tell.
    pub(crate) async fn matching(&self, core: &Core, snapshot: &Snapshot, after: Option<&str>) -> Result<Vec<Arc<Entry>>, Status> {
        if !self.looks_inside() {
            return Ok(self.select(snapshot, after).cloned().collect());
        }
        let mut entries = core.conversions.entries(&self.kind, self.range(snapshot, after).cloned().collect()).await?;
        entries.retain(|entry| self.selectors_match(entry));
        Ok(entries)
    }

    /// Whether one object matches, in whatever version it is stored.
    pub(crate) async fn holds(&self, core: &Core, entry: Arc<Entry>) -> Result<bool, Status> {
        let entry = if self.looks_inside() { core.conversions.entries(&self.kind, vec![entry]).await?.pop() } else { Some(entry) };
        Ok(entry.is_some_and(|entry| self.matches(&entry)))
    }

    fn selects_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The store name of the only object that can match.
    fn only(&self) -> Option<String> {
        let name = self.fields.exact("metadata.name")?;
        (!self.kind.namespaced() || !self.prefix.is_empty()).then(|| format!("{}{name}", self.prefix))
    }

    /// What matches, in the order of names.
    pub(crate) fn select<'a>(&'a self, snapshot: &'a Snapshot, after: Option<&'a str>) -> impl Iterator<Item = &'a Arc<Entry>> + Send + 'a {
        self.range(snapshot, after).filter(|entry| self.selectors_match(entry))
    }

    /// A superset of what matches, all of it in the namespace.
    fn range<'a>(&'a self, snapshot: &'a Snapshot, after: Option<&'a str>) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + Send + 'a> {
        match self.only() {
            Some(only) => {
                let key = knarr_store::Key::new(&self.collection, "", &only);
                Box::new(snapshot.get(&key).into_iter().filter(move |entry| after.is_none_or(|after| &*entry.key.name > after)))
            }
            None => Box::new(snapshot.range(&self.collection, &self.prefix, after)),
        }
    }

    /// Whether objects of this key can match at all.
    pub(crate) fn may_match(&self, key: &Key) -> bool {
        key.name.starts_with(&self.prefix) && self.only().is_none_or(|only| *only == *key.name)
    }

    /// Whether the object is in the namespace and the selectors match.
    pub(crate) fn matches(&self, entry: &Entry) -> bool {
        entry.key.name.starts_with(&self.prefix) && self.selectors_match(entry)
    }

    fn selectors_match(&self, entry: &Entry) -> bool {
        if self.selects_all() {
            return true;
        }
        let (namespace, name) = entry.key.name.rsplit_once('/').unwrap_or(("", &entry.key.name));
        let own;
        let meta = if self.kind.shows_stored(entry.revision.0) {
            entry.meta(|bytes| read_meta(&self.kind, bytes))
        } else {
            // What the entry keeps are the fields of the kind that it is stored as, or was.
            own = read_meta(&self.kind, &entry.value);
            &own
        };
        let find = |pairs: &'_ [(Box<str>, Box<str>)], key: &str| -> Option<usize> { pairs.iter().position(|(have, _)| **have == *key) };
        self.labels.matches(|key| find(&meta.labels, key).map(|at| &*meta.labels[at].1))
            && self.fields.matches(|path| match path {
                "metadata.name" => Some(name),
                "metadata.namespace" => Some(namespace),
                path => find(&meta.fields, path).map(|at| &*meta.fields[at].1),
            })
    }
}

/// For entries that were read from disk. One that cannot be read matches no selector but the empty one.
pub(crate) fn read_meta(kind: &Kind, bytes: &[u8]) -> Meta {
    let object = serde_json::from_slice::<Value>(bytes).ok().and_then(knarr_api::Object::from_value);
    let Some(mut object) = object else {
        tracing::error!(kind = %kind.kind, "a stored object is not JSON");
        return Meta::default();
    };
    kind.from_storage(&mut object);
    write::meta_of(kind, &object)
}

pub(crate) async fn list(call: &Call, options: &ListOptions) -> Result<Response<Body>, Status> {
    let asked = match Asked::new(call, options) {
        Ok(asked) => asked,
        Err(refusal) => return refusal.answer(call),
    };
    if asked.limit.is_none() && asked.token.is_none() && asked.selection.selects_all() {
        let meta = ListMeta { revision: asked.snapshot.revision, ..ListMeta::default() };
        let all = asked.snapshot.walk(&asked.selection.collection, &asked.selection.prefix);
        if let Some(response) = render::verbatim(call, &meta, all) {
            return Ok(response);
        }
    }
    let (entries, meta) = asked.page(&call.core).await?;
    answer(call, &meta, entries).await
}

/// What a client wants to see, and of which state.
pub(crate) struct Asked {
    selection: Selection,
    token: Option<Token>,
    snapshot: Snapshot,
    limit: Option<usize>,
}

impl Asked {
    pub(crate) fn new(call: &Call, options: &ListOptions) -> Result<Self, Refusal> {
        let selection = Selection::parse(call, options)?;
        let token = match options.continues.as_str() {
            "" => None,
            text => Some(Token::decode(text)?),
        };
        let snapshot = snapshot(call, options, token.as_ref())?;
        // Any state will do for resourceVersion=0; upstream then gives all of its cache and knows no limit.
        let limit = options.limit.filter(|_| options.resource_version != "0" || token.is_some());
        Ok(Self { selection, token, snapshot, limit })
    }

    pub(crate) async fn page(self, core: &Core) -> Result<(Vec<Arc<Entry>>, ListMeta), Status> {
        let Self { selection, token, snapshot, limit } = self;
        let after = token.as_ref().map(Token::last);
        if selection.looks_inside() {
            let matching = selection.matching(core, &snapshot, after).await?;
            return Ok(page(&selection, &snapshot, matching.iter(), limit));
        }
        Ok(page(&selection, &snapshot, selection.select(&snapshot, after), limit))
    }
}

/// One page of what matches, and what is left after it.
fn page<'a>(
    selection: &Selection,
    snapshot: &Snapshot,
    mut matching: impl Iterator<Item = &'a Arc<Entry>>,
    limit: Option<usize>,
) -> (Vec<Arc<Entry>>, ListMeta) {
    let mut meta = ListMeta { revision: snapshot.revision, ..ListMeta::default() };
    let Some(limit) = limit else {
        return (matching.cloned().collect(), meta);
    };
    let entries: Vec<_> = matching.by_ref().take(limit).cloned().collect();
    if let (Some(last), Some(_)) = (entries.last(), matching.next()) {
        meta.continues = Token::new(Some(snapshot.revision), &last.key.name).encode();
        // Upstream counts only where that is free of filtering.
        meta.remaining = selection.selects_all().then(|| matching.count() + 1);
    }
    (entries, meta)
}

pub(crate) enum Refusal {
    /// The revision is no longer kept; the token that asked for it.
    Expired(Option<Token>),
    Refused(Status),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl Refusal {
    pub(crate) fn answer(self, call: &Call) -> Result<Response<Body>, Status> {
        match self {
            Self::Expired(token) => expired(call, token.as_ref()),
            Self::Refused(status) => Err(status),
        }
    }
}

fn snapshot(call: &Call, options: &ListOptions, token: Option<&Token>) -> Result<Snapshot, Refusal> {
    let store = &call.core.store;
    let exact = match token {
        Some(token) => token.revision(),
        None => match (options.version_match, options.limit, revision(&options.resource_version)?) {
            (Some(VersionMatch::Exact), _, exact) => exact,
            // The legacy rule: with a limit and without a match, a revision other than 0 is exact (API concepts, "resourceVersion semantics").
            (None, Some(_), Some(exact)) if exact.0 != 0 => Some(exact),
            _ => None,
        },
    };
    let Some(exact) = exact else {
        let snapshot = store.snapshot();
        if token.is_none() {
            not_older(&options.resource_version, snapshot.revision)?;
        }
        return Ok(snapshot);
    };
    store.snapshot_at(&call.collection(), exact).map_err(|error| match error {
        HistoryError::Compacted { .. } => Refusal::Expired(token.cloned()),
        HistoryError::Future { current } => Refusal::Refused(status::timeout_too_large_rv(exact.0, current.0)),
        HistoryError::Closed => Refusal::Refused(status::service_unavailable("the server is stopping", 1)),
    })
}

const EXPIRED_LIST: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token \
results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show \
up in the list.";

/// 410, with a token to go on in the present where there was one for the past.
fn expired(call: &Call, token: Option<&Token>) -> Result<Response<Body>, Status> {
    let Some(token) = token else {
        return Err(status::gone_expired("The resourceVersion for the provided list is too old."));
    };
    let mut value = status::gone_expired(EXPIRED_LIST).to_json();
    value["metadata"] = serde_json::json!({"continue": Token::new(None, token.last()).encode()});
    Ok(render::value_body(StatusCode::GONE, call.answer, &value))
}

/// A list answer.
pub(crate) async fn answer(call: &Call, meta: &ListMeta, entries: Vec<Arc<Entry>>) -> Result<Response<Body>, Status> {
    render::list(call, meta, call.core.conversions.entries(&call.kind, entries).await?)
}
