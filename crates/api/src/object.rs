//! An API object: a JSON map with the accessors that every part of the server needs.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An API object of any kind. Keys are kept sorted, so that equal objects have equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

/// An object as the store keeps it: canonical JSON without a resourceVersion, and the offset at which
/// `"resourceVersion":"<revision>",` is spliced in when the revision is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub bytes: Vec<u8>,
    pub stamp: usize,
}

impl Object {
    /// `None` unless the value is a JSON object.
    pub fn from_value(value: Value) -> Option<Object> {
        match value {
            Value::Object(map) => Some(Object(map)),
            _ => None,
        }
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    pub fn api_version(&self) -> &str {
        text(self.0.get("apiVersion"))
    }

    pub fn kind(&self) -> &str {
        text(self.0.get("kind"))
    }

    /// Sets `apiVersion` and `kind`, which decoders of typed lists leave out.
    pub fn set_type(&mut self, api_version: &str, kind: &str) {
        self.0.insert("apiVersion".to_owned(), api_version.into());
        self.0.insert("kind".to_owned(), kind.into());
    }

    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.0.get("metadata").and_then(Value::as_object)
    }

    /// The metadata, made if it is missing or not a map.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        map_at(&mut self.0, "metadata")
    }

    fn meta(&self, key: &str) -> &str {
        text(self.metadata().and_then(|meta| meta.get(key)))
    }

    pub fn name(&self) -> &str {
        self.meta("name")
    }

    pub fn namespace(&self) -> &str {
        self.meta("namespace")
    }

    pub fn generate_name(&self) -> &str {
        self.meta("generateName")
    }

    pub fn uid(&self) -> &str {
        self.meta("uid")
    }

    pub fn resource_version(&self) -> &str {
        self.meta("resourceVersion")
    }

    /// RFC 3339, or "" where the object is not being deleted.
    pub fn deletion_timestamp(&self) -> &str {
        self.meta("deletionTimestamp")
    }

    pub fn creation_timestamp(&self) -> &str {
        self.meta("creationTimestamp")
    }

    pub fn generation(&self) -> i64 {
        self.metadata().and_then(|meta| meta.get("generation")).and_then(Value::as_i64).unwrap_or(0)
    }

    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs("labels")
    }

    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs("annotations")
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.get(&["metadata", "labels", key]).and_then(Value::as_str)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.get(&["metadata", "annotations", key]).and_then(Value::as_str)
    }

    fn pairs(&self, key: &str) -> impl Iterator<Item = (&str, &str)> {
        let map = self.metadata().and_then(|meta| meta.get(key)).and_then(Value::as_object);
        map.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("")))
    }

    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.list(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
    }

    pub fn owner_references(&self) -> impl Iterator<Item = &Map<String, Value>> {
        self.list(&["metadata", "ownerReferences"]).iter().filter_map(Value::as_object)
    }

    /// The value at a path of map keys.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, key| value.get(*key))
    }

    pub fn get_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get_mut(*first)?, |value, key| value.get_mut(*key))
    }

    /// The string at a path; "" where there is none.
    pub fn str(&self, path: &[&str]) -> &str {
        text(self.get(path))
    }

    pub fn int(&self, path: &[&str]) -> Option<i64> {
        self.get(path).and_then(Value::as_i64)
    }

    /// False where there is none.
    pub fn bool(&self, path: &[&str]) -> bool {
        self.get(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The list at a path; empty where there is none.
    pub fn list(&self, path: &[&str]) -> &[Value] {
        self.get(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Sets the value at a path, making the maps on the way.
    pub fn set(&mut self, path: &[&str], value: Value) {
        let Some((last, parents)) = path.split_last() else { return };
        let mut map = &mut self.0;
        for key in parents {
            map = map_at(map, key);
        }
        map.insert((*last).to_owned(), value);
    }

    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        if parents.is_empty() {
            return self.0.remove(*last);
        }
        self.get_mut(parents)?.as_object_mut()?.remove(*last)
    }

    /// Canonical JSON: sorted keys, no spaces.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).expect("a JSON map has string keys only and writing to memory does not fail")
    }

    /// The form for the store. The object must have a name, or some other metadata but the resourceVersion: the
    /// splice ends in a comma.
    pub fn encode(&self) -> Encoded {
        let mut bytes = Vec::with_capacity(1024);
        let stamp = self.write_unstamped(&mut bytes).expect("writing to memory does not fail");
        Encoded { bytes, stamp }
    }

    fn write_unstamped(&self, out: &mut Vec<u8>) -> io::Result<usize> {
        let mut stamp = None;
        let empty = Map::new();
        let metadata = self.metadata().unwrap_or(&empty);
        out.push(b'{');
        for (key, value) in self.0.iter().filter(|(key, _)| *key != "metadata") {
            if stamp.is_none() && key.as_str() > "metadata" {
                stamp = Some(write_metadata(out, metadata)?);
            }
            write_entry(out, key, value)?;
        }
        let stamp = match stamp {
            Some(stamp) => stamp,
            None => write_metadata(out, metadata)?,
        };
        out.push(b'}');
        Ok(stamp)
    }
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>) -> io::Result<usize> {
    separate(out);
    out.extend_from_slice(b"\"metadata\":{");
    let stamp = out.len();
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
        write_entry(out, key, value)?;
    }
    debug_assert!(out.len() > stamp, "a stored object has a name");
    out.push(b'}');
    Ok(stamp)
}

fn write_entry(out: &mut Vec<u8>, key: &str, value: &Value) -> io::Result<()> {
    separate(out);
    serde_json::to_writer(&mut *out, key)?;
    out.push(b':');
    serde_json::to_writer(out, value)?;
    Ok(())
}

/// A comma, unless a map has just been opened.
fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or("")
}

/// The map under a key, made if it is missing or something else.
fn map_at<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn the_stamp_lands_inside_the_metadata() {
        let cases = [
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "resourceVersion": "7"}, "spec": {}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}),
            json!({"metadata": {"annotations": {"x\"}": "{\"metadata\":{"}, "name": "a"}, "a": {"metadata": {}}, "z": [1]}),
        ];
        for case in cases {
            let mut expected = object(case.clone());
            let Encoded { mut bytes, stamp } = expected.encode();
            bytes.splice(stamp..stamp, br#""resourceVersion":"42","#.iter().copied());
            expected.set(&["metadata", "resourceVersion"], "42".into());
            assert_eq!(serde_json::from_slice::<Object>(&bytes).unwrap(), expected, "{case}");
        }
    }

    #[test]
    fn paths_read_set_and_remove() {
        let mut pod = object(json!({"metadata": {"name": "a", "labels": {"x": "y"}}}));
        assert_eq!(pod.label("x"), Some("y"));
        pod.set(&["spec", "nodeName"], "n1".into());
        assert_eq!(pod.str(&["spec", "nodeName"]), "n1");
        assert_eq!(pod.remove(&["spec", "nodeName"]), Some("n1".into()));
        assert_eq!(pod.remove(&["status", "phase"]), None);
        assert_eq!(pod.get(&["spec"]), Some(&json!({})));
    }
}
