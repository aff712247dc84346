//! Volumes of a pod spec.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::Value;

use super::env::{FILE_FIELDS, field_ref, resource_ref};
use super::mounts::Volumes;
use super::paths::{local_path, no_way_up, projected_path};
use super::rules::Rules;
use super::{list, persistent, resources, text};
use crate::error::{FieldError, FieldErrors};
use crate::names;

static VOLUME: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        hostPath.path required
        gitRepo.repository required
        secret.secretName required
        secret.defaultMode mode
        secret.items[].key required
        secret.items[].path required
        secret.items[].mode mode
        configMap.name required
        configMap.defaultMode mode
        configMap.items[].key required
        configMap.items[].path required
        configMap.items[].mode mode
        nfs.server required
        nfs.path required
        iscsi.targetPortal required
        iscsi.iqn required
        iscsi.lun range 0 255
        glusterfs.endpoints required
        glusterfs.path required
        persistentVolumeClaim.claimName required
        rbd.monitors required
        rbd.image required
        cinder.volumeID required
        cephfs.monitors required
        flexVolume.driver required
        azureFile.secretName required
        azureFile.shareName required
        azureDisk.diskName required
        azureDisk.diskURI required
        vsphereVolume.volumePath required
        portworxVolume.volumeID required
        downwardAPI.defaultMode mode
        projected.defaultMode mode
        projected.sources[].secret.name required
        projected.sources[].secret.items[].key required
        projected.sources[].secret.items[].path required
        projected.sources[].secret.items[].mode mode
        projected.sources[].configMap.name required
        projected.sources[].configMap.items[].key required
        projected.sources[].configMap.items[].path required
        projected.sources[].configMap.items[].mode mode
        projected.sources[].clusterTrustBundle.path required
        csi.nodePublishSecretRef.name required
        csi.nodePublishSecretRef.name subdomain
        ephemeral.volumeClaimTemplate required
        image.pullPolicy enum Always IfNotPresent Never
        name required
        name label
        "#,
    )
});

/// In the order in which upstream looks for them: the first that is there is the one, others are one too many.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// The volumes that are without fault. `pod` is the name of the pod that has them, empty for a template.
pub(super) fn check<'a>(spec: &'a Value, pod: &str, path: &str, errors: &mut FieldErrors) -> Volumes<'a> {
    let mut sound = Volumes::new();
    let volumes = list(spec, "volumes");
    let made = |claim: &str| {
        volumes.iter().any(|volume| volume.get("ephemeral").is_some() && claim == format!("{pod}-{}", text(volume, "name")).as_str())
    };
    for (index, volume) in volumes.iter().enumerate() {
        let at = format!("{path}.volumes[{index}]");
        let before = errors.len();
        source(volume, pod, &at, errors);
        VOLUME.check(volume, &at, errors);
        let name = text(volume, "name");
        if sound.contains_key(name) {
            errors.push(FieldError::duplicate(format!("{at}.name"), &volume["name"]));
        }
        if errors.len() == before {
            sound.insert(name, volume);
        }
        let claim = text(&volume["persistentVolumeClaim"], "claimName");
        if !pod.is_empty() && made(claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(format!("{at}.persistentVolumeClaim.claimName"), &claim.into(), detail));
        }
    }
    sound
}

fn source(volume: &Value, pod: &str, path: &str, errors: &mut FieldErrors) {
    for source in SOURCES.iter().filter(|key| volume.get(**key).is_some()).skip(1) {
        errors.push(FieldError::forbidden(format!("{path}.{source}"), "may not specify more than 1 volume type"));
    }
    let limit = &volume["emptyDir"]["sizeLimit"];
    if resources::amount(limit).is_some_and(|limit| limit.is_negative()) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(format!("{path}.emptyDir.sizeLimit"), detail));
    }
    host_path(&volume["hostPath"], &format!("{path}.hostPath"), errors);
    local_path(text(&volume["gitRepo"], "directory"), &format!("{path}.gitRepo.directory"), errors);
    for key in ["secret", "configMap"] {
        item_paths(&volume[key], &format!("{path}.{key}"), errors);
    }
    if volume.get("nfs").is_some() && !text(&volume["nfs"], "path").starts_with('/') {
        errors.push(FieldError::invalid(format!("{path}.nfs.path"), &text(&volume["nfs"], "path").into(), "must be an absolute path"));
    }
    downward_files(&volume["downwardAPI"], &format!("{path}.downwardAPI"), errors);
    projected(&volume["projected"], &format!("{path}.projected"), errors);
    if volume.get("csi").is_some() {
        persistent::driver_name(text(&volume["csi"], "driver"), &format!("{path}.csi.driver"), errors);
    }
    ephemeral(volume, pod, path, errors);
    if volume.get("image").is_some() && !pod.is_empty() && text(&volume["image"], "reference").is_empty() {
        errors.push(FieldError::required(format!("{path}.image.reference"), ""));
    }
}

pub(super) fn host_path(source: &Value, path: &str, errors: &mut FieldErrors) {
    no_way_up(text(source, "path"), &format!("{path}.path"), errors);
    let types = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if !types.contains(&text(source, "type")) {
        errors.push(FieldError::not_supported(format!("{path}.type"), &source["type"], &types));
    }
}

fn ephemeral(volume: &Value, pod: &str, path: &str, errors: &mut FieldErrors) {
    let Some(template) = volume["ephemeral"].get("volumeClaimTemplate") else { return };
    let at = format!("{path}.ephemeral.volumeClaimTemplate");
    if let Some(metadata) = template["metadata"].as_object() {
        errors.extend(crate::validate::template_metadata(metadata, &format!("{at}.metadata")));
    }
    errors.extend(persistent::claim_spec(&template["spec"], &format!("{at}.spec")));
    if pod.is_empty() {
        return;
    }
    let name = text(volume, "name");
    let claim = format!("{pod}-{name}");
    for reason in names::dns1123_subdomain(&claim) {
        errors.push(FieldError::invalid(format!("{path}.name"), &name.into(), &format!("PVC name {claim:?}: {reason}")));
    }
}

fn item_paths(source: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, item) in list(source, "items").iter().enumerate() {
        projected_path(text(item, "path"), &format!("{path}.items[{index}].path"), errors);
    }
}

/// Upstream names the volume, not the item.
fn downward_files(source: &Value, path: &str, errors: &mut FieldErrors) {
    for item in list(source, "items") {
        if text(item, "path").is_empty() {
            errors.push(FieldError::required(format!("{path}.path"), ""));
        }
        projected_path(text(item, "path"), &format!("{path}.path"), errors);
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (None, None) => errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required")),
            (Some(field), other) => {
                field_ref(field, &FILE_FIELDS, &format!("{path}.fieldRef"), errors);
                if other.is_some() {
                    let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    errors.push(FieldError::invalid(path, &"resource".into(), detail));
                }
            }
            (None, Some(resource)) => resource_ref(resource, true, &format!("{path}.resourceFieldRef"), errors),
        }
        if item["mode"].as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
            let detail = "must be a number between 0 and 0777 (octal), both inclusive";
            errors.push(FieldError::invalid(format!("{path}.mode"), &item["mode"], detail));
        }
    }
}

/// Shortest and longest life of a projected token, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;

fn projected(volume: &Value, path: &str, errors: &mut FieldErrors) {
    let mut taken: HashSet<&str> = HashSet::new();
    for (index, source) in list(volume, "sources").iter().enumerate() {
        let at = format!("{path}.sources[{index}]");
        for key in ["secret", "configMap"] {
            item_paths(&source[key], &format!("{at}.{key}"), errors);
        }
        downward_files(&source["downwardAPI"], &format!("{at}.downwardAPI"), errors);
        for key in ["secret", "configMap", "downwardAPI"] {
            for file in list(&source[key], "items").iter().map(|item| text(item, "path")).filter(|file| !file.is_empty()) {
                if !taken.insert(file) {
                    let shown = if key == "downwardAPI" { file } else { text(&source[key], "name") };
                    errors.push(FieldError::invalid(path, &shown.into(), "conflicting duplicate paths"));
                }
            }
        }
        if let Some(token) = source.get("serviceAccountToken") {
            service_account_token(token, path, &format!("{at}.serviceAccountToken"), errors);
        }
        if source.as_object().is_some_and(|map| map.len() > 1) {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn service_account_token(token: &Value, volume: &str, path: &str, errors: &mut FieldErrors) {
    let at = format!("{path}.expirationSeconds");
    match token["expirationSeconds"].as_i64() {
        Some(seconds) if seconds < *TOKEN_SECONDS.start() => {
            errors.push(FieldError::invalid(at, &seconds.into(), "may not specify a duration less than 10 minutes"));
        }
        Some(seconds) if seconds > *TOKEN_SECONDS.end() => {
            errors.push(FieldError::invalid(at, &seconds.into(), "may not specify a duration larger than 2^32 seconds"));
        }
        _ => {}
    }
    // Upstream names the volume, not the source.
    let at = format!("{volume}.path");
    if text(token, "path").is_empty() {
        errors.push(FieldError::required(&at, ""));
    }
    projected_path(text(token, "path"), &at, errors);
}
