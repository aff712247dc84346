use serde_json::{Value, json};

use super::*;

fn object(value: Value) -> Object {
    Object::from_value(value).expect("an object")
}

fn container(name: &str, requests: Value, limits: Value) -> Value {
    json!({"name": name, "resources": {"requests": requests, "limits": limits}})
}

#[track_caller]
fn uses(group: &str, resource: &str, value: Value, expected: &str) {
    let used: Vec<String> = usage(group, resource, &object(value)).iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    assert_eq!(used.join(" "), expected);
}

#[test]
fn a_pod_uses_what_its_containers_ask_for() {
    let spec = json!({"containers": [
        container("a", json!({"cpu": "1", "memory": "1Gi", "example.com/gpu": "2", "kubernetes.io/x": "1"}), json!({"cpu": "2"})),
        container("b", json!({"cpu": "500m", "hugepages-2Mi": "4Mi"}), json!({})),
    ]});
    let expected = "count/pods=1 cpu=1500m hugepages-2Mi=4Mi limits.cpu=2 memory=1Gi pods=1 requests.cpu=1500m \
                    requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi requests.memory=1Gi";
    uses("", "pods", json!({"spec": spec}), expected);
    uses("", "pods", json!({"spec": spec, "status": {"phase": "Succeeded"}}), "count/pods=1");
    let gone = json!({"deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30});
    uses("", "pods", json!({"metadata": gone, "spec": spec}), "count/pods=1");
}

#[test]
fn init_containers_count_one_at_a_time_and_sidecars_all_along() {
    let cpu = |name: &str, cpu: &str| container(name, json!({"cpu": cpu}), json!({}));
    let mut sidecar = cpu("s", "1");
    sidecar["restartPolicy"] = "Always".into();
    let spec =
        json!({"initContainers": [cpu("i", "3"), sidecar, cpu("j", "5")], "containers": [cpu("a", "2")], "overhead": {"cpu": "100m"}});
    // The sidecar and `j` at once, and the overhead.
    uses("", "pods", json!({"spec": spec}), "count/pods=1 cpu=6100m pods=1 requests.cpu=6100m");
    let own = json!({"containers": [cpu("a", "2")], "resources": {"requests": {"cpu": "7"}}});
    uses("", "pods", json!({"spec": own}), "count/pods=1 cpu=7 pods=1 requests.cpu=7");
    let resized = json!({"spec": {"containers": [cpu("a", "2")]}, "status": {"containerStatuses": [{"name": "a", "resources": {"requests": {"cpu": "3"}}}]}});
    uses("", "pods", resized, "count/pods=1 cpu=3 pods=1 requests.cpu=3");
}

#[test]
fn services_claims_and_counts() {
    let service = |ty: &str, more: Value| {
        let mut spec = json!({"type": ty, "ports": [{"port": 1}, {"port": 2, "nodePort": 30000}]});
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        json!({"spec": spec})
    };
    let expected =
        |balancers: u8, ports: u8| format!("count/services=1 services=1 services.loadbalancers={balancers} services.nodeports={ports}");
    uses("", "services", service("ClusterIP", json!({})), &expected(0, 0));
    uses("", "services", service("NodePort", json!({})), &expected(0, 2));
    uses("", "services", service("LoadBalancer", json!({})), &expected(1, 2));
    uses("", "services", service("LoadBalancer", json!({"allocateLoadBalancerNodePorts": false})), &expected(1, 1));
    let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
    let expected = "count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
                    fast.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi";
    uses("", "persistentvolumeclaims", claim, expected);
    uses("", "secrets", json!({}), "count/secrets=1 secrets=1");
    uses("example.com", "widgets", json!({}), "count/widgets.example.com=1");
}

#[test]
fn scopes_choose_pods() {
    let pod = |spec: Value| object(json!({"spec": spec}));
    let check = |scope: Value, spec: Value, expected: bool| {
        let quota = object(json!({"spec": {"scopeSelector": {"matchExpressions": [scope]}}}));
        assert_eq!(in_scope(&quota, "", "pods", &pod(spec.clone())), expected, "{scope} {spec}");
        assert!(!in_scope(&quota, "", "services", &pod(spec)));
    };
    let exists = |name: &str| json!({"scopeName": name, "operator": "Exists"});
    let limited = json!({"activeDeadlineSeconds": 5, "containers": [container("a", json!({"cpu": "1"}), json!({}))]});
    for (name, plain_pod, limited_pod) in
        [("Terminating", false, true), ("NotTerminating", true, false), ("BestEffort", true, false), ("NotBestEffort", false, true)]
    {
        check(exists(name), json!({"containers": [{"name": "a"}]}), plain_pod);
        check(exists(name), limited.clone(), limited_pod);
    }
    let class = |operator: &str, values: Value| json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
    for (operator, values, none, high) in [
        ("Exists", json!(null), false, true),
        ("DoesNotExist", json!(null), true, false),
        ("In", json!(["high"]), false, true),
        ("NotIn", json!(["high"]), true, false),
    ] {
        check(class(operator, values.clone()), json!({}), none);
        check(class(operator, values), json!({"priorityClassName": "high"}), high);
    }
    let term = |more: Value| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [more]}}});
    check(exists("CrossNamespacePodAffinity"), term(json!({"topologyKey": "k"})), false);
    check(exists("CrossNamespacePodAffinity"), term(json!({"topologyKey": "k", "namespaceSelector": {}})), true);
}

fn quota(hard: Value, used: Value) -> Object {
    object(json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}}))
}

#[track_caller]
fn charge(quota: &Object, new: Value, old: Option<Value>, expected: &str) {
    let (new, old) = (object(new), old.map(object));
    let request = Request { group: "", resource: "pods", new: &new, old: old.as_ref() };
    let said = match request.charge(std::slice::from_ref(quota)) {
        Ok(charged) => {
            charged.iter().flat_map(|(_, used)| used).map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(" ")
        }
        Err(error) => error,
    };
    assert_eq!(said, expected);
}

#[test]
fn a_charge_fits_or_says_what_is_exceeded() {
    let pod = |cpu: &str| json!({"spec": {"containers": [container("c", json!({"cpu": cpu}), json!({}))]}});
    let hard = json!({"pods": "3", "requests.cpu": "2", "services": "1"});
    let room = quota(hard.clone(), json!({"pods": "1", "requests.cpu": "500m", "services": "0"}));
    charge(&room, pod("1500m"), None, "pods=2 requests.cpu=2 services=0");
    charge(&room, pod("1501m"), None, "exceeded quota: q, requested: requests.cpu=1501m, used: requests.cpu=500m, limited: requests.cpu=2");
    charge(&room, pod("2"), Some(pod("1")), "pods=1 requests.cpu=1500m services=0");
    charge(&room, pod("1"), Some(pod("2")), "");
    let full = quota(hard.clone(), json!({"pods": "3", "requests.cpu": "2"}));
    let both = "exceeded quota: q, requested: pods=1,requests.cpu=1, used: pods=3,requests.cpu=2, limited: pods=3,requests.cpu=2";
    charge(&full, pod("1"), None, both);
    let bare = json!({"spec": {"containers": [{"name": "b"}, {"name": "a"}]}});
    charge(&room, bare, None, "failed quota: q: must specify requests.cpu for: a,b");
    charge(&quota(hard, json!({})), pod("1"), None, "status unknown for quota: q, resources: pods,requests.cpu");
    charge(&quota(json!({"secrets": "1"}), json!({})), pod("1"), None, "");
}

#[test]
fn a_tally_counts_what_the_quota_names() {
    let quota = object(json!({"spec": {"hard": {"pods": "1", "limits.cpu": "1", "secrets": "1"}}}));
    let pods = [1, 2].map(|cpu| object(json!({"spec": {"containers": [container("c", json!({}), json!({"cpu": cpu.to_string()}))]}})));
    assert_eq!(to_value(&tally(&quota, "", "pods", pods.iter())), json!({"pods": "2", "limits.cpu": "3"}));
    assert_eq!(to_value(&tally(&quota, "", "secrets", std::iter::empty())), json!({"secrets": "0"}));
}

#[test]
fn resource_claims_use_devices_of_classes() {
    let exactly = |class: &str, more: Value| {
        let mut request = json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": 2});
        request.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        request
    };
    let first =
        json!([exactly("gpu", json!({"count": 1})), exactly("gpu", json!({"count": 3})), exactly("cpu", json!({"allocationMode": "All"}))]);
    let requests = json!([{"name": "a", "exactly": exactly("gpu", json!({}))}, {"name": "b", "firstAvailable": first}]);
    uses(
        "resource.k8s.io",
        "resourceclaims",
        json!({"spec": {"devices": {"requests": requests}}}),
        "count/resourceclaims.resource.k8s.io=1 cpu.deviceclass.resource.k8s.io/devices=32 gpu.deviceclass.resource.k8s.io/devices=5",
    );
    assert!(counts("resource.k8s.io", "resourceclaims", "gpu.deviceclass.resource.k8s.io/devices"));
    assert!(!counts("resource.k8s.io", "resourceclaims", "gpu.storageclass.storage.k8s.io/requests.storage"));
}
