//! Many of one thing: watchers of one object, and objects in pages.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    Bench, Budget, Figure, Outcome, block_on,
    client::{Client, Events},
    cluster::Cluster,
};

const WATCHERS: usize = 1_000;
const CHANGES: usize = 20;

const OBJECTS: usize = 10_000;
const PAGE: usize = 500;
const LISTINGS: usize = 5;

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn measure(bench: &Bench) -> Outcome<Vec<Figure>> {
    let cluster = Cluster::running(bench)?;
    let client = cluster.client()?;
    block_on(async {
        let mut figures = watchers(&cluster, &client).await?;
        figures.push(pages(&client).await?);
        Ok(figures)
    })
}

/// A change of the object to the last watcher that sees it, and what a watcher costs in memory.
async fn watchers(cluster: &Cluster, client: &Client) -> Outcome<Vec<Figure>> {
    let mut session = client.session().await?;
    let object = |change: usize| json!({"metadata": {"name": "watched"}, "data": {"change": change.to_string()}});
    session.post(CONFIG_MAPS, &object(0)).await?;
    let memory = || cluster.main_process().memory().map(|memory| memory.private as f64);
    let before = memory()?;
    let mut watches = Vec::new();
    for _ in 0..WATCHERS {
        watches.push(client.watch(&format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name%3Dwatched")).await?);
    }
    all_see(&mut watches, 0).await?;
    let each = (memory()? - before) / WATCHERS as f64 / 1e3;
    let mut took = Vec::new();
    for change in 1..=CHANGES {
        let began = Instant::now();
        session.put(&format!("{CONFIG_MAPS}/watched"), &object(change)).await?;
        all_see(&mut watches, change).await?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(vec![
        Figure::median("change of one object to the last of 1,000 watchers", Budget::None, took, "ms"),
        Figure::new("memory per watcher, TLS and HTTP included", Budget::None, each, "KB"),
    ])
}

async fn all_see(watches: &mut [Events], change: usize) -> Outcome<()> {
    let shown = Value::from(change.to_string());
    for watch in watches {
        watch.until(|_, object| object["data"]["change"] == shown).await?;
    }
    Ok(())
}

/// All objects, in pages one after the other, as client-go's reflector asked before it streamed lists.
async fn pages(client: &Client) -> Outcome<Figure> {
    let mut session = client.session().await?;
    let namespace = "/api/v1/namespaces/kube-public/configmaps";
    for number in 0..OBJECTS {
        session.post(namespace, &json!({"metadata": {"name": format!("page-{number:06}")}, "data": {"key": "x".repeat(300)}})).await?;
    }
    let mut took = Vec::new();
    for _ in 0..LISTINGS {
        let began = Instant::now();
        let (mut seen, mut token) = (0, String::new());
        loop {
            let page = session.get(&format!("{namespace}?limit={PAGE}&continue={token}")).await?;
            seen += page["items"].as_array().map_or(0, Vec::len);
            token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
        }
        if seen < OBJECTS {
            return Err(format!("{seen} of {OBJECTS} objects in the pages"));
        }
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Figure::median("10,000 ConfigMaps in pages of 500", Budget::None, took, "ms"))
}
