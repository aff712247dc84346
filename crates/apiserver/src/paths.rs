//! Paths that are no resource: health, version, metrics, discovery, OpenAPI, the keys of tokens.

mod discovery;
mod health;
mod openapi;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use knarr_api::{
    Status,
    exposition::{self, Kind, Page},
    status,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    aggregation,
    body::Body,
    custom::Published,
    pki::KEY_SET_SECONDS,
    render,
    request::{
        media::{Answer, Format, Offer, Shape},
        options::Query,
    },
    server::Core,
};

pub(crate) use health::store as store_health;
pub(crate) use openapi::Documents;

/// The Kubernetes release whose API this is; tools compare it as a semantic version.
const KUBERNETES: (&str, &str) = ("1", "37");

pub(crate) async fn serve(core: &Core, parts: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource"));
    }
    let path = parts.uri.path();
    let trimmed = path.trim_end_matches('/');
    let segments: Vec<_> = trimmed.split('/').skip(1).collect();
    let published = core.published();
    let kinds = &published.kinds;
    match segments[..] {
        [] | [""] => json_answer(parts, query, &root(&published)),
        [which @ ("healthz" | "livez" | "readyz")] => Ok(health::all(core, which, query)),
        [which @ ("healthz" | "livez" | "readyz"), check] => health::one(core, which, check),
        ["version"] => json_answer(parts, query, &version()),
        ["metrics"] => Ok(metrics(core)),
        ["api"] => discovery::core_versions(core, &published, parts, query),
        ["apis"] => discovery::groups(&published, parts, query),
        ["apis", group] => json_answer(parts, query, &discovery::group(&published, group)?),
        ["api", version] => json_answer(parts, query, &discovery::resources(kinds, "", version)?),
        ["apis", group, version] => json_answer(parts, query, &discovery::resources(kinds, group, version)?),
        ["openapi", "v2"] => openapi::v2(&published, &parts.headers),
        ["openapi", "v3"] => openapi::index(&published, &parts.headers),
        ["openapi", "v3", "api", version] => openapi::v3(&published, &parts.headers, query, "", version),
        ["openapi", "v3", "apis", group, version] => match published.remotes.get(group, version) {
            Some(remote) => aggregation::openapi_v3(core, remote, parts).await,
            None => openapi::v3(&published, &parts.headers, query, group, version),
        },
        ["openid", "v1", "jwks"] => Ok(issuer_document(&core.authn.key_set(), "application/jwk-set+json")),
        [".well-known", "openid-configuration"] => Ok(issuer_document(&core.authn.openid_configuration(), "application/json")),
        _ => Err(status::no_such_resource()),
    }
}

/// A document in JSON or YAML. There are no tables of these.
fn json_answer(parts: &Parts, query: &Query, value: &Value) -> Result<Response<Body>, Status> {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let answer = Answer::negotiate(accept, Offer::DOCUMENT).ok_or_else(|| status::not_acceptable(Offer::DOCUMENT.media()))?;
    let answer = Answer { shape: Shape::Whole, pretty: query.flag("pretty").unwrap_or(false), ..answer };
    Ok(render::value_body(StatusCode::OK, answer, value))
}

/// What relying parties read about the issuer of service account tokens, and may keep for a while.
fn issuer_document(value: &Value, media: &'static str) -> Response<Body> {
    let mut response = render::body(StatusCode::OK, Format::Json, value.to_string().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    let cache = format!("public, max-age={KEY_SET_SECONDS}");
    response.headers_mut().extend(HeaderValue::try_from(cache).ok().map(|cache| (header::CACHE_CONTROL, cache)));
    response
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(text)));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn root(published: &Published) -> Value {
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    let here = published.kinds.iter().map(|kind| (&*kind.group, &*kind.version));
    let elsewhere = published.remotes.iter().map(|remote| (&*remote.group, &*remote.version));
    for (group, version) in here.chain(elsewhere) {
        let group = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        for path in [group.clone(), format!("{group}/{version}")] {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    let rest = [
        "/.well-known/openid-configuration",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(rest.map(str::to_owned).into_iter().chain(health::paths()));
    paths.sort();
    json!({"paths": paths})
}

/// `/version`. The build is Knarr's, the API is Kubernetes'.
fn version() -> Value {
    let (major, minor) = KUBERNETES;
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{major}.{minor}.0+knarr{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": option_env!("KNARR_COMMIT").unwrap_or("unknown"),
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other }),
    })
}

fn metrics(core: &Core) -> Response<Body> {
    let snapshot = core.store.snapshot();
    let mut objects: Vec<_> = snapshot.collections().map(|collection| (collection.to_string(), snapshot.len(collection))).collect();
    objects.sort();
    let mut page = Page::default();
    core.metrics.render(&mut page, &objects);
    core.admission.webhook_counts.render(&mut page);
    let mut counter = |name, help, value: u64| page.single(name, Kind::Counter, help, value as f64);
    counter("apiserver_audit_error_total", "Audit events that were lost.", core.audit.lost());
    let uses = &core.authn.tokens().uses;
    for (name, help, count) in [
        ("serviceaccount_legacy_tokens_total", "Uses of service account tokens in Secrets.", &uses.legacy),
        ("serviceaccount_stale_tokens_total", "Uses of projected tokens that should have been renewed.", &uses.stale),
        ("serviceaccount_valid_tokens_total", "Uses of projected tokens before they should be renewed.", &uses.valid),
    ] {
        counter(name, help, count.load(Ordering::Relaxed));
    }
    core.fairness.render(&mut page);
    let mut response = text(StatusCode::OK, page.text());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(exposition::CONTENT_TYPE));
    response
}

/// `bytes` under a strong ETag, or a 304 for who has them already.
fn tagged(headers: &HeaderMap, bytes: Bytes, media: HeaderValue) -> Response<Body> {
    let tag = format!("\"{}\"", hash(&bytes));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut response = if known.flat_map(|value| value.split(',')).any(|known| known.trim() == tag) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = Response::new(Body::from(bytes));
        response.headers_mut().insert(header::CONTENT_TYPE, media);
        response
    };
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// SHA-256 in upper-case hexadecimal, cut to 32 digits: an identity, not a secret.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02X}")).collect()
}
