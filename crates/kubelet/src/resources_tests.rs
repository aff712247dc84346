use super::*;

fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
    let list = |items: &[(&str, &str)]| Some((items.iter()).map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect());
    Container {
        resources: Some(k8s_openapi::api::core::v1::ResourceRequirements { requests: list(requests), limits: list(limits), claims: None }),
        ..Container::default()
    }
}

fn pod(containers: Vec<Container>) -> PodSpec {
    PodSpec { containers, ..PodSpec::default() }
}

#[test]
fn quantities_are_read_in_all_their_forms() {
    for (text, expected) in [
        ("1", 1000),
        ("100m", 100),
        ("1.5", 1500),
        (".5", 500),
        ("2Ki", 2_048_000),
        ("1e3", 1_000_000),
        ("1E", 1_000_000_000_000_000_000_000),
        ("1u", 1),
        ("12E-1", 1200),
    ] {
        assert_eq!(milli(&Quantity(text.into())), expected, "{text}");
    }
}

#[test]
fn the_class_follows_requests_and_limits() {
    let all = [("cpu", "1"), ("memory", "1Gi")];
    for (containers, expected) in [
        (vec![container(&[], &[])], Qos::BestEffort),
        (vec![container(&all, &all)], Qos::Guaranteed),
        (vec![container(&[], &all)], Qos::Guaranteed),
        (vec![container(&all, &all), container(&[], &[])], Qos::Burstable),
        (vec![container(&[("cpu", "1")], &[])], Qos::Burstable),
        (vec![container(&[], &[("cpu", "1")])], Qos::Burstable),
        (vec![container(&[("cpu", "500m"), ("memory", "1Gi")], &all)], Qos::Burstable),
    ] {
        assert_eq!(qos(&pod(containers)), expected);
    }
}

#[test]
fn shares_and_quota_are_those_of_upstream() {
    let it = of_container(&container(&[("cpu", "250m")], &[("cpu", "500m"), ("memory", "64Mi")]));
    assert_eq!(it.cpu_shares, Some(256));
    assert_eq!((it.cpu_quota_us, it.cpu_period_us), (Some(50_000), Some(100_000)));
    assert_eq!(it.memory_bytes, Some(64 << 20));
    let none = of_container(&container(&[], &[]));
    assert_eq!((none.cpu_shares, none.cpu_quota_us, none.memory_bytes), (Some(2), None, None));
}

#[test]
fn a_pod_is_limited_only_where_all_its_containers_are() {
    let limited = || container(&[], &[("cpu", "1"), ("memory", "1Mi")]);
    let both = of_pod(&pod(vec![limited(), limited()]));
    assert_eq!((both.cpu_quota_us, both.memory_bytes), (Some(200_000), Some(2 << 20)));
    let one = of_pod(&pod(vec![limited(), container(&[], &[])]));
    assert_eq!((one.cpu_quota_us, one.memory_bytes), (None, None));
    assert_eq!(one.cpu_shares, Some(1024));
}

#[test]
fn a_pods_own_limits_count_before_those_of_its_containers() {
    let with = |own: &[(&str, &str)]| {
        let own = container(&[], own).resources;
        of_pod(&PodSpec { resources: own, ..pod(vec![container(&[], &[])]) })
    };
    let limited = with(&[("cpu", "2"), ("memory", "64Mi")]);
    assert_eq!((limited.cpu_quota_us, limited.memory_bytes), (Some(200_000), Some(64 << 20)));
    let policy = |container: Container, resource: &str, policy: &str| {
        let policy = k8s_openapi::api::core::v1::ContainerResizePolicy { resource_name: resource.into(), restart_policy: policy.into() };
        Container { resize_policy: Some(vec![policy]), ..container }
    };
    let grown = with(&[("cpu", "2"), ("memory", "96Mi")]);
    for (container, restarts) in [
        (policy(container(&[], &[]), "memory", "RestartContainer"), true),
        (policy(container(&[], &[]), "memory", "NotRequired"), false),
        (policy(container(&[], &[]), "cpu", "RestartContainer"), false),
        // What has a limit of its own is not bound by that of its pod.
        (policy(container(&[], &[("memory", "1Mi")]), "memory", "RestartContainer"), false),
    ] {
        assert_eq!(restarts_with_pod(&container, &limited, &grown), restarts, "{container:?}");
    }
}

#[test]
fn a_resource_field_is_divided_and_rounded_up() {
    let it = container(&[("cpu", "250m")], &[("memory", "64Mi")]);
    let node = List::from([("cpu".to_owned(), Quantity("2".into()))]);
    let field = |resource, divisor: &str| field(&it, resource, Some(&Quantity(divisor.into())), &node).unwrap();
    assert_eq!(field("requests.cpu", "1"), "1");
    assert_eq!(field("requests.cpu", "1m"), "250");
    assert_eq!(field("limits.memory", "1Mi"), "64");
    assert_eq!(field("limits.cpu", "1"), "2");
}
