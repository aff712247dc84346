//! PodSecurityConfiguration (pod-security.admission.config.k8s.io): what counts in namespaces that say nothing, and for whom nothing counts.

use knarr_api::{FieldError, Object, names};
use serde_json::Value;

use super::super::Request;
use super::standards::{Level, Standard, Version};
use super::{LABEL_PREFIX, MODES, Policy, SYSTEM};
use crate::strict::{Errors, list, only};

const VERSIONS: [&str; 3] = [
    "pod-security.admission.config.k8s.io/v1",
    "pod-security.admission.config.k8s.io/v1beta1",
    "pod-security.admission.config.k8s.io/v1alpha1",
];
const KIND: &str = "PodSecurityConfiguration";

#[derive(Debug, Default)]
pub(in crate::admission) struct Settings {
    /// Level and version for each of the [`MODES`].
    defaults: [(Option<Level>, Option<Version>); 3],
    usernames: Vec<String>,
    runtime_classes: Vec<String>,
    namespaces: Vec<String>,
}

impl Settings {
    /// Reads the configuration, whose place in its file is `at`.
    pub(in crate::admission) fn parse(value: &Value, at: &str, errors: &mut Errors) -> Settings {
        if !VERSIONS.contains(&value["apiVersion"].as_str().unwrap_or_default()) {
            errors.push(FieldError::not_supported(format!("{at}.apiVersion"), &value["apiVersion"], &VERSIONS));
        }
        if value["kind"] != KIND {
            errors.push(FieldError::not_supported(format!("{at}.kind"), &value["kind"], &[KIND]));
        }
        only(value, at, &["apiVersion", "kind", "defaults", "exemptions"], errors);
        let (defaults, at_defaults) = (&value["defaults"], format!("{at}.defaults"));
        let keys = MODES.map(|mode| [mode.to_owned(), format!("{mode}-version")]);
        only(defaults, &at_defaults, &keys.iter().flatten().map(String::as_str).collect::<Vec<_>>(), errors);
        let exemptions = &value["exemptions"];
        only(exemptions, &format!("{at}.exemptions"), &["usernames", "runtimeClasses", "namespaces"], errors);
        let mut exempt =
            |field: &str, form: fn(&str) -> Vec<String>| strings(exemptions, field, &format!("{at}.exemptions.{field}"), form, errors);
        let usernames = exempt("usernames", |_| Vec::new());
        let runtime_classes = exempt("runtimeClasses", names::dns1123_subdomain);
        let namespaces = exempt("namespaces", names::dns1123_label);
        let defaults = keys.map(|[level, version]| {
            (
                word(defaults, &level, &at_defaults, Level::parse, "must be one of privileged, baseline, restricted", errors),
                word(defaults, &version, &at_defaults, Version::parse, "must be \"latest\" or \"v1.x\"", errors),
            )
        });
        Settings { defaults, usernames, runtime_classes, namespaces }
    }

    /// Why nothing of this counts for the request, as the audit log says it.
    pub(super) fn exempts(&self, request: &Request<'_>) -> Option<&'static str> {
        if self.exempts_namespace(request.namespace) {
            return Some("namespace");
        }
        self.usernames.contains(&request.user.name).then_some("user")
    }

    pub(super) fn exempts_namespace(&self, name: &str) -> bool {
        self.namespaces.iter().any(|exempt| exempt == name)
    }

    pub(super) fn exempts_runtime_class(&self, spec: &Value) -> bool {
        self.runtime_classes.iter().any(|exempt| spec["runtimeClassName"] == exempt.as_str())
    }

    /// What counts in a namespace. A level that nobody understands, which was refused when it was set, enforces the most and tells the least.
    pub(super) fn policy(&self, namespace: &Object) -> Policy {
        let warned = if namespace.name() == SYSTEM { Level::Privileged } else { Level::Baseline };
        let usual = [(Level::Privileged, Level::Restricted), (Level::Privileged, Level::Privileged), (warned, Level::Privileged)];
        let standard = |index: usize| {
            let (mode, (usual, unknown), (level, version)) = (MODES[index], usual[index], self.defaults[index]);
            let said = namespace.label(&format!("{LABEL_PREFIX}{mode}"));
            let level = said.map_or(level.unwrap_or(usual), |said| Level::parse(said).unwrap_or(unknown));
            let said = namespace.label(&format!("{LABEL_PREFIX}{mode}-version"));
            let version = said.map_or(version.unwrap_or(Version::Latest), |said| Version::parse(said).unwrap_or(Version::Latest));
            Standard { level, version }
        };
        Policy { enforce: standard(0), audit: standard(1), warn: standard(2) }
    }
}

fn word<T>(value: &Value, field: &str, at: &str, parse: fn(&str) -> Option<T>, must: &str, errors: &mut Errors) -> Option<T> {
    let said = &value[field];
    if said.is_null() {
        return None;
    }
    let parsed = said.as_str().and_then(parse);
    if parsed.is_none() {
        errors.push(FieldError::invalid(format!("{at}.{field}"), said, must));
    }
    parsed
}

fn strings(value: &Value, field: &str, at: &str, form: fn(&str) -> Vec<String>, errors: &mut Errors) -> Vec<String> {
    let mut all = Vec::new();
    for (index, one) in list(value, field, at, errors).iter().enumerate() {
        let at = format!("{at}[{index}]");
        match one.as_str() {
            None => errors.push(FieldError::invalid(at, one, "must be a string")),
            Some("") => errors.push(FieldError::invalid(at, one, "must not be empty")),
            Some(text) if all.iter().any(|have| have == text) => errors.push(FieldError::duplicate(at, one)),
            Some(text) => {
                errors.extend(form(text).iter().map(|reason| FieldError::invalid(&at, one, reason)));
                all.push(text.to_owned());
            }
        }
    }
    all
}
