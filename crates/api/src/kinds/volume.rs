//! Persistent volumes and the claims to them.

use std::sync::LazyLock;

use serde_json::Value;

use super::apps::apply;
use super::columns::{age, name, text, wide};
use super::defaults::Defaults;
use super::row::row;
use super::validate::persistent as rules;
use crate::kind::Kind;
use crate::object::Object;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("", "v1", "PersistentVolume", "persistentvolumes")
            .cluster()
            .short(&["pv"])
            .status()
            .default_by(|object| apply(object, &VOLUME))
            .prepare_by(|object| object.set(&["status", "phase"], "Pending".into()), |_, _| ())
            .validate_by(rules::persistent_volume)
            .validate_change_by(rules::persistent_volume_change)
            .columns(vec![
                name(),
                text("Capacity", |o, _| o.str(&["spec", "capacity", "storage"]).into()),
                text("Access Modes", |o, _| access_modes(o.list(&["spec", "accessModes"]))),
                text("Reclaim Policy", |o, _| o.str(&["spec", "persistentVolumeReclaimPolicy"]).into()),
                text("Status", |o, _| phase(o)),
                text("Claim", claim),
                text("StorageClass", |o, _| o.str(&["spec", "storageClassName"]).into()),
                text("VolumeAttributesClass", |o, _| or_unset(o.str(&["spec", "volumeAttributesClassName"]))),
                text("Reason", |o, _| o.str(&["status", "reason"]).into()),
                age(),
                wide("VolumeMode", |o, _| or_unset(o.str(&["spec", "volumeMode"]))),
            ]),
        row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .status()
            .default_by(|object| apply(object, &CLAIM))
            .prepare_by(|object| object.set(&["status", "phase"], "Pending".into()), |_, _| ())
            .validate_by(rules::persistent_volume_claim)
            .validate_change_by(rules::persistent_volume_claim_change)
            .validate_status_by(rules::persistent_volume_claim_status)
            .columns(vec![
                name(),
                text("Status", |o, _| phase(o)),
                text("Volume", |o, _| o.str(&["spec", "volumeName"]).into()),
                text("Capacity", |o, _| if_bound(o, |o| o.str(&["status", "capacity", "storage"]).into())),
                text("Access Modes", |o, _| if_bound(o, |o| access_modes(o.list(&["status", "accessModes"])))),
                text("StorageClass", |o, _| o.str(&["spec", "storageClassName"]).into()),
                text("VolumeAttributesClass", |o, _| or_unset(o.str(&["spec", "volumeAttributesClassName"]))),
                age(),
                wide("VolumeMode", |o, _| or_unset(o.str(&["spec", "volumeMode"]))),
            ]),
    ]
}

static VOLUME: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        status = {}
        status.phase = "Pending"
        spec.persistentVolumeReclaimPolicy = "Retain"
        spec.volumeMode = "Filesystem"
        spec.hostPath.type = ""
        "#,
    )
});

static CLAIM: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        status = {}
        status.phase = "Pending"
        spec.volumeMode = "Filesystem"
        "#,
    )
});

fn phase(object: &Object) -> Value {
    if object.deletion_timestamp().is_empty() { object.str(&["status", "phase"]).into() } else { "Terminating".into() }
}

/// A claim shows what it got once it has a volume.
fn if_bound(object: &Object, cell: fn(&Object) -> Value) -> Value {
    if object.str(&["spec", "volumeName"]).is_empty() { "".into() } else { cell(object) }
}

fn claim(object: &Object, _: jiff::Timestamp) -> Value {
    let name = object.str(&["spec", "claimRef", "name"]);
    if name.is_empty() { "".into() } else { format!("{}/{name}", object.str(&["spec", "claimRef", "namespace"])).into() }
}

fn access_modes(modes: &[Value]) -> Value {
    let order = [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let short: Vec<&str> = order.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|row| row.1).collect();
    short.join(",").into()
}

fn or_unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}
