//! The streams of a remote command: the client opens one for each channel, in any order.

use std::time::Duration;

use super::super::Wanted;
use super::super::remote::{Client, Output};
use super::connection::{Connection, Stream};

/// How long the client may take to open its streams (kubelet, remotecommand.DefaultStreamCreationTimeout).
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Collects the streams that the client asked for; the reason if they do not come.
pub(in super::super) async fn remote_streams(connection: &mut Connection, protocol: &str, wanted: Wanted) -> Result<Client, String> {
    let has_resize = wanted.tty && !matches!(protocol, "channel.k8s.io" | "v2.channel.k8s.io");
    let expected = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr && !wanted.tty),
        ("resize", has_resize),
    ];
    let mut missing: Vec<&str> = expected.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let mut streams: Vec<(String, Stream)> = Vec::with_capacity(missing.len());
    let collect = async {
        while !missing.is_empty() {
            let Some(stream) = connection.accept().await else { return Err("the connection ended".to_owned()) };
            let kind = stream.header("streamtype").unwrap_or_default().to_owned();
            let Some(at) = missing.iter().position(|name| *name == kind) else {
                // A second one, or one that was not asked for.
                stream.refuse().await.map_err(|_| "the connection ended".to_owned())?;
                continue;
            };
            missing.swap_remove(at);
            stream.accept().await.map_err(|_| "the connection ended".to_owned())?;
            streams.push((kind, stream));
        }
        Ok(())
    };
    match tokio::time::timeout(CREATION_TIMEOUT, collect).await {
        Ok(result) => result?,
        Err(_) => return Err(format!("streams are missing after 30 s: {missing:?}")),
    }
    let mut take = |name: &str| streams.iter().position(|(kind, _)| kind == name).map(|at| streams.swap_remove(at).1);
    let (stdin, resize) = (take("stdin"), take("resize"));
    let mut output = |name: &str| take(name).map(|stream| Output::Spdy(stream.writer));
    let (stdout, stderr) = (output("stdout"), output("stderr"));
    Ok(Client {
        stdin: stdin.map(|stream| stream.input),
        stdout,
        stderr,
        error: output("error").ok_or("the error stream is missing")?,
        resize: resize.map(|stream| stream.input),
        gone: connection.gone().clone(),
        status_is_json: protocol == "v4.channel.k8s.io",
    })
}
