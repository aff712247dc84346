//! What the expressions of admission may name, and what each must yield: of policies, and the match conditions of webhooks
//! (apiserver, admission/plugin/cel/compile.go).
//!
//! The same is asked twice: when a policy is written, so that its author is told what is wrong, and when it is put in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{CompileError, Program, Static};
use crate::kind::Kind;
use crate::kinds::Kinds;
use crate::object::Object;

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

/// Of an AdmissionRequest, without its objects and its uid (BuildRequestType).
const REQUEST: [&str; 12] = [
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
    pub variables: &'a BTreeSet<&'a str>,
    /// What `object` and `oldObject` are known to be.
    pub object: Static<'a>,
    /// What `params` are known to be.
    pub param: Static<'a>,
}

impl<'a> Surroundings<'a> {
    pub fn of_webhook() -> Surroundings<'a> {
        static NONE: BTreeSet<&str> = BTreeSet::new();
        Surroundings { params: false, policy: false, variables: &NONE, object: Static::Dyn, param: Static::Dyn }
    }

    pub fn of_policy(params: bool, variables: &'a BTreeSet<&'a str>) -> Surroundings<'a> {
        Surroundings { params, policy: true, variables, object: Static::Dyn, param: Static::Dyn }
    }

    pub fn compile(&self, source: &str, purpose: Purpose) -> Result<Program, CompileError> {
        let mut names = vec![("object", self.object.clone()), ("oldObject", self.object.clone()), ("request", Static::Fields(&REQUEST))];
        if self.policy {
            names.push(("namespaceObject", Static::Dyn));
            if purpose != Purpose::Condition {
                names.push(("variables", Static::Names(self.variables)));
            }
        }
        if self.params {
            names.push(("params", self.param.clone()));
        }
        if purpose != Purpose::Message {
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
                either.map_err(|error| match error {
                    CompileError::Yields { found, .. } => CompileError::Yields { wanted: "one of [string null_type]".to_owned(), found },
                    wrong => wrong,
                })
            }
        }
    }
}

/// Kinds that one policy is checked against (validating/typechecking.go, maxTypesToCheck).
const KINDS_MAX: usize = 10;

/// What is wrong with an expression for the kinds that its policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// `spec.validations[0].expression`
    pub field: String,
    /// A line for each kind.
    pub text: String,
}

/// Checks the expressions of a ValidatingAdmissionPolicy against the schemas of the kinds that its rules name one by one. A policy with such
/// warnings is in force nevertheless: it is about objects as they are, whatever their schema says (validating/typechecking.go).
pub fn warnings(policy: &Object, kinds: &Kinds) -> Vec<Warning> {
    let checked = kinds_of(policy, kinds);
    let param = policy.get(&["spec", "paramKind"]);
    let param_kind = param.and_then(|param| {
        let version = param["apiVersion"].as_str()?;
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        kinds.by_kind(group, version, param["kind"].as_str()?)
    });
    let names: BTreeSet<&str> = policy.list(&["spec", "variables"]).iter().filter_map(|one| one["name"].as_str()).collect();
    let mut found = Vec::new();
    for (index, validation) in policy.list(&["spec", "validations"]).iter().enumerate() {
        for (key, purpose) in [("expression", Purpose::Validation), ("messageExpression", Purpose::Message)] {
            let source = validation[key].as_str().unwrap_or_default();
            if source.trim().is_empty() {
                continue;
            }
            let wrong = checked.iter().filter_map(|(name, kind)| {
                let around = Surroundings {
                    object: Static::of_kind(kind),
                    param: param_kind.as_deref().map_or(Static::Dyn, Static::of_kind),
                    ..Surroundings::of_policy(param.is_some(), &names)
                };
                around.compile(source, purpose).err().map(|error| format!("{name}: {error}\n"))
            });
            let text: String = wrong.collect();
            if !text.is_empty() {
                found.push(Warning { field: format!("spec.validations[{index}].{key}"), text });
            }
        }
    }
    found
}

/// `apps/v1, Kind=Deployment` and the kind, for every resource that the rules name without a wildcard.
fn kinds_of(policy: &Object, kinds: &Kinds) -> BTreeMap<String, Arc<Kind>> {
    fn texts<'v>(rule: &'v Value, key: &str) -> Vec<&'v str> {
        let all: Vec<&str> = rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if all.contains(&"*") { Vec::new() } else { all }
    }
    let mut found = BTreeMap::new();
    for rule in policy.list(&["spec", "matchConstraints", "resourceRules"]) {
        let (groups, versions, resources) = (texts(rule, "apiGroups"), texts(rule, "apiVersions"), texts(rule, "resources"));
        for (group, version) in groups.iter().flat_map(|group| versions.iter().map(move |version| (group, version))) {
            // Of parts the form is another.
            for resource in resources.iter().filter(|resource| !resource.contains('/')) {
                if let Some(kind) = kinds.resource(group, version, resource) {
                    found.insert(format!("{}, Kind={}", kind.api_version(), kind.kind), kind);
                }
            }
        }
    }
    while found.len() > KINDS_MAX {
        found.pop_last();
    }
    found
}
