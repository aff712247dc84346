//! OpenAPI documents, built when first asked for and kept: kubectl reads them to validate, to explain, and to see whether the server does dry runs.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use knarr_api::{Kinds, Status, openapi, status};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{hash, tagged};
use crate::{
    aggregation,
    body::Body,
    custom::Published,
    render,
    request::{
        media::{self, Format},
        options::Query,
    },
};

/// The only form of version 2 that client-go asks for.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The same, under its newer name.
const GNOSTIC_DOT: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The documents that were asked for. One per group and version, and three others: bounded by the kinds.
#[derive(Default)]
pub(crate) struct Documents {
    built: Mutex<HashMap<String, Bytes>>,
}

impl Documents {
    /// The document under `key`, made by `build` for the first who asks. None stays unbuilt.
    fn get(&self, key: &str, build: impl FnOnce() -> Option<Bytes>) -> Option<Bytes> {
        let mut built = self.built.lock();
        if let Some(bytes) = built.get(key) {
            return Some(bytes.clone());
        }
        let bytes = build()?;
        built.insert(key.to_owned(), bytes.clone());
        Some(bytes)
    }

    fn v2_json(&self, published: &Published) -> Bytes {
        self.get("v2", || Some(v2_document(published).to_string().into())).unwrap_or_default()
    }

    fn v2_protobuf(&self, published: &Published) -> Bytes {
        self.get("v2.pb", || Some(openapi::v2_protobuf(&v2_document(published)).into())).unwrap_or_default()
    }

    fn v3(&self, kinds: &Kinds, group: &str, version: &str) -> Option<Bytes> {
        self.get(&format!("v3/{group}/{version}"), || Some(openapi::v3(kinds, group, version)?.to_string().into()))
    }

    /// The index names each document with the hash of its content, so that clients can keep it for ever.
    fn index(&self, published: &Published) -> Bytes {
        let hash = |group: &str, version: &str| self_hash(&published.kinds, group, version);
        let build = || {
            let mut index = openapi::v3_index(&published.kinds, hash);
            for remote in published.remotes.iter() {
                let url = remote.told.openapi_v3.as_ref().map(|url| json!({"serverRelativeURL": url}));
                let path = remote.root().trim_start_matches('/').to_owned();
                let paths = index["paths"].as_object_mut()?;
                match url {
                    Some(url) => drop(paths.insert(path, url)),
                    None => drop(paths.remove(&path)),
                }
            }
            Some(index.to_string().into())
        };
        self.get("v3", build).unwrap_or_default()
    }
}

/// Of all that is served, here and elsewhere.
fn v2_document(published: &Published) -> Value {
    aggregation::openapi_v2(openapi::v2(&published.kinds), &published.remotes)
}

/// Of what the document says: the rows of its kinds. Cheaper than building all documents for the index, and changes whenever they do.
fn self_hash(kinds: &Kinds, group: &str, version: &str) -> String {
    let mut text = env!("CARGO_PKG_VERSION").to_owned();
    for kind in kinds.iter().filter(|kind| kind.group == group && kind.version == version) {
        text += &format!("\n{} {} {:?} {:?}", kind.kind, kind.resource, kind.verbs, kind.subresources);
        if let Some(custom) = &kind.custom {
            text += &custom.published.to_string();
            text.extend(kind.selectable.iter().map(|field| format!("\n{}", field.path)));
        }
    }
    hash(text.as_bytes())
}

pub(super) fn index(published: &Published, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    Ok(tagged(headers, published.documents.index(published), HeaderValue::from_static(media::JSON)))
}

pub(super) fn v3(published: &Published, headers: &HeaderMap, query: &Query, group: &str, version: &str) -> Result<Response<Body>, Status> {
    let bytes = published.documents.v3(&published.kinds, group, version).ok_or_else(status::no_such_resource)?;
    let expected = self_hash(&published.kinds, group, version);
    let asked = query.text("hash");
    if !asked.is_empty() && asked != expected {
        // The client's index is old; it is sent to the document as it is now (KEP-2896).
        let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        let mut moved = render::body(StatusCode::MOVED_PERMANENTLY, Format::Json, Bytes::new());
        let target = HeaderValue::try_from(format!("/openapi/v3/{path}?hash={expected}"));
        moved.headers_mut().insert(header::LOCATION, target.map_err(|error| status::internal(error.to_string()))?);
        return Ok(moved);
    }
    let mut response = tagged(headers, bytes, HeaderValue::from_static(media::JSON));
    if !asked.is_empty() {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Ok(response)
}

pub(super) fn v2(published: &Published, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let choice = media::ranges(accept).into_iter().find_map(|range| {
        let exact = [GNOSTIC, GNOSTIC_DOT].into_iter().find(|media| range.media == *media);
        exact.or_else(|| range.accepts(media::JSON).then_some(media::JSON))
    });
    match choice {
        Some(media::JSON) => Ok(tagged(headers, published.documents.v2_json(published), HeaderValue::from_static(media::JSON))),
        // An @ is no letter of a media type (RFC 6838, 4.2): Go's clients ask with it, and cannot read it in the answer.
        Some(_) => Ok(tagged(headers, published.documents.v2_protobuf(published), HeaderValue::from_static(GNOSTIC_DOT))),
        None => Err(status::not_acceptable(&[media::JSON, GNOSTIC])),
    }
}
