//! `knarr status`: components, nodes, pods, and what is wrong.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams};

use crate::{
    cli::Place,
    client::{self, get::aligned},
    place,
    report::{Failure, chain},
};

pub(crate) fn run(place: &Place) -> Result<(), Failure> {
    match place::holder(&place.data_dir)? {
        Some(pid) => println!("Knarr runs as process {pid} in {}", place.data_dir.display()),
        None if place.kubeconfig.is_none() => {
            println!("Knarr does not run in {}; `knarr up` starts it", place.data_dir.display());
            return Err(Failure::Api("not running".to_owned()));
        }
        None => {}
    }
    client::run(place, show(place))
}

async fn show(place: &Place) -> Result<(), Failure> {
    let client = client::connect(place).await?;
    let mut wrong = components(&client).await?;
    wrong.extend(nodes(&client).await?);
    wrong.extend(pods(&client).await?);
    if wrong.is_empty() {
        println!("\nNothing is wrong.");
        return Ok(());
    }
    println!("\nWrong:");
    wrong.iter().for_each(|line| println!("  {line}"));
    Err(Failure::Api(format!("{} things are wrong", wrong.len())))
}

async fn components(client: &Client) -> Result<Vec<String>, Failure> {
    let request = http::Request::get("/readyz?verbose").body(Vec::new())?;
    match client.request_text(request).await {
        Ok(text) => {
            println!("API server: ready ({} checks)", text.lines().filter(|line| line.starts_with("[+]")).count());
            Ok(Vec::new())
        }
        // It answers, and says what is not well.
        Err(kube::Error::Api(status)) if status.message.contains("[-]") => {
            println!("API server: not ready");
            Ok(status.message.lines().filter_map(|line| line.strip_prefix("[-]")).map(|line| format!("API server: {line}")).collect())
        }
        Err(error) => Err(Failure::Api(format!("the API server does not answer: {}", chain(&error)))),
    }
}

async fn nodes(client: &Client) -> Result<Vec<String>, Failure> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let mut lines = vec![["NODE", "READY", "VERSION"].map(str::to_owned).to_vec()];
    let mut wrong = Vec::new();
    for node in nodes {
        let name = node.metadata.name.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
        let state = ready.map_or("Unknown", |condition| &condition.status).to_owned();
        if state != "True" {
            wrong.push(format!("node {name} is not ready: {}", ready.and_then(|condition| condition.message.clone()).unwrap_or_default()));
        }
        for condition in conditions.iter().filter(|condition| condition.type_ != "Ready" && condition.status == "True") {
            wrong.push(format!("node {name} has {}: {}", condition.type_, condition.message.clone().unwrap_or_default()));
        }
        lines.push(vec![name, state, status.node_info.map(|info| info.kubelet_version).unwrap_or_default()]);
    }
    print!("\n{}", aligned(&lines));
    Ok(wrong)
}

async fn pods(client: &Client) -> Result<Vec<String>, Failure> {
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await?;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let mut wrong = Vec::new();
    for pod in pods {
        let name = format!("{}/{}", pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default());
        let status = pod.status.unwrap_or_default();
        *counts.entry(status.phase.clone().unwrap_or_else(|| "Unknown".to_owned())).or_default() += 1;
        for condition in status.conditions.unwrap_or_default() {
            if condition.type_ == "PodScheduled" && condition.status == "False" {
                wrong.push(format!("pod {name} cannot be scheduled: {}", condition.message.unwrap_or_default()));
            }
        }
        for container in status.init_container_statuses.into_iter().flatten().chain(status.container_statuses.into_iter().flatten()) {
            let Some(waiting) = container.state.and_then(|state| state.waiting) else { continue };
            let reason = waiting.reason.unwrap_or_default();
            if !matches!(&*reason, "ContainerCreating" | "PodInitializing") {
                wrong.push(format!("pod {name}, container {}: {reason}: {}", container.name, waiting.message.unwrap_or_default()));
            }
        }
    }
    let shown: Vec<_> = counts.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    println!("\nPods: {}", if shown.is_empty() { "none".to_owned() } else { shown.join(", ") });
    Ok(wrong)
}
