//! metrics.k8s.io: what nodes and pods use now. Nothing of it is stored.

use serde_json::Value;

use super::columns::{name, text};
use super::row::row;
use crate::kind::{CellFn, Column, Kind};
use crate::object::Object;
use crate::quantity::Quantity;

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        row("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes").cluster().measured().columns(columns()),
        row("metrics.k8s.io", "v1beta1", "PodMetrics", "pods").measured().columns(columns()),
    ]
}

/// Those of metrics-server (pkg/api/table.go). Pods show what their containers use together.
fn columns() -> Vec<Column> {
    let column = |format: &'static str, name: &'static str, cell: CellFn| Column { format: format.into(), ..text(name, cell) };
    vec![
        Column { description: "Name of the resource".into(), ..name() },
        column("quantity", "cpu", |object, _| used(object, "cpu")),
        column("quantity", "memory", |object, _| used(object, "memory")),
        column("duration", "Window", |object, _| object.str(&["window"]).into()),
    ]
}

fn used(object: &Object, resource: &str) -> Value {
    let of_containers = object.list(&["containers"]).iter().map(|container| &container["usage"]);
    let usages = object.get(&["usage"]).into_iter().chain(of_containers);
    let quantities = usages.filter_map(|usage| Quantity::parse(usage[resource].as_str()?).ok());
    quantities.reduce(|all, one| all + one).unwrap_or(Quantity::ZERO).to_string().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_show_what_their_containers_use_together() {
        let check = |object: Value, cells: [&str; 2]| {
            let object = Object::from_value(object).expect("an object");
            assert_eq!(["cpu", "memory"].map(|resource| used(&object, resource)), cells);
        };
        let usage = |cpu: &str, memory: &str| json!({"usage": {"cpu": cpu, "memory": memory}});
        check(usage("2031n", "2048Ki"), ["2031n", "2Mi"]);
        check(json!({"containers": [usage("1500n", "1000Ki"), usage("2500n", "24Ki")]}), ["4u", "1Mi"]);
        check(json!({"containers": []}), ["0", "0"]);
    }
}
