//! The runners for Services and DNS, with the real API server in a network namespace of the test's own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use knarr_apiserver::ApiServer;
use knarr_apiserver::auth::User;
use knarr_client::Cluster;
use knarr_network::dns::{DnsConfig, Place, Upstreams};
use knarr_network::{NetConfig, NodeNetwork, dns, services};
use knarr_store::{Embedded, Options};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Far longer than the cluster takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// A question that a dying process had not read is lost, and asked again as resolvers do.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);
const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 43, 0, 10)), 53);

fn net_config() -> NetConfig {
    NetConfig {
        cluster_id: "7e57c1a5".to_owned(),
        pod_cidr: "10.42.0.0/24".parse().expect("a network"),
        cluster_cidr: "10.42.0.0/16".parse().expect("a network"),
        service_cidr: "10.43.0.0/16".parse().expect("a network"),
        node_ip: "127.0.0.1".parse().expect("an address"),
        dns_ip: DNS.ip(),
        mtu: None,
    }
}

fn api_config(dir: &Path) -> knarr_apiserver::Config {
    let listen = SocketAddr::new(net_config().node_ip, 0);
    knarr_apiserver::Config { service_cidr: net_config().service_cidr, ..knarr_apiserver::Config::new(dir.to_owned(), listen) }
}

#[test]
fn services_and_names_follow_the_cluster() {
    knarr_testbed::require_root!();
    knarr_testbed::netns::run(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(follow());
    })
    .expect("a network namespace");
}

async fn follow() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Arc::new(Embedded::open(&dir.path().join("store"), Options::default()).expect("a store"));
    let api = ApiServer::start(api_config(dir.path()), store).await.expect("a server");
    let cluster = |user: User| Cluster::new(kube::Client::new(api.service_for(user), "default"));
    let admin = cluster(User::authenticated("admin", ["system:masters"]));
    let own = cluster(User::authenticated("knarr:network", Vec::<String>::new()));

    let network = NodeNetwork::open(net_config()).expect("a network");
    tokio::spawn(services::run(own.clone(), network.clone(), "here".to_owned()));
    let config = DnsConfig { listen: vec![DNS], domain: "cluster.local".to_owned(), upstreams: Upstreams::Fixed(vec![]) };
    let place = Place { run_dir: dir.path().join("run"), program: env!("CARGO_BIN_EXE_knarr-dns-for-tests").into() };
    let _end = Ended(&place);
    let feeder = tokio::spawn(dns::run(own.clone(), config.clone(), place.clone()));

    for (name, port) in [("one", 8081), ("two", 8082)] {
        serve(name, SocketAddr::new(Ipv4Addr::new(10, 42, 0, 1).into(), port)).await;
    }
    let services: Api<Service> = admin.api("default");
    let slices: Api<EndpointSlice> = admin.api("default");
    let service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web"}, "spec": {"clusterIP": "10.43.0.77", "ports": [{"port": 80}]}}))
    .expect("a Service");
    services.create(&PostParams::default(), &service).await.expect("created");
    until("without endpoints it refuses", || async { ask("10.43.0.77:80").await == Err(std::io::ErrorKind::ConnectionRefused) }).await;

    slices.create(&PostParams::default(), &slice(8081)).await.expect("created");
    until("an endpoint serves", || async { ask("10.43.0.77:80").await == Ok("one".to_owned()) }).await;
    until("its name is known", || async { lookup("web.default.svc.cluster.local.").await == (ResponseCode::NoError, 1) }).await;

    let patch = serde_json::to_value(slice(8082)).expect("JSON");
    slices.patch("web-1", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("patched");
    until("another endpoint serves", || async { ask("10.43.0.77:80").await == Ok("two".to_owned()) }).await;

    // A Service of another range is served there, has a name by its address, and its neighbours refuse.
    let ranges: Api<ServiceCIDR> = admin.all();
    let more =
        serde_json::from_value(serde_json::json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/24"]}})).expect("a range");
    ranges.create(&PostParams::default(), &more).await.expect("created");
    let there = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "there"}, "spec": {"clusterIP": "203.0.113.7", "ports": [{"port": 80}]}}))
    .expect("a Service");
    services.create(&PostParams::default(), &there).await.expect("created");
    let mut behind = slice(8081);
    behind.metadata.name = Some("there-1".to_owned());
    behind.metadata.labels.get_or_insert_default().insert("kubernetes.io/service-name".to_owned(), "there".to_owned());
    slices.create(&PostParams::default(), &behind).await.expect("created");
    until("the other range serves", || async { ask("203.0.113.7:80").await == Ok("one".to_owned()) }).await;
    until("its neighbour refuses", || async { ask("203.0.113.8:80").await == Err(std::io::ErrorKind::ConnectionRefused) }).await;
    let reverse = "7.113.0.203.in-addr.arpa.";
    until("the address has a name", || async { lookup_of(reverse, RecordType::PTR).await == (ResponseCode::NoError, 1) }).await;
    services.delete("there", &DeleteParams::default()).await.expect("deleted");
    ranges.delete("more", &DeleteParams::default()).await.expect("deleted");
    until("nothing leads there", || async { ask("203.0.113.7:80").await == Err(std::io::ErrorKind::NetworkUnreachable) }).await;

    // Names are answered without anybody behind the process that answers them, and the next one to come finds it as it is.
    feeder.abort();
    assert!(feeder.await.expect_err("broken off").is_cancelled());
    let process = process_of(&place);
    assert_eq!(lookup("web.default.svc.cluster.local.").await, (ResponseCode::NoError, 1));
    let other = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "other"}, "spec": {"clusterIP": "10.43.0.78", "ports": [{"port": 80}]}}))
    .expect("a Service");
    services.create(&PostParams::default(), &other).await.expect("created");
    let feeder = tokio::spawn(dns::run(own, config, place.clone()));
    until("what came meanwhile is known", || async { lookup("other.default.svc.cluster.local.").await == (ResponseCode::NoError, 1) })
        .await;
    assert_eq!(process_of(&place), process);

    // One that is killed is replaced.
    let pid = rustix::process::Pid::from_raw(process).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    until("another answers", || async { lookup("web.default.svc.cluster.local.").await == (ResponseCode::NoError, 1) }).await;
    assert_ne!(process_of(&place), process);

    services.delete("web", &DeleteParams::default()).await.expect("deleted");
    until("its name is gone", || async { lookup("web.default.svc.cluster.local.").await == (ResponseCode::NXDomain, 0) }).await;
    until("nothing serves", || async { ask("10.43.0.77:80").await.is_err() }).await;
    // It would start another in place of the one that is ended.
    feeder.abort();
    assert!(feeder.await.expect_err("broken off").is_cancelled());
}

fn process_of(place: &Place) -> i32 {
    std::fs::read_to_string(place.run_dir.join("dns.lock")).expect("a lock").parse().expect("the number of a process")
}

/// The DNS process would outlive the test.
struct Ended<'a>(&'a Place);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        dns::end(&self.0.run_dir).expect("ended");
    }
}

fn slice(port: u16) -> EndpointSlice {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.42.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
    }))
    .expect("a slice")
}

/// Says its name to everyone who connects.
async fn serve(name: &'static str, address: SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("a port");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // A client that has gone is the test's own matter.
            let _ = stream.write_all(name.as_bytes()).await;
        }
    });
}

async fn ask(address: &str) -> Result<String, std::io::ErrorKind> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| std::io::ErrorKind::TimedOut)?.map_err(|error: std::io::Error| error.kind())
}

/// The code, and how many answers.
async fn lookup(name: &str) -> (ResponseCode, usize) {
    lookup_of(name, RecordType::A).await
}

async fn lookup_of(name: &str, kind: RecordType) -> (ResponseCode, usize) {
    let mut question = Message::new(1, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    let socket = UdpSocket::bind("0.0.0.0:0").await.expect("a socket");
    socket.connect(DNS).await.expect("connected");
    // A port that nobody has is told of at the next call.
    if socket.send(&question.to_vec().expect("encoded")).await.is_err() {
        return (ResponseCode::ServFail, 0);
    }
    let mut buffer = [0; 512];
    match tokio::time::timeout(ANSWER_TIME_MAX, socket.recv(&mut buffer)).await {
        Ok(Ok(received)) => {
            let answer = Message::from_vec(&buffer[..received]).expect("decoded");
            (answer.metadata.response_code, answer.answers.len())
        }
        _ => (ResponseCode::ServFail, 0),
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let end = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::task::yield_now().await;
    }
}
