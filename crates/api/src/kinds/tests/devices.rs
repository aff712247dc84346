//! What upstream says of devices, storage, leases, budgets and runtime classes, word for word.

use super::groups::named;
use super::words::{says, set};
use super::*;

fn part_faults(resource: &str, new: &Object, old: &Object, part: &str) -> Vec<String> {
    kind(resource).validate_update(new, old, part).iter().map(ToString::to_string).collect()
}

#[test]
fn what_a_device_claim_is_refused_for() {
    let resource = "resourceclaims.resource.k8s.io";
    let one = json!({"name": "gpu", "exactly": {"deviceClassName": "c"}});
    let good = named("a", json!({"metadata": {"namespace": "b"}, "spec": {"devices": {"requests": [one]}}}));
    let (requests, exactly) = ("/spec/devices/requests", "/spec/devices/requests/0/exactly");
    let at = "spec.devices.requests[0]";
    let tolerates = |toleration: Value| json!({"deviceClassName": "c", "tolerations": [toleration]});
    let constraint = |more: Value| json!([more]);
    let configured = |parameters: Value| json!([{"opaque": {"driver": "d.io", "parameters": parameters}}]);
    says(
        resource,
        &good,
        &[
            (requests, json!([one, one]), &["spec.devices.requests[1]: Duplicate value: \"gpu\""]),
            (requests, vec![one.clone(); 33].into(), &["spec.devices.requests: Too many: 33: must have at most 32 items"]),
            (
                &format!("{requests}/0/firstAvailable"),
                json!([{"name": "x", "deviceClassName": "c"}]),
                &[&format!(
                    "{at}: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"
                )],
            ),
            (exactly, json!({}), &[&format!("{at}.exactly.deviceClassName: Required value")]),
            (
                exactly,
                json!({"deviceClassName": "c", "count": -1}),
                &[&format!("{at}.exactly.count: Invalid value: -1: must be greater than zero")],
            ),
            (
                exactly,
                json!({"deviceClassName": "c", "allocationMode": "X"}),
                &[&format!("{at}.exactly.allocationMode: Unsupported value: \"X\": supported values: \"All\", \"ExactCount\"")],
            ),
            (
                exactly,
                json!({"deviceClassName": "c", "allocationMode": "All", "count": 2}),
                &[&format!("{at}.exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'")],
            ),
            (
                exactly,
                tolerates(json!({"operator": "Exists", "value": "v"})),
                &[&format!("{at}.exactly.tolerations[0].value: Invalid value: \"v\": must be empty for operator `Exists`")],
            ),
            (
                exactly,
                tolerates(json!({"operator": "X", "effect": "Y"})),
                &[
                    &format!("{at}.exactly.tolerations[0].operator: Unsupported value: \"X\": supported values: \"Equal\", \"Exists\""),
                    &format!(
                        "{at}.exactly.tolerations[0].effect: Unsupported value: \"Y\": supported values: \"NoExecute\", \"NoSchedule\", \"None\""
                    ),
                ],
            ),
            ("/spec/devices/constraints", constraint(json!({"matchAttribute": "a.io/m"})), &[]),
            (
                "/spec/devices/constraints",
                constraint(json!({"matchAttribute": "m"})),
                &[
                    "spec.devices.constraints[0].matchAttribute: Invalid value: \"m\": a fully qualified name must be a domain and a name separated by a slash",
                ],
            ),
            (
                "/spec/devices/constraints",
                constraint(json!({})),
                &[
                    "spec.devices.constraints[0]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                ],
            ),
            (
                "/spec/devices/constraints",
                constraint(json!({"requests": ["gpu", "gpu"], "matchAttribute": "a.io/m"})),
                &["spec.devices.constraints[0].requests[1]: Duplicate value: \"gpu\""],
            ),
            ("/spec/devices/config", json!([{}]), &["spec.devices.config[0].opaque: Required value"]),
            ("/spec/devices/config", configured(json!({"a": 1})), &[]),
            (
                "/spec/devices/config",
                configured(json!("x")),
                &["spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object"],
            ),
            (
                "/spec/devices/config",
                configured(json!({"a": "x".repeat(10_240)})),
                &["spec.devices.config[0].opaque.parameters: Too long: may not be more than 10240 bytes"],
            ),
        ],
    );
    let with_status = |status: Value| set(&good, "/status", &status);
    let result = |request: &str| json!({"request": request, "driver": "d.io", "pool": "p", "device": "g0"});
    let given = json!({"devices": {"results": [result("gpu")]}});
    let device = |name: &str| json!({"driver": "d.io", "pool": "p", "device": name});
    let none: [&str; 0] = [];
    let told = |status: Value| part_faults(resource, &with_status(status), &good, "status");
    assert_eq!(told(json!({"allocation": given, "devices": [device("g0")]})), none);
    assert_eq!(
        told(json!({"allocation": given, "devices": [device("g1")]})),
        ["status.devices[0]: Invalid value: \"d.io/p/g1\": must be an allocated device in the claim"]
    );
    assert_eq!(
        told(json!({"allocation": {"devices": {"results": [result("x")], "config": [{"opaque": {"driver": "d.io", "parameters": {}}}]}}})),
        [
            "status.allocation.devices.results[0].request: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            "status.allocation.devices.config[0].source: Required value",
        ]
    );
}

#[test]
fn what_a_device_class_or_slice_is_refused_for() {
    says(
        "deviceclasses.resource.k8s.io",
        &named("c", json!({"spec": {}})),
        &[
            ("/spec/selectors", json!([{}]), &["spec.selectors[0].cel: Required value"]),
            (
                "/spec/selectors",
                json!([{"cel": {"expression": "x".repeat(10_241)}}]),
                &["spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes"],
            ),
            ("/spec/extendedResourceName", json!("a.io/x"), &[]),
            (
                "/spec/extendedResourceName",
                json!("cpu"),
                &["spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name"],
            ),
        ],
    );
    let good = named(
        "s",
        json!({"spec": {"driver": "d.io", "nodeName": "n", "pool": {"name": "p/q", "generation": 0, "resourceSliceCount": 1},
        "devices": [{"name": "a", "attributes": {"m": {"string": "x"}}}]}}),
    );
    let attributes = "/spec/devices/0/attributes";
    let one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    says(
        "resourceslices.resource.k8s.io",
        &good,
        &[
            ("/spec/pool/resourceSliceCount", json!(0), &["spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero"]),
            ("/spec/pool/name", json!("/".repeat(254)), &["spec.pool.name: Too long: may not be more than 253 bytes"]),
            ("/spec/pool/generation", json!(-1), &["spec.pool.generation: Invalid value: -1: must be greater than or equal to zero"]),
            ("/spec/nodeName", json!(null), &[&format!("spec: Required value: {one}")]),
            (
                "/spec/nodeName",
                json!(""),
                &[
                    "spec.nodeName: Invalid value: \"\": must be either unset or set to a non-empty string",
                    &format!("spec: Required value: {one}"),
                ],
            ),
            (
                "/spec/allNodes",
                json!(true),
                &[&format!("spec: Invalid value: \"{{`nodeName`, `allNodes`}}\": {one}, but multiple fields are set")],
            ),
            (
                "/spec/sharedCounters",
                json!([{"name": "c", "counters": {"m": {"value": "1"}}}]),
                &["spec: Invalid value: \"\": only one of `sharedCounters` or `devices` is allowed"],
            ),
            ("/spec/devices", json!([{"name": "a"}, {"name": "a"}]), &["spec.devices[1]: Duplicate value: \"a\""]),
            (attributes, json!({"m": {}}), &["spec.devices[0].attributes[m]: Invalid value: \"\": exactly one value must be specified"]),
            (attributes, json!({"/m": {"int": 1}}), &["spec.devices[0].attributes[/m]: Invalid value: \"\": the domain must not be empty"]),
            (
                attributes,
                json!({"m": {"string": "x".repeat(65)}}),
                &["spec.devices[0].attributes[m].string: Too long: may not be more than 64 bytes"],
            ),
            (
                "/spec/devices/0/capacity",
                json!({"m": {"value": "1", "requestPolicy": {}}}),
                &["spec.devices[0].capacity[m].requestPolicy: Forbidden: allowMultipleAllocations must be true"],
            ),
            (
                "/spec/devices/0/taints",
                json!([{"key": "k", "effect": "X"}]),
                &["spec.devices[0].taints[0].effect: Unsupported value: \"X\": supported values: \"NoExecute\", \"NoSchedule\", \"None\""],
            ),
        ],
    );
    let many: Vec<Value> = (0..65).map(|n| json!({"name": format!("d{n}"), "taints": [{"key": "k", "effect": "None"}]})).collect();
    says(
        "resourceslices.resource.k8s.io",
        &good,
        &[("/spec/devices", many.into(), &["spec.devices: Too many: 65: must have at most 64 items"])],
    );
}

#[test]
fn what_storage_is_refused_for() {
    let class = named("a", json!({"provisioner": "x.io/p"}));
    let zones = |zones: Value| json!({"matchLabelExpressions": [{"key": "zone", "values": zones}]});
    says(
        "storageclasses.storage.k8s.io",
        &class,
        &[(
            "/allowedTopologies",
            json!([zones(json!(["a", "b"])), zones(json!(["b", "a"]))]),
            &["allowedTopologies[1].matchLabelExpressions: Duplicate value: \"\""],
        )],
    );
    let capacity = named("c", json!({"metadata": {"namespace": "n"}, "storageClassName": "s", "maximumVolumeSize": "-1"}));
    says(
        "csistoragecapacities.storage.k8s.io",
        &capacity,
        &[("/capacity", json!("-1"), &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"])],
    );
    let attributes = named("v", json!({"driverName": "d.io", "parameters": {"a": "b"}}));
    change(
        "volumeattributesclasses.storage.k8s.io",
        attributes.clone(),
        set(&attributes, "/driverName", &json!("e.io")),
        &["driverName: Forbidden: updates to driverName are forbidden."],
    );
    let attachment = named("v", json!({"spec": {"attacher": "d.io", "nodeName": "n", "source": {"persistentVolumeName": "p"}}}));
    let failed = |error: Value| set(&attachment, "/status", &json!({"attachError": error}));
    let told = |error: Value| part_faults("volumeattachments.storage.k8s.io", &failed(error), &attachment, "status");
    assert_eq!(
        told(json!({"errorCode": -1})),
        ["status.attachError.errorCode: Invalid value: -1: must be between 0 and 2147483647, inclusive"]
    );
    for resource in
        ["csidrivers.storage.k8s.io", "csinodes.storage.k8s.io", "volumeattachments.storage.k8s.io", "runtimeclasses.node.k8s.io"]
    {
        assert!(!kind(resource).unconditional_update, "{resource}");
    }
}

#[test]
fn what_a_lease_a_budget_and_a_runtime_class_are_refused_for() {
    let lease = named("l", json!({"metadata": {"namespace": "n"}, "spec": {}}));
    says(
        "leases.coordination.k8s.io",
        &lease,
        &[
            ("/spec/strategy", json!("OldestEmulationVersion"), &[]),
            (
                "/spec/strategy",
                json!("X"),
                &["spec.strategy.strategy: Unsupported value: \"X\": supported values: \"OldestEmulationVersion\""],
            ),
            ("/spec/preferredHolder", json!("h"), &["spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"]),
        ],
    );
    let budget = named("b", json!({"metadata": {"namespace": "n"}, "spec": {}}));
    let new = set(&budget, "/status", &json!({"disruptionsAllowed": -1, "conditions": [{"type": "A", "status": "True", "reason": "R"}]}));
    assert_eq!(
        part_faults("poddisruptionbudgets.policy", &new, &budget, "status"),
        [
            "status.conditions[0].lastTransitionTime: Required value: must be set",
            "status.disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0",
        ]
    );
    let class = named("r", json!({"handler": "runc"}));
    let heavy = set(&class, "/overhead", &json!({"podFixed": {"cpu": "-1"}}));
    says(
        "runtimeclasses.node.k8s.io",
        &class,
        &[("/overhead", heavy.0["overhead"].clone(), &["overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"])],
    );
}
