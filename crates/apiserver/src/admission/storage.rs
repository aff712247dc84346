//! Claims and volumes: they do not go while they are used, and only claims whose class allows it grow
//! (plugin/pkg/admission/storage/storageobjectinuseprotection, persistentvolume/resize).

use knarr_api::{Object, Quantity, status::Status};
use knarr_store::Snapshot;
use serde_json::Value;

use super::{Chain, Operation, Request, list_mut, stored};

/// What keeps an object until the protection controllers find it unused.
const FINALIZERS: [(&str, &str, &str); 3] = [
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

pub(super) fn protect(_: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Ok(());
    }
    let protected = FINALIZERS.iter().find(|(group, resource, _)| request.is(group, resource));
    let Some((_, _, finalizer)) = protected else { return Ok(()) };
    if !request.object.finalizers().any(|other| other == *finalizer)
        && let Some(list) = request.object.get_mut(&["metadata"]).and_then(|metadata| list_mut(metadata, "finalizers"))
    {
        list.push((*finalizer).into());
    }
    Ok(())
}

/// A claim grows only once it is bound, and if its class says that its volumes can.
pub(super) fn check_growth(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let (Operation::Update, Some(old)) = (request.operation, request.old) else { return Ok(()) };
    if !request.is("", "persistentvolumeclaims") {
        return Ok(());
    }
    let size = |claim: &Object| Quantity::parse(claim.str(&["spec", "resources", "requests", "storage"])).ok();
    if size(request.object) <= size(old) {
        return Ok(());
    }
    if old.str(&["status", "phase"]) != "Bound" {
        return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let class = class_of(request.object);
    let grows = !class.is_empty()
        && class == class_of(old)
        && stored(snapshot, "storage.k8s.io/storageclasses", "", class).is_some_and(|class| class.bool(&["allowVolumeExpansion"]));
    match grows {
        true => Ok(()),
        false => Err(request
            .forbidden("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")),
    }
}

fn class_of(claim: &Object) -> &str {
    let old = claim.annotation("volume.beta.kubernetes.io/storage-class");
    old.or_else(|| claim.get(&["spec", "storageClassName"]).and_then(Value::as_str)).unwrap_or_default()
}
