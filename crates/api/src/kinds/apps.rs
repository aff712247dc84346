//! apps/v1: what makes pods from templates.

use std::sync::LazyLock;

use super::columns::{age, count, format_labels, int, name, template, template_and_selector, text};
use super::defaults::Defaults;
use super::podspec;
use super::row::row;
use super::validate::{self, apps as rules};
use crate::kind::Kind;
use crate::object::Object;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("apps", "v1", "Deployment", "deployments")
            .short(&["deploy"])
            .in_all()
            .scale()
            .status()
            .status_leaves(&["labels"])
            // They are handed on to its replica sets.
            .counts_generations_of(&["annotations"])
            .default_by(default_deployment)
            .validate_by(rules::deployment)
            .validate_change_by(rules::deployment_change)
            .validate_status_by(rules::status_change)
            .warn_by(validate::template_warnings)
            .columns(
                [name(), text("Ready", ready), int("Up-to-date", |o, _| count(o, &["status", "updatedReplicas"]))]
                    .into_iter()
                    .chain([int("Available", |o, _| count(o, &["status", "availableReplicas"])), age()])
                    .chain(template_and_selector())
                    .collect(),
            ),
        row("apps", "v1", "ReplicaSet", "replicasets")
            .short(&["rs"])
            .in_all()
            .scale()
            .status()
            .counts_generations()
            .default_by(default_replica_set)
            .validate_by(rules::replica_set)
            .validate_change_by(rules::selector_change)
            .validate_status_by(rules::status_change)
            .warn_by(validate::template_warnings)
            .columns(replica_columns().into_iter().chain(template_and_selector()).collect())
            .select("status.replicas", |o| o.int(&["status", "replicas"]).unwrap_or(0).to_string()),
        row("apps", "v1", "StatefulSet", "statefulsets")
            .inert()
            .short(&["sts"])
            .in_all()
            .scale()
            .status()
            .counts_generations()
            .default_by(default_stateful_set)
            .validate_by(rules::stateful_set)
            .validate_change_by(rules::stateful_set_change)
            .validate_status_by(rules::status_change)
            .warn_by(validate::template_warnings)
            .columns([name(), text("Ready", ready), age()].into_iter().chain(template()).collect()),
        row("apps", "v1", "DaemonSet", "daemonsets")
            .inert()
            .short(&["ds"])
            .in_all()
            .status()
            .counts_generations()
            .default_by(default_daemon_set)
            .validate_by(rules::daemon_set)
            .validate_change_by(rules::selector_change)
            .warn_by(validate::template_warnings)
            .columns(
                [
                    name(),
                    int("Desired", |o, _| count(o, &["status", "desiredNumberScheduled"])),
                    int("Current", |o, _| count(o, &["status", "currentNumberScheduled"])),
                    int("Ready", |o, _| count(o, &["status", "numberReady"])),
                    int("Up-to-date", |o, _| count(o, &["status", "updatedNumberScheduled"])),
                    int("Available", |o, _| count(o, &["status", "numberAvailable"])),
                    text("Node Selector", |o, _| format_labels(o.get(&["spec", "template", "spec", "nodeSelector"]))),
                    age(),
                ]
                .into_iter()
                .chain(template_and_selector())
                .collect(),
            ),
        row("apps", "v1", "ControllerRevision", "controllerrevisions")
            .validate_by(rules::controller_revision)
            .validate_change_by(rules::controller_revision_change)
            .columns(vec![name(), text("Controller", controller), int("Revision", |o, _| count(o, &["revision"])), age()]),
    ]
}

/// `2/3`: ready of wanted.
fn ready(object: &Object, _: jiff::Timestamp) -> serde_json::Value {
    let ready = object.int(&["status", "readyReplicas"]).unwrap_or(0);
    format!("{ready}/{}", object.int(&["spec", "replicas"]).unwrap_or(0)).into()
}

/// The columns of a ReplicaSet; a ReplicationController has them too.
pub(super) fn replica_columns() -> Vec<crate::kind::Column> {
    vec![
        name(),
        int("Desired", |o, _| count(o, &["spec", "replicas"])),
        int("Current", |o, _| count(o, &["status", "replicas"])),
        int("Ready", |o, _| count(o, &["status", "readyReplicas"])),
        age(),
    ]
}

fn controller(object: &Object, _: jiff::Timestamp) -> serde_json::Value {
    let Some(owner) = object.owner_references().find(|owner| owner.get("controller") == Some(&true.into())) else {
        return "<none>".into();
    };
    let part = |key: &str| owner.get(key).and_then(serde_json::Value::as_str).unwrap_or("");
    let group = part("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let kind = part("kind").to_ascii_lowercase();
    if group.is_empty() { format!("{kind}/{}", part("name")).into() } else { format!("{kind}.{group}/{}", part("name")).into() }
}

static DEPLOYMENT: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.replicas = 1
        spec.strategy = {}
        spec.strategy.type = "RollingUpdate"
        spec.revisionHistoryLimit = 10
        spec.progressDeadlineSeconds = 600
        "#,
    )
});

static ROLLING_DEPLOYMENT: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec.strategy.rollingUpdate = {}
        spec.strategy.rollingUpdate.maxUnavailable = "25%"
        spec.strategy.rollingUpdate.maxSurge = "25%"
        "#,
    )
});

static DAEMON_SET: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.updateStrategy = {}
        spec.updateStrategy.type = "RollingUpdate"
        spec.revisionHistoryLimit = 10
        "#,
    )
});

static ROLLING_DAEMON_SET: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec.updateStrategy.rollingUpdate = {}
        spec.updateStrategy.rollingUpdate.maxUnavailable = 1
        spec.updateStrategy.rollingUpdate.maxSurge = 0
        "#,
    )
});

static STATEFUL_SET: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec = {}
        spec.podManagementPolicy = "OrderedReady"
        spec.updateStrategy = {}
        spec.updateStrategy.type = "RollingUpdate"
        spec.replicas = 1
        spec.revisionHistoryLimit = 10
        spec.persistentVolumeClaimRetentionPolicy = {}
        spec.persistentVolumeClaimRetentionPolicy.whenDeleted = "Retain"
        spec.persistentVolumeClaimRetentionPolicy.whenScaled = "Retain"
        spec.volumeClaimTemplates[].spec.volumeMode = "Filesystem"
        spec.volumeClaimTemplates[].apiVersion = "v1"
        spec.volumeClaimTemplates[].kind = "PersistentVolumeClaim"
        spec.volumeClaimTemplates[].status = {}
        spec.volumeClaimTemplates[].status.phase = "Pending"
        "#,
    )
});

static ROLLING_STATEFUL_SET: LazyLock<Defaults> = LazyLock::new(|| {
    Defaults::parse(
        r#"
        spec.updateStrategy.rollingUpdate = {}
        spec.updateStrategy.rollingUpdate.partition = 0
        "#,
    )
});

static REPLICA_SET: LazyLock<Defaults> = LazyLock::new(|| Defaults::parse("spec = {}\n spec.replicas = 1"));

fn default_deployment(object: &mut Object) {
    apply(object, &DEPLOYMENT);
    if object.str(&["spec", "strategy", "type"]) == "RollingUpdate" {
        apply(object, &ROLLING_DEPLOYMENT);
    }
    default_template(object);
}

fn default_replica_set(object: &mut Object) {
    apply(object, &REPLICA_SET);
    default_template(object);
}

fn default_daemon_set(object: &mut Object) {
    apply(object, &DAEMON_SET);
    if object.str(&["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        apply(object, &ROLLING_DAEMON_SET);
    }
    default_template(object);
}

fn default_stateful_set(object: &mut Object) {
    apply(object, &STATEFUL_SET);
    if object.str(&["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        apply(object, &ROLLING_STATEFUL_SET);
    }
    default_template(object);
}

pub(super) fn default_template(object: &mut Object) {
    if let Some(spec) = object.get_mut(&["spec", "template", "spec"]) {
        podspec::default_spec(spec);
    }
}

/// Applies a table whose paths begin at the object.
pub(super) fn apply(object: &mut Object, table: &Defaults) {
    let mut value = std::mem::take(object).into_value();
    table.apply(&mut value);
    *object = Object::from_value(value).expect("defaults do not change what the root is");
}
