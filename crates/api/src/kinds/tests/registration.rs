//! What upstream says of what takes part in the API from outside, word for word: webhooks, policies, API services, definitions.

use super::groups::named;
use super::words::{says, set};
use super::*;

const RULE: &str = r#"{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}"#;

fn rule() -> Value {
    serde_json::from_str(RULE).unwrap()
}

fn label(text: &str) -> String {
    crate::names::dns1035_label(text).join(",")
}

#[test]
fn what_a_webhook_is_refused_for() {
    let good = named(
        "a",
        json!({"webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": [rule()],
            "clientConfig": {"url": "https://a.example"}}]}),
    );
    let none: &[&str] = &[];
    let resources = "/webhooks/0/rules/0/resources";
    for resource in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
        says(
            &format!("{resource}.admissionregistration.k8s.io"),
            &good,
            &[
                (
                    "/webhooks/0/name",
                    json!("a.b"),
                    &["webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"],
                ),
                ("/webhooks/0/name", json!(""), &["webhooks[0].name: Required value"]),
                (
                    "/webhooks/0/sideEffects",
                    json!(null),
                    &["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"],
                ),
                (
                    "/webhooks/0/timeoutSeconds",
                    json!(31),
                    &["webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"],
                ),
                (
                    "/webhooks/0/admissionReviewVersions",
                    json!([]),
                    &["webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1"],
                ),
                (
                    "/webhooks/0/admissionReviewVersions",
                    json!(["v1", "v1", "V"]),
                    &[
                        "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version",
                        &format!("webhooks[0].admissionReviewVersions[2]: Invalid value: \"V\": {}", label("V")),
                    ],
                ),
                (
                    "/webhooks/0/admissionReviewVersions",
                    json!(["v9"]),
                    &["webhooks[0].admissionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1"],
                ),
                (
                    "/webhooks/0/rules/0/operations",
                    json!(["*", "PATCH"]),
                    &[
                        "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"PATCH\"]: if '*' is present, must not specify other operations",
                        "webhooks[0].rules[0].operations[1]: Unsupported value: \"PATCH\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
                    ],
                ),
                (
                    "/webhooks/0/rules/0/apiGroups",
                    json!(["*", "a"]),
                    &["webhooks[0].rules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API groups"],
                ),
                (
                    "/webhooks/0/rules/0/apiVersions",
                    json!(["*", "v1"]),
                    &[
                        "webhooks[0].rules[0].apiVersions: Invalid value: [\"*\",\"v1\"]: if '*' is present, must not specify other API versions",
                    ],
                ),
                (resources, json!(["pods", "pods/*", "*/scale"]), none),
                (
                    resources,
                    json!(["pods/*", "pods/log"]),
                    &["webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log"],
                ),
                (
                    resources,
                    json!(["*/log", "pods/log"]),
                    &["webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if '*/log' is present, must not specify pods/log"],
                ),
                (
                    resources,
                    json!(["*/*", "pods"]),
                    &[
                        "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
                    ],
                ),
                (
                    resources,
                    json!(["*", "pods"]),
                    &[
                        "webhooks[0].rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
                    ],
                ),
                (resources, json!(["*", "pods/log"]), none),
                (resources, json!(["pods", "*"]), none),
                (
                    "/webhooks/0/matchConditions",
                    vec![json!({}); 65].into(),
                    &["webhooks[0].matchConditions: Too many: 65: must have at most 64 items"],
                ),
                (resources, json!(["pods", "*", "pods/log"]), none),
            ],
        );
    }
}

#[test]
fn what_a_validating_policy_is_refused_for() {
    let policies = "validatingadmissionpolicies.admissionregistration.k8s.io";
    let good = named("p", json!({"spec": {"matchConstraints": {"resourceRules": [rule()]}, "validations": [{"expression": "true"}]}}));
    let validation = |more: Value| {
        let mut one = json!({"expression": "true"});
        more.as_object().unwrap().iter().for_each(|(key, value)| one[key] = value.clone());
        json!([one])
    };
    let annotation = |key: &str, value: &str| json!([{"key": key, "valueExpression": value}]);
    let (kind, at) = ("/spec/paramKind", "spec.paramKind");
    says(
        policies,
        &good,
        &[
            ("/spec/matchConstraints", json!(null), &["spec.matchConstraints: Required value"]),
            (kind, json!({"apiVersion": "v1", "kind": "ConfigMap"}), &[]),
            (kind, json!({}), &[&format!("{at}.apiVersion: Required value"), &format!("{at}.kind: Required value")]),
            (
                kind,
                json!({"apiVersion": "a/b/c", "kind": "K"}),
                &[&format!("{at}.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c")],
            ),
            (
                kind,
                json!({"apiVersion": "a.io/", "kind": "K"}),
                &[&format!("{at}.apiVersion: Invalid value: \"a.io/\": version must be specified")],
            ),
            (
                kind,
                json!({"apiVersion": "a.io/1", "kind": "K_"}),
                &[
                    &format!("{at}.apiVersion: Invalid value: \"1\": {}", label("1")),
                    &format!("{at}.kind: Invalid value: \"K_\": may have mixed case, but should otherwise match: {}", label("k_")),
                ],
            ),
            (
                "/spec/matchConstraints/resourceRules/0/resourceNames",
                json!(["a", "a", "b/c"]),
                &[
                    "spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
                    "spec.matchConstraints.resourceRules[0].resourceNames[2]: Invalid value: \"b/c\": may not contain '/'",
                ],
            ),
            (
                "/spec/variables",
                json!([{}, {"name": "for", "expression": "1"}]),
                &[
                    "spec.variables[0].name: Required value: name is not specified",
                    "spec.variables[0].expression: Required value: expression is not specified",
                    "spec.variables[1].name: Invalid value: \"for\": must be a valid CEL identifier",
                ],
            ),
            ("/spec/validations", json!([{}]), &["spec.validations[0].expression: Required value: expression is not specified"]),
            (
                "/spec/validations",
                validation(json!({"message": " ", "messageExpression": " "})),
                &[
                    "spec.validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
                    "spec.validations[0].message: Invalid value: \" \": must be non-empty if specified",
                ],
            ),
            (
                "/spec/validations",
                validation(json!({"message": "a\nb"})),
                &["spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks"],
            ),
            (
                "/spec/validations",
                validation(json!({"reason": "Unauthorized"})),
                &[
                    "spec.validations[0].reason: Unsupported value: \"Unauthorized\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
                ],
            ),
            ("/spec/auditAnnotations", annotation("a", "'x'"), &[]),
            (
                "/spec/auditAnnotations",
                annotation("a", " "),
                &["spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not specified"],
            ),
            (
                "/spec/auditAnnotations",
                annotation("a", &"x".repeat(5121)),
                &["spec.auditAnnotations[0].valueExpression: Required value: must not exceed 5120 bytes in length"],
            ),
            (
                "/spec/auditAnnotations",
                annotation("", "'x'"),
                &[
                    "spec.auditAnnotations[0].key: Invalid value: \"p/\": name part must be non-empty",
                    &format!("spec.auditAnnotations[0].key: Invalid value: \"p/\": {}", crate::names::qualified_name("-")[0]),
                ],
            ),
        ],
    );
    let many: Vec<Value> = (0..21).map(|n| json!({"key": format!("k{n}"), "valueExpression": "'x'"})).collect();
    let told = kind_faults(policies, &set(&good, "/spec/auditAnnotations", &many.into()));
    assert!(told.len() == 1 && told[0].ends_with("must not have more than 20 auditAnnotations"), "{told:?}");
    assert_eq!(kind_faults(policies, &named("p", json!({})))[0], "spec.matchConstraints: Required value");
}

pub(super) fn kind_faults(resource: &str, object: &Object) -> Vec<String> {
    let (kind, mut object) = (kind(resource), object.clone());
    kind.default(&mut object);
    kind.validate(&object).iter().map(ToString::to_string).collect()
}

#[test]
fn what_a_mutating_policy_is_refused_for() {
    let patch = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}});
    let good =
        named("m", json!({"spec": {"reinvocationPolicy": "Never", "matchConstraints": {"resourceRules": [rule()]}, "mutations": [patch]}}));
    let at = "spec.mutations[0]";
    says(
        "mutatingadmissionpolicies.admissionregistration.k8s.io",
        &good,
        &[
            ("/spec/reinvocationPolicy", json!(null), &["spec.reinvocationPolicy: Required value"]),
            ("/spec/mutations", json!([]), &["spec.mutations: Required value: mutations must contain at least one item"]),
            ("/spec/mutations/0/patchType", json!(null), &[&format!("{at}.patchType: Required value")]),
            (
                "/spec/mutations/0/patchType",
                json!("X"),
                &[&format!("{at}.patchType: Unsupported value: \"X\": supported values: \"ApplyConfiguration\", \"JSONPatch\"")],
            ),
            (
                "/spec/mutations/0/patchType",
                json!("ApplyConfiguration"),
                &[
                    &format!("{at}.applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration"),
                    &format!(
                        "{at}.jsonPatch: Invalid value: \"{{jsonPatch}}\": must not be specified when patchType is ApplyConfiguration"
                    ),
                ],
            ),
            ("/spec/mutations/0/jsonPatch/expression", json!(" "), &[&format!("{at}.jsonPatch.expression: Required value")]),
            (
                "/spec/matchConstraints/resourceRules/0/operations",
                json!(["DELETE"]),
                &[
                    "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                ],
            ),
        ],
    );
    says(
        "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
        &named("b", json!({"spec": {"policyName": "p", "matchResources": {"resourceRules": [rule()]}}})),
        &[(
            "/spec/matchResources/resourceRules/0/operations",
            json!(["DELETE"]),
            &[
                "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ],
        )],
    );
}

#[test]
fn what_a_binding_is_refused_for() {
    let both = "name and selector are mutually exclusive";
    says(
        "validatingadmissionpolicybindings.admissionregistration.k8s.io",
        &named("b", json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}})),
        &[
            ("/spec/validationActions", json!([]), &["spec.validationActions: Required value: at least one validation action is required"]),
            (
                "/spec/paramRef",
                json!({"name": "a/b", "parameterNotFoundAction": "Deny"}),
                &["spec.paramRef.name: Invalid value: \"a/b\": may not contain '/'"],
            ),
            (
                "/spec/paramRef",
                json!({"name": "a", "selector": {}, "parameterNotFoundAction": "Deny"}),
                &[&format!("spec.paramRef.name: Forbidden: {both}"), &format!("spec.paramRef.selector: Forbidden: {both}")],
            ),
            (
                "/spec/paramRef",
                json!({"name": "a", "parameterNotFoundAction": "X"}),
                &["spec.paramRef.parameterNotFoundAction: Unsupported value: \"X\": supported values: \"Deny\", \"Allow\""],
            ),
        ],
    );
}

#[test]
fn the_status_of_a_policy_has_its_rules() {
    let kind = kind("validatingadmissionpolicies.admissionregistration.k8s.io");
    let policy = named("p", json!({"spec": {"matchConstraints": {"resourceRules": [rule()]}, "validations": [{"expression": "true"}]}}));
    let told = |status: Value| -> Vec<String> {
        let new = set(&policy, "/status", &status);
        kind.validate_update(&new, &policy, "status").iter().map(ToString::to_string).collect()
    };
    let good = json!({"type": "Ready", "status": "True", "reason": "Fine", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    assert_eq!(told(json!({"conditions": [good]})), Vec::<String>::new());
    assert_eq!(told(json!({"conditions": [good, good]})), ["status.conditions[1].type: Duplicate value: \"Ready\""]);
    let wrong = told(
        json!({"typeChecking": {"expressionWarnings": [{}]}, "conditions": [{"type": "Ready", "status": "Yes", "reason": "1", "observedGeneration": -1}]}),
    );
    let expected = [
        "status.typeChecking.expressionWarnings[0].warning: Required value",
        "status.typeChecking.expressionWarnings[0].fieldRef: Required value",
        "status.conditions[0].status: Unsupported value: \"Yes\": supported values: \"False\", \"True\", \"Unknown\"",
        "status.conditions[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
        "status.conditions[0].lastTransitionTime: Required value: must be set",
        "status.conditions[0].reason: Invalid value: \"1\": a condition reason must start with alphabetic character",
    ];
    assert!(wrong.len() == expected.len() && wrong.iter().zip(expected).all(|(told, expected)| told.starts_with(expected)), "{wrong:#?}");
}

#[test]
fn what_is_registered_is_changed_only_by_who_knows_its_version() {
    for resource in [
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    ] {
        assert!(!kind(&format!("{resource}.admissionregistration.k8s.io")).unconditional_update, "{resource}");
    }
}

#[test]
fn what_an_api_service_is_refused_for() {
    let good = named(
        "v1.x.io",
        json!({"spec": {"group": "x.io", "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 15,
        "service": {"namespace": "n", "name": "s"}, "insecureSkipTLSVerify": true}}),
    );
    let resource = "apiservices.apiregistration.k8s.io";
    says(
        resource,
        &good,
        &[
            (
                "/spec/groupPriorityMinimum",
                json!(0),
                &["spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000"],
            ),
            (
                "/spec/groupPriorityMinimum",
                json!(20_001),
                &["spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000"],
            ),
            ("/spec/versionPriority", json!(null), &["spec.versionPriority: Invalid value: 0: must be positive and less than 1000"]),
            ("/spec/caBundle", json!("eA=="), &["spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present"]),
            ("/spec/service", json!({}), &["spec.service.namespace: Required value", "spec.service.name: Required value"]),
            (
                "/spec/service",
                json!(null),
                &["spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify"],
            ),
        ],
    );
    let told = |name: &str, spec: Value| {
        let mut object = named(name, json!({"spec": {"groupPriorityMinimum": 1, "versionPriority": 1}}));
        spec.as_object().unwrap().iter().for_each(|(key, value)| object.set(&["spec", key], value.clone()));
        kind_faults(resource, &object)
    };
    assert_eq!(
        told("v2.", json!({"version": "v2"})),
        ["spec.group: Required value: only v1 may have an empty group and it better be legacy kube"]
    );
    assert_eq!(
        told("v1.", json!({"version": "v1", "caBundle": "eA=="})),
        ["spec.caBundle: Invalid value: \"1 bytes\": local APIServices may not have a caBundle"]
    );
    assert_eq!(told("1.a", json!({"version": "1", "group": "a"})), [format!("spec.version: Invalid value: \"1\": {}", label("1"))]);
    assert_eq!(
        told("a", json!({"version": "v1", "group": "a"})),
        ["metadata.name: Invalid value: \"a\": must be `spec.version+\".\"+spec.group`: \"v1.a\""]
    );
    let row = kind(resource);
    let new = set(&good, "/status", &json!({"conditions": [{"type": "Available", "status": "Yes"}]}));
    let told: Vec<String> = row.validate_update(&new, &good, "status").iter().map(ToString::to_string).collect();
    assert_eq!(told, ["status.conditions[0].status: Unsupported value: \"Yes\": supported values: \"True\", \"False\", \"Unknown\""]);
}

pub(super) fn definition() -> Object {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": {"type": "string"}}}}});
    named(
        "toys.example.com",
        json!({"spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "toys", "kind": "Toy"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
            "status": {"storedVersions": ["v1"]}}),
    )
}

pub(super) const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

#[test]
fn what_a_definition_is_refused_for() {
    let version = "/spec/versions/0";
    let at = |key: &str| format!("{version}/{key}");
    says(
        DEFINITIONS,
        &definition(),
        &[
            (
                "/spec/preserveUnknownFields",
                json!(true),
                &[
                    "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
                ],
            ),
            ("/spec/conversion", json!({}), &["spec.conversion.strategy: Required value"]),
            (
                "/spec/conversion",
                json!({"strategy": "None", "webhook": {"clientConfig": {}, "conversionReviewVersions": ["v1"]}}),
                &[
                    "spec.conversion.webhookClientConfig: Forbidden: should not be set when strategy is not set to Webhook",
                    "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
                ],
            ),
            (
                "/spec/conversion",
                json!({"strategy": "Webhook", "webhook": {"clientConfig": {}, "conversionReviewVersions": ["v1"]}}),
                &["spec.conversion.webhookClientConfig: Required value: exactly one of url or service is required"],
            ),
            ("/status/storedVersions", json!([]), &["status.storedVersions: Invalid value: []: must have at least one stored version"]),
            (
                "/status/storedVersions",
                json!(["v0"]),
                &[
                    "status.storedVersions: Invalid value: [\"v0\"]: must have the storage version v1",
                    "status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions",
                ],
            ),
            (
                &at("deprecationWarning"),
                json!("x"),
                &["spec.versions[0].deprecationWarning: Invalid value: \"x\": can only be set for deprecated versions"],
            ),
            (
                &at("subresources"),
                json!({"scale": {}}),
                &["spec.subresources.scale.specReplicasPath: Required value", "spec.subresources.scale.statusReplicasPath: Required value"],
            ),
            (
                &at("subresources"),
                json!({"scale": {"specReplicasPath": "spec.x", "statusReplicasPath": ".x", "labelSelectorPath": ".y"}}),
                &[
                    "spec.subresources.scale.specReplicasPath: Invalid value: \"spec.x\": must be a simple json path starting with .",
                    "spec.subresources.scale.statusReplicasPath: Invalid value: \".x\": should be a json path under .status",
                    "spec.subresources.scale.labelSelectorPath: Invalid value: \".y\": should be a json path under either .spec or .status",
                ],
            ),
            (&at("additionalPrinterColumns"), json!([{"name": "a", "type": "string", "jsonPath": ".status.conditions[-1:].type"}]), &[]),
            (
                &at("additionalPrinterColumns"),
                json!([{"name": "a", "type": "x", "format": "name", "jsonPath": "spec"}]),
                &[
                    "spec.additionalPrinterColumns[0].type: Invalid value: \"x\": must be one of boolean,date,integer,number,string",
                    "spec.additionalPrinterColumns[0].format: Invalid value: \"name\": must be one of byte,date,date-time,double,float,int32,int64,password",
                    "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"spec\": must be a simple json path starting with .",
                ],
            ),
            (
                &at("selectableFields"),
                json!([{"jsonPath": ".spec"}, {"jsonPath": ".spec.x"}, {"jsonPath": ".spec.x"}, {"jsonPath": ".metadata.name"}]),
                &[
                    "spec.selectableFields[0].jsonPath: Invalid value: \".spec\": must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.",
                    "spec.selectableFields[2].jsonPath: Duplicate value: \".spec.x\"",
                    "spec.selectableFields[3].jsonPath: Invalid value: \".metadata.name\": must not point to fields in metadata",
                ],
            ),
        ],
    );
    let mut deprecated = definition();
    deprecated.get_mut(&["spec", "versions"]).unwrap()[0]["deprecated"] = true.into();
    let long = "x".repeat(257);
    says(
        DEFINITIONS,
        &deprecated,
        &[
            (
                &at("deprecationWarning"),
                json!(""),
                &["spec.versions[0].deprecationWarning: Invalid value: \"\": must not be an empty string"],
            ),
            (
                &at("deprecationWarning"),
                json!(long),
                &[&format!("spec.versions[0].deprecationWarning: Invalid value: {long:?}: must be <= 256 characters long")],
            ),
            (
                &at("deprecationWarning"),
                json!("a\nb"),
                &[
                    "spec.versions[0].deprecationWarning: Invalid value: \"a\\nb\": must only contain printable UTF-8 characters; non-printable character found at index 1",
                ],
            ),
        ],
    );
}

#[test]
fn what_versions_have_in_common_is_told_of_the_definition() {
    let mut two = definition();
    let mut second = two.list(&["spec", "versions"])[0].clone();
    second["name"] = "v2".into();
    second["storage"] = false.into();
    two.get_mut(&["spec", "versions"]).unwrap().as_array_mut().unwrap().push(second);
    let property = "/schema/openAPIV3Schema/properties/spec/type";
    let mut both = two.clone().into_value();
    for version in ["0", "1"] {
        *both.pointer_mut(&format!("/spec/versions/{version}{property}")).unwrap() = json!("x");
    }
    let wrong = "properties[spec].type: Unsupported value: \"x\"";
    let told = kind_faults(DEFINITIONS, &Object::from_value(both).unwrap());
    assert!(told.len() == 1 && told[0].starts_with(&format!("spec.validation.openAPIV3Schema.{wrong}")), "{told:?}");
    let told = kind_faults(DEFINITIONS, &set(&two, &format!("/spec/versions/1{property}"), &json!("x")));
    assert!(told.len() == 1 && told[0].starts_with(&format!("spec.versions[1].schema.openAPIV3Schema.{wrong}")), "{told:?}");
}

#[test]
fn a_community_group_says_where_it_was_reviewed() {
    let of = |annotation: Option<&str>| {
        let mut made = definition();
        made.set(&["metadata", "name"], "toys.x.k8s.io".into());
        made.set(&["spec", "group"], "x.k8s.io".into());
        if let Some(text) = annotation {
            made.set(&["metadata", "annotations"], json!({"api-approved.kubernetes.io": text}));
        }
        made
    };
    let must = "protected groups must have approval annotation \"api-approved.kubernetes.io\"";
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let at = "metadata.annotations[api-approved.kubernetes.io]";
    for (annotation, expected) in [
        (Some("https://example.com/1"), vec![]),
        (Some("unapproved, a trial"), vec![]),
        (None, vec![format!("{at}: Required value: {must}, {see}")]),
        (
            Some("yes"),
            vec![format!("{at}: Invalid value: \"yes\": {must} with either a URL or a reason starting with \"unapproved\", {see}")],
        ),
    ] {
        assert_eq!(kind_faults(DEFINITIONS, &of(annotation)), expected, "{annotation:?}");
    }
    // Whoever changes something else need not mend it.
    let (old, new) = (of(None), set(&of(None), "/spec/names/shortNames", &json!(["t"])));
    change(DEFINITIONS, old, new, &[]);
}

#[test]
fn what_a_schema_is_refused_for() {
    let x = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/x";
    let root = "/spec/versions/0/schema/openAPIV3Schema";
    let top = "spec.validation.openAPIV3Schema";
    let at = format!("{top}.properties[spec].properties[x]");
    let list = |more: Value, items: Value| {
        let mut schema = json!({"type": "array", "items": items});
        more.as_object().unwrap().iter().for_each(|(key, value)| schema[key] = value.clone());
        schema
    };
    let keyed = |key: Value| {
        list(
            json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
            json!({"type": "object", "required": ["k"], "properties": {"k": key}}),
        )
    };
    says(
        DEFINITIONS,
        &definition(),
        &[
            (&format!("{root}/nullable"), json!(true), &[&format!("{top}.nullable: Forbidden: nullable cannot be true at the root")]),
            (
                &format!("{root}/properties/metadata"),
                json!({"type": "object", "description": "x"}),
                &[&format!(
                    "{top}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
                )],
            ),
            (
                &format!("{root}/properties/kind"),
                json!({"type": "string", "default": "Toy"}),
                &[&format!("{top}.properties[kind].default: Forbidden: must not be set in top-level kind")],
            ),
            (&format!("{root}/properties/metadata"), json!({"type": "object", "description": "", "nullable": false}), &[]),
            (x, json!({"type": "string", "id": "", "not": {"description": "", "nullable": false, "title": ""}}), &[]),
            (
                x,
                json!({"type": "array", "items": {"type": "string"}, "additionalItems": false}),
                &[&format!("{at}.additionalItems: Forbidden: additionalItems is not supported")],
            ),
            (x, json!({"$ref": "#/x"}), &[&format!("{at}.$ref: Forbidden: $ref is not supported")]),
            (x, json!({"type": "string", "not": {"$ref": "#/x"}}), &[&format!("{at}.not.$ref: Forbidden: $ref is not supported")]),
            (
                x,
                json!({"type": "array", "items": [{"type": "string"}]}),
                &[&format!("{at}.items: Forbidden: items must be a schema object and not an array")],
            ),
            (
                x,
                json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}], "title": "x"}]}),
                &[&format!("{at}.allOf[0].title: Forbidden: must be empty to be structural")],
            ),
            (
                x,
                json!({"type": "string", "x-kubernetes-map-type": "atomic"}),
                &[&format!("{at}.type: Invalid value: \"string\": must be object if x-kubernetes-map-type is specified")],
            ),
            (
                x,
                json!({"type": "object", "x-kubernetes-map-type": "x"}),
                &[&format!("{at}.x-kubernetes-map-type: Unsupported value: \"x\": supported values: \"atomic\", \"granular\"")],
            ),
            (
                x,
                list(json!({"x-kubernetes-list-type": "x"}), json!({"type": "string"})),
                &[&format!("{at}.x-kubernetes-list-type: Unsupported value: \"x\": supported values: \"atomic\", \"set\", \"map\"")],
            ),
            (
                x,
                list(json!({"x-kubernetes-list-type": "set"}), json!({"type": "object"})),
                &[&format!(
                    "{at}.items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set"
                )],
            ),
            (
                x,
                list(json!({"x-kubernetes-list-type": "set"}), json!({"type": "string", "nullable": true})),
                &[&format!("{at}.items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is set")],
            ),
            (
                x,
                list(json!({"x-kubernetes-list-type": "set", "x-kubernetes-list-map-keys": ["k"]}), json!({"type": "string"})),
                &[&format!("{at}.x-kubernetes-list-type: Invalid value: \"set\": must be map if x-kubernetes-list-map-keys is non-empty")],
            ),
            (x, keyed(json!({"type": "string"})), &[]),
            (
                x,
                keyed(json!({"type": "string", "nullable": true})),
                &[&format!(
                    "{at}.items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable"
                )],
            ),
            (
                x,
                keyed(json!({"type": "array", "items": {"type": "string"}})),
                &[&format!(
                    "{at}.items.properties[k].type: Invalid value: \"object\": must be a scalar type if parent array's x-kubernetes-list-type is map"
                )],
            ),
            (
                x,
                list(json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"]}), json!({"type": "object"})),
                &[&format!("{at}.x-kubernetes-list-map-keys: Invalid value: [\"n\"]: entries must all be names of item properties")],
            ),
            (
                x,
                list(
                    json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n", "n", "m", "n"]}),
                    json!({"type": "object"}),
                ),
                &[
                    &format!(
                        "{at}.x-kubernetes-list-map-keys: Invalid value: [\"n\",\"n\",\"m\",\"n\"]: entries must all be names of item properties"
                    ),
                    &format!(
                        "{at}.x-kubernetes-list-map-keys: Invalid value: [\"n\",\"n\",\"m\",\"n\"]: must not contain duplicate entries"
                    ),
                ],
            ),
            (
                x,
                json!({"type": "object", "default": {"a": 1, "b": 2}, "properties": {"a": {"type": "integer"}}}),
                &[&format!("{at}.default: Invalid value: {{\"a\":1,\"b\":2}}: must not have unknown fields")],
            ),
            // A default must be whole, though the defaults below would make it so.
            (
                x,
                json!({"type": "object", "default": {}, "required": ["a"], "properties": {"a": {"type": "integer", "default": 1}}}),
                &[&format!("{at}.default.a: Required value")],
            ),
        ],
    );
    let mut with_status = definition();
    with_status.get_mut(&["spec", "versions"]).unwrap()[0]["subresources"] = json!({"status": {}});
    let told = kind_faults(DEFINITIONS, &set(&with_status, &format!("{root}/minProperties"), &json!(1)));
    assert!(told.len() == 1 && told[0].contains(": only [Description Type Format Title Maximum "), "{told:?}");
}

#[test]
fn what_a_rule_is_refused_for() {
    let x = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/x";
    let at = "spec.validation.openAPIV3Schema.properties[spec].properties[x]";
    let rule = |more: Value| {
        let mut rule = json!({"rule": "self == 'a'"});
        more.as_object().unwrap().iter().for_each(|(key, value)| rule[key] = value.clone());
        json!({"type": "string", "x-kubernetes-validations": [rule]})
    };
    let one = format!("{at}.x-kubernetes-validations[0]");
    let within = |path: &str| format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {path}");
    let changes = json!({"type": "string", "maxLength": 9, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]});
    says(
        DEFINITIONS,
        &definition(),
        &[
            (
                x,
                rule(json!({"optionalOldSelf": false})),
                &[&format!("{one}.optionalOldSelf: Invalid value: false: may not be set if oldSelf is not used in rule")],
            ),
            (
                x,
                rule(json!({"messageExpression": " "})),
                &[&format!("{one}.messageExpression: Required value: messageExpression must be non-empty if specified")],
            ),
            (x, rule(json!({"message": " "})), &[&format!("{one}.message: Invalid value: \" \": message must be non-empty if specified")]),
            (
                x,
                rule(json!({"fieldPath": "\n"})),
                &[
                    &format!("{one}.fieldPath: Invalid value: \"\\n\": fieldPath must be non-empty if specified"),
                    &format!("{one}.fieldPath: Invalid value: \"\\n\": fieldPath must not contain line breaks"),
                    &format!("{one}.fieldPath: Invalid value: \"\\n\": fieldPath must be a valid path"),
                ],
            ),
            (
                x,
                json!({"type": "array", "items": changes}),
                &[&format!("{at}.items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": {}", within(at))],
            ),
            (
                x,
                // Atomic maps stay where they are, so that their fields have old values.
                json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"y": changes}}),
                &[],
            ),
        ],
    );
}
