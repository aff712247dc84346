//! Answers: objects and lists in the format and shape that were negotiated.
//!
//! JSON of whole objects is what the store holds, byte for byte, and protobuf is made from these bytes. Only YAML, tables, metadata alone
//! and `pretty` take objects apart.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use knarr_api::{Kind, Object, Status, encode, partial, status, table, yaml::to_yaml};
use knarr_store::{Entry, Revision, Walk};
use serde_json::{Value, json};

use crate::{
    body::{Body, Source},
    call::{Call, decode},
    request::{
        media::{Answer, Format, SUPPORTED, Shape},
        options::Query,
    },
};

/// An object to show.
pub(crate) enum Shown {
    Stored(Arc<Entry>),
    /// As it would be stored (a dry run), or one that never is (a review).
    Made(Object),
}

impl Shown {
    pub(crate) fn into_object(self, kind: &Kind) -> Result<Object, Status> {
        match self {
            Self::Stored(entry) => decode(kind, &entry),
            Self::Made(object) => Ok(object),
        }
    }
}

/// One object.
pub(crate) fn one(call: &Call, code: StatusCode, shown: Shown) -> Result<Response<Body>, Status> {
    if let Shown::Stored(entry) = &shown
        && is_verbatim(call, entry)
    {
        return Ok(body(code, Format::Json, entry.value.clone()));
    }
    if let Shown::Stored(entry) = &shown
        && (call.answer.format, call.answer.shape) == (Format::Protobuf, Shape::Whole)
    {
        let raw = message(&call.kind, entry)?;
        return Ok(body(code, Format::Protobuf, encode::enveloped(&call.kind.api_version(), &call.kind.kind, &raw).into()));
    }
    let object = shown.into_object(&call.kind)?;
    let value = match call.answer.shape {
        Shape::Whole => object.into_value(),
        Shape::Metadata => partial::metadata_only(&object),
        Shape::Table => table(&call.kind, &call.query, call.answer.version, &[object], &json!({}))?,
    };
    Ok(value_body(code, call.answer, &value))
}

/// Whether the bytes in the store are what the client wants.
fn is_verbatim(call: &Call, entry: &Entry) -> bool {
    is_plain(call) && call.kind.shows_stored(entry.revision.0)
}

/// Whether the client wants whole objects in the form that the store has.
fn is_plain(call: &Call) -> bool {
    let Answer { format, shape, pretty, .. } = call.answer;
    (format, shape, pretty) == (Format::Json, Shape::Whole, false)
}

/// A stored object as the bare protobuf message of `kind`.
pub(crate) fn message(kind: &Kind, entry: &Entry) -> Result<Vec<u8>, Status> {
    let mut raw = Vec::with_capacity(entry.value.len());
    write_message(kind, entry, &mut raw)?;
    Ok(raw)
}

fn write_message(kind: &Kind, entry: &Entry, out: &mut Vec<u8>) -> Result<(), Status> {
    let failed = |error: encode::EncodeError| {
        tracing::error!(key = %entry.key, error = &error as &dyn std::error::Error, "encode a stored object");
        status::internal(format!("{error}: {}", entry.key))
    };
    let id = kind.message.ok_or_else(|| status::not_acceptable(&SUPPORTED[..2]))?;
    match kind.storage {
        None => encode::json(id, &entry.value, out).map_err(failed),
        Some(_) => encode::json(id, &decode(kind, entry)?.to_bytes(), out).map_err(failed),
    }
}

/// What a list says about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListMeta {
    pub(crate) revision: Revision,
    pub(crate) continues: String,
    pub(crate) remaining: Option<usize>,
}

impl ListMeta {
    fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.continues.is_empty() {
            meta["continue"] = self.continues.clone().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// A list of stored objects.
pub(crate) fn list(call: &Call, meta: &ListMeta, entries: Vec<Arc<Entry>>) -> Result<Response<Body>, Status> {
    let kind = &call.kind;
    if is_plain(call) && entries.iter().all(|entry| kind.shows_stored(entry.revision.0)) {
        return Ok(json_list(kind, meta, entries));
    }
    if (call.answer.format, call.answer.shape) == (Format::Protobuf, Shape::Whole) {
        return protobuf_list(kind, meta, &entries);
    }
    let objects = entries.iter().map(|entry| decode(kind, entry)).collect::<Result<Vec<_>, _>>()?;
    objects_list(call, &meta.to_value(), objects)
}

/// A list of objects, whether or not they are stored.
pub(crate) fn objects_list(call: &Call, meta: &Value, objects: Vec<Object>) -> Result<Response<Body>, Status> {
    let kind = &call.kind;
    let value = match call.answer.shape {
        Shape::Table => table(kind, &call.query, call.answer.version, &objects, meta)?,
        Shape::Metadata => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": format!("meta.k8s.io/{}", call.answer.version),
            "metadata": meta,
            "items": objects.iter().map(partial::metadata_only).collect::<Vec<_>>(),
        }),
        Shape::Whole => json!({
            "kind": kind.list_kind,
            "apiVersion": kind.api_version(),
            "metadata": meta,
            "items": objects.into_iter().map(Object::into_value).collect::<Vec<_>>(),
        }),
    };
    Ok(value_body(StatusCode::OK, call.answer, &value))
}

/// A list of all that is still to come in `walk`, if the client wants what is stored there as it is.
pub(crate) fn verbatim(call: &Call, meta: &ListMeta, walk: Walk) -> Option<Response<Body>> {
    let kind = &call.kind;
    (is_plain(call) && walk.rest().all(|entry| kind.shows_stored(entry.revision.0))).then(|| json_list(kind, meta, walk))
}

fn json_list(kind: &Kind, meta: &ListMeta, items: impl Into<Source>) -> Response<Body> {
    let head = format!(r#"{{"kind":"{}","apiVersion":"{}","metadata":{},"items":["#, kind.list_kind, kind.api_version(), meta.to_value());
    items_body(Format::Json, Body::items(head.into(), items, b",", Bytes::from_static(b"]}\n")))
}

fn protobuf_list(kind: &Kind, meta: &ListMeta, entries: &[Arc<Entry>]) -> Result<Response<Body>, Status> {
    let item = |entry: &Arc<Entry>| {
        let mut item = Vec::with_capacity(entry.value.len());
        encode::list_item(&mut item, |out| write_message(kind, entry, out))?;
        Ok(Bytes::from(item))
    };
    let items = entries.iter().map(item).collect::<Result<Vec<_>, Status>>()?;
    let mut metadata = Vec::new();
    encode::list_metadata(&meta.to_value(), &mut metadata).map_err(|error| status::internal(error.to_string()))?;
    let length = metadata.len() + items.iter().map(Bytes::len).sum::<usize>();
    let mut head = encode::envelope(&kind.api_version(), &kind.list_kind, length);
    head.extend_from_slice(&metadata);
    Ok(items_body(Format::Protobuf, Body::items(head.into(), items, b"", Bytes::from_static(encode::ENVELOPE_END))))
}

fn items_body(format: Format, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media()));
    response
}

fn table(kind: &Kind, query: &Query, version: &str, objects: &[Object], meta: &Value) -> Result<Value, Status> {
    let include = include_object(query)?;
    let mut value = table::render(kind, &mut objects.iter(), include, Timestamp::now());
    value["apiVersion"] = format!("meta.k8s.io/{version}").into();
    if meta.as_object().is_some_and(|meta| !meta.is_empty()) {
        value["metadata"] = meta.clone();
    } else if let [object] = objects {
        value["metadata"] = json!({"resourceVersion": object.resource_version()});
    }
    Ok(value)
}

/// What of each object a table carries, by the parameter `includeObject`.
pub(crate) fn include_object(query: &Query) -> Result<table::IncludeObject, Status> {
    match query.text("includeObject") {
        "" | "Metadata" => Ok(table::IncludeObject::Metadata),
        "None" => Ok(table::IncludeObject::None),
        "Object" => Ok(table::IncludeObject::Object),
        other => {
            Err(status::bad_request(format!("includeObject: Invalid value: \"{other}\": must be 'Metadata', 'Object', 'None', or empty")))
        }
    }
}

/// Any value in the negotiated format.
pub(crate) fn value_body(code: StatusCode, answer: Answer, value: &Value) -> Response<Body> {
    let text = match (answer.format, answer.pretty) {
        (Format::Json, false) => value.to_string() + "\n",
        (Format::Json, true) => format!("{value:#}\n"),
        (Format::Yaml, _) => to_yaml(value),
        (Format::Protobuf, _) => {
            return match encode::value(value) {
                Ok(bytes) => body(code, Format::Protobuf, bytes.into()),
                // A document that protobuf does not know (`/version`) is given as upstream gives it to everyone.
                Err(encode::EncodeError::NoMessage { .. }) => body(code, Format::Json, (value.to_string() + "\n").into()),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, kind = %value["kind"], "encode an answer");
                    failure(&status::internal(error.to_string()), Answer::JSON)
                }
            };
        }
    };
    body(code, answer.format, text.into())
}

pub(crate) fn body(code: StatusCode, format: Format, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media()));
    response
}

/// A failure.
pub(crate) fn failure(status: &Status, answer: Answer) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value_body(code, Answer { shape: Shape::Whole, ..answer }, &status.to_json());
    if let Some(seconds) = status.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response.extensions_mut().insert(crate::audit::Failed(status.clone()));
    response
}
