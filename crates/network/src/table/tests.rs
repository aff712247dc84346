use std::time::Duration;

use expect_test::{Expect, expect};

use super::*;
use crate::node::Protocol;
use crate::testing::{Host, is_root};

fn layout() -> Layout {
    Layout {
        family: Family::Ipv4,
        pod_links: "kvtest".to_owned(),
        sink: "kntest".to_owned(),
        gateway: "10.42.0.1".parse().expect("an address"),
        pod_cidr: "10.42.0.0/24".parse().expect("a network"),
        cluster_cidr: "10.42.0.0/16".parse().expect("a network"),
    }
}

fn frontend(text: &str) -> Frontend {
    let (address, port) = text.split_once(':').expect("address:port");
    let address = (address != "*").then(|| address.parse().expect("an address"));
    Frontend { address, protocol: Protocol::Tcp, port: port.parse().expect("a port"), origin: Origin::Anyone }
}

fn target(endpoints: &str) -> Target {
    let endpoints = endpoints.split_whitespace().map(|endpoint| endpoint.parse().expect("an endpoint")).collect();
    Target::Endpoints { endpoints, sticky: None, draining: false }
}

fn describe(delta: &Delta) -> String {
    let mut lines = Vec::new();
    for (sign, changes) in [("-", &delta.delete), ("+", &delta.add)] {
        for (set, elements) in changes {
            for element in elements {
                let key = match Frontend::of_slot_key(&element.key) {
                    Some((frontend, slot)) if *set == layout::ENDPOINTS => format!("{slot} {}", describe_frontend(&frontend)),
                    _ => describe_frontend(&Frontend::of_key(&element.key[..12], Origin::Anyone).expect("a frontend")),
                };
                let data = match &element.data {
                    Some(Data::Value(value)) => format!(" = {}", endpoint_of(value).expect("an endpoint")),
                    Some(Data::Verdict(verdict)) => format!(" = {verdict:?}"),
                    None => String::new(),
                };
                lines.push(format!("{sign}{set} {key}{data}"));
            }
        }
    }
    lines.extend(delta.gone.iter().map(|(_, endpoint)| format!("gone {endpoint}")));
    lines.join("\n")
}

fn describe_frontend(frontend: &Frontend) -> String {
    let address = frontend.address.map_or("*".to_owned(), |address| address.to_string());
    format!("{address}:{}", frontend.port)
}

fn check_delta(old: Option<&str>, new: Option<Target>, expected: Expect) {
    let frontend = frontend("10.43.0.7:80");
    let old = old.map(|slots| Installed::Endpoints {
        slots: slots.split_whitespace().map(|endpoint| endpoint.parse().expect("an endpoint")).collect(),
        sticky: None,
    });
    let mut delta = Delta::default();
    delta.change(&frontend, old.as_ref(), new.as_ref());
    expected.assert_eq(&describe(&delta));
}

#[test]
fn a_new_endpoint_takes_the_next_slot() {
    check_delta(
        Some("10.42.0.9:80"),
        Some(target("10.42.0.3:80 10.42.0.9:80")),
        expect![[r#"
        -services 10.43.0.7:80
        +endpoints 1 10.43.0.7:80 = 10.42.0.3:80
        +services 10.43.0.7:80 = Goto("to-2")"#]],
    );
}

#[test]
fn the_last_endpoint_fills_the_gap() {
    check_delta(
        Some("10.42.0.1:80 10.42.0.2:80 10.42.0.3:80"),
        Some(target("10.42.0.2:80 10.42.0.3:80")),
        expect![[r#"
        -endpoints 0 10.43.0.7:80
        -endpoints 2 10.43.0.7:80
        -services 10.43.0.7:80
        +endpoints 0 10.43.0.7:80 = 10.42.0.3:80
        +services 10.43.0.7:80 = Goto("to-2")
        gone 10.42.0.1:80"#]],
    );
}

#[test]
fn a_replaced_endpoint_leaves_the_verdict_alone() {
    check_delta(
        Some("10.42.0.1:80 10.42.0.2:80"),
        Some(target("10.42.0.2:80 10.42.0.3:80")),
        expect![[r#"
        -endpoints 0 10.43.0.7:80
        -endpoints 1 10.43.0.7:80
        +endpoints 0 10.43.0.7:80 = 10.42.0.2:80
        +endpoints 1 10.43.0.7:80 = 10.42.0.3:80
        gone 10.42.0.1:80"#]],
    );
}

#[test]
fn without_endpoints_it_is_refused() {
    check_delta(
        Some("10.42.0.1:80"),
        Some(Target::Reject),
        expect![[r#"
        -endpoints 0 10.43.0.7:80
        -services 10.43.0.7:80
        +unserved 10.43.0.7:80
        gone 10.42.0.1:80"#]],
    );
}

#[test]
fn nothing_changes_nothing() {
    check_delta(Some("10.42.0.2:80 10.42.0.1:80"), Some(target("10.42.0.1:80 10.42.0.2:80")), expect![""]);
}

#[test]
fn chain_names_are_read_back() {
    for any_address in [false, true] {
        for origin in [Origin::Anyone, Origin::Outside] {
            for sticky in [None, Some(Duration::from_secs(10_800))] {
                let spread = Spread { any_address, origin, count: 12, sticky };
                assert_eq!(Spread::of_chain(&spread.chain()), Some(spread));
            }
        }
    }
    assert_eq!(Spread::of_chain("local-ports"), None);
}

fn apply(table: &mut Table, frontend_text: &str, wanted: Target) {
    table.apply([(&frontend(frontend_text), Some(&wanted))]).expect("the change is taken");
}

#[test]
fn the_kernel_takes_the_table_and_nft_prints_it() {
    if !is_root("the_kernel_takes_the_table_and_nft_prints_it") {
        return;
    }
    let host = Host::new();
    host.run(|| {
        let mut table = Table::open("knarr_test", layout()).expect("a table");
        apply(&mut table, "10.43.0.7:80", target("10.42.0.3:80 10.42.0.9:8080"));
        apply(&mut table, "*:30080", target("10.42.0.3:80"));
        apply(&mut table, "10.43.0.8:80", Target::Reject);
        let port = (frontend("*:8080"), "10.42.0.3:80".parse().expect("an endpoint"));
        table.add_pod([10, 42, 0, 3].into(), &[port]).expect("a pod");
    });
    let ruleset = host.command("nft list ruleset");
    println!("{ruleset}");
    let compact: Vec<String> = ruleset.lines().map(|line| line.trim().to_owned()).collect();
    for expected in [
        "table ip knarr_test {",
        "type filter hook prerouting priority raw; policy accept;",
        "type nat hook prerouting priority dstnat; policy accept;",
        "type nat hook postrouting priority srcnat; policy accept;",
        "elements = { 10.43.0.7 . tcp . 80 : goto to-2,",
        "elements = { 10.43.0.8 . tcp . 80 }",
        "elements = { 10.42.0.3 . 10.42.0.3 }",
        "elements = { 0.0.0.0 . tcp . 8080 : 10.42.0.3 . 80 }",
        "oifname \"lo\" return",
        "reject with tcp reset",
        "oifname \"kntest\" goto refused",
        "oifname \"kvtest*\" ip saddr 127.0.0.0/8 snat to 10.42.0.1 fully-random",
    ] {
        assert!(compact.iter().any(|line| line == expected), "{expected:?} is not in\n{ruleset}");
    }
}

/// Opens the table again and compares what is read back.
fn reopened(table: &Table) -> Table {
    let again = Table::open("knarr_test", layout()).expect("adopted");
    let sorted = |table: &Table| {
        let mut list: Vec<_> = table.frontends().map(|(at, state)| (*at, state.clone())).collect();
        list.sort_by_key(|(at, _)| *at);
        list
    };
    assert_eq!(sorted(&again), sorted(table));
    assert_eq!(again.content.spreads, table.content.spreads);
    assert_eq!(again.content.pods, table.content.pods);
    assert_eq!(again.content.host_ports, table.content.host_ports);
    again
}

#[test]
fn a_table_is_adopted_as_it_was_left() {
    if !is_root("a_table_is_adopted_as_it_was_left") {
        return;
    }
    Host::new().run(|| {
        let mut table = Table::open("knarr_test", layout()).expect("a table");
        apply(&mut table, "10.43.0.7:80", target("10.42.0.3:80 10.42.0.9:8080 10.42.0.1:80"));
        apply(&mut table, "10.43.0.7:80", target("10.42.0.9:8080 10.42.0.1:80"));
        apply(&mut table, "*:30080", target("10.42.0.3:80"));
        apply(&mut table, "10.43.0.8:80", Target::Reject);
        let port = (frontend("*:8080"), "10.42.0.3:80".parse().expect("an endpoint"));
        table.add_pod([10, 42, 0, 3].into(), &[port]).expect("a pod");
        let mut table = reopened(&table);
        table.remove_pod([10, 42, 0, 3].into()).expect("removed");
        table.remove_pod([10, 42, 0, 3].into()).expect("again without effect");
        table.apply([(&frontend("*:30080"), None)]).expect("removed");
        reopened(&table);
        Table::remove(Family::Ipv4, "knarr_test").expect("removed");
        Table::remove(Family::Ipv4, "knarr_test").expect("again without effect");
    });
}

#[test]
fn a_table_that_someone_flushed_is_made_again() {
    if !is_root("a_table_that_someone_flushed_is_made_again") {
        return;
    }
    Host::new().run(|| {
        let mut table = Table::open("knarr_test", layout()).expect("a table");
        apply(&mut table, "10.43.0.7:80", target("10.42.0.3:80 10.42.0.9:8080"));
        let mut vandal = Nft::open(Family::Ipv4, "knarr_test").expect("a socket");
        let mut batch = vandal.batch();
        batch.delete_table();
        vandal.commit(batch).expect("deleted");
        apply(&mut table, "10.43.0.8:80", target("10.42.0.3:80"));
        reopened(&table);
    });
}

#[test]
fn a_refusal_names_the_message() {
    if !is_root("a_refusal_names_the_message") {
        return;
    }
    Host::new().run(|| {
        let mut nft = Nft::open(Family::Ipv4, "knarr_test").expect("a socket");
        let mut batch = nft.batch();
        batch.add_table();
        batch.add_chain("first", None);
        batch.delete_chain("absent");
        batch.add_chain("second", None);
        let error = nft.commit(batch).expect_err("refused");
        assert_eq!(error.to_string(), "the kernel refused to delete chain absent");
        assert!(!nft.exists().expect("asked"), "nothing of a refused batch stays");
    });
}

#[test]
fn a_service_among_a_thousand_is_updated_in_place() {
    if !is_root("a_service_among_a_thousand_is_updated_in_place") {
        return;
    }
    Host::new().run(|| {
        let mut table = Table::open("knarr_test", layout()).expect("a table");
        let endpoint = |service: u32, index: u32| {
            let address = std::net::Ipv4Addr::from(0x0a2a_0000 + (service * 7 + index) % 60_000 + 2);
            SocketAddr::from((address, 8080))
        };
        let service = |number: u32| Frontend {
            address: Some(std::net::Ipv4Addr::from(0x0a2b_0000 + 100 + number).into()),
            protocol: Protocol::Tcp,
            port: 80,
            origin: Origin::Anyone,
        };
        let wanted: Vec<(Frontend, Target)> = (0..1000)
            .map(|number| {
                let endpoints = (0..5).map(|index| endpoint(number, index)).collect();
                (service(number), Target::Endpoints { endpoints, sticky: None, draining: false })
            })
            .collect();
        let start = std::time::Instant::now();
        table.apply(wanted.iter().map(|(at, to)| (at, Some(to)))).expect("taken");
        println!("MEASURED 1,000 services of 5 endpoints at once: {:?}", start.elapsed());
        let mut times = Vec::new();
        for round in 0..50 {
            let endpoints = (round..round + 4).map(|index| endpoint(500, index)).collect();
            let start = std::time::Instant::now();
            let target = Target::Endpoints { endpoints, sticky: None, draining: false };
            table.apply([(&service(500), Some(&target))]).expect("taken");
            times.push(start.elapsed());
        }
        times.sort();
        println!("MEASURED one service changed among 1,000: median {:?}, worst {:?}", times[25], times[49]);
        assert!(times[25] < Duration::from_millis(20), "a change costs in proportion to the change: {times:?}");
        let start = std::time::Instant::now();
        reopened(&table);
        println!("MEASURED adoption of 1,000 services: {:?}", start.elapsed());
    });
}

#[test]
fn the_kernel_takes_the_layout_for_ipv6() {
    if !is_root("the_kernel_takes_the_layout_for_ipv6") {
        return;
    }
    Host::new().run(|| {
        let layout = Layout {
            family: Family::Ipv6,
            gateway: "fd00:42::1".parse().expect("an address"),
            pod_cidr: "fd00:42::/64".parse().expect("a network"),
            cluster_cidr: "fd00:42::/56".parse().expect("a network"),
            ..layout()
        };
        let nft = Nft::open(Family::Ipv6, "knarr_test").expect("a socket");
        let mut table = Table { nft, layout, content: Content::default() };
        table.rebuild().expect("taken");
        for sticky in [None, Some(Duration::from_secs(60))] {
            let address = if sticky.is_some() { "fd00:43::5" } else { "fd00:43::6" };
            let frontend = Frontend { address: Some(address.parse().expect("an address")), ..frontend("*:80") };
            let endpoints = ["[fd00:42::2]:80".parse().expect("an endpoint")].into();
            table.apply([(&frontend, Some(&Target::Endpoints { endpoints, sticky, draining: false }))]).expect("taken");
        }
    });
}
