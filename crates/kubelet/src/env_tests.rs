use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn check(container: serde_json::Value, expected: Expect) {
    let container: Container = serde_json::from_value(container).unwrap();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
        "spec": {"containers": [], "nodeName": "n1", "serviceAccountName": "sa"},
    }))
    .unwrap();
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "redis-db"},
        "spec": {"clusterIP": "10.43.0.7", "ports": [{"name": "main", "port": 6379, "protocol": "TCP"}]},
    }))
    .unwrap();
    let map: ConfigMap = serde_json::from_value(json!({"data": {"COLOUR": "blue", "SIZE": "xl"}})).unwrap();
    let secret: Secret = serde_json::from_value(json!({"data": {"password": "aHVudGVyMg=="}})).unwrap();
    let objects = Objects {
        config_maps: BTreeMap::from([("settings".into(), Some(Arc::new(map))), ("gone".into(), None)]),
        secrets: BTreeMap::from([("login".into(), Some(Arc::new(secret)))]),
    };
    let context = Context {
        pod: &pod,
        objects: &objects,
        services: &[Arc::new(service)],
        pod_ips: &["10.42.0.5".parse().unwrap()],
        host_ips: &["192.0.2.1".parse().unwrap()],
        allocatable: &BTreeMap::new(),
    };
    let text = match environment(&container, &context) {
        Ok(variables) => {
            let lines: Vec<String> =
                (variables.iter()).filter(|it| !it.0.starts_with("REDIS_DB")).map(|(name, value)| format!("{name}={value}")).collect();
            lines.join("\n")
        }
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&text);
}

#[test]
fn literal_values_refer_to_earlier_ones_and_to_services() {
    check(
        json!({"name": "c", "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "value": "$(A)$(LATER)$$(A)"},
            {"name": "LATER", "value": "x"},
            {"name": "URL", "value": "redis://$(REDIS_DB_SERVICE_HOST):$(REDIS_DB_SERVICE_PORT_MAIN)"},
        ]}),
        expect![[r#"
            A=1
            B=1$(LATER)$(A)
            LATER=x
            URL=redis://10.43.0.7:6379"#]],
    );
}

#[test]
fn values_come_from_maps_secrets_and_fields() {
    check(
        json!({"name": "c", "envFrom": [{"prefix": "CFG_", "configMapRef": {"name": "settings"}}], "env": [
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CFG_SIZE", "value": "m"},
        ]}),
        expect![[r#"
            CFG_COLOUR=blue
            CFG_SIZE=m
            PASSWORD=hunter2
            POD=web-1
            APP=web
            IP=10.42.0.5"#]],
    );
}

#[test]
fn what_is_missing_is_named_unless_it_is_optional() {
    check(json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone"}}]}), expect![[r#"configmap "gone" not found"#]]);
    check(
        json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "login", "key": "user"}}}]}),
        expect!["couldn't find key user in Secret shop/login"],
    );
    check(
        json!({"name": "c", "envFrom": [{"configMapRef": {"name": "gone", "optional": true}}],
               "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "login", "key": "user", "optional": true}}}]}),
        expect![""],
    );
}

#[test]
fn expansion_leaves_what_it_does_not_know() {
    let get = |name: &str| (name == "A").then_some("1");
    for (text, expected) in
        [("$(A)", "1"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$(B)", "$(B)"), ("$A ${A} $", "$A ${A} $"), ("$(A", "$(A")]
    {
        assert_eq!(expand(text, get), expected);
    }
}
