//! What all writes share: reading the body, computing the new state from the live one, committing it against exactly that state.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, header};
use jiff::Timestamp;
use knarr_api::{Kind, Object, Status, decode, ssa, ssa::Unmade, status};
use knarr_store::{CommitError, Entry, Expect, Key, Meta, Write};
use serde_json::{Map, Value};

use crate::{
    admission::Operation,
    allocate::Allocator,
    authz::Attributes,
    body::{self, ReadError},
    call::{Act, Call, Phase, decode as decode_entry},
    parts::scale,
    quota::Charge,
    render::Shown,
    request::{
        media::{self, BodyFormat},
        options::{Validation, WriteOptions},
    },
    server::Core,
    shut,
};

/// How often a write that came without a resourceVersion is computed anew because another came first. Each failed attempt means that someone
/// else's succeeded; upstream retries without end within the request's time.
const ATTEMPTS_MAX: usize = 100;

/// The live object that a change starts from.
#[derive(Clone)]
pub(crate) struct Live {
    /// In the version of the call where a webhook converts, as stored otherwise.
    pub(crate) entry: Arc<Entry>,
    /// In the version of the call.
    pub(crate) object: Object,
    /// As it is stored.
    stored: Arc<Entry>,
}

impl Live {
    async fn read(call: &Call, stored: Arc<Entry>) -> Result<Self, Status> {
        let entry = call.core.conversions.entry(&call.kind, stored.clone()).await?;
        let object = decode_entry(&call.kind, &entry)?;
        Ok(Self { entry, object, stored })
    }

    /// Whether it is stored in a version that is the storage version no more. Built-in kinds have one version each.
    fn is_outdated(&self, kind: &Kind) -> bool {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Type<'a> {
            #[serde(borrow)]
            api_version: std::borrow::Cow<'a, str>,
        }
        kind.custom.as_ref().is_some_and(|custom| {
            serde_json::from_slice::<Type<'_>>(&self.stored.value)
                .is_ok_and(|stored| stored.api_version.split_once('/').is_none_or(|(_, version)| version != custom.storage_version))
        })
    }
}

/// What shall become of the live object.
#[derive(Clone)]
pub(crate) enum Outcome {
    Put(Object),
    /// Nothing changes, and nothing is written.
    Same,
    /// It goes; the state is what the last event and the answer show.
    Delete,
}

/// What became of it.
pub(crate) enum Written {
    Created(Shown),
    Updated(Shown),
    Deleted(Shown),
}

impl Written {
    /// In the version of the call.
    async fn converted(self, call: &Call) -> Result<Self, Status> {
        let convert = |entry| call.core.conversions.entry(&call.kind, entry);
        Ok(match self {
            Self::Created(Shown::Stored(entry)) => Self::Created(Shown::Stored(convert(entry).await?)),
            Self::Updated(Shown::Stored(entry)) => Self::Updated(Shown::Stored(convert(entry).await?)),
            other => other,
        })
    }
}

/// A step from a live object, or from none, to the next state.
pub(crate) trait Change: Send + Sync {
    fn apply<'a>(&'a self, live: Option<&'a Live>) -> BoxFuture<'a, Result<Outcome, Status>>;

    /// Whether to start again from the newer state when another write came first. Not when the client said which state it means.
    fn retries(&self) -> bool;
}

/// Computes `change` and commits it. With `dry_run` nothing is committed, and the answer is what would have been.
pub(crate) async fn write(call: &Call, key: &Key, dry_run: bool, change: &dyn Change) -> Result<Written, Status> {
    for _ in 0..ATTEMPTS_MAX {
        let entry = call.core.store.snapshot().get(key).cloned();
        let live = match entry {
            Some(entry) => Some(Live::read(call, entry).await?),
            None => None,
        };
        let outcome = change.apply(live.as_ref()).await?;
        let subresource = call.path.subresource.clone();
        let step = Step { core: call.core.clone(), kind: call.kind.clone(), subresource, key: key.clone(), live, dry_run };
        let existed = step.live.is_some();
        // On its own, so that a client who leaves cannot part the commit from what was held for it.
        let taken =
            tokio::spawn(step.take(outcome)).await.map_err(|error| status::internal(format!("the write was broken off: {error}")))?;
        match taken? {
            Taken::Done(written) => return written.converted(call).await,
            Taken::Raced { .. } if change.retries() => {}
            Taken::Raced { gone: false } if !existed => {
                return Err(status::already_exists(&call.kind.group, &call.kind.resource, name_of(key)));
            }
            Taken::Raced { gone: true } => return Err(call.not_found(name_of(key))),
            Taken::Raced { gone: false } => break,
        }
    }
    Err(call.conflict(name_of(key), status::MODIFIED))
}

/// One attempt to go on from a live object.
struct Step {
    core: Arc<Core>,
    kind: Arc<Kind>,
    subresource: String,
    key: Key,
    live: Option<Live>,
    dry_run: bool,
}

enum Taken {
    Done(Written),
    /// Another write came first; it may have deleted the object.
    Raced {
        gone: bool,
    },
}

impl Step {
    async fn take(self, outcome: Outcome) -> Result<Taken, Status> {
        let mut next = Some(outcome);
        let again = if Allocator::writes_beside(&self.kind) { next.clone() } else { None };
        for _ in 0..ATTEMPTS_MAX {
            let Some(outcome) = next.take() else { break };
            if let Some(taken) = self.attempt(outcome).await? {
                return Ok(taken);
            }
            next.clone_from(&again);
        }
        let why = "the addresses of the cluster change too fast; please apply your changes again";
        Err(status::conflict(&self.kind.group, &self.kind.resource, name_of(&self.key), why))
    }

    /// None where the object is as it was, but somebody else wrote what would have been written beside it.
    async fn attempt(&self, outcome: Outcome) -> Result<Option<Taken>, Status> {
        let old = self.live.as_ref().map(|live| &live.object);
        let expect = self.live.as_ref().map_or(Expect::Absent, |live| Expect::Revision(live.entry.revision));
        let key = self.key.clone();
        // Cluster addresses and ports for what is about to be committed. Dropped without `keep`, they are free again.
        let allocator = &self.core.allocator;
        let mut charge = None;
        let (write, mut hold) = match (outcome, &self.live) {
            (Outcome::Same, Some(live)) => return Ok(Some(Taken::Done(Written::Updated(Shown::Stored(live.entry.clone()))))),
            (Outcome::Same | Outcome::Delete, None) => return Ok(Some(Taken::Raced { gone: true })),
            (Outcome::Delete, Some(live)) if self.dry_run => {
                return Ok(Some(Taken::Done(Written::Deleted(Shown::Stored(live.entry.clone())))));
            }
            (Outcome::Delete, Some(live)) => (Write::Delete { key, expect }, allocator.hold(&self.kind, None, old, Some(&live.entry))?),
            (Outcome::Put(mut object), _) => {
                let hold = allocator.hold(&self.kind, Some(&mut object), old, None)?;
                charge = Charge::of(&self.core.store.snapshot(), &self.kind, &self.subresource, &object, old);
                if self.dry_run {
                    charge.map_or(Ok(()), |charge| charge.check(&self.core.store.snapshot()))?;
                    return Ok(Some(Taken::Done(self.would_be(object))));
                }
                let converted = object.api_version().to_owned();
                let mut object = self.core.conversions.to_storage(&self.kind, object).await?;
                if object.api_version() != converted {
                    // What the webhook made of it is shown as it is stored.
                    self.storage_kind()?.from_storage(&mut object);
                }
                (put(&self.kind, key, object, expect), hold)
            }
        };
        // A definition that changed meanwhile may store its objects in another version now.
        let storage_version = |kind: &Kind| kind.custom.as_ref().map(|custom| custom.storage_version.clone());
        if self.kind.custom.is_some() && storage_version(&*self.storage_kind()?) != storage_version(&self.kind) {
            return Err(self.redefined());
        }
        let deletes = matches!(write, Write::Delete { .. });
        let mut writes = vec![write];
        writes.extend(hold.beside());
        let committed = match charge {
            Some(charge) => charge.commit(&*self.core.store, &self.core.quota_turns, writes).await?,
            None => self.core.store.commit(writes).await,
        };
        let committed = match committed {
            Ok(committed) => committed,
            Err(CommitError::Conflict { key, .. }) if key != self.key => return Ok(None),
            Err(CommitError::Conflict { current, .. }) => return Ok(Some(Taken::Raced { gone: current.is_none() })),
            Err(error) => return Err(commit_failed(error)),
        };
        hold.keep();
        let entry = committed.into_iter().next().ok_or_else(|| status::internal("the store committed nothing"))?;
        let shown = Shown::Stored(entry);
        Ok(Some(Taken::Done(match (deletes, &self.live) {
            (true, _) => Written::Deleted(shown),
            (false, Some(_)) => Written::Updated(shown),
            (false, None) => Written::Created(shown),
        })))
    }

    /// The kind in the version in which its objects are stored.
    fn storage_kind(&self) -> Result<Arc<Kind>, Status> {
        let version = self.kind.custom.as_ref().map_or(&*self.kind.version, |custom| &custom.storage_version);
        let kind = self.core.published().kinds.resource(&self.kind.group, version, &self.kind.resource);
        kind.ok_or_else(|| self.redefined())
    }

    fn redefined(&self) -> Status {
        let why = "the definition of the resource has changed; please apply your changes again";
        status::conflict(&self.kind.group, &self.kind.resource, name_of(&self.key), why)
    }

    /// What a dry run answers: no version but the one that was there.
    fn would_be(&self, mut object: Object) -> Written {
        match &self.live {
            Some(live) => {
                object.set(&["metadata", "resourceVersion"], live.entry.revision.to_string().into());
                Written::Updated(Shown::Made(object))
            }
            None => {
                object.remove(&["metadata", "resourceVersion"]);
                Written::Created(Shown::Made(object))
            }
        }
    }
}

/// The object's own name, out of its store key.
pub(crate) fn name_of(key: &Key) -> &str {
    key.name.rsplit('/').next().unwrap_or_default()
}

/// The write that stores `object`, in its storage form, with what lists select by.
pub(crate) fn put(kind: &Kind, key: Key, mut object: Object, expect: Expect) -> Write {
    // Kinds that share a collection differ in their selectable fields; the kind whose collection it is computes them when they are wanted.
    let meta = (!kind.converts()).then(|| meta_of(kind, &object));
    kind.to_storage(&mut object);
    let encoded = object.encode();
    Write::Put { key, value: encoded.bytes.into(), stamp: encoded.stamp, meta, expect, lazy: kind.heartbeat }
}

/// What lists and watches select by.
pub(crate) fn meta_of(kind: &Kind, object: &Object) -> Meta {
    let pair = |(key, value): (&str, &str)| (key.into(), value.into());
    let fields = kind.selectable.iter().map(|field| (field.path.as_ref().into(), field.value(object).into_boxed_str()));
    let owners = object.owner_references().filter_map(|owner| owner.get("uid")?.as_str()).map(Into::into);
    Meta { labels: object.labels().map(pair).collect(), fields: fields.collect(), owners: owners.collect() }
}

pub(crate) fn commit_failed(error: CommitError) -> Status {
    match error {
        CommitError::TooLarge { .. } => Status { code: 413, reason: "RequestEntityTooLarge", ..status::internal(error.to_string()) },
        CommitError::Full { .. } => Status { code: 507, reason: "InternalError", ..status::internal(error.to_string()) },
        CommitError::Closed => status::service_unavailable("the server is stopping", 1),
        CommitError::Shut(shut) => shut::still_shut(&shut),
        CommitError::Seal { ref source, .. } => status::internal(format!("{error}: {source}")),
        CommitError::Conflict { .. } | CommitError::Engine(_) => {
            tracing::error!(error = &error as &dyn std::error::Error, "commit");
            status::internal(error.to_string())
        }
    }
}

/// The whole body, and its format by Content-Type.
pub(crate) async fn read_body(call: &Call, body: body::Incoming) -> Result<(Bytes, BodyFormat), Status> {
    let format = BodyFormat::of(call.header(header::CONTENT_TYPE)).ok_or_else(|| status::unsupported_media_type(&media::SUPPORTED))?;
    Ok((read_bytes(call, body).await?, format))
}

pub(crate) async fn read_bytes(call: &Call, body: body::Incoming) -> Result<Bytes, Status> {
    let bytes = body::read(body).await.map_err(|error| match error {
        ReadError::TooLarge => status::request_entity_too_large(body::REQUEST_BYTES_MAX),
        ReadError::Broken(error) => status::bad_request(format!("read the request's body: {error}")),
    })?;
    if let Some(trail) = &call.trail {
        trail.brought(&bytes);
    }
    Ok(bytes)
}

impl From<Validation> for decode::FieldValidation {
    fn from(validation: Validation) -> Self {
        match validation {
            Validation::Ignore => Self::Ignore,
            Validation::Warn => Self::Warn,
            Validation::Strict => Self::Strict,
        }
    }
}

/// The object in a body. Its unknown fields become warnings, or are refused.
pub(crate) async fn read_object(call: &Call, body: body::Incoming, kind: &Kind, options: &WriteOptions) -> Result<Object, Status> {
    let (bytes, format) = read_body(call, body).await?;
    let decoded = match format {
        BodyFormat::Json => decode::json(&bytes, kind, options.validation.into())?,
        BodyFormat::Yaml => decode::yaml(&bytes, kind, options.validation.into())?,
        // Kinds made at run time have no protobuf; their clients are told to send JSON.
        BodyFormat::Protobuf if kind.message.is_none() => return Err(status::unsupported_media_type(&media::SUPPORTED[..2])),
        BodyFormat::Protobuf => decode::protobuf(&bytes, kind, options.validation.into())?,
    };
    call.warnings.add(decoded.warnings);
    if let Some(trail) = &call.trail {
        trail.about(&decoded.object);
    }
    Ok(decoded.object)
}

/// The namespace of a body must be that of the path, or none; then it is set.
pub(crate) fn fit_namespace(call: &Call, object: &mut Object) -> Result<(), Status> {
    let namespace = call.namespace();
    match (object.namespace(), namespace) {
        (given, wanted) if given == wanted => Ok(()),
        ("", wanted) => {
            object.set(&["metadata", "namespace"], wanted.into());
            Ok(())
        }
        (_, "") => {
            // Upstream drops the namespace of a cluster-scoped object without a word.
            object.remove(&["metadata", "namespace"]);
            Ok(())
        }
        (given, wanted) => Err(status::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({given} and {wanted})"
        ))),
    }
}

/// Metadata that the server alone writes, for a new object.
pub(crate) fn fill_new_metadata(object: &mut Object, now: Timestamp) {
    for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        object.remove(&["metadata", field]);
    }
    object.set(&["metadata", "uid"], uuid::Uuid::new_v4().to_string().into());
    object.set(&["metadata", "creationTimestamp"], knarr_api::time::format(now).into());
}

/// Metadata that the server alone writes, carried over from the live object.
fn keep_metadata(new: &mut Object, live: &Object) {
    new.remove(&["metadata", "selfLink"]);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion"] {
        match live.get(&["metadata", field]) {
            Some(value) => new.set(&["metadata", field], value.clone()),
            None => {
                new.remove(&["metadata", field]);
            }
        }
    }
    // A client may leave these out, but not change them; validation sees to that.
    for field in ["uid", "creationTimestamp", "namespace", "name"] {
        if let (None | Some(Value::Null), Some(value)) = (new.get(&["metadata", field]), live.get(&["metadata", field])) {
            new.set(&["metadata", field], value.clone());
        }
    }
}

/// A step of field ownership, begun again whenever it wants an object in another version. Each of them is wanted once.
pub(crate) async fn owned<T>(call: &Call, mut step: impl FnMut(&ssa::Versions<'_>) -> Result<T, Unmade>) -> Result<T, Status> {
    let served = |group: &str, version: &str| call.core.published().kinds.resource(group, version, &call.kind.resource);
    let mut versions = ssa::Versions::of(&call.kind, &served);
    loop {
        let wanted = match step(&versions) {
            Err(Unmade::Wanted(wanted)) => *wanted,
            Err(Unmade::Refused(status)) => return Err(status),
            Ok(done) => return Ok(done),
        };
        let converted = call.core.conversions.to_version(&call.kind, &wanted.version, wanted.object.clone()).await;
        if let Err(status) = &converted {
            // Most writes go on without it.
            tracing::warn!(kind = %call.kind.kind, name = call.path.name, error = status.message, "who owns which fields is not known in every version");
        }
        versions.learn(wanted, converted);
    }
}

/// How ownership of fields is recorded.
#[derive(Clone, Copy)]
pub(crate) enum Track<'a> {
    /// Whatever this manager changed is his.
    Update { manager: &'a str },
    /// It has been done: by server-side apply, or on a Scale.
    Done,
}

/// One admitted write of an object or of one of its parts.
pub(crate) struct Admitted<'a> {
    pub(crate) call: &'a Call,
    /// The part that is written; empty for the object itself.
    pub(crate) subresource: &'a str,
    pub(crate) options: &'a WriteOptions,
    pub(crate) track: Track<'a>,
    pub(crate) now: Timestamp,
}

impl Admitted<'_> {
    /// A new object, ready to be stored.
    pub(crate) async fn create(&self, mut object: Object) -> Result<Object, Status> {
        let call = self.call;
        let kind = &call.kind;
        if kind.custom.as_ref().is_some_and(|custom| custom.terminating) {
            let message = "create not allowed while custom resource definition is terminating";
            return Err(Status::new(405, "MethodNotAllowed", message));
        }
        if matches!(call.method, Method::PUT | Method::PATCH) {
            // The right to change what is there is not the right to make it.
            let create = Attributes {
                version: &call.path.version,
                name: &call.path.name,
                namespace: &call.path.namespace,
                ..Attributes::resource(&call.user, "create", &call.path.group, &call.path.resource)
            };
            call.core.authorizer.permit(&create).await?;
        }
        fill_new_metadata(&mut object, self.now);
        // A name in the path is the key under which the object is stored; of a POST admission may choose.
        let named = if call.path.name.is_empty() { None } else { Some("name") };
        let fields = ["uid", "creationTimestamp", "namespace"].into_iter().chain(named);
        let given: Vec<_> = fields.map(|field| (field, object.get(&["metadata", field]).cloned())).collect();
        kind.default(&mut object);
        self.track(None, &mut object).await?;
        kind.prepare_create(&mut object);
        let name = object.name().to_owned();
        let shown = || self.options.to_value("CreateOptions");
        let act = self.act(Operation::Create, &name, &shown);
        if call.admit(&act, Phase::Mutate, &mut object, None).await? {
            // What only the server gives is not a webhook's to change.
            let none = ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"].map(|field| (field, None));
            for (field, value) in given.into_iter().chain(none) {
                match value {
                    Some(value) => object.set(&["metadata", field], value),
                    None => drop(object.remove(&["metadata", field])),
                }
            }
            kind.prepare_create(&mut object);
        }
        kind.default(&mut object);
        self.check(&object, kind.validate(&object))?;
        call.admit(&act, Phase::Validate, &mut object, None).await?;
        call.warnings.add(kind.warn(&object, None));
        Ok(object)
    }

    /// The next state of a live object, or that nothing changes, or that it was the last finalizer of a deleted object.
    pub(crate) async fn update(&self, live: &Live, mut new: Object) -> Result<Outcome, Status> {
        let call = self.call;
        let kind = &call.kind;
        let old = &live.object;
        if !new.uid().is_empty() && new.uid() != old.uid() {
            let why = format!("Precondition failed: UID in precondition: {}, UID in object meta: {}", new.uid(), old.uid());
            return Err(call.conflict(old.name(), &why));
        }
        keep_metadata(&mut new, old);
        new.set_type(&kind.api_version(), &kind.kind);
        kind.default(&mut new);
        // What the object's own preparation puts back, a Service's node ports for example, was given up nonetheless, as upstream. Of a part only what
        // belongs to it is written at all, which is for preparation to say.
        if self.subresource.is_empty() {
            self.track(Some(old), &mut new).await?;
            kind.prepare_update(&mut new, old, self.subresource);
        } else {
            kind.prepare_update(&mut new, old, self.subresource);
            self.track(Some(old), &mut new).await?;
        }
        if self.admit_update(Phase::Mutate, &mut new, old).await? {
            keep_metadata(&mut new, old);
            kind.prepare_update(&mut new, old, self.subresource);
        }
        kind.default(&mut new);
        self.check(&new, kind.validate_update(&new, old, self.subresource))?;
        self.admit_update(Phase::Validate, &mut new, old).await?;
        if self.subresource.is_empty() {
            call.warnings.add(kind.warn(&new, Some(old)));
        }
        if super::delete::is_finished(kind, &new, old) {
            return Ok(Outcome::Delete);
        }
        match same_but_for_times(&new, old) {
            // What is stored as it would not be today is written again as it is: so objects are migrated to another storage version.
            true if live.is_outdated(kind) => Ok(Outcome::Put(old.clone())),
            true => Ok(Outcome::Same),
            false => Ok(Outcome::Put(new)),
        }
    }

    /// Records what the client's own wish changed. What the server and admission add afterwards nobody owns, as upstream
    /// (endpoints/handlers: managed fields are updated before anything else changes the object).
    async fn track(&self, old: Option<&Object>, new: &mut Object) -> Result<(), Status> {
        let Track::Update { manager } = self.track else { return Ok(()) };
        let operation = ssa::Operation::Update;
        owned(self.call, |versions| ssa::track_update(old, new, versions, manager, operation, self.subresource, self.now)).await
    }

    /// Asks about an update. Of a scale, admission sees the Scale and not the object.
    async fn admit_update(&self, phase: Phase, new: &mut Object, old: &Object) -> Result<bool, Status> {
        let call = self.call;
        let shown = || self.options.to_value("UpdateOptions");
        let act = self.act(Operation::Update, old.name(), &shown);
        if self.subresource != "scale" {
            return call.admit(&act, phase, new, Some(old)).await;
        }
        let (mut scale, before) = (scale::of(&call.kind, new)?, scale::of(&call.kind, old)?);
        let changed = call.admit(&act, phase, &mut scale, Some(&before)).await?;
        if changed {
            scale::scale_to(&call.kind, new, &scale)?;
        }
        Ok(changed)
    }

    fn act<'b>(&'b self, operation: Operation, name: &'b str, options: &'b (dyn Fn() -> Value + Sync)) -> Act<'b> {
        Act { operation, subresource: self.subresource, name, dry_run: self.options.dry_run, options }
    }

    fn check(&self, object: &Object, errors: knarr_api::FieldErrors) -> Result<(), Status> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(status::invalid(&self.call.kind.group, &self.call.kind.kind, object.name(), &errors))
    }
}

/// Whether a write would change nothing that anyone could care about: the times in managedFields alone are no reason to write.
fn same_but_for_times(new: &Object, old: &Object) -> bool {
    same_maps(&new.0, &old.0, |key, new, old| match (key, new, old) {
        ("metadata", Value::Object(new), Value::Object(old)) => same_maps(new, old, |key, new, old| match (key, new, old) {
            ("managedFields", Value::Array(new), Value::Array(old)) => {
                new.len() == old.len() && new.iter().zip(old).all(|(new, old)| same_entry(new, old))
            }
            _ => new == old,
        }),
        _ => new == old,
    })
}

/// Two entries of managedFields, of which each may have a time.
fn same_entry(new: &Value, old: &Value) -> bool {
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return new == old };
    let parts = |entry: &'_ Map<String, Value>| entry.len() - usize::from(entry.contains_key("time"));
    parts(new) == parts(old) && new.iter().all(|(key, value)| key == "time" || old.get(key) == Some(value))
}

fn same_maps(new: &Map<String, Value>, old: &Map<String, Value>, same: impl Fn(&str, &Value, &Value) -> bool) -> bool {
    new.len() == old.len() && new.iter().zip(old).all(|((key, new), (old_key, old))| key == old_key && same(key, new, old))
}

/// Preconditions of a write or deletion.
pub(crate) fn check_preconditions(call: &Call, live: &Object, uid: Option<&str>, resource_version: Option<&str>) -> Result<(), Status> {
    if let Some(uid) = uid.filter(|uid| *uid != live.uid()) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", live.uid());
        return Err(call.conflict(live.name(), &why));
    }
    if let Some(version) = resource_version.filter(|version| *version != live.resource_version()) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
            live.resource_version()
        );
        return Err(call.conflict(live.name(), &why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_of_managers_alone_are_no_change() {
        let object = |data: &str, manager: &str, time: Option<&str>| {
            let mut entry = json!({"manager": manager});
            if let Some(time) = time {
                entry["time"] = time.into();
            }
            Object::from_value(json!({"metadata": {"name": "a", "managedFields": [entry]}, "data": data})).unwrap()
        };
        let old = object("x", "m", Some("1"));
        for (new, same) in [
            (object("x", "m", Some("1")), true),
            (object("x", "m", Some("2")), true),
            (object("x", "m", None), true),
            (object("x", "n", Some("1")), false),
            (object("y", "m", Some("1")), false),
        ] {
            assert_eq!(same_but_for_times(&new, &old), same, "{new:?}");
            assert_eq!(same_but_for_times(&old, &new), same, "{new:?}");
        }
    }
}
