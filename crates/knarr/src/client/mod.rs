//! A thin client for machines without kubectl. The server does the work: it renders tables, merges applies, checks fields.

pub(crate) mod apply;
pub(crate) mod delete;
pub(crate) mod exec;
pub(crate) mod get;
pub(crate) mod logs;
mod resources;
pub(crate) mod wait;

use std::path::PathBuf;

use http::{Request, header::ACCEPT};
use knarr_client::Cluster;
use kube::Client;
use serde_json::Value;

use crate::{cli::Place, report::Failure};

/// Runs a command to its end on this thread.
pub(crate) fn run(place: &Place, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let kubeconfig = kubeconfig(place);
    if !kubeconfig.exists() {
        return Err(Failure::Api(format!(
            "there is no kubeconfig at {}; is Knarr running? Start it with `knarr up`, or name another with --kubeconfig",
            kubeconfig.display()
        )));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

pub(crate) fn kubeconfig(place: &Place) -> PathBuf {
    place.kubeconfig.clone().unwrap_or_else(|| place.data_dir.join("admin.kubeconfig"))
}

pub(crate) async fn connect(place: &Place) -> Result<Client, Failure> {
    Ok(Cluster::from_kubeconfig(&kubeconfig(place)).await?.client())
}

/// A request whose answer is JSON.
async fn send(client: &Client, method: &str, path: &str, accept: &str, content_type: &str, body: Vec<u8>) -> Result<Value, Failure> {
    let request = Request::builder().method(method).uri(path).header(ACCEPT, accept).header("content-type", content_type).body(body)?;
    client.request(request).await.map_err(refused)
}

async fn fetch(client: &Client, path: &str, accept: &str) -> Result<Value, Failure> {
    send(client, "GET", path, accept, JSON, Vec::new()).await
}

const JSON: &str = "application/json";

/// What the server said, in its own words; otherwise that it could not be reached.
fn refused(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => Failure::Api(format!("the server refused: {}", status.message)),
        other => {
            Failure::Api(format!("no answer from the API server: {}; is Knarr running? See `knarr status`", crate::report::chain(&other)))
        }
    }
}

/// Percent-encodes a query's value.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Text from the cluster, made safe for a terminal: escape sequences in names and messages are shown, not obeyed (CVE-2021-25743).
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}
