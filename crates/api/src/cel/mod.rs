//! CEL, the Common Expression Language, as Kubernetes has it: rules of schemas, admission policies, match conditions.
//!
//! [`Program::compile`] reads an expression and checks what can be known before there is data: names, functions, fields of the schema, the type of
//! the result. [`Program::evaluate`] runs it over JSON in place, under a [`Budget`]: expressions come from users, and none may hold up the server.
//!
//! The `cel` crate was looked at and left: it has neither a cost limit nor a check of names and types before evaluation, its parser recurses as deep as
//! its input does, and it brings a database of time zones. What is here is the language (cel-spec) without messages and namespaces, and the
//! libraries of Kubernetes (apiserver, pkg/cel/library).

mod ast;
mod check;
mod cost;
pub(crate) mod device;
mod error;
mod eval;
mod extent;
mod functions;
mod kubernetes;
mod parse;
pub mod policy;
#[cfg(test)]
mod tests;
mod value;

use std::cell::Cell;
use std::collections::BTreeSet;

pub use check::Static;
pub use error::CompileError;
pub(crate) use extent::{Extent, Within};
pub use parse::HEIGHT_MAX;
pub use value::{Host, Value};

use ast::Expr;

/// Bytes of one expression. Upstream bounds them by the estimated cost and the size of the object; none that is in use comes near.
const SOURCE_BYTES_MAX: usize = 16 << 10;

/// Cost of one evaluation (apiserver, apis/cel/config.go, PerCallLimit).
pub const CALL_COST_MAX: u64 = 1_000_000;

/// Cost of all rules over one object (RuntimeCELCostBudget, there).
pub const OBJECT_COST_MAX: u64 = 10_000_000;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// This one evaluation costs too much.
    #[error("operation cancelled: actual cost limit exceeded")]
    TooCostly,
    /// All together do.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    BudgetSpent,
    /// No function or operator takes these values. Its name, where upstream says it.
    #[error("no such overload{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    NoOverload(String),
    #[error("{0}")]
    Failed(String),
}

/// What evaluations may still cost.
#[derive(Debug)]
pub struct Budget {
    left: Cell<u64>,
    call: Cell<u64>,
}

impl Budget {
    pub fn new(cost: u64) -> Budget {
        Budget { left: Cell::new(cost), call: Cell::new(CALL_COST_MAX) }
    }

    fn spend(&self, cost: u64) -> Result<(), EvalError> {
        let left = self.left.get().checked_sub(cost).ok_or(EvalError::BudgetSpent)?;
        let call = self.call.get().checked_sub(cost).ok_or(EvalError::TooCostly)?;
        self.left.set(left);
        self.call.set(call);
        Ok(())
    }
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Program {
    expr: Expr,
    height: usize,
}

impl Program {
    /// `variables`: what the expression may name, and what is known of each. `result`: what it must yield.
    pub fn compile(source: &str, variables: &[(&str, Static<'_>)], result: &Static<'_>) -> Result<Program, CompileError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(CompileError::Wrong(format!("the expression has more than {SOURCE_BYTES_MAX} bytes")));
        }
        let (expr, height) = parse::parse(source).map_err(|wrong| wrong.in_source(source))?;
        let found = check::check(&expr, variables).map_err(|wrong| wrong.in_source(source))?;
        if !found.meets(result) {
            return Err(CompileError::Yields { wanted: result.words(), found: found.words() });
        }
        Ok(Program { expr, height })
    }

    /// Levels of the tree: so deep is the recursion that evaluates it, at most [`HEIGHT_MAX`].
    pub fn height(&self) -> usize {
        self.height
    }

    /// What an evaluation costs at most, for values of this extent. `optional`: variables that are there or not.
    pub(crate) fn cost_at_most(&self, extent: &Extent, optional: &[&str]) -> u64 {
        cost::most(&self.expr, extent, optional)
    }

    /// The value of the expression; `lookup` gives the values of variables. Of `variables.x` it is asked under this name when `x` is read, and may
    /// itself evaluate something then.
    pub fn evaluate<'a>(&self, lookup: &dyn Fn(&str) -> Option<Value<'a>>, budget: &Budget) -> Result<Value<'a>, EvalError> {
        // What is evaluated within an evaluation has its own cost.
        let outer = budget.call.replace(CALL_COST_MAX);
        let eval = eval::Eval { lookup, budget };
        let value = eval.expr(&self.expr, None).and_then(|value| {
            // Whoever gets it may walk all of it.
            eval.look(&value)?;
            Ok(value)
        });
        budget.call.set(outer);
        value
    }

    /// The fields of `variable` that the expression names (`variables.x`, `has(variables.x)`).
    pub fn fields_of(&self, variable: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        self.expr.visit(&mut |expr| {
            if let Expr::Select { on, field, .. } | Expr::Has { on, field } = expr
                && matches!(&**on, Expr::Ident(name) if **name == variable)
            {
                found.insert(field.to_string());
            }
        });
        found
    }

    /// Whether the expression names `variable`.
    pub fn names(&self, variable: &str) -> bool {
        let mut found = false;
        self.expr.visit(&mut |expr| found |= matches!(expr, Expr::Ident(name) if **name == variable));
        found
    }
}

/// Words that are no names (cel-spec, the grammar): literals and an operator, and what is reserved.
pub(crate) const KEYWORDS: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name that a property has in expressions: CEL's identifiers are fewer than JSON's keys (apiextensions, x-kubernetes-validations).
pub(crate) fn escape(name: &str) -> Option<String> {
    if KEYWORDS.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(valid) {
        return None;
    }
    Some(name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

/// The property that a name in an expression means.
fn unescape(name: &str) -> String {
    if !name.contains("__") {
        return name.to_owned();
    }
    let (mut out, mut rest) = (String::with_capacity(name.len()), name);
    if let Some(keyword) = name.strip_prefix("__").and_then(|inner| inner.strip_suffix("__"))
        && escape(keyword).is_some_and(|escaped| escaped == name)
    {
        return keyword.to_owned();
    }
    'next: while !rest.is_empty() {
        for (escaped, plain) in [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")] {
            if let Some(after) = rest.strip_prefix(escaped) {
                out.push_str(plain);
                rest = after;
                continue 'next;
            }
        }
        let Some(letter) = rest.chars().next() else { break };
        out.push(letter);
        rest = &rest[letter.len_utf8()..];
    }
    out
}
