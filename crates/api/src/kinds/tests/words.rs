//! What upstream says of the groups beside core and apps, word for word: one row per rule.

use super::groups::{job, named, with};
use super::registration::kind_faults;
use super::*;

/// One change of an object that is without faults, and the faults that it brings.
pub(super) type Row<'a> = (&'a str, Value, &'a [&'a str]);

/// Each row's value is set in an object that has none of these faults; what is said of it then must be this, complete.
#[track_caller]
pub(super) fn says(resource: &str, good: &Object, rows: &[Row<'_>]) {
    let kind = kind(resource);
    let said = |mut object: Object| -> Vec<String> {
        kind.default(&mut object);
        kind.validate(&object).iter().map(ToString::to_string).collect()
    };
    assert_eq!(said(good.clone()), Vec::<String>::new(), "without a change");
    for (path, value, expected) in rows {
        assert_eq!(said(set(good, path, value)), *expected, "{path} = {value}");
    }
}

/// As [`with`], of a place that need not be there yet; null takes away what is there.
pub(super) fn set(good: &Object, path: &str, value: &Value) -> Object {
    let (parent, key) = path.rsplit_once('/').unwrap();
    let mut object = good.clone().into_value();
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("no {path}"));
    match key.parse::<usize>() {
        Ok(index) => parent[index] = value.clone(),
        Err(_) if value.is_null() => drop(parent.as_object_mut().unwrap().remove(key)),
        Err(_) => parent[key] = value.clone(),
    }
    Object::from_value(object).unwrap()
}

#[test]
fn what_a_job_is_refused_for() {
    let none: &[&str] = &[];
    says(
        "jobs.batch",
        &job(json!({})),
        &[
            ("/spec/managedBy", json!("example.com/queue"), none),
            (
                "/spec/managedBy",
                json!("queue"),
                &["spec.managedBy: Invalid value: \"queue\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
            ),
            (
                "/spec/completionMode",
                json!("X"),
                &["spec.completionMode: Unsupported value: \"X\": supported values: \"NonIndexed\", \"Indexed\""],
            ),
            (
                "/spec/podReplacementPolicy",
                json!("X"),
                &["spec.podReplacementPolicy: Unsupported value: \"X\": supported values: \"Failed\", \"TerminatingOrFailed\""],
            ),
            ("/spec/backoffLimitPerIndex", json!(1), &["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"]),
            (
                "/spec/maxFailedIndexes",
                json!(1),
                &[
                    "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                    "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
                ],
            ),
            (
                "/spec/template/metadata/labels/job-name",
                json!("b"),
                &[
                    "spec.template.metadata.labels[job-name]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"1-2\",\"batch.kubernetes.io/job-name\":\"a\",\"controller-uid\":\"1-2\",\"job-name\":\"b\"}: must be 'a'",
                ],
            ),
        ],
    );
    let indexed = job(
        json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": {"rules": [{"succeededIndexes": "0-1"}]}}),
    );
    let rule = "/spec/successPolicy/rules/0";
    says(
        "jobs.batch",
        &indexed,
        &[
            (
                rule,
                json!({}),
                &["spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified"],
            ),
            (
                rule,
                json!({"succeededCount": 4}),
                &[
                    "spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)",
                ],
            ),
            (
                rule,
                json!({"succeededCount": 3, "succeededIndexes": "0,2"}),
                &[
                    "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
                ],
            ),
            (
                rule,
                json!({"succeededIndexes": "1,3"}),
                &[
                    "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"1,3\": error parsing succeededIndexes: too large index: \"3\"",
                ],
            ),
            (
                "/spec/successPolicy/rules",
                json!([]),
                &["spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified"],
            ),
            (
                "/spec/parallelism",
                json!(100_001),
                &["spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed"],
            ),
            (
                "/metadata/name",
                json!("a.b"),
                &[
                    "spec.template.metadata.labels[job-name]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"1-2\",\"batch.kubernetes.io/job-name\":\"a\",\"controller-uid\":\"1-2\",\"job-name\":\"a\"}: must be 'a.b'",
                    "spec.template.metadata.labels[batch.kubernetes.io/job-name]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"1-2\",\"batch.kubernetes.io/job-name\":\"a\",\"controller-uid\":\"1-2\",\"job-name\":\"a\"}: must be 'a.b'",
                    "metadata.name: Invalid value: \"a.b\": will not able to create pod with invalid DNS label: a.b-2",
                ],
            ),
        ],
    );
}

#[test]
fn what_a_pod_failure_policy_is_refused_for() {
    let good = job(json!({"podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2]}}]}}));
    let rule = "/spec/podFailurePolicy/rules/0";
    let codes = |more: Value| json!({"action": "Ignore", "onExitCodes": more});
    let conditions = |more: Value| json!({"action": "Count", "onPodConditions": [more]});
    says(
        "jobs.batch",
        &good,
        &[
            (
                rule,
                json!({"action": "Count"}),
                &["spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"],
            ),
            (rule, conditions(json!({"type": "x", "status": "True"})), &[]),
            (
                rule,
                conditions(json!({"type": "x", "status": "X"})),
                &[
                    "spec.podFailurePolicy.rules[0].onPodConditions[0].status: Unsupported value: \"X\": supported values: \"False\", \"True\", \"Unknown\"",
                ],
            ),
            (
                &format!("{rule}/action"),
                json!(""),
                &["spec.podFailurePolicy.rules[0].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"],
            ),
            (
                &format!("{rule}/action"),
                json!("FailIndex"),
                &["spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set"],
            ),
            (
                rule,
                codes(json!({"operator": "In", "values": []})),
                &["spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: []: at least one value is required"],
            ),
            (
                rule,
                codes(json!({"operator": "In", "values": [0]})),
                &["spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator"],
            ),
            (
                rule,
                codes(json!({"operator": "NotIn", "values": [2, 2]})),
                &["spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Duplicate value: 2"],
            ),
            (
                rule,
                codes(json!({"operator": "NotIn", "values": [2, 1]})),
                &["spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered"],
            ),
            (
                rule,
                codes(json!({"operator": "In", "values": [1], "containerName": "x"})),
                &[
                    "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                ],
            ),
            (
                "/spec/podReplacementPolicy",
                json!("TerminatingOrFailed"),
                &["spec.podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\""],
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("OnFailure"),
                &[
                    "spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified",
                ],
            ),
        ],
    );
}

#[test]
fn what_a_change_of_a_job_is_refused_for() {
    let suspended = job(json!({"suspend": true}));
    let spec = |more: Value| {
        let mut template = json!({"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}});
        for (key, value) in more.as_object().unwrap() {
            template["spec"][key] = value.clone();
        }
        job(json!({"suspend": true, "template": template}))
    };
    let node = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}});
    change("jobs.batch", suspended.clone(), spec(json!({"affinity": node})), &[]);
    change("jobs.batch", spec(json!({"affinity": node})), suspended.clone(), &[]);
    let pods = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "z", "labelSelector": {"matchLabels": {"a": "b"}}}]}});
    change("jobs.batch", suspended.clone(), spec(json!({"affinity": pods})), &["spec.template: Invalid value: "]);
    let more = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]);
    change("jobs.batch", suspended.clone(), spec(json!({"containers": more})), &[]);
    let mut running = spec(json!({"containers": more}));
    running.set(&["spec", "suspend"], false.into());
    change("jobs.batch", job(json!({})), running, &["spec.template: Invalid value: "]);
    let indexed = |completions: i64, parallelism: i64| {
        job(json!({"completionMode": "Indexed", "completions": completions, "parallelism": parallelism}))
    };
    change("jobs.batch", indexed(1, 1), indexed(3, 3), &[]);
    change(
        "jobs.batch",
        indexed(1, 1),
        indexed(3, 1),
        &["spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"],
    );
}

/// What is said of a status in place of another.
#[track_caller]
fn status(resource: &str, base: &Object, old: Value, new: Value, expected: &[&str]) {
    let with_status = |status: Value| {
        let mut object = base.clone();
        object.set(&["status"], status);
        object
    };
    let kind = kind(resource);
    let said = kind.validate_update(&with_status(new), &with_status(old), "status");
    assert_eq!(said.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[test]
fn what_a_status_of_a_job_is_refused_for() {
    let base = job(json!({"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1}));
    let says = |old: Value, new: Value, expected: &[&str]| status("jobs.batch", &base, old, new, expected);
    let time = "2026-01-01T00:00:00Z";
    let condition = |ty: &str| json!({"type": ty, "status": "True"});
    let complete =
        json!({"startTime": time, "completionTime": time, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]});
    says(json!({}), complete.clone(), &[]);
    says(json!({}), json!({"active": -1}), &["status.active: Invalid value: -1: must be greater than or equal to 0"]);
    says(json!({}), json!({"ready": 1}), &["status.ready: Invalid value: 1: cannot set more ready pods than active"]);
    says(json!({"failed": 2}), json!({"failed": 1}), &["status.failed: Invalid value: 1: cannot decrease the failed counter"]);
    says(
        json!({}),
        json!({"completionTime": time}),
        &[
            "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": cannot set completionTime when there is no Complete=True condition",
        ],
    );
    says(
        json!({}),
        json!({"startTime": time, "conditions": [condition("Failed")]}),
        &["status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"],
    );
    says(
        complete.clone(),
        json!({"startTime": time}),
        &[
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
            "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
        ],
    );
    let mut busy = complete.clone();
    busy["active"] = 1.into();
    says(complete, busy, &["status.active: Invalid value: 1: active>0 is invalid for finished job"]);
    says(
        json!({}),
        json!({"completedIndexes": "0,4"}),
        &["status.completedIndexes: Invalid value: \"0,4\": error parsing completedIndexes: too large index: \"4\""],
    );
    says(
        json!({}),
        json!({"completedIndexes": "0-1", "failedIndexes": "1"}),
        &["status.failedIndexes: Invalid value: \"1\": failedIndexes and completedIndexes overlap at index: 1"],
    );
    says(
        json!({}),
        json!({"uncountedTerminatedPods": {"succeeded": ["a"], "failed": ["a"]}}),
        &["status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\""],
    );
}

#[test]
fn what_a_cron_job_is_refused_for() {
    let template = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "OnFailure"}}}});
    let good = named("a", json!({"metadata": {"namespace": "b"}, "spec": {"schedule": "@daily", "jobTemplate": template}}));
    says(
        "cronjobs.batch",
        &good,
        &[
            ("/spec/schedule", json!(""), &["spec.schedule: Required value"]),
            (
                "/spec/schedule",
                json!("TZ=UTC 0 0 * * *"),
                &["spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"],
            ),
            ("/spec/timeZone", json!("../etc"), &["spec.timeZone: Invalid value: \"../etc\": unknown time zone ../etc"]),
            (
                "/spec/concurrencyPolicy",
                json!("X"),
                &["spec.concurrencyPolicy: Unsupported value: \"X\": supported values: \"Allow\", \"Forbid\", \"Replace\""],
            ),
            (
                "/spec/jobTemplate/spec/selector",
                json!({"matchLabels": {"a": "b"}}),
                &["spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated"],
            ),
            (
                "/metadata/name",
                json!("a".repeat(53)),
                &[&format!("metadata.name: Invalid value: \"{}\": must be no more than 52 bytes", "a".repeat(53))],
            ),
        ],
    );
    let zoned = with(&good, "/spec/schedule", "TZ=UTC 0 0 * * *".into());
    change("cronjobs.batch", zoned.clone(), with(&good, "/spec/schedule", "TZ=UTC 1 0 * * *".into()), &[]);
    change("cronjobs.batch", good.clone(), zoned, &["spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use TZ"]);
}

#[test]
fn what_an_autoscaler_is_refused_for() {
    let spec = json!({"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [], "behavior": {"scaleUp": {}}});
    let good = named("a", json!({"metadata": {"namespace": "b"}, "spec": spec}));
    let kind = Kinds::builtin().resource("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
    let target = json!({"type": "AverageValue", "averageValue": "1"});
    for (path, value, expected) in [
        ("/spec/minReplicas", json!(0), vec!["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"]),
        ("/spec/minReplicas", json!(4), vec!["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"]),
        (
            "/spec/behavior/scaleUp",
            json!({"stabilizationWindowSeconds": 3601}),
            vec!["spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600"],
        ),
        (
            "/spec/behavior/scaleUp",
            json!({"selectPolicy": "X", "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}),
            vec![
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"X\": supported values: \"Disabled\", \"Max\", \"Min\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ],
        ),
        (
            "/spec/metrics",
            json!([{"type": "External", "external": {"metric": {"name": "a/b"}, "target": {"type": "Value", "value": "1", "averageValue": "0"}}}]),
            vec![
                "spec.metrics[0].external.metric.name: Invalid value: \"a/b\": may not contain '/'",
                "spec.metrics[0].external.target.averageValue: Invalid value: \"0\": must be positive",
                "spec.metrics[0].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target",
            ],
        ),
        (
            "/spec/metrics",
            json!([{"type": "ContainerResource", "containerResource": {"name": "cpu", "target": target}, "pods": {}}]),
            vec![
                "spec.metrics[0].pods.metric.name: Required value: must specify a metric name",
                "spec.metrics[0].pods.target.type: Required value: must specify a metric target type",
                "spec.metrics[0].pods.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
                "spec.metrics[0].pods: Forbidden: must populate the given metric source only",
            ],
        ),
    ] {
        let mut object = set(&good, path, &value);
        kind.default(&mut object);
        assert_eq!(kind.validate(&object).iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{path} = {value}");
    }
}

#[test]
fn what_network_objects_are_refused_for() {
    let policy =
        named("a", json!({"metadata": {"namespace": "b"}, "spec": {"podSelector": {}, "egress": [{"ports": [{"port": 80}], "to": []}]}}));
    let port = "/spec/egress/0/ports/0";
    let at = "spec.egress[0].ports[0]";
    says(
        "networkpolicies.networking.k8s.io",
        &policy,
        &[
            (port, json!({"port": 80, "endPort": 90}), &[]),
            (
                port,
                json!({"port": 80, "endPort": 79}),
                &[&format!("{at}.endPort: Invalid value: 80: must be greater than or equal to `port`")],
            ),
            (
                port,
                json!({"port": "http", "endPort": 79}),
                &[&format!("{at}.endPort: Invalid value: 79: may not be specified when `port` is non-numeric")],
            ),
            (
                port,
                json!({"endPort": 79}),
                &[&format!("{at}.endPort: Invalid value: 79: may not be specified when `port` is not specified")],
            ),
            (
                port,
                json!({"protocol": "X"}),
                &[&format!("{at}.protocol: Unsupported value: \"X\": supported values: \"TCP\", \"UDP\", \"SCTP\"")],
            ),
            (
                "/spec/policyTypes",
                json!(["X"]),
                &["spec.policyTypes[0]: Unsupported value: \"X\": supported values: \"Ingress\", \"Egress\""],
            ),
        ],
    );
    let ingress = named(
        "a",
        json!({"metadata": {"namespace": "b", "annotations": {}}, "spec": {"ingressClassName": "x", "rules": [{}],
        "defaultBackend": {"resource": {"apiGroup": "x.io", "kind": "K", "name": "n"}}}}),
    );
    says(
        "ingresses.networking.k8s.io",
        &ingress,
        &[
            ("/metadata/annotations", json!({"kubernetes.io/ingress.class": "x"}), &[]),
            (
                "/spec/defaultBackend/resource",
                json!({"apiGroup": "X", "name": "a/b"}),
                &[
                    "spec.defaultBackend.resource.apiGroup: Invalid value: \"X\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "spec.defaultBackend.resource.kind: Required value: kind is required",
                    "spec.defaultBackend.resource.name: Invalid value: \"a/b\": may not contain '/'",
                ],
            ),
            (
                "/spec/rules/0/host",
                json!("1.2.3.4"),
                &["spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"],
            ),
        ],
    );
    let mut classes = ingress.clone();
    classes.set(&["metadata", "annotations", "kubernetes.io/ingress.class"], "y".into());
    faults(
        "ingresses.networking.k8s.io",
        classes,
        &["annotations.kubernetes.io/ingress.class: Invalid value: \"y\": must match `ingressClassName` when both are specified"],
    );
    let balancer = |entry: Value| json!({"loadBalancer": {"ingress": [entry]}});
    status(
        "ingresses.networking.k8s.io",
        &ingress,
        json!({}),
        balancer(json!({"ip": "x"})),
        &["status.loadBalancer.ingress[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
    );
    let class = named(
        "a",
        json!({"spec": {"controller": "x.io/c", "parameters": {"apiGroup": "x.io", "kind": "K", "name": "n", "scope": "Cluster"}}}),
    );
    says(
        "ingressclasses.networking.k8s.io",
        &class,
        &[
            (
                "/spec/controller",
                json!("x.io"),
                &["spec.controller: Invalid value: \"x.io\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
            ),
            ("/spec/parameters/namespace", json!("n"), &["spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"]),
            (
                "/spec/parameters/scope",
                json!("Namespace"),
                &["spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
            ),
            (
                "/spec/parameters/scope",
                json!("X"),
                &["spec.parameters.scope: Unsupported value: \"X\": supported values: \"Cluster\", \"Namespace\""],
            ),
        ],
    );
    let range = named("a", json!({"spec": {"cidrs": ["10.0.0.0/8"]}}));
    says(
        "servicecidrs.networking.k8s.io",
        &range,
        &[
            ("/spec/cidrs", json!([]), &["spec.cidrs: Required value: at least one CIDR required"]),
            (
                "/spec/cidrs",
                json!(["10.0.0.1/8"]),
                &["spec.cidrs[0]: Invalid value: \"10.0.0.1/8\": must be in canonical form (\"10.0.0.0/8\")"],
            ),
            (
                "/spec/cidrs",
                json!(["10.0.0.0/8", "10.1.0.0/16"]),
                &[
                    "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"10.1.0.0/16\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                ],
            ),
        ],
    );
    let both = with(&range, "/spec/cidrs", json!(["10.0.0.0/8", "fd00::/64"]));
    change("servicecidrs.networking.k8s.io", range.clone(), both.clone(), &[]);
    change("servicecidrs.networking.k8s.io", both, range, &["spec.cidrs: Invalid value: [\"10.0.0.0/8\"]: field is immutable"]);
    let address = named("10.0.0.1", json!({"spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "n"}}}));
    says(
        "ipaddresses.networking.k8s.io",
        &address,
        &[("/spec/parentRef/resource", json!("a/b"), &["spec.parentRef.resource: Invalid value: \"a/b\": may not contain '/'"])],
    );
}

#[test]
fn what_slices_budgets_and_classes_are_refused_for() {
    let slice = named(
        "a",
        json!({"metadata": {"namespace": "b"}, "addressType": "IPv4", "ports": [{"name": "p", "port": 1}], "endpoints": [{"addresses": ["10.0.0.1"], "hints": {}}]}),
    );
    let addresses = "/endpoints/0/addresses";
    says(
        "endpointslices.discovery.k8s.io",
        &slice,
        &[
            (addresses, json!([]), &["endpoints[0].addresses: Required value: must contain at least 1 address"]),
            (
                addresses,
                json!(["x"]),
                &["endpoints[0].addresses[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
            ),
            (addresses, json!(["fd00::1"]), &["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"]),
            ("/ports", json!([{"port": 1}, {"port": 2}]), &["ports[1].name: Duplicate value: \"\""]),
            (
                "/ports/0/appProtocol",
                json!("a b"),
                &[
                    "ports[0].appProtocol: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                "/endpoints/0/hints",
                json!({"forZones": [{"name": "a"}, {"name": "a"}]}),
                &["endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""],
            ),
        ],
    );
    let domains = named("a", json!({"metadata": {"namespace": "b"}, "addressType": "FQDN", "endpoints": [{"addresses": ["a.io"]}]}));
    says(
        "endpointslices.discovery.k8s.io",
        &domains,
        &[(
            addresses,
            json!(["a"]),
            &["endpoints[0].addresses[0]: Invalid value: \"a\": should be a domain with at least two segments separated by dots"],
        )],
    );
    let budget = named("a", json!({"metadata": {"namespace": "b"}, "spec": {"minAvailable": "50%"}}));
    says(
        "poddisruptionbudgets.policy",
        &budget,
        &[
            ("/spec/minAvailable", json!("101%"), &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"]),
            (
                "/spec/unhealthyPodEvictionPolicy",
                json!("X"),
                &["spec.unhealthyPodEvictionPolicy: Unsupported value: \"X\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""],
            ),
        ],
    );
    status(
        "poddisruptionbudgets.policy",
        &budget,
        json!({}),
        json!({"expectedPods": -1}),
        &["status.expectedPods: Invalid value: -1: must be greater than or equal to 0"],
    );
    let class = named("a", json!({"value": 1}));
    says(
        "priorityclasses.scheduling.k8s.io",
        &class,
        &[
            ("/value", json!(1_000_000_001), &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]),
            (
                "/metadata/name",
                json!("system-x"),
                &[
                    "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class",
                ],
            ),
        ],
    );
    change(
        "priorityclasses.scheduling.k8s.io",
        class.clone(),
        with(&class, "/value", 2.into()),
        &["value: Forbidden: may not be changed in an update."],
    );
}

#[test]
fn what_roles_and_storage_are_refused_for() {
    let role = named("a", json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}}));
    says(
        "clusterroles.rbac.authorization.k8s.io",
        &role,
        &[(
            "/aggregationRule/clusterRoleSelectors",
            json!([]),
            &[
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
            ],
        )],
    );
    let binding = |namespace: Value| {
        named(
            "a",
            json!({"metadata": namespace, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "s", "namespace": "n"}]}),
        )
    };
    let local = binding(json!({"namespace": "b"}));
    says(
        "rolebindings.rbac.authorization.k8s.io",
        &local,
        &[
            ("/subjects/0", json!({"kind": "ServiceAccount", "name": "s"}), &[]),
            (
                "/subjects/0",
                json!({"kind": "X", "name": "s"}),
                &["subjects[0].kind: Unsupported value: \"X\": supported values: \"ServiceAccount\", \"User\", \"Group\""],
            ),
            ("/roleRef/kind", json!("X"), &["roleRef.kind: Unsupported value: \"X\": supported values: \"Role\", \"ClusterRole\""]),
        ],
    );
    says(
        "clusterrolebindings.rbac.authorization.k8s.io",
        &binding(json!({})),
        &[("/subjects/0", json!({"kind": "ServiceAccount", "name": "s"}), &["subjects[0].namespace: Required value"])],
    );
    let driver = named("d.io", json!({"spec": {}}));
    says(
        "csidrivers.storage.k8s.io",
        &driver,
        &[
            (
                "/spec/volumeLifecycleModes",
                json!(["X"]),
                &["spec.volumeLifecycleModes: Unsupported value: \"X\": supported values: \"Persistent\", \"Ephemeral\""],
            ),
            (
                "/spec/nodeAllocatableUpdatePeriodSeconds",
                json!(9),
                &["spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds"],
            ),
        ],
    );
    let node = named("n", json!({"spec": {"drivers": [{"name": "d.io", "nodeID": "1"}]}}));
    says(
        "csinodes.storage.k8s.io",
        &node,
        &[
            ("/spec/drivers/0/nodeID", json!(""), &["spec.drivers[0].nodeID: Required value"]),
            ("/spec/drivers/0/topologyKeys", json!(["a", "a"]), &["spec.drivers[0]: Duplicate value: \"a\""]),
        ],
    );
    // A body of the largest size is not answered with more, and not in a time that grows with its square.
    let keys: Vec<Value> = (0..100_000).map(|n| format!("-{n}").into()).collect();
    let told = kind_faults("csinodes.storage.k8s.io", &set(&node, "/spec/drivers/0/topologyKeys", &keys.into()));
    assert_eq!(told.len(), crate::error::ERRORS_MAX);
    assert!(told[0].starts_with("spec.drivers[0]: Invalid value: \"-0\": name part must"), "{}", told[0]);
    let attachment = named("v", json!({"spec": {"attacher": "d.io", "nodeName": "n", "source": {"persistentVolumeName": "p"}}}));
    says(
        "volumeattachments.storage.k8s.io",
        &attachment,
        &[
            (
                "/spec/source/persistentVolumeName",
                json!(""),
                &["spec.source.persistentVolumeName: Required value: must specify non empty persistentVolumeName"],
            ),
            (
                "/spec/source/inlineVolumeSpec",
                json!({"capacity": {}}),
                &["spec.source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName"],
            ),
        ],
    );
    let long = "x".repeat(1025);
    status(
        "volumeattachments.storage.k8s.io",
        &attachment,
        json!({}),
        json!({"attached": false, "attachError": {"message": long}}),
        &["status.attachError.message: Too long: may not be more than 1024 bytes"],
    );
    let class =
        named("a", json!({"provisioner": "x.io/p", "allowedTopologies": [{"matchLabelExpressions": [{"key": "z", "values": ["a"]}]}]}));
    says(
        "storageclasses.storage.k8s.io",
        &class,
        &[(
            "/allowedTopologies/0/matchLabelExpressions/0/values",
            json!(["a", "a"]),
            &["allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\""],
        )],
    );
    let runtime = named("r", json!({"handler": "runc", "scheduling": {"tolerations": [{"operator": "Exists"}]}}));
    says(
        "runtimeclasses.node.k8s.io",
        &runtime,
        &[(
            "/scheduling/tolerations",
            json!([{"key": "a", "operator": "X"}]),
            &["scheduling.tolerations[0].operator: Unsupported value: \"X\": supported values: \"Equal\", \"Exists\""],
        )],
    );
}
