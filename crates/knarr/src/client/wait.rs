//! `knarr wait`: a watch on one object, until it has a condition or is gone.

use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use http::Request;
use kube::Client;
use serde_json::Value;

use super::{JSON, connect, encoded, fetch, refused, resources};
use crate::{cli::Wait, report::Failure};

/// What is waited for.
#[derive(Debug, PartialEq, Eq)]
enum Until {
    Deleted,
    Condition { kind: String, status: String },
}

pub(crate) async fn run(wait: &Wait) -> Result<(), Failure> {
    let until = parse(&wait.until)?;
    let client = connect(&wait.place).await?;
    let known = resources::Resources::discover(&client).await?;
    for target in resources::targets(&wait.what)? {
        let resource = known.find(&target.resource)?;
        let name = target.name.ok_or_else(|| Failure::Usage(format!("which {}? Give their names", resource.plural)))?;
        let path = format!("{}/{}", resource.path(&wait.namespace), encoded(&name));
        let waiting = hold(&client, &path, |object| object.map_or(until == Until::Deleted, |object| met(&until, object)));
        match tokio::time::timeout(wait.timeout, waiting).await {
            Ok(result) => result?,
            Err(_) => {
                let shown = resource.display();
                return Err(Failure::Api(format!(
                    "timed out after {:?} waiting for {} of {shown}/{name}; look at `knarr get {shown}/{name} -o yaml`",
                    wait.timeout, wait.until
                )));
            }
        }
        println!("{}/{name} condition met", resource.display());
    }
    Ok(())
}

/// Returns when the object at `path` is no more.
pub(super) async fn gone(client: &Client, path: &str) -> Result<(), Failure> {
    hold(client, path, |object| object.is_none()).await
}

fn parse(text: &str) -> Result<Until, Failure> {
    if text == "delete" {
        return Ok(Until::Deleted);
    }
    let Some(condition) = text.strip_prefix("condition=") else {
        return Err(Failure::Usage(format!("--for {text:?}: write delete, condition=Ready or condition=Ready=false")));
    };
    let (kind, status) = condition.split_once('=').unwrap_or((condition, "true"));
    Ok(Until::Condition { kind: kind.to_lowercase(), status: status.to_lowercase() })
}

fn met(until: &Until, object: &Value) -> bool {
    let Until::Condition { kind, status } = until else { return false };
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is = |condition: &Value, field: &str, text: &str| {
        condition.get(field).and_then(Value::as_str).is_some_and(|value| value.to_lowercase() == text)
    };
    conditions.iter().any(|condition| is(condition, "type", kind) && is(condition, "status", status))
}

/// Follows one object until `enough` says so; `None` is that it is not there.
async fn hold(client: &Client, path: &str, enough: impl Fn(Option<&Value>) -> bool) -> Result<(), Failure> {
    loop {
        let object = match fetch(client, path, JSON).await {
            Ok(object) => object,
            Err(Failure::Api(message)) if message.contains("not found") => {
                return if enough(None) { Ok(()) } else { Err(Failure::Api(message)) };
            }
            Err(failure) => return Err(failure),
        };
        if enough(Some(&object)) {
            return Ok(());
        }
        let (collection, name) = path.rsplit_once('/').unwrap_or((path, ""));
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
        let uri = format!("{collection}?watch=1&fieldSelector=metadata.name%3D{name}&resourceVersion={version}");
        let stream = client.request_stream(Request::get(uri).body(Vec::new())?).await.map_err(refused)?;
        let mut lines = std::pin::pin!(stream.lines());
        while let Some(line) = lines.try_next().await? {
            let event: Value = serde_json::from_str(&line)?;
            let deleted = event["type"] == "DELETED";
            if deleted && enough(None) || !deleted && enough(Some(&event["object"])) {
                return Ok(());
            }
            if event["type"] == "ERROR" {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_counts_only_with_the_status_asked_for() {
        let pod = serde_json::json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } });
        let check = |text: &str| met(&parse(text).unwrap(), &pod);
        assert!(!check("condition=Ready"));
        assert!(check("condition=ready=false"));
        assert!(!check("condition=Available"));
        assert!(parse("ready").unwrap_err().to_string().contains("condition=Ready"));
    }
}
