//! POST: a new object, under the name that it brings or one that is made for it.

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use jiff::Timestamp;
use knarr_api::{Object, Status, status};
use parking_lot::Mutex;

use super::write::{self, Admitted, Change, Live, Outcome, Track, Written};
use crate::{
    admission::Operation,
    body::{self, Body},
    call::{Act, Call, Phase},
    parts,
    render::{self, Shown},
    request::options::WriteOptions,
};

/// Names tried for one generateName. Upstream tries as many (registry/generic/registry/store.go, maxNameGenerationCreateAttempts).
const NAMES_MAX: usize = 8;
/// Letters of a generated suffix: upstream's, which spell no words and are not confused with each other (util/rand).
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_BYTES: usize = 5;
/// A generated name fits into a label value.
const GENERATED_BYTES_MAX: usize = 63;

pub(crate) async fn create(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&call.query)?;
    let mut object = write::read_object(call, body, &call.kind, &options).await?;
    write::fit_namespace(call, &mut object)?;
    if !object.resource_version().is_empty() {
        return Err(status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if (&*call.kind.group, &*call.kind.resource) == ("", "bindings") {
        return parts::bind::create(call, &object, &options).await;
    }
    if call.kind.virtual_ {
        return render::one(call, StatusCode::CREATED, Shown::Made(review(call, object, &options).await?));
    }
    match create_object(call, object, &options).await? {
        Written::Created(shown) | Written::Updated(shown) | Written::Deleted(shown) => render::one(call, StatusCode::CREATED, shown),
    }
}

/// Answers a question. Who may ask it is admitted like any object; only nothing is stored.
async fn review(call: &Call, mut object: Object, options: &WriteOptions) -> Result<Object, Status> {
    let shown = || options.to_value("CreateOptions");
    let name = object.name().to_owned();
    let act = Act { operation: Operation::Create, subresource: "", name: &name, dry_run: options.dry_run, options: &shown };
    call.admit(&act, Phase::Mutate, &mut object, None).await?;
    call.admit(&act, Phase::Validate, &mut object, None).await?;
    call.core.reviews.create(&call.user, &call.kind, call.namespace(), object).await
}

/// Creates `object`, named or to be named.
async fn create_object(call: &Call, object: Object, options: &WriteOptions) -> Result<Written, Status> {
    let manager = call.manager(&options.field_manager);
    let generate = object.name().is_empty() && !object.generate_name().is_empty();
    let mut last = String::new();
    for _ in 0..if generate { NAMES_MAX } else { 1 } {
        let mut object = object.clone();
        if generate {
            last = generated_name(object.generate_name());
            object.set(&["metadata", "name"], last.as_str().into());
        }
        let track = Track::Update { manager: &manager };
        let admitted = Admitted { call, subresource: "", options, track, now: Timestamp::now() };
        let object = admitted.create(object).await?;
        let key = call.key_of(object.name());
        match write::write(call, &key, options.dry_run, &Create { call, object: Mutex::new(object) }).await {
            Err(status) if generate && status.reason == "AlreadyExists" => {}
            result => return result,
        }
    }
    Err(status::generate_name_conflict(&call.kind.group, &call.kind.resource, &last, 1))
}

struct Create<'a> {
    call: &'a Call,
    /// Taken by the only attempt.
    object: Mutex<Object>,
}

impl Create<'_> {
    async fn next(&self, live: Option<&Live>) -> Result<Outcome, Status> {
        match live {
            None => Ok(Outcome::Put(std::mem::take(&mut *self.object.lock()))),
            Some(live) => {
                let mut status = status::already_exists(&self.call.kind.group, &self.call.kind.resource, live.object.name());
                if !live.object.deletion_timestamp().is_empty() {
                    status.message = format!("object is being deleted: {}", status.message);
                }
                Err(status)
            }
        }
    }
}

impl Change for Create<'_> {
    fn apply<'a>(&'a self, live: Option<&'a Live>) -> BoxFuture<'a, Result<Outcome, Status>> {
        Box::pin(self.next(live))
    }

    fn retries(&self) -> bool {
        false
    }
}

fn generated_name(base: &str) -> String {
    let base = &base[..base.floor_char_boundary(GENERATED_BYTES_MAX - SUFFIX_BYTES)];
    let letters = (0..SUFFIX_BYTES).map(|_| char::from(SUFFIX_LETTERS[fastrand::usize(..SUFFIX_LETTERS.len())]));
    base.chars().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generated_name("web-").len(), 9);
        assert_eq!(generated_name(&"x".repeat(100)).len(), GENERATED_BYTES_MAX);
        assert_ne!(generated_name("web-"), generated_name("web-"));
    }
}
