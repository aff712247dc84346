//! Selectors of devices: what they may name, and what they may cost (dynamic-resource-allocation, cel/compile.go).

use std::sync::LazyLock;

use serde_json::json;

use super::{CompileError, Extent, Program, Static};
use crate::custom::Structural;

/// Cost of one selector for one device (resource/types.go, CELSelectorExpressionMaxCost).
pub(crate) const SELECTOR_COST_MAX: u64 = 1_000_000;

/// Attributes and capacities are found by domain, then by name; the type of an attribute is known only when it is there.
static DEVICE: LazyLock<Structural> = LazyLock::new(|| {
    let by_name =
        json!({"type": "object", "additionalProperties": {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}}});
    Structural::parse(&json!({"type": "object", "properties": {
        "driver": {"type": "string"}, "attributes": by_name, "capacity": by_name, "allowMultipleAllocations": {"type": "boolean"}}}))
});

static EXTENT: LazyLock<Extent> = LazyLock::new(Extent::device);

/// What the selector costs at most, or why it is none.
pub(crate) fn selector_cost(source: &str) -> Result<u64, String> {
    let variables = [("device", Static::of_schema(&DEVICE)), ("cel.bind", Static::Extension), ("includes", Static::Extension)];
    match Program::compile(source, &variables, &Static::Bool) {
        Ok(program) => Ok(program.cost_at_most(&EXTENT, &[])),
        Err(CompileError::Yields { found, .. }) => Err(format!("must evaluate to bool or the unknown type, not {found}")),
        Err(wrong @ CompileError::Wrong(_)) => Err(wrong.detail()),
    }
}
