//! LimitRange: default requests and limits of containers, and what they may be at least and at most.

use knarr_api::status::Status;
use knarr_store::Snapshot;

use super::{Chain, Request};

pub(super) fn fill(_: &Chain, _: &Snapshot, _: &mut Request<'_>) -> Result<(), Status> {
    Ok(())
}

pub(super) fn check(_: &Chain, _: &Snapshot, _: &mut Request<'_>) -> Result<(), Status> {
    Ok(())
}
