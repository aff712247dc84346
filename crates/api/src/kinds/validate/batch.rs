//! batch/v1 Job.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::job_policy::{failure_policy, success_policy};
use super::pod::check_template;
use super::rules::{Rules, selector};
use super::{list, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;
use crate::object::Object;
use crate::select::LabelSelector;
use crate::validate::immutable;

static JOB: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        parallelism min 0
        completions min 0
        activeDeadlineSeconds min 0
        backoffLimit min 0
        ttlSecondsAfterFinished min 0
        backoffLimitPerIndex min 0
        maxFailedIndexes min 0
        managedBy domainpath
        completionMode oneof NonIndexed Indexed
        "#,
    )
});

/// Bytes of the name of another controller (upstream's maxManagedByLength).
const MANAGED_BY_MAX: usize = 63;

/// Pods at a time, and indexes that may fail, of an indexed job: they bound the text of completed and failed indexes (upstream's
/// maxParallelismForIndexedJob and maxFailedIndexesForIndexedJob).
const INDEXED_MAX: i64 = 100_000;

/// Above so many completions, a job with a limit per index may have only so many pods at a time and failed indexes (upstream's
/// completionsSoftLimit and the limits beside it).
const COMPLETIONS_SOFT_MAX: i64 = 100_000;
const HIGH_COMPLETIONS_MAX: i64 = 10_000;

/// The labels by which a job that has no selector of its own finds its pods, the older ones first, and what each must be.
fn own_labels(object: &Object) -> [(&'static str, &str); 4] {
    [
        ("controller-uid", object.uid()),
        ("job-name", object.name()),
        ("batch.kubernetes.io/controller-uid", object.uid()),
        ("batch.kubernetes.io/job-name", object.name()),
    ]
}

pub(in crate::kinds) fn job(object: &Object) -> FieldErrors {
    let Some(spec) = object.get(&["spec"]) else { return vec![FieldError::required("spec.template", "")] };
    let mut errors = Vec::new();
    let chosen = spec.get("selector");
    let wanted = chosen.and_then(|selector| LabelSelector::from_value(selector).ok());
    let labels = &spec["template"]["metadata"]["labels"];
    if spec["manualSelector"] != true && chosen.is_some() && !object.uid().is_empty() {
        let own = own_labels(object);
        for (label, value) in own {
            own_label(labels, label, value, &mut errors);
        }
        if wanted.as_ref().is_some_and(|wanted| !wanted.matches(|key| own.iter().find(|(label, _)| *label == key).map(|(_, value)| *value)))
        {
            errors.push(FieldError::invalid("spec.selector", &spec["selector"], "`selector` not auto-generated"));
        }
    }
    errors.extend(job_spec(spec, "spec"));
    match chosen {
        None => errors.push(FieldError::required("spec.selector", "")),
        Some(value) => selector(value, "spec.selector", &mut errors),
    }
    if wanted.is_some_and(|wanted| !wanted.matches(|key| labels[key].as_str())) {
        let detail = "`selector` does not match template `labels`";
        let labels = if labels.is_null() { json!({}) } else { labels.clone() };
        errors.push(FieldError::invalid("spec.template.metadata.labels", &labels, detail));
    }
    indexed_name(object, &mut errors);
    errors
}

fn own_label(labels: &Value, label: &str, value: &str, errors: &mut FieldErrors) {
    let at = format!("spec.template.metadata.labels[{label}]");
    let detail = format!("must be '{value}'");
    match labels.get(label) {
        None => errors.push(FieldError::required(at, &detail)),
        Some(found) if found != value => errors.push(FieldError::invalid(at, labels, &detail)),
        Some(_) => {}
    }
}

/// The pods of an indexed job have the job's name and their index as their host name.
fn indexed_name(object: &Object, errors: &mut FieldErrors) {
    let completions = object.int(&["spec", "completions"]).unwrap_or(0);
    if object.str(&["spec", "completionMode"]) != "Indexed" || completions < 1 {
        return;
    }
    let longest = format!("{}-{}", object.name(), completions - 1);
    if !names::dns1123_label(&longest).is_empty() {
        let detail = format!("will not able to create pod with invalid DNS label: {longest}");
        errors.push(FieldError::invalid("metadata.name", &object.name().into(), &detail));
    }
}

/// What a Job and the template of a CronJob have in common.
pub(super) fn job_spec(spec: &Value, at: &str) -> FieldErrors {
    let mut errors = Vec::new();
    JOB.check(spec, at, &mut errors);
    if spec.get("maxFailedIndexes").is_some() && spec.get("backoffLimitPerIndex").is_none() {
        errors.push(FieldError::required(format!("{at}.backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if text(spec, "managedBy").len() > MANAGED_BY_MAX {
        errors.push(FieldError::too_long(format!("{at}.managedBy"), MANAGED_BY_MAX));
    }
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed {
        indexes(spec, at, &mut errors);
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = spec.get(key) {
                errors.push(FieldError::invalid(format!("{at}.{key}"), value, "requires indexed completion mode"));
            }
        }
    }
    failure_policy(spec, at, &mut errors);
    match spec.get("successPolicy") {
        Some(policy) if !indexed => {
            errors.push(FieldError::invalid(format!("{at}.successPolicy"), policy, "requires indexed completion mode"));
        }
        Some(_) => success_policy(spec, at, &mut errors),
        None => {}
    }
    replacement_policy(spec, at, &mut errors);
    let Some(template) = spec.get("template") else {
        errors.push(FieldError::required(format!("{at}.template"), ""));
        return errors;
    };
    errors.extend(check_template(template, &format!("{at}.template")));
    restart_policy(spec, at, &mut errors);
    errors
}

fn indexes(spec: &Value, at: &str, errors: &mut FieldErrors) {
    let number = |key: &str| spec[key].as_i64();
    let mut most = |key: &str, most: i64, when: &str| {
        if let Some(value) = number(key).filter(|value| *value > most) {
            let detail = format!("must be less than or equal to {most}{when}");
            errors.push(FieldError::invalid(format!("{at}.{key}"), &value.into(), &detail));
        }
    };
    most("parallelism", INDEXED_MAX, " when completion mode is Indexed");
    most("maxFailedIndexes", INDEXED_MAX, "");
    let Some(completions) = number("completions") else {
        errors.push(FieldError::required(format!("{at}.completions"), "when completion mode is Indexed"));
        return;
    };
    if completions > COMPLETIONS_SOFT_MAX && spec.get("backoffLimitPerIndex").is_some() {
        let when = format!(" when completions are above {COMPLETIONS_SOFT_MAX} and used with backoff limit per index");
        most("parallelism", HIGH_COMPLETIONS_MAX, &when);
        most("maxFailedIndexes", HIGH_COMPLETIONS_MAX, &when);
        if number("maxFailedIndexes").is_none() {
            let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_MAX}");
            errors.push(FieldError::required(format!("{at}.maxFailedIndexes"), &detail));
        }
    }
    if let Some(failed) = number("maxFailedIndexes").filter(|failed| *failed > completions) {
        errors.push(FieldError::invalid(format!("{at}.maxFailedIndexes"), &failed.into(), "must be less than or equal to completions"));
    }
}

fn replacement_policy(spec: &Value, at: &str, errors: &mut FieldErrors) {
    let policy = text(spec, "podReplacementPolicy");
    let valid: &[&str] = if spec.get("podFailurePolicy").is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !policy.is_empty() && !valid.contains(&policy) {
        errors.push(FieldError::not_supported(format!("{at}.podReplacementPolicy"), &policy.into(), valid));
    }
}

fn restart_policy(spec: &Value, at: &str, errors: &mut FieldErrors) {
    let policy = text(&spec["template"]["spec"], "restartPolicy");
    let at = format!("{at}.template.spec.restartPolicy");
    match policy {
        "" | "Always" => errors.push(FieldError::required(at, r#"valid values: "OnFailure", "Never""#)),
        "OnFailure" if spec.get("podFailurePolicy").is_some() => {
            let detail = r#"only "Never" is supported when podFailurePolicy is specified"#;
            errors.push(FieldError::invalid(at, &policy.into(), detail));
        }
        "OnFailure" | "Never" => {}
        _ => errors.push(FieldError::not_supported_as_listed(at, &policy.into(), &["OnFailure", "Never"])),
    }
}

pub(in crate::kinds) fn job_change(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = completions_change(new, old);
    errors.extend(immutable(new, old, &[&["spec", "selector"]]));
    errors.extend(template_change(new, old));
    let fixed: [&[&str]; 5] = [
        &["spec", "completionMode"],
        &["spec", "podFailurePolicy"],
        &["spec", "backoffLimitPerIndex"],
        &["spec", "managedBy"],
        &["spec", "successPolicy"],
    ];
    errors.extend(immutable(new, old, &fixed));
    errors
}

/// An indexed job grows and shrinks by both numbers together.
fn completions_change(new: &Object, old: &Object) -> FieldErrors {
    let completions = ["spec", "completions"];
    if new.str(&["spec", "completionMode"]) != "Indexed" {
        return immutable(new, old, &[&completions]);
    }
    match new.int(&completions) {
        Some(now) if Some(now) != old.int(&completions) && Some(now) != new.int(&["spec", "parallelism"]) => {
            vec![FieldError::invalid("spec.completions", &now.into(), "can only be modified in tandem with spec.parallelism")]
        }
        _ => Vec::new(),
    }
}

/// Where the pods of a job run that was suspended from its start: a queue's admission decides on it.
const SCHEDULING: [&[&str]; 5] = [
    &["spec", "template", "metadata", "labels"],
    &["spec", "template", "metadata", "annotations"],
    &["spec", "template", "spec", "nodeSelector"],
    &["spec", "template", "spec", "tolerations"],
    &["spec", "template", "spec", "schedulingGates"],
];

fn template_change(new: &Object, old: &Object) -> FieldErrors {
    let mut was = old.clone();
    if old.bool(&["spec", "suspend"]) && old.str(&["status", "startTime"]).is_empty() {
        for path in SCHEDULING {
            copy(new, &mut was, path);
        }
        // Of the affinities, only that to nodes.
        let affinity = ["spec", "template", "spec", "affinity"];
        copy(new, &mut was, &["spec", "template", "spec", "affinity", "nodeAffinity"]);
        match (new.get(&affinity), was.get(&affinity).map(|was| *was == json!({}))) {
            (None, Some(true)) => drop(was.remove(&affinity)),
            (Some(_), None) => was.set(&affinity, json!({})),
            _ => {}
        }
    }
    if old.bool(&["spec", "suspend"]) {
        for key in ["containers", "initContainers"] {
            same_resources(new, &mut was, &["spec", "template", "spec", key]);
        }
    }
    immutable(new, &was, &[&["spec", "template"]])
}

/// While a job is suspended, its containers may be given other resources.
fn same_resources(new: &Object, was: &mut Object, path: &[&str]) {
    let mut containers = was.list(path).to_vec();
    let now = new.list(path);
    if containers.is_empty() || now.len() != containers.len() {
        return;
    }
    for (container, now) in containers.iter_mut().zip(now).filter(|(was, now)| was["name"] == now["name"]) {
        let Some(container) = container.as_object_mut() else { continue };
        match now.get("resources") {
            Some(resources) => container.insert("resources".into(), resources.clone()),
            None => container.remove("resources"),
        };
    }
    was.set(path, containers.into());
}

fn copy(from: &Object, to: &mut Object, path: &[&str]) {
    match from.get(path) {
        Some(value) => to.set(path, value.clone()),
        None => drop(to.remove(path)),
    }
}

/// The containers of a job's pods, by name.
pub(super) fn container_names(spec: &Value) -> Vec<&str> {
    let pod = &spec["template"]["spec"];
    ["containers", "initContainers"].iter().flat_map(|key| list(pod, key)).map(|container| text(container, "name")).collect()
}
