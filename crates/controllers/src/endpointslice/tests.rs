use expect_test::{Expect, expect};
use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, PodCondition, PodSpec, PodStatus, ServicePort, ServiceSpec},
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, Time},
        util::intstr::IntOrString,
    },
};

use super::*;

/// `svc [headless] [publish] [external] [none] port=80:8080`, then `pod NAME ip=10.0.0.1 [ready] [leaving] [done] [named=web:8081]`.
struct Case {
    service: Option<Service>,
    pods: Vec<Arc<Pod>>,
}

fn case(text: &str) -> Case {
    let mut case = Case { service: None, pods: Vec::new() };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        let has = |word: &str| words.contains(&word);
        if words[0] == "svc" {
            let (port, target) =
                value("port").and_then(|ports| ports.split_once(':').map(|(one, two)| (one.to_owned(), two.to_owned()))).unwrap();
            let target = target.parse().map_or(IntOrString::String(target), IntOrString::Int);
            let spec = ServiceSpec {
                selector: (!has("none")).then(|| [("app".to_owned(), "web".to_owned())].into()),
                publish_not_ready_addresses: Some(has("publish")),
                type_: Some(if has("external") { "ExternalName" } else { "ClusterIP" }.to_owned()),
                ports: Some(vec![ServicePort { port: port.parse().unwrap(), target_port: Some(target), ..ServicePort::default() }]),
                ..ServiceSpec::default()
            };
            let metadata = ObjectMeta { name: Some("web".to_owned()), uid: Some("svc".to_owned()), ..ObjectMeta::default() };
            case.service = Some(Service { metadata, spec: Some(spec), status: None });
            continue;
        }
        let mut pod = Pod::default();
        pod.metadata.name = Some(words[1].to_owned());
        pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        pod.metadata.deletion_timestamp = has("leaving").then_some(Time(jiff::Timestamp::UNIX_EPOCH));
        let ports = value("named").map(|port| {
            let (name, number) = port.split_once(':').unwrap();
            vec![ContainerPort { name: Some(name.to_owned()), container_port: number.parse().unwrap(), ..ContainerPort::default() }]
        });
        pod.spec = Some(PodSpec { containers: vec![Container { ports, ..Container::default() }], ..PodSpec::default() });
        let ready = PodCondition {
            type_: "Ready".to_owned(),
            status: if has("ready") { "True" } else { "False" }.to_owned(),
            ..PodCondition::default()
        };
        let phase = if has("done") { "Succeeded" } else { "Running" };
        pod.status =
            Some(PodStatus { pod_ip: value("ip"), phase: Some(phase.to_owned()), conditions: Some(vec![ready]), ..PodStatus::default() });
        case.pods.push(Arc::new(pod));
    }
    case
}

fn shown(slice: &EndpointSlice) -> String {
    let ports: Vec<_> = slice.ports.iter().flatten().map(|port| port.port.unwrap().to_string()).collect();
    let endpoints: Vec<_> = slice
        .endpoints
        .iter()
        .flatten()
        .map(|endpoint| {
            let conditions = endpoint.conditions.as_ref().unwrap();
            let letters = [("r", conditions.ready), ("s", conditions.serving), ("t", conditions.terminating)];
            let set: String = letters.iter().filter(|(_, is)| *is == Some(true)).map(|(letter, _)| *letter).collect();
            format!("{}({set})", endpoint.addresses[0])
        })
        .collect();
    format!("{} on {}", endpoints.join(" "), ports.join(","))
}

fn run(case: &Case, slices: &[Arc<EndpointSlice>]) -> (Plan, String) {
    let plan = plan(case.service.as_ref(), &case.pods, slices, |_| None);
    let mut steps: Vec<_> = plan.create.iter().map(|slice| format!("create {}", shown(slice))).collect();
    steps.extend(plan.replace.iter().map(|slice| format!("replace {}", shown(slice))));
    steps.extend(plan.delete.iter().map(|name| format!("delete {name}")));
    (plan, steps.join("; "))
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&run(&case(text), &[]).1);
}

/// Plans for `before`, makes it so, and plans for `after`.
fn check_change(before: &str, after: &str, expected: Expect) {
    let (first, _) = run(&case(before), &[]);
    let named = first.create.into_iter().enumerate().map(|(index, mut slice)| {
        slice.metadata.name = Some(format!("web-{index}"));
        Arc::new(slice)
    });
    let slices: Vec<_> = named.collect();
    expected.assert_eq(&run(&case(after), &slices).1);
}

#[test]
fn ready_pods_are_ready_endpoints_and_others_are_not() {
    check("svc port=80:8080\npod a ip=10.0.0.1 ready\npod b ip=10.0.0.2", expect!["create 10.0.0.1(rs) 10.0.0.2() on 8080"]);
}

#[test]
fn a_pod_that_is_ending_still_serves_but_is_not_ready() {
    check("svc port=80:8080\npod a ip=10.0.0.1 ready leaving", expect!["create 10.0.0.1(st) on 8080"]);
}

#[test]
fn finished_pods_and_pods_without_address_are_left_out() {
    check("svc port=80:8080\npod a ip=10.0.0.1 done\npod b ready", expect!["create  on 8080"]);
}

#[test]
fn unready_pods_are_published_where_the_service_says_so() {
    check("svc publish port=80:8080\npod a ip=10.0.0.1", expect!["create 10.0.0.1(r) on 8080"]);
}

#[test]
fn pods_whose_named_port_differs_are_in_slices_of_their_own() {
    check(
        "svc port=80:web\npod a ip=10.0.0.1 ready named=web:8080\npod b ip=10.0.0.2 ready named=web:9090",
        expect!["create 10.0.0.1(rs) on 8080; create 10.0.0.2(rs) on 9090"],
    );
}

#[test]
fn a_service_without_a_selector_or_of_another_type_has_none() {
    check("svc none port=80:80\npod a ip=10.0.0.1 ready", expect![""]);
    check("svc external port=80:80\npod a ip=10.0.0.1 ready", expect![""]);
}

#[test]
fn what_is_right_is_not_written_again() {
    let same = "svc port=80:8080\npod a ip=10.0.0.1 ready";
    check_change(same, same, expect![""]);
}

#[test]
fn one_changed_pod_is_one_write() {
    check_change(
        "svc port=80:8080\npod a ip=10.0.0.1 ready\npod b ip=10.0.0.2 ready",
        "svc port=80:8080\npod a ip=10.0.0.1 ready\npod b ip=10.0.0.2\npod c ip=10.0.0.3 ready",
        expect!["replace 10.0.0.1(rs) 10.0.0.2() 10.0.0.3(rs) on 8080"],
    );
}

#[test]
fn the_last_endpoint_leaves_an_empty_slice_and_the_service_takes_it_along() {
    let one = "svc port=80:8080\npod a ip=10.0.0.1 ready";
    check_change(one, "svc port=80:8080", expect!["replace  on 8080"]);
    check_change(one, "", expect!["delete web-0"]);
}

#[test]
fn a_changed_target_port_moves_everything_to_a_new_slice() {
    check_change(
        "svc port=80:8080\npod a ip=10.0.0.1 ready",
        "svc port=80:9090\npod a ip=10.0.0.1 ready",
        expect!["create 10.0.0.1(rs) on 9090; delete web-0"],
    );
}

#[test]
fn a_slice_holds_at_most_a_hundred() {
    let pods: Vec<_> = (0..150).map(|index| format!("pod p{index} ip=10.0.{}.{} ready", index / 100, index % 100 + 1)).collect();
    let (plan, _) = run(&case(&format!("svc port=80:80\n{}", pods.join("\n"))), &[]);
    assert_eq!(plan.create.iter().map(|slice| slice.endpoints.iter().flatten().count()).collect::<Vec<_>>(), [100, 50]);
}
