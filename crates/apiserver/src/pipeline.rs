//! The way of every request: authenticate, take a seat, authorise, find the kind, do the verb, answer.

use std::{
    net::Ipv4Addr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use knarr_api::{Kind, Status, Verb, encode, status};
use knarr_store::Collection;
use parking_lot::Mutex;

use crate::{
    User, aggregation,
    audit::{Facts, Trail},
    authn,
    authz::{Attributes, Selectors},
    body::{self, Body},
    call::{Call, Warnings},
    components, compress, connect,
    fairness::{self, Classified},
    listen::PeerAddress,
    metrics::Labels,
    parts, paths, render,
    request::{
        media::{Answer, Offer},
        options::{ListOptions, Query},
        path::{self, ResourcePath, Target},
    },
    server::Core,
    shut, usage, verbs,
};

/// From the first byte to the answer, but for what watches and streams do once they may: upstream's --request-timeout.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
/// Requests slower than this are logged for the operator.
const SLOW: Duration = Duration::from_secs(1);

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// How a request came.
#[derive(Clone)]
pub(crate) enum Caller {
    /// From outside: the headers and the client certificate say who it is.
    Remote(authn::Certificate),
    /// From a component of this process.
    Component(Arc<User>),
}

/// Answers a request. Never fails, and survives a panic in a verb.
pub(crate) async fn serve(core: Arc<Core>, caller: Caller, parts: Parts, body: body::Incoming) -> Response<Body> {
    let started = Instant::now();
    let running = core.metrics.running();
    let audit_id = audit_id(&parts);
    let received = Timestamp::now();
    let (method, path, gzip) = (parts.method.clone(), parts.uri.path().to_owned(), compress::is_accepted(&parts.headers));
    let mut trace = Trace { audit_id: audit_id.clone(), received, ..Trace::default() };
    let answered = AssertUnwindSafe(respond(&core, caller, parts, body, &mut trace)).catch_unwind().await;
    let response = answered.unwrap_or_else(|_| {
        tracing::error!(%method, path, "a request made the API server panic");
        if let Some(trail) = trace.trail.take() {
            trail.panicked();
        }
        let status = status::internal("this request caused the API server to panic; see its log");
        render::failure(&status, Answer::JSON)
    });
    drop(running);
    let took = started.elapsed();
    core.metrics.observe(&trace.labels, response.status().as_u16(), took);
    let code = response.status().as_u16();
    if took >= SLOW && !trace.long_running {
        tracing::info!(%method, path, code, ?took, user = trace.user, audit_id, "slow request");
    } else {
        tracing::debug!(%method, path, code, ?took, user = trace.user, audit_id, "request");
    }
    let response = match trace.trail {
        Some(trail) => trail.answered(response, trace.long_running),
        None => response,
    };
    let mut response = compress::compress(response, gzip);
    if let Some(flow) = &trace.flow {
        flow.tell(response.headers_mut());
    }
    if let Ok(value) = HeaderValue::try_from(audit_id) {
        response.headers_mut().insert(AUDIT_ID, value);
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if method == Method::HEAD {
        *response.body_mut() = Body::empty();
    }
    response
}

/// What is told of a request when it is over.
#[derive(Default)]
struct Trace {
    user: String,
    labels: Labels,
    long_running: bool,
    audit_id: String,
    received: Timestamp,
    trail: Option<Arc<Trail>>,
    flow: Option<Classified>,
}

/// Whether an answer is for people: as asked for, or by what shows it to them (endpoints/handlers/responsewriters, isPrettyPrint).
fn pretty(query: &Query, headers: &HeaderMap) -> bool {
    let agent = || headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    query.flag("pretty").unwrap_or_else(|| ["curl", "Wget", "Mozilla/5.0"].iter().any(|shown| agent().starts_with(shown)))
}

/// The caller's own id, if it is one, so that its log and ours can be put side by side.
fn audit_id(parts: &Parts) -> String {
    let given = parts.headers.get(AUDIT_ID).and_then(|value| value.to_str().ok());
    match given.and_then(|text| uuid::Uuid::try_parse(text).ok()) {
        Some(id) => id.to_string(),
        // It need not be hard to guess, and every request has one: the system's random numbers would cost as much as reading the path.
        None => uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid().to_string(),
    }
}

async fn respond(core: &Arc<Core>, caller: Caller, parts: Parts, body: body::Incoming, trace: &mut Trace) -> Response<Body> {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let query = Query::parse(parts.uri.query());
    let pretty = pretty(&query, &parts.headers);
    let failures = Answer { pretty, ..Answer::negotiate(accept, Offer::ALL).unwrap_or(Answer::JSON) };
    match checked(core, caller, parts, body, query, trace).await {
        Ok(response) => response,
        Err(status) => render::failure(&status, failures),
    }
}

async fn checked(
    core: &Arc<Core>,
    caller: Caller,
    mut parts: Parts,
    body: body::Incoming,
    query: Query,
    trace: &mut Trace,
) -> Result<Response<Body>, Status> {
    // Those who are asked about a caller may be slow too.
    let end = tokio::time::Instant::now() + REQUEST_TIME_MAX;
    let authenticated = within(end, core.caller(&caller, &parts)).await;
    core.authn.strip_headers(&mut parts.headers);
    // What is no path is refused when its caller is known, and his asking is on record as that of any other path.
    let (target, fault) = match path::parse(parts.uri.path()) {
        Ok(target) => (target, None),
        Err(error) => (Target::Other, Some(error)),
    };
    let asked = Asked::new(&parts.method, target, query);
    trace.long_running = asked.is_long_running();
    let begin = |user: &Arc<User>| {
        let address = PeerAddress::of(&parts.extensions).unwrap_or(Ipv4Addr::LOCALHOST.into());
        let asked = &asked.attributes(user, parts.uri.path());
        core.audit.begin(&Facts { user, asked, parts: &parts, address, audit_id: &trace.audit_id, received: trace.received })
    };
    let authn::Caller { mut user, note } = match authenticated {
        Ok(caller) => caller,
        Err(status) => {
            if let Some(trail) = begin(&Arc::default()) {
                trail.refused(&status);
            }
            return Err(status);
        }
    };
    trace.trail = begin(&user);
    if let (Some(trail), Some(note)) = (&trace.trail, &note) {
        trail.annotate(note.key, &note.value);
    }
    if let Some(error) = fault {
        return Err(status::bad_request(error.to_string()));
    }
    let attributes = asked.attributes(&user, parts.uri.path());
    let impersonated = within(end, core.impersonated(&caller, &attributes, &parts)).await?;
    if let Some((other, constraint)) = impersonated {
        if let Some(trail) = &trace.trail {
            trail.acts_as(&other, constraint);
        }
        user = other;
    }
    trace.user.clone_from(&user.name);
    trace.flow = core.fairness.classify(&asked.attributes(&user, parts.uri.path()));
    // Streams last, and cost little while nothing happens. A watch has its seat until it is set up.
    let takes_seat = !trace.long_running || asked.verb == "watch";
    let _seat = match &trace.flow {
        Some(flow) if takes_seat => Some(core.fairness.seat(flow, asked.width(core)).await.map_err(|_| {
            let (schema, level) = flow.names();
            tracing::debug!(user = user.name, schema, level, "turned away");
            status::too_many_requests("too many requests, please try again later", fairness::RETRY_AFTER_SECONDS)
        })?),
        _ => None,
    };
    within(end, asked.authorize(core, &user, parts.uri.path(), trace.trail.as_deref())).await?;
    if trace.long_running {
        return route(core, user, asked, parts, body, trace).await;
    }
    within(end, route(core, user, asked, parts, body, trace)).await
}

fn within<T>(end: tokio::time::Instant, work: impl Future<Output = Result<T, Status>>) -> impl Future<Output = Result<T, Status>> {
    let timeout = || Err(status::timeout("request did not complete within the allotted timeout", 0));
    tokio::time::timeout_at(end, work).map(move |answer| answer.unwrap_or_else(|_| timeout()))
}

/// What a request asks for, by its shape.
struct Asked {
    verb: &'static str,
    target: Target,
    query: Query,
    /// The name that a list or watch is about by its selector: a question about that name (endpoints/request/requestinfo.go).
    selected: String,
    /// What authorizers are told of it.
    selectors: Selectors,
}

/// The verb of RBAC: of a resource by method and path, otherwise the method in lower case. The parameter `watch` says something of lists only: who
/// may read an object may not thereby watch it (endpoints/request/requestinfo.go).
fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    let resource = match target {
        Target::Resource(resource) => Some(resource),
        Target::Other => None,
    };
    match (method.as_str(), resource) {
        ("GET" | "HEAD", Some(path)) if path.watch || (path.name.is_empty() && query.flag("watch") == Some(true)) => "watch",
        ("GET" | "HEAD", Some(path)) if path.name.is_empty() => "list",
        ("GET" | "HEAD", Some(_)) | ("GET", None) => "get",
        ("POST", Some(_)) => "create",
        ("PUT", Some(_)) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(path)) if path.name.is_empty() => "deletecollection",
        ("DELETE", _) => "delete",
        ("HEAD", None) => "head",
        ("POST", None) => "post",
        ("PUT", None) => "put",
        ("OPTIONS", None) => "options",
        _ => "",
    }
}

impl Asked {
    fn new(method: &Method, target: Target, query: Query) -> Self {
        let verb = verb(method, &target, &query);
        let many = matches!(verb, "list" | "watch" | "deletecollection");
        // A path that names an object is about that one, whatever is selected: its selectors are not heeded, so nobody may be let in by them.
        let (selected, selectors) = match &target {
            Target::Resource(path) if many && path.name.is_empty() => {
                // The old form of watches does not always heed selectors, so that none counts there, as upstream.
                let heeded = |name| if path.watch { "" } else { query.text(name) };
                (exact_name(&query), Selectors::of_texts(heeded("fieldSelector"), heeded("labelSelector")))
            }
            _ => <(String, Selectors)>::default(),
        };
        Self { verb, target, query, selected, selectors }
    }

    /// What audit, fairness and authorisation look at.
    fn attributes<'a>(&'a self, user: &'a User, url_path: &'a str) -> Attributes<'a> {
        let Target::Resource(path) = &self.target else {
            return Attributes { path: url_path, resource_request: false, ..Attributes::resource(user, self.verb, "", "") };
        };
        Attributes {
            version: &path.version,
            subresource: &path.subresource,
            name: if path.name.is_empty() { &self.selected } else { &path.name },
            namespace: &path.namespace,
            path: url_path,
            selectors: &self.selectors,
            ..Attributes::resource(user, self.verb, &path.group, &path.resource)
        }
    }

    fn is_long_running(&self) -> bool {
        match &self.target {
            Target::Resource(path) => self.verb == "watch" || connect::is_stream(&path.resource, &path.subresource),
            Target::Other => false,
        }
    }

    /// Seats that the request costs: a list by what it may show.
    fn width(&self, core: &Core) -> usize {
        let Target::Resource(path) = &self.target else { return 1 };
        if self.verb != "list" {
            return 1;
        }
        let Some(kind) = core.published().kinds.resource(&path.group, &path.version, &path.resource) else { return 1 };
        let stored = core.store.snapshot().len(&Collection::new(kind.storage_collection()));
        let limit = self.query.text("limit").parse().ok().filter(|limit| *limit > 0);
        fairness::list_width(limit.map_or(stored, |limit: usize| limit.min(stored)))
    }

    /// Refuses with a 403 what `user` may not do.
    async fn authorize(&self, core: &Core, user: &User, url_path: &str, trail: Option<&Trail>) -> Result<(), Status> {
        let require = async |attributes: &Attributes<'_>| {
            let decision = core.authorizer.decide(attributes).await;
            if let Some(trail) = trail {
                trail.annotate("authorization.k8s.io/decision", if decision.allowed() { "allow" } else { "forbid" });
                trail.annotate("authorization.k8s.io/reason", &decision.reason);
            }
            if decision.allowed() { Ok(()) } else { Err(attributes.forbidden(&decision)) }
        };
        let attributes = self.attributes(user, url_path);
        require(&attributes).await?;
        // A WebSocket opens with a GET, and would otherwise let those in who may only read (KEP-4006).
        if attributes.verb == "get" && attributes.resource == "pods" && matches!(attributes.subresource, "exec" | "attach" | "portforward")
        {
            require(&Attributes { verb: "create", ..attributes }).await?;
        }
        Ok(())
    }
}

/// The name that a field selector pins down, by its text alone.
fn exact_name(query: &Query) -> String {
    let selector = query.text("fieldSelector");
    let names = selector.split(',').filter_map(|term| term.strip_prefix("metadata.name="));
    names.map(|name| name.trim_start_matches('=')).find(|name| !name.is_empty()).unwrap_or_default().to_owned()
}

/// What is rare is boxed in here: what is not stays as small as the commonest request.
async fn route(
    core: &Arc<Core>,
    user: Arc<User>,
    asked: Asked,
    mut parts: Parts,
    body: body::Incoming,
    trace: &mut Trace,
) -> Result<Response<Body>, Status> {
    trace.labels.verb = asked.verb;
    let published = core.published();
    if let Some(remote) = published.remotes.serving(&asked.target, parts.uri.path()) {
        trace.labels.group.clone_from(&remote.group);
        trace.labels.version.clone_from(&remote.version);
        return Box::pin(aggregation::serve(core, &user, remote, parts, body)).await;
    }
    drop(published);
    let path = match asked.target {
        Target::Other => return Box::pin(paths::serve(core, &parts, &asked.query)).await,
        Target::Resource(path) => path,
    };
    let (kind, verb) = find(core, &path, &parts.method, asked.verb)?;
    trace.labels = Labels {
        verb: asked.verb,
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        resource: kind.resource.to_string(),
        subresource: path.subresource.clone(),
    };
    shut::opened(core, &Collection::new(kind.storage_collection())).await?;
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let stream = connect::is_stream(&path.resource, &path.subresource);
    // Reviews are answered and never listed.
    let offer = Offer { shapes: !kind.virtual_ || kind.verbs.contains(Verb::Get), protobuf: has_protobuf(&kind, &path.subresource) };
    let answer = match Answer::negotiate(accept, offer) {
        Some(answer) => Answer { pretty: pretty(&asked.query, &parts.headers), ..answer },
        // What streams answer is between the client and the backend.
        None if stream => Answer::JSON,
        None => return Err(status::not_acceptable(offer.media())),
    };
    let (upgrade, address) = (parts.extensions.remove::<OnUpgrade>(), PeerAddress::of(&parts.extensions));
    let call = Call {
        core: core.clone(),
        user,
        method: parts.method,
        headers: parts.headers,
        query: asked.query,
        raw_query: parts.uri.query().map(str::to_owned),
        path,
        kind,
        answer,
        warnings: Warnings::default(),
        annotations: Mutex::default(),
        trail: trace.trail.clone(),
        address,
        upgrade: Mutex::new(upgrade),
    };
    if let Some(warning) = call.kind.deprecation() {
        call.warnings.add([warning.to_owned()]);
    }
    let mut response = perform(&call, verb, stream, body).await;
    if let Some(trail) = &call.trail {
        call.annotations.lock().iter().for_each(|(key, value)| trail.annotate(key.clone(), value));
    }
    let warnings = call.warnings.headers();
    if !warnings.is_empty() {
        let answered = response.unwrap_or_else(|status| render::failure(&status, answer));
        response = Ok(with_warnings(answered, warnings));
    }
    response
}

/// Whether what is read and written at a path has a protobuf form.
fn has_protobuf(kind: &Kind, subresource: &str) -> bool {
    match kind.subresource(subresource) {
        Some(part) if part.kind != kind.kind => encode::message_of(&format!("{}/{}", part.group, part.version), &part.kind).is_some(),
        _ => kind.message.is_some(),
    }
}

fn with_warnings(mut response: Response<Body>, warnings: Vec<String>) -> Response<Body> {
    for warning in warnings {
        // What is not plain ASCII cannot stand in a header.
        if let Ok(value) = HeaderValue::from_bytes(warning.as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// The kind of the path, and the verb as one of those that kinds have.
fn find(core: &Core, path: &ResourcePath, method: &Method, verb: &str) -> Result<(Arc<Kind>, Verb), Status> {
    let kind = core.published().kinds.resource(&path.group, &path.version, &path.resource).ok_or_else(status::no_such_resource)?;
    let one = !path.name.is_empty();
    let fits = match (kind.namespaced(), path.namespaced) {
        // Over all namespaces there are lists, but no objects.
        (true, false) => !one,
        (namespaced, given) => namespaced == given,
    };
    // Of our own subresources only proxies go on.
    if !fits || (!path.rest.is_empty() && path.subresource != path::PROXY) {
        return Err(status::no_such_resource());
    }
    let not_allowed = || status::method_not_allowed(&path.group, &path.resource, verb);
    // Proxies pass on what no verb stands for, as if it were read.
    let verb = if method == Method::OPTIONS && connect::is_proxy(&path.resource, &path.subresource) { Verb::Get.as_str() } else { verb };
    let verb = Verb::ALL.into_iter().find(|known| known.as_str() == verb).ok_or_else(not_allowed)?;
    if path.watch && verb != Verb::Watch {
        return Err(not_allowed());
    }
    let across = kind.namespaced() && !path.namespaced;
    let allowed = if path.subresource.is_empty() {
        // POST needs no name, PUT, PATCH, GET and DELETE of one object do.
        let named = match verb {
            Verb::Create => !one,
            Verb::Update | Verb::Patch => one,
            _ => true,
        };
        named && kind.verbs.contains(verb) && !(across && matches!(verb, Verb::Create | Verb::DeleteCollection))
    } else {
        kind.subresource(&path.subresource).ok_or_else(status::no_such_resource)?.verbs.contains(verb)
    };
    if allowed { Ok((kind, verb)) } else { Err(not_allowed()) }
}

/// Boxed: the state machines of all verbs together are large, and only one of them is wanted.
fn perform<'a>(call: &'a Call, verb: Verb, stream: bool, body: body::Incoming) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    Box::pin(async move {
        if stream {
            return Box::pin(connect::serve(call, body)).await;
        }
        if !call.path.subresource.is_empty() {
            return parts::serve(call, verb, body).await;
        }
        match verb {
            Verb::Get | Verb::List if call.kind.virtual_ && call.kind.group.is_empty() => components::serve(call, verb),
            Verb::Get | Verb::List if call.kind.virtual_ => usage::serve(call, verb).await,
            Verb::Get => verbs::list::get(call).await,
            Verb::List => verbs::list::list(call, &ListOptions::parse(&call.query, false)?).await,
            Verb::Watch => {
                let response = verbs::watch::watch(call, &ListOptions::parse(&call.query, true)?).await?;
                if authn::is_websocket(&call.headers) { verbs::socket::upgrade(call, response) } else { Ok(response) }
            }
            Verb::Create => verbs::create::create(call, body).await,
            Verb::Update => verbs::update::update(call, body).await,
            Verb::Patch => verbs::patch::patch(call, body).await,
            Verb::Delete => verbs::delete::delete(call, body).await,
            Verb::DeleteCollection => verbs::delete::delete_collection(call, body).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path_and_query: &str, expected: &str) {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let target = path::parse(path).unwrap();
        assert_eq!(verb(&method.parse().unwrap(), &target, &Query::parse(Some(query))), expected, "{method} {path_and_query}");
    }

    #[test]
    fn verbs_by_method_and_path() {
        check("GET", "/api/v1/pods", "list");
        check("GET", "/api/v1/pods?watch=true", "watch");
        check("GET", "/api/v1/pods?watch=0", "list");
        check("GET", "/api/v1/watch/pods", "watch");
        check("GET", "/api/v1/namespaces/a/pods/b", "get");
        check("GET", "/api/v1/namespaces/a/pods/b?watch=1", "get");
        check("GET", "/api/v1/watch/namespaces/a/pods/b", "watch");
        check("GET", "/api/v1/namespaces/a/pods/b/log?watch=1", "get");
        check("POST", "/api/v1/namespaces/a/pods", "create");
        check("POST", "/api/v1/namespaces/a/pods/b/exec", "create");
        check("DELETE", "/api/v1/namespaces/a/pods", "deletecollection");
        check("DELETE", "/api/v1/namespaces/a/pods/b", "delete");
        check("GET", "/healthz", "get");
        check("POST", "/healthz", "post");
        check("OPTIONS", "/healthz", "options");
        // Nobody has the right to it who has not the right to everything, as upstream.
        check("OPTIONS", "/api/v1/namespaces/a/pods/b/proxy", "");
    }

    #[test]
    fn a_list_of_one_name_is_about_that_name() {
        for (selector, name) in
            [("metadata.name=a", "a"), ("metadata.name==a", "a"), ("x=y,metadata.name=a", "a"), ("metadata.name!=a", ""), ("", "")]
        {
            let query = form_urlencoded::Serializer::new(String::new()).append_pair("fieldSelector", selector).finish();
            assert_eq!(exact_name(&Query::parse(Some(&query))), name, "{selector}");
        }
    }
}
