//! Warnings about pods and templates: what is deprecated or surely a mistake, and yet allowed.

use std::collections::HashMap;

use serde_json::Value;

use super::{list, text};
use crate::kinds::podspec::CONTAINER_LISTS;
use crate::object::Object;

/// Of a new pod; an update changes little of it, and comes often.
pub(in crate::kinds) fn pod_warnings(object: &Object, before: Option<&Object>) -> Vec<String> {
    let new = object.get(&["spec"]).filter(|_| before.is_none());
    new.map(|spec| spec_warnings(spec, "spec")).unwrap_or_default()
}

/// Of a new template, or of one in an object whose wishes have changed.
pub(in crate::kinds) fn template_warnings(object: &Object, before: Option<&Object>) -> Vec<String> {
    let spec = object.get(&["spec", "template", "spec"]).filter(|_| before.is_none_or(|before| before.generation() != object.generation()));
    spec.map(|spec| spec_warnings(spec, "spec.template.spec")).unwrap_or_default()
}

fn spec_warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        if volume.get("gitRepo").is_some() {
            warnings.push(format!("{path}.volumes[{index}].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"));
        }
    }
    for list_name in CONTAINER_LISTS {
        for (index, container) in list(spec, list_name).iter().enumerate() {
            container_warnings(container, &format!("{path}.{list_name}[{index}]"), &mut warnings);
        }
    }
    warnings
}

fn container_warnings(container: &Value, path: &str, warnings: &mut Vec<String>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, env) in list(container, "env").iter().enumerate() {
        let name = text(env, "name");
        if let Some(first) = seen.insert(name, index) {
            warnings.push(format!(
                "{path}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply: {path}.env[{first}]"
            ));
        }
    }
    for resources in ["limits", "requests"] {
        let Some(memory) = container["resources"][resources]["memory"].as_str() else { continue };
        if memory.ends_with('m') {
            warnings.push(format!("{path}.resources.{resources}[memory]: fractional byte value {memory:?} is invalid, must be an integer"));
        }
    }
}
