//! Selectors of devices: what they may name, and what they may cost (dynamic-resource-allocation, cel/compile.go).

use std::sync::LazyLock;

use super::{CompileError, Extent, Program, Static};

/// Cost of one selector for one device (resource/types.go, CELSelectorExpressionMaxCost).
pub(crate) const SELECTOR_COST_MAX: u64 = 1_000_000;

/// Attributes and capacities are found by domain, then by name; the type of an attribute is known only when it is there.
static DEVICE: LazyLock<[(&str, Static<'static>); 4]> = LazyLock::new(|| {
    let by_name = |ty: Static<'static>| Static::Map(Box::new(Static::Map(Box::new(ty))));
    [
        ("driver", Static::String),
        ("attributes", by_name(Static::Dyn)),
        ("capacity", by_name(Static::QUANTITY)),
        ("allowMultipleAllocations", Static::Bool),
    ]
});

static EXTENT: LazyLock<Extent> = LazyLock::new(Extent::device);

/// What the selector costs at most, or why it is none.
pub(crate) fn selector_cost(source: &str) -> Result<u64, String> {
    let variables =
        [("device", Static::Record("kubernetes.DRADevice", &*DEVICE)), ("cel.bind", Static::Extension), ("includes", Static::Extension)];
    match Program::compile(source, &variables, &Static::Bool) {
        Ok(program) => Ok(program.cost_at_most(&EXTENT, &[])),
        Err(CompileError::Yields { found, .. }) => Err(format!("must evaluate to bool or the unknown type, not {found}")),
        Err(wrong @ CompileError::Wrong(_)) => Err(wrong.detail()),
    }
}
