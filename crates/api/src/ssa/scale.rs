//! Who owns the replicas of an object, said of its Scale, and back. A Scale is not stored: what its managers own is kept with the object's
//! other owners, under the object's own path and version (apimachinery, managedfields/scalehandler.go).

use std::collections::BTreeMap;

use serde_json::Value;

use super::fieldset::{FieldSet, Step};
use super::managed::{Owned, Owner, Owners};
use crate::kind::Kind;
use crate::object::Object;

const SCALE_VERSION: &str = "autoscaling/v1";
const SCALE_REPLICAS: [&str; 2] = ["spec", "replicas"];

/// The managedFields of the Scale of `object`, which keeps its replicas at `replicas`; none where nobody owns them.
pub fn scale_owners(object: &Object, replicas: &[&str]) -> Option<Value> {
    let (there, here) = (steps(replicas), steps(&SCALE_REPLICAS));
    let owners = known(object).0.into_iter().filter(|(_, owned)| owned.fields.contains(&there));
    let translated = owners.map(|(owner, owned)| {
        let fields: FieldSet = [here.clone()].into_iter().collect();
        (in_scale(&owner), Owned { api_version: SCALE_VERSION.to_owned(), fields, time: owned.time })
    });
    Owners(translated.collect()).to_value()
}

/// Makes the owners of a Scale's replicas those of the object's: who is no longer among them loses the field.
pub fn take_scale_owners(object: &mut Object, scale: &Object, kind: &Kind, replicas: &[&str]) {
    let (there, here) = (steps(replicas), steps(&SCALE_REPLICAS));
    let field: FieldSet = [there.clone()].into_iter().collect();
    let mut left: BTreeMap<Owner, Owned> = known(scale).0;
    left.retain(|_, owned| owned.fields.contains(&here));
    let mut owners = known(object);
    for (owner, owned) in owners.0.iter_mut().filter(|(_, owned)| owned.fields.contains(&there)) {
        match left.remove(&in_scale(owner)) {
            Some(kept) => owned.time = kept.time,
            None => owned.fields = owned.fields.difference(&field),
        }
    }
    owners.drop_empty();
    for (owner, owned) in left {
        let mine = Owner::new(&owner.manager, owner.operation, &kind.api_version(), &owner.subresource);
        let fields = owners.fields(&mine).map_or(field.clone(), |known| known.union(&field));
        owners.0.insert(mine, Owned { api_version: kind.api_version(), fields, time: owned.time });
    }
    owners.cap();
    super::put_managed(object, &owners);
}

fn known(object: &Object) -> Owners {
    Owners::parse(object.get(&["metadata", "managedFields"])).unwrap_or_default()
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

    fn kind() -> Kind {
        (*crate::Kinds::builtin().resource("apps", "v1", "deployments").expect("deployments")).clone()
    }

    #[test]
    fn owners_of_the_replicas_are_owners_of_the_scale() {
        let object = with(&json!([
            entry("applier", "Apply", "apps/v1", "", json!({"f:spec": {"f:size": {}, "f:paused": {}}})),
            entry("updater", "Update", "apps/v1", "scale", json!({"f:spec": {"f:size": {}}})),
            entry("other", "Update", "apps/v1", "", json!({"f:spec": {"f:paused": {}}})),
        ]));
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        assert_eq!(
            scale_owners(&object, &["spec", "size"]),
            Some(json!([
                entry("applier", "Apply", "autoscaling/v1", "", replicas.clone()),
                entry("updater", "Update", "autoscaling/v1", "scale", replicas),
            ]))
        );
        assert_eq!(scale_owners(&object, &["spec", "replicas"]), None);
    }

    #[test]
    fn who_no_longer_owns_the_scale_loses_the_replicas_only() {
        let mut object = with(&json!([
            entry("applier", "Apply", "apps/v1", "", json!({"f:spec": {"f:paused": {}, "f:size": {}}})),
            entry("gone", "Update", "apps/v1", "", json!({"f:spec": {"f:size": {}}})),
            entry("kept", "Update", "apps/v1", "", json!({"f:spec": {"f:size": {}}})),
        ]));
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let scale = with(&json!([
            entry("kept", "Update", "autoscaling/v1", "", replicas.clone()),
            entry("new", "Apply", "autoscaling/v1", "scale", replicas),
            entry("of the status", "Apply", "autoscaling/v1", "scale", json!({"f:status": {"f:replicas": {}}})),
        ]));
        take_scale_owners(&mut object, &scale, &kind(), &["spec", "size"]);
        assert_eq!(
            object.get(&["metadata", "managedFields"]),
            Some(&json!([
                entry("applier", "Apply", "apps/v1", "", json!({"f:spec": {"f:paused": {}}})),
                entry("new", "Apply", "apps/v1", "scale", json!({"f:spec": {"f:size": {}}})),
                entry("kept", "Update", "apps/v1", "", json!({"f:spec": {"f:size": {}}})),
            ]))
        );
    }
}
