use expect_test::{Expect, expect};
use serde_json::{Value, json};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::*;

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "x", "namespace": "x"}, "spec": spec})).expect("a Service")
}

fn slice(endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "addressType": "IPv4", "metadata": {},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "", "port": 9, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .expect("a slice")
}

pub(in crate::dns) fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", Some([10, 43, 0, 10].into())).expect("a zone");
    let web = service(json!({"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd00::5"], "ports": [
        {"name": "http", "port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}));
    zone.set("default", "web", Entry::of(&web, &[]));
    let db = service(json!({"clusterIP": "None", "clusterIPs": ["None"]}));
    let endpoints = slice(json!([
        {"addresses": ["10.42.0.7"], "hostname": "db-0"},
        {"addresses": ["10.42.0.8"]},
        {"addresses": ["10.42.0.9"], "hostname": "db-1", "conditions": {"ready": false}},
    ]));
    zone.set("default", "db", Entry::of(&db, &[&endpoints]));
    let empty = service(json!({"clusterIP": "None"}));
    zone.set("default", "empty", Entry::of(&empty, &[]));
    let outer = service(json!({"type": "ExternalName", "externalName": "www.example.com"}));
    zone.set("other", "outer", Entry::of(&outer, &[]));
    let inner = service(json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}));
    zone.set("other", "inner", Entry::of(&inner, &[]));
    zone.complete();
    zone
}

fn describe(answer: Answer) -> String {
    let line = |record: &Record| format!("{} {} {}", record.name, record.record_type(), record.data);
    match answer {
        Answer::Found { answers, additionals } => {
            let additionals = additionals.iter().map(|record| format!("+ {}", line(record)));
            answers.iter().map(line).chain(additionals).collect::<Vec<_>>().join("\n")
        }
        Answer::Alias { alias, .. } => line(&alias),
        Answer::Empty => "empty".to_owned(),
        Answer::Absent => "absent".to_owned(),
        Answer::Foreign => "foreign".to_owned(),
        Answer::Unready => "unready".to_owned(),
    }
}

fn check(kind: RecordType, name: &str, expected: Expect) {
    let name = Name::from_ascii(name).expect("a name");
    expected.assert_eq(&describe(zone().answer(&name, kind)));
}

#[test]
fn a_service_has_its_addresses() {
    use RecordType::{A, AAAA, MX};
    check(A, "web.default.svc.cluster.local.", expect!["web.default.svc.cluster.local. A 10.43.0.5"]);
    check(AAAA, "web.default.svc.cluster.local.", expect!["web.default.svc.cluster.local. AAAA fd00::5"]);
    check(A, "WEB.Default.SVC.cluster.LOCAL.", expect!["WEB.Default.SVC.cluster.LOCAL. A 10.43.0.5"]);
    check(MX, "web.default.svc.cluster.local.", expect!["empty"]);
    check(A, "web.other.svc.cluster.local.", expect!["absent"]);
    check(A, "x.web.default.svc.cluster.local.", expect!["absent"]);
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    use RecordType::{A, AAAA};
    check(
        A,
        "db.default.svc.cluster.local.",
        expect![[r#"
        db.default.svc.cluster.local. A 10.42.0.7
        db.default.svc.cluster.local. A 10.42.0.8"#]],
    );
    check(A, "db-0.db.default.svc.cluster.local.", expect!["db-0.db.default.svc.cluster.local. A 10.42.0.7"]);
    check(AAAA, "db-0.db.default.svc.cluster.local.", expect!["empty"]);
    check(A, "10-42-0-8.db.default.svc.cluster.local.", expect!["10-42-0-8.db.default.svc.cluster.local. A 10.42.0.8"]);
    check(A, "db-1.db.default.svc.cluster.local.", expect!["absent"]);
    check(A, "empty.default.svc.cluster.local.", expect!["empty"]);
}

#[test]
fn ports_have_srv_records() {
    use RecordType::{A, SRV};
    check(
        SRV,
        "_http._tcp.web.default.svc.cluster.local.",
        expect![[r#"
        _http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local.
        + web.default.svc.cluster.local. A 10.43.0.5
        + web.default.svc.cluster.local. AAAA fd00::5"#]],
    );
    check(
        SRV,
        "_http._tcp.db.default.svc.cluster.local.",
        expect![[r#"
        _http._tcp.db.default.svc.cluster.local. SRV 0 100 8080 db-0.db.default.svc.cluster.local.
        _http._tcp.db.default.svc.cluster.local. SRV 0 100 8080 10-42-0-8.db.default.svc.cluster.local.
        + db-0.db.default.svc.cluster.local. A 10.42.0.7
        + 10-42-0-8.db.default.svc.cluster.local. A 10.42.0.8"#]],
    );
    check(A, "_http._tcp.web.default.svc.cluster.local.", expect!["empty"]);
    check(SRV, "_tcp.web.default.svc.cluster.local.", expect!["empty"]);
    check(SRV, "_http._udp.web.default.svc.cluster.local.", expect!["absent"]);
    check(SRV, "_other._tcp.web.default.svc.cluster.local.", expect!["absent"]);
}

#[test]
fn pods_have_the_address_in_their_name() {
    use RecordType::{A, AAAA};
    check(A, "10-42-0-7.default.pod.cluster.local.", expect!["10-42-0-7.default.pod.cluster.local. A 10.42.0.7"]);
    check(AAAA, "10-42-0-7.default.pod.cluster.local.", expect!["empty"]);
    check(A, "10-42-0.default.pod.cluster.local.", expect!["absent"]);
    check(A, "x.default.pod.cluster.local.", expect!["absent"]);
}

#[test]
fn addresses_have_names() {
    use RecordType::PTR;
    check(PTR, "5.0.43.10.in-addr.arpa.", expect!["5.0.43.10.in-addr.arpa. PTR web.default.svc.cluster.local."]);
    check(PTR, "7.0.42.10.in-addr.arpa.", expect!["7.0.42.10.in-addr.arpa. PTR db-0.db.default.svc.cluster.local."]);
    check(PTR, "8.0.42.10.in-addr.arpa.", expect!["8.0.42.10.in-addr.arpa. PTR 10-42-0-8.db.default.svc.cluster.local."]);
    check(PTR, "1.1.1.1.in-addr.arpa.", expect!["foreign"]);
    check(PTR, "43.10.in-addr.arpa.", expect!["foreign"]);
}

#[test]
fn external_names_are_aliases() {
    check(RecordType::A, "outer.other.svc.cluster.local.", expect!["outer.other.svc.cluster.local. CNAME www.example.com."]);
}

#[test]
fn the_tree_above_exists_without_records() {
    use RecordType::{A, NS, SOA, TXT};
    for name in ["cluster.local.", "svc.cluster.local.", "pod.cluster.local.", "default.svc.cluster.local.", "dns.cluster.local."] {
        check(A, name, expect!["empty"]);
    }
    check(A, "nowhere.svc.cluster.local.", expect!["absent"]);
    check(A, "www.cluster.local.", expect!["absent"]);
    check(A, "www.example.com.", expect!["foreign"]);
    check(A, "local.", expect!["foreign"]);
    check(A, "www.example.com.default.svc.cluster.local.", expect!["absent"]);
    check(NS, "cluster.local.", expect!["cluster.local. NS ns.dns.cluster.local."]);
    check(A, "ns.dns.cluster.local.", expect!["ns.dns.cluster.local. A 10.43.0.10"]);
    check(TXT, "dns-version.cluster.local.", expect![[r#"dns-version.cluster.local. TXT 1.1.0"#]]);
    check(SOA, "cluster.local.", expect!["cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"]);
}

#[test]
fn a_service_that_goes_takes_its_names_along() {
    let mut zone = zone();
    let ask = |zone: &Zone, kind, name: &str| describe(zone.answer(&Name::from_ascii(name).expect("a name"), kind));
    zone.set("default", "db", None);
    assert_eq!(ask(&zone, RecordType::A, "db.default.svc.cluster.local."), "absent");
    assert_eq!(ask(&zone, RecordType::PTR, "7.0.42.10.in-addr.arpa."), "foreign");
    zone.set("other", "outer", None);
    zone.set("other", "inner", None);
    assert_eq!(ask(&zone, RecordType::A, "other.svc.cluster.local."), "absent");
}

#[test]
fn before_the_cluster_was_seen_nothing_is_denied() {
    let zone = Zone::new("cluster.local", None).expect("a zone");
    let name = Name::from_ascii("web.default.svc.cluster.local.").expect("a name");
    assert_eq!(zone.answer(&name, RecordType::A), Answer::Unready);
    assert!(Zone::new("", None).is_none());
    assert!(Zone::new("not a..domain", None).is_none());
}

#[test]
fn names_that_are_no_text_do_not_leave_the_cluster() {
    let of = |labels: [&[u8]; 4]| Name::from_labels(labels).expect("a name");
    assert_eq!(zone().answer(&of([b"\xff", b"svc", b"cluster", b"LOCAL"]), RecordType::A), Answer::Absent);
    assert_eq!(zone().answer(&of([b"\xff", b"www", b"example", b"com"]), RecordType::A), Answer::Foreign);
}
