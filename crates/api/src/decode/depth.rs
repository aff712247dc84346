//! How deep values nest.
//!
//! Whatever walks a value calls itself for each level, and what is stored must be readable by all of those, under everything that is put around it.

use serde_json::Value;

/// Levels of maps and lists in an object, itself included. serde_json reads 127; around an object stand the lists and events that carry it,
/// and within, five levels deeper than the object is, the paths of its managed fields. Upstream reads 10,000.
pub(crate) const LEVELS_MAX: usize = 110;

/// Levels of maps and lists in `value`. Adds to `looked` how many values there are. Never call it with what has not been read from bytes, or
/// checked by this: it calls itself.
pub(crate) fn levels(value: &Value, looked: &mut usize) -> usize {
    *looked += 1;
    match value {
        Value::Array(items) => 1 + items.iter().map(|item| levels(item, looked)).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(|item| levels(item, looked)).max().unwrap_or(0),
        _ => 0,
    }
}

/// Levels of an object that tells of its own managed fields: what they say of the deepest object stands this much deeper.
pub(crate) const LEVELS_WITH_MANAGED_MAX: usize = LEVELS_MAX + 5;

/// Whether an object is as deep as may be at most.
pub(crate) fn fits(object: &Value) -> bool {
    own_levels(object) <= LEVELS_MAX && levels(object, &mut 0) <= LEVELS_WITH_MANAGED_MAX
}

/// Levels of an object without its managed fields, which are deeper than what they tell of and come back with each update.
fn own_levels(object: &Value) -> usize {
    let fields = |map: &Value, but: &str, each: &dyn Fn(&str, &Value) -> usize| match map {
        Value::Object(map) => 1 + map.iter().filter(|(key, _)| *key != but).map(|(key, value)| each(key, value)).max().unwrap_or(0),
        _ => 0,
    };
    let all = |_: &str, value: &Value| levels(value, &mut 0);
    fields(object, "", &|key, value| if key == "metadata" { fields(value, "managedFields", &all) } else { all(key, value) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_deepest_branch_counts() {
        for (value, expected) in
            [(json!(1), (0, 1)), (json!({}), (1, 1)), (json!([1, 2, [3]]), (2, 5)), (json!({"a": {"b": [{}]}, "c": []}), (4, 5))]
        {
            let mut looked = 0;
            assert_eq!((levels(&value, &mut looked), looked), expected, "{value}");
        }
        let object = |managed: Value| json!({"metadata": {"labels": {}, "managedFields": managed}, "data": {"a": "b"}});
        assert_eq!(own_levels(&object(json!([[[[1]]]]))), 3);
        let deep = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"f:n": inner}));
        assert!(fits(&object(json!([{"fieldsV1": deep(LEVELS_MAX + 1)}]))));
        assert!(!fits(&object(json!([{"fieldsV1": deep(LEVELS_MAX + 2)}]))));
        assert_eq!(own_levels(&json!({"metadata": {}, "spec": {"managedFields": [[[1]]]}})), 5);
    }
}
