//! PUT: the whole object, or one of its parts, as the client wants it.

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use jiff::Timestamp;
use knarr_api::{FieldError, Object, Status, status};

use super::write::{self, Admitted, Change, Live, Outcome, Track, Written};
use crate::{
    body::{self, Body},
    call::Call,
    render,
    request::options::WriteOptions,
};

pub(crate) async fn update(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let options = WriteOptions::parse(&call.query)?;
    let mut object = write::read_object(call, body, &call.kind, &options).await?;
    write::fit_namespace(call, &mut object)?;
    fit_name(call, &mut object)?;
    let change = Update { call, options: &options, manager: call.manager(&options.field_manager), object };
    let written = write::write(call, &call.key(), options.dry_run, &change).await?;
    answer(call, written)
}

/// What a PUT or PATCH answers.
pub(crate) fn answer(call: &Call, written: Written) -> Result<Response<Body>, Status> {
    match written {
        Written::Created(shown) => render::one(call, StatusCode::CREATED, shown),
        // Deleted: the write took away the last finalizer, and the answer is the object as it was last.
        Written::Updated(shown) | Written::Deleted(shown) => render::one(call, StatusCode::OK, shown),
    }
}

/// The name in a body must be that of the path, or none.
pub(crate) fn fit_name(call: &Call, object: &mut Object) -> Result<(), Status> {
    match object.name() {
        "" => {
            object.set(&["metadata", "name"], call.path.name.as_str().into());
            Ok(())
        }
        name if name == call.path.name => Ok(()),
        name => {
            Err(status::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", call.path.name)))
        }
    }
}

struct Update<'a> {
    call: &'a Call,
    options: &'a WriteOptions,
    manager: String,
    object: Object,
}

impl Update<'_> {
    async fn next(&self, live: Option<&Live>) -> Result<Outcome, Status> {
        let kind = &self.call.kind;
        let admitted = Admitted {
            call: self.call,
            subresource: &self.call.path.subresource,
            options: self.options,
            track: Track::Update { manager: &self.manager },
            now: Timestamp::now(),
        };
        // A version of 0 is none.
        let given = Some(self.object.resource_version()).filter(|given| *given != "0").unwrap_or_default();
        let Some(live) = live else {
            if !kind.create_on_update || !self.call.path.subresource.is_empty() || !given.is_empty() {
                return Err(self.call.not_found(&self.call.path.name));
            }
            return Ok(Outcome::Put(admitted.create(self.object.clone()).await?));
        };
        if given.is_empty() && !kind.unconditional_update {
            let error = FieldError::invalid("metadata.resourceVersion", &0.into(), "must be specified for an update");
            return Err(status::invalid(&kind.group, &kind.kind, self.object.name(), &[error]));
        }
        if !given.is_empty() && given != live.object.resource_version() {
            return Err(self.call.conflict(self.object.name(), status::MODIFIED));
        }
        admitted.update(live, self.object.clone()).await
    }
}

impl Change for Update<'_> {
    fn apply<'a>(&'a self, live: Option<&'a Live>) -> BoxFuture<'a, Result<Outcome, Status>> {
        Box::pin(self.next(live))
    }

    fn retries(&self) -> bool {
        matches!(self.object.resource_version(), "" | "0")
    }
}
