use expect_test::{Expect, expect};

use super::plan::{Place, plan};
use super::*;
use crate::table::{Origin, Target};

/// Service and slices as YAML documents would be, in JSON.
fn check(service: serde_json::Value, endpoints: &[&str], expected: Expect) {
    let service: Service = serde_json::from_value(service).expect("a Service");
    let slice = slice(endpoints);
    let place = Place { node: "here".to_owned(), zone: Some("z1".to_owned()), dns_ip: "10.43.0.10".parse().expect("an address") };
    expected.assert_eq(&describe(&plan(&service, &[Arc::new(slice)], &place)));
}

/// Endpoints as `address node [unready] [terminating] [zone=z]`, ports `http` 8080 TCP and `dns` 5353 UDP.
fn slice(endpoints: &[&str]) -> EndpointSlice {
    let endpoints: Vec<serde_json::Value> = endpoints
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let has = |word: &str| words.contains(&word);
            let zone = words.iter().find_map(|word| word.strip_prefix("zone="));
            serde_json::json!({
                "addresses": [words[0]],
                "nodeName": words[1],
                "conditions": {
                    "ready": !has("unready") && !has("terminating"),
                    "serving": !has("unready"),
                    "terminating": has("terminating"),
                },
                "hints": zone.map(|zone| serde_json::json!({"forZones": [{"name": zone}]})),
            })
        })
        .collect();
    serde_json::from_value(serde_json::json!({
        "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": endpoints,
    }))
    .expect("a slice")
}

fn describe(frontends: &BTreeMap<Frontend, Target>) -> String {
    let line = |(frontend, target): (&Frontend, &Target)| {
        let address = frontend.address.map_or("*".to_owned(), |address| address.to_string());
        let origin = if frontend.origin == Origin::Outside { " from outside" } else { "" };
        let protocol = format!("{:?}", frontend.protocol).to_lowercase();
        let target = match target {
            Target::Endpoints { endpoints, sticky, draining } => {
                let list: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
                let sticky = sticky.map(|time| format!(" sticky {}s", time.as_secs())).unwrap_or_default();
                let draining = if *draining { " draining" } else { "" };
                format!("{}{sticky}{draining}", list.join(" "))
            }
            Target::Reject => "reject".to_owned(),
            Target::Drop => "drop".to_owned(),
        };
        format!("{protocol} {address}:{}{origin} -> {target}", frontend.port)
    };
    frontends.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn service(extra: serde_json::Value) -> serde_json::Value {
    let mut spec = serde_json::json!({
        "clusterIP": "10.43.0.5",
        "clusterIPs": ["10.43.0.5"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    });
    let fields = spec.as_object_mut().expect("an object");
    for (name, value) in extra.as_object().expect("an object") {
        fields.insert(name.clone(), value.clone());
    }
    serde_json::json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

#[test]
fn ready_endpoints_serve() {
    check(
        service(serde_json::json!({})),
        &["10.42.0.2 here", "10.42.1.3 there", "10.42.0.4 here unready", "10.42.0.5 here terminating"],
        expect!["tcp 10.43.0.5:80 -> 10.42.0.2:8080 10.42.1.3:8080"],
    );
}

#[test]
fn terminating_ones_serve_when_none_is_ready() {
    check(
        service(serde_json::json!({})),
        &["10.42.0.4 here unready", "10.42.0.5 here terminating", "10.42.0.6 here unready terminating"],
        expect!["tcp 10.43.0.5:80 -> 10.42.0.5:8080 draining"],
    );
}

#[test]
fn without_endpoints_it_refuses() {
    check(service(serde_json::json!({})), &["10.42.0.4 here unready"], expect!["tcp 10.43.0.5:80 -> reject"]);
    check(
        service(serde_json::json!({"type": "NodePort", "externalTrafficPolicy": "Local", "ports": [
            {"name": "http", "port": 80, "nodePort": 30080}]})),
        &[],
        expect![[r#"
            tcp *:30080 -> reject
            tcp 10.43.0.5:80 -> reject"#]],
    );
}

#[test]
fn headless_and_external_names_have_no_frontend() {
    check(service(serde_json::json!({"clusterIP": "None", "clusterIPs": ["None"]})), &["10.42.0.2 here"], expect![""]);
    check(service(serde_json::json!({"type": "ExternalName", "externalName": "example.com"})), &[], expect![""]);
}

#[test]
fn the_dns_address_is_left_to_the_node() {
    check(service(serde_json::json!({"clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"]})), &[], expect![""]);
}

#[test]
fn node_ports_and_outer_addresses_lead_to_all() {
    check(
        service(serde_json::json!({
            "type": "NodePort",
            "externalIPs": ["203.0.113.7", "2001:db8::1"],
            "ports": [
                {"name": "http", "port": 80, "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
            ],
        })),
        &["10.42.0.2 here"],
        expect![[r#"
            tcp *:30080 -> 10.42.0.2:8080
            udp *:30053 -> 10.42.0.2:5353
            tcp 10.43.0.5:80 -> 10.42.0.2:8080
            udp 10.43.0.5:53 -> 10.42.0.2:5353
            tcp 203.0.113.7:80 -> 10.42.0.2:8080
            udp 203.0.113.7:53 -> 10.42.0.2:5353"#]],
    );
}

#[test]
fn local_policies_keep_to_this_node() {
    let local = serde_json::json!({
        "type": "NodePort",
        "externalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    });
    check(
        service(local.clone()),
        &["10.42.0.2 here", "10.42.1.3 there"],
        expect![[r#"
            tcp *:30080 -> 10.42.0.2:8080 10.42.1.3:8080
            tcp *:30080 from outside -> 10.42.0.2:8080
            tcp 10.43.0.5:80 -> 10.42.0.2:8080 10.42.1.3:8080"#]],
    );
    check(
        service(local),
        &["10.42.1.3 there"],
        expect![[r#"
            tcp *:30080 -> 10.42.1.3:8080
            tcp *:30080 from outside -> drop
            tcp 10.43.0.5:80 -> 10.42.1.3:8080"#]],
    );
    check(service(serde_json::json!({"internalTrafficPolicy": "Local"})), &["10.42.1.3 there"], expect!["tcp 10.43.0.5:80 -> drop"]);
}

#[test]
fn affinity_has_its_time() {
    check(
        service(serde_json::json!({"sessionAffinity": "ClientIP"})),
        &["10.42.0.2 here"],
        expect!["tcp 10.43.0.5:80 -> 10.42.0.2:8080 sticky 10800s"],
    );
    check(
        service(serde_json::json!({
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        })),
        &["10.42.0.2 here"],
        expect!["tcp 10.43.0.5:80 -> 10.42.0.2:8080 sticky 60s"],
    );
}

#[test]
fn hints_are_followed_only_if_complete() {
    check(
        service(serde_json::json!({})),
        &["10.42.0.2 here zone=z1", "10.42.1.3 there zone=z2"],
        expect!["tcp 10.43.0.5:80 -> 10.42.0.2:8080"],
    );
    check(
        service(serde_json::json!({})),
        &["10.42.0.2 here zone=z1", "10.42.1.3 there"],
        expect!["tcp 10.43.0.5:80 -> 10.42.0.2:8080 10.42.1.3:8080"],
    );
    check(
        service(serde_json::json!({})),
        &["10.42.0.2 here zone=z2", "10.42.1.3 there zone=z2"],
        expect!["tcp 10.43.0.5:80 -> 10.42.0.2:8080 10.42.1.3:8080"],
    );
}

#[test]
fn the_older_service_has_the_address() {
    let claim = |claims: &mut Claims, name: &str, created: &str, endpoints: &[&str]| {
        let mut json = service(serde_json::json!({}));
        json["metadata"] = serde_json::json!({"name": name, "namespace": "default", "creationTimestamp": created});
        let service: Service = serde_json::from_value(json).expect("a Service");
        let place = Place { node: "here".to_owned(), zone: None, dns_ip: "10.43.0.10".parse().expect("an address") };
        let wanted = plan(&service, &[Arc::new(slice(endpoints))], &place);
        claims.replace(&ObjectKey::new("default", name), Some(&service), wanted)
    };
    let mut claims = Claims::default();
    claim(&mut claims, "younger", "2026-01-02T00:00:00Z", &["10.42.0.9 here"]);
    let touched = claim(&mut claims, "older", "2026-01-01T00:00:00Z", &["10.42.0.2 here"]);
    let winner = |claims: &Claims| match claims.target(&touched[0]) {
        Some(Target::Endpoints { endpoints, .. }) => endpoints.iter().next().expect("one").to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(winner(&claims), "10.42.0.2:8080");
    claims.replace(&ObjectKey::new("default", "older"), None, BTreeMap::new());
    assert_eq!(winner(&claims), "10.42.0.9:8080");
    claims.replace(&ObjectKey::new("default", "younger"), None, BTreeMap::new());
    assert_eq!(winner(&claims), "None");
}
