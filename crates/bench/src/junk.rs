//! Requests that no client means, each another: none of them may leave anything behind (CVE-2020-8552).

use crate::{
    Bench, Budget, Figure, Outcome, block_on,
    cluster::Cluster,
    load::{self, Until, Wanted},
};

const REQUESTS: usize = 1_000_000;
/// Sent before memory is read for the first time: they fill pools, buffers and the few series of metrics that all of them are counted by.
const WARMING: usize = 50_000;
/// 16 bytes for each request: what the allocator keeps moves by more than nothing.
const GROWTH_MEGABYTES_MAX: f64 = 16.0;

pub(crate) fn measure(bench: &Bench) -> Outcome<Vec<Figure>> {
    let cluster = Cluster::running(bench)?;
    let client = cluster.client()?;
    block_on(async {
        let memory = || cluster.main_process().memory().map(|memory| memory.private as f64 / 1e6);
        let host = client.host();
        let junk = move |number: usize| junk(&host, number);
        load::run(&client, Until::Requests(WARMING), Wanted::Refusal, junk).await?;
        let before = memory()?;
        let done = load::run(&client, Until::Requests(REQUESTS), Wanted::Refusal, junk).await?;
        let after = memory()?;
        let growth = Figure::new("memory more after a million junk requests", Budget::AtMost(GROWTH_MEGABYTES_MAX), after - before, "MB");
        Ok(vec![growth.note(format!("of {before:.1} MB; {:.0} requests/s", done.per_second))])
    })
}

fn junk(host: &impl std::fmt::Display, number: usize) -> String {
    let random = fastrand::u64(..);
    let get = |path: String| ("GET".to_owned(), path, "", String::new());
    let (method, path, media, body) = match number % 10 {
        0 => get(format!("/{random:x}/{number}")),
        1 => get(format!("/apis/g{random:x}.example.com/v1/things")),
        2 => get(format!("/api/v1/namespaces/n{random:x}/r{number}/x/sub{random:x}")),
        3 => {
            let body = format!("{{\"k{random:x}\": [[[");
            ("POST".to_owned(), "/api/v1/namespaces/default/configmaps".to_owned(), "application/json", body)
        }
        4 => {
            let path = format!("/api/v1/namespaces/default/pods?q{random:x}={number}");
            ("POST".to_owned(), path, "application/yaml", format!("a{random:x}: *b"))
        }
        5 => get(format!("/api/v1/pods?labelSelector=k{random:x}+in+({number}")),
        6 => get(format!("/api/v1/pods?fieldSelector=f{random:x}%3D{number}")),
        7 => (format!("M{random:X}"), format!("/api/v1/pods/{random:x}"), "", String::new()),
        8 => ("PATCH".to_owned(), format!("/api/v1/nodes/n{random:x}"), "application/merge-patch+json", "{}".to_owned()),
        _ => get(format!("/openapi/v3/apis/g{random:x}/v{number}?hash={random:x}")),
    };
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: agent-{random:x}\r\naudit-id: id-{random:x}\r\ncontent-type: {media}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}
