//! What upstream says of signing requests, trust bundles, priority and fairness, and events, word for word.

use super::groups::{REQUEST, named};
use super::registration::kind_faults;
use super::words::{says, set};
use super::*;

fn label(text: &str) -> &'static str {
    assert!(!crate::names::dns1123_label(text).is_empty());
    "a lowercase RFC 1123 label must consist of"
}

/// The faults of a write through a subresource, or of an update.
fn part_faults(resource: &str, new: &Object, old: &Object, part: &str) -> Vec<String> {
    let kind = kind(resource);
    let mut new = new.clone();
    kind.prepare_update(&mut new, old, part);
    kind.validate_update(&new, old, part).iter().map(ToString::to_string).collect()
}

#[track_caller]
fn begins(told: &[String], expected: &[&str]) {
    let fits = told.len() == expected.len() && told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected));
    assert!(fits, "{told:#?}\nshould begin with\n{expected:#?}");
}

const CSR: &str = "certificatesigningrequests.certificates.k8s.io";

fn signing_request() -> Object {
    named("a", json!({"spec": {"request": REQUEST, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}}))
}

#[test]
fn what_a_signing_request_is_refused_for() {
    let block = "PEM block type must be CERTIFICATE REQUEST";
    let form = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    let two = "should be a domain with at least two segments separated by dots";
    let good = signing_request();
    says(
        CSR,
        &good,
        &[
            ("/spec/request", json!("eA=="), &[&format!("spec.request: Invalid value: \"eA==\": {block}")]),
            ("/spec/usages", json!([]), &["spec.usages: Required value"]),
            ("/spec/usages", json!(["client auth", "client auth"]), &["spec.usages[1]: Duplicate value: \"client auth\""]),
            (
                "/spec/expirationSeconds",
                json!(599),
                &["spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"],
            ),
            ("/spec/signerName", json!(null), &["spec.signerName: Required value"]),
            ("/spec/signerName", json!("a.io/b/c"), &[&format!("spec.signerName: Invalid value: \"a.io/b/c\": {form}")]),
            ("/spec/signerName", json!("a/b"), &[&format!("spec.signerName: Invalid value: \"a\": {two}")]),
            (
                "/spec/signerName",
                json!("kubernetes.io/legacy-unknown"),
                &[
                    "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
                ],
            ),
        ],
    );
    begins(
        &kind_faults(CSR, &set(&good, "/spec/signerName", &json!("A.io/B"))),
        &[
            &format!("spec.signerName: Invalid value: \"A.io\": validating label \"A\": {}", label("A")),
            "spec.signerName: Invalid value: \"B\": validating label \"B\": a lowercase RFC 1123 subdomain must",
        ],
    );
}

#[test]
fn what_deciding_and_signing_a_request_is_refused_for() {
    let request = signing_request();
    let of = |status: Value| set(&request, "/status", &status);
    let is = |ty: &str| json!({"type": ty, "status": "True"});
    let approved = of(json!({"conditions": [is("Approved")]}));
    let told = |part: &str, new: Value, old: &Object| part_faults(CSR, &of(new), old, part);
    let none: [&str; 0] = [];
    assert_eq!(told("approval", json!({"conditions": [is("Approved")]}), &request), none);
    assert_eq!(
        told("approval", json!({"conditions": [is("Approved"), is("Denied")]}), &request),
        ["status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"]
    );
    assert_eq!(
        told("approval", json!({"conditions": [is("Approved"), is("Approved")]}), &request),
        ["status.conditions[1].type: Duplicate value: \"Approved\""]
    );
    assert_eq!(
        told("status", json!({"conditions": [{"type": "Failed", "status": "False"}]}), &request),
        ["status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\""]
    );
    let mut other = is("Approved");
    other["reason"] = "Other".into();
    assert_eq!(
        told("status", json!({"conditions": [other]}), &approved),
        ["status.conditions: Forbidden: updates may not modify a condition of type \"Approved\""]
    );
    let mut same = is("Approved");
    same["message"] = "".into();
    assert_eq!(told("status", json!({"conditions": [same]}), &approved), none);
    let pem = |label: &str| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(format!("-----BEGIN {label}-----\nMA==\n-----END {label}-----\n"))
    };
    let signed = |certificate: &str| json!({"conditions": [is("Approved")], "certificate": certificate});
    assert_eq!(told("status", signed(&pem("CERTIFICATE")), &approved), none);
    let invalid = "status.certificate: Invalid value: \"<certificate data>\"";
    assert_eq!(told("status", signed("eA=="), &approved), [format!("{invalid}: must contain at least one CERTIFICATE PEM block")]);
    assert_eq!(told("status", signed(&pem("X")), &approved), [format!("{invalid}: only CERTIFICATE PEM blocks are allowed, found \"X\"")]);
    assert_eq!(
        told("status", json!({"conditions": [is("Approved")]}), &of(signed(&pem("CERTIFICATE")))),
        ["status.certificate: Forbidden: updates may not modify existing certificate content"]
    );
}

#[test]
fn what_a_storage_version_migration_is_refused_for() {
    let resource = "storageversionmigrations.storagemigration.k8s.io";
    let good = named("m", json!({"spec": {"resource": {"group": "g.io", "resource": "toys"}}}));
    says(
        resource,
        &good,
        &[
            ("/spec/resource/group", json!(""), &[]),
            ("/spec/resource/resource", json!(""), &["spec.resource.resource: Required value: resource is required"]),
        ],
    );
    let other = set(&good, "/spec/resource/resource", &json!("cats"));
    assert_eq!(part_faults(resource, &other, &good, ""), ["spec.resource.resource: Invalid value: \"cats\": field is immutable"]);
    let of = |status: Value| set(&good, "/status", &status);
    let is = |ty: &str, status: &str| json!({"type": ty, "status": status, "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let told = |new: Value, old: &Object| part_faults(resource, &of(new), old, "status");
    let at = "status.resourceVersion: Invalid value:";
    let none: [&str; 0] = [];
    let seven = of(json!({"resourceVersion": "7"}));
    assert_eq!(told(json!({"resourceVersion": "7", "conditions": [is("Running", "True")]}), &good), none);
    assert_eq!(told(json!({"resourceVersion": "-1"}), &good), [format!("{at} \"-1\": must be greater than or equal to 0")]);
    begins(&told(json!({"resourceVersion": "x"}), &good), &[&format!("{at} \"x\": failed to parse resource version \"x\"")]);
    assert_eq!(told(json!({"resourceVersion": "8"}), &seven), [format!("{at} \"8\": cannot be updated")]);
    let faulty = |conditions: Value, old: &Object, whys: &[&str]| {
        let told = told(json!({"conditions": conditions}), old);
        let fits = told.len() == whys.len() && told.iter().zip(whys).all(|(told, why)| told.ends_with(why));
        assert!(fits && told.iter().all(|told| told.starts_with("status.conditions: Invalid value")), "{told:#?}");
    };
    let (succeeded, failed) = (is("Succeeded", "True"), is("Failed", "True"));
    let both = "Both success and failed conditions cannot be true at the same time";
    faulty(json!([succeeded, failed]), &good, &[both]);
    let running = |what: &str| format!("Running condition cannot be true when {what} condition is true");
    faulty(json!([succeeded, is("Running", "True")]), &good, &[&running("success")]);
    faulty(json!([failed, is("Running", "True")]), &good, &[&running("failed")]);
    let back = "condition cannot be set to false once it is true";
    faulty(json!([is("Succeeded", "False")]), &of(json!({"conditions": [succeeded]})), &[back]);
    faulty(json!([]), &of(json!({"conditions": [failed]})), &[back]);
    begins(
        &told(json!({"conditions": [{"type": "Running", "status": "Maybe"}]}), &good),
        &[
            "status.conditions[0].status: Unsupported value",
            "status.conditions[0].lastTransitionTime: Required value",
            "status.conditions[0].reason: Required value",
        ],
    );
}

#[test]
fn what_a_trust_bundle_is_refused_for() {
    let block = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
    let good = named("b", json!({"spec": {"trustBundle": block("CERTIFICATE", "MA==")}}));
    let at = "spec.trustBundle: Invalid value: \"<value omitted>\"";
    let twice = format!("{}{}", block("CERTIFICATE", "MA=="), block("CERTIFICATE", "MA=="));
    says(
        "clustertrustbundles.certificates.k8s.io",
        &good,
        &[
            ("/spec/trustBundle", json!("x"), &[&format!("{at}: at least one trust anchor must be provided")]),
            ("/spec/trustBundle", json!(block("PRIVATE KEY", "MA==")), &[&format!("{at}: entry 0 has bad block type: PRIVATE KEY")]),
            ("/spec/trustBundle", json!(block("CERTIFICATE", "A: b\n\nMA==")), &[&format!("{at}: entry 0 has PEM block headers")]),
            // Of beginnings without an end nothing is a block, however many they are; an end belongs to the last one.
            (
                "/spec/trustBundle",
                json!("-----BEGIN A-----".repeat(60_000)),
                &[&format!("{at}: at least one trust anchor must be provided")],
            ),
            ("/spec/trustBundle", json!(format!("-----BEGIN A-----\n{}", block("CERTIFICATE", "MA=="))), &[]),
            ("/spec/trustBundle", json!(twice), &[&format!("{at}: duplicate trust anchor (indices [0 1])")]),
            ("/spec/trustBundle", json!("x".repeat((1 << 20) + 1)), &["spec.trustBundle: Too long: may not be more than 1048576 bytes"]),
        ],
    );
}

#[test]
fn what_a_pods_request_is_refused_for() {
    let resource = "podcertificaterequests.certificates.k8s.io";
    let good = named(
        "r",
        json!({"metadata": {"namespace": "n"}, "spec": {"signerName": "a.io/s", "podName": "p", "podUID": "1", "serviceAccountName": "s",
            "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3", "maxExpirationSeconds": 86_400, "stubPKCS10Request": "MA=="}}),
    );
    let seconds = "/spec/maxExpirationSeconds";
    says(
        resource,
        &good,
        &[
            (seconds, json!(7_862_400), &[]),
            (seconds, json!(7_862_401), &["spec.maxExpirationSeconds: Invalid value: 7862401: must be in the range [3600, 7862400]"]),
            // A day is the default.
            (seconds, json!(null), &[]),
            ("/spec/podUID", json!(""), &["spec.podUID: Invalid value: \"\": must not be empty"]),
            ("/spec/nodeUID", json!("x".repeat(129)), &["spec.nodeUID: Too long: may not be more than 128 bytes"]),
        ],
    );
    let own = set(&set(&good, "/spec/signerName", &json!("kubernetes.io/s")), seconds, &json!(86_401));
    assert_eq!(kind_faults(resource, &own), ["spec.maxExpirationSeconds: Invalid value: 86401: must be in the range [3600, 86400]"]);
    begins(&part_faults(resource, &set(&good, "/spec/podName", &json!("q")), &good, ""), &["spec: Invalid value: {"]);
    let of = |status: Value| set(&good, "/status", &status);
    let is = |ty: &str| json!({"type": ty, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let denied = of(json!({"conditions": [is("Denied")]}));
    let none: [&str; 0] = [];
    assert_eq!(part_faults(resource, &denied, &good, "status"), none);
    for (new, old, expected) in [
        (
            json!({"conditions": [is("Ready")]}),
            &good,
            "status.conditions.[0].type: Unsupported value: \"Ready\": supported values: \"Issued\", \"Denied\", \"Failed\"",
        ),
        (
            json!({"conditions": [is("Denied"), is("Failed")]}),
            &good,
            "status.conditions.[1].type: Invalid value: \"Failed\": There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"",
        ),
        (
            json!({"conditions": [is("Denied")], "certificateChain": "x"}),
            &good,
            "status: Invalid value: non-condition status fields must be empty when denying or failing the PodCertificateRequest",
        ),
        (
            json!({"certificateChain": "x"}),
            &good,
            "status: Invalid value: status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"",
        ),
        (json!({}), &denied, "status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"),
    ] {
        assert_eq!(part_faults(resource, &of(new), old, "status"), [expected]);
    }
}

#[test]
fn what_a_flow_schema_is_refused_for() {
    let resource = "flowschemas.flowcontrol.apiserver.k8s.io";
    let rule = json!({"subjects": [{"kind": "Group", "group": {"name": "g"}}],
        "resourceRules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/x"]}]});
    let good = named("a", json!({"spec": {"priorityLevelConfiguration": {"name": "p"}, "rules": [rule]}}));
    let subject = "/spec/rules/0/subjects/0";
    let (resources, paths) = ("/spec/rules/0/resourceRules/0", "/spec/rules/0/nonResourceRules/0/nonResourceURLs");
    let at = "spec.rules[0]";
    let path = |path: &str, why: &str| format!("{at}.nonResourceRules[0].nonResourceURLs[0]: Invalid value: {path:?}: {why}");
    says(
        resource,
        &good,
        &[
            ("/spec/matchingPrecedence", json!(-1), &["spec.matchingPrecedence: Invalid value: -1: must be a positive value"]),
            (
                "/spec/matchingPrecedence",
                json!(1),
                &["spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1"],
            ),
            ("/spec/matchingPrecedence", json!(10_001), &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"]),
            (
                "/spec/priorityLevelConfiguration",
                json!({}),
                &["spec.priorityLevelConfiguration.name: Required value: must reference a priority level"],
            ),
            ("/spec/rules/0/subjects", json!([]), &[&format!("{at}.subjects: Required value: subjects must contain at least one value")]),
            (
                subject,
                json!({"kind": "X", "user": {}}),
                &[&format!("{at}.subjects[0].kind: Unsupported value: \"X\": supported values: \"Group\", \"ServiceAccount\", \"User\"")],
            ),
            (
                subject,
                json!({"kind": "User", "group": {"name": "g"}}),
                &[
                    &format!("{at}.subjects[0].user: Required value: user is required when subject kind is 'User'"),
                    &format!("{at}.subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'"),
                ],
            ),
            (
                subject,
                json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}),
                &[&format!("{at}.subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account")],
            ),
            (
                &format!("{resources}/verbs"),
                json!(["get", "x"]),
                &[&format!(
                    "{at}.resourceRules[0].verbs: Unsupported value: [\"get\",\"x\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\""
                )],
            ),
            (
                &format!("{resources}/verbs"),
                json!(["*", "x"]),
                &[&format!("{at}.resourceRules[0].verbs: Invalid value: [\"*\",\"x\"]: if '*' is present, must not specify other verbs")],
            ),
            (
                &format!("{resources}/apiGroups"),
                json!(["*", "x"]),
                &[&format!(
                    "{at}.resourceRules[0].apiGroups: Invalid value: [\"*\",\"x\"]: if '*' is present, must not specify other api groups"
                )],
            ),
            (
                &format!("{resources}/resources"),
                json!([]),
                &[&format!("{at}.resourceRules[0].resources: Required value: resource rules must supply at least one resource")],
            ),
            (
                &format!("{resources}/namespaces"),
                json!([]),
                &[&format!(
                    "{at}.resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace"
                )],
            ),
            (
                &format!("{resources}/namespaces"),
                json!(["*", "x"]),
                &[&format!(
                    "{at}.resourceRules[0].namespaces: Invalid value: [\"*\",\"x\"]: if '*' is present, must not specify other namespaces"
                )],
            ),
            (paths, json!(["/a/*"]), &[]),
            (
                paths,
                json!(["*", "/a"]),
                &[&format!(
                    "{at}.nonResourceRules[0].nonResourceURLs: Invalid value: [\"*\",\"/a\"]: if '*' is present, must not specify other non-resource URLs"
                )],
            ),
            (paths, json!(["a"]), &[&path("a", "must start with slash")]),
            (paths, json!(["/a b"]), &[&path("/a b", "must not contain white-space")]),
            (paths, json!(["/a//b"]), &[&path("/a//b", "must not contain double slash")]),
            (paths, json!(["/a*"]), &[&path("/a*", "wildcard can only do suffix matching")]),
        ],
    );
    begins(&kind_faults(resource, &set(&good, "/metadata/name", &json!("catch-all"))), &["spec: Invalid value: {"]);
    begins(
        &part_faults(resource, &set(&good, "/status", &json!({"conditions": [{}]})), &good, "status"),
        &["status.conditions[0].type: Required value: must not be empty"],
    );
}

#[test]
fn what_a_priority_level_is_refused_for() {
    let resource = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";
    let good = named("p", json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}}));
    let at = "spec.limited";
    let response = "/spec/limited/limitResponse";
    let queuing = |key: &str, value: i64| {
        let mut queuing = json!({"queues": 8, "handSize": 2, "queueLengthLimit": 5});
        queuing[key] = value.into();
        json!({"type": "Queue", "queuing": queuing})
    };
    let queue = |key: &str, why: &str| format!("{at}.limitResponse.queuing.{key}: Invalid value: {why}");
    says(
        resource,
        &good,
        &[
            ("/spec/type", json!("X"), &["spec.type: Unsupported value: \"X\": supported values: \"Exempt\", \"Limited\""]),
            ("/spec/limited", json!(null), &["spec.limited: Required value: must not be empty when type is Limited"]),
            ("/spec/exempt", json!({}), &["spec.exempt: Forbidden: must be nil if the type is Limited"]),
            (
                "/spec/limited/nominalConcurrencyShares",
                json!(-1),
                &[&format!("{at}.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer")],
            ),
            (
                "/spec/limited/lendablePercent",
                json!(101),
                &[&format!("{at}.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive")],
            ),
            (
                "/spec/limited/borrowingLimitPercent",
                json!(-1),
                &[&format!("{at}.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer")],
            ),
            (response, json!({}), &[&format!("{at}.limitResponse.type: Unsupported value: \"\": supported values: \"Queue\", \"Reject\"")]),
            (
                response,
                json!({"type": "Reject", "queuing": {}}),
                &[&format!("{at}.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited")],
            ),
            (
                response,
                json!({"type": "Queue"}),
                &[&format!("{at}.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited")],
            ),
            (response, queuing("queueLengthLimit", -1), &[&queue("queueLengthLimit", "-1: must be positive")]),
            (response, queuing("queues", 10_000_001), &[&queue("queues", "10000001: must not be greater than 10000000")]),
            (response, queuing("handSize", -1), &[&queue("handSize", "-1: must be positive")]),
            (response, queuing("handSize", 100), &[&queue("handSize", "100: should not be greater than queues (8)")]),
        ],
    );
    let wrong = "type must be 'Exempt' if and only if name is 'exempt'";
    let exempt = |name: &str, more: Value| named(name, json!({"spec": {"type": "Exempt", "exempt": more}}));
    assert_eq!(kind_faults(resource, &exempt("exempt", json!({"nominalConcurrencyShares": 5}))), Vec::<String>::new());
    assert_eq!(kind_faults(resource, &exempt("p", json!({}))), [format!("spec.type: Invalid value: \"Exempt\": {wrong}")]);
    begins(&kind_faults(resource, &set(&good, "/metadata/name", &json!("catch-all"))), &["spec: Invalid value: {"]);
}

#[test]
fn what_an_event_is_refused_for() {
    let agree = "does not match event.namespace";
    let involved = |value: &str| format!("involvedObject.namespace: Invalid value: {value:?}: {agree}");
    let event = |namespace: &str, more: Value| {
        let mut event = named("e", json!({"metadata": {"namespace": namespace}, "involvedObject": {}}));
        more.as_object().unwrap().iter().for_each(|(key, value)| event.set(&[key], value.clone()));
        event
    };
    let newer = |more: Value| {
        let mut all = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "reportingComponent": "x.io/c", "reportingInstance": "i", "action": "A",
            "reason": "R"});
        more.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
        all
    };
    for (object, expected) in [
        (event("default", json!({})), vec![]),
        (event("kube-system", json!({})), vec![involved("")]),
        (event("a", json!({"involvedObject": {"namespace": "b"}})), vec![involved("b")]),
        (event("kube-system", newer(json!({}))), vec![]),
        (event("a", newer(json!({}))), vec![involved("")]),
        (event("a", newer(json!({"involvedObject": {"namespace": "b"}}))), vec![]),
        (
            event("default", newer(json!({"reportingInstance": "x".repeat(129)}))),
            vec!["reportingInstance: Invalid value: \"\": can have at most 128 characters".to_owned()],
        ),
        (
            event("default", newer(json!({"message": "x".repeat(1025)}))),
            vec!["message: Invalid value: \"\": can have at most 1024 characters".to_owned()],
        ),
    ] {
        assert_eq!(kind_faults("events", &object), expected, "{:?}", object.0);
    }
    begins(
        &kind_faults("events", &event("default", json!({"eventTime": "2026-01-01T00:00:00.000000Z"}))),
        &[
            "reportingComponent: Required value",
            "reportingComponent: Invalid value: \"\": name part must be non-empty",
            "reportingComponent: Invalid value: \"\": name part must consist",
            "reportingInstance: Required value",
            "action: Required value",
            "reason: Required value",
        ],
    );
}

#[test]
fn what_an_event_of_the_newer_group_is_refused_for() {
    let resource = "events.events.k8s.io";
    let good = named(
        "e",
        json!({"metadata": {"namespace": "b"}, "regarding": {"name": "p", "namespace": "b"}, "reason": "R", "action": "A",
        "type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "x.io/c", "reportingInstance": "i"}),
    );
    says(
        resource,
        &good,
        &[
            ("/type", json!("X"), &["type: Invalid value: \"\": has invalid value: X"]),
            (
                "/series",
                json!({"count": 1}),
                &["series.count: Invalid value: \"\": should be at least 2", "series.lastObservedTime: Required value"],
            ),
            (
                "/reportingController",
                json!("-"),
                &[&format!("reportingController: Invalid value: \"-\": {}", crate::names::qualified_name("-")[0])],
            ),
            ("/deprecatedCount", json!(1), &["count: Invalid value: \"\": needs to be unset"]),
            ("/deprecatedSource", json!({"component": "c"}), &["source: Invalid value: \"\": needs to be unset"]),
            ("/deprecatedFirstTimestamp", json!("2026-01-01T00:00:00Z"), &["firstTimestamp: Invalid value: \"\": needs to be unset"]),
            ("/note", json!("x".repeat(1025)), &["message: Invalid value: \"\": can have at most 1024 characters"]),
        ],
    );
    change(resource, good.clone(), set(&good, "/note", &json!("n")), &["message: Invalid value: \"n\": field is immutable"]);
    change(resource, good.clone(), set(&good, "/regarding/name", &json!("q")), &["involvedObject: Invalid value: {"]);
    change(resource, good.clone(), set(&good, "/deprecatedCount", &json!(2)), &["count: Invalid value: 2: field is immutable"]);
    let zeros = [("/deprecatedSource", json!({})), ("/deprecatedCount", json!(0)), ("/note", json!(""))];
    for (at, zero) in zeros {
        change(resource, good.clone(), set(&good, at, &zero), &[]);
        change(resource, set(&good, at, &zero), good.clone(), &[]);
    }
}

#[test]
fn a_kubelet_tells_of_users_and_devices_that_can_be() {
    let pod = |os: Value, status: Value| {
        let resources = json!({"requests": {"example.com/gpu": "1"}, "claims": [{"name": "net"}, {"name": "disk", "request": "fast"}]});
        let containers = json!([{"name": "c", "image": "i", "resources": resources}]);
        Object::from_value(json!({
            "metadata": {"name": "p", "namespace": "a"}, "spec": {"containers": containers, "os": os}, "status": status}))
        .expect("an object")
    };
    let told = |os: Value, list: &str, status: Value| {
        let mut status = status;
        status["name"] = "c".into();
        part_faults("pods", &pod(os.clone(), json!({list: [status]})), &pod(os, json!({})), "status")
    };
    let linux = json!({"user": {"linux": {"uid": -1, "gid": 0, "supplementalGroups": [1, 2_147_483_648_i64]}}});
    let range = "must be between 0 and 2147483647, inclusive";
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        let at = format!("status.{list}[0].user.linux");
        let expected =
            [format!("{at}.uid: Invalid value: -1: {range}"), format!("{at}.supplementalGroups[1]: Invalid value: 2147483648: {range}")];
        assert_eq!(told(Value::Null, list, linux.clone()), expected);
    }
    let windows = told(json!({"name": "windows"}), "containerStatuses", linux);
    assert_eq!(windows, ["status.containerStatuses[0].user.linux: Forbidden: cannot be set for a windows pod"]);
    let devices = |name: &str, resources: Value| {
        told(Value::Null, "containerStatuses", json!({"allocatedResourcesStatus": [{"name": name, "resources": resources}]}))
    };
    let fine = json!([{"resourceID": "a", "health": "Healthy"}, {"resourceID": "b", "health": "Unknown"}]);
    for name in ["example.com/gpu", "claim:net", "claim:disk/fast"] {
        assert_eq!(devices(name, fine.clone()), [""; 0], "{name}");
    }
    let at = "status.containerStatuses[0].allocatedResourcesStatus[0]";
    for (name, why) in [
        ("cpu", "must match one of the container's resource requests"),
        ("claim:disk", "must match one of the container's resource claims in a format"),
        ("claim:net/fast", "must match one of the container's resource claims in a format"),
    ] {
        begins(&devices(name, fine.clone()), &[&format!("{at}.name: Invalid value: \"{name}\": {why}")]);
    }
    let twice = json!([{"resourceID": "a", "health": "Healthy"}, {"resourceID": "a", "health": "Sick"}]);
    let expected = [
        format!("{at}.resources[1].health: Unsupported value: \"Sick\": supported values: \"Healthy\", \"Unhealthy\", \"Unknown\""),
        format!("{at}.resources[1].resourceID: Duplicate value: \"a\""),
    ];
    assert_eq!(devices("example.com/gpu", twice), expected);
}
