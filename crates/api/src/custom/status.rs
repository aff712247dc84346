//! The status of definitions: which names are taken, which definitions are served (apiextensions-apiserver, controllers for naming and establishing).
//!
//! [`plan`] looks at all definitions of the cluster and says what the status of each shall be. A definition whose names others hold is not served, and
//! comes into its own when they go.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::definition::{self, Approval};
use crate::object::Object;

/// The statuses that must change: the place of the definition, and its new status.
pub fn plan<'a>(definitions: impl Iterator<Item = &'a Object>, now: Timestamp) -> Vec<(usize, Value)> {
    let mut all: Vec<Claim> = definitions.map(Claim::of).collect();
    // Who holds names first, then who came first.
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by(|one, two| all[*one].rank().cmp(&all[*two].rank()));
    let mut taken = Taken::default();
    all.iter().for_each(|claim| taken.add(claim));
    let mut changed = Vec::new();
    for index in order {
        let next = all[index].decide(&taken, now);
        if next != all[index].status {
            all[index].status = next;
            taken.add(&all[index]);
            changed.push((index, all[index].status.clone()));
        }
    }
    changed
}

/// What one definition wants, and what it has.
struct Claim {
    name: String,
    group: String,
    created: String,
    wanted: Value,
    status: Value,
    approval: Option<Approval>,
}

/// Holders of names, by group and name: plurals, singulars and short names are one space, kinds and list kinds another.
#[derive(Default)]
struct Taken(HashMap<(String, bool, String), String>);

impl Taken {
    fn add(&mut self, claim: &Claim) {
        let names = &claim.status["acceptedNames"];
        for (key, is_kind) in [("plural", false), ("singular", false), ("shortNames", false), ("kind", true), ("listKind", true)] {
            for name in texts(&names[key]).into_iter().filter(|name| !name.is_empty()) {
                self.0.entry((claim.group.clone(), is_kind, name.to_owned())).or_insert_with(|| claim.name.clone());
            }
        }
    }

    fn by_others(&self, claim: &Claim, is_kind: bool, name: &str) -> bool {
        self.0.get(&(claim.group.clone(), is_kind, name.to_owned())).is_some_and(|holder| *holder != claim.name)
    }
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect(),
    }
}

impl Claim {
    fn of(definition: &Object) -> Claim {
        Claim {
            name: definition.name().to_owned(),
            group: definition.str(&["spec", "group"]).to_owned(),
            created: definition.creation_timestamp().to_owned(),
            wanted: definition.get(&["spec", "names"]).cloned().unwrap_or_default(),
            status: definition.get(&["status"]).filter(|status| status.is_object()).cloned().unwrap_or(json!({})),
            approval: definition::approval(definition),
        }
    }

    fn rank(&self) -> (bool, &str, &str) {
        (texts(&self.status["acceptedNames"]["plural"]).concat().is_empty(), &self.created, &self.name)
    }

    fn decide(&self, taken: &Taken, now: Timestamp) -> Value {
        let mut accepted = Some(self.status["acceptedNames"].clone()).filter(Value::is_object).unwrap_or(json!({}));
        let mut conflict: Option<(&str, String)> = None;
        for (key, is_kind, reason) in [
            ("plural", Some(false), "PluralConflict"),
            ("singular", Some(false), "SingularConflict"),
            ("shortNames", Some(false), "ShortNamesConflict"),
            ("kind", Some(true), "KindConflict"),
            ("listKind", Some(true), "ListKindConflict"),
            ("categories", None, ""),
        ] {
            let known: Vec<String> = texts(&accepted[key]).into_iter().map(str::to_owned).collect();
            let is_taken = |name: &&&str| {
                is_kind.is_some_and(|is_kind| !known.iter().any(|known| known == **name) && taken.by_others(self, is_kind, name))
            };
            match texts(&self.wanted[key]).iter().find(is_taken) {
                Some(name) => conflict = Some((reason, format!("{name:?} is already in use"))),
                None if self.wanted[key].is_null() => drop(accepted.as_object_mut().and_then(|map| map.remove(key))),
                None => accepted[key] = self.wanted[key].clone(),
            }
        }
        for key in ["plural", "kind"] {
            if accepted[key].is_null() {
                accepted[key] = "".into();
            }
        }
        let mut next = Object::default();
        next.set(&["status"], self.status.clone());
        next.set(&["status", "acceptedNames"], accepted);
        let good = conflict.is_none();
        let (reason, message) = conflict.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
        set_condition(&mut next, "NamesAccepted", good, reason, &message, now);
        match (is_true(&next, "Established"), good) {
            (true, _) => {}
            (false, true) => {
                set_condition(&mut next, "Established", true, "InitialNamesAccepted", "the initial names have been accepted", now);
            }
            (false, false) => set_condition(&mut next, "Established", false, "NotAccepted", "not all names are accepted", now),
        }
        if let Some(Approval { reason, message }) = &self.approval {
            let is_approved = *reason == "ApprovedAnnotation";
            set_condition(&mut next, "KubernetesAPIApprovalPolicyConformant", is_approved, reason, message, now);
        }
        next.remove(&["status"]).unwrap_or_default()
    }
}

/// Whether a condition of the definition is true.
pub fn is_true(definition: &Object, condition: &str) -> bool {
    definition.list(&["status", "conditions"]).iter().any(|one| one["type"] == condition && one["status"] == "True")
}

/// Sets a condition; its time changes when its status does.
pub fn set_condition(definition: &mut Object, ty: &str, status: bool, reason: &str, message: &str, now: Timestamp) {
    let mut conditions = definition.list(&["status", "conditions"]).to_vec();
    let word = if status { "True" } else { "False" };
    let mut condition = json!({
        "type": ty, "status": word, "reason": reason, "message": message,
        "lastTransitionTime": crate::time::format(now),
    });
    match conditions.iter_mut().find(|one| one["type"] == ty) {
        Some(known) => {
            if known["status"] == word {
                condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
    definition.set(&["status", "conditions"], conditions.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_the_community_say_whether_they_were_reviewed() {
        for (said, expected) in [
            (
                "https://github.com/kubernetes/kubernetes/pull/1",
                ("True", "ApprovedAnnotation", "approved in https://github.com/kubernetes/kubernetes/pull/1"),
            ),
            ("unapproved, an experiment", ("False", "UnapprovedAnnotation", "not approved: \"unapproved, an experiment\"")),
        ] {
            let mut one = definition("as", "A", &[], "2026-01-01T00:00:00Z");
            one.set(&["spec", "group"], "x.k8s.io".into());
            one.set(&["metadata", "annotations"], json!({"api-approved.kubernetes.io": said}));
            let planned = planned(&[one]);
            let condition = &planned[0].list(&["status", "conditions"])[2];
            assert_eq!(condition["type"], "KubernetesAPIApprovalPolicyConformant");
            assert_eq!(
                (&condition["status"], &condition["reason"], &condition["message"]),
                (&expected.0.into(), &expected.1.into(), &expected.2.into())
            );
        }
        let other = planned(&[definition("as", "A", &[], "2026-01-01T00:00:00Z")]);
        assert_eq!(other[0].list(&["status", "conditions"]).len(), 2);
    }

    fn definition(plural: &str, kind: &str, short: &[&str], created: &str) -> Object {
        let value = json!({
            "metadata": {"name": format!("{plural}.example.com"), "creationTimestamp": created},
            "spec": {"group": "example.com", "names": {
                "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"), "shortNames": short}},
        });
        Object::from_value(value).unwrap()
    }

    fn planned(definitions: &[Object]) -> Vec<Object> {
        let mut all = definitions.to_vec();
        for (index, status) in plan(definitions.iter(), Timestamp::UNIX_EPOCH) {
            all[index].set(&["status"], status);
        }
        assert_eq!(plan(all.iter(), Timestamp::now()), [], "a plan of what was planned changes nothing");
        all
    }

    fn check(definitions: &[Object], expected: &[&str]) {
        let told: Vec<String> = planned(definitions)
            .iter()
            .map(|one| {
                let reasons = one.list(&["status", "conditions"]).iter().map(|condition| condition["reason"].as_str().unwrap().to_owned());
                format!("{} {}", one.name(), reasons.collect::<Vec<_>>().join(" "))
            })
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn who_comes_first_keeps_the_name() {
        check(
            &[
                definition("gadgets", "Widget", &[], "2026-01-02T00:00:00Z"),
                definition("widgets", "Widget", &["w"], "2026-01-01T00:00:00Z"),
            ],
            &["gadgets.example.com ListKindConflict NotAccepted", "widgets.example.com NoConflicts InitialNamesAccepted"],
        );
        check(
            &[definition("as", "A", &["x"], "2026-01-01T00:00:00Z"), definition("bs", "B", &["x"], "2026-01-02T00:00:00Z")],
            &["as.example.com NoConflicts InitialNamesAccepted", "bs.example.com ShortNamesConflict NotAccepted"],
        );
    }

    #[test]
    fn an_established_definition_stays_so_when_it_asks_for_a_taken_name() {
        let mut all = planned(&[definition("as", "A", &["x"], "2026-01-01T00:00:00Z"), definition("bs", "B", &[], "2026-01-02T00:00:00Z")]);
        all[1].set(&["spec", "names", "shortNames"], json!(["x"]));
        let all = planned(&all);
        assert!(is_true(&all[1], "Established") && !is_true(&all[1], "NamesAccepted"));
        assert_eq!(all[1].get(&["status", "acceptedNames", "shortNames"]), Some(&json!([])));
    }
}
