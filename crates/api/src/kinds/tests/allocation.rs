//! What upstream says of allocated devices, of what they take of their nodes, and of the types in their selectors, word for word.

use super::groups::named;
use super::words::{says, set};
use super::*;

const SLICES: &str = "resourceslices.resource.k8s.io";
const CLAIMS: &str = "resourceclaims.resource.k8s.io";

fn slice(device: &Value) -> Object {
    named(
        "s",
        json!({"spec": {"driver": "d.io", "nodeName": "n", "pool": {"name": "p", "generation": 0, "resourceSliceCount": 1}, "devices": [device]}}),
    )
}

#[test]
fn what_a_device_takes_of_its_node() {
    let device = json!({"name": "a", "capacity": {"d.io/cores": {"value": "64"}},
        "nodeAllocatableResources": {"cpu": {"mapping": {"capacityKey": "d.io/cores", "capacityMultiplier": "2"}}}});
    let all = "/spec/devices/0/nodeAllocatableResources";
    let cpu = "spec.devices[0].nodeAllocatableResources[cpu]";
    let both = "`capacityKey`, `deviceMultiplier`";
    let mapped = |mapping: Value| json!({"cpu": {"mapping": mapping}});
    says(
        SLICES,
        &slice(&device),
        &[
            (all, json!({"memory": {"mapping": {"deviceMultiplier": "1Gi"}, "overhead": {"perPod": "0", "perContainer": "1Mi"}}}), &[]),
            (all, json!({"hugepages-2Mi": {"overhead": {"perContainer": "2Mi"}}}), &[]),
            (
                all,
                json!({"d.io/gpu": {"overhead": {"perPod": "1"}}, "ephemeral-storage": {"overhead": {"perPod": "1"}}}),
                &[
                    "spec.devices[0].nodeAllocatableResources[d.io/gpu]: Invalid value: \"d.io/gpu\": must be a node allocatable resource name",
                    "spec.devices[0].nodeAllocatableResources[ephemeral-storage]: Invalid value: \"ephemeral-storage\": must be a node allocatable resource name",
                ],
            ),
            (all, json!({"cpu": {}}), &[&format!("{cpu}: Required value: at least one of mapping or overhead must be set")]),
            (all, mapped(json!({})), &[&format!("{cpu}.mapping: Invalid value: \"\": must specify one of: {both}")]),
            (
                all,
                mapped(json!({"capacityKey": "d.io/x"})),
                &[
                    &format!("{cpu}.mapping.capacityKey: Not found: \"d.io/x\""),
                    &format!("{cpu}.mapping.capacityMultiplier: Required value: capacityMultiplier is required when capacityKey is set"),
                ],
            ),
            (
                all,
                mapped(json!({"capacityMultiplier": "1", "deviceMultiplier": "1"})),
                &[&format!("{cpu}.mapping.capacityKey: Required value: capacityKey is required when capacityMultiplier is set")],
            ),
            (
                all,
                mapped(json!({"capacityKey": "", "capacityMultiplier": "0", "deviceMultiplier": "-1"})),
                &[
                    &format!("{cpu}.mapping.capacityKey: Invalid value: \"\": capacityKey must not be an empty string"),
                    &format!("{cpu}.mapping.capacityMultiplier: Invalid value: \"0\": must be positive"),
                    &format!("{cpu}.mapping.deviceMultiplier: Invalid value: \"-1\": must be positive"),
                    &format!("{cpu}.mapping: Invalid value: \"{{capacityKey, deviceMultiplier}}\": must specify exactly one of: {both}"),
                ],
            ),
            (
                all,
                json!({"cpu": {"overhead": {}}}),
                &[&format!("{cpu}.overhead: Invalid value: \"\": at least one of perPod or perContainer must be set")],
            ),
            (
                all,
                json!({"cpu": {"overhead": {"perPod": "-1", "perContainer": "-1m"}}}),
                &[
                    &format!("{cpu}.overhead.perPod: Invalid value: \"-1\": must be non-negative"),
                    &format!("{cpu}.overhead.perContainer: Invalid value: \"-1m\": must be non-negative"),
                ],
            ),
        ],
    );
}

#[test]
fn steps_of_a_range_are_reckoned_in_numbers_of_64_bits() {
    let device = json!({"name": "a", "allowMultipleAllocations": true, "capacity": {"c": {"value": "100", "requestPolicy": {
        "default": "1", "validRange": {"min": "0", "max": "9", "step": "1"}}}}});
    let policy = "/spec/devices/0/capacity/c/requestPolicy";
    let at = "spec.devices[0].capacity[c].requestPolicy.validRange";
    let ranged = |default: &str, range: Value| json!({"default": default, "validRange": range});
    says(
        SLICES,
        &slice(&device),
        &[
            (policy, ranged("1500m", json!({"min": "500m", "step": "250m"})), &[]),
            (
                policy,
                ranged("1", json!({"min": "-1", "step": "1"})),
                &[&format!("{at}.min: Invalid value: \"-1\": must be greater than or equal to 0")],
            ),
            (
                policy,
                ranged("1", json!({"min": "100u", "step": "100m"})),
                &[&format!("{at}.min: Invalid value: \"100u\": value cannot be represented as a milli value")],
            ),
            (
                policy,
                ranged("1", json!({"min": "0", "step": "700m"})),
                &[&format!("{at}.step: Invalid value: \"1\": value is not a multiple of a given step (700m) from (0)")],
            ),
        ],
    );
}

#[test]
fn what_the_status_of_a_claim_is_refused_for() {
    let claim = named(
        "a",
        json!({"metadata": {"namespace": "b"}, "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "c"}}]}}}),
    );
    let kind = kind(CLAIMS);
    let told = |status: Value| -> Vec<String> {
        let errors = kind.validate_update(&set(&claim, "/status", &status), &claim, "status");
        errors.iter().map(ToString::to_string).collect()
    };
    let result = |more: Value| {
        let mut result = json!({"request": "gpu", "driver": "d.io", "pool": "p", "device": "g"});
        more.as_object().unwrap().iter().for_each(|(key, value)| result[key] = value.clone());
        json!({"allocation": {"devices": {"results": [result]}}})
    };
    let share = "11111111-2222-3333-4444-555555555555";
    let at = "status.allocation.devices.results[0]";
    let none: [&str; 0] = [];
    assert_eq!(
        told(result(
            json!({"shareID": share, "bindingConditions": ["d.io/ready"], "bindingFailureConditions": ["d.io/bad"], "skipNodeOperations": ["*"]})
        )),
        none
    );
    assert_eq!(
        told(result(json!({"shareID": "A", "tolerations": [{"operator": "X"}], "skipNodeOperations": ["NodePrepareResources"],
            "bindingConditions": ["d.io/ready"]}))),
        [
            format!("{at}.shareID: Invalid value: \"A\": must be a lowercase UUID in 8-4-4-4-12 format"),
            format!("{at}.bindingFailureConditions: Invalid value: []: bindingFailureConditions are required to use bindingConditions"),
            format!("{at}.tolerations[0].operator: Unsupported value: \"X\": supported values: \"Equal\", \"Exists\""),
            format!(
                "{at}.skipNodeOperations: Invalid value: [\"NodePrepareResources\"]: NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped"
            ),
        ]
    );
    let device = |data: Value| {
        let mut status = result(json!({}));
        status["devices"] = json!([{"driver": "d.io", "pool": "p", "device": "g", "networkData": data}]);
        status
    };
    let at = "status.devices[0]";
    assert_eq!(told(device(json!({"interfaceName": "eth0", "ips": ["10.9.8.7/24", "2001:db8::1/64"], "hardwareAddress": "x"}))), none);
    let form = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
    let canonical = |address: &str| format!("must be in canonical form ({address:?})");
    assert_eq!(
        told(device(json!({"interfaceName": "x".repeat(257), "hardwareAddress": "x".repeat(129),
            "ips": ["10.0.0.1", "10.0.0.1/33", "2001:DB8::1/64", "::ffff:10.0.0.1/120", "10.0.0.1/8", "10.0.0.1/8"]}))),
        [
            format!("{at}.networkData.interfaceName: Too long: may not be more than 256 bytes"),
            format!("{at}.networkData.hardwareAddress: Too long: may not be more than 128 bytes"),
            format!("{at}.networkData.ips[0]: Invalid value: \"10.0.0.1\": {form}"),
            format!("{at}.networkData.ips[1]: Invalid value: \"10.0.0.1/33\": {form}"),
            format!("{at}.networkData.ips[2]: Invalid value: \"2001:DB8::1/64\": {}", canonical("2001:db8::1/64")),
            format!("{at}.networkData.ips[3]: Invalid value: \"::ffff:10.0.0.1/120\": {}", canonical("10.0.0.1/24")),
            format!("{at}.networkData.ips[5]: Duplicate value: \"10.0.0.1/8\""),
        ]
    );
    let mut twice = device(json!({}));
    let one = twice["devices"][0].clone();
    twice["devices"] = json!([one, one]);
    twice["devices"][0]["conditions"] = (0..9)
        .map(|n| json!({"type": format!("T{n}"), "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}))
        .collect();
    assert_eq!(
        told(twice),
        ["status.devices[0].conditions: Too many: 9: must have at most 8 items", "status.devices[1]: Duplicate value: \"d.io/p/g\""]
    );
}

#[test]
fn amounts_that_may_not_be_negative() {
    let scaler = named(
        "a",
        json!({"metadata": {"namespace": "n"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "X", "name": "x"},
        "behavior": {"scaleUp": {"tolerance": "0.05", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1}]}}}}),
    );
    let kind_of = |resource: &str, version: &str, group: &str| Kinds::builtin().resource(group, version, resource).expect("a kind");
    let scalers = kind_of("horizontalpodautoscalers", "v2", "autoscaling");
    let told = |object: &Object| -> Vec<String> { scalers.validate(object).iter().map(ToString::to_string).collect() };
    assert_eq!(told(&scaler), [""; 0]);
    assert_eq!(
        told(&set(&scaler, "/spec/behavior/scaleUp/tolerance", &"-1m".into())),
        ["spec.behavior.scaleUp.tolerance: Invalid value: \"-1m\": must be greater than or equal to 0"]
    );
    let claim = named("c", json!({"metadata": {"namespace": "n"}, "spec": {}}));
    let status = set(&claim, "/status", &json!({"capacity": {"storage": "-1Gi"}, "allocatedResources": {"storage": "-1"}}));
    let told: Vec<String> =
        kind("persistentvolumeclaims").validate_update(&status, &claim, "status").iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "status.capacity[storage]: Invalid value: -1073741824: must be a valid resource quantity",
            "status.allocatedResources[storage]: Invalid value: -1: must be a valid resource quantity",
        ]
    );
}

#[test]
fn a_capacity_in_a_selector_is_a_quantity() {
    let class = named("c", json!({"spec": {"selectors": [{"cel": {"expression": "true"}}]}}));
    let kind = kind("deviceclasses.resource.k8s.io");
    let told = |expression: &str| -> Vec<String> {
        let class = set(&class, "/spec/selectors/0/cel/expression", &expression.into());
        kind.validate(&class).iter().map(ToString::to_string).collect()
    };
    for good in [
        "device.capacity['d.io'].memory.compareTo(quantity('10Gi')) >= 0",
        "device.capacity['d.io'].memory == quantity('10Gi')",
        "device.capacity['d.io'].cores.isInteger() && device.capacity['d.io'].cores.asInteger() > 4",
        "device.capacity['d.io'].memory.sub(quantity('1Gi')).add(5).isGreaterThan(quantity('1'))",
        "device.attributes['d.io'].version.isLessThan(semver('1.2.3')) && semver('1.0.0').major() == 1",
        "device.attributes['d.io'].size.isGreaterThan(quantity('0'))",
    ] {
        assert_eq!(told(good), [""; 0], "{good}");
    }
    for (wrong, why) in [
        ("device.capacity['d.io'].memory > 1", "found no matching overload for '_>_' applied to '(kubernetes.Quantity, int)'"),
        (
            "device.capacity['d.io'].memory > quantity('1')",
            "found no matching overload for '_>_' applied to '(kubernetes.Quantity, kubernetes.Quantity)'",
        ),
        ("device.capacity['d.io'].memory == '1'", "found no matching overload for '_==_' applied to '(kubernetes.Quantity, string)'"),
        (
            "device.capacity['d.io'].memory.compareTo(semver('1.0.0')) > 0",
            "found no matching overload for 'compareTo' applied to 'kubernetes.Quantity.(kubernetes.Semver)'",
        ),
        ("device.capacity['d.io'].memory.major() == 1", "found no matching overload for 'major' applied to 'kubernetes.Quantity.()'"),
        ("semver('1.0.0').add(1) == 1", "found no matching overload for 'add' applied to 'kubernetes.Semver.(int)'"),
        ("device.driver.isInteger()", "found no matching overload for 'isInteger' applied to 'string.()'"),
        (
            "device.capacity['d.io'].memory + device.capacity['d.io'].memory == quantity('2')",
            "found no matching overload for '_+_' applied to '(kubernetes.Quantity, kubernetes.Quantity)'",
        ),
    ] {
        let told = told(wrong);
        assert!(told.len() == 1 && told[0].contains(why), "{wrong}: {told:?}");
    }
    let told = told("device.capacity['d.io'].memory");
    assert!(told[0].ends_with(": must evaluate to bool or the unknown type, not kubernetes.Quantity"), "{told:?}");
}
