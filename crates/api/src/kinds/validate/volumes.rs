//! Volumes of a pod spec.

use std::sync::LazyLock;

use serde_json::Value;

use super::container::local_path;
use super::rules::Rules;
use super::{duplicates, list, text};
use crate::error::{FieldError, FieldErrors};
use crate::quantity::Quantity;

static VOLUME: LazyLock<Rules> = LazyLock::new(|| {
    Rules::parse(
        r#"
        name required
        name label
        hostPath.path required
        hostPath.type enum DirectoryOrCreate Directory FileOrCreate File Socket CharDevice BlockDevice
        secret.secretName required
        configMap.name required
        secret.items[].key required
        secret.items[].path required
        configMap.items[].key required
        configMap.items[].path required
        secret.defaultMode range 0 511
        configMap.defaultMode range 0 511
        downwardAPI.defaultMode range 0 511
        projected.defaultMode range 0 511
        downwardAPI.items[].path required
        persistentVolumeClaim.claimName required
        nfs.server required
        nfs.path required
        csi.driver required
        projected.sources[].secret.name required
        projected.sources[].configMap.name required
        projected.sources[].serviceAccountToken.path required
        projected.sources[].serviceAccountToken.expirationSeconds range 600 4294967296
        ephemeral.volumeClaimTemplate required
        image.pullPolicy enum Always IfNotPresent Never
        "#,
    )
});

pub(super) fn check(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let volumes = list(spec, "volumes");
    let at = format!("{path}.volumes");
    for (index, volume) in volumes.iter().enumerate() {
        let at = format!("{at}[{index}]");
        VOLUME.check(volume, &at, errors);
        one_source(volume, &at, errors);
        let limit = text(&volume["emptyDir"], "sizeLimit");
        if Quantity::parse(limit).is_ok_and(|limit| limit.is_negative()) {
            let detail = "SizeLimit field must be a valid resource quantity";
            errors.push(FieldError::forbidden(format!("{at}.emptyDir.sizeLimit"), detail));
        }
        let host = text(&volume["hostPath"], "path");
        if host.split('/').any(|part| part == "..") {
            errors.push(FieldError::invalid(format!("{at}.hostPath.path"), &host.into(), "must not contain '..'"));
        }
        for source in ["secret", "configMap", "downwardAPI"] {
            item_paths(&volume[source], &format!("{at}.{source}"), errors);
        }
        for (index, source) in list(&volume["projected"], "sources").iter().enumerate() {
            let at = format!("{at}.projected.sources[{index}]");
            for kind in ["secret", "configMap", "downwardAPI"] {
                item_paths(&source[kind], &format!("{at}.{kind}"), errors);
            }
            local_path(text(&source["serviceAccountToken"], "path"), &format!("{at}.serviceAccountToken.path"), errors);
            if source.as_object().is_some_and(|map| map.len() > 1) {
                errors.push(FieldError::forbidden(at, "may not specify more than 1 volume type"));
            }
        }
    }
    duplicates(volumes, &at, "name", errors);
}

fn one_source(volume: &Value, path: &str, errors: &mut FieldErrors) {
    let sources = volume.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).filter(|key| *key != "name");
    for source in sources.skip(1) {
        errors.push(FieldError::forbidden(format!("{path}.{source}"), "may not specify more than 1 volume type"));
    }
}

fn item_paths(source: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let at = format!("{path}.items[{index}]");
        local_path(text(item, "path"), &format!("{at}.path"), errors);
        if item["mode"].as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
            let detail = "must be a number between 0 and 0777 (octal), both inclusive";
            errors.push(FieldError::invalid(format!("{at}.mode"), &item["mode"], detail));
        }
    }
}
