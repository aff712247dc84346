//! How soon a changed Service serves, with a thousand beside it.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Bench, Budget, Figure, Outcome, block_on,
    client::{Client, Session, TIME_MAX},
    cluster::Cluster,
    load::{self, Until, Wanted},
};

const SERVICES: usize = 1_000;
const CHANGES: usize = 50;

/// The first address of the pods' network is the node's own end of it.
const NODE: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

pub(crate) fn measure(bench: &Bench) -> Outcome<Vec<Figure>> {
    let cluster = Cluster::running(bench)?;
    let client = cluster.client()?;
    let ports = [answering(b'0')?, answering(b'1')?];
    block_on(async {
        let mut session = client.session().await?;
        load::run(&client, Until::Requests(SERVICES), Wanted::Success, create(&client, "/api/v1/namespaces/default/services", service))
            .await?;
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        load::run(&client, Until::Requests(SERVICES), Wanted::Success, create(&client, slices, move |number| slice(number, ports[0])))
            .await?;
        let address = address(&mut session, SERVICES - 1).await?;
        reach(address, b'0')?;
        let mut times = Vec::new();
        for change in 1..=CHANGES {
            let changed = slice(SERVICES - 1, ports[change % 2]);
            let began = Instant::now();
            session.put(&format!("{slices}/{}", name(SERVICES - 1)), &changed).await?;
            reach(address, b'0' + (change % 2) as u8)?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        Ok(vec![Figure::median("one Service changed among 1,000", Budget::None, times, "ms")])
    })
}

fn name(number: usize) -> String {
    format!("bench-{number}")
}

fn service(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number)}, "spec": {"ports": [{"port": 80}]}})
}

fn slice(number: usize, port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name(number), "labels": {"kubernetes.io/service-name": name(number), "endpointslice.kubernetes.io/managed-by": "bench"}},
        "endpoints": [{"addresses": [NODE.to_string()], "conditions": {"ready": true}}],
        "ports": [{"port": port}],
    })
}

fn create<O: Fn(usize) -> Value>(client: &Client, path: &'static str, object: O) -> impl Fn(usize) -> String + use<O> {
    let host = client.host();
    move |number| {
        let body = object(number).to_string();
        format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }
}

/// Where the Service is reached.
async fn address(session: &mut Session, number: usize) -> Outcome<SocketAddr> {
    let service = session.get(&format!("/api/v1/namespaces/default/services/{}", name(number))).await?;
    let ip = service.pointer("/spec/clusterIP").and_then(Value::as_str).and_then(|text| text.parse::<IpAddr>().ok());
    ip.map(|ip| SocketAddr::new(ip, 80)).ok_or_else(|| format!("no address in {service}"))
}

/// A server that answers each connection with `answer`; its port.
fn answering(answer: u8) -> Outcome<u16> {
    let listener = TcpListener::bind("0.0.0.0:0").map_err(|error| format!("listen: {error}"))?;
    let port = listener.local_addr().map_err(|error| format!("listen: {error}"))?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Who hung up does not want the answer.
            drop(stream.write_all(&[answer]));
        }
    });
    Ok(port)
}

/// Connects until `answer` comes.
fn reach(address: SocketAddr, answer: u8) -> Outcome<()> {
    let began = Instant::now();
    while began.elapsed() < TIME_MAX {
        let mut got = [0];
        let connected = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        if connected.and_then(|mut stream| stream.read_exact(&mut got)).is_ok() && got[0] == answer {
            return Ok(());
        }
    }
    Err(format!("{address} does not lead to the new endpoint"))
}
