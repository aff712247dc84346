//! Asks an extension server whether it works and what it serves.
//!
//! The questions go the way of clients' requests, through the same TLS and with the front proxy's certificate, so that a server is called available
//! only if requests would reach it. (Upstream does not check the certificate here: an APIService with a wrong caBundle is then called available and
//! answers nothing.)

use std::{sync::Arc, time::Duration};

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use knarr_store::Snapshot;
use serde_json::{Value, json};

use super::{
    proxy,
    remote::{Availability, Document, Remote, Service, Told},
};
use crate::{
    User,
    auth::GROUP_MASTERS,
    body,
    callout::{self, ANSWER_BYTES_MAX, Callout},
    connect::endpoints,
};

/// For all questions of one probe together; upstream gives its one question 5 s.
const PROBE_TIME_MAX: Duration = Duration::from_secs(10);
/// Endpoints, any of them, that are tried before a server is called unavailable. Upstream tries five at once.
const ATTEMPTS_MAX: usize = 3;

/// As whom extension servers are asked about themselves (upstream's name).
pub(super) fn aggregator() -> User {
    User::authenticated("system:kube-aggregator", [GROUP_MASTERS])
}

type Reason = (&'static str, String);

/// The state of `remote` as it is now. What it has told stays known when it no longer answers.
pub(super) async fn run(callout: Callout, snapshot: Snapshot, remote: Arc<Remote>) -> (Availability, Told) {
    let looked = async {
        check_service(&snapshot, &remote.service)?;
        drop(snapshot);
        look(&callout, &remote).await
    };
    let (reason, message) = match tokio::time::timeout(PROBE_TIME_MAX, looked).await {
        Ok(Ok(told)) => return (Availability::Available, told),
        Ok(Err(failure)) => failure,
        Err(_) => (FAILED, format!("failing or missing response from {}: no answer within {PROBE_TIME_MAX:?}", remote.root())),
    };
    (Availability::Unavailable { reason, message }, remote.told.clone())
}

const FAILED: &str = "FailedDiscoveryCheck";

/// What the stored objects tell already, in upstream's words (remote_available_controller.go).
fn check_service(snapshot: &Snapshot, service: &Service) -> Result<(), Reason> {
    let Service { namespace, name, port, .. } = service;
    let Ok(found) = endpoints::read(snapshot, "core/services", namespace, name) else {
        return Err(("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if found["spec"]["type"] != "ClusterIP" {
        return Ok(());
    }
    let Some(found) = endpoints::items(&found, "/spec/ports").find(|one| endpoints::port_number(one, "port") == Some(*port)) else {
        return Err(("ServicePortError", format!("service/{name} in {namespace:?} is not listening on port {port}")));
    };
    let port_name = found["name"].as_str().unwrap_or_default();
    match endpoints::slices(snapshot, namespace, name) {
        Ok(slices) if slices.is_empty() => {
            Err(("EndpointsNotFound", format!("cannot find endpointslices for service/{name} in {namespace:?}")))
        }
        Ok(slices) if slices.iter().all(|slice| endpoints::ready_endpoints(slice, port_name).is_empty()) => {
            let message = format!("endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}");
            Err(("MissingEndpoints", message))
        }
        Ok(_) => Ok(()),
        Err(status) => Err(("EndpointsAccessError", status.message)),
    }
}

async fn look(callout: &Callout, remote: &Remote) -> Result<Told, Reason> {
    let Some(target) = &remote.target else {
        return Err((FAILED, "spec.caBundle holds no certificates that can be read".to_owned()));
    };
    let server = Server { callout, remote, target };
    let mut failure = String::new();
    for _ in 0..ATTEMPTS_MAX {
        match server.get(&remote.root(), "application/json", "").await {
            Ok((StatusCode::OK, legacy)) => return Ok(server.documents(&legacy.bytes).await),
            Ok((status, _)) => failure = format!("bad status from {}: {}", remote.root(), status.as_u16()),
            Err(error) => failure = format!("failing or missing response from {}: {error}", remote.root()),
        }
    }
    Err((FAILED, failure))
}

struct Server<'a> {
    callout: &'a Callout,
    remote: &'a Remote,
    target: &'a callout::Target,
}

impl Server<'_> {
    /// One document; the answer to a tag that is still good is empty.
    async fn get(&self, path: &str, accept: &str, tag: &str) -> Result<(StatusCode, Document), String> {
        let mut request = Request::get(path).header(header::HOST, self.target.host()).header(header::ACCEPT, accept);
        if !tag.is_empty() {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let mut request = request.body(body::empty()).map_err(|error| error.to_string())?;
        request.headers_mut().extend(proxy::identity(&aggregator()).map_err(|status| status.message)?);
        let answer = self.callout.exchange(self.target, request).await.map_err(|error| error.to_string())?;
        let (parts, body) = answer.into_parts();
        let bytes = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| format!("{path}: {error}"))?.to_bytes();
        let tag = parts.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        Ok((parts.status, Document { tag, bytes }))
    }

    /// A document that may be missing; the one that is known if it has not changed.
    async fn fetch(&self, path: &str, accept: &str, known: &Document) -> Option<Document> {
        match self.get(path, accept, &known.tag).await {
            Ok((StatusCode::OK, document)) => Some(document),
            Ok((StatusCode::NOT_MODIFIED, _)) => Some(known.clone()),
            Ok((status, _)) => {
                tracing::debug!(server = ?self.remote, path, %status, "an extension server has no such document");
                None
            }
            Err(error) => {
                tracing::debug!(server = ?self.remote, path, error, "a document of an extension server");
                None
            }
        }
    }

    async fn documents(&self, legacy: &[u8]) -> Told {
        const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
            application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        let known = &self.remote.told;
        let discovery = self.fetch("/apis", AGGREGATED, &known.discovery).await.unwrap_or_default();
        let (group, version) = (&self.remote.group, &self.remote.version);
        let resources = of_aggregated(&discovery.bytes, group, version).or_else(|| of_legacy(legacy, group, version));
        let index = self.fetch("/openapi/v3", "application/json", &Document::default()).await.unwrap_or_default();
        Told {
            resources,
            discovery,
            openapi_v3: openapi_v3(&index.bytes, group, version),
            openapi_v2: self.fetch("/openapi/v2", "application/json", &known.openapi_v2).await.unwrap_or_default(),
        }
    }
}

/// The resources of a version in an aggregated discovery document.
fn of_aggregated(bytes: &[u8], group: &str, version: &str) -> Option<Value> {
    let list: Value = serde_json::from_slice(bytes).ok()?;
    if list["kind"] != "APIGroupDiscoveryList" {
        return None;
    }
    let group = list["items"].as_array()?.iter().find(|item| item["metadata"]["name"] == group)?;
    let version = group["versions"].as_array()?.iter().find(|item| item["version"] == version)?;
    version["resources"].is_array().then(|| version["resources"].clone())
}

/// The same from an APIResourceList, in which subresources stand beside their resources.
fn of_legacy(bytes: &[u8], group: &str, version: &str) -> Option<Value> {
    let list: Value = serde_json::from_slice(bytes).ok()?;
    let all = list["resources"].as_array()?;
    let text = |value: &Value, default: &str| value.as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned();
    let response_kind = |resource: &Value| {
        json!({
        "group": text(&resource["group"], group), "version": text(&resource["version"], version), "kind": resource["kind"]})
    };
    let mut resources = Vec::new();
    for resource in all.iter().filter(|resource| !text(&resource["name"], "").contains('/')) {
        let name = text(&resource["name"], "");
        let mut one = json!({
            "resource": name,
            "responseKind": response_kind(resource),
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": resource["singularName"],
            "verbs": resource["verbs"],
        });
        for key in ["shortNames", "categories"] {
            if resource[key].is_array() {
                one[key] = resource[key].clone();
            }
        }
        let parts = all.iter().filter_map(|part| Some((part["name"].as_str()?.strip_prefix(&format!("{name}/"))?, part)));
        let parts: Vec<Value> =
            parts.map(|(sub, part)| json!({"subresource": sub, "responseKind": response_kind(part), "verbs": part["verbs"]})).collect();
        if !parts.is_empty() {
            one["subresources"] = parts.into();
        }
        resources.push(one);
    }
    Some(resources.into())
}

/// Where the document of a version is, by the server's index.
fn openapi_v3(index: &[u8], group: &str, version: &str) -> Option<String> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let path = format!("apis/{group}/{version}");
    let url = index["paths"][&path]["serverRelativeURL"].as_str()?;
    // Clients follow it with their credentials: it leads nowhere but here.
    let expected = format!("/openapi/v3/{path}");
    let rest = url.strip_prefix(&expected)?;
    (rest.is_empty() || rest.starts_with('?')).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_list_becomes_a_new_one() {
        let legacy = json!({"resources": [
            {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "PodMetrics", "verbs": ["get", "list"], "shortNames": ["pm"]},
            {"name": "pods/scale", "singularName": "", "namespaced": true, "kind": "Scale", "group": "autoscaling", "version": "v1", "verbs": ["get"]},
            {"name": "nodes", "singularName": "", "namespaced": false, "kind": "NodeMetrics", "verbs": ["get"]},
        ]});
        let expected = json!([
            {"resource": "pods", "responseKind": {"group": "metrics.k8s.io", "version": "v1", "kind": "PodMetrics"}, "scope": "Namespaced",
                "singularResource": "pod", "verbs": ["get", "list"], "shortNames": ["pm"],
                "subresources": [{"subresource": "scale", "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}, "verbs": ["get"]}]},
            {"resource": "nodes", "responseKind": {"group": "metrics.k8s.io", "version": "v1", "kind": "NodeMetrics"}, "scope": "Cluster",
                "singularResource": "", "verbs": ["get"]},
        ]);
        assert_eq!(of_legacy(legacy.to_string().as_bytes(), "metrics.k8s.io", "v1"), Some(expected));
        assert_eq!(of_legacy(b"<html>", "g", "v1"), None);
    }

    #[test]
    fn an_index_leads_nowhere_else() {
        let index = |url: &str| json!({"paths": {"apis/g/v1": {"serverRelativeURL": url}}}).to_string();
        let check = |url: &str| openapi_v3(index(url).as_bytes(), "g", "v1");
        assert_eq!(check("/openapi/v3/apis/g/v1?hash=A").as_deref(), Some("/openapi/v3/apis/g/v1?hash=A"));
        for url in ["https://elsewhere/openapi/v3/apis/g/v1", "/openapi/v3/apis/g/v1/../../x", "/openapi/v3/api/v1", "//elsewhere"] {
            assert_eq!(check(url), None, "{url}");
        }
    }
}
