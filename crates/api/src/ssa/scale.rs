//! Who owns the replicas of an object, said of its Scale, and back. A Scale is not stored: what its managers own is kept with the object's
//! other owners, under the object's own path and version (apimachinery, managedfields/scalehandler.go).

use std::collections::BTreeMap;

use serde_json::Value;

use super::fieldset::{FieldSet, Step};
use super::managed::{Owned, Owner, Owners};
use crate::kind::Kind;
use crate::object::Object;
use crate::status::Status;

const SCALE_VERSION: &str = "autoscaling/v1";
const SCALE_REPLICAS: [&str; 2] = ["spec", "replicas"];

/// The managedFields of the Scale of `object`; none where nobody owns its replicas.
pub fn scale_owners(object: &Object, kind: &Kind) -> Result<Option<Value>, Status> {
    let here = steps(&SCALE_REPLICAS);
    let owners = super::stored_owners(object)?.0.into_iter();
    let owners = owners
        .filter(|(_, owned)| matches!(Place::in_version(kind, &owned.api_version), Place::At(there) if owned.fields.contains(&there)));
    let translated = owners.map(|(owner, owned)| {
        let fields: FieldSet = [here.clone()].into_iter().collect();
        (in_scale(&owner), Owned { api_version: SCALE_VERSION.to_owned(), fields, time: owned.time })
    });
    Ok(Owners(translated.collect()).to_value())
}

/// Makes the owners of a Scale's replicas those of the object's: who is no longer among them loses the field.
pub fn take_scale_owners(object: &mut Object, scale: &Object, kind: &Kind) -> Result<(), Status> {
    let here = steps(&SCALE_REPLICAS);
    let set = |path: Vec<Step>| -> FieldSet { [path].into_iter().collect() };
    let mut left: BTreeMap<Owner, Owned> = super::stored_owners(scale)?.0;
    left.retain(|_, owned| owned.fields.contains(&here));
    let mut owners = super::stored_owners(object)?;
    owners.0.retain(|owner, owned| {
        let there = match Place::in_version(kind, &owned.api_version) {
            Place::At(there) => there,
            Place::Nowhere => return true,
            Place::Unknown => return false,
        };
        if owned.fields.contains(&there) {
            match left.remove(&in_scale(owner)) {
                Some(kept) => owned.time = kept.time,
                None => owned.fields = owned.fields.difference(&set(there)),
            }
        }
        true
    });
    owners.drop_empty();
    if let Place::At(there) = Place::in_version(kind, &kind.api_version()) {
        let field = set(there);
        for (owner, owned) in left {
            let mine = Owner::new(&owner.manager, owner.operation, &kind.api_version(), &owner.subresource);
            let fields = owners.fields(&mine).map_or(field.clone(), |known| known.union(&field));
            owners.0.insert(mine, Owned { api_version: kind.api_version(), fields, time: owned.time });
        }
    }
    owners.cap();
    super::put_managed(object, &owners);
    Ok(())
}

/// Where the objects of a version keep their replicas. Each entry of managedFields speaks of the version in which it was written.
enum Place {
    At(Vec<Step>),
    /// The version has no scale.
    Nowhere,
    /// There is no such version, or no longer: what is known of it is forgotten.
    Unknown,
}

impl Place {
    fn in_version(kind: &Kind, api_version: &str) -> Place {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if group != kind.group {
            return Place::Unknown;
        }
        // The built-in kinds that scale keep their replicas in one place in all versions that they ever had.
        let Some(custom) = &kind.custom else { return Place::At(steps(&SCALE_REPLICAS)) };
        match custom.replicas.iter().find(|(name, _)| *name == version) {
            Some((_, Some(path))) => Place::At(path.iter().map(|name| Step::field(name)).collect()),
            Some((_, None)) => Place::Nowhere,
            None => Place::Unknown,
        }
    }
}

fn in_scale(owner: &Owner) -> Owner {
    Owner::new(&owner.manager, owner.operation, SCALE_VERSION, &owner.subresource)
}

fn steps(path: &[&str]) -> Vec<Step> {
    path.iter().map(|name| Step::field(name)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, version: &str, subresource: &str, fields: Value) -> Value {
        let mut entry = json!({"manager": manager, "operation": operation, "apiVersion": version, "time": "2026-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": fields});
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    }

    fn with(entries: &Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "a", "managedFields": entries}})).expect("an object")
    }

    /// v1 keeps its replicas at `spec.size`, v2, which is not served, at `spec.count`, and v3 has no scale.
    fn kind() -> Kind {
        let version = |name: &str, path: Option<&str>| {
            let scale = path.map(|path| json!({"scale": {"specReplicasPath": path, "statusReplicasPath": ".status.replicas"}}));
            json!({"name": name, "served": name == "v1", "storage": name == "v1", "subresources": scale})
        };
        let versions = json!([version("v1", Some(".spec.size")), version("v2", Some(".spec.count")), version("v3", None)]);
        let definition = json!({"metadata": {"name": "toys.example.com"}, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"}, "versions": versions}});
        let rows = crate::custom::rows(&Object::from_value(definition).expect("a definition"), 1);
        rows.into_iter().next().expect("the served version")
    }

    fn replicas() -> Value {
        json!({"f:spec": {"f:replicas": {}}})
    }

    #[test]
    fn owners_of_the_replicas_are_owners_of_the_scale() {
        let size = json!({"f:spec": {"f:size": {}}});
        let object = with(&json!([
            entry("applier", "Apply", "example.com/v1", "", json!({"f:spec": {"f:size": {}, "f:paused": {}}})),
            entry("updater", "Update", "example.com/v1", "scale", size.clone()),
            entry("other", "Update", "example.com/v1", "", json!({"f:spec": {"f:paused": {}}})),
            entry("in another version", "Update", "example.com/v2", "", json!({"f:spec": {"f:count": {}}})),
            entry("of another field", "Update", "example.com/v2", "", size.clone()),
            entry("without a scale", "Update", "example.com/v3", "", size.clone()),
            entry("in none", "Update", "example.com/v4", "", size.clone()),
            entry("of another group", "Update", "v1", "", size),
        ]));
        assert_eq!(
            scale_owners(&object, &kind()),
            Ok(Some(json!([
                entry("applier", "Apply", "autoscaling/v1", "", replicas()),
                entry("in another version", "Update", "autoscaling/v1", "", replicas()),
                entry("updater", "Update", "autoscaling/v1", "scale", replicas()),
            ])))
        );
        assert_eq!(scale_owners(&with(&json!([])), &kind()), Ok(None));
    }

    #[test]
    fn who_no_longer_owns_the_scale_loses_the_replicas_only() {
        let size = json!({"f:spec": {"f:size": {}}});
        let mut object = with(&json!([
            entry("applier", "Apply", "example.com/v1", "", json!({"f:spec": {"f:paused": {}, "f:size": {}}})),
            entry("gone", "Update", "example.com/v1", "", size.clone()),
            entry("kept", "Update", "example.com/v1", "", size.clone()),
            entry("elsewhere", "Update", "example.com/v2", "", json!({"f:spec": {"f:count": {}, "f:size": {}}})),
            entry("in none", "Update", "example.com/v4", "", json!({"f:spec": {"f:paused": {}}})),
            entry("without a scale", "Update", "example.com/v3", "", size.clone()),
        ]));
        let scale = with(&json!([
            entry("kept", "Update", "autoscaling/v1", "", replicas()),
            entry("new", "Apply", "autoscaling/v1", "scale", replicas()),
            entry("of the status", "Apply", "autoscaling/v1", "scale", json!({"f:status": {"f:replicas": {}}})),
        ]));
        take_scale_owners(&mut object, &scale, &kind()).expect("owners");
        assert_eq!(
            object.get(&["metadata", "managedFields"]),
            Some(&json!([
                entry("applier", "Apply", "example.com/v1", "", json!({"f:spec": {"f:paused": {}}})),
                entry("new", "Apply", "example.com/v1", "scale", size.clone()),
                entry("elsewhere", "Update", "example.com/v2", "", size.clone()),
                entry("kept", "Update", "example.com/v1", "", size.clone()),
                entry("without a scale", "Update", "example.com/v3", "", size),
            ]))
        );
    }

    #[test]
    fn owners_that_cannot_be_read_are_neither_shown_nor_replaced() {
        let mut broken = with(&json!([{"manager": "m", "operation": "Replace", "apiVersion": "example.com/v1"}]));
        let before = broken.clone();
        let why = "failed to decode managed fields: metadata.managedFields[0].operation: must be `Apply` or `Update`";
        let refused = scale_owners(&broken, &kind()).expect_err("no owners");
        assert_eq!((refused.code, refused.message), (500, format!("Internal error occurred: {why}")));
        take_scale_owners(&mut broken, &with(&json!([])), &kind()).expect_err("no owners");
        assert_eq!(broken, before);
    }
}
