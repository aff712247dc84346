use serde_json::{Value, json};

use super::*;
use crate::shape::tests::kind;

fn kinds() -> Kinds {
    let mut kinds = Kinds::builtin();
    let mut widget = kind("apps", "v1", "Deployment");
    (widget.group, widget.kind, widget.resource) = ("example.com".into(), "Widget".into(), "widgets".into());
    widget.list_kind = "WidgetList".into();
    widget.message = None;
    kinds.insert(widget);
    kinds
}

/// Every reference names a definition.
fn check_references(value: &Value, root: &Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.strip_prefix('#').expect("a local reference");
                assert!(root.pointer(pointer).is_some_and(Value::is_object), "{reference}");
            }
            map.values().for_each(|value| check_references(value, root));
        }
        Value::Array(list) => list.iter().for_each(|value| check_references(value, root)),
        _ => (),
    }
}

#[test]
fn every_reference_is_defined() {
    let kinds = kinds();
    let v2 = v2(&kinds);
    check_references(&v2, &v2);
    for (group, version) in group_versions(&kinds) {
        let document = v3(&kinds, &group, &version).expect("served");
        check_references(&document, &document);
    }
    assert!(v3(&kinds, "nobody", "v1").is_none());
}

#[test]
fn definitions_carry_what_patches_need() {
    let document = v2(&kinds());
    let at = |pointer: &str| document.pointer(pointer).cloned().unwrap_or_default();
    let deployment = at("/definitions/io.k8s.api.apps.v1.Deployment");
    assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([{"group": "apps", "version": "v1", "kind": "Deployment"}]));
    assert_eq!(deployment["properties"]["spec"]["$ref"], "#/definitions/io.k8s.api.apps.v1.DeploymentSpec");
    assert!(deployment["properties"]["apiVersion"].is_object());
    let containers = at("/definitions/io.k8s.api.core.v1.PodSpec/properties/containers");
    assert!(containers["description"].as_str().is_some_and(|text| text.starts_with("List of containers belonging to the pod.")));
    let mut containers = containers;
    containers.as_object_mut().map(|map| map.remove("description"));
    assert_eq!(
        containers,
        json!({
            "type": "array",
            "items": {"$ref": "#/definitions/io.k8s.api.core.v1.Container"},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "x-kubernetes-patch-strategy": "merge",
            "x-kubernetes-patch-merge-key": "name",
        })
    );
    assert_eq!(at("/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector/x-kubernetes-map-type"), "atomic");
}

#[test]
fn operations_list_the_parameters_that_kubectl_probes() {
    let document = v3(&kinds(), "apps", "v1").expect("served");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<&str> =
        patch["parameters"].as_array().into_iter().flatten().filter_map(|parameter| parameter["name"].as_str()).collect();
    assert_eq!(names, ["pretty", "dryRun", "fieldManager", "fieldValidation", "force"]);
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
    assert!(patch["requestBody"]["content"]["application/apply-patch+yaml"].is_object());
    let paths: Vec<&String> =
        document["paths"].as_object().into_iter().flatten().map(|(path, _)| path).filter(|path| path.contains("deployments")).collect();
    assert_eq!(
        paths,
        [
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/namespaces/{namespace}/deployments",
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale",
            "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/status",
            "/apis/apps/v1/watch/deployments",
            "/apis/apps/v1/watch/namespaces/{namespace}/deployments",
            "/apis/apps/v1/watch/namespaces/{namespace}/deployments/{name}",
        ]
    );
}

#[test]
fn the_index_names_each_document_by_its_hash() {
    let index = v3_index(&kinds(), |group, version| format!("{group}-{version}"));
    let paths = index["paths"].as_object().cloned().unwrap_or_default();
    for path in ["api/v1", "apis/apps/v1", "apis/example.com/v1"] {
        assert!(paths.contains_key(path), "{path}");
    }
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap_or("");
    assert_eq!(url, "/openapi/v3/apis/apps/v1?hash=apps-v1");
}

/// Reads protobuf without a schema: field numbers and lengths must fit at every level that is asked for.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        number
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        if tag & 7 == 2 {
            let length = varint(&mut bytes) as usize;
            found.push((tag >> 3, bytes[..length].to_vec()));
            bytes = &bytes[length..];
        } else {
            let number = varint(&mut bytes);
            found.push((tag >> 3, number.to_le_bytes().to_vec()));
        }
    }
    found
}

fn only(bytes: &[u8], field: u64) -> Vec<u8> {
    fields(bytes).into_iter().find(|(number, _)| *number == field).map(|(_, bytes)| bytes).unwrap_or_default()
}

#[test]
fn protobuf_holds_paths_and_definitions() {
    let bytes = v2_protobuf(&v2(&kinds()));
    assert_eq!(only(&bytes, 1), b"2.0");
    let definitions = only(&bytes, 9);
    let names: Vec<String> = fields(&definitions).iter().map(|(_, item)| String::from_utf8(only(item, 1)).expect("text")).collect();
    assert!(names.contains(&"io.k8s.api.apps.v1.Deployment".to_owned()), "{names:?}");
    let pod_spec = fields(&definitions)
        .into_iter()
        .map(|(_, item)| item)
        .find(|item| only(item, 1) == b"io.k8s.api.core.v1.PodSpec")
        .expect("defined");
    let properties = only(&only(&pod_spec, 2), 25);
    assert!(fields(&properties).iter().any(|(_, item)| only(item, 1) == b"containers"));
    let paths = only(&bytes, 8);
    assert!(fields(&paths).iter().all(|(number, _)| *number == 2));
}
