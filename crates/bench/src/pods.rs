//! How fast pods become ready, and what they cost.

use std::time::Instant;

use serde_json::{Value, json};

use crate::{
    Bench, Budget, Figure, Outcome, block_on,
    client::{Client, Session},
    cluster::Cluster,
    idle::SETTLE,
    process::Memory,
};

/// Pods one after the other; the first of all is not counted, as it meets cold caches.
const PODS: usize = 20;
const REPLICAS: usize = 100;

const PODS_PATH: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS_PATH: &str = "/apis/apps/v1/namespaces/default/deployments";

pub(crate) fn measure(bench: &Bench) -> Outcome<Vec<Figure>> {
    let cluster = Cluster::running(bench)?;
    let client = cluster.client()?;
    block_on(async {
        let mut session = client.session().await?;
        service_account(&client).await?;
        one(&client, &mut session).await?;
        let mut times = Vec::new();
        for _ in 0..PODS {
            times.push(one(&client, &mut session).await?);
        }
        tokio::time::sleep(SETTLE).await;
        let before = private(&cluster)?;
        let took = replicas(&client, &mut session).await?;
        let at_once = private(&cluster)?;
        tokio::time::sleep(SETTLE).await;
        let after = private(&cluster)?;
        let keepers = cluster.processes().into_iter().filter(|process| *process != cluster.main_process());
        let keepers = keepers.map(|keeper| Ok(keeper.memory()?.private as f64 / 1e6)).collect::<Outcome<Vec<_>>>()?;
        let per_pod = |now: u64| (now - before) as f64 / 1e6 / REPLICAS as f64;
        Ok(vec![
            Figure::median("create → Ready, image present, median of 20", Budget::AtMost(60.0), times, "ms"),
            Figure::new("Deployment of 100 replicas ready", Budget::AtMost(3.0), took, "s"),
            Figure::new("private memory for each pod, outside its containers", Budget::AtMost(0.5), per_pod(after), "MB"),
            Figure::new("the same, the moment they are ready", Budget::None, per_pod(at_once), "MB"),
            Figure::median("of it, its keeper", Budget::None, keepers, "MB"),
        ])
    })
}

fn template() -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "busybox:1", "command": ["sleep", "3600"]}],
    })
}

/// Pods are refused before their service account is there.
async fn service_account(client: &Client) -> Outcome<()> {
    let mut events = client.watch("/api/v1/namespaces/default/serviceaccounts?watch=1").await?;
    events.until(|_, account| account.pointer("/metadata/name").is_some_and(|name| name == "default")).await.map(drop)
}

/// From the request to create a pod to the event that shows it ready, in milliseconds. The pod is gone afterwards.
async fn one(client: &Client, session: &mut Session) -> Outcome<f64> {
    let mut events = client.watch(&since(session, PODS_PATH).await?).await?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": template()});
    let began = Instant::now();
    session.post(PODS_PATH, &pod).await?;
    events.until(|_, pod| is_ready(pod)).await?;
    let took = began.elapsed();
    session.delete(&format!("{PODS_PATH}/one")).await?;
    events.until(|kind, _| kind == "DELETED").await?;
    Ok(took.as_secs_f64() * 1e3)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The path that watches `path` from now on.
async fn since(session: &mut Session, path: &str) -> Outcome<String> {
    let list = session.get(&format!("{path}?limit=1")).await?;
    let revision = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).ok_or(format!("{path} has no revision"))?;
    Ok(format!("{path}?watch=1&resourceVersion={revision}"))
}

/// From the request to create a Deployment to the event that shows all of it ready, in seconds.
async fn replicas(client: &Client, session: &mut Session) -> Outcome<f64> {
    let mut events = client.watch(&since(session, DEPLOYMENTS_PATH).await?).await?;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": "many"}},
            "template": {"metadata": {"labels": {"app": "many"}}, "spec": template()},
        },
    });
    let began = Instant::now();
    session.post(DEPLOYMENTS_PATH, &deployment).await?;
    events.until(|_, deployment| deployment.pointer("/status/readyReplicas").is_some_and(|ready| *ready == REPLICAS)).await?;
    Ok(began.elapsed().as_secs_f64())
}

fn private(cluster: &Cluster) -> Outcome<u64> {
    cluster.processes().into_iter().map(|process| process.memory()).sum::<Outcome<Memory>>().map(|memory| memory.private)
}
