//! The flow schemas and priority levels of every cluster: upstream's mandatory and suggested ones (flowcontrol/bootstrap/default.go).

use serde_json::{Value, json};

/// name, shares, percent that may be lent, queues, hand size (0 queues: what does not fit is refused)
const LEVELS: [(&str, u32, u32, u32, u32); 7] = [
    ("catch-all", 5, 0, 0, 0),
    ("global-default", 20, 50, 128, 6),
    ("leader-election", 10, 0, 16, 4),
    ("node-high", 40, 25, 64, 6),
    ("system", 30, 33, 64, 6),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
];
const QUEUE_LENGTH: u32 = 50;

/// Name, level, precedence, what tells flows apart, subjects (`u` user, `g` group, `s` service account in kube-system), rules.
/// A rule is `verbs groups resources scope` with commas in between, `core` for the core group; `all`, or `probes`.
type Schema = (&'static str, &'static str, u32, &'static str, &'static str, &'static [&'static str]);

const SCHEMAS: [Schema; 13] = [
    ("exempt", "exempt", 1, "", "g:system:masters", &["all"]),
    ("probes", "exempt", 2, "", "g:system:unauthenticated g:system:authenticated", &["probes"]),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        "u:system:kube-controller-manager u:system:kube-scheduler s:*",
        &["get,create,update coordination.k8s.io leases namespaced"],
    ),
    (
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        "u:system:kube-controller-manager s:endpoint-controller s:endpointslicemirroring-controller",
        &["get,create,update core endpoints namespaced", "get,create,update discovery.k8s.io endpointslices namespaced"],
    ),
    (
        "workload-leader-election",
        "leader-election",
        200,
        "ByUser",
        "s:*",
        &["get,create,update core endpoints,configmaps namespaced", "get,create,update coordination.k8s.io leases namespaced"],
    ),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        "g:system:nodes",
        &["* core nodes,nodes/status cluster", "* coordination.k8s.io leases namespaced"],
    ),
    ("system-nodes", "system", 500, "ByUser", "g:system:nodes", &["all"]),
    ("kube-controller-manager", "workload-high", 800, "ByNamespace", "u:system:kube-controller-manager", &["all"]),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", "u:system:kube-scheduler", &["all"]),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", "s:*", &["all"]),
    ("service-accounts", "workload-low", 9000, "ByUser", "g:system:serviceaccounts", &["all"]),
    ("global-default", "global-default", 9900, "ByUser", "g:system:unauthenticated g:system:authenticated", &["all"]),
    ("catch-all", "catch-all", 10_000, "ByUser", "g:system:unauthenticated g:system:authenticated", &["all"]),
];

pub(super) fn levels() -> impl Iterator<Item = Value> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let limited = |(name, shares, lendable, queues, hand): (&'static str, u32, u32, u32, u32)| {
        let response = match queues {
            0 => json!({"type": "Reject"}),
            _ => json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH}}),
        };
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        (name, json!({"type": "Limited", "limited": limited}))
    };
    std::iter::once(("exempt", exempt)).chain(LEVELS.map(limited)).map(|(name, spec)| object("PriorityLevelConfiguration", name, &spec))
}

pub(super) fn schemas() -> impl Iterator<Item = Value> {
    SCHEMAS.into_iter().map(|(name, level, precedence, distinguisher, subjects, rules)| {
        let subjects: Vec<Value> = subjects.split(' ').map(subject).collect();
        let (resources, paths): (Vec<_>, Vec<_>) = rules.iter().map(|text| rule(text)).unzip();
        let mut rule = json!({"subjects": subjects});
        for (key, list) in [("resourceRules", resources), ("nonResourceRules", paths)] {
            let list: Vec<Value> = list.into_iter().flatten().collect();
            if !list.is_empty() {
                rule[key] = list.into();
            }
        }
        let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": [rule]});
        if !distinguisher.is_empty() {
            spec["distinguisherMethod"] = json!({"type": distinguisher});
        }
        object("FlowSchema", name, &spec)
    })
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "generation": 1, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}},
        "spec": spec, "status": {},
    })
}

fn subject(text: &str) -> Value {
    match text.split_at(2) {
        ("u:", name) => json!({"kind": "User", "user": {"name": name}}),
        ("g:", name) => json!({"kind": "Group", "group": {"name": name}}),
        (_, name) => json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}}),
    }
}

/// A rule about resources, one about other paths, or both.
fn rule(text: &str) -> (Option<Value>, Option<Value>) {
    if text == "probes" {
        return (None, Some(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]})));
    }
    if text == "all" {
        let resources = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]});
        return (Some(resources), Some(json!({"verbs": ["*"], "nonResourceURLs": ["*"]})));
    }
    let mut words = text.split(' ').map(|word| word.split(',').map(|word| if word == "core" { "" } else { word }).collect::<Vec<_>>());
    let mut next = || words.next().unwrap_or_default();
    let (verbs, groups, resources, scope) = (next(), next(), next(), next());
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    match scope.first() {
        Some(&"cluster") => rule["clusterScope"] = true.into(),
        _ => rule["namespaces"] = json!(["*"]),
    }
    (Some(rule), None)
}

#[cfg(test)]
mod tests {
    use knarr_api::{Kinds, Object};

    use super::*;

    #[test]
    fn each_is_as_the_api_would_have_stored_it() {
        let kinds = Kinds::builtin();
        let levels: Vec<Value> = levels().collect();
        for value in schemas().chain(levels.iter().cloned()) {
            let kind = kinds.by_kind("flowcontrol.apiserver.k8s.io", "v1", value["kind"].as_str().unwrap()).unwrap();
            let object = Object::from_value(value).unwrap();
            let mut defaulted = object.clone();
            kind.default(&mut defaulted);
            assert_eq!(defaulted, object);
            assert_eq!(kind.validate(&object), [], "{}", object.name());
        }
        for schema in schemas() {
            let level = &schema["spec"]["priorityLevelConfiguration"]["name"];
            assert!(levels.iter().any(|known| known["metadata"]["name"] == *level), "{level}");
        }
    }
}
