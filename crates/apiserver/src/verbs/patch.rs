//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.
//!
//! A patch that names no resourceVersion applies to whatever is there: when another write comes first, it is computed anew from the newer state.

use futures::future::BoxFuture;
use http::{Response, header};
use jiff::Timestamp;
use knarr_api::{Kind, Object, Status, decode, decode::PatchBody, patch, ssa, status};

use super::{
    update,
    write::{self, Admitted, Change, Live, Outcome, Track},
};
use crate::{
    body::{self, Body},
    call::Call,
    request::{media::PatchType, options::WriteOptions},
};

pub(crate) async fn patch(call: &Call, body: body::Incoming) -> Result<Response<Body>, Status> {
    let kind = patch_type(call)?;
    let options = WriteOptions::parse(&call.query)?;
    check_options(kind, &options)?;
    let bytes = write::read_bytes(call, body).await?;
    let change = match kind {
        PatchType::Apply => Patch {
            call,
            options: &options,
            manager: options.field_manager.clone(),
            body: Patched::Apply(applied(call, &call.kind, &bytes, &options)?),
        },
        _ => Patch { call, options: &options, manager: call.manager(&options.field_manager), body: Patched::read(kind, &bytes)? },
    };
    let written = write::write(call, &call.key(), options.dry_run, &change).await?;
    update::answer(call, written)
}

/// How the call's resource or a part of it is patched.
pub(crate) fn patch_type(call: &Call) -> Result<PatchType, Status> {
    let kind = PatchType::from_content_type(call.header(header::CONTENT_TYPE));
    // Kinds made at run time have no merge keys.
    let known = kind.filter(|kind| *kind != PatchType::Strategic || call.kind.message.is_some());
    known.ok_or_else(|| status::unsupported_media_type(&PatchType::ALL.map(|(_, media)| media)))
}

/// An apply names its manager, and only an apply is forced.
pub(crate) fn check_options(kind: PatchType, options: &WriteOptions) -> Result<(), Status> {
    let fault = match kind {
        PatchType::Apply if options.field_manager.is_empty() => "fieldManager: Required value: is required for apply patch",
        PatchType::Apply => return Ok(()),
        _ if options.force.is_some() => "force: Forbidden: may not be specified for non-apply patch",
        _ => return Ok(()),
    };
    Err(Status::new(422, "Invalid", format!("PatchOptions.meta.k8s.io \"\" is invalid: {fault}")))
}

/// The body of an apply: an object of `kind`, the call's own or that of a part, with the fields that its manager wants.
pub(crate) fn applied(call: &Call, kind: &Kind, bytes: &[u8], options: &WriteOptions) -> Result<Object, Status> {
    let decoded = decode::yaml(bytes, kind, options.validation.into())?;
    call.warnings.add(decoded.warnings);
    let mut object = decoded.object;
    write::fit_namespace(call, &mut object)?;
    update::fit_name(call, &mut object)?;
    if object.get(&["metadata", "managedFields"]).is_some_and(|fields| fields.as_array().is_none_or(|fields| !fields.is_empty())) {
        return Err(status::bad_request("metadata.managedFields must be nil"));
    }
    Ok(object)
}

/// What an apply says of the object that it means must be true of the one that is there.
pub(crate) fn check_applied(call: &Call, live: &Object, applied: &Object) -> Result<(), Status> {
    let (uid, version) = (applied.uid(), applied.resource_version());
    if !version.is_empty() && version != live.resource_version() {
        return Err(call.conflict(live.name(), status::MODIFIED));
    }
    write::check_preconditions(call, live, Some(uid).filter(|uid| !uid.is_empty()), None)
}

enum Patched {
    Json(PatchBody),
    Merge(PatchBody),
    Strategic(PatchBody),
    Apply(Object),
}

impl Patched {
    fn read(kind: PatchType, bytes: &[u8]) -> Result<Self, Status> {
        Ok(match kind {
            PatchType::Merge | PatchType::Apply => Self::Merge(decode::patch_body(bytes)?),
            PatchType::Strategic => Self::Strategic(decode::patch_body(bytes)?),
            PatchType::Json => Self::Json(decode::json_patch_body(bytes)?),
        })
    }
}

struct Patch<'a> {
    call: &'a Call,
    options: &'a WriteOptions,
    manager: String,
    body: Patched,
}

impl Patch<'_> {
    fn admitted<'b>(&'b self, track: Track<'b>) -> Admitted<'b> {
        Admitted { call: self.call, subresource: &self.call.path.subresource, options: self.options, track, now: Timestamp::now() }
    }

    /// The live object with the patch applied; its unknown fields are gone or refused.
    fn patched(&self, live: &Object) -> Result<Object, Status> {
        let (patched, faults) = match &self.body {
            Patched::Json(body) => (patch::json_value(live, &body.value)?, &body.faults[..]),
            Patched::Merge(body) => (patch::merge(live, &body.value)?, &body.faults[..]),
            Patched::Strategic(body) => (patch::strategic(live, &body.value, &self.call.kind)?, &body.faults[..]),
            Patched::Apply(_) => (live.clone(), &[][..]),
        };
        let decoded = decode::patched(patched.into_value(), faults, &self.call.kind, self.options.validation.into())?;
        self.call.warnings.add(decoded.warnings);
        let mut object = decoded.object;
        write::fit_namespace(self.call, &mut object)?;
        update::fit_name(self.call, &mut object)?;
        Ok(object)
    }

    async fn apply_owned(&self, live: Option<&Live>, applied: &Object) -> Result<Outcome, Status> {
        let (call, subresource) = (self.call, self.call.path.subresource.as_str());
        if let Some(live) = live {
            check_applied(call, &live.object, applied)?;
        } else if !subresource.is_empty() {
            return Err(call.not_found(&call.path.name));
        } else if !applied.uid().is_empty() {
            let why = format!("uid mismatch: the provided object specified uid {}, and no existing object was found", applied.uid());
            return Err(call.conflict(&call.path.name, &why));
        }
        let force = self.options.force.unwrap_or(false);
        let now = Timestamp::now();
        let before = live.map(|live| &live.object);
        let object = write::owned(call, |versions| ssa::apply(before, applied, versions, &self.manager, force, subresource, now)).await?;
        let admitted = self.admitted(Track::Done);
        match live {
            Some(live) => admitted.update(live, object).await,
            None => Ok(Outcome::Put(admitted.create(object).await?)),
        }
    }
}

impl Patch<'_> {
    async fn next(&self, live: Option<&Live>) -> Result<Outcome, Status> {
        if let Patched::Apply(applied) = &self.body {
            return self.apply_owned(live, applied).await;
        }
        let live = live.ok_or_else(|| self.call.not_found(&self.call.path.name))?;
        let new = self.patched(&live.object)?;
        if !matches!(new.resource_version(), "" | "0") && new.resource_version() != live.object.resource_version() {
            return Err(self.call.conflict(live.object.name(), status::MODIFIED));
        }
        self.admitted(Track::Update { manager: &self.manager }).update(live, new).await
    }
}

impl Change for Patch<'_> {
    fn apply<'a>(&'a self, live: Option<&'a Live>) -> BoxFuture<'a, Result<Outcome, Status>> {
        Box::pin(self.next(live))
    }

    fn retries(&self) -> bool {
        // A patch that names a resourceVersion fails above on the next attempt.
        true
    }
}
