//! ServiceCIDRs and IPAddresses: the ranges that Services' addresses come from, and the object that each address has.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use futures::StreamExt as _;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use knarr_apiserver::{ApiServer, Config};
use knarr_store::{Collection, Embedded, Expect, Key, Options, Snapshot, Store as _, Write};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::{Value, json};

use crate::kit::{Client, Cluster, Stream, admin_user, eventually, names, text};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

fn service(name: &str, address: &str) -> Value {
    let mut spec = json!({"ports": [{"port": 80}]});
    if !address.is_empty() {
        spec["clusterIP"] = address.into();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn range(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}})
}

fn address(name: &str, labels: Value, parent: Value) -> Value {
    let meta = json!({"name": name, "labels": labels});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": meta, "spec": {"parentRef": parent}})
}

/// `True`, or `False Terminating`.
fn condition(range: &Value) -> String {
    let condition = &range["status"]["conditions"][0];
    assert_eq!(condition["type"], "Ready", "{range}");
    format!("{} {}", text(&condition["status"]), text(&condition["reason"])).trim_end().to_owned()
}

/// What upstream's conformance test "ServiceCIDR and IPAddress API" asks for (test/e2e/network/service_cidrs.go).
#[tokio::test]
async fn clients_walk_through_both_apis() {
    let cluster = Cluster::start().await;
    let client = cluster.kube().await;
    let ranges: Api<ServiceCIDR> = Api::all(client.clone());
    let own = ranges.get("kubernetes").await.expect("the cluster's own range");
    assert_eq!(own.spec.as_ref().and_then(|spec| spec.cidrs.clone()), Some(vec!["10.43.0.0/16".to_owned()]));
    assert_eq!(own.finalizers(), [FINALIZER]);
    let ready = own.status.as_ref().and_then(|status| status.conditions.clone()).expect("conditions");
    let words = (&*ready[0].type_, &*ready[0].status, &*ready[0].message);
    assert_eq!(words, ("Ready", "True", "Kubernetes Service CIDR is ready"));
    assert_eq!(ranges.get_status("kubernetes").await.expect("its status").uid(), own.uid());
    assert_eq!(ranges.list(&ListParams::default()).await.expect("a list").items.len(), 1);
    assert!(ranges.watch(&WatchParams::default(), "0").await.is_ok());

    let addresses: Api<IPAddress> = Api::all(client);
    let parent = json!({"group": "mygroup", "resource": "myresources", "namespace": "foo", "name": "bar"});
    let made =
        |name: &str, label: &str| serde_json::from_value(address(name, json!({"type": label}), parent.clone())).expect("an IPAddress");
    let created = addresses.create(&PostParams::default(), &made("255.255.255.255", "broadcast")).await.expect("created");
    addresses.create(&PostParams::default(), &made("fe80::42:1dff:fe84:f9e2", "link-local")).await.expect("created");
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"patched": "true"}}}));
    let patched = addresses.patch("255.255.255.255", &PatchParams::default(), &patch).await.expect("patched");
    assert_eq!(patched.annotations().get("patched").map(String::as_str), Some("true"));
    let number = |address: &IPAddress| address.resource_version().and_then(|version| version.parse::<u64>().ok());
    assert!(number(&created) < number(&patched));
    let mut next = addresses.get("255.255.255.255").await.expect("read");
    next.annotations_mut().insert("updated".to_owned(), "true".to_owned());
    let updated = addresses.replace("255.255.255.255", &PostParams::default(), &next).await.expect("updated");
    assert_eq!(updated.annotations().len(), 2);
    let labelled = |label: &str| ListParams::default().labels(&format!("type={label}"));
    let listed = addresses.list(&labelled("broadcast")).await.expect("a list");
    assert_eq!(listed.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(), ["255.255.255.255"]);
    let since = listed.metadata.resource_version.unwrap_or_default();
    let mut watch = addresses.watch(&WatchParams::default().labels("type=broadcast"), &since).await.expect("a watch").boxed();
    addresses.delete("255.255.255.255", &DeleteParams::default()).await.expect("deleted");
    match watch.next().await {
        Some(Ok(WatchEvent::Deleted(gone))) => assert_eq!(gone.name_any(), "255.255.255.255"),
        other => panic!("{other:?}"),
    }
    addresses.delete_collection(&DeleteParams::default(), &labelled("link-local")).await.expect("deleted");
    assert!(addresses.list(&labelled("link-local")).await.expect("a list").items.is_empty());
}

#[tokio::test]
async fn a_second_range_serves_at_once_and_stays_as_long_as_it_is_used() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let (_, message) = admin.post(SERVICES, &service("early", "10.9.0.7")).await.refused(422);
    let why = "spec.clusterIPs: Invalid value: [\"10.9.0.7\"]: failed to allocate IP 10.9.0.7: the provided network does not match the current range";
    assert!(message.contains(why), "{message}");

    let made = admin.post(RANGES, &range("more", "10.9.0.0/24")).await.expect(201);
    assert_eq!((condition(&made).as_str(), &made["metadata"]["finalizers"]), ("True", &json!([FINALIZER])));
    admin.post(SERVICES, &service("there", "10.9.0.7")).await.expect(201);
    admin.post(SERVICES, &service("here", "10.43.0.7")).await.expect(201);
    let listed = admin.get_as(ADDRESSES, "application/json;as=Table;g=meta.k8s.io;v=v1").await.expect(200);
    let rows: Vec<String> =
        listed["rows"].as_array().unwrap().iter().map(|row| format!("{} {}", text(&row["cells"][0]), text(&row["cells"][1]))).collect();
    let expected = [
        "10.43.0.1 services/default/kubernetes",
        "10.43.0.10 services/kube-system/kube-dns",
        "10.43.0.7 services/default/here",
        "10.9.0.7 services/default/there",
    ];
    assert_eq!(rows, expected);

    let path = format!("{RANGES}/more");
    admin.delete(&path).await.expect(200);
    eventually(async || condition(&admin.get(&path).await.expect(200)) == "False Terminating").await;
    admin.post(SERVICES, &service("late", "10.9.0.8")).await.refused(422);
    admin.delete(&format!("{SERVICES}/there")).await.expect(200);
    eventually(async || admin.get(&path).await.code == 404).await;
    assert_eq!(names(&admin.get(ADDRESSES).await.expect(200)), ["10.43.0.1", "10.43.0.10", "10.43.0.7"]);
}

#[tokio::test]
async fn the_clusters_own_range_goes_when_another_holds_its_addresses_and_comes_back() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let path = format!("{RANGES}/kubernetes");
    let before = admin.delete(&path).await.expect(200);
    eventually(async || condition(&admin.get(&path).await.expect(200)) == "False Terminating").await;
    // Its addresses are in another range now, and it is made anew as it is configured.
    admin.post(RANGES, &range("wider", "10.40.0.0/13")).await.expect(201);
    let uid = text(&before["metadata"]["uid"]);
    eventually(async || admin.get(&path).await.json()["metadata"]["uid"].as_str().is_some_and(|now| now != uid)).await;
    let after = admin.get(&path).await.expect(200);
    assert_eq!(
        (condition(&after).as_str(), &after["spec"]["cidrs"], &after["metadata"]["deletionTimestamp"]),
        ("True", &json!(["10.43.0.0/16"]), &Value::Null)
    );
    // What an administrator takes away by hand comes back.
    let bare = json!({"metadata": {"finalizers": null}});
    admin.patch(&format!("{RANGES}/wider"), "merge-patch", bare).await.expect(200);
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    admin.patch(&format!("{RANGES}/wider/status"), "merge-patch", unready).await.expect(200);
    eventually(async || {
        let wider = admin.get(&format!("{RANGES}/wider")).await.expect(200);
        wider["metadata"]["finalizers"] == json!([FINALIZER]) && condition(&wider) == "True"
    })
    .await;
}

#[tokio::test]
async fn addresses_of_others_are_theirs_and_those_of_services_are_kept() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let gateway = json!({"group": "gateway.networking.k8s.io", "resource": "gateways", "namespace": "default", "name": "g"});
    admin.post(ADDRESSES, &address("10.43.0.9", json!({}), gateway)).await.expect(201);
    let (_, message) = admin.post(SERVICES, &service("s", "10.43.0.9")).await.refused(422);
    assert!(message.contains("failed to allocate IP 10.43.0.9: provided IP is already allocated"), "{message}");

    admin.post(SERVICES, &service("s", "10.43.0.7")).await.expect(201);
    let path = format!("{ADDRESSES}/10.43.0.7");
    let before = admin.get(&path).await.expect(200);
    let mut watch = watch_of(&cluster, "10.43.0.7").await;
    assert_eq!(watch.word().await, "ADDED 10.43.0.7");
    // There is no moment without it.
    admin.delete(&path).await.expect(200);
    let after = admin.get(&path).await.expect(200);
    assert_eq!(after["spec"], before["spec"]);
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!([watch.word().await, watch.word().await], ["DELETED 10.43.0.7", "ADDED 10.43.0.7"]);
    // Nor without what it is known by.
    admin.patch(&path, "merge-patch", json!({"metadata": {"labels": null}})).await.expect(200);
    eventually(async || admin.get(&path).await.expect(200)["metadata"]["labels"] == before["metadata"]["labels"]).await;
    // What says that it is a Service's and is not goes.
    let parent = json!({"resource": "services", "namespace": "default", "name": "nobody"});
    admin.post(ADDRESSES, &address("10.43.0.8", before["metadata"]["labels"].clone(), parent)).await.expect(201);
    eventually(async || admin.get(&format!("{ADDRESSES}/10.43.0.8")).await.code == 404).await;

    // Somebody waits for the end of the address: it is not given anew before.
    admin.patch(&path, "merge-patch", json!({"metadata": {"finalizers": ["a/b"]}})).await.expect(200);
    admin.delete(&format!("{SERVICES}/s")).await.expect(200);
    assert!(admin.get(&path).await.expect(200)["metadata"]["deletionTimestamp"].is_string());
    admin.post(SERVICES, &service("t", "10.43.0.7")).await.refused(422);
    admin.patch(&path, "merge-patch", json!({"metadata": {"finalizers": null}})).await.expect(200);
    admin.post(SERVICES, &service("t", "10.43.0.7")).await.expect(201);
    admin.get(&format!("{ADDRESSES}/10.43.0.9")).await.expect(200);
}

async fn watch_of(cluster: &Cluster, name: &str) -> Stream {
    cluster.admin().watch(&format!("{ADDRESSES}?watch=true&fieldSelector=metadata.name%3D{name}")).await
}

#[tokio::test]
async fn a_dry_run_and_a_refusal_leave_no_address() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    admin.post(&format!("{SERVICES}?dryRun=All"), &service("s", "10.43.0.7")).await.expect(201);
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"services": "2"}}});
    admin.post("/api/v1/namespaces/default/resourcequotas", &quota).await.expect(201);
    let status = json!({"status": {"hard": {"services": "2"}, "used": {"services": "1"}}});
    admin.patch("/api/v1/namespaces/default/resourcequotas/q/status", "merge-patch", status).await.expect(200);
    admin.post(SERVICES, &service("first", "10.43.0.7")).await.expect(201);
    admin.post(SERVICES, &service("second", "10.43.0.8")).await.refused(403);
    assert_eq!(names(&admin.get(ADDRESSES).await.expect(200)), ["10.43.0.1", "10.43.0.10", "10.43.0.7"]);
}

/// As a build left them that knew neither kind.
#[tokio::test]
async fn data_of_an_earlier_build_gets_what_it_lacks() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    for index in 0..40 {
        admin.post(SERVICES, &service(&format!("s{index}"), "")).await.expect(201);
    }
    let of_services = |snapshot: &Snapshot| (held(snapshot), objects(snapshot));
    let (before, _) = of_services(&cluster.store.snapshot());
    let (ranges, addresses) = (Collection::new("networking.k8s.io/servicecidrs"), Collection::new("networking.k8s.io/ipaddresses"));
    let snapshot = cluster.store.snapshot();
    let stored = snapshot.range(&ranges, "", None).chain(snapshot.range(&addresses, "", None));
    let writes = stored.map(|entry| Write::Delete { key: entry.key.clone(), expect: Expect::Any }).collect();
    let dir = cluster.stop().await;
    let store = Embedded::open(&dir.path().join("store"), Options { reserve_bytes: 0, ..Options::default() }).unwrap();
    store.commit(writes).await.unwrap();
    store.close();

    let cluster = Cluster::start_in(dir, Options::default()).await;
    let (after, objects) = of_services(&cluster.store.snapshot());
    assert_eq!((&after, &objects), (&before, &before));
    assert_eq!(after.len(), 42);
    assert_eq!(condition(&cluster.admin().get(&format!("{RANGES}/kubernetes")).await.expect(200)), "True");
}

/// Who has which address.
#[tokio::test]
async fn a_start_gives_no_address_to_a_second_service() {
    let cluster = Cluster::start().await;
    let dns = "/api/v1/namespaces/kube-system/services/kube-dns";
    cluster.admin().delete(dns).await.expect(200);
    cluster.admin().post(SERVICES, &service("own", "10.43.0.10")).await.expect(201);
    let cluster = Cluster::start_in(cluster.stop().await, Options::default()).await;
    assert_eq!(cluster.admin().get(dns).await.code, 404);
    cluster.admin().delete(&format!("{SERVICES}/own")).await.expect(200);
    let cluster = Cluster::start_in(cluster.stop().await, Options::default()).await;
    assert_eq!(cluster.admin().get(dns).await.expect(200)["spec"]["clusterIP"], "10.43.0.10");
}

fn held(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let services = snapshot.range(&Collection::new("core/services"), "", None);
    let pairs = services.map(|entry| {
        let service: Value = serde_json::from_slice(&entry.value).unwrap();
        (text(&service["spec"]["clusterIP"]).to_owned(), entry.key.name.to_string())
    });
    pairs.collect()
}

/// Who has which address, as the IPAddresses say.
fn objects(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let addresses = snapshot.range(&Collection::new("networking.k8s.io/ipaddresses"), "", None);
    let pairs = addresses.map(|entry| {
        let address: Value = serde_json::from_slice(&entry.value).unwrap();
        let parent = &address["spec"]["parentRef"];
        (entry.key.name.to_string(), format!("{}/{}", text(&parent["namespace"]), text(&parent["name"])))
    });
    pairs.collect()
}

#[tokio::test]
async fn services_that_come_at_once_share_no_address_and_fill_every_range() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    // Two that are in each other, and one beside: 30 + 6 addresses.
    for (name, cidr) in [("a", "10.9.0.0/27"), ("b", "10.9.0.8/29"), ("c", "10.9.1.0/29")] {
        admin.post(RANGES, &range(name, cidr)).await.expect(201);
    }
    // The configured range is closed: its own addresses are its last.
    let path = format!("{RANGES}/kubernetes");
    admin.delete(&path).await.expect(200);
    eventually(async || condition(&admin.get(&path).await.expect(200)) == "False Terminating").await;
    let creates = (0..40).map(|index| {
        let admin = admin.clone();
        tokio::spawn(async move { admin.post(SERVICES, &service(&format!("s{index}"), "")).await })
    });
    let mut given = BTreeSet::new();
    let mut refused = Vec::new();
    for create in creates.collect::<Vec<_>>() {
        let answer = create.await.expect("an answer");
        if answer.code == 201 {
            assert!(given.insert(text(&answer.json()["spec"]["clusterIP"]).to_owned()), "given twice");
        } else {
            refused.push(answer.refused(500).1);
        }
    }
    assert_eq!((given.len(), refused.len()), (36, 4), "{refused:?}");
    assert!(refused.iter().all(|why| why.contains("range is full")), "{refused:?}");
    assert_eq!(held(&cluster.store.snapshot()), objects(&cluster.store.snapshot()));
}

const STORM: &str = "KNARR_TEST_SERVICES_IN";
/// After how many the storm is cut off.
const STORM_SERVICES: usize = 120;

/// Not a test of its own: what the child of the one below does. Tasks make Services, change what they are and delete them, as fast as they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storm() {
    let Some(dir) = std::env::var_os(STORM) else { return };
    let store = Arc::new(Embedded::open(&Path::new(&dir).join("store"), Options { reserve_bytes: 0, ..Options::default() }).unwrap());
    let server = ApiServer::start(Config::new(dir.into(), (Ipv4Addr::LOCALHOST, 0).into()), store).await.unwrap();
    let tasks = (0..4).map(|writer| {
        let admin = Client::new(server.service_for(admin_user()));
        tokio::spawn(async move {
            for round in 0.. {
                // A name of an earlier storm is taken.
                let made =
                    admin.post(SERVICES, &json!({"metadata": {"generateName": "w"}, "spec": {"ports": [{"port": 80}]}})).await.expect(201);
                let path = format!("{SERVICES}/{}", text(&made["metadata"]["name"]));
                println!("made {writer} {round}");
                if round % 3 == 0 {
                    let named = json!({"spec": {"type": "ExternalName", "externalName": "x.org", "clusterIP": null, "clusterIPs": null}});
                    admin.patch(&path, "merge-patch", named).await.expect(200);
                }
                if round % 2 == 0 {
                    admin.delete(&path).await.expect(200);
                }
            }
        })
    });
    futures::future::join_all(tasks.collect::<Vec<_>>()).await;
}

/// No start in between puts anything right: it is the commit that is whole.
#[test]
fn kill_9_parts_no_service_from_its_address() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service_cidrs::storm", "--nocapture"])
            .env(STORM, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let made = lines.map_while(Result::ok).filter(|line| line.contains("made ")).take(STORM_SERVICES).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(made, STORM_SERVICES, "it ended by itself");
        let store = Embedded::open(&dir.path().join("store"), Options { reserve_bytes: 0, ..Options::default() }).unwrap();
        let snapshot = store.snapshot();
        let mut held = held(&snapshot);
        held.remove("");
        assert_eq!(held, objects(&snapshot));
        assert!(held.len() > STORM_SERVICES / 4, "{held:?}");
        let key = Key::new(&Collection::new("networking.k8s.io/servicecidrs"), "", "kubernetes");
        assert!(snapshot.get(&key).is_some());
    }
}
