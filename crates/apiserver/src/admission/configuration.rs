//! AdmissionConfiguration (apiserver.config.k8s.io): how plug-ins behave that leave a choice, and which of those run that are off unless they are named.
//!
//! Read once, when the server starts, as upstream reads `--admission-control-config-file`. What it does not name is as usual.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use knarr_api::FieldError;
use serde_json::Value;

use super::pod_security;
use crate::reload::ConfigurationError;
use crate::strict::{self, Errors, list, only};

const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1alpha1"];
const KIND: &str = "AdmissionConfiguration";

const EXTENDED_TOLERATION: &str = "ExtendedResourceToleration";
const POD_SECURITY: &str = "PodSecurity";
/// Every other plug-in always runs, and has nothing to choose.
const PLUG_INS: [&str; 2] = [EXTENDED_TOLERATION, POD_SECURITY];

#[derive(Debug, Default)]
pub(crate) struct Configuration {
    pub(super) pod_security: pod_security::Settings,
    /// Whether pods that ask for extended resources tolerate the taints named after these.
    pub(super) tolerates_extended_resources: bool,
}

impl Configuration {
    pub(crate) fn read(path: &Path) -> Result<Configuration, ConfigurationError> {
        let text = read(path)?;
        let invalid = |reason: String| ConfigurationError::Invalid { path: path.to_owned(), reason };
        let value = strict::document(&text).map_err(invalid)?;
        let mut errors = Errors::new();
        let (mut configuration, mut seen) = (Configuration::default(), BTreeSet::new());
        if !VERSIONS.contains(&value["apiVersion"].as_str().unwrap_or_default()) {
            errors.push(FieldError::not_supported("apiVersion", &value["apiVersion"], &VERSIONS));
        }
        if value["kind"] != KIND {
            errors.push(FieldError::not_supported("kind", &value["kind"], &[KIND]));
        }
        only(&value, "", &["apiVersion", "kind", "plugins"], &mut errors);
        for (index, plug_in) in list(&value, "plugins", "plugins", &mut errors).iter().enumerate() {
            let at = format!("plugins[{index}]");
            only(plug_in, &at, &["name", "path", "configuration"], &mut errors);
            let name = plug_in["name"].as_str().unwrap_or_default();
            if !seen.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(format!("{at}.name"), &name.into()));
            }
            let (own, at_own) = match (&plug_in["path"], &plug_in["configuration"]) {
                (Value::Null, own) => (own.clone(), format!("{at}.configuration")),
                (file, Value::Null) => {
                    let file = path.parent().unwrap_or(Path::new(".")).join(file.as_str().unwrap_or_default());
                    let own = strict::document(&read(&file)?);
                    let own = own.map_err(|reason| ConfigurationError::Invalid { path: file.clone(), reason })?;
                    (own, format!("{at}.path {}", file.display()))
                }
                (file, _) => {
                    errors.push(FieldError::invalid(format!("{at}.path"), file, "must not be given beside configuration"));
                    continue;
                }
            };
            match name {
                EXTENDED_TOLERATION => {
                    configuration.tolerates_extended_resources = true;
                    only(&own, &at_own, &[], &mut errors);
                }
                POD_SECURITY if own.is_null() => {}
                POD_SECURITY => configuration.pod_security = pod_security::Settings::parse(&own, &at_own, &mut errors),
                _ => errors.push(FieldError::not_supported(format!("{at}.name"), &plug_in["name"], &PLUG_INS)),
            }
        }
        match errors.is_empty() {
            true => Ok(configuration),
            false => Err(invalid(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigurationError> {
    fs::read(path).map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })
}
