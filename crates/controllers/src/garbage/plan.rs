//! What becomes of one object, given what became of its owners and dependents.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

use super::{FOREGROUND, ORPHAN};
use crate::world::{Item, Resource};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Present,
    /// Being deleted in the foreground: it goes after its dependents.
    WaitsForDependents,
    Absent,
    /// Of a kind that this cluster does not have. It may come back with its definition.
    Unknown,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Keep,
    Delete(PropagationPolicy),
    /// Forget these owners, by uid.
    Unlink(Vec<String>),
    /// Dependents wait for each other in a circle: stop blocking the owners, then delete.
    Unblock,
    /// Make all dependents forget this object, and let it go.
    Orphan,
    /// Nothing holds it any more: take the foreground finalizer away.
    LetGo,
}

/// What can be said of an owner without asking the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Is(Owner),
    /// It is in a namespace, and the reference comes from outside it: whoever made the reference must be told.
    OutOfReach(Owner),
    Ask,
}

/// `known` is the object with the uid that the reference names, `resource` the kind that it names.
pub(super) fn judge(item: &Item, reference: &OwnerReference, known: Option<&Item>, resource: Option<&Resource>) -> Judgement {
    // Nothing in a namespace can own what is in none: as upstream, it is never collected.
    if !item.resource.namespaced && resource.is_some_and(|resource| resource.namespaced) {
        return Judgement::OutOfReach(Owner::Unknown);
    }
    let Some(owner) = known else { return Judgement::Ask };
    let of_that_kind =
        resource.is_some_and(|resource| (&resource.api.group, &resource.api.kind) == (&owner.resource.api.group, &owner.resource.api.kind));
    if !of_that_kind || owner.key.name != reference.name {
        // The uid is of something else.
        return Judgement::Ask;
    }
    if owner.resource.namespaced && owner.key.namespace != item.key.namespace {
        return Judgement::OutOfReach(Owner::Absent);
    }
    Judgement::Is(if owner.deleting && owner.has_finalizer(FOREGROUND) { Owner::WaitsForDependents } else { Owner::Present })
}

pub(super) fn plan(item: &Item, owners: &[(OwnerReference, Owner)], dependents: &[Arc<Item>]) -> Action {
    if item.deleting {
        return of_deleting(item, dependents);
    }
    if owners.is_empty() {
        return Action::Keep;
    }
    let of = |wanted: &[Owner]| -> Vec<String> {
        owners.iter().filter(|(_, owner)| wanted.contains(owner)).map(|(reference, _)| reference.uid.clone()).collect()
    };
    let solid = owners.iter().any(|(_, owner)| matches!(owner, Owner::Present | Owner::Unknown));
    let waiting = owners.iter().any(|(_, owner)| *owner == Owner::WaitsForDependents);
    if solid {
        let gone = of(&[Owner::Absent, Owner::WaitsForDependents]);
        return if gone.is_empty() { Action::Keep } else { Action::Unlink(gone) };
    }
    if waiting && !dependents.is_empty() {
        let circle = dependents.iter().any(|dependent| dependent.deleting && dependent.has_finalizer(FOREGROUND));
        return if circle { Action::Unblock } else { Action::Delete(PropagationPolicy::Foreground) };
    }
    // Nobody holds it. A finalizer that was put on by hand tells how it wants to go.
    Action::Delete(if item.has_finalizer(ORPHAN) {
        PropagationPolicy::Orphan
    } else if item.has_finalizer(FOREGROUND) {
        PropagationPolicy::Foreground
    } else {
        PropagationPolicy::Background
    })
}

fn of_deleting(item: &Item, dependents: &[Arc<Item>]) -> Action {
    if item.has_finalizer(ORPHAN) {
        return Action::Orphan;
    }
    if !item.has_finalizer(FOREGROUND) {
        return Action::Keep;
    }
    let blocks =
        |dependent: &Arc<Item>| dependent.owners.iter().any(|owner| owner.uid == item.uid && owner.block_owner_deletion == Some(true));
    if dependents.iter().any(blocks) { Action::Keep } else { Action::LetGo }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use knarr_client::ObjectKey;
    use kube::discovery::ApiResource;

    use super::*;
    use crate::world::Resource;

    /// `item [deleting] [finalizer]`, then owners (`owner present|waits|absent|unknown`) and dependents (`dependent [blocks] [deleting] [finalizer]`).
    #[track_caller]
    fn check(text: &str, expected: Expect) {
        let resource = Arc::new(Resource {
            api: ApiResource {
                group: String::new(),
                version: "v1".into(),
                api_version: "v1".into(),
                kind: "Pod".into(),
                plural: "pods".into(),
            },
            namespaced: true,
            collection_deletable: true,
            watched: true,
            listed: true.into(),
        });
        let item = |words: &[&str], owners: Vec<OwnerReference>| Item {
            resource: Arc::clone(&resource),
            key: ObjectKey::new("default", "a"),
            uid: "item".to_owned(),
            resource_version: "1".to_owned(),
            owners,
            finalizers: [FOREGROUND, ORPHAN].iter().filter(|finalizer| words.contains(finalizer)).map(|name| (*name).to_owned()).collect(),
            deleting: words.contains(&"deleting"),
        };
        let reference =
            |uid: &str, blocks: bool| OwnerReference { uid: uid.to_owned(), block_owner_deletion: Some(blocks), ..Default::default() };
        let (mut subject, mut owners, mut dependents) = (None, Vec::new(), Vec::new());
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                "item" => subject = Some(item(&words, Vec::new())),
                "owner" => {
                    let state = match words[1] {
                        "present" => Owner::Present,
                        "waits" => Owner::WaitsForDependents,
                        "absent" => Owner::Absent,
                        _ => Owner::Unknown,
                    };
                    owners.push((reference(words[1], true), state));
                }
                _ => dependents.push(Arc::new(item(&words, vec![reference("item", words.contains(&"blocks"))]))),
            }
        }
        expected.assert_eq(&format!("{:?}", plan(&subject.expect("an item"), &owners, &dependents)));
    }

    /// `namespace/name` of kind Pod, or `name` of kind Node.
    fn object(place: &str) -> Item {
        let (namespace, name) = place.split_once('/').unwrap_or(("", place));
        let namespaced = !namespace.is_empty();
        let (kind, plural) = if namespaced { ("Pod", "pods") } else { ("Node", "nodes") };
        let api =
            ApiResource { group: String::new(), version: "v1".into(), api_version: "v1".into(), kind: kind.into(), plural: plural.into() };
        Item {
            resource: Arc::new(Resource { api, namespaced, collection_deletable: true, watched: true, listed: true.into() }),
            key: ObjectKey::new(namespace, name),
            uid: place.to_owned(),
            resource_version: "1".to_owned(),
            owners: Vec::new(),
            finalizers: Vec::new(),
            deleting: false,
        }
    }

    #[test]
    fn an_owner_is_what_the_reference_says_and_within_reach() {
        let (pod, node) = (object("a/p"), object("n"));
        for (item, named, known, expected) in [
            ("a/x", &pod, Some("a/p"), Judgement::Is(Owner::Present)),
            ("a/x", &node, Some("n"), Judgement::Is(Owner::Present)),
            ("m", &node, Some("n"), Judgement::Is(Owner::Present)),
            ("a/x", &pod, None, Judgement::Ask),
            // Of another name or kind than what has the uid.
            ("a/x", &pod, Some("a/q"), Judgement::Ask),
            ("a/x", &pod, Some("n"), Judgement::Ask),
            ("b/x", &pod, Some("a/p"), Judgement::OutOfReach(Owner::Absent)),
            ("m", &pod, Some("a/p"), Judgement::OutOfReach(Owner::Unknown)),
            ("m", &pod, None, Judgement::OutOfReach(Owner::Unknown)),
        ] {
            let reference = OwnerReference { name: named.key.name.clone(), ..OwnerReference::default() };
            let judged = judge(&object(item), &reference, known.map(object).as_ref(), Some(&named.resource));
            assert_eq!(judged, expected, "{item} {} {known:?}", named.uid);
        }
        assert_eq!(judge(&object("a/x"), &OwnerReference::default(), Some(&pod), None), Judgement::Ask);
    }

    #[test]
    fn an_object_goes_when_no_owner_is_left() {
        check("item", expect!["Keep"]);
        check("item\nowner present", expect!["Keep"]);
        check("item\nowner unknown", expect!["Keep"]);
        check("item\nowner absent", expect!["Delete(Background)"]);
        check("item\nowner present\nowner absent", expect![[r#"Unlink(["absent"])"#]]);
        check("item\nowner present\nowner waits", expect![[r#"Unlink(["waits"])"#]]);
        check("item orphan\nowner absent", expect!["Delete(Orphan)"]);
    }

    #[test]
    fn an_owner_in_the_foreground_takes_its_dependents_along() {
        check("item\nowner waits", expect!["Delete(Background)"]);
        check("item\nowner waits\ndependent", expect!["Delete(Foreground)"]);
        check("item\nowner waits\ndependent deleting foregroundDeletion", expect!["Unblock"]);
    }

    #[test]
    fn an_owner_in_the_foreground_waits_for_those_that_block_it() {
        check("item deleting foregroundDeletion\ndependent blocks", expect!["Keep"]);
        check("item deleting foregroundDeletion\ndependent", expect!["LetGo"]);
        check("item deleting foregroundDeletion", expect!["LetGo"]);
        check("item deleting\ndependent blocks", expect!["Keep"]);
    }

    #[test]
    fn orphans_forget_their_owner_first() {
        check("item deleting orphan\ndependent blocks", expect!["Orphan"]);
        check("item deleting orphan", expect!["Orphan"]);
    }
}
