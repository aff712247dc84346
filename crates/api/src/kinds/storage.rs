//! storage.k8s.io/v1, and node.k8s.io/v1 with it: what cluster operators declare about drivers and runtimes.

use std::sync::LazyLock;

use serde_json::Value;

use super::apps::apply;
use super::columns::{age, boolean, int, len, name, text};
use super::defaults::Defaults;
use super::prepare::OBJECT_METADATA;
use super::row::row;
use super::validate::storage as rules;
use crate::kind::{Cell, Column, Kind};
use crate::object::Object;

const GROUP: &str = "storage.k8s.io";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row(GROUP, "v1", "StorageClass", "storageclasses")
            .cluster()
            .short(&["sc"])
            .put_creates()
            .default_by(|object| apply(object, &STORAGE_CLASS))
            .validate_by(rules::storage_class)
            .validate_change_by(rules::storage_class_change)
            .columns(vec![
                Column { cell: Cell::Computed(class_name), ..name() },
                text("Provisioner", |o, _| o.str(&["provisioner"]).into()),
                text("ReclaimPolicy", |o, _| o.str(&["reclaimPolicy"]).into()),
                text("VolumeBindingMode", |o, _| o.str(&["volumeBindingMode"]).into()),
                boolean("AllowVolumeExpansion", |o, _| o.bool(&["allowVolumeExpansion"]).into()),
                age(),
            ]),
        row(GROUP, "v1", "CSIDriver", "csidrivers")
            .cluster()
            .conditional_update()
            .counts_generations()
            .default_by(|object| apply(object, &CSI_DRIVER))
            .validate_by(rules::csi_driver)
            .validate_change_by(rules::csi_driver_change)
            .columns(vec![
                name(),
                boolean("AttachRequired", |o, _| o.get(&["spec", "attachRequired"]).is_none_or(|value| value == true).into()),
                boolean("PodInfoOnMount", |o, _| o.bool(&["spec", "podInfoOnMount"]).into()),
                boolean("StorageCapacity", |o, _| o.bool(&["spec", "storageCapacity"]).into()),
                text("TokenRequests", |o, _| joined(o.list(&["spec", "tokenRequests"]), "audience", "<unset>")),
                boolean("RequiresRepublish", |o, _| o.bool(&["spec", "requiresRepublish"]).into()),
                text("Modes", modes),
                age(),
            ]),
        row(GROUP, "v1", "CSINode", "csinodes")
            .cluster()
            .conditional_update()
            .validate_by(rules::csi_node)
            .validate_change_by(rules::csi_node_change)
            .columns(vec![name(), int("Drivers", |o, _| len(o, &["spec", "drivers"]).into()), age()]),
        row(GROUP, "v1", "CSIStorageCapacity", "csistoragecapacities")
            .validate_by(rules::csi_storage_capacity)
            .validate_change_by(rules::csi_storage_capacity_change)
            .columns(vec![
                name(),
                text("StorageClassName", |o, _| o.str(&["storageClassName"]).into()),
                text("Capacity", |o, _| match o.str(&["capacity"]) {
                    "" => "<unset>".into(),
                    capacity => capacity.into(),
                }),
                age(),
            ]),
        row(GROUP, "v1", "VolumeAttachment", "volumeattachments")
            .cluster()
            .conditional_update()
            .status()
            .status_leaves(&OBJECT_METADATA)
            .validate_by(rules::volume_attachment)
            .validate_change_by(rules::volume_attachment_change)
            .validate_status_by(rules::attachment_status)
            .columns(vec![
                name(),
                text("Attacher", |o, _| o.str(&["spec", "attacher"]).into()),
                text("PV", |o, _| o.str(&["spec", "source", "persistentVolumeName"]).into()),
                text("Node", |o, _| o.str(&["spec", "nodeName"]).into()),
                boolean("Attached", |o, _| o.bool(&["status", "attached"]).into()),
                age(),
            ]),
        row(GROUP, "v1", "VolumeAttributesClass", "volumeattributesclasses")
            .cluster()
            .short(&["vac"])
            .validate_by(rules::volume_attributes_class)
            .validate_change_by(rules::volume_attributes_class_change)
            .columns(vec![
                Column { cell: Cell::Computed(class_name), ..name() },
                text("DriverName", |o, _| o.str(&["driverName"]).into()),
                age(),
            ]),
        row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses")
            .cluster()
            .conditional_update()
            .put_creates()
            .default_by(default_runtime_class)
            .validate_by(rules::runtime_class)
            .validate_change_by(rules::runtime_class_change)
            .columns(vec![name(), text("Handler", |o, _| o.str(&["handler"]).into()), age()]),
    ]
}

static STORAGE_CLASS: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        reclaimPolicy = "Delete"
        volumeBindingMode = "Immediate"
        "#,
    )
});

static CSI_DRIVER: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.attachRequired = true
        spec.podInfoOnMount = false
        spec.storageCapacity = false
        spec.fsGroupPolicy = "ReadWriteOnceWithFSType"
        spec.volumeLifecycleModes = ["Persistent"]
        spec.requiresRepublish = false
        spec.seLinuxMount = false
        "#,
    )
});

static TOLERATIONS: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse(r#"scheduling.tolerations[].operator = "Equal""#));

fn default_runtime_class(object: &mut Object) {
    apply(object, &TOLERATIONS);
    if let Some(Value::Object(overhead)) = object.get_mut(&["overhead", "podFixed"]) {
        super::podspec::round_up_resources(overhead);
    }
}

/// The class that objects get which name none says so.
fn class_name(object: &Object, _: jiff::Timestamp) -> Value {
    let marks = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let default = marks.iter().any(|mark| object.annotation(mark) == Some("true"));
    if default { format!("{} (default)", object.name()).into() } else { object.name().into() }
}

fn modes(object: &Object, _: jiff::Timestamp) -> Value {
    let modes: Vec<&str> = object.list(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    if modes.is_empty() { "<unset>".into() } else { modes.join(",").into() }
}

/// One part of each item, with commas between them.
fn joined(items: &[Value], key: &str, none: &str) -> Value {
    let parts: Vec<&str> = items.iter().map(|item| item[key].as_str().unwrap_or("")).collect();
    if parts.is_empty() { none.into() } else { parts.join(",").into() }
}
