//! The groups beside core, apps and networking: defaults, faults and changes that upstream refuses.

use super::*;

/// As [`super::faults`], of an object that has at least these.
#[track_caller]
fn has_fault(resource: &str, mut object: Object, expected: &str) {
    let kind = kind(resource);
    kind.default(&mut object);
    let errors: Vec<String> = kind.validate(&object).iter().map(ToString::to_string).collect();
    assert!(errors.iter().any(|error| error.starts_with(expected)), "{expected} is not in {errors:#?}");
}

pub(super) fn named(name: &str, rest: Value) -> Object {
    let mut made = object(rest);
    made.set(&["metadata", "name"], name.into());
    made
}

/// Sets one value of an object that is without faults.
pub(super) fn with(base: &Object, path: &str, value: Value) -> Object {
    let mut object = base.clone().into_value();
    *object.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value;
    Object::from_value(object).unwrap()
}

pub(super) fn job(spec: Value) -> Object {
    let mut job = object(json!({
        "metadata": {"name": "a", "namespace": "b", "uid": "1-2"},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}}},
    }));
    for (key, value) in spec.as_object().unwrap() {
        job.set(&["spec", key], value.clone());
    }
    let kind = kind("jobs.batch");
    kind.default(&mut job);
    kind.prepare_create(&mut job);
    job
}

#[test]
fn jobs_mark_and_select_their_pods() {
    let made = job(json!({}));
    assert_eq!(made.str(&["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"]), "1-2");
    let labels = made.get(&["spec", "template", "metadata", "labels"]).unwrap();
    assert_eq!((labels["job-name"].as_str(), labels["controller-uid"].as_str()), (Some("a"), Some("1-2")));
    let number = |key: &str| made.int(&["spec", key]);
    assert_eq!((number("completions"), number("parallelism"), number("backoffLimit")), (Some(1), Some(1), Some(6)));
    assert_eq!(job(json!({"parallelism": 2})).int(&["spec", "completions"]), None);
    assert_eq!(made.str(&["spec", "podReplacementPolicy"]), "TerminatingOrFailed");
    faults("jobs.batch", made, &[]);
    let own = json!({"manualSelector": true, "selector": {"matchLabels": {"x": "y"}}});
    has_fault("jobs.batch", job(own), "spec.template.metadata.labels: Invalid value: {}: `selector` does not match template `labels`");
}

#[test]
fn jobs_have_their_rules() {
    for (spec, expected) in [
        (
            json!({"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        (json!({"completionMode": "Indexed", "parallelism": 1}), "spec.completions: Required value: when completion mode is Indexed"),
        (json!({"backoffLimit": -1}), "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0"),
        (json!({"successPolicy": {"rules": [{}]}}), "spec.successPolicy: Invalid value"),
        (json!({"podFailurePolicy": {"rules": [{"action": "Count"}]}}), "spec.podFailurePolicy.rules[0]: Invalid value"),
    ] {
        has_fault("jobs.batch", job(spec), expected);
    }
    change("jobs.batch", job(json!({})), job(json!({"completions": 1, "parallelism": 3, "suspend": true})), &[]);
    change("jobs.batch", job(json!({})), job(json!({"completions": 3})), &["spec.completions: Invalid value: 3: field is immutable"]);
    let image = json!({"template": {"spec": {"containers": [{"name": "c", "image": "j"}], "restartPolicy": "Never"}}});
    change("jobs.batch", job(json!({})), job(image), &["spec.template: Invalid value"]);
    let placed = json!({"suspend": true, "template": {"spec":
        {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never", "nodeSelector": {"zone": "z"}}}});
    change("jobs.batch", job(json!({"suspend": true})), job(placed), &[]);
}

#[test]
fn cron_jobs_have_their_rules() {
    let template = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "OnFailure"}}}});
    let good = named(
        "a",
        json!({"metadata": {"namespace": "b"}, "spec": {"schedule": "*/5 * * * *", "timeZone": "Europe/Berlin",
        "concurrencyPolicy": "Forbid", "jobTemplate": template}}),
    );
    faults("cronjobs.batch", good.clone(), &[]);
    for (path, value, expected) in [
        ("/spec/schedule", json!("x"), "spec.schedule: Invalid value: \"x\": expected exactly 5 fields"),
        ("/spec/schedule", json!("TZ=UTC * * * * *"), "spec.schedule: Invalid value"),
        ("/spec/timeZone", json!("Local"), "spec.timeZone: Invalid value"),
        ("/spec/concurrencyPolicy", json!("X"), "spec.concurrencyPolicy: Unsupported value"),
        (
            "/spec/jobTemplate/spec/template/spec/restartPolicy",
            json!("Always"),
            "spec.jobTemplate.spec.template.spec.restartPolicy: Required",
        ),
        ("/metadata/name", json!("a".repeat(53)), "metadata.name: Invalid value"),
    ] {
        has_fault("cronjobs.batch", with(&good, path, value), expected);
    }
}

#[test]
fn autoscalers_have_their_rules() {
    let good = named(
        "a",
        json!({"metadata": {"namespace": "b"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}),
    );
    faults("horizontalpodautoscalers.autoscaling", good.clone(), &[]);
    has_fault(
        "horizontalpodautoscalers.autoscaling",
        with(&good, "/spec/maxReplicas", 0.into()),
        "spec.maxReplicas: Invalid value: 0: must be greater than 0",
    );
    has_fault(
        "horizontalpodautoscalers.autoscaling",
        with(&good, "/spec/scaleTargetRef/name", "a/b".into()),
        "spec.scaleTargetRef.name: Invalid value",
    );
    let v2 = Kinds::builtin().resource("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
    let mut made = good.clone();
    made.set(&["spec", "behavior"], json!({"scaleDown": {"stabilizationWindowSeconds": 60}}));
    v2.default(&mut made);
    assert_eq!(made.get(&["spec", "metrics"]).unwrap()[0]["resource"]["target"], json!({"type": "Utilization", "averageUtilization": 80}));
    assert_eq!(made.get(&["spec", "behavior", "scaleUp", "policies"]).unwrap().as_array().unwrap().len(), 2);
    assert_eq!(made.int(&["spec", "behavior", "scaleDown", "stabilizationWindowSeconds"]), Some(60));
    assert!(v2.validate(&made).is_empty());
    for (metric, expected) in [
        (json!({"type": "X"}), "spec.metrics[0].type: Unsupported value: \"X\""),
        (json!({"type": "Pods"}), "spec.metrics[0].pods: Required value"),
        (
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Value", "value": "1"}}}),
            "spec.metrics[0].resource.target.averageUtilization: Required value",
        ),
        (
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0}}}),
            "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0",
        ),
    ] {
        made.set(&["spec", "metrics"], json!([metric]));
        let errors = v2.validate(&made);
        assert!(errors.iter().any(|error| error.to_string().starts_with(expected)), "{errors:#?}");
    }
}

pub(super) const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUE9PQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

#[test]
fn signing_requests_are_decided_through_the_approval_alone() {
    let csr = "certificatesigningrequests.certificates.k8s.io";
    let good =
        named("a", json!({"spec": {"request": REQUEST, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}}));
    faults(csr, good.clone(), &[]);
    has_fault(csr, with(&good, "/spec/request", "eA==".into()), "spec.request: Invalid value");
    has_fault(csr, with(&good, "/spec/signerName", "x".into()), "spec.signerName: Invalid value: \"x\": must be a fully qualified domain");
    has_fault(csr, with(&good, "/spec/signerName", "kubernetes.io/legacy-unknown".into()), "spec.signerName: Invalid value");
    has_fault(csr, with(&good, "/spec/usages", json!(["x"])), "spec.usages[0]: Unsupported value: \"x\"");
    let row = kind(csr);
    let mut approved = good.clone();
    approved.set(&["status", "conditions"], json!([{"type": "Approved", "status": "True"}]));
    let through = |part: &str, new: &Object, old: &Object| -> Vec<String> {
        let mut new = new.clone();
        row.prepare_update(&mut new, old, part);
        row.validate_update(&new, old, part).iter().map(ToString::to_string).filter(|error| error.starts_with("status")).collect()
    };
    assert!(through("approval", &approved, &good).is_empty());
    assert_eq!(through("status", &approved, &good), ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]);
    assert_eq!(
        through("approval", &good, &approved),
        ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
    );
    let mut other = with(&approved, "/spec/signerName", "example.com/x".into());
    other.set(&["status", "certificate"], "eA==".into());
    row.prepare_update(&mut other, &good, "approval");
    assert_eq!((other.get(&["spec"]), other.get(&["status", "certificate"])), (good.get(&["spec"]), None));
}

#[test]
fn storage_has_its_rules() {
    let class = named("a", json!({"provisioner": "x.io/p", "parameters": {"a": "b"}}));
    faults("storageclasses.storage.k8s.io", class.clone(), &[]);
    has_fault("storageclasses.storage.k8s.io", with(&class, "/provisioner", "".into()), "provisioner: Required value");
    has_fault("storageclasses.storage.k8s.io", with(&class, "/provisioner", "a b".into()), "provisioner: Invalid value");
    change(
        "storageclasses.storage.k8s.io",
        class.clone(),
        with(&class, "/parameters/a", "c".into()),
        &["parameters: Forbidden: updates to parameters are forbidden."],
    );
    let node = named("n", json!({"spec": {"drivers": [{"name": "d.io", "nodeID": "1"}]}}));
    faults("csinodes.storage.k8s.io", node.clone(), &[]);
    change("csinodes.storage.k8s.io", node.clone(), with(&node, "/spec/drivers/0/nodeID", "2".into()), &["spec.drivers: Invalid value"]);
    has_fault(
        "volumeattachments.storage.k8s.io",
        named("v", json!({"spec": {"attacher": "d.io", "nodeName": "n", "source": {}}})),
        "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
    );
    has_fault("volumeattributesclasses.storage.k8s.io", named("v", json!({"driverName": "d.io"})), "parameters: Required value");
    let driver = named("d.io", json!({"spec": {}}));
    faults("csidrivers.storage.k8s.io", driver.clone(), &[]);
    change(
        "csidrivers.storage.k8s.io",
        driver.clone(),
        named("d.io", json!({"spec": {"attachRequired": false}})),
        &["spec.attachedRequired: Invalid value: false: field is immutable"],
    );
    let runtime = named("r", json!({"handler": "runc"}));
    faults("runtimeclasses.node.k8s.io", runtime.clone(), &[]);
    change("runtimeclasses.node.k8s.io", runtime.clone(), with(&runtime, "/handler", "x".into()), &["handler: Invalid value"]);
}

#[test]
fn webhooks_and_policies_have_their_rules() {
    let resource = "validatingwebhookconfigurations.admissionregistration.k8s.io";
    let rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    let webhook = json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": [rule],
        "clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/p"}}});
    let good = named("a", json!({"webhooks": [webhook]}));
    faults(resource, good.clone(), &[]);
    let mut made = good.clone();
    kind(resource).default(&mut made);
    assert_eq!(made.get(&["webhooks"]).unwrap()[0]["clientConfig"]["service"]["port"], 443);
    assert_eq!(made.get(&["webhooks"]).unwrap()[0]["timeoutSeconds"], 10);
    for (path, value, expected) in [
        ("/webhooks/0/name", json!("a.b"), "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments"),
        ("/webhooks/0/sideEffects", json!("Some"), "webhooks[0].sideEffects: Unsupported value"),
        ("/webhooks/0/admissionReviewVersions", json!(["v9"]), "webhooks[0].admissionReviewVersions: Invalid value"),
        ("/webhooks/0/clientConfig", json!({"url": "http://x"}), "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is"),
        ("/webhooks/0/clientConfig", json!({}), "webhooks[0].clientConfig: Required value: exactly one of url or service is required"),
        ("/webhooks/0/rules/0/operations", json!(["*", "CREATE"]), "webhooks[0].rules[0].operations: Invalid value"),
        ("/webhooks/0/rules/0/resources", json!([]), "webhooks[0].rules[0].resources: Required value"),
    ] {
        has_fault(resource, with(&good, path, value), expected);
    }
    let policies = "validatingadmissionpolicies.admissionregistration.k8s.io";
    let policy = named("p", json!({"spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}}));
    faults(policies, policy.clone(), &[]);
    has_fault(policies, with(&policy, "/spec/validations", json!([])), "spec.validations: Required value");
    has_fault(policies, with(&policy, "/spec/matchConstraints", json!({})), "spec.matchConstraints.resourceRules: Required value");
    let bindings = "validatingadmissionpolicybindings.admissionregistration.k8s.io";
    let binding = named("b", json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}));
    faults(bindings, binding.clone(), &[]);
    has_fault(bindings, with(&binding, "/spec/validationActions", json!(["Deny", "Warn"])), "spec.validationActions: Invalid value");
    let mutating = "mutatingadmissionpolicies.admissionregistration.k8s.io";
    let mutation = named(
        "m",
        json!({"spec": {"reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [rule]},
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}}),
    );
    faults(mutating, mutation.clone(), &[]);
    has_fault(
        mutating,
        with(&mutation, "/spec/mutations/0/patchType", "ApplyConfiguration".into()),
        "spec.mutations[0].applyConfiguration",
    );
    let service = named(
        "v1.x.io",
        json!({"spec": {"group": "x.io", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
        "service": {"namespace": "n", "name": "s"}, "insecureSkipTLSVerify": true}}),
    );
    faults("apiservices.apiregistration.k8s.io", service.clone(), &[]);
    has_fault("apiservices.apiregistration.k8s.io", with(&service, "/metadata/name", "x".into()), "metadata.name: Invalid value");
}

#[test]
fn priority_and_fairness_has_its_rules() {
    let (schemas, levels) = ("flowschemas.flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io");
    let rule = json!({"subjects": [{"kind": "Group", "group": {"name": "g"}}],
        "resourceRules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]});
    let schema = named("a", json!({"spec": {"priorityLevelConfiguration": {"name": "p"}, "rules": [rule]}}));
    faults(schemas, schema.clone(), &[]);
    has_fault(schemas, with(&schema, "/spec/rules/0/subjects/0/kind", "User".into()), "spec.rules[0].subjects[0].user: Required value");
    has_fault(
        schemas,
        with(&schema, "/spec/rules/0/resourceRules/0/verbs", json!(["x"])),
        "spec.rules[0].resourceRules[0].verbs: Unsupported",
    );
    let mut level = named("p", json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}}));
    faults(levels, level.clone(), &[]);
    kind(levels).default(&mut level);
    assert_eq!(level.int(&["spec", "limited", "limitResponse", "queuing", "handSize"]), Some(8));
    assert_eq!(level.int(&["spec", "limited", "nominalConcurrencyShares"]), Some(30));
    has_fault(levels, with(&level, "/spec/limited/limitResponse/type", "Reject".into()), "spec.limited.limitResponse.queuing: Forbidden");
    let hand = |size: i64, queues: i64| {
        with(&level, "/spec/limited/limitResponse/queuing", json!({"handSize": size, "queues": queues, "queueLengthLimit": 1}))
    };
    faults(levels, hand(6, 1024), &[]);
    has_fault(
        levels,
        hand(7, 1024),
        "spec.limited.limitResponse.queuing.handSize: Invalid value: 7: required entropy bits of deckSize 1024 and handSize 7 should not be greater than 60",
    );
}

#[test]
fn device_claims_have_their_rules() {
    let claims = "resourceclaims.resource.k8s.io";
    let good = named(
        "a",
        json!({"metadata": {"namespace": "b"}, "spec": {"devices": {
        "requests": [{"name": "gpu", "exactly": {"deviceClassName": "c"}}], "constraints": [{"requests": ["gpu"], "matchAttribute": "d/e"}]}}}),
    );
    faults(claims, good.clone(), &[]);
    let mut made = good.clone();
    kind(claims).default(&mut made);
    assert_eq!(
        made.get(&["spec", "devices", "requests"]).unwrap()[0]["exactly"],
        json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1})
    );
    has_fault(claims, with(&good, "/spec/devices/requests/0/name", "X".into()), "spec.devices.requests[0].name: Invalid value");
    has_fault(
        claims,
        with(&good, "/spec/devices/constraints/0/requests", json!(["x"])),
        "spec.devices.constraints[0].requests[0]: Invalid value",
    );
    change(claims, good.clone(), with(&good, "/spec/devices/constraints", json!([])), &["spec: Invalid value"]);
    let slice = named(
        "s",
        json!({"spec": {"driver": "d.io", "nodeName": "n", "pool": {"name": "p", "generation": 0, "resourceSliceCount": 1},
        "devices": [{"name": "a", "attributes": {"m": {"string": "x"}}}]}}),
    );
    faults("resourceslices.resource.k8s.io", slice.clone(), &[]);
    has_fault("resourceslices.resource.k8s.io", with(&slice, "/spec/driver", "".into()), "spec.driver: Required value");
    has_fault("resourceslices.resource.k8s.io", with(&slice, "/spec/nodeName", "".into()), "spec: Required value: exactly one of");
}

#[test]
fn what_is_given_once_stays() {
    let volume =
        named("v", json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"}}}));
    let moved = &["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"];
    change("persistentvolumes", volume.clone(), with(&volume, "/spec/hostPath/path", "/b".into()), moved);
    change("persistentvolumes", volume.clone(), with(&volume, "/spec/capacity/storage", "2Gi".into()), &[]);
    let quota = named("q", json!({"metadata": {"namespace": "b"}, "spec": {"scopes": ["BestEffort"], "hard": {"pods": "1"}}}));
    change(
        "resourcequotas",
        quota.clone(),
        with(&quota, "/spec/scopes", json!([])),
        &["spec.scopes: Invalid value: []: field is immutable"],
    );
    let address = named("10.0.0.1", json!({"spec": {"parentRef": {"resource": "services", "namespace": "b", "name": "s"}}}));
    let other = with(&address, "/spec/parentRef/name", "t".into());
    change("ipaddresses.networking.k8s.io", address, other, &["spec.parentRef: Invalid value"]);
    let range = named("r", json!({"spec": {"cidrs": ["10.0.0.0/24"]}}));
    let both = json!(["10.0.0.0/24", "fd00::/112"]);
    change("servicecidrs.networking.k8s.io", range.clone(), with(&range, "/spec/cidrs", both), &[]);
    let moved = with(&range, "/spec/cidrs", json!(["10.9.0.0/24"]));
    change("servicecidrs.networking.k8s.io", range, moved, &["spec.cidrs[0]: Invalid value"]);
    let event = named(
        "e",
        json!({"metadata": {"namespace": "b"}, "regarding": {"name": "p", "namespace": "b"}, "reason": "R", "action": "A",
        "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x.io/c", "reportingInstance": "i"}),
    );
    let mut again = event.clone();
    again.set(&["series"], json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}));
    change("events.events.k8s.io", event.clone(), again, &[]);
    change(
        "events.events.k8s.io",
        event.clone(),
        with(&event, "/reason", "S".into()),
        &["reason: Invalid value: \"S\": field is immutable"],
    );
}

#[test]
fn whoever_writes_what_nothing_acts_on_is_told() {
    let told = |resource: &str| kind(resource).warn(&job(json!({})), None);
    assert_eq!(told("jobs.batch"), ["this version of Knarr stores a Job, but nothing acts on it yet"]);
    assert_eq!(told("deployments.apps"), Vec::<String>::new());
}

/// Rules of upstream's that were once missing here.
#[test]
fn services_have_their_rules() {
    let service = |spec: Value| {
        let mut service = named("s", json!({"metadata": {"namespace": "n"}, "spec": {"ports": [{"port": 80}]}}));
        for (key, value) in spec.as_object().unwrap() {
            service.set(&["spec", key], value.clone());
        }
        service
    };
    for (spec, expected) in [
        (json!({"externalIPs": ["127.0.0.1"]}), "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range"),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8", "10.0.0.0/33"]}),
            "spec.LoadBalancerSourceRanges[1]: Invalid value: \"10.0.0.0/33\": must be a valid CIDR value",
        ),
        (json!({"loadBalancerClass": "example.com/x"}), "spec.loadBalancerClass: Forbidden: may only be used"),
        (json!({"allocateLoadBalancerNodePorts": true}), "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used"),
        (
            json!({"healthCheckNodePort": 30000}),
            "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer'",
        ),
        (json!({"ports": [{"port": 80, "appProtocol": "a b"}]}), "spec.ports[0].appProtocol: Invalid value: \"a b\""),
    ] {
        has_fault("services", service(spec), expected);
    }
    // What only balancers have goes with the type.
    let more = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "a.example/x"});
    let mut plain = more.clone();
    plain["type"] = "ClusterIP".into();
    change("services", service(more), service(plain), &[]);
    let balanced = |class: &str| service(json!({"type": "LoadBalancer", "loadBalancerClass": class}));
    change(
        "services",
        balanced("a.example/x"),
        balanced("a.example/y"),
        &["spec.loadBalancerClass: Invalid value: \"a.example/y\": may not change once set"],
    );
}

#[test]
fn volumes_and_claims_have_their_rules() {
    let volume = |spec: Value| {
        let mut volume =
            named("v", json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}}}));
        for (key, value) in spec.as_object().unwrap() {
            volume.set(&["spec", key], value.clone());
        }
        volume
    };
    faults("persistentvolumes", volume(json!({})), &[]);
    for (spec, expected) in [
        (json!({"capacity": {"storage": "1Gi", "cpu": "1"}}), "spec.capacity: Unsupported value"),
        (json!({"capacity": {"storage": "0"}}), "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"),
        (
            json!({"accessModes": ["ReadWriteOncePod", "ReadOnlyMany"]}),
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
        ),
        (json!({"volumeMode": "Tape"}), "spec.volumeMode: Unsupported value: \"Tape\""),
        (json!({"hostPath": {"path": "/a/../b"}}), "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"),
        (
            json!({"hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}),
            "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
        ),
        (json!({"hostPath": null, "local": {"path": "/x"}}), "spec.nodeAffinity: Required value: Local volume requires node affinity"),
    ] {
        has_fault("persistentvolumes", volume(spec), expected);
    }
    let claim = |size: &str, phase: &str, has: &str| {
        named(
            "c",
            json!({"metadata": {"namespace": "n"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
            "status": {"phase": phase, "capacity": {"storage": has}}}),
        )
    };
    let bound = |size: &str| claim(size, "Bound", "2Gi");
    change("persistentvolumeclaims", bound("2Gi"), bound("3Gi"), &[]);
    change("persistentvolumeclaims", bound("9Gi"), bound("3Gi"), &[]);
    change(
        "persistentvolumeclaims",
        bound("2Gi"),
        bound("1Gi"),
        &["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"],
    );
    change(
        "persistentvolumeclaims",
        claim("2Gi", "Pending", "0"),
        claim("3Gi", "Pending", "0"),
        &["spec: Forbidden: spec is immutable after creation"],
    );
}

#[test]
fn pods_have_more_rules() {
    let with_spec = |spec: Value| {
        let mut made = named("p", json!({"metadata": {"namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}));
        for (key, value) in spec.as_object().unwrap() {
            made.set(&["spec", key], value.clone());
        }
        made
    };
    let spread = |more: Value| {
        let mut constraint = json!({"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"});
        for (key, value) in more.as_object().unwrap() {
            constraint[key] = value.clone();
        }
        constraint
    };
    for (spec, expected) in [
        (
            json!({"hostPID": true, "shareProcessNamespace": true}),
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID",
        ),
        (
            json!({"topologySpreadConstraints": [spread(json!({"minDomains": 2}))]}),
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 2: can only use minDomains if",
        ),
        (
            json!({"topologySpreadConstraints": [spread(json!({})), spread(json!({}))]}),
            "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, ScheduleAnyway}\"",
        ),
        (
            json!({"topologySpreadConstraints": [spread(json!({"nodeTaintsPolicy": "x"}))]}),
            "spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value",
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "-1"}}]}),
            "spec.volumes[0].emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity",
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]}]}),
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ),
    ] {
        has_fault("pods", with_spec(spec), expected);
    }
}
