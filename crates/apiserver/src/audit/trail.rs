//! What is recorded of one request on its way.

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderMap, HeaderName, Response, header, request::Parts};
use jiff::Timestamp;
use knarr_api::{Object, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Audit,
    event::{Annotations, AuthenticationMetadata, Event, ObjectRef, ResponseStatus, without_managed_fields},
    policy::{Level, Stage, Verdict},
};
use crate::{User, authz::Attributes, body::Body};

/// Characters of a user agent that are kept (audit/request.go, maxUserAgentLength).
const USER_AGENT_MAX: usize = 1024;

/// Begins every body in protobuf (runtime/serializer/protobuf).
const PROTOBUF_MAGIC: &[u8] = b"k8s\0";

/// Annotations of one request (upstream keeps any number; admission adds a few for each policy).
const ANNOTATIONS_MAX: usize = 256;

/// What is known of a request when it begins.
pub(crate) struct Facts<'a> {
    /// By a user without a name where authentication failed.
    pub(crate) user: &'a Arc<User>,
    pub(crate) asked: &'a Attributes<'a>,
    pub(crate) parts: &'a Parts,
    pub(crate) address: IpAddr,
    pub(crate) audit_id: &'a str,
    pub(crate) received: Timestamp,
}

pub(crate) struct Trail {
    audit: Arc<Audit>,
    verdict: Verdict,
    event: Mutex<Event>,
    /// Whether the last stage was reached.
    ended: AtomicBool,
}

impl Audit {
    /// The trail of a request that the policy wants recorded. Writes the first event.
    pub(crate) fn begin(self: &Arc<Self>, facts: &Facts<'_>) -> Option<Arc<Trail>> {
        if !self.is_on() {
            return None;
        }
        let Facts { asked, .. } = facts;
        let verdict = self.policy.judge(asked);
        if verdict.level == Level::None {
            return None;
        }
        let headers = &facts.parts.headers;
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: verdict.level,
            audit_id: facts.audit_id.to_owned(),
            stage: Stage::RequestReceived,
            request_uri: facts.parts.uri.path_and_query().map_or_else(|| asked.path.to_owned(), ToString::to_string),
            verb: asked.verb.to_owned(),
            user: facts.user.clone(),
            impersonated_user: None,
            authentication_metadata: None,
            source_ips: source_ips(headers, facts.address),
            user_agent: user_agent(headers),
            object_ref: asked.resource_request.then(|| object_ref(asked)),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: facts.received,
            stage_timestamp: facts.received,
            annotations: Annotations::default(),
        };
        let trail = Trail { audit: self.clone(), verdict, event: Mutex::new(event), ended: AtomicBool::new(false) };
        // Of whom nothing is known only the refusal is recorded (endpoints/filters, WithFailedAuthenticationAudit).
        if !asked.user.name.is_empty() {
            trail.reach(Stage::RequestReceived);
        }
        Some(Arc::new(trail))
    }
}

impl Trail {
    fn reach(&self, stage: Stage) {
        if matches!(stage, Stage::ResponseComplete | Stage::Panic) {
            self.ended.store(true, Ordering::Relaxed);
        }
        if self.verdict.omit_stages.contains(&stage) {
            return;
        }
        let mut event = self.event.lock();
        event.stage = stage;
        if stage != Stage::RequestReceived {
            event.stage_timestamp = Timestamp::now();
        }
        self.audit.write(&event);
    }

    /// As whom the caller acts.
    /// `constraint` is the verb of constrained impersonation that allowed it.
    pub(crate) fn acts_as(&self, user: &Arc<User>, constraint: Option<&'static str>) {
        let mut event = self.event.lock();
        event.impersonated_user = Some(user.clone());
        event.authentication_metadata = constraint.map(|impersonation_constraint| AuthenticationMetadata { impersonation_constraint });
    }

    /// The first value of a key stays, as upstream has it.
    pub(crate) fn annotate(&self, key: impl Into<Cow<'static, str>>, value: &str) {
        let annotations = &mut self.event.lock().annotations;
        if annotations.len() < ANNOTATIONS_MAX {
            annotations.add(key.into(), value);
        }
    }

    /// What the request brought: an object, options, a patch.
    pub(crate) fn brought(&self, body: &[u8]) {
        if self.verdict.level >= Level::Request
            && let Some(mut body) = as_json(body)
        {
            if self.verdict.omit_managed_fields {
                without_managed_fields(&mut body);
            }
            self.event.lock().request_object = Some(body);
        }
    }

    /// The object that the request is about, where the path does not name it.
    pub(crate) fn about(&self, object: &Object) {
        let mut event = self.event.lock();
        let Some(reference) = &mut event.object_ref else { return };
        let fill = |place: &mut String, value: &str| {
            if place.is_empty() {
                value.clone_into(place);
            }
        };
        fill(&mut reference.name, object.name());
        fill(&mut reference.uid, object.uid());
        fill(&mut reference.resource_version, object.resource_version());
    }

    /// The request was refused before anything was done for it.
    pub(crate) fn refused(&self, status: &Status) {
        self.event.lock().response_status = Some(failure(status));
        self.reach(Stage::ResponseStarted);
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The answer, on its way to the client. What lasts is complete when its stream ends.
    pub(crate) fn answered(self: Arc<Self>, mut response: Response<Body>, lasts: bool) -> Response<Body> {
        let status = match response.extensions().get::<Failed>() {
            Some(Failed(status)) => failure(status),
            None => success(&response),
        };
        if self.verdict.level >= Level::RequestResponse && !lasts {
            let (head, body) = response.into_parts();
            let (bytes, body) = body.gather();
            let object = bytes.and_then(|bytes| as_json(&bytes));
            response = Response::from_parts(head, body);
            self.event.lock().response_object = object.map(|mut object| {
                if self.verdict.omit_managed_fields {
                    without_managed_fields(&mut object);
                }
                object
            });
        }
        self.event.lock().response_status = Some(status);
        if !lasts {
            self.reach(Stage::ResponseComplete);
            return response;
        }
        self.reach(Stage::ResponseStarted);
        let end = End(self);
        match response.extensions_mut().remove::<Lasts>() {
            Some(Lasts(over)) => drop(tokio::spawn(async move {
                over.cancelled().await;
                drop(end);
            })),
            None => response = response.map(|body| body.guarded(end)),
        }
        response
    }

    pub(crate) fn panicked(&self) {
        let status = json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500});
        self.event.lock().response_status = Some(ResponseStatus::Told(status));
        self.reach(Stage::Panic);
    }
}

/// The client went away before it was answered: what it asked for may have been done all the same.
impl Drop for Trail {
    fn drop(&mut self) {
        if !*self.ended.get_mut() {
            let status = json!({"metadata": {}, "message": "Connection closed early"});
            self.event.get_mut().response_status.get_or_insert(ResponseStatus::Told(status));
            self.reach(Stage::ResponseComplete);
        }
    }
}

/// Goes with an answer behind which a tunnel lasts: cancelled when that is over.
#[derive(Clone)]
pub(crate) struct Lasts(pub(crate) CancellationToken);

/// Completes the trail when the stream is over, however it ends.
struct End(Arc<Trail>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.reach(Stage::ResponseComplete);
    }
}

/// Goes with an answer that is a failure, so that it need not be read again.
#[derive(Clone)]
pub(crate) struct Failed(pub(crate) Status);

fn failure(status: &Status) -> ResponseStatus {
    let mut value = serde_json::to_value(status.to_json()).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.remove("kind");
        object.remove("apiVersion");
    }
    ResponseStatus::Told(value)
}

fn success(response: &Response<Body>) -> ResponseStatus {
    let code = response.status().as_u16();
    // A deletion answers with a Status, whose parts upstream records.
    let status = response.body().whole().filter(|bytes| bytes.starts_with(br#"{"kind":"Status""#));
    let Some(status) = status.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok()) else { return ResponseStatus::Code(code) };
    let mut told = json!({"metadata": {}, "code": code});
    for field in ["status", "message", "reason", "details"] {
        if let Some(part) = status.get(field) {
            told[field] = part.clone();
        }
    }
    ResponseStatus::Told(told)
}

/// A body in any of the three forms; none where it is none of them, such as a log.
fn as_json(bytes: &[u8]) -> Option<Value> {
    if bytes.starts_with(PROTOBUF_MAGIC) {
        return knarr_api::decode::value_from_protobuf(bytes).ok();
    }
    let json = serde_json::from_slice(bytes).ok();
    // Everything is YAML that is text; what is recorded are objects.
    json.or_else(|| knarr_api::decode::value_from_yaml(bytes).ok().filter(Value::is_object))
}

fn object_ref(asked: &Attributes<'_>) -> ObjectRef {
    ObjectRef {
        resource: asked.resource.to_owned(),
        namespace: asked.namespace.to_owned(),
        name: asked.name.to_owned(),
        api_group: asked.group.to_owned(),
        api_version: asked.version.to_owned(),
        subresource: asked.subresource.to_owned(),
        ..ObjectRef::default()
    }
}

/// Where the request came from as its headers tell, and by whom it reached us last (apimachinery, util/net, SourceIPs).
fn source_ips(headers: &HeaderMap, address: IpAddr) -> Vec<String> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let told = text(HeaderName::from_static("x-forwarded-for")).split(',').chain([text(HeaderName::from_static("x-real-ip"))]);
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in told.filter_map(|part| part.trim().parse().ok()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    if ips.last() != Some(&address.to_canonical()) {
        ips.push(address.to_canonical());
    }
    ips.iter().map(ToString::to_string).collect()
}

fn user_agent(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Header text is ASCII.
    if agent.len() > USER_AGENT_MAX { format!("{}...TRUNCATED", &agent[..USER_AGENT_MAX]) } else { agent.to_owned() }
}
