//! LimitRange: default requests and limits of containers, and what containers, pods and claims may ask for at least and at most.

use std::collections::BTreeMap;

use knarr_api::status::Status;
use knarr_api::{Object, Quantity, quota};
use knarr_store::Snapshot;
use serde_json::{Map, Value};

use super::{Chain, Operation, Request, stored_all};

/// Tells on the pod what was filled in.
const FILLED: &str = "kubernetes.io/limit-ranger";

type Amounts = BTreeMap<String, Quantity>;

/// One item of a LimitRange, with the defaults that upstream derives (core/v1 defaults.go, SetDefaults_LimitRangeItem).
struct Item {
    of: String,
    min: Amounts,
    max: Amounts,
    ratio: Amounts,
    default: Map<String, Value>,
    default_request: Map<String, Value>,
}

impl Item {
    fn parse(item: &Value) -> Item {
        let map = |field: &str| item[field].as_object().cloned().unwrap_or_default();
        let mut default = map("default");
        let mut default_request = map("defaultRequest");
        let (min, max) = (map("min"), map("max"));
        if item["type"] == "Container" {
            for (name, amount) in &max {
                default.entry(name.as_str()).or_insert_with(|| amount.clone());
            }
            for (name, amount) in default.iter().chain(&min) {
                default_request.entry(name.as_str()).or_insert_with(|| amount.clone());
            }
        }
        Item {
            of: item["type"].as_str().unwrap_or("").to_owned(),
            min: amounts(&min.into()),
            max: amounts(&max.into()),
            ratio: amounts(&item["maxLimitRequestRatio"]),
            default,
            default_request,
        }
    }
}

fn items(snapshot: &Snapshot, namespace: &str) -> Vec<Item> {
    let ranges = stored_all(snapshot, "core/limitranges", &format!("{namespace}/"));
    ranges.iter().flat_map(|range| range.list(&["spec", "limits"])).map(Item::parse).collect()
}

/// The amounts in a map. What is no quantity is left out; validation refuses it.
fn amounts(map: &Value) -> Amounts {
    let map = map.as_object().into_iter().flatten();
    map.filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?))).collect()
}

/// Gives the containers of a new pod the requests and limits that they do not name.
pub(super) fn fill(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "pods") {
        return Ok(());
    }
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for item in items(snapshot, request.namespace).into_iter().filter(|item| item.of == "Container") {
        limits.extend(item.default);
        requests.extend(item.default_request);
    }
    if limits.is_empty() && requests.is_empty() {
        return Ok(());
    }
    let mut filled = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = request.object.get_mut(&["spec", list]).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or("").to_owned();
            for (part, defaults, what) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let names = fill_part(container, part, defaults);
                if !names.is_empty() {
                    filled.push(format!("{} {what} for {word} {name}", names.join(", ")));
                }
            }
        }
    }
    if !filled.is_empty() {
        let text = format!("LimitRanger plugin set: {}", filled.join("; "));
        request.object.set(&["metadata", "annotations", FILLED], text.into());
    }
    Ok(())
}

fn fill_part(container: &mut Value, part: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let mut names = Vec::new();
    for (name, amount) in defaults {
        if container["resources"][part].get(name).is_none() {
            container["resources"][part][name] = amount.clone();
            names.push(name.clone());
        }
    }
    names
}

/// Refuses pods and claims outside the bounds of their namespace. All that is wrong is told at once.
pub(super) fn check(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let pods = request.is("", "pods") && request.operation == Operation::Create;
    let resized = request.is_of("", "pods") && request.subresource == "resize";
    let claims = request.is("", "persistentvolumeclaims") && matches!(request.operation, Operation::Create | Operation::Update);
    if !pods && !resized && !claims {
        return Ok(());
    }
    let mut faults = Vec::new();
    for item in items(snapshot, request.namespace) {
        match item.of.as_str() {
            "Container" if !claims => {
                for container in containers(request.object, "containers").chain(containers(request.object, "initContainers")) {
                    let (requests, limits) = asked(container);
                    compare(&item, &requests, &limits, &mut faults);
                }
            }
            "Pod" if !claims => {
                compare(&item, &quota::of_spec(request.object, "requests"), &quota::of_spec(request.object, "limits"), &mut faults);
            }
            "PersistentVolumeClaim" if claims => {
                let requests = request.object.get(&["spec", "resources", "requests"]).map(amounts).unwrap_or_default();
                // A claim has no limits; its request is held against both bounds.
                compare(&item, &requests, &requests, &mut faults);
            }
            _ => {}
        }
    }
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(request.forbidden(one)),
        many => Err(request.forbidden(&format!("[{}]", many.join(", ")))),
    }
}

fn containers<'a>(pod: &'a Object, list: &str) -> impl Iterator<Item = &'a Value> {
    pod.list(&["spec", list]).iter()
}

fn asked(container: &Value) -> (Amounts, Amounts) {
    (amounts(&container["resources"]["requests"]), amounts(&container["resources"]["limits"]))
}

fn compare(item: &Item, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
    let of = &item.of;
    for (name, least) in &item.min {
        let bound = format!("minimum {name} usage per {of} is {least}");
        match (requests.get(name), limits.get(name)) {
            (None, _) => faults.push(format!("{bound}.  No request is specified")),
            (Some(request), _) if request < least => faults.push(format!("{bound}, but request is {request}")),
            (_, Some(limit)) if limit < least => faults.push(format!("{bound}, but limit is {limit}")),
            _ => {}
        }
    }
    for (name, most) in &item.max {
        let bound = format!("maximum {name} usage per {of} is {most}");
        match (requests.get(name), limits.get(name)) {
            (_, None) => faults.push(format!("{bound}.  No limit is specified")),
            (_, Some(limit)) if limit > most => faults.push(format!("{bound}, but limit is {limit}")),
            (Some(request), _) if request > most => faults.push(format!("{bound}, but request is {request}")),
            _ => {}
        }
    }
    for (name, most) in &item.ratio {
        let bound = format!("{name} max limit to request ratio per {of} is {most}");
        let given = |amounts: &Amounts| amounts.get(name).map(Quantity::milli).filter(|milli| *milli != 0);
        match (given(requests), given(limits)) {
            (None, _) => faults.push(format!("{bound}, but no request is specified or request is 0")),
            (_, None) => faults.push(format!("{bound}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                // Upstream divides, too: their product would not fit any number.
                let ratio = limit as f64 / request as f64;
                if ratio * 1000.0 > most.milli() as f64 {
                    faults.push(format!("{bound}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `requests` and `limits` as `cpu=1,memory=1Gi`; the faults, one a line.
    fn check(item: Value, requests: &str, limits: &str, expected: &[&str]) {
        let list = |text: &str| -> Value {
            let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            Value::Object(pairs.map(|(name, amount)| (name.to_owned(), amount.into())).collect())
        };
        let mut faults = Vec::new();
        compare(&Item::parse(&item), &amounts(&list(requests)), &amounts(&list(limits)), &mut faults);
        assert_eq!(faults, expected, "{item}");
    }

    #[test]
    fn bounds_and_ratios() {
        let bounds = json!({ "type": "Container", "min": { "cpu": "100m" }, "max": { "cpu": "1" } });
        check(bounds.clone(), "cpu=100m", "cpu=1", &[]);
        check(bounds.clone(), "cpu=50m", "cpu=1", &["minimum cpu usage per Container is 100m, but request is 50m"]);
        check(bounds.clone(), "cpu=200m", "cpu=2", &["maximum cpu usage per Container is 1, but limit is 2"]);
        check(
            bounds,
            "",
            "",
            &[
                "minimum cpu usage per Container is 100m.  No request is specified",
                "maximum cpu usage per Container is 1.  No limit is specified",
            ],
        );
        let ratio = json!({ "type": "Pod", "maxLimitRequestRatio": { "memory": "2" } });
        check(ratio.clone(), "memory=1Gi", "memory=2Gi", &[]);
        check(ratio, "memory=1Gi", "memory=3Gi", &["memory max limit to request ratio per Pod is 2, but provided ratio is 3.000000"]);
    }

    #[test]
    fn defaults_follow_from_bounds() {
        let item = Item::parse(&json!({ "type": "Container", "max": { "cpu": "2" }, "min": { "cpu": "1", "memory": "1Gi" } }));
        assert_eq!(item.default["cpu"], "2");
        assert_eq!((&item.default_request["cpu"], &item.default_request["memory"]), (&json!("2"), &json!("1Gi")));
        let pod = Item::parse(&json!({ "type": "Pod", "max": { "cpu": "2" } }));
        assert!(pod.default.is_empty() && pod.default_request.is_empty());
    }

    #[test]
    fn ratios_of_the_largest_amounts() {
        let most = "9223372036854775807";
        let ratio = json!({ "type": "Pod", "maxLimitRequestRatio": { "memory": "8E" } });
        check(ratio.clone(), &format!("memory={most}"), &format!("memory={most}"), &[]);
        check(ratio.clone(), "memory=1", "memory=7E", &[]);
        check(ratio.clone(), "memory=1", "", &["memory max limit to request ratio per Pod is 8E, but no limit is specified or limit is 0"]);
        check(ratio, "", "memory=1", &["memory max limit to request ratio per Pod is 8E, but no request is specified or request is 0"]);
    }
}
