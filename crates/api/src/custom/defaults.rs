//! Defaulting: what the schema gives where the object says nothing.

use serde_json::{Map, Value};

use super::schema::{Additional, Structural};

/// Sets the defaults of `schema`. A null where null may not be counts as nothing, if there is a default.
pub(crate) fn fill(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(map) => fill_map(map, schema),
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                list.iter_mut().for_each(|item| fill(item, items));
            }
        }
        _ => {}
    }
}

pub(crate) fn fill_map(map: &mut Map<String, Value>, schema: &Structural) {
    for (name, property) in &schema.properties {
        match (map.get_mut(name), &property.default) {
            (Some(value), Some(default)) if value.is_null() && !property.nullable => {
                *value = default.clone();
                fill(value, property);
            }
            (Some(value), _) => fill(value, property),
            (None, Some(default)) => {
                let mut value = default.clone();
                fill(&mut value, property);
                map.insert(name.clone(), value);
            }
            (None, None) => {}
        }
    }
    if let Additional::Schema(inner) = &schema.additional {
        for (_, value) in map.iter_mut().filter(|(name, _)| !schema.properties.contains_key(*name)) {
            match (&inner.default, value.is_null() && !inner.nullable) {
                (Some(default), true) => *value = default.clone(),
                _ => fill(value, inner),
            }
        }
    }
}
