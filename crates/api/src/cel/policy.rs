//! What the expressions of admission may name, and what each must yield: of policies, and the match conditions of webhooks
//! (apiserver, admission/plugin/cel/compile.go).
//!
//! The same is asked twice: when a policy is written, so that its author is told what is wrong, and when it is put in force.

use super::{Program, Static};

/// What an expression is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Whether the request is the policy's or webhook's concern.
    Condition,
    /// What others name `variables.x`.
    Variable,
    Validation,
    /// Why a validation failed.
    Message,
    /// Text for the audit log, or null for none.
    Annotation,
    /// An `Object` whose fields are merged into the request's.
    Apply,
    /// A list of `JSONPatch`.
    Patch,
}

/// Of an AdmissionRequest, without its objects.
const REQUEST: [&str; 13] = [
    "uid",
    "kind",
    "resource",
    "subResource",
    "requestKind",
    "requestResource",
    "requestSubResource",
    "name",
    "namespace",
    "operation",
    "userInfo",
    "dryRun",
    "options",
];

const PATCH: [&str; 4] = ["op", "path", "from", "value"];

/// What is around an expression.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// The policy has parameters.
    pub params: bool,
    /// It is a policy, which knows `namespaceObject` and variables; a webhook does not.
    pub policy: bool,
    /// The variables that stand before it.
    pub variables: &'a [&'a str],
    /// What `object` and `oldObject` are known to be.
    pub object: Static<'a>,
    /// What `params` are known to be.
    pub param: Static<'a>,
}

impl<'a> Surroundings<'a> {
    pub fn of_webhook() -> Surroundings<'a> {
        Surroundings { params: false, policy: false, variables: &[], object: Static::Dyn, param: Static::Dyn }
    }

    pub fn of_policy(params: bool, variables: &'a [&'a str]) -> Surroundings<'a> {
        Surroundings { params, policy: true, variables, object: Static::Dyn, param: Static::Dyn }
    }

    pub fn compile(&self, source: &str, purpose: Purpose) -> Result<Program, String> {
        let mut names = vec![("object", self.object.clone()), ("oldObject", self.object.clone()), ("request", Static::Fields(&REQUEST))];
        if self.policy {
            names.push(("namespaceObject", Static::Dyn));
            if purpose != Purpose::Condition {
                names.push(("variables", Static::Fields(self.variables)));
            }
        }
        if self.params {
            names.push(("params", self.param.clone()));
        }
        if !matches!(purpose, Purpose::Message | Purpose::Annotation) {
            names.push(("authorizer", Static::Dyn));
        }
        if matches!(purpose, Purpose::Apply | Purpose::Patch) {
            names.push(("Object", Static::Maker(&[])));
            names.push(("JSONPatch", Static::Maker(&PATCH)));
        }
        let made = |name: &str| Static::Made(name.to_owned());
        let source = source.trim();
        match purpose {
            Purpose::Condition | Purpose::Validation => Program::compile(source, &names, &Static::Bool),
            Purpose::Variable => Program::compile(source, &names, &Static::Dyn),
            Purpose::Message => Program::compile(source, &names, &Static::String),
            Purpose::Apply => Program::compile(source, &names, &made("Object")),
            Purpose::Patch => Program::compile(source, &names, &Static::List(Box::new(made("JSONPatch")))),
            Purpose::Annotation => {
                let either = Program::compile(source, &names, &Static::String).or_else(|_| Program::compile(source, &names, &Static::Null));
                // The error of an expression that is wrong in itself says more than that it is neither.
                either.or_else(|_| Program::compile(source, &names, &Static::Dyn).and(Err("must evaluate to a string or null".to_owned())))
            }
        }
    }
}
