//! What upstream says of devices, storage, leases, budgets and runtime classes, word for word.

use super::groups::named;
use super::words::{says, set};
use super::*;

fn label(text: &str) -> String {
    crate::names::dns1123_label(text).join(",")
}

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
            (attributes, json!({"/m": {"int": 1}}), &["spec.devices[0].attributes: Invalid value: \"\": the domain must not be empty"]),
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
    let device = "/spec/devices/0";
    let with = |more: Value| {
        let mut device = json!({"name": "a"});
        more.as_object().unwrap().iter().for_each(|(key, value)| device[key] = value.clone());
        device
    };
    let counters = |count: usize| (0..count).map(|n| (format!("c{n}"), json!({"value": "1"}))).collect::<Value>();
    let consumes = |sets: Value| with(json!({"consumesCounters": sets}));
    let at = "spec.devices[0]";
    let capacity =
        |policy: Value| with(json!({"allowMultipleAllocations": true, "capacity": {"m": {"value": "10Gi", "requestPolicy": policy}}}));
    let range = format!("{at}.capacity[m].requestPolicy.validRange");
    let whole = "`perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    says(
        "resourceslices.resource.k8s.io",
        &good,
        &[
            (device, consumes(json!([{"counterSet": "s", "counters": counters(32)}, {"counterSet": "t", "counters": counters(1)}])), &[]),
            (
                device,
                consumes(json!([{"counterSet": "S"}, {"counterSet": "S", "counters": {"C": {"value": "1"}}}])),
                &[
                    &format!("{at}.consumesCounters[0].counterSet: Invalid value: \"S\": {}", label("S")),
                    &format!("{at}.consumesCounters[0].counters: Required value"),
                    &format!("{at}.consumesCounters[1].counterSet: Invalid value: \"S\": {}", label("S")),
                    &format!("{at}.consumesCounters[1].counters: Invalid value: \"C\": {}", label("C")),
                    &format!("{at}.consumesCounters[1]: Duplicate value: \"S\""),
                ],
            ),
            (
                device,
                consumes(json!([{"counterSet": "s", "counters": counters(33)}])),
                &[&format!("{at}.consumesCounters[0].counters: Too many: 33: must have at most 32 items")],
            ),
            (device, consumes(json!([{}, {}, {}])), &[&format!("{at}.consumesCounters: Too many: 3: must have at most 2 items")]),
            (
                attributes,
                json!({"v": {"version": "1.2"}}),
                &[&format!("{at}.attributes[v].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0")],
            ),
            (attributes, json!({"v": {"versions": ["1.2.3-rc.1+b"]}, "i": {"ints": vec![1; 47]}}), &[]),
            (
                attributes,
                json!({"v": {"int": 1}, "i": {"ints": vec![1; 48]}}),
                &[&format!("{at}: Invalid value: 49: the total number of attribute values must not exceed 48")],
            ),
            (device, capacity(json!({"default": "1Gi", "validRange": {"min": "1Gi", "max": "9Gi", "step": "2Gi"}})), &[]),
            (
                device,
                capacity(json!({"default": "2Gi", "validRange": {"min": "1Gi", "max": "12Gi", "step": "2Gi"}})),
                &[
                    &format!("{range}.max: Invalid value: \"12Gi\": max is larger than capacity value: 10Gi"),
                    &format!("{range}.step: Invalid value: \"2Gi\": value is not a multiple of a given step (2Gi) from (1Gi)"),
                    &format!("{range}.step: Invalid value: \"12Gi\": value is not a multiple of a given step (2Gi) from (1Gi)"),
                ],
            ),
            (
                device,
                capacity(json!({"default": "3Gi", "validValues": ["1Gi", "11Gi", "1Gi"]})),
                &[
                    &format!(
                        "{at}.capacity[m].requestPolicy.validValues[2]: Invalid value: \"1Gi\": values must be sorted in ascending order"
                    ),
                    &format!(
                        "{at}.capacity[m].requestPolicy.validValues[1]: Invalid value: \"11Gi\": option is larger than capacity value: 10Gi"
                    ),
                    &format!("{at}.capacity[m].requestPolicy.validValues[2]: Duplicate value: \"1073741824\""),
                    &format!(
                        "{at}.capacity[m].requestPolicy.validValues: Invalid value: \"3Gi\": default value is not valid according to the requestPolicy"
                    ),
                ],
            ),
            (
                device,
                capacity(json!({"validValues": ["1Gi"]})),
                &[&format!("{at}.capacity[m].requestPolicy.default: Required value: required when validValues is defined")],
            ),
            (
                device,
                with(json!({"nodeName": "n"})),
                &[&format!("{at}: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if {whole}")],
            ),
            (
                device,
                with(json!({"bindingConditions": ["a"]})),
                &[&format!(
                    "{at}.bindingFailureConditions: Invalid value: []: bindingFailureConditions are required to use bindingConditions"
                )],
            ),
            (
                "/spec/partitionTypeAttribute",
                json!("d.io/kind"),
                &[
                    "spec.partitionTypeAttribute: Invalid value: \"d.io/kind\": may only be set on a slice which declares devices that consume counters",
                ],
            ),
            (
                "/spec/skipNodeOperations",
                json!(["NodePrepareResources"]),
                &[
                    "spec.skipNodeOperations: Invalid value: [\"NodePrepareResources\"]: NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped",
                ],
            ),
        ],
    );
    let shared = named(
        "s",
        json!({"spec": {"driver": "d.io", "nodeName": "n", "pool": {"name": "p", "generation": 0, "resourceSliceCount": 1},
        "sharedCounters": [{"name": "a", "counters": counters(32)}]}}),
    );
    let sets = |count: usize| (0..count).map(|n| json!({"name": format!("s{n}"), "counters": counters(1)})).collect::<Value>();
    says(
        "resourceslices.resource.k8s.io",
        &shared,
        &[
            ("/spec/sharedCounters", sets(8), &[]),
            ("/spec/sharedCounters", sets(9), &["spec.sharedCounters: Too many: 9: must have at most 8 items"]),
            (
                "/spec/sharedCounters",
                json!([{"name": "", "counters": {}}, {"name": "a", "counters": counters(33)}, {"name": "a", "counters": counters(1)}]),
                &[
                    "spec.sharedCounters[0].name: Required value",
                    "spec.sharedCounters[0].counters: Required value",
                    "spec.sharedCounters[1].counters: Too many: 33: must have at most 32 items",
                    "spec.sharedCounters[2]: Duplicate value: \"a\"",
                ],
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

#[test]
fn what_a_selector_is_refused_for() {
    let class = named("c", json!({"spec": {"selectors": [{"cel": {"expression": "device.driver == 'd.io'"}}]}}));
    let claim = named(
        "c",
        json!({"metadata": {"namespace": "n"}, "spec": {"devices": {"requests": [{"name": "a",
            "exactly": {"deviceClassName": "c", "selectors": [{"cel": {"expression": "device.driver == 'd.io'"}}]}}]}}}),
    );
    let loops = |depth: usize| {
        let deeper = (0..depth).fold("true".to_owned(), |inner, n| format!("device.attributes['d.io'].all(x{n}, {inner})"));
        json!(deeper)
    };
    let good: Vec<Value> = [
        "device.attributes['d.io'].model == 'a100' && device.capacity['d.io'].memory.compareTo(quantity('10Gi')) >= 0",
        "cel.bind(d, device.attributes['d.io'], has(d.model) && d.model.startsWith('a') && d.model.matches('^a[0-9]+$'))",
        "device.attributes['d.io'].driverVersion.isGreaterThan(semver('1.2.3')) && device.allowMultipleAllocations",
        "device.attributes['d.io'].families.includes('h') || device.attributes['d.io'].families.exists(f, f == 'h')",
        // A boolean attribute is known to be one when it is there.
        "device.attributes['d.io'].healthy",
        "'d.io' in device.attributes && device.attributes['d.io'].index < 4",
    ]
    .into_iter()
    .map(Value::from)
    .chain([loops(3)])
    .collect();
    for (resource, object, path, at) in [
        ("deviceclasses.resource.k8s.io", &class, "/spec/selectors/0/cel/expression", "spec.selectors[0]"),
        (
            "resourceclaims.resource.k8s.io",
            &claim,
            "/spec/devices/requests/0/exactly/selectors/0/cel/expression",
            "spec.devices.requests[0].exactly.selectors[0]",
        ),
    ] {
        let none: &[&str] = &[];
        let mut rows: Vec<(&str, Value, &[&str])> = good.iter().map(|expression| (path, expression.clone(), none)).collect();
        let texts = [
            format!(
                "{at}.cel.expression: Invalid value: \"device.drivr == 'd'\": compilation failed: ERROR: <input>:1:7: undefined field 'drivr'\n | device.drivr == 'd'\n | ......^"
            ),
            format!("{at}.cel.expression: Invalid value: \"device.driver\": must evaluate to bool or the unknown type, not string"),
            format!("{at}.cel.expression: Forbidden: too complex, exceeds cost limit"),
            format!("{at}.cel.expression: Too long: may not be more than 10240 bytes"),
        ];
        let refused: Vec<[&str; 1]> = texts.iter().map(|text| [text.as_str()]).collect();
        let wrong = [json!("device.drivr == 'd'"), json!("device.driver"), loops(4), json!(" ".repeat(10241))];
        rows.extend(wrong.into_iter().zip(&refused).map(|(expression, told)| (path, expression, &told[..])));
        says(resource, object, &rows);
    }
}
