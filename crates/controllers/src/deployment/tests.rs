use expect_test::{Expect, expect};
use k8s_openapi::{
    api::{
        apps::v1::{DeploymentSpec, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment},
        core::v1::{Container, PodSpec},
    },
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};

use super::*;

const NOW: i64 = 1_000_000;

fn template(image: &str) -> PodTemplateSpec {
    let container = Container { name: "web".to_owned(), image: Some(image.to_owned()), ..Container::default() };
    let labels = [("app".to_owned(), "web".to_owned())].into();
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
    }
}

fn amount(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
}

/// `deploy image=v2 replicas=4 [surge=1] [unavailable=0] [recreate] [paused] [history=1]`, then
/// `rs NAME image=v1 replicas=4 [pods=4] [available=4] revision=1 [desired=4] [age=1]`.
fn check(case: &str, expected: Expect) {
    let mut deployment = Deployment::default();
    let mut sets = Vec::new();
    for line in case.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        let number = |key: &str| value(key).map(|number| number.parse::<i32>().unwrap());
        let image = value("image").unwrap();
        if words[0] == "deploy" {
            deployment.metadata.name = Some("web".to_owned());
            deployment.metadata.uid = Some("deploy".to_owned());
            let rolling = RollingUpdateDeployment {
                max_surge: value("surge").as_deref().map(amount),
                max_unavailable: value("unavailable").as_deref().map(amount),
            };
            let recreate = words.contains(&"recreate");
            let kind = if recreate { "Recreate" } else { "RollingUpdate" };
            deployment.spec = DeploymentSpec {
                replicas: number("replicas"),
                paused: words.contains(&"paused").then_some(true),
                revision_history_limit: number("history"),
                strategy: Some(DeploymentStrategy { type_: Some(kind.to_owned()), rolling_update: (!recreate).then_some(rolling) }),
                selector: LabelSelector { match_labels: Some([("app".to_owned(), "web".to_owned())].into()), ..LabelSelector::default() },
                template: template(&image),
                ..DeploymentSpec::default()
            };
            continue;
        }
        let mut set = new_set(&deployment, words[1], number("replicas").unwrap(), Default::default());
        set.metadata.name = Some(words[1].to_owned());
        set.metadata.uid = Some(words[1].to_owned());
        set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(i64::from(number("age").unwrap_or(0)).abs()).unwrap()));
        let wanted = deployment.spec.replicas.unwrap();
        let room = plan::Room::of(&deployment.spec, wanted);
        let desired = number("desired").unwrap_or(wanted);
        let max = desired + room.surge;
        let mut annotations: std::collections::BTreeMap<String, String> =
            [(DESIRED.to_owned(), desired.to_string()), (MAX.to_owned(), max.to_string())].into();
        annotations.extend(value("revision").map(|revision| (REVISION.to_owned(), revision)));
        set.metadata.annotations = Some(annotations);
        set.spec.template = Some(template(&image));
        set.status = Some(ReplicaSetStatus {
            replicas: number("pods").unwrap_or(number("replicas").unwrap()),
            available_replicas: number("available").or(number("replicas")),
            ready_replicas: number("available").or(number("replicas")),
            ..ReplicaSetStatus::default()
        });
        sets.push(Arc::new(set));
    }
    let plan = plan(&deployment, &sets, Timestamp::from_second(NOW).unwrap());
    let mut shown: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    shown.extend(plan.revision.map(|revision| format!("revision {revision}")));
    expected.assert_eq(&shown.join(", "));
}

#[test]
fn a_new_deployment_gets_a_set_with_all_replicas() {
    check("deploy image=v1 replicas=3", expect!["create the new set with 3, revision 1"]);
}

#[test]
fn an_update_begins_with_the_surge() {
    check(
        "deploy image=v2 replicas=4 surge=1 unavailable=0\nrs a image=v1 replicas=4 revision=1",
        expect!["create the new set with 1, revision 2"],
    );
}

#[test]
fn old_pods_go_only_as_new_ones_become_available() {
    check(
        "deploy image=v2 replicas=4 surge=1 unavailable=0\nrs a image=v1 replicas=4 revision=1\nrs b image=v2 replicas=1 available=0 revision=2",
        expect!["revision 2"],
    );
    check(
        "deploy image=v2 replicas=4 surge=1 unavailable=0\nrs a image=v1 replicas=4 revision=1\nrs b image=v2 replicas=1 revision=2",
        expect!["scale a from 4 to 3, revision 2"],
    );
}

#[test]
fn a_broken_image_never_takes_working_pods_away() {
    check(
        "deploy image=broken replicas=3 surge=1 unavailable=0\nrs a image=v1 replicas=3 revision=1\nrs b image=broken replicas=1 available=0 revision=2",
        expect!["revision 2"],
    );
}

#[test]
fn unavailable_old_pods_go_first() {
    check(
        "deploy image=v2 replicas=4 surge=1 unavailable=1\nrs a image=v1 replicas=3 available=1 revision=1\nrs b image=v2 replicas=2 available=2 revision=2",
        expect!["scale a from 3 to 1, revision 2"],
    );
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    check(
        "deploy image=v2 replicas=2 recreate\nrs a image=v1 replicas=2 revision=1",
        expect!["create the new set with 0, scale a from 2 to 0, revision 2"],
    );
    check(
        "deploy image=v2 replicas=2 recreate\nrs a image=v1 replicas=0 pods=1 revision=1\nrs b image=v2 replicas=0 revision=2",
        expect!["revision 2"],
    );
    check(
        "deploy image=v2 replicas=2 recreate\nrs a image=v1 replicas=0 revision=1\nrs b image=v2 replicas=0 revision=2",
        expect!["scale b from 0 to 2, revision 2"],
    );
}

#[test]
fn a_paused_deployment_starts_no_update_but_scales() {
    check("deploy image=v2 replicas=3 paused\nrs a image=v1 replicas=3 revision=1", expect![""]);
    check("deploy image=v2 replicas=5 paused\nrs a image=v1 replicas=3 desired=3 revision=1", expect!["scale a from 3 to 5"]);
}

#[test]
fn scaling_in_the_middle_of_an_update_keeps_the_proportions() {
    check(
        "deploy image=v2 replicas=20 surge=0 unavailable=50%\nrs a image=v1 replicas=5 desired=10 revision=1\nrs b image=v2 replicas=5 desired=10 revision=2",
        expect!["scale a from 5 to 10, scale b from 5 to 10, revision 2"],
    );
}

#[test]
fn an_undo_raises_the_old_set_to_the_newest_revision() {
    check(
        "deploy image=v1 replicas=2 surge=1 unavailable=0\nrs a image=v1 replicas=0 revision=1\nrs b image=v2 replicas=2 revision=2",
        expect!["annotate a, scale a from 0 to 1, revision 3"],
    );
}

#[test]
fn old_sets_beyond_the_history_are_deleted_oldest_first() {
    check(
        "deploy image=v3 replicas=1 history=1\nrs a image=v1 replicas=0 revision=1\nrs b image=v2 replicas=0 revision=2\nrs c image=v3 replicas=1 revision=3",
        expect!["delete a, revision 3"],
    );
}

#[test]
fn percentages_round_the_surge_up_and_the_unavailable_down() {
    let spec = DeploymentSpec::default();
    assert_eq!(plan::Room::of(&spec, 10), plan::Room { surge: 3, unavailable: 2 });
    assert_eq!(plan::Room::of(&spec, 1), plan::Room { surge: 1, unavailable: 0 });
}
