use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::kubectl::LAST_APPLIED;
use super::*;
use crate::kind::Kind;
use crate::kinds::Kinds;
use crate::schema::Schema;
use crate::shape::tests::kind;

fn object(value: Value) -> Object {
    Object::from_value(value).expect("a JSON object")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).expect("a time")
}

const MANAGED_AT: [&str; 2] = ["metadata", "managedFields"];

static KINDS: LazyLock<Kinds> = LazyLock::new(Kinds::builtin);

/// A sequence of writes to one object, one second apart.
struct History {
    kind: Kind,
    live: Option<Object>,
    second: i64,
}

fn history(group: &str, version: &str, name: &str) -> History {
    History { kind: kind(group, version, name), live: None, second: 0 }
}

impl History {
    fn try_apply(&mut self, manager: &str, force: bool, configuration: &Value) -> Result<(), Status> {
        self.second += 1;
        let mut applied = object(configuration.clone());
        applied.set(&["metadata", "name"], "it".into());
        let served = |group: &str, version: &str| KINDS.resource(group, version, &self.kind.resource);
        self.live = Some(apply(self.live.as_ref(), &applied, &Versions::of(&self.kind, &served), manager, force, "", at(self.second))?);
        Ok(())
    }

    fn apply(mut self, manager: &str, configuration: Value) -> History {
        self.try_apply(manager, false, &configuration).expect("applies");
        self
    }

    fn force(mut self, manager: &str, configuration: Value) -> History {
        self.try_apply(manager, true, &configuration).expect("applies");
        self
    }

    fn update(self, manager: &str, change: impl FnOnce(&mut Object)) -> History {
        self.update_through(manager, "", change)
    }

    fn update_through(mut self, manager: &str, subresource: &str, change: impl FnOnce(&mut Object)) -> History {
        self.second += 1;
        let mut new = self.live.clone().unwrap_or_else(|| object(json!({"metadata": {"name": "it"}})));
        change(&mut new);
        let served = |group: &str, version: &str| KINDS.resource(group, version, &self.kind.resource);
        let written = track_update(
            self.live.as_ref(),
            &mut new,
            &Versions::of(&self.kind, &served),
            manager,
            Operation::Update,
            subresource,
            at(self.second),
        );
        written.expect("nothing that others convert");
        self.live = Some(new);
        self
    }

    /// Changes what is stored without a write.
    fn edit(mut self, change: impl FnOnce(&mut Object)) -> History {
        change(self.live.as_mut().expect("written"));
        self
    }

    fn show(&self) -> String {
        let live = self.live.as_ref().expect("written");
        let mut rest = live.clone();
        rest.remove(&["metadata"]);
        let labels = live.get(&["metadata", "labels"]).map(|labels| format!("labels {labels}\n")).unwrap_or_default();
        let mut text = format!("{labels}{}\n", Value::Object(rest.0));
        for entry in live.list(&["metadata", "managedFields"]) {
            let second = entry["time"].as_str().unwrap_or("").get(17..19).unwrap_or("?").to_owned();
            let part = entry.get("subresource").map(|name| format!(" /{}", name.as_str().unwrap_or(""))).unwrap_or_default();
            let fields = FieldSet::parse(&entry["fieldsV1"]).expect("a field set");
            let paths: Vec<String> = fields.paths().iter().map(|path| fieldset::display_path(path)).collect();
            text += &format!(
                "{} {}{part} :{second} {}\n",
                entry["manager"].as_str().unwrap_or(""),
                entry["operation"].as_str().unwrap_or(""),
                paths.join(" ")
            );
        }
        text
    }

    #[track_caller]
    fn check(&self, expected: Expect) {
        expected.assert_eq(&self.show());
    }

    #[track_caller]
    fn check_conflict(mut self, manager: &str, configuration: Value, expected: Expect) {
        let status = self.try_apply(manager, false, &configuration).expect_err("a conflict");
        assert_eq!((status.code, status.reason), (409, "Conflict"));
        let causes: Vec<String> = status
            .details
            .iter()
            .flat_map(|details| &details.causes)
            .map(|cause| format!("{} | {} | {}\n", cause.reason, cause.message, cause.field))
            .collect();
        expected.assert_eq(&format!("{}\n{}", status.message, causes.concat()));
    }
}

fn deployment() -> History {
    history("apps", "v1", "Deployment")
}

/// The same object through another version.
impl History {
    fn through(mut self, version: &str) -> History {
        let other = KINDS.resource(&self.kind.group, version, &self.kind.resource).expect("a version");
        if let Some(live) = &mut self.live {
            self.kind.to_storage(live);
            other.from_storage(live);
        }
        self.kind = Kind::clone(&other);
        self
    }
}

fn scaler(version: &str) -> History {
    let mut history = history("autoscaling", version, "HorizontalPodAutoscaler");
    history.kind = Kind::clone(&KINDS.resource("autoscaling", version, "horizontalpodautoscalers").expect("a kind"));
    history
}

/// What v2 says of 50 % of the CPU, with `percent` for 50.
fn cpu(percent: i64) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percent});
    json!({"spec": {"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]}})
}

#[test]
fn who_applied_through_another_version_is_in_the_way_of_a_change_of_the_same_thing() {
    let first = || scaler("v1").apply("a", json!({"spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}})).through("v2");
    first().check_conflict(
        "b",
        cpu(80),
        expect![[r#"
            Apply failed with 1 conflict: conflict with "a": .spec.targetCPUUtilizationPercentage
            FieldManagerConflict | conflict with "a" | .spec.targetCPUUtilizationPercentage
        "#]],
    );
    // By force it is taken over.
    first().force("b", cpu(80)).check(expect![[r#"
        {"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","spec":{"maxReplicas":3,"metrics":[{"resource":{"name":"cpu","target":{"averageUtilization":80,"type":"Utilization"}},"type":"Resource"}]}}
        a Apply :01 .spec.maxReplicas
        b Apply :02 .spec.metrics
    "#]]);
    // To apply the same is no conflict, and both own it, each in its words.
    first().apply("b", cpu(50)).check(expect![[r#"
        {"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","spec":{"maxReplicas":3,"metrics":[{"resource":{"name":"cpu","target":{"averageUtilization":50,"type":"Utilization"}},"type":"Resource"}]}}
        a Apply :01 .spec.maxReplicas .spec.targetCPUUtilizationPercentage
        b Apply :02 .spec.metrics
    "#]]);
    // An update takes it over as well.
    first().update("c", |new| new.set(&["spec", "metrics"], cpu(70)["spec"]["metrics"].clone())).check(expect![[r#"
        {"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","spec":{"maxReplicas":3,"metrics":[{"resource":{"name":"cpu","target":{"averageUtilization":70,"type":"Utilization"}},"type":"Resource"}]}}
        a Apply :01 .spec.maxReplicas
        c Update :02 .spec.metrics
    "#]]);
}

#[test]
fn what_was_applied_through_another_version_goes_when_it_is_applied_no_more() {
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 60}});
    let first = || scaler("v2").apply("a", json!({"spec": {"maxReplicas": 3, "behavior": behavior}}));
    let of = |history: &History| history.live.as_ref().and_then(|live| live.get(&["spec", "behavior"])).cloned();
    assert_eq!(of(&first().through("v1").through("v2")), Some(behavior.clone()));
    assert_eq!(of(&first().through("v1").apply("a", json!({"spec": {"maxReplicas": 3}})).through("v2")), None);
    // Not so if another still wants it.
    let both = first().apply("b", json!({"spec": {"behavior": behavior}})).through("v1").apply("a", json!({"spec": {"maxReplicas": 3}}));
    assert_eq!(of(&both.through("v2")), Some(behavior.clone()));
    // An autoscaler of v1 that names no target has one nonetheless in v2, so that none is missing there, as upstream (autoscaling/v1/conversion.go).
    let target = scaler("v1").apply("a", json!({"spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}})).through("v2");
    let left = target.apply("a", json!({"spec": {"maxReplicas": 3}}));
    assert_eq!(left.live.expect("written").get(&["spec", "metrics"]), Some(&cpu(50)["spec"]["metrics"]));
}

#[test]
fn who_speaks_of_a_version_that_is_gone_owns_nothing() {
    let gone = |live: &mut Object| {
        let entry = json!({"manager": "old", "operation": "Apply", "apiVersion": "apps/v1beta1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:replicas": {}}}});
        live.set(&MANAGED_AT, json!([entry]));
    };
    let start = || deployment().apply("me", json!({"spec": {"replicas": 1}})).edit(gone);
    start().apply("me", json!({"spec": {"replicas": 2}})).check(expect![[r#"
        {"spec":{"replicas":2}}
        me Apply :02 .spec.replicas
    "#]]);
    start().update("me", |new| new.set(&["spec", "paused"], true.into())).check(expect![[r#"
        {"spec":{"paused":true,"replicas":1}}
        me Update :02 .spec.paused
    "#]]);
}

fn containers(list: Value) -> Value {
    json!({"spec": {"template": {"spec": {"containers": list}}}})
}

#[test]
fn an_update_owns_what_it_changed() {
    deployment()
        .update("create", |new| {
            new.set(&["spec"], json!({"replicas": 1, "paused": false}));
            new.set(&["metadata", "labels"], json!({"app": "web"}));
        })
        .update("scale", |new| new.set(&["spec", "replicas"], 3.into()))
        .update("unpause", |new| drop(new.remove(&["spec", "paused"])))
        .check(expect![[r#"
            labels {"app":"web"}
            {"spec":{"replicas":3}}
            create Update :01 .metadata.labels .metadata.labels.app .spec
            scale Update :02 .spec.replicas
        "#]]);
}

#[test]
fn a_write_that_changes_nothing_leaves_no_trace() {
    let before = deployment().update("create", |new| new.set(&["spec"], json!({"replicas": 1})));
    let live = before.live.clone();
    assert_eq!(before.update("other", |_| ()).live, live);

    let configuration = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 2}});
    let applied = deployment().apply("me", configuration.clone());
    let live = applied.live.clone();
    assert_eq!(applied.apply("me", configuration).live, live);
}

#[test]
fn the_status_is_owned_through_its_subresource() {
    deployment()
        .update("create", |new| new.set(&["spec"], json!({"replicas": 1})))
        .update_through("controller", "status", |new| new.set(&["status"], json!({"replicas": 1})))
        .update("create", |new| new.set(&["spec", "replicas"], 2.into()))
        .check(expect![[r#"
            {"spec":{"replicas":2},"status":{"replicas":1}}
            controller Update /status :02 .status .status.replicas
            create Update :03 .spec .spec.replicas
        "#]]);
}

#[test]
fn an_apply_owns_what_it_says_and_merges_lists_by_key() {
    deployment()
        .update("create", |new| new.set(&["spec"], containers(json!([{"name": "a", "image": "a:1"}]))["spec"].clone()))
        .apply("sidecar", containers(json!([{"name": "b", "image": "b:1", "ports": [{"containerPort": 80}]}])))
        .check(expect![[r#"
            {"spec":{"template":{"spec":{"containers":[{"image":"a:1","name":"a"},{"image":"b:1","name":"b","ports":[{"containerPort":80}]}]}}}}
            sidecar Apply :02 .spec.template.spec.containers[name="b"] .spec.template.spec.containers[name="b"].image .spec.template.spec.containers[name="b"].name .spec.template.spec.containers[name="b"].ports[containerPort=80,protocol="TCP"] .spec.template.spec.containers[name="b"].ports[containerPort=80,protocol="TCP"].containerPort
            create Update :01 .spec .spec.template .spec.template.spec .spec.template.spec.containers .spec.template.spec.containers[name="a"] .spec.template.spec.containers[name="a"].image .spec.template.spec.containers[name="a"].name
        "#]]);
}

#[test]
fn what_a_manager_no_longer_applies_goes_unless_others_own_it() {
    deployment()
        .apply("me", json!({"metadata": {"labels": {"a": "1", "b": "1"}}, "spec": {"replicas": 1, "paused": true, "minReadySeconds": 3}}))
        .apply("you", json!({"metadata": {"labels": {"b": "1"}}}))
        .update("edit", |new| new.set(&["spec", "minReadySeconds"], 4.into()))
        .apply("me", json!({"spec": {"replicas": 1}}))
        .check(expect![[r#"
            labels {"b":"1"}
            {"spec":{"minReadySeconds":4,"replicas":1}}
            you Apply :02 .metadata.labels.b
            me Apply :04 .spec.replicas
            edit Update :03 .spec.minReadySeconds
        "#]]);
}

#[test]
fn items_that_a_manager_drops_go_with_all_that_is_in_them() {
    deployment()
        .apply("me", containers(json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}])))
        .update("edit", |new| {
            new.set(
                &["spec", "template", "spec", "containers"],
                json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1", "tty": true}]),
            );
        })
        .apply("me", containers(json!([{"name": "a", "image": "a:1"}])))
        .check(expect![[r#"
            {"spec":{"template":{"spec":{"containers":[{"image":"a:1","name":"a"}]}}}}
            me Apply :03 .spec.template.spec.containers[name="a"] .spec.template.spec.containers[name="a"].image .spec.template.spec.containers[name="a"].name
        "#]]);
}

#[test]
fn finalizers_are_a_set_that_several_share() {
    deployment()
        .apply("me", json!({"metadata": {"finalizers": ["x/a", "x/b"]}}))
        .apply("you", json!({"metadata": {"finalizers": ["x/b", "x/c"]}}))
        .apply("me", json!({"metadata": {}}))
        .check(expect![[r#"
            {}
            you Apply :02 .metadata.finalizers[="x/b"] .metadata.finalizers[="x/c"]
        "#]]);
}

#[test]
fn other_values_conflict_and_equal_ones_are_shared() {
    let start = || {
        deployment().update("kubectl-edit", |new| new.set(&["spec"], json!({"replicas": 1, "paused": true}))).update_through(
            "hpa",
            "scale",
            |new| new.set(&["spec", "minReadySeconds"], 1.into()),
        )
    };
    start().check_conflict(
        "me",
        json!({"spec": {"replicas": 2}}),
        expect![[r#"
        Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas
        FieldManagerConflict | conflict with "kubectl-edit" using apps/v1 | .spec.replicas
    "#]],
    );
    start().apply("other", json!({"spec": {"paused": true}})).check_conflict(
        "me",
        json!({"spec": {"replicas": 2, "paused": false, "minReadySeconds": 5}}),
        expect![[r#"
            Apply failed with 4 conflicts: conflicts with "hpa" with subresource "scale" using apps/v1:
            - .spec.minReadySeconds
            conflicts with "kubectl-edit" using apps/v1:
            - .spec.paused
            - .spec.replicas
            conflicts with "other":
            - .spec.paused
            FieldManagerConflict | conflict with "hpa" with subresource "scale" using apps/v1 | .spec.minReadySeconds
            FieldManagerConflict | conflict with "kubectl-edit" using apps/v1 | .spec.paused
            FieldManagerConflict | conflict with "kubectl-edit" using apps/v1 | .spec.replicas
            FieldManagerConflict | conflict with "other" | .spec.paused
        "#]],
    );
    start().apply("me", json!({"spec": {"replicas": 1}})).check(expect![[r#"
        {"spec":{"minReadySeconds":1,"paused":true,"replicas":1}}
        me Apply :03 .spec.replicas
        kubectl-edit Update :01 .spec .spec.paused .spec.replicas
        hpa Update /scale :02 .spec.minReadySeconds
    "#]]);
    start().force("me", json!({"spec": {"replicas": 2}})).check(expect![[r#"
        {"spec":{"minReadySeconds":1,"paused":true,"replicas":2}}
        me Apply :03 .spec.replicas
        kubectl-edit Update :01 .spec .spec.paused
        hpa Update /scale :02 .spec.minReadySeconds
    "#]]);
}

#[test]
fn conflicts_name_items_by_their_keys() {
    deployment()
        .apply("other", containers(json!([{"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "name": "http"}]}])))
        .check_conflict(
            "me",
            containers(json!([{"name": "a", "image": "a:2", "ports": [{"containerPort": 80, "name": "web"}]}])),
            expect![[r#"
                Apply failed with 2 conflicts: conflicts with "other":
                - .spec.template.spec.containers[name="a"].image
                - .spec.template.spec.containers[name="a"].ports[containerPort=80,protocol="TCP"].name
                FieldManagerConflict | conflict with "other" | .spec.template.spec.containers[name="a"].image
                FieldManagerConflict | conflict with "other" | .spec.template.spec.containers[name="a"].ports[containerPort=80,protocol="TCP"].name
            "#]],
        );
}

#[test]
fn atomic_structs_and_maps_have_one_owner() {
    deployment()
        .apply("me", json!({"spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"nodeSelector": {"a": "b"}}}}}))
        .check(expect![[r#"
            {"spec":{"selector":{"matchLabels":{"app":"web"}},"template":{"spec":{"nodeSelector":{"a":"b"}}}}}
            me Apply :01 .spec.selector .spec.template.spec.nodeSelector
        "#]]);
    deployment().apply("me", json!({"spec": {"selector": {"matchLabels": {"app": "web"}}}})).check_conflict(
        "you",
        json!({"spec": {"selector": {"matchLabels": {"tier": "web"}}}}),
        expect![[r#"
            Apply failed with 1 conflict: conflict with "me": .spec.selector
            FieldManagerConflict | conflict with "me" | .spec.selector
        "#]],
    );
}

#[test]
fn an_empty_container_is_owned_as_such() {
    deployment().apply("me", json!({"spec": {"template": {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}}})).check(expect![[r#"
        {"spec":{"template":{"spec":{"volumes":[{"emptyDir":{},"name":"v"}]}}}}
        me Apply :01 .spec.template.spec.volumes[name="v"] .spec.template.spec.volumes[name="v"].emptyDir .spec.template.spec.volumes[name="v"].name
    "#]]);
}

#[test]
fn objects_without_owners_get_one_before_the_first_apply() {
    let mut start = deployment();
    start.live = Some(object(json!({"metadata": {"name": "it"}, "spec": {"replicas": 1, "paused": true}})));
    start.apply("me", json!({"spec": {"paused": true}})).check(expect![[r#"
        {"spec":{"paused":true,"replicas":1}}
        me Apply :01 .spec.paused
        before-first-apply Update :01 .spec .spec.paused .spec.replicas
    "#]]);
}

#[test]
fn managed_fields_may_be_reset_but_not_applied() {
    deployment()
        .update("create", |new| new.set(&["spec"], json!({"replicas": 1})))
        .update("reset", |new| new.set(&["metadata", "managedFields"], json!([{}])))
        .check(expect![[r#"
            {"spec":{"replicas":1}}
        "#]]);
    deployment()
        .update("create", |new| new.set(&["spec"], json!({"replicas": 1})))
        .update("python", |new| drop(new.remove(&["metadata", "managedFields"])))
        .check(expect![[r#"
            {"spec":{"replicas":1}}
            create Update :01 .spec .spec.replicas
        "#]]);
    let status = deployment().try_apply("me", false, &json!({"metadata": {"managedFields": [{}]}})).expect_err("refused");
    assert_eq!((status.code, &*status.message), (400, "metadata.managedFields must be nil"));
}

#[test]
fn items_that_cannot_be_told_apart_are_refused() {
    let mut it = deployment();
    let status = it.try_apply("me", false, &containers(json!([{"name": "a"}, {"name": "a"}]))).expect_err("refused");
    expect![[r#"failed to create typed patch object (it; apps/v1, Kind=Deployment): .spec.template.spec.containers: duplicate entries for key [name="a"]"#]].assert_eq(&status.message);
    let status = it.try_apply("me", false, &containers(json!([{"image": "a"}]))).expect_err("refused");
    expect![[r#"failed to create typed patch object (it; apps/v1, Kind=Deployment): .spec.template.spec.containers: element 0: associative list with keys has an element that omits all key fields ["name"] (and doesn't have default values for any key fields)"#]].assert_eq(&status.message);
}

#[test]
fn the_oldest_updaters_become_one() {
    let mut it = deployment();
    for n in 0..13 {
        it = it.update(&format!("m{n}"), |new| new.set(&["metadata", "labels", &format!("l{n}")], "x".into()));
    }
    it.check(expect![[r#"
        labels {"l0":"x","l1":"x","l10":"x","l11":"x","l12":"x","l2":"x","l3":"x","l4":"x","l5":"x","l6":"x","l7":"x","l8":"x","l9":"x"}
        {}
        ancient-changes Update :04 .metadata.labels .metadata.labels.l0 .metadata.labels.l1 .metadata.labels.l2 .metadata.labels.l3
        m4 Update :05 .metadata.labels.l4
        m5 Update :06 .metadata.labels.l5
        m6 Update :07 .metadata.labels.l6
        m7 Update :08 .metadata.labels.l7
        m8 Update :09 .metadata.labels.l8
        m9 Update :10 .metadata.labels.l9
        m10 Update :11 .metadata.labels.l10
        m11 Update :12 .metadata.labels.l11
        m12 Update :13 .metadata.labels.l12
    "#]]);
}

#[test]
fn kubectl_takes_over_what_it_applied_from_the_client() {
    let last = r#"{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":1}}"#;
    let start = || {
        deployment().update("kubectl-client-side-apply", |new| {
            new.set(&["spec"], json!({"replicas": 1, "paused": true}));
            new.set(&LAST_APPLIED, last.into());
        })
    };
    let it = start().apply("kubectl", json!({"spec": {"replicas": 2}}));
    assert_eq!(it.live.as_ref().map(|live| live.str(&LAST_APPLIED)), Some("{\"metadata\":{\"name\":\"it\"},\"spec\":{\"replicas\":2}}\n"));
    start().check_conflict(
        "kubectl",
        json!({"spec": {"replicas": 2, "paused": false}}),
        expect![[r#"
        Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: .spec.paused
        FieldManagerConflict | conflict with "kubectl-client-side-apply" using apps/v1 | .spec.paused
    "#]],
    );
}

#[test]
fn applied_items_keep_their_order_among_the_live_ones() {
    fn check(live: &str, applied: &str, expected: &str) {
        let list = |text: &str| -> Value { text.split_whitespace().map(Value::from).collect() };
        let kind = kind("apps", "v1", "Deployment");
        let set = Shape::of_kind(&kind).field("metadata").0.field("finalizers").0;
        assert_eq!(tree::merge(Some(&list(live)), &list(applied), set), list(expected), "{live} + {applied}");
    }
    check("a b", "c", "a b c");
    check("a b", "c a", "c a b");
    check("a b c", "a c", "a b c");
    check("a x b", "b a", "x b a");
    check("a b", "b n a", "b n a");
    check("", "a", "a");
}

fn any_configuration() -> impl Strategy<Value = Value> {
    let labels = prop::collection::btree_map("[a-c]", "[xy]", 0..3);
    let container = ("[ab]", prop::option::of("[xy]"), prop::option::of(prop::bool::ANY));
    let list = prop::collection::btree_map("[ab]", container, 0..3);
    (labels, prop::option::of(0..3), list).prop_map(|(labels, replicas, list)| {
        let list: Vec<Value> = list.into_iter().map(|(name, (_, image, tty))| json!({"name": name, "image": image, "tty": tty})).collect();
        json!({"metadata": {"labels": labels}, "spec": {"replicas": replicas, "template": {"spec": {"containers": list}}}})
    })
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(first in any_configuration(), second in any_configuration()) {
        let once = deployment().apply("you", first).force("me", second.clone());
        let live = once.live.clone();
        prop_assert_eq!(once.apply("me", second).live, live);
    }

    #[test]
    fn managers_of_different_fields_commute(replicas in 0..3, labels in prop::collection::btree_map("[a-c]", "[xy]", 1..3)) {
        let mine = json!({"spec": {"replicas": replicas}});
        let yours = json!({"metadata": {"labels": labels}});
        let timeless = |history: History| {
            let mut live = history.live.expect("written");
            let mut entries = take_managed(&mut live).and_then(|list| list.as_array().cloned()).unwrap_or_default();
            entries.iter_mut().for_each(|entry| entry["time"] = Value::Null);
            entries.sort_by_key(Value::to_string);
            (live, entries)
        };
        prop_assert_eq!(
            timeless(deployment().apply("me", mine.clone()).apply("you", yours.clone())),
            timeless(deployment().apply("you", yours).apply("me", mine))
        );
    }

    #[test]
    fn applying_nothing_removes_all_that_was_applied(configuration in any_configuration()) {
        let start = deployment().update("create", |new| new.set(&["spec", "paused"], true.into()));
        let before = without_managed(start.live.clone().expect("written"));
        let after = start.apply("me", configuration).apply("me", json!({}));
        prop_assert_eq!(without_managed(after.live.expect("written")), before);
    }
}

#[test]
fn every_kind_of_the_schema_has_a_shape() {
    // Shapes are made on demand; a cycle in the schema must not make one endless.
    let all = Schema::get().iter().filter(|message| message.atomic).count();
    assert!(all > 20, "{all} atomic structs are in the schema");
}

#[test]
fn a_record_of_owners_that_cannot_be_read_is_forgotten_by_an_update_and_stops_an_apply() {
    let record =
        |entry: Value| deployment().apply("first", json!({"spec": {"paused": true}})).edit(|live| live.set(&MANAGED_AT, json!([entry])));
    let fields = json!({"f:spec": {"f:paused": {}}});
    for (entry, why) in [
        (json!("text"), "operation: must be `Apply` or `Update`"),
        (json!({"operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": fields}), "apiVersion: must not be empty"),
        (json!({"operation": "Apply", "apiVersion": "apps/v1", "fieldsV1": fields}), "fieldsType: must be `FieldsV1`"),
        (
            json!({"operation": "Apply", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {"spec": {}}}),
            "fieldsV1: \"spec\" is not a step",
        ),
    ] {
        let mut broken = record(entry.clone());
        let status = broken.try_apply("second", true, &json!({"spec": {"replicas": 1}})).expect_err("refused");
        assert_eq!((status.code, status.reason), (500, "InternalError"));
        let wanted = format!("failed to decode managed fields: metadata.managedFields[0].{why}");
        assert!(status.message.contains(&wanted), "{}", status.message);
        record(entry).update("second", |live| live.set(&["spec", "replicas"], 1.into())).check(expect![[r#"
            {"spec":{"paused":true,"replicas":1}}
        "#]]);
    }
}

#[test]
fn owners_that_a_client_sends_stand_unless_they_cannot_be_read_and_an_empty_list_forgets_all() {
    let live = || deployment().apply("first", json!({"spec": {"paused": true}}));
    let known = "first Apply :01 .spec.paused\n";
    let own = json!({"manager": "mine", "operation": "Update", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:09Z",
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:paused": {}}}});
    for (sent, owners) in [
        (Value::Null, known),
        (json!([{"manager": "mine"}]), known),
        (json!([own]), "mine Update :09 .spec.paused\n"),
        (json!([{}]), ""),
        (json!([]), ""),
    ] {
        let written = live().update("second", |live| live.set(&MANAGED_AT, sent.clone()));
        assert_eq!(written.show(), format!("{{\"spec\":{{\"paused\":true}}}}\n{owners}"), "{sent}");
        // Through a part of the object nothing is sent.
        let part = live().update_through("second", "status", |live| live.set(&MANAGED_AT, sent.clone()));
        assert_eq!(part.show(), live().show(), "{sent}");
    }
}
