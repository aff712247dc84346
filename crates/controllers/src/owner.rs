//! Who controls what.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;

/// The owner that controls an object, if one does.
pub(crate) fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` controls the object: by uid, for a name can be used again.
pub(crate) fn controlled_by<O: Resource>(meta: &ObjectMeta, owner: &O) -> bool {
    controller(meta).is_some_and(|reference| Some(&reference.uid) == owner.meta().uid.as_ref())
}

/// The reference that makes `owner` the controller of what carries it.
pub(crate) fn reference<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Whether a selector chooses an object with these labels. An empty selector chooses nothing here: no controller may own everything.
pub(crate) fn selects(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    let empty = selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|expressions| expressions.is_empty());
    if empty {
        return false;
    }
    let none = Default::default();
    let labels = meta.labels.as_ref().unwrap_or(&none);
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = || value.is_some_and(|value| expression.values.iter().flatten().any(|listed| listed == value));
            match &*expression.operator {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
