//! ValidatingAdmissionPolicy: rules in CEL about requests, put in force by bindings (apiserver, admission/plugin/policy/validating).
//!
//! Policies are compiled when they are first met and kept until a policy or binding changes, which every request looks for: a change is in force
//! with the next request.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_api::{
    Object,
    cel::{Budget, EvalError, OBJECT_COST_MAX, Program, Static, Value as Cel},
    status::{Cause, Status},
};
use knarr_store::{Collection, Snapshot};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    Chain, Request,
    authorizer_library::{Question, Resource},
    matching::{self, About, Subject, View},
    stored, stored_all,
};

pub(super) const POLICIES: &str = "admissionregistration.k8s.io/validatingadmissionpolicies";
pub(super) const BINDINGS: &str = "admissionregistration.k8s.io/validatingadmissionpolicybindings";

/// Whoever could forbid changes to policies could never be undone, so that these are left out.
const NEVER_ABOUT: [&str; 4] =
    ["validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

/// The compiled policies of one state of the store.
#[derive(Default)]
pub(super) struct Cache(Mutex<Option<(u64, Arc<Vec<Policy>>)>>);

struct Policy {
    name: String,
    spec: Value,
    conditions: Vec<Named>,
    variables: Vec<Named>,
    validations: Vec<Validation>,
    annotations: Vec<Named>,
    bindings: Vec<Object>,
}

struct Named {
    name: String,
    program: Result<Program, String>,
}

struct Validation {
    program: Result<Program, String>,
    message: String,
    message_program: Option<Program>,
    reason: String,
}

/// A number that is another when anything in the collections is.
pub(super) fn fingerprint(snapshot: &Snapshot, collections: &[&str]) -> u64 {
    let mut hash = 0_u64;
    for name in collections {
        let collection = Collection::new(name);
        for entry in snapshot.range(&collection, "", None) {
            hash = hash.rotate_left(7) ^ entry.revision.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        hash = hash.wrapping_mul(31).wrapping_add(snapshot.len(&collection) as u64);
    }
    hash
}

impl Cache {
    fn at(&self, snapshot: &Snapshot) -> Arc<Vec<Policy>> {
        let now = fingerprint(snapshot, &[POLICIES, BINDINGS]);
        let mut cached = self.0.lock();
        match &*cached {
            Some((then, policies)) if *then == now => policies.clone(),
            _ => {
                let bindings = stored_all(snapshot, BINDINGS, "");
                let policies = stored_all(snapshot, POLICIES, "").iter().map(|policy| Policy::compile(policy, &bindings)).collect();
                let policies = Arc::new(policies);
                *cached = Some((now, policies));
                cached.as_ref().map(|(_, policies)| policies.clone()).unwrap_or_default()
            }
        }
    }
}

/// What policies may name.
pub(super) fn variables() -> Vec<(&'static str, Static<'static>)> {
    ["object", "oldObject", "request", "params", "namespaceObject", "authorizer", "variables"]
        .into_iter()
        .map(|name| (name, Static::Dyn))
        .collect()
}

impl Named {
    fn list(list: &Value, name: &str, expression: &str, result: &Static<'_>) -> Vec<Named> {
        let one = |one: &Value| Named {
            name: one[name].as_str().unwrap_or("").to_owned(),
            program: Program::compile(one[expression].as_str().unwrap_or("").trim(), &variables(), result),
        };
        list.as_array().into_iter().flatten().map(one).collect()
    }
}

impl Policy {
    fn compile(policy: &Object, bindings: &[Object]) -> Policy {
        let spec = policy.get(&["spec"]).cloned().unwrap_or_default();
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("").trim().to_owned();
        let validation = |one: &Value| Validation {
            program: Program::compile(&text(one, "expression"), &variables(), &Static::Bool),
            message: if text(one, "message").is_empty() {
                format!("failed expression: {}", text(one, "expression"))
            } else {
                text(one, "message")
            },
            message_program: Program::compile(&text(one, "messageExpression"), &variables(), &Static::String).ok(),
            reason: text(one, "reason"),
        };
        Policy {
            name: policy.name().to_owned(),
            conditions: Named::list(&spec["matchConditions"], "name", "expression", &Static::Bool),
            variables: Named::list(&spec["variables"], "name", "expression", &Static::Dyn),
            annotations: Named::list(&spec["auditAnnotations"], "key", "valueExpression", &Static::Dyn),
            validations: spec["validations"].as_array().into_iter().flatten().map(validation).collect(),
            bindings: bindings.iter().filter(|binding| binding.str(&["spec", "policyName"]) == policy.name()).cloned().collect(),
            spec,
        }
    }
}

/// One validation that did not hold.
struct Fault {
    message: String,
    reason: String,
}

pub(super) fn check(chain: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if request.kind.virtual_ || request.kind.group == "admissionregistration.k8s.io" && NEVER_ABOUT.contains(&&*request.kind.resource) {
        return Ok(());
    }
    let policies = chain.policies.at(snapshot);
    if policies.is_empty() {
        return Ok(());
    }
    let published = chain.registry.now();
    for policy in policies.iter().filter(|policy| !policy.bindings.is_empty()) {
        let view = match matching::about(&policy.spec["matchConstraints"], "resourceRules", request, snapshot, &published.kinds) {
            About::Nothing => continue,
            About::Itself => View::of(request),
            About::As(kind) => match View::converted_here(request, kind) {
                Some(view) => view,
                None => {
                    let why = "objects that a webhook converts are only judged in the version of the request; match all versions";
                    policy.bindings.iter().try_for_each(|binding| enforce(policy, binding, policy.failure(why), request))?;
                    continue;
                }
            },
        };
        let subject = chain.subject(snapshot, request, view);
        for binding in &policy.bindings {
            let resources = binding.get(&["spec", "matchResources"]).unwrap_or(&Value::Null);
            if matches!(matching::about(resources, "resourceRules", request, snapshot, &published.kinds), About::Nothing) {
                continue;
            }
            let params = params(chain, snapshot, policy, binding, request);
            let faults = match params {
                Ok(all) => all.iter().flat_map(|params| policy.run(&subject, params)).collect(),
                Err(error) => policy.failure(&format!("failed to configure binding: {error}")),
            };
            enforce(policy, binding, faults, request)?;
        }
    }
    Ok(())
}

impl Chain {
    /// What expressions about the request can name.
    pub(super) fn subject(&self, snapshot: &Snapshot, request: &Request<'_>, view: View) -> Subject {
        let own = Resource {
            group: request.kind.group.to_string(),
            resource: request.kind.resource.to_string(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.name.to_owned(),
        };
        let question = Question::new(self.authorizer.clone(), Arc::new(request.user.clone()), own);
        Subject::new(request, snapshot, view, Arc::new(question))
    }
}

/// Denies, warns, or does nothing, as the binding says.
fn enforce(policy: &Policy, binding: &Object, faults: Vec<Fault>, request: &mut Request<'_>) -> Result<(), Status> {
    let acts = |action: &str| binding.list(&["spec", "validationActions"]).iter().any(|one| one == action);
    for fault in faults {
        if acts("Warn") {
            request.warnings.push(format!(
                "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                policy.name,
                binding.name(),
                fault.message
            ));
        }
        if acts("Deny") {
            let why =
                format!("ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}", policy.name, binding.name(), fault.message);
            let mut status = request.forbidden(&why);
            (status.reason, status.code) = match fault.reason.as_str() {
                "Unauthorized" => ("Unauthorized", 401),
                "Forbidden" => ("Forbidden", 403),
                "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
                _ => ("Invalid", 422),
            };
            let mut details = status.details.take().map(|details| *details).unwrap_or_default();
            details.causes = vec![Cause { reason: String::new(), message: fault.message, field: String::new() }];
            return Err(status.with_details(details));
        }
    }
    Ok(())
}

/// The parameters that a binding names: each is a run of its own.
fn params(chain: &Chain, snapshot: &Snapshot, policy: &Policy, binding: &Object, request: &Request<'_>) -> Result<Vec<Value>, String> {
    let (kind, reference) = (&policy.spec["paramKind"], binding.get(&["spec", "paramRef"]).unwrap_or(&Value::Null));
    if kind.is_null() || reference.is_null() {
        return Ok(vec![Value::Null]);
    }
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("").to_owned();
    let (version, name) = (text(kind, "apiVersion"), text(kind, "kind"));
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let published = chain.registry.now();
    let row = published.kinds.by_kind(group, version, &name);
    let row = row.ok_or_else(|| format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={name}'"))?;
    let namespace = match (row.namespaced(), text(reference, "namespace")) {
        (false, _) => String::new(),
        (true, own) if own.is_empty() => request.namespace.to_owned(),
        (true, own) => own,
    };
    if row.namespaced() && namespace.is_empty() {
        return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned());
    }
    let mut found: Vec<Object> = match text(reference, "name") {
        name if !name.is_empty() => stored(snapshot, row.storage_collection(), &namespace, &name).into_iter().collect(),
        _ => {
            let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            let all = stored_all(snapshot, row.storage_collection(), &prefix).into_iter();
            all.filter(|object| matching::selects(&reference["selector"], object)).collect()
        }
    };
    found.iter_mut().for_each(|object| row.from_storage(object));
    match found.is_empty() {
        true if text(reference, "parameterNotFoundAction") == "Allow" => Ok(Vec::new()),
        true => Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()),
        false => Ok(found.into_iter().map(Object::into_value).collect()),
    }
}

impl Policy {
    /// What cannot be decided is a fault, unless the policy says to ignore it.
    fn failure(&self, message: &str) -> Vec<Fault> {
        match self.spec["failurePolicy"].as_str() {
            Some("Ignore") => Vec::new(),
            _ => vec![Fault { message: message.to_owned(), reason: String::new() }],
        }
    }

    fn run(&self, subject: &Subject, params: &Value) -> Vec<Fault> {
        let budget = Budget::new(OBJECT_COST_MAX);
        let programs = self.conditions.iter().map(|one| (one.name.as_str(), &one.program));
        match matching::conditions_hold(programs, subject, params, &budget) {
            Ok(true) => {}
            Ok(false) => return Vec::new(),
            Err(error) => return self.failure(&error),
        }
        let mut values = Variables { policy: self, subject, params, budget: &budget, known: BTreeMap::new() };
        let mut faults = Vec::new();
        for validation in &self.validations {
            let outcome = match &validation.program {
                Ok(program) => values.evaluate(program),
                Err(error) => Err(EvalError::Failed(format!("compilation error: {error}"))),
            };
            match outcome {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => faults.push(Fault { message: validation.words(&mut values), reason: validation.reason.clone() }),
                Err(error) => faults.extend(self.failure(&format!("expression '{}' resulted in error: {error}", validation.message))),
            }
        }
        // Audit annotations are evaluated, so that an error in one is told; the audit log itself does not take them yet.
        for annotation in &self.annotations {
            if let Ok(program) = &annotation.program
                && let Err(error) = values.evaluate(program)
            {
                faults.extend(self.failure(&format!("auditAnnotation '{}' resulted in error: {error}", annotation.name)));
            }
        }
        faults
    }
}

impl Validation {
    fn words(&self, values: &mut Variables<'_>) -> String {
        let made = self.message_program.as_ref().and_then(|program| values.evaluate(program).ok());
        let text = made.map(|value| value.to_text()).unwrap_or_default();
        if text.trim().is_empty() || text.contains('\n') { self.message.clone() } else { text.trim().to_owned() }
    }
}

/// The variables of a policy, each evaluated when it is first named.
struct Variables<'v> {
    policy: &'v Policy,
    subject: &'v Subject,
    params: &'v Value,
    budget: &'v Budget,
    known: BTreeMap<String, Result<Cel<'v>, EvalError>>,
}

impl<'v> Variables<'v> {
    fn evaluate(&mut self, program: &Program) -> Result<Cel<'v>, EvalError> {
        let mut map = BTreeMap::new();
        for name in program.fields_of("variables") {
            map.insert(name.clone(), self.variable(&name)?);
        }
        let map = Cel::of_fields(map);
        let (subject, params) = (self.subject, self.params);
        let lookup = |name: &str| match name {
            "params" => Some(Cel::json(params)),
            "variables" => Some(map.clone()),
            name => subject.variable(name),
        };
        program.evaluate(&lookup, self.budget)
    }

    fn variable(&mut self, name: &str) -> Result<Cel<'v>, EvalError> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        // A variable names only those before it, so that this ends.
        let found = self.policy.variables.iter().find(|one| one.name == name);
        self.known
            .insert(name.to_owned(), Err(EvalError::Failed(format!("composited variable {name:?} fails to evaluate: it names itself"))));
        let value = match found.map(|one| &one.program) {
            Some(Ok(program)) => self.evaluate(program),
            Some(Err(error)) => Err(EvalError::Failed(format!("composited variable {name:?} fails to compile: {error}"))),
            None => Err(EvalError::Failed(format!("no such key: {name}"))),
        };
        self.known.insert(name.to_owned(), value.clone());
        value
    }
}
