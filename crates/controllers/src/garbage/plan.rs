//! What becomes of one object, given what became of its owners and dependents.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PropagationPolicy;

use super::{FOREGROUND, ORPHAN};
use crate::world::Item;

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
