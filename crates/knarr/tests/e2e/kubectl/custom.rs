//! Custom resources: defined, used and cleaned up like any other.

use super::{cluster, holds};

const TOYS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: toys.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: toys, singular: toy, kind: Toy, shortNames: [ty]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Colour, type: string, jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What the toy is.
            properties:
              colour: {type: string, default: red}
              wheels: {type: integer, maximum: 8}
            x-kubernetes-validations:
            - {rule: "self.colour != 'blue' || self.wheels > 2", message: blue toys drive}
"#;

fn toy(name: &str, spec: &str) -> String {
    format!("apiVersion: example.com/v1\nkind: Toy\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn a_custom_resource_is_defined_explained_listed_checked_and_deleted() {
    cluster(|kubectl| {
        assert_eq!(kubectl.apply(TOYS), "customresourcedefinition.apiextensions.k8s.io/toys.example.com created\n");
        kubectl.ok("wait crd/toys.example.com --for=condition=Established --timeout=60s");
        assert_eq!(kubectl.apply(&toy("car", "{wheels: 4}")), "toy.example.com/car created\n");
        holds(&kubectl.ok("get ty"), &["NAME", "COLOUR", "car", "red"]);
        holds(&kubectl.ok("explain toy.spec"), &["What the toy is.", "wheels"]);
        let bad = kubectl.file("bad.yaml", &toy("boat", "{colour: blue, wheels: 2}"));
        holds(&kubectl.fails(1, &format!("create -f {bad}")), &["blue toys drive"]);
        kubectl.ok("delete crd/toys.example.com --timeout=60s");
        // kubectl asks by what it remembers of discovery.
        holds(&kubectl.fails(1, "get toys"), &["the server could not find the requested resource"]);
    });
}

#[test]
fn objects_of_a_kind_that_came_later_go_with_their_owner_and_with_their_namespace() {
    cluster(|kubectl| {
        kubectl.apply(TOYS);
        kubectl.ok("wait crd/toys.example.com --for=condition=Established --timeout=60s");
        kubectl.ok("create configmap owner");
        let uid = kubectl.ok("get configmap owner -o jsonpath={.metadata.uid}");
        let owned = format!(
            "apiVersion: example.com/v1\nkind: Toy\nmetadata:\n  name: owned\n  ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}}}]\n"
        );
        kubectl.apply(&owned);
        kubectl.ok("delete configmap owner");
        kubectl.ok("wait toy/owned --for=delete --timeout=60s");

        kubectl.ok("create namespace nursery");
        let doll = kubectl.file("doll.yaml", &toy("doll", "{}"));
        kubectl.ok(&format!("create -n nursery -f {doll}"));
        kubectl.ok("delete namespace nursery --timeout=60s");
        assert_eq!(kubectl.ok("get toys -A -o name"), "");
    });
}
