use expect_test::{Expect, expect};
use k8s_openapi::{
    api::core::v1::{PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use super::*;

const NOW: i64 = 1_000_000;

fn time(age: &str) -> Time {
    let minutes: i64 = age.trim_end_matches('m').parse().expect("ages are in minutes");
    Time(Timestamp::from_second(NOW - minutes * 60).unwrap())
}

/// `rs web replicas=2 [min-ready=300] [deleting]`, then `pod NAME [ready|unready|leaving|failed] [orphan|other|alien] age=5m [ready-for=1m]`.
fn check(case: &str, expected: Expect) {
    let mut set = ReplicaSet::default();
    let mut pods = Vec::new();
    for line in case.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        let has = |word: &str| words.contains(&word);
        match words[0] {
            "rs" => {
                set.metadata.name = Some(words[1].to_owned());
                set.metadata.uid = Some("set".to_owned());
                set.metadata.deletion_timestamp = has("deleting").then(|| time("0m"));
                set.spec = ReplicaSetSpec {
                    replicas: value("replicas").map(|number| number.parse().unwrap()),
                    min_ready_seconds: value("min-ready").map(|number| number.parse().unwrap()),
                    selector: LabelSelector { match_labels: Some([("app".to_owned(), "web".to_owned())].into()), ..Default::default() },
                    ..ReplicaSetSpec::default()
                };
            }
            _ => {
                let mut pod = Pod::default();
                pod.metadata.name = Some(words[1].to_owned());
                pod.metadata.creation_timestamp = value("age").map(|age| time(&age));
                pod.metadata.labels = Some([("app".to_owned(), if has("alien") { "db" } else { "web" }.to_owned())].into());
                pod.metadata.deletion_timestamp = has("leaving").then(|| time("0m"));
                if !has("orphan") {
                    let mut reference = owner::reference(&set);
                    if has("other") {
                        reference.uid = "somebody".to_owned();
                    }
                    pod.metadata.owner_references = Some(vec![reference]);
                }
                pod.spec = Some(PodSpec { node_name: Some("n".to_owned()), ..PodSpec::default() });
                let ready = PodCondition {
                    type_: "Ready".to_owned(),
                    status: if has("ready") { "True" } else { "False" }.to_owned(),
                    last_transition_time: value("ready-for").or(value("age")).map(|age| time(&age)),
                    ..PodCondition::default()
                };
                let phase = if has("failed") { "Failed" } else { "Running" };
                pod.status = Some(PodStatus { phase: Some(phase.to_owned()), conditions: Some(vec![ready]), ..PodStatus::default() });
                pods.push(Arc::new(pod));
            }
        }
    }
    let plan = plan(&set, &pods, Timestamp::from_second(NOW).unwrap());
    let mut steps: Vec<String> = Vec::new();
    let names = |verb: &str, pods: &[Arc<Pod>]| pods.iter().map(|pod| format!("{verb} {}", pod.name_any())).collect::<Vec<_>>();
    steps.extend(names("adopt", &plan.adopt));
    steps.extend(names("release", &plan.release));
    if plan.create > 0 {
        steps.push(format!("create {}", plan.create));
    }
    steps.extend(names("delete", &plan.delete));
    steps.push(format!("{} live", plan.status.replicas));
    steps.push(format!("{} available", plan.status.available_replicas.unwrap()));
    steps.extend(plan.wake.map(|wake| format!("wake in {wake:?}")));
    expected.assert_eq(&steps.join(", "));
}

#[test]
fn missing_pods_are_created() {
    check("rs web replicas=3\npod a ready age=9m", expect!["create 2, 1 live, 1 available"]);
}

#[test]
fn scale_down_prefers_unready_then_newest() {
    check(
        "rs web replicas=1\npod a ready age=9m\npod b unready age=8m\npod c ready age=1m",
        expect!["delete b, delete c, 3 live, 2 available"],
    );
}

#[test]
fn finished_and_leaving_pods_are_replaced() {
    check("rs web replicas=2\npod a failed age=9m\npod b leaving age=8m\npod c ready age=1m", expect!["create 1, 1 live, 1 available"]);
}

#[test]
fn orphans_are_adopted_and_others_left_alone() {
    check("rs web replicas=2\npod a ready orphan age=9m\npod b ready other age=8m", expect!["adopt a, create 1, 1 live, 1 available"]);
}

#[test]
fn a_pod_whose_labels_left_the_selector_is_released_and_replaced() {
    check("rs web replicas=1\npod a ready alien age=9m", expect!["release a, create 1, 0 live, 0 available"]);
}

#[test]
fn a_deleted_set_touches_no_pod() {
    check("rs web replicas=3 deleting\npod a ready age=9m\npod b ready orphan age=8m", expect!["1 live, 1 available"]);
}

#[test]
fn a_pod_is_available_after_it_was_ready_long_enough() {
    check(
        "rs web replicas=2 min-ready=300\npod a ready age=9m\npod b ready age=9m ready-for=1m",
        expect!["2 live, 1 available, wake in 240s"],
    );
}
