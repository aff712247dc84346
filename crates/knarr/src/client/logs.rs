//! `knarr logs`.

use futures::AsyncBufReadExt as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::LogParams};

use super::{connect, refused};
use crate::{cli::Logs, report::Failure};

pub(crate) async fn run(logs: &Logs) -> Result<(), Failure> {
    let pods: Api<Pod> = Api::namespaced(connect(&logs.place).await?, &logs.namespace);
    let params = LogParams {
        container: logs.container.clone(),
        follow: logs.follow,
        previous: logs.previous,
        tail_lines: logs.tail,
        ..LogParams::default()
    };
    let stream = pods.log_stream(&logs.pod, &params).await.map_err(refused)?;
    let mut lines = std::pin::pin!(stream.lines());
    while let Some(line) = lines.try_next().await? {
        println!("{line}");
    }
    Ok(())
}
