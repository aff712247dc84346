//! The socket on which a running Knarr takes orders about its images and keys. HTTP/1 over a Unix socket that only root can open.
//!
//! `GET /images` lists, `POST /images` imports the archive in its body, `GET /images/<name>` exports, `DELETE /images/<name>` removes,
//! `POST /pulls/<name>` pulls with the credentials in its body (a docker config.json, or nothing) and tells its progress line by line.
//! `GET /secrets` says what is sealed with which key, `POST /secrets/rotate` turns keys over and tells its progress line by line.
//! `GET /certs` lists certificates, `POST /certs/renew/<name>` renews one, or all where no name is given. `GET /tokens` lists the keys of tokens,
//! `POST /tokens/rotate` (`/now`) and `POST /tokens/forget` (`/forced`) change them.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, BodyStream, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use knarr_apiserver::{
    encryption::Encryption,
    pki::{Pki, Turnover},
};
use knarr_runtime::Runtime;
use knarr_store::Store;
use tokio::{
    net::UnixListener,
    sync::{Semaphore, mpsc},
};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use crate::{
    certs,
    image::{self, pull::Line},
    report::chain,
    secrets, tokens,
};

/// Orders carried out at a time: each may unpack an image.
const CONNECTIONS_MAX: usize = 8;

/// Bytes of an exported archive on their way from the thread that reads them.
const PIPE_BYTES: usize = 256 << 10;

/// Bytes of a docker config.json in a request.
const LOGINS_BYTES_MAX: usize = 1 << 20;

/// Lines of progress on their way to a caller.
const LINES_MAX: usize = 256;

type Body = UnsyncBoxBody<Bytes, io::Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error("make the directory {path}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("listen on {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Whom orders are for.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) runtime: Runtime,
    pub(super) encryption: Arc<Encryption>,
    pub(super) store: Arc<dyn Store>,
    pub(super) pki: Pki,
}

pub(super) async fn serve(path: PathBuf, parts: Parts) -> Result<(), AdminError> {
    let listener = listen(&path)?;
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let seat = seats.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(source) => return Err(AdminError::Listen { path, source }),
        };
        let parts = parts.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(parts.clone(), request));
            if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await {
                tracing::debug!(%error, "an order was cut off");
            }
            drop(seat);
        });
    }
}

fn listen(path: &Path) -> Result<UnixListener, AdminError> {
    let directory = path.parent().expect("the socket lies in the run directory");
    let fault = |source| AdminError::Directory { path: directory.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fault)?;
    let fault = |source| AdminError::Listen { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(error)),
        // What a killed Knarr left; the data directory's lock says that none other is running.
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fault)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fault)?;
    Ok(listener)
}

async fn answer(Parts { runtime, encryption, store, pki }: Parts, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/secrets") => return Ok(text(secrets::status(&encryption, &*store).await)),
        (&Method::POST, "/secrets/rotate") => return Ok(rotate(encryption, store)),
        (&Method::GET, "/certs") => return Ok(text(certs::list(&pki))),
        (&Method::GET, "/tokens") => return Ok(text(tokens::status(&pki))),
        (&Method::POST, "/tokens/rotate") => return Ok(changed(move || tokens::rotate(&pki, Turnover::Published)).await),
        (&Method::POST, "/tokens/rotate/now") => return Ok(changed(move || tokens::rotate(&pki, Turnover::AtOnce)).await),
        (&Method::POST, "/tokens/forget") => return Ok(changed(move || tokens::forget(&pki, false)).await),
        (&Method::POST, "/tokens/forget/forced") => return Ok(changed(move || tokens::forget(&pki, true)).await),
        _ => {}
    }
    if head.method == Method::POST
        && let Some(name) = head.uri.path().strip_prefix("/certs/renew/")
    {
        let name = name.to_owned();
        return Ok(changed(move || certs::renew(&pki, &name)).await);
    }
    if head.method == Method::POST
        && let Some(name) = head.uri.path().strip_prefix("/pulls/")
    {
        return Ok(pull(&runtime, name, body).await.unwrap_or_else(refusal));
    }
    let answer = match (head.method, head.uri.path().strip_prefix("/images").map(|rest| rest.trim_start_matches('/'))) {
        (Method::GET, Some("")) => Ok(text(image::table(&runtime.images().list()))),
        (Method::POST, Some("")) => import(&runtime, body).await,
        (Method::GET, Some(name)) => export(&runtime, name),
        (Method::DELETE, Some(name)) => remove(&runtime, name).await,
        _ => Err((StatusCode::NOT_FOUND, "there is no such order".to_owned())),
    };
    Ok(answer.unwrap_or_else(refusal))
}

fn refusal((status, message): (StatusCode, String)) -> Response<Body> {
    let mut response = text(message);
    *response.status_mut() = status;
    response
}

type Answer = Result<Response<Body>, (StatusCode, String)>;

fn text(text: String) -> Response<Body> {
    Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync())
}

async fn import(runtime: &Runtime, body: Incoming) -> Answer {
    let frames = BodyStream::new(body)
        .filter_map(|frame| async move { frame.map_err(io::Error::other).map(|frame| frame.into_data().ok()).transpose() });
    let reader = StreamReader::new(Box::pin(frames));
    let images = runtime.images().clone();
    let imported = blocking(move || image::import(&images, SyncIoBridge::new(reader))).await?;
    Ok(text(imported))
}

fn export(runtime: &Runtime, name: &str) -> Answer {
    let images = runtime.images().clone();
    if images.resolve(name).is_none() {
        return Err((StatusCode::NOT_FOUND, image::not_here(name)));
    }
    let name = name.to_owned();
    let (reader, writer) = tokio::io::duplex(PIPE_BYTES);
    let written = tokio::task::spawn_blocking(move || images.export(&[&name], SyncIoBridge::new(writer)).map_err(|error| chain(&error)));
    // Without its last part, an answer ends like a whole one: the error must break it.
    let end = futures::stream::once(async move {
        match written.await {
            Ok(Ok(())) => Ok(Bytes::new()),
            Ok(Err(error)) => {
                tracing::warn!(error, "export an image");
                Err(io::Error::other(error))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    });
    Ok(Response::new(http_body_util::BodyExt::boxed_unsync(StreamBody::new(ReaderStream::new(reader).chain(end).map_ok(Frame::data)))))
}

/// The pull ends when the caller hangs up, unless others wait for it too.
async fn pull(runtime: &Runtime, name: &str, body: Incoming) -> Answer {
    let logins = Limited::new(body, LOGINS_BYTES_MAX).collect().await.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let (images, name, logins) = (runtime.images().clone(), name.to_owned(), logins.to_bytes());
    let (lines, mut told) = mpsc::channel(LINES_MAX);
    let pull = async move {
        let tell = lines.clone();
        // A caller who is slow to read misses some of the progress, and no more.
        let pulled = image::pull::pull(&images, &name, &logins, move |line| drop(tell.try_send(line))).await;
        let last = match pulled {
            Ok(text) => Line::Pulled { text },
            Err(reason) => Line::Failed { reason },
        };
        // Refused only where the caller is gone.
        let _ = lines.send(last).await;
    };
    let told = futures::stream::poll_fn(move |context| told.poll_recv(context)).map(Some);
    let pulling = futures::stream::once(pull).map(|()| None);
    Ok(by_lines(futures::stream::select(told, pulling).filter_map(|line| async move { line })))
}

/// A turn-over goes on when the caller hangs up.
fn rotate(encryption: Arc<Encryption>, store: Arc<dyn Store>) -> Response<Body> {
    let (lines, mut told) = mpsc::channel(LINES_MAX);
    tokio::spawn(async move { secrets::rotate(&encryption, &*store, lines).await });
    by_lines(futures::stream::poll_fn(move |context| told.poll_recv(context)))
}

/// One JSON document a line, as they come.
fn by_lines<T: serde::Serialize>(lines: impl futures::Stream<Item = T> + Send + 'static) -> Response<Body> {
    let frames = lines.map(|line| {
        let mut text = serde_json::to_vec(&line).map_err(io::Error::other)?;
        text.push(b'\n');
        Ok::<_, io::Error>(Frame::data(Bytes::from(text)))
    });
    Response::new(http_body_util::BodyExt::boxed_unsync(StreamBody::new(frames)))
}

async fn remove(runtime: &Runtime, name: &str) -> Answer {
    let images = runtime.images().clone();
    let name = name.to_owned();
    blocking(move || image::remove(&images, &name)).await.map(text)
}

/// Keys are written to the disk.
async fn changed(work: impl FnOnce() -> Result<String, String> + Send + 'static) -> Response<Body> {
    blocking(work).await.map_or_else(refusal, text)
}

async fn blocking(work: impl FnOnce() -> Result<String, String> + Send + 'static) -> Result<String, (StatusCode, String)> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|message| (StatusCode::UNPROCESSABLE_ENTITY, message)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
