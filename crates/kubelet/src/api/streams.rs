//! `/exec`, `/attach` and `/portForward`: the runtime's sessions, handed to the streaming server.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use knarr_runtime::{ContainerState, Runtime, SandboxState};

use super::{Api, Body, decode, text_response};
use crate::pod::worker::label;
use crate::streaming::{self, Attach, Exec, Wanted};

/// Ports that one request may name; the older WebSocket form numbers its channels with a byte.
const PORTS_MAX: usize = 100;

#[derive(Debug, Default, PartialEq)]
struct Query {
    wanted: Wanted,
    command: Vec<String>,
    ports: Vec<u16>,
}

impl Query {
    fn parse(text: &str) -> Result<Query, String> {
        let mut query = Query::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value);
            let on = matches!(value.as_str(), "1" | "true");
            match name {
                "input" => query.wanted.stdin = on,
                "output" => query.wanted.stdout = on,
                "error" => query.wanted.stderr = on,
                "tty" => query.wanted.tty = on,
                "command" => query.command.push(value),
                "port" => {
                    let port = value.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{value:?} is not a port"))?;
                    query.ports.push(port);
                }
                _ => {}
            }
        }
        if query.ports.len() > PORTS_MAX {
            return Err(format!("more than {PORTS_MAX} ports"));
        }
        Ok(query)
    }
}

pub(super) fn exec(api: &Arc<Api>, request: Request<Incoming>, namespace: &str, pod: &str, container: &str) -> Response<Body> {
    let query = match Query::parse(request.uri().query().unwrap_or_default()) {
        Ok(query) if query.command.is_empty() => {
            return text_response(StatusCode::BAD_REQUEST, "you must specify at least 1 command\n".into());
        }
        Ok(query) => query,
        Err(text) => return text_response(StatusCode::BAD_REQUEST, text),
    };
    let id = match running(api, namespace, pod, container) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let runtime = api.node.runtime.clone();
    let Query { wanted, command, .. } = query;
    let start = move || async move {
        let session = runtime.exec(&id, command, wanted.tty, wanted.stdin).await;
        session.map(Exec).map_err(|error| format!("error executing command in container: {}", with_cause(&error)))
    };
    boxed(streaming::remote_command(request, wanted, start))
}

pub(super) fn attach(api: &Arc<Api>, request: Request<Incoming>, namespace: &str, pod: &str, container: &str) -> Response<Body> {
    let query = match Query::parse(request.uri().query().unwrap_or_default()) {
        Ok(query) => query,
        Err(text) => return text_response(StatusCode::BAD_REQUEST, text),
    };
    let id = match running(api, namespace, pod, container) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let runtime = api.node.runtime.clone();
    let wanted = query.wanted;
    let start = move || async move {
        let session = runtime.attach(&id, wanted.stdin).await;
        session.map(Attach).map_err(|error| format!("error attaching to container: {}", with_cause(&error)))
    };
    boxed(streaming::remote_command(request, wanted, start))
}

pub(super) fn port_forward(api: &Arc<Api>, request: Request<Incoming>, namespace: &str, pod: &str) -> Response<Body> {
    let query = match Query::parse(request.uri().query().unwrap_or_default()) {
        Ok(query) => query,
        Err(text) => return text_response(StatusCode::BAD_REQUEST, text),
    };
    let Some(worker) = api.pods.find(namespace, pod) else { return no_pod(pod) };
    let runtime = api.node.runtime.clone();
    let uid = worker.uid.clone();
    // The sandbox is looked up for each connection: a forward lives on when the pod gets another one.
    let dial = move |port| {
        let (runtime, uid) = (runtime.clone(), uid.clone());
        async move {
            let sandbox = sandbox(&runtime, &uid).ok_or_else(|| "the pod has no running sandbox".to_owned())?;
            runtime.port_forward(&sandbox, port).await.map_err(|error| with_cause(&error))
        }
    };
    boxed(streaming::port_forward(request, query.ports, dial))
}

/// The newest run of a container, if it runs.
fn running(api: &Arc<Api>, namespace: &str, pod: &str, container: &str) -> Result<String, Box<Response<Body>>> {
    let worker = api.pods.find(namespace, pod).ok_or_else(|| Box::new(no_pod(pod)))?;
    let runs = api.node.runtime.list_containers().into_iter();
    let newest = runs
        .filter(|run| run.name == container && run.labels.get(label::UID) == Some(&worker.uid))
        .max_by_key(|run| (run.attempt, run.created_at_ns));
    match newest {
        Some(run) if matches!(run.state, ContainerState::Running { .. }) => Ok(run.id),
        // kubectl reads the text as YAML first: one that has the form of a map would be taken for an empty Status.
        _ => Err(Box::new(text_response(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")")))),
    }
}

fn sandbox(runtime: &Runtime, uid: &str) -> Option<String> {
    let ready = runtime
        .list_sandboxes()
        .into_iter()
        .filter(|it| it.state == SandboxState::Ready && it.labels.get(label::UID).is_some_and(|it| it == uid));
    ready.max_by_key(|it| it.created_at_ns).map(|it| it.id)
}

fn no_pod(pod: &str) -> Response<Body> {
    text_response(StatusCode::NOT_FOUND, format!("pod \"{pod}\" not found\n"))
}

/// The error and what led to it, for a person at the other end.
fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn boxed(response: Response<http_body_util::Full<bytes::Bytes>>) -> Response<Body> {
    response.map(|body| body.map_err(|never| match never {}).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_the_api_server() {
        let query = Query::parse("input=1&output=1&tty=1&command=sh&command=-c&command=echo%20a%26b+c").unwrap();
        assert_eq!(query.wanted, Wanted { stdin: true, stdout: true, stderr: false, tty: true });
        assert_eq!(query.command, ["sh", "-c", "echo a&b c"]);
        assert_eq!(Query::parse("port=80&port=443").unwrap().ports, [80, 443]);
        assert_eq!(Query::parse("port=0").unwrap_err(), "\"0\" is not a port");
        assert!(Query::parse(&"port=1&".repeat(PORTS_MAX + 1)).is_err());
    }
}
