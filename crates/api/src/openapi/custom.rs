//! Schemas of definitions in the older dialect, which cannot say all that they say (apiextensions-apiserver, controller/openapi/v2/conversion.go).

use serde_json::Value;

/// What version 2 has no words for.
const UNKNOWN: [&str; 5] = ["anyOf", "oneOf", "not", "nullable", "allOf"];

/// Leaves out what version 2 cannot say: a schema must not refuse there what the server takes.
pub(super) fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let any_content = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if map.get("nullable") == Some(&Value::Bool(true)) || map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        map.remove("type");
    }
    for key in UNKNOWN {
        map.remove(key);
    }
    if any_content {
        // Clients of version 2 would take the fields that are named for all that there may be.
        for key in ["items", "properties", "type"] {
            map.remove(key);
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            simplify(inner);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
}
