//! Custom resources whose versions are converted by a webhook (apiextensions-apiserver, pkg/apiserver/conversion/webhook_converter.go).
//!
//! What is stored is in the storage version of the time when it was written. It is converted where it leaves the store, before anything looks
//! into it, and what is written is converted just before it is stored: everything between sees the version of the request. A list, and a batch of
//! events, is one call, or as few as keep under the limit.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use knarr_api::{Kind, Object, Status, custom::Custom, decode, validate};
use knarr_store::{Entry, Event};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    callout::{Callout, Target},
    verbs::list::Selection,
};

/// For one call; upstream's.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes of stored objects in one call. The answer, which may be larger, is limited by the callout's own limit.
const CALL_BYTES_MAX: usize = 4 << 20;
/// Definitions whose webhooks are remembered. Each has up to 25 connections; of more, all are made anew.
const TARGETS_MAX: usize = 256;
/// Fields of the metadata that a webhook may change; the others stay as they were.
const METADATA: [&str; 2] = ["labels", "annotations"];

/// Where the webhooks of the definitions are, with the connections to them.
pub(crate) struct Conversions {
    callout: Callout,
    /// By definition.
    targets: Mutex<BTreeMap<String, Made>>,
}

/// A `clientConfig`, and what was made of it.
struct Made {
    config: Value,
    target: Arc<Result<Target, String>>,
}

impl Conversions {
    pub(crate) fn new(callout: Callout) -> Self {
        Self { callout, targets: Mutex::default() }
    }

    /// The stored objects in the version of `kind`.
    pub(crate) async fn entries(&self, kind: &Kind, mut entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, Status> {
        let Some(webhook) = Webhook::of(kind) else { return Ok(entries) };
        let wanted = kind.api_version();
        let mut foreign: Vec<(usize, Object)> = Vec::new();
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| !kind.shows_stored(entry.revision.0)) {
            let object = serde_json::from_slice::<Object>(&entry.value);
            let object = object.map_err(|error| knarr_api::status::internal(format!("stored {}: {error}", entry.key)))?;
            if object.api_version() != wanted {
                foreign.push((index, object));
            }
        }
        while !foreign.is_empty() {
            let mut bytes = 0;
            let fits = foreign.iter().take_while(|(index, _)| {
                bytes += entries[*index].value.len();
                bytes <= CALL_BYTES_MAX
            });
            let rest = foreign.split_off(fits.count().max(1));
            let (indexes, objects): (Vec<_>, Vec<_>) = std::mem::replace(&mut foreign, rest).into_iter().unzip();
            for (index, object) in indexes.into_iter().zip(self.call(&webhook, kind, &wanted, objects).await?) {
                let encoded = object.encode();
                entries[index] = Arc::new(entries[index].reformed(&encoded.bytes, encoded.stamp));
            }
        }
        Ok(entries)
    }

    pub(crate) async fn entry(&self, kind: &Kind, entry: Arc<Entry>) -> Result<Arc<Entry>, Status> {
        if Webhook::of(kind).is_none() {
            return Ok(entry);
        }
        let mut converted = self.entries(kind, vec![entry.clone()]).await?;
        Ok(converted.pop().unwrap_or(entry))
    }

    /// The events with their objects in the version of the selection's kind. Where a webhook converts, only those that can match: what others
    /// cannot convert is not for this watcher to fail by.
    pub(crate) async fn events(&self, selection: &Selection, mut events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>, Status> {
        let kind = &selection.kind;
        if Webhook::of(kind).is_none() {
            return Ok(events);
        }
        events.retain(|event| selection.may_match(&event.entry.key));
        let objects = events.iter().flat_map(|event| std::iter::once(&event.entry).chain(&event.previous)).cloned().collect();
        let mut objects = self.entries(kind, objects).await?.into_iter();
        let converted = events.iter().filter_map(|event| {
            let entry = objects.next()?;
            let previous = event.previous.as_ref().and_then(|_| objects.next());
            Some(Arc::new(event.reformed(entry, previous)))
        });
        Ok(converted.collect())
    }

    /// An object in the version of `kind` as it is to be stored.
    pub(crate) async fn to_storage(&self, kind: &Kind, object: Object) -> Result<Object, Status> {
        let Some(webhook) = Webhook::of(kind) else { return Ok(object) };
        self.to_version(kind, &webhook.custom.storage_version, object).await
    }

    /// An object of `kind` in another version, as its webhook converts it; as it is where there is none.
    pub(crate) async fn to_version(&self, kind: &Kind, version: &str, object: Object) -> Result<Object, Status> {
        let Some(webhook) = Webhook::of(kind) else { return Ok(object) };
        let wanted = format!("{}/{version}", kind.group);
        if object.api_version() == wanted {
            return Ok(object);
        }
        let converted = self.call(&webhook, kind, &wanted, vec![object]).await?.pop();
        converted.ok_or_else(|| knarr_api::status::internal("the conversion webhook returned nothing"))
    }

    async fn call(&self, webhook: &Webhook<'_>, kind: &Kind, wanted: &str, objects: Vec<Object>) -> Result<Vec<Object>, Status> {
        let from = objects.first().map(|object| object.api_version().to_owned()).unwrap_or_default();
        let failed = |why: String| Status::new(500, "", format!("conversion webhook for {from}, Kind={} {why}", kind.kind));
        let target = self.target(webhook);
        let target = target.as_ref().as_ref().map_err(|error| failed(format!("failed: {error}")))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let request = json!({"uid": uid, "desiredAPIVersion": wanted, "objects": objects});
        let review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "request": request});
        let query = format!("timeout={}s", TIME_MAX.as_secs());
        let answer = self.callout.post(target, &query, review.to_string().into(), TIME_MAX).await;
        let answer = answer.map_err(|error| failed(format!("failed: {error}")))?;
        read(&answer, &uid, wanted, objects).map_err(failed)
    }

    fn target(&self, webhook: &Webhook<'_>) -> Arc<Result<Target, String>> {
        let mut targets = self.targets.lock();
        match targets.get(&webhook.custom.definition) {
            Some(made) if made.config == *webhook.client_config => made.target.clone(),
            _ => {
                let target = Arc::new(Target::from_client_config(webhook.client_config).map_err(|error| crate::connect::chain(&error)));
                let made = Made { config: webhook.client_config.clone(), target: target.clone() };
                if targets.len() >= TARGETS_MAX {
                    targets.clear();
                }
                targets.insert(webhook.custom.definition.clone(), made);
                target
            }
        }
    }
}

struct Webhook<'k> {
    custom: &'k Custom,
    client_config: &'k Value,
}

impl<'k> Webhook<'k> {
    fn of(kind: &'k Kind) -> Option<Self> {
        let custom = kind.custom.as_deref()?;
        Some(Self { custom, client_config: custom.conversion.as_ref()? })
    }
}

/// The converted objects of an answer, each checked against what was sent. The error is the end of a sentence.
fn read(answer: &[u8], uid: &str, wanted: &str, sent: Vec<Object>) -> Result<Vec<Object>, String> {
    let review: Value = serde_json::from_slice(answer).map_err(|error| format!("failed: the answer is not JSON: {error}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if (text(&review["apiVersion"]), text(&review["kind"])) != ("apiextensions.k8s.io/v1".into(), "ConversionReview".into()) {
        return Err(format!(
            "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {}, Kind={}",
            text(&review["apiVersion"]),
            text(&review["kind"])
        ));
    }
    let response = &review["response"];
    if !response.is_object() {
        return Err("failed: no response provided".to_owned());
    }
    if response["uid"] != uid {
        return Err(format!("failed: expected response.uid={uid:?}, got {:?}", text(&response["uid"])));
    }
    if response["result"]["status"] != "Success" {
        return Err(match (text(&response["result"]["message"]), text(&response["result"]["status"])) {
            (message, _) if !message.is_empty() => format!("failed: {message}"),
            (_, status) => format!("failed: response.result.status was '{status}', not 'Success'"),
        });
    }
    let converted = response["convertedObjects"].as_array().map_or(&[][..], Vec::as_slice);
    if converted.len() != sent.len() {
        return Err(format!("returned {} objects, expected {}", converted.len(), sent.len()));
    }
    let checked = sent.into_iter().zip(converted).enumerate();
    let checked = checked.map(|(index, (before, after))| {
        check(&before, after, wanted).map_err(|why| format!("returned invalid converted object at index {index}: {why}"))
    });
    checked.collect()
}

fn check(before: &Object, after: &Value, wanted: &str) -> Result<Object, String> {
    decode::check_depth(after)?;
    let mut after = Object::from_value(after.clone()).ok_or("it is not an object")?;
    if after.api_version() != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {})", after.api_version()));
    }
    if after.metadata().is_none() {
        return Err("missing metadata".to_owned());
    }
    for (what, was, is) in [
        ("kind", before.kind(), after.kind()),
        ("name", before.name(), after.name()),
        ("namespace", before.namespace(), after.namespace()),
        ("UID", before.uid(), after.uid()),
    ] {
        if was != is {
            return Err(format!("must have the same {what}: {is} != {was}"));
        }
    }
    let mut metadata = before.metadata().cloned().unwrap_or_default();
    for field in METADATA {
        match after.get(&["metadata", field]) {
            Some(value) if !value.is_null() => {
                if metadata.get(field) != Some(value) {
                    texts(field, value)?;
                }
                metadata.insert(field.to_owned(), value.clone());
            }
            _ => drop(metadata.remove(field)),
        }
    }
    after.0.insert("metadata".to_owned(), Value::Object(metadata));
    Ok(after)
}

/// Refuses labels and annotations that no client could write: whoever reads the object relies on their form (restoreObjectMeta).
fn texts(field: &str, value: &Value) -> Result<(), String> {
    let map = value.as_object().ok_or_else(|| format!("invalid metadata.{field} of type {} in converted object", type_word(value)))?;
    if let Some((key, value)) = map.iter().find(|(_, value)| !value.is_string()) {
        return Err(format!("metadata.{field}[{key}] must be a string, but is {} in converted object", type_word(value)));
    }
    let metadata = serde_json::Map::from_iter([(field.to_owned(), value.clone())]);
    let faults: Vec<String> = validate::template_metadata(&metadata, "metadata").iter().map(ToString::to_string).collect();
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}

fn type_word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).expect("an object")
    }

    fn toy(version: &str, metadata: Value) -> Value {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Toy", "metadata": metadata})
    }

    fn check(response: Value, expected: &str) {
        let sent = vec![object(toy("v1", json!({"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "7"})))];
        let mut review = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
        review["response"]["uid"] = "id".into();
        let said = read(review.to_string().as_bytes(), "id", "example.com/v2", sent).expect_err(expected);
        assert_eq!(said, expected);
    }

    #[test]
    fn an_answer_must_convert_what_was_sent_and_nothing_else() {
        let success = |objects: Value| json!({"result": {"status": "Success"}, "convertedObjects": objects});
        check(json!({"result": {"status": "Failure", "message": "cannot"}}), "failed: cannot");
        check(json!({"result": {"status": "Maybe"}}), "failed: response.result.status was 'Maybe', not 'Success'");
        check(success(json!([])), "returned 0 objects, expected 1");
        let metadata = json!({"name": "a", "namespace": "n", "uid": "u"});
        let with = |field: &str, value: Value| {
            let mut metadata = metadata.clone();
            metadata[field] = value;
            toy("v2", metadata)
        };
        for (converted, why) in [
            (toy("v1", metadata.clone()), "invalid groupVersion (expected example.com/v2, received example.com/v1)"),
            (toy("v2", json!({"name": "b", "namespace": "n", "uid": "u"})), "must have the same name: b != a"),
            (toy("v2", json!({"name": "a", "namespace": "m", "uid": "u"})), "must have the same namespace: m != n"),
            (toy("v2", json!({"name": "a", "namespace": "n", "uid": "v"})), "must have the same UID: v != u"),
            (json!({"apiVersion": "example.com/v2", "kind": "Toy"}), "missing metadata"),
            (with("labels", json!("x=y")), "invalid metadata.labels of type string in converted object"),
            (with("labels", json!({"x": 1})), "metadata.labels[x] must be a string, but is number in converted object"),
            (with("annotations", json!({"x": {}})), "metadata.annotations[x] must be a string, but is object in converted object"),
        ] {
            check(success(json!([converted])), &format!("returned invalid converted object at index 0: {why}"));
        }
    }

    #[test]
    fn labels_and_annotations_that_are_new_are_of_the_form_that_all_have() {
        let with = |version: &str, metadata: Value| {
            let mut toy = toy(version, json!({"name": "a"}));
            toy["metadata"].as_object_mut().expect("a map").extend(metadata.as_object().cloned().unwrap_or_default());
            toy
        };
        for (metadata, why) in [
            (json!({"labels": {"a b": "c"}}), "metadata.labels: Invalid value: \"a b\""),
            (json!({"labels": {"a": "b c"}}), "metadata.labels: Invalid value: \"b c\""),
            (json!({"annotations": {"a b": "c"}}), "metadata.annotations: Invalid value: \"a b\""),
        ] {
            let fault = super::check(&object(with("v1", json!({}))), &with("v2", metadata.clone()), "example.com/v2").expect_err("a fault");
            assert!(fault.starts_with(why), "{fault}");
            // What has been there all along is not the webhook's.
            super::check(&object(with("v1", metadata.clone())), &with("v2", metadata), "example.com/v2").expect("a conversion");
        }
    }

    #[test]
    fn of_the_metadata_only_labels_and_annotations_change() {
        let before =
            object(toy("v1", json!({"name": "a", "uid": "u", "labels": {"x": "1"}, "finalizers": ["f/g"], "resourceVersion": "7"})));
        let after = toy("v2", json!({"name": "a", "uid": "u", "labels": {"x": "2"}, "finalizers": [], "generation": 9}));
        let checked = super::check(&before, &after, "example.com/v2").expect("a conversion");
        assert_eq!(
            checked.into_value(),
            toy("v2", json!({"name": "a", "uid": "u", "labels": {"x": "2"}, "finalizers": ["f/g"], "resourceVersion": "7"}))
        );
    }
}
