//! Subresources that are parts of an object, or acts on it: status, scale, finalize, binding, eviction, tokens.

pub(crate) mod bind;
mod evict;
pub(crate) mod scale;

use http::{Response, StatusCode};
use knarr_api::{Object, Status, Verb, status};

use crate::{
    admission::Operation,
    body::{self, Body},
    call::{Act, Call, Phase},
    render,
    request::options::WriteOptions,
    verbs,
};

pub(crate) async fn serve(call: &Call, verb: Verb, body: body::Incoming) -> Result<Response<Body>, Status> {
    match (call.path.subresource.as_str(), verb) {
        ("scale", _) => scale::serve(call, verb, body).await,
        ("binding", Verb::Create) => bind::bind(call, body).await,
        ("eviction", Verb::Create) => evict::evict(call, body).await,
        ("token", Verb::Create) => {
            let options = WriteOptions::parse(&call.query)?;
            let mut object = read_object(call, body).await?;
            admit_act(call, &mut object, &call.live_object()?, &options).await?;
            let (made, id) = call.core.reviews.token(call.namespace(), &call.path.name, object, options.dry_run)?;
            if let (Some(trail), Some(id)) = (&call.trail, id) {
                // By this the token is found again in the records of its uses.
                trail.annotate("authentication.kubernetes.io/issued-credential-id", &format!("JTI={id}"));
            }
            render::one(call, StatusCode::CREATED, render::Shown::Made(made))
        }
        (_, Verb::Get) => verbs::list::get(call).await,
        (_, Verb::Update) => verbs::update::update(call, body).await,
        (_, Verb::Patch) => verbs::patch::patch(call, body).await,
        (subresource, verb) => {
            let resource = format!("{}/{subresource}", call.path.resource);
            Err(status::method_not_allowed(&call.path.group, &resource, verb.as_str()))
        }
    }
}

/// A success without an object, as binding and eviction answer.
fn success(call: &Call) -> Response<Body> {
    let success = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    render::value_body(StatusCode::CREATED, call.answer, &success)
}

/// The body of an act (Binding, Eviction): small objects that are never stored.
async fn read_object(call: &Call, body: body::Incoming) -> Result<Object, Status> {
    let (bytes, format) = verbs::write::read_body(call, body).await?;
    let value = format.value(&bytes).map_err(status::bad_request)?;
    Object::from_value(value).ok_or_else(|| status::bad_request("the body is not an object"))
}

/// Admission of an act on `old` whose body is `body`.
async fn admit_act(call: &Call, body: &mut Object, old: &Object, options: &WriteOptions) -> Result<(), Status> {
    let shown = || options.to_value("CreateOptions");
    let subresource = &call.path.subresource;
    let act = Act { operation: Operation::Create, subresource, name: old.name(), dry_run: options.dry_run, options: &shown };
    call.admit(&act, Phase::Mutate, body, Some(old)).await?;
    call.admit(&act, Phase::Validate, body, Some(old)).await.map(drop)
}
