//! Pruning: what the schema does not name goes, and so does a null where null may not be and no default takes its place.

use serde_json::{Map, Value};

use super::schema::{Additional, Structural};

/// Fields of every object, whatever its schema says.
const TYPE_AND_META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops what `schema` does not specify, and tells each path that was dropped.
pub(crate) fn prune(object: &mut Map<String, Value>, schema: &Structural, dropped: &mut dyn FnMut(&str)) {
    Walk { path: String::new(), dropped }.map(object, schema, true);
}

/// The same for a value of a schema: a default.
pub(crate) fn prune_value(value: &mut Value, schema: &Structural, dropped: &mut dyn FnMut(&str)) {
    Walk { path: String::new(), dropped }.value(value, schema);
}

struct Walk<'a> {
    path: String,
    dropped: &'a mut dyn FnMut(&str),
}

impl Walk<'_> {
    fn within(&mut self, add: &str, dot: bool, run: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        if dot && length > 0 {
            self.path.push('.');
        }
        self.path.push_str(add);
        run(self);
        self.path.truncate(length);
    }

    fn value(&mut self, value: &mut Value, schema: &Structural) {
        match value {
            Value::Object(map) => self.map(map, schema, schema.embedded),
            Value::Array(list) => {
                let nothing = Structural::default();
                // Items of a list that has no schema are kept only where all that is unknown is.
                let items = match &schema.items {
                    Some(items) => items,
                    None if schema.preserve => return,
                    None => &nothing,
                };
                for (index, item) in list.iter_mut().enumerate() {
                    self.within(&format!("[{index}]"), false, |walk| walk.value(item, items));
                }
            }
            _ => {}
        }
    }

    fn map(&mut self, map: &mut Map<String, Value>, schema: &Structural, is_object: bool) {
        map.retain(|key, value| {
            if is_object && TYPE_AND_META.contains(&key.as_str()) {
                return true;
            }
            // As good as absent (apiextensions-apiserver, schema/defaulting/prunenulls.go); clients are not told.
            if value.is_null() && schema.member(key).is_some_and(|inner| !inner.nullable && inner.default.is_none()) {
                return false;
            }
            match (schema.properties.get(key), &schema.additional) {
                (Some(property), _) => self.within(key, true, |walk| walk.value(value, property)),
                (None, Additional::Schema(inner)) => self.within(key, true, |walk| walk.value(value, inner)),
                (None, Additional::Any) => {}
                (None, Additional::Unsaid) if schema.preserve => {}
                (None, Additional::Unsaid) => {
                    self.within(key, true, |walk| (walk.dropped)(&walk.path));
                    return false;
                }
            }
            true
        });
    }
}
