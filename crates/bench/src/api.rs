//! What the API server carries.

use std::time::Duration;

use crate::{
    Bench, Budget, Figure, Outcome, block_on,
    client::Client,
    cluster::Cluster,
    load::{self, Until, Wanted},
};

/// Each rate is measured this long.
const MEASURED: Duration = Duration::from_secs(10);

/// What is listed: as many ConfigMaps as the reference was measured with, 4.8 MB in all.
const LISTED: usize = 5_900;
/// Bytes of data in each, which with metadata make about 815.
const DATA_BYTES: usize = 300;

pub(crate) fn measure(bench: &Bench) -> Outcome<Vec<Figure>> {
    let cluster = Cluster::running(bench)?;
    let client = cluster.client()?;
    block_on(async {
        let host = client.host();
        load::run(&client, Until::Requests(LISTED), Wanted::Success, create(&client, "default")).await?;
        let path = move |number: usize| format!("/api/v1/namespaces/default/configmaps/bench-{:06}", number % LISTED);
        Ok(vec![
            rate(&cluster, &client, "durable creates, 32 connections", Some(6_000.0), create(&client, "kube-public")).await?,
            rate(&cluster, &client, "gets, 32 connections", Some(30_000.0), move |number| get(&host, &path(number))).await?,
            rate(&cluster, &client, "lists of 5,900 ConfigMaps, 32 connections", Some(250.0), move |_| {
                get(&host, "/api/v1/namespaces/default/configmaps")
            })
            .await?,
            rate(&cluster, &client, "durable merge patches, 32 connections", None, {
                let host = client.host();
                move |number| {
                    change(&host, &path(number), "application/merge-patch+json", &format!(r#"{{"data":{{"changed":"{number}"}}}}"#))
                }
            })
            .await?,
            rate(&cluster, &client, "durable applies, 32 connections", None, {
                let host = client.host();
                move |number| {
                    let name = format!("bench-{:06}", number % LISTED);
                    let object = format!(
                        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"applied":"{number}"}}}}"#
                    );
                    change(&host, &format!("{}?fieldManager=bench", path(number)), "application/apply-patch+yaml", &object)
                }
            })
            .await?,
        ])
    })
}

/// How many requests a second are answered, and what each costs Knarr: that is less at the mercy of what else the machine does.
async fn rate<R>(cluster: &Cluster, client: &Client, name: &str, budget: Option<f64>, request: R) -> Outcome<Figure>
where
    R: Fn(usize) -> String + Send + Sync + 'static,
{
    let before = cluster.main_process().cpu()?;
    let done = load::run(client, Until::Time(MEASURED), Wanted::Success, request).await?;
    let spent = (cluster.main_process().cpu()? - before).as_secs_f64() * 1e6 / done.requests as f64;
    let size = match done.body_bytes {
        bytes if bytes >= 1_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        bytes => format!("{bytes} bytes"),
    };
    Ok(Figure::new(name, budget.map_or(Budget::None, Budget::AtLeast), done.per_second, "/s")
        .note(format!("{size} and {spent:.0} µs of Knarr's CPU each")))
}

fn get(host: &impl std::fmt::Display, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: knarr-bench\r\naccept: application/json\r\n\r\n")
}

fn change(host: &impl std::fmt::Display, path: &str, media: &str, body: &str) -> String {
    format!(
        "PATCH {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: knarr-bench\r\naccept: application/json\r\ncontent-type: {media}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Requests that create ConfigMaps, each under a name of its own.
fn create(client: &Client, namespace: &'static str) -> impl Fn(usize) -> String + Send + Sync + use<> {
    let (host, data) = (client.host(), "x".repeat(DATA_BYTES));
    move |number| {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"bench-{number:06}","labels":{{"app":"bench"}}}},"data":{{"key":"{data}"}}}}"#
        );
        format!(
            "POST /api/v1/namespaces/{namespace}/configmaps HTTP/1.1\r\nhost: {host}\r\nuser-agent: knarr-bench\r\naccept: application/json\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}
