//! Which rules a definition may have by what they may cost: at which bound, told in which words, and of definitions that are known to be accepted.

use super::registration::{DEFINITIONS, definition, kind_faults};
use super::words::set;
use super::*;

const X: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/x";
const AT: &str = "spec.validation.openAPIV3Schema.properties[spec].properties[x]";
const MEND: &str =
    "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";

fn with_x(schema: &Value) -> Object {
    set(&definition(), X, schema)
}

fn ruled(mut schema: Value, rules: &[&str]) -> Value {
    schema["x-kubernetes-validations"] = rules.iter().map(|rule| json!({"rule": rule})).collect();
    schema
}

fn list(most: u64, item: Value) -> Value {
    json!({"type": "array", "maxItems": most, "items": item})
}

fn text(most: u64) -> Value {
    json!({"type": "string", "maxLength": most})
}

#[track_caller]
fn refused(schema: &Value, expected: &[String]) {
    assert_eq!(kind_faults(DEFINITIONS, &with_x(schema)), expected, "{schema}");
}

/// With the bound it is accepted, and with one more it is refused.
#[track_caller]
fn up_to(bound: u64, schema: impl Fn(u64) -> Value) {
    refused(&schema(bound), &[]);
    let told = kind_faults(DEFINITIONS, &with_x(&schema(bound + 1)));
    assert!(told.iter().any(|fault| fault.contains("exceeds budget by factor of ")), "{}: {told:?}", schema(bound + 1));
}

#[test]
fn a_rule_may_cost_ten_millions_in_all_places_that_it_is_for() {
    let number = || json!({"type": "integer"});
    // 2 + n * (3 + 2 + 3 n)
    up_to(1824, |most| ruled(list(most, number()), &["self.all(a, self.all(b, true))"]));
    // The rule of an item is for each: 64 * 64 * (1 + (4 n + 1) / 10 * 2).
    up_to(3049, |most| list(64, list(64, ruled(text(most), &["self.matches('^a{3}')"]))));
    // Without a bound there are as many as fit into a request, by the least that each takes: 3145728 / 3.
    let within = |rule: &str| json!({"type": "array", "items": ruled(json!({"type": "string"}), &[rule])});
    refused(&within("self != 'ten letter'"), &[]);
    let at = format!("{AT}.items.x-kubernetes-validations[0].rule: Forbidden:");
    refused(
        &within("self.contains('x')"),
        &[
            format!("{at} estimated rule cost exceeds budget by factor of more than 100x {MEND}"),
            format!("{at} contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"),
            format!(
                "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {MEND}"
            ),
        ],
    );
    let one = format!("{AT}.x-kubernetes-validations[0]");
    refused(
        &ruled(list(1825, number()), &["self.all(a, self.all(b, true))"]),
        &[format!("{one}.rule: Forbidden: estimated rule cost exceeds budget by factor of 1.000100x {MEND}")],
    );
    refused(
        &ruled(list(3000, number()), &["self.all(a, self.all(b, true))"]),
        &[format!("{one}.rule: Forbidden: estimated rule cost exceeds budget by factor of 2.7x {MEND}")],
    );
    let mut message = ruled(json!({"type": "integer"}), &["self > 1"]);
    message["x-kubernetes-validations"][0]["messageExpression"] = "'it is ' + string(self)".into();
    let told = kind_faults(DEFINITIONS, &with_x(&message));
    let expected =
        format!("{one}.messageExpression: Forbidden: estimated messageExpression cost exceeds budget by factor of more than 100x");
    assert!(told[0].starts_with(&expected), "{told:?}");
    message["x-kubernetes-validations"][0]["messageExpression"] = "'it is %d'.format([self])".into();
    refused(&message, &[]);
}

#[test]
fn all_rules_together_may_cost_a_hundred_millions() {
    let quadratic = |count: usize| ruled(list(1800, json!({"type": "integer"})), &vec!["self.all(a, self.all(b, true))"; count]);
    refused(&quadratic(10), &[]);
    let rule = |index: usize| {
        format!(
            "{AT}.x-kubernetes-validations[{index}].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        )
    };
    let total = format!(
        "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of 1.070190x {MEND}"
    );
    refused(&quadratic(11), &[rule(0), rule(1), rule(2), rule(3), total]);
}

/// A definition of versions with these schemas of `spec.x`, the last of them stored.
fn versions(schemas: &[(&str, &Value)]) -> Object {
    let versions = schemas.iter().enumerate().map(|(index, (name, schema))| {
        let mut version = with_x(schema).list(&["spec", "versions"])[0].clone();
        version["name"] = (*name).into();
        version["storage"] = (index + 1 == schemas.len()).into();
        version
    });
    let mut definition = definition();
    definition.set(&["spec", "versions"], versions.collect());
    definition.set(&["status", "storedVersions"], json!([schemas.last().unwrap().0]));
    definition
}

#[test]
fn a_schema_that_a_version_keeps_is_not_held_to_estimates_again() {
    let kind = kind(DEFINITIONS);
    let pairs = |rule: &str| ruled(list(3000, json!({"type": "integer"})), &[rule]);
    let (dear, other) = (pairs("self.all(a, self.all(b, true))"), pairs("self.all(a, self.all(b, a != b))"));
    let (cheap, nothing) = (pairs("self.all(a, true)"), json!({"type": "string"}));
    let many = ruled(list(3000, json!({"type": "integer"})), &["self.all(a, self.all(b, true))"; 12]);
    let faults = |old: &[(&str, &Value)], new: &[(&str, &Value)]| -> Vec<String> {
        kind.validate_update(&versions(new), &versions(old), "").iter().map(|fault| fault.path.clone()).collect()
    };
    let old = [("v1", &dear)];
    assert_eq!(faults(&old, &old), [""; 0], "something else changes");
    assert_eq!(faults(&[("v1", &many)], &[("v1", &many)]), [""; 0], "all together");
    // Its place is another one then, and so is the path of its rules.
    assert_eq!(faults(&old, &[("v0", &cheap), ("v1", &dear)]), [""; 0], "another version comes before it");
    assert_eq!(faults(&old, &[("v0", &dear), ("v1", &dear)]), [""; 0], "another version of the same schema comes before it");
    assert_eq!(faults(&[("v0", &dear), ("v1", &nothing)], &[("v0", &dear), ("v1", &cheap)]), [""; 0], "the other version changes");
    let rule = |at: &str| format!("{at}.properties[spec].properties[x].x-kubernetes-validations[0].rule");
    assert_eq!(faults(&old, &[("v1", &other)]), [rule("spec.validation.openAPIV3Schema")], "another rule that costs as much");
    assert_eq!(
        faults(&[("v0", &dear), ("v1", &nothing)], &[("v0", &nothing), ("v1", &dear)]),
        [rule("spec.versions[1].schema.openAPIV3Schema")],
        "the rule is another version's"
    );
    assert_eq!(faults(&[("v1", &cheap)], &[("v0", &dear), ("v1", &cheap)]), [rule("spec.versions[0].schema.openAPIV3Schema")]);
}

/// Rules and bounds as definitions have them that clusters run on: a server that refuses them is of no use.
#[test]
fn rules_of_well_known_definitions_are_accepted() {
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let port = json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535});
    let reference =
        object(json!({"group": text(253), "kind": text(63), "name": text(253), "namespace": text(63), "sectionName": text(253),
        "port": port}));
    let same = "p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name && (((!has(p1.__namespace__) || p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ == '')) || (has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == p2.__namespace__))";
    let parents = ruled(
        list(32, reference.clone()),
        &[
            &format!(
                "self.all(p1, self.all(p2, {same} ? ((!has(p1.sectionName) || p1.sectionName == '') == (!has(p2.sectionName) || p2.sectionName == '')) : true))"
            ),
            &format!(
                "self.all(p1, self.exists_one(p2, {same} && (((!has(p1.sectionName) || p1.sectionName == '') && (!has(p2.sectionName) || p2.sectionName == '')) || (has(p1.sectionName) && has(p2.sectionName) && p1.sectionName == p2.sectionName))))"
            ),
        ],
    );
    let path = ruled(
        object(json!({"type": {"type": "string", "enum": ["Exact", "PathPrefix", "RegularExpression"]}, "value": text(1024)})),
        &[
            "(self.type in ['Exact','PathPrefix']) ? self.value.startsWith('/') : true",
            "(self.type in ['Exact','PathPrefix']) ? !self.value.contains('//') : true",
            "(self.type in ['Exact','PathPrefix']) ? !self.value.endsWith('/..') : true",
            "self.type in ['Exact','PathPrefix'] || self.type == 'RegularExpression'",
            r#"(self.type in ['Exact','PathPrefix']) ? self.value.matches(r"""^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$""") : true"#,
        ],
    );
    let filters = list(
        16,
        ruled(
            object(
                json!({"type": {"type": "string", "enum": ["RequestMirror", "URLRewrite"]}, "urlRewrite": object(json!({"hostname": text(253)}))}),
            ),
            &["!(has(self.urlRewrite) && self.type != 'URLRewrite')", "!(!has(self.urlRewrite) && self.type == 'URLRewrite')"],
        ),
    );
    let routes = ruled(
        list(
            16,
            ruled(
                object(
                    json!({"name": text(253), "matches": list(64, object(json!({"path": path}))), "filters": filters, "backendRefs": list(16, reference)}),
                ),
                &[
                    "(has(self.backendRefs) && size(self.backendRefs) > 0) ? (!has(self.filters) || self.filters.all(f, f.type != 'URLRewrite' || has(f.urlRewrite))) : true",
                    "(has(self.filters) && self.filters.exists_one(f, has(f.urlRewrite))) ? ((size(self.matches) != 1 || !has(self.matches[0].path) || self.matches[0].path.type != 'PathPrefix') ? false : true) : true",
                ],
            ),
        ),
        &[
            "(self.size() > 0 ? self[0].matches.size() : 0) + (self.size() > 1 ? self[1].matches.size() : 0) <= 128",
            "self.all(l1, !has(l1.name) || self.exists_one(l2, has(l2.name) && l1.name == l2.name))",
        ],
    );
    let listener = object(json!({"name": text(253), "hostname": text(253), "port": port, "protocol": text(255),
        "tls": object(json!({"mode": {"type": "string", "enum": ["Terminate", "Passthrough"]}, "certificateRefs": list(64, json!({"type": "object"}))}))}));
    let listeners = ruled(
        list(64, listener),
        &[
            "self.all(l, l.protocol in ['HTTP', 'TCP', 'UDP'] ? !has(l.tls) : true)",
            "self.all(l, (l.protocol == 'HTTPS' && has(l.tls)) ? (l.tls.mode == '' || l.tls.mode == 'Terminate') : true)",
            "self.all(l1, self.exists_one(l2, l1.name == l2.name))",
            "self.all(l1, self.exists_one(l2, l1.port == l2.port && l1.protocol == l2.protocol && (has(l1.hostname) && has(l2.hostname) ? l1.hostname == l2.hostname : !has(l1.hostname) && !has(l2.hostname))))",
        ],
    );
    // Provisioning of nodes.
    let key = ruled(
        text(316),
        &[
            "self in ['beta.kubernetes.io/instance-type', 'topology.kubernetes.io/region'] || !self.find('^([^/]+)').endsWith('kubernetes.io')",
            "self != 'kubernetes.io/hostname'",
        ],
    );
    let requirement = object(
        json!({"key": key, "minValues": {"type": "integer"}, "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "Gt", "Lt"]},
        "values": {"type": "array", "items": {"type": "string"}, "maxItems": 50}}),
    );
    let requirements = ruled(
        list(100, requirement),
        &[
            "self.all(x, x.operator == 'In' ? x.values.size() != 0 : true)",
            "self.all(x, (x.operator == 'Gt' || x.operator == 'Lt') ? (x.values.size() == 1 && int(x.values[0]) >= 0) : true)",
            "self.all(x, (x.operator == 'In' && has(x.minValues)) ? x.values.size() >= x.minValues : true)",
        ],
    );
    let labels = ruled(
        json!({"type": "object", "maxProperties": 100, "additionalProperties": {"type": "string", "maxLength": 63}}),
        &[
            "self.all(x, x in ['a.example.com/b', 'c.example.com/d'] || !x.find('^([^/]+)').endsWith('example.com'))",
            "self.all(x, x != 'kubernetes.io/hostname')",
        ],
    );
    let budgets = ruled(
        list(
            50,
            object(
                json!({"schedule": {"type": "string"}, "duration": {"type": "string", "format": "duration"}, "nodes": {"type": "string"}}),
            ),
        ),
        &["self.all(x, has(x.schedule) == has(x.duration))"],
    );
    let kubelet = ruled(
        object(json!({"evictionSoft": {"type": "object", "additionalProperties": {"type": "string"}},
            "evictionSoftGracePeriod": {"type": "object", "additionalProperties": {"type": "string"}},
            "imageGCHighThresholdPercent": {"type": "integer"}, "imageGCLowThresholdPercent": {"type": "integer"}})),
        &[
            "has(self.imageGCHighThresholdPercent) && has(self.imageGCLowThresholdPercent) ? self.imageGCHighThresholdPercent > self.imageGCLowThresholdPercent : true",
            "has(self.evictionSoft) ? self.evictionSoft.all(e, (e in self.evictionSoftGracePeriod)) : true",
        ],
    );
    // What may not change, whatever it is.
    let fixed = ruled(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}), &["self == oldSelf"]);
    let alias = ruled(text(60), &["self.matches('^[a-zA-Z0-9]+@.+$')", "self.split('@')[0] in ['al2', 'al2023', 'bottlerocket']"]);
    let class = ruled(json!({"type": "string"}), &["self == oldSelf"]);
    let quantities = ruled(
        object(
            json!({"low": {"x-kubernetes-int-or-string": true}, "high": {"x-kubernetes-int-or-string": true}, "cidr": text(43), "version": text(64)}),
        ),
        &[
            "quantity(string(self.low)).compareTo(quantity(string(self.high))) <= 0",
            "!has(self.cidr) || isCIDR(self.cidr) && cidr(self.cidr).prefixLength() >= 16",
            "!has(self.version) || isSemver(self.version) && semver(self.version).isGreaterThan(semver('1.0.0'))",
            "type(self.low) == int ? self.low >= 0 : self.low.endsWith('%')",
        ],
    );
    let grows = json!({"type": "object", "properties": {"size": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "!oldSelf.hasValue() || oldSelf.value().size <= self.size", "optionalOldSelf": true}]});
    for schema in [parents, routes, listeners, requirements, labels, budgets, kubelet, fixed, alias, class, quantities, grows] {
        refused(&schema, &[]);
    }
}
