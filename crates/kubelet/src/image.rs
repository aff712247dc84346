//! Gets the image of a container by its pull policy, with the pod's credentials.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Secret};
use knarr_client::EventType;
use knarr_runtime::{Credentials, Image, ImageError, Images, Logins, Progress};
use parking_lot::Mutex;

/// What [`ensure`] says in events: type, reason, message.
pub(crate) type Say<'a> = &'a (dyn Fn(EventType, &str, &str) + Send + Sync);

/// The image is not here and was not got. `reason` is that of the waiting state.
#[derive(Debug)]
pub(crate) struct NoImage {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What a pod may show to registries.
#[derive(Debug, Default)]
pub(crate) struct PullSecrets {
    pub(crate) found: Vec<Arc<Secret>>,
    /// Named by the pod, and not there.
    pub(crate) missing: Vec<String>,
}

/// Reasons of a waiting container that is short of its image (upstream: pkg/kubelet/images/types.go).
pub(crate) fn is_about_image(reason: &str) -> bool {
    matches!(reason, "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName")
}

/// The image of a container, fetched if its policy says so.
pub(crate) async fn ensure(images: &Images, container: &Container, secrets: &PullSecrets, say: Say<'_>) -> Result<Arc<Image>, NoImage> {
    let reference = container.image.as_deref().unwrap_or_default();
    let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| policy_default(reference));
    let present = images.resolve(reference);
    if present.is_none()
        && let Err(error) = Images::check_name(reference)
    {
        let message = format!("Failed to apply default image tag \"{reference}\": {}", chain(&error));
        say(EventType::Warning, "InspectFailed", &message);
        return Err(NoImage { reason: "InvalidImageName", message });
    }
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

async fn pull(images: &Images, reference: &str, secrets: &PullSecrets, say: Say<'_>) -> Result<Arc<Image>, NoImage> {
    if !secrets.missing.is_empty() {
        let names = secrets.missing.join(", ");
        let message = format!("Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed.");
        say(EventType::Warning, "FailedToRetrieveImagePullSecret", &message);
    }
    say(EventType::Normal, "Pulling", &format!("Pulling image \"{reference}\""));
    let asked = Instant::now();
    let began = Arc::new(Mutex::new(asked));
    let told = began.clone();
    let note = move |progress| {
        if progress == Progress::Started {
            *told.lock() = Instant::now();
        }
    };
    let logins = Purse::open(secrets, reference);
    match images.pull(reference, &logins.credentials, note).await {
        Ok(image) => {
            let (waiting, took) = (asked.elapsed(), began.lock().elapsed());
            let size = image.size_bytes;
            let message = format!(
                "Successfully pulled image \"{reference}\" in {took:.3?} ({waiting:.3?} including waiting). Image size: {size} bytes."
            );
            say(EventType::Normal, "Pulled", &message);
            Ok(image)
        }
        Err(error) => {
            let message = format!("failed to pull image \"{reference}\": {}{}", chain(&*error), logins.advice(&error));
            say(
                EventType::Warning,
                "Failed",
                &format!("Failed to pull image \"{reference}\": {}{}", chain(&*error), logins.advice(&error)),
            );
            Err(NoImage { reason: "ErrImagePull", message })
        }
    }
}

/// The credentials of a pod for one image, and what is to be said of the Secrets that they come from.
struct Purse {
    credentials: Vec<Credentials>,
    /// Secrets that have some for the registry.
    used: Vec<String>,
    /// Secrets that have none for it.
    other: Vec<String>,
    /// Secrets that cannot be read, and why.
    broken: Vec<String>,
}

impl Purse {
    fn open(secrets: &PullSecrets, reference: &str) -> Purse {
        let mut purse = Purse { credentials: Vec::new(), used: Vec::new(), other: Vec::new(), broken: Vec::new() };
        for secret in &secrets.found {
            let name = secret.metadata.name.clone().unwrap_or_default();
            let of = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
            let logins = match (of(".dockerconfigjson"), of(".dockercfg")) {
                (Some(text), _) => Logins::parse(&text.0),
                (None, Some(text)) => Logins::parse_legacy(&text.0),
                (None, None) => {
                    purse.broken.push(format!("{name} (has neither .dockerconfigjson nor .dockercfg)"));
                    continue;
                }
            };
            match logins.map(|logins| logins.of(reference)) {
                Ok(found) if found.is_empty() => purse.other.push(name),
                Ok(found) => {
                    purse.credentials.extend(found);
                    purse.used.push(name);
                }
                Err(error) => purse.broken.push(format!("{name} ({error})")),
            }
        }
        purse
    }

    /// How a pull that was not allowed can be mended.
    fn advice(&self, error: &ImageError) -> String {
        if !error.is_denied() {
            return String::new();
        }
        let mut advice = match (self.used.as_slice(), self.other.as_slice()) {
            ([], []) => {
                "; name a Secret with credentials for it in the pod's imagePullSecrets (kubectl create secret docker-registry)".to_owned()
            }
            ([], other) => format!("; of the pod's imagePullSecrets, {} has no credentials for this registry", other.join(", ")),
            (used, _) => format!("; the credentials came from the Secret {}: are they right?", used.join(", ")),
        };
        if !self.broken.is_empty() {
            advice.push_str(&format!("; not readable as a Secret for registries: {}", self.broken.join(", ")));
        }
        advice
    }
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

#[cfg(test)]
mod tests {
    use base64::Engine as _;

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

    fn secret(name: &str, key: &str, text: &str) -> Arc<Secret> {
        let text = base64::engine::general_purpose::STANDARD.encode(text);
        Arc::new(serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "data": {key: text}})).unwrap())
    }

    #[test]
    fn the_secrets_that_were_shown_are_named() {
        let config = |host: &str| format!(r#"{{"auths":{{"{host}":{{"username":"a","password":"hunter2"}}}}}}"#);
        let fits = secret("fits", ".dockerconfigjson", &config("r.example"));
        let old = secret("old", ".dockercfg", r#"{"r.example":{"username":"b","password":"x"}}"#);
        let other = secret("other", ".dockerconfigjson", &config("other.example"));
        let broken = secret("broken", ".dockerconfigjson", "{hunter2");
        let denied = ImageError::Denied { reference: "r.example/x".into(), host: "r.example".into(), reason: "401".into() };
        let advice = |found: &[&Arc<Secret>]| {
            let secrets = PullSecrets { found: found.iter().map(|it| (*it).clone()).collect(), missing: Vec::new() };
            let purse = Purse::open(&secrets, "r.example/x:1");
            (purse.credentials.len(), purse.advice(&denied))
        };
        assert_eq!(advice(&[&fits, &old, &other]), (2, "; the credentials came from the Secret fits, old: are they right?".into()));
        assert!(advice(&[&other]).1.contains("other has no credentials for this registry"));
        assert!(advice(&[]).1.contains("kubectl create secret docker-registry"));
        let (count, advice) = advice(&[&broken]);
        assert!(count == 0 && advice.contains("broken (not a docker config.json") && !advice.contains("hunter2"), "{advice}");
    }

    #[tokio::test]
    async fn what_is_no_name_of_an_image_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path(), Default::default()).unwrap();
        let container = Container { image: Some("Up/Per".into()), image_pull_policy: Some("Never".into()), ..Container::default() };
        let said = Mutex::new(Vec::new());
        let say = |_: EventType, reason: &str, _: &str| said.lock().push(reason.to_owned());
        let none = ensure(&images, &container, &PullSecrets::default(), &say).await.unwrap_err();
        assert_eq!((none.reason, said.lock().as_slice()), ("InvalidImageName", &["InspectFailed".to_owned()][..]));
    }
}
