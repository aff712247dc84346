//! `knarr demo-web`: the web server in the demonstration's pods. It shows which pod answers, so that a reload shows the next.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};

use crate::report::Failure;

/// The hidden command that starts it.
pub(super) const COMMAND: &str = "demo-web";
/// What the readiness probe asks.
pub(super) const HEALTH: &str = "/healthz";
/// Connections at one time.
const CONNECTIONS_MAX: usize = 256;

struct Page {
    pod: String,
    address: String,
    node: String,
    began: Instant,
    answered: AtomicU64,
}

pub(crate) fn run() -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve())
}

async fn serve() -> Result<(), Failure> {
    // The first process of a container gets no signal that it does not ask for.
    let mut terminate = signal(SignalKind::terminate())?;
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, super::PORT));
    let listener = match TcpListener::bind(any).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, super::PORT)).await?,
    };
    let of = |name: &str| std::env::var(name).unwrap_or_else(|_| "?".to_owned());
    let page = Arc::new(Page {
        pod: of("POD_NAME"),
        address: of("POD_IP"),
        node: of("NODE_NAME"),
        began: Instant::now(),
        answered: AtomicU64::new(0),
    });
    println!("pod {} listens on {}", page.pod, listener.local_addr()?);
    let seats = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let seat = seats.clone().acquire_owned().await?;
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            _ = terminate.recv() => return Ok(()),
        };
        let page = page.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| std::future::ready(Ok::<_, Infallible>(page.answer(&request))));
            // A visitor who leaves early is no fault.
            let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer).await;
            drop(seat);
        });
    }
}

impl Page {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, kind, text) = match request.uri().path() {
            HEALTH => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
            "/" => {
                let answered = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
                println!("answer {answered}");
                (StatusCode::OK, "text/html; charset=utf-8", self.html(answered))
            }
            _ => (StatusCode::NOT_FOUND, "text/plain", "there is only /\n".to_owned()),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
        response
    }

    fn html(&self, answered: u64) -> String {
        let Self { pod, address, node, began, .. } = self;
        let seconds = began.elapsed().as_secs();
        let namespace = super::NAMESPACE;
        let name = super::NAME;
        format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>Knarr</title>\n\
             <style>body{{font:1.1em/1.6 system-ui,sans-serif;max-width:40em;margin:4em auto;padding:0 1em}}code{{background:#eee;padding:.1em .3em}}</style>\n\
             <h1>It sails.</h1>\n\
             <p>Pod <b>{pod}</b> at {address} on node {node} gave this answer, its number {answered}, after {seconds} s at work.\n\
             Load the page again: the Service may send you to another.</p>\n\
             <p>Try:</p><ul>\n\
             <li><code>knarr get pods -n {namespace} -o wide</code></li>\n\
             <li><code>kubectl scale deployment/{name} -n {namespace} --replicas=5</code></li>\n\
             <li><code>knarr logs {pod} -n {namespace} -f</code>, and load the page again</li>\n\
             <li><code>knarr delete pod/{pod} -n {namespace}</code>: another takes its place</li>\n\
             <li><code>knarr delete namespace/{namespace}</code> ends the demonstration</li></ul>\n"
        )
    }
}
