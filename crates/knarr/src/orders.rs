//! Orders to the Knarr that runs, over the socket that only root can open, and the progress that it tells of them.

use std::io;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{cli::Place, place, report::Failure};

/// Bytes of one line of progress. They are made by this same program, and none is longer than an error's text.
const LINE_BYTES_MAX: usize = 64 << 10;

pub(crate) type Body = BoxBody<Bytes, io::Error>;

pub(crate) fn full(bytes: Vec<u8>) -> Body {
    Full::from(bytes).map_err(|never| match never {}).boxed()
}

pub(crate) fn empty() -> Body {
    full(Vec::new())
}

/// Sends an order; the answer to a success.
pub(crate) async fn send(place: &Place, method: Method, path: &str, body: Body) -> Result<Incoming, Failure> {
    let socket = place::admin_socket(&place.data_dir)?;
    let stream =
        UnixStream::connect(&socket).await.map_err(|error| Failure::Machine(format!("reach Knarr at {}: {error}", socket.display())))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "knarr").body(body)?;
    let response = sender.send_request(request).await?;
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    Err(Failure::Failed(collected(response.into_body()).await?.into()))
}

/// Sends an order without a body and prints the answer.
pub(crate) fn print(place: &Place, method: Method, path: &str) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    print!("{}", runtime.block_on(async { collected(send(place, method, path, empty()).await?).await })?);
    Ok(())
}

pub(crate) async fn collected(body: Incoming) -> Result<String, Failure> {
    Ok(String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned())
}

/// Reads progress, one JSON document a line, until `line` takes one for the last: its text, or why the order failed. `Ok(None)`: Knarr ended
/// before it said how.
pub(crate) async fn follow<L: DeserializeOwned>(
    mut body: Incoming,
    mut line: impl FnMut(L) -> Option<Result<String, String>>,
) -> Result<Option<String>, Failure> {
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let told: Vec<u8> = pending.drain(..=end).collect();
            if let Some(last) = line(serde_json::from_slice(&told)?) {
                return last.map(Some).map_err(|reason| Failure::Failed(reason.into()));
            }
        }
        if pending.len() > LINE_BYTES_MAX {
            break;
        }
    }
    Ok(None)
}
