//! Gets the image of a container by its pull policy, with the pod's credentials.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use k8s_openapi::api::core::v1::{Container, Secret};
use knarr_client::EventType;
use knarr_runtime::{Credentials, Image, Images};
use serde::Deserialize;

/// What [`ensure`] says in events: type, reason, message.
pub(crate) type Say<'a> = &'a (dyn Fn(EventType, &str, &str) + Send + Sync);

/// The image is not here and was not got. `reason` is that of the waiting state.
#[derive(Debug)]
pub(crate) struct NoImage {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The image of a container, fetched if its policy says so.
pub(crate) async fn ensure(images: &Images, container: &Container, secrets: &[Arc<Secret>], say: Say<'_>) -> Result<Arc<Image>, NoImage> {
    let reference = container.image.as_deref().unwrap_or_default();
    let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| policy_default(reference));
    let present = images.resolve(reference);
    match (present, policy) {
        (Some(image), "IfNotPresent" | "Never") => {
            say(EventType::Normal, "Pulled", &format!("Container image \"{reference}\" already present on machine"));
            Ok(image)
        }
        (None, "Never") => {
            let message = format!("Container image \"{reference}\" is not present with pull policy of Never");
            say(EventType::Warning, "ErrImageNeverPull", &message);
            Err(NoImage { reason: "ErrImageNeverPull", message })
        }
        _ => pull(images, reference, secrets, say).await,
    }
}

/// The API's default: always for `latest`, or where there is no tag.
fn policy_default(reference: &str) -> &'static str {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    let fixed = reference.contains('@') || name.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    if fixed { "IfNotPresent" } else { "Always" }
}

async fn pull(images: &Images, reference: &str, secrets: &[Arc<Secret>], say: Say<'_>) -> Result<Arc<Image>, NoImage> {
    say(EventType::Normal, "Pulling", &format!("Pulling image \"{reference}\""));
    let began = Instant::now();
    let mut attempts = credentials(secrets, registry(reference));
    attempts.push(Credentials::Anonymous);
    let mut trouble = String::new();
    for credentials in attempts {
        match images.pull(reference, &credentials, |_| {}).await {
            Ok(image) => {
                let took = began.elapsed();
                say(
                    EventType::Normal,
                    "Pulled",
                    &format!(
                        "Successfully pulled image \"{reference}\" in {took:.3?} ({took:.3?} including waiting). Image size: {} bytes.",
                        image.size_bytes
                    ),
                );
                return Ok(image);
            }
            Err(error) => trouble = chain(&error),
        }
    }
    say(EventType::Warning, "Failed", &format!("Failed to pull image \"{reference}\": {trouble}"));
    Err(NoImage { reason: "ErrImagePull", message: trouble })
}

/// An error with its sources, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !out.ends_with(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = source.source();
    }
    out
}

/// The host part of an image reference; Docker's own where it has none.
fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Login>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase", default)]
struct Login {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials that the pod's pull secrets hold for a registry.
fn credentials(secrets: &[Arc<Secret>], registry: &str) -> Vec<Credentials> {
    let mut out = Vec::new();
    for secret in secrets {
        let Some(data) = &secret.data else { continue };
        let auths = if let Some(bytes) = data.get(".dockerconfigjson") {
            serde_json::from_slice::<DockerConfig>(&bytes.0).map(|it| it.auths)
        } else if let Some(bytes) = data.get(".dockercfg") {
            serde_json::from_slice(&bytes.0)
        } else {
            continue;
        };
        // What cannot be read gives no credentials; the pull then says that it is not allowed.
        for (host, login) in auths.unwrap_or_default() {
            if host_of(&host) == host_of(registry) {
                out.extend(login.credentials());
            }
        }
    }
    out
}

fn host_of(server: &str) -> &str {
    let host = server.trim_start_matches("https://").trim_start_matches("http://");
    match host.split('/').next().unwrap_or(host) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

impl Login {
    fn credentials(self) -> Option<Credentials> {
        if !self.identitytoken.is_empty() {
            return Some(Credentials::Identity(self.identitytoken));
        }
        if !self.registrytoken.is_empty() {
            return Some(Credentials::Bearer(self.registrytoken));
        }
        let joined = base64::engine::general_purpose::STANDARD.decode(&self.auth).ok().and_then(|it| String::from_utf8(it).ok());
        let (username, password) = match joined.as_deref().and_then(|it| it.split_once(':')) {
            Some((username, password)) => (username.to_owned(), password.to_owned()),
            None => (self.username, self.password),
        };
        (!username.is_empty()).then_some(Credentials::Basic { username, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_always_fetched() {
        for (reference, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(policy_default(reference), expected, "{reference}");
        }
    }

    #[test]
    fn credentials_are_for_their_registry_only() {
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"r.example:5000":{"username":"a","password":"b"}}}"#;
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "data": {".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(config)}
        }))
        .unwrap();
        let secrets = [Arc::new(secret)];
        let user = |reference| {
            credentials(&secrets, registry(reference))
                .into_iter()
                .map(|it| match it {
                    Credentials::Basic { username, .. } => username,
                    _ => "other".into(),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(user("nginx"), ["u"]);
        assert_eq!(user("r.example:5000/x/y:1"), ["a"]);
        assert!(user("other.example/x").is_empty());
    }
}
