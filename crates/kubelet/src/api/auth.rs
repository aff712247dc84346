//! Who calls the node's API, and whether the cluster lets them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::node::Node;

/// How long an answer of the API server about a token or a right is trusted. Upstream keeps tokens 2 min, and rights 5 min or, if
/// refused, 30 s; the shorter figure is enough to spare a review per request.
pub(super) const ANSWER_LIFE: Duration = Duration::from_secs(30);
/// Answers kept of each sort; when full, they are all forgotten.
const ANSWERS_MAX: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
}

/// What was asked about a caller: the verb, and the part of the node.
type Question = (Arc<User>, &'static str, &'static str);

/// Answers, with the moment when they are to be asked for again.
type Answers<Q, A> = Mutex<HashMap<Q, (Instant, A)>>;

pub(crate) struct Auth {
    node: Arc<Node>,
    /// By the hash of the token, which itself is kept nowhere.
    tokens: Answers<[u8; 32], Arc<User>>,
    rights: Answers<Question, bool>,
}

/// The subject of a verified client certificate: common name, of several the last as upstream (Go's crypto/x509/pkix), and organisations.
pub(super) fn identity(certificate: &rustls_pki_types::CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    // What cannot be read may say anything to others, and is nobody here.
    let name = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
    let groups: Option<Vec<_>> = subject.iter_organization().map(|it| it.as_str().ok().map(str::to_owned)).collect();
    let groups = groups?.into_iter().chain(["system:authenticated".to_owned()]).collect();
    Some(User { name, uid: String::new(), groups })
}

impl Auth {
    pub(super) fn new(node: Arc<Node>) -> Auth {
        Auth { node, tokens: Mutex::default(), rights: Mutex::default() }
    }

    pub(super) async fn authenticate(&self, peer: Option<Arc<User>>, headers: &HeaderMap) -> Result<Arc<User>, String> {
        if let Some(user) = peer {
            return Ok(user);
        }
        let unauthorized = || "Unauthorized".to_owned();
        let header = headers.get(http::header::AUTHORIZATION).and_then(|it| it.to_str().ok()).ok_or_else(unauthorized)?;
        let token = header.strip_prefix("Bearer ").map(str::trim).filter(|it| !it.is_empty()).ok_or_else(unauthorized)?;
        let key: [u8; 32] = Sha256::digest(token).into();
        let known = self.tokens.lock().get(&key).filter(|it| it.0.elapsed() < ANSWER_LIFE).map(|it| it.1.clone());
        if let Some(user) = known {
            return Ok(user);
        }
        let review =
            TokenReview { spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() }, ..TokenReview::default() };
        let review = self.node.cluster.all::<TokenReview>().create(&PostParams::default(), &review).await;
        let review = review.map_err(|error| {
            tracing::warn!(%error, "review a token");
            unauthorized()
        })?;
        let status = review.status.filter(|it| it.authenticated == Some(true)).ok_or_else(unauthorized)?;
        let user = status.user.ok_or_else(unauthorized)?;
        let user = Arc::new(User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        });
        let mut tokens = self.tokens.lock();
        if tokens.len() >= ANSWERS_MAX {
            tokens.clear();
        }
        tokens.insert(key, (Instant::now(), user.clone()));
        Ok(user)
    }

    /// Asks whether the user may do this to one of the node's subresources: the particular one, or else `nodes/proxy`.
    pub(super) async fn authorize(&self, user: &Arc<User>, method: &Method, path: &str) -> Result<(), String> {
        let verb = verb(method, path);
        let subresources = subresources(path);
        for subresource in subresources {
            if self.may(user, verb, subresource).await? {
                return Ok(());
            }
        }
        Err(format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)={subresources:?})\n", user.name))
    }

    async fn may(&self, user: &Arc<User>, verb: &'static str, subresource: &'static str) -> Result<bool, String> {
        let key = (user.clone(), verb, subresource);
        let known = self.rights.lock().get(&key).filter(|it| it.0.elapsed() < ANSWER_LIFE).map(|it| it.1);
        if let Some(allowed) = known {
            return Ok(allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.into()),
                    name: Some(self.node.config.node_name.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let review = self.node.cluster.all::<SubjectAccessReview>().create(&PostParams::default(), &review).await;
        let review = review.map_err(|error| {
            tracing::warn!(%error, "review an access");
            "the API server could not be asked for the right".to_owned()
        })?;
        let allowed = review.status.is_some_and(|it| it.allowed);
        let mut rights = self.rights.lock();
        if rights.len() >= ANSWERS_MAX {
            rights.clear();
        }
        rights.insert(key, (Instant::now(), allowed));
        Ok(allowed)
    }
}

/// WebSocket clients begin exec, attach and port-forward with GET; to run something in a pod is to create, whatever the method says.
/// Upstream goes by the method, so that a right to read `nodes/proxy` is there a right to exec.
fn verb(method: &Method, path: &str) -> &'static str {
    match *method {
        _ if matches!(first_segment(path), "exec" | "attach" | "portForward" | "run") => "create",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

fn first_segment(path: &str) -> &str {
    path.split('/').find(|it| !it.is_empty()).unwrap_or_default()
}

/// Upstream's mapping (pkg/kubelet/server/auth.go), the fine-grained names first.
fn subresources(path: &str) -> &'static [&'static str] {
    match first_segment(path) {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "configz" => &["configz", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "statusz" => &["statusz", "proxy"],
        "pods" | "runningpods" => &["pods", "proxy"],
        _ => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_to_read_is_no_right_to_run() {
        for (method, path, expected) in [
            (Method::GET, "/exec/a/b/c", "create"),
            (Method::GET, "//attach/a/b/c", "create"),
            (Method::GET, "/portForward/a/b", "create"),
            (Method::POST, "/exec/a/b/c", "create"),
            (Method::GET, "/containerLogs/a/b/c", "get"),
            (Method::GET, "/metrics", "get"),
        ] {
            assert_eq!(verb(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn paths_are_subresources_of_the_node() {
        for (path, expected) in [
            ("/stats/summary", "stats"),
            ("/metrics/resource", "metrics"),
            ("/containerLogs/a/b/c", "proxy"),
            ("/exec/a/b/c", "proxy"),
            ("/pods", "pods"),
            ("/metrics/cadvisor", "metrics"),
            ("/configz", "configz"),
            ("/healthz/ping", "healthz"),
            ("/checkpoint/a/b/c", "checkpoint"),
            ("/logs/", "log"),
            ("//metrics", "metrics"),
            ("/", "proxy"),
        ] {
            assert_eq!(subresources(path)[0], expected, "{path}");
        }
    }
}
