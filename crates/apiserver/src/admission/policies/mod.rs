//! Admission policies: rules in CEL about requests, put in force by bindings (apiserver, admission/plugin/policy).
//!
//! One mechanism with two ends: [`validating`] policies judge the object, [`mutating`] ones change it. A policy is compiled when it is first met
//! and kept until a policy or binding changes, which every request looks for: a change is in force with the next request. For each binding and
//! each of its parameters the policy is an [`Invocation`] of its own.

mod mutating;
mod validating;

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_api::{
    Kind, Object,
    cel::{
        Budget, EvalError, Program, Value as Cel,
        policy::{Purpose, Surroundings},
    },
    status::Status,
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

pub(super) use mutating::mutate;
pub(super) use validating::validate;

/// Where the policies of one end and their bindings are stored.
pub(super) type Collections = [&'static str; 2];

pub(super) const VALIDATING: Collections =
    ["admissionregistration.k8s.io/validatingadmissionpolicies", "admissionregistration.k8s.io/validatingadmissionpolicybindings"];
pub(super) const MUTATING: Collections =
    ["admissionregistration.k8s.io/mutatingadmissionpolicies", "admissionregistration.k8s.io/mutatingadmissionpolicybindings"];

/// Whoever could forbid changes to policies could never be undone, so that these are left out.
const NEVER_ABOUT: [&str; 4] =
    ["validatingadmissionpolicies", "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings"];

#[derive(Default)]
pub(super) struct Cache {
    judges: Compiled<validating::Judge>,
    mutators: Compiled<mutating::Mutator>,
}

/// What the policies of one sort do in the end.
trait End: Sized {
    const COLLECTIONS: Collections;

    fn compile(spec: &Value, around: &Surroundings<'_>) -> Self;
}

/// The policies of one state of the store that have bindings.
struct Compiled<E>(Mutex<Option<(u64, Policies<E>)>>);

type Policies<E> = Arc<Vec<Policy<E>>>;

impl<E> Default for Compiled<E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

struct Policy<E> {
    name: String,
    spec: Value,
    conditions: Vec<Named>,
    variables: Vec<Named>,
    bindings: Vec<Object>,
    end: E,
}

struct Named {
    name: String,
    program: Result<Program, String>,
}

/// Whether there is such a policy in force, which is to cost next to nothing where there is none.
pub(super) fn any(snapshot: &Snapshot, collections: Collections) -> bool {
    collections.iter().all(|name| snapshot.len(&Collection::new(name)) > 0)
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

impl<E: End> Compiled<E> {
    fn at(&self, snapshot: &Snapshot) -> Policies<E> {
        let now = fingerprint(snapshot, &E::COLLECTIONS);
        let mut cached = self.0.lock();
        if let Some((then, policies)) = &*cached
            && *then == now
        {
            return policies.clone();
        }
        let [policies, bindings] = E::COLLECTIONS.map(|collection| stored_all(snapshot, collection, ""));
        let policies = policies.iter().map(|policy| Policy::compile(policy, &bindings)).filter(|policy| !policy.bindings.is_empty());
        let policies = Arc::new(policies.collect());
        *cached = Some((now, Arc::clone(&policies)));
        policies
    }
}

impl Named {
    fn list(list: &Value, name: &str, expression: &str, around: &Surroundings<'_>, purpose: Purpose) -> Vec<Named> {
        let one = |one: &Value| Named {
            name: one[name].as_str().unwrap_or_default().to_owned(),
            program: around.compile(one[expression].as_str().unwrap_or_default(), purpose),
        };
        list.as_array().into_iter().flatten().map(one).collect()
    }
}

impl<E: End> Policy<E> {
    fn compile(policy: &Object, bindings: &[Object]) -> Policy<E> {
        let spec = policy.get(&["spec"]).cloned().unwrap_or_default();
        let declared: Vec<&str> = spec["variables"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
        let around = Surroundings::of_policy(!spec["paramKind"].is_null(), &declared);
        Policy {
            name: policy.name().to_owned(),
            conditions: Named::list(&spec["matchConditions"], "name", "expression", &around, Purpose::Condition),
            variables: Named::list(&spec["variables"], "name", "expression", &around, Purpose::Variable),
            bindings: bindings.iter().filter(|binding| binding.str(&["spec", "policyName"]) == policy.name()).cloned().collect(),
            end: E::compile(&spec, &around),
            spec,
        }
    }
}

/// A policy as it is to be run for a request: once for each binding and parameter.
struct Invocation<'p, E> {
    policy: &'p Policy<E>,
    binding: &'p Object,
    /// The kind in whose form the policy wants to see the object, if it is another than the request's.
    form: Option<Arc<Kind>>,
    params: Value,
}

/// A policy that could not be run, or not to its end, and does not want to be passed over then.
struct Failure<'p> {
    policy: &'p str,
    binding: Option<&'p str>,
    why: String,
}

/// What is to be run for the request as it is now.
fn invocations<'p, E>(
    chain: &Chain,
    snapshot: &Snapshot,
    policies: &'p [Policy<E>],
    request: &Request<'_>,
) -> (Vec<Invocation<'p, E>>, Vec<Failure<'p>>) {
    let published = chain.registry.now();
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for policy in policies {
        let form = match matching::about(&policy.spec["matchConstraints"], "resourceRules", request, snapshot, &published.kinds) {
            About::Nothing => continue,
            About::Itself => None,
            About::As(kind) => Some(kind),
        };
        for binding in &policy.bindings {
            let resources = binding.get(&["spec", "matchResources"]).unwrap_or(&Value::Null);
            if matches!(matching::about(resources, "resourceRules", request, snapshot, &published.kinds), About::Nothing) {
                continue;
            }
            match params(chain, snapshot, policy, binding, request) {
                Ok(all) => found.extend(all.into_iter().map(|params| Invocation { policy, binding, form: form.clone(), params })),
                Err(error) => failures.extend(policy.failure(Some(binding), format!("failed to configure binding: {error}"))),
            }
        }
    }
    (found, failures)
}

fn is_exempt(request: &Request<'_>) -> bool {
    request.kind.virtual_ || request.kind.group == "admissionregistration.k8s.io" && NEVER_ABOUT.contains(&&*request.kind.resource)
}

impl<E> Policy<E> {
    fn ignores_failures(&self) -> bool {
        self.spec["failurePolicy"] == "Ignore"
    }

    /// None if the policy wants failures to be passed over.
    fn failure<'p>(&'p self, binding: Option<&'p Object>, why: String) -> Option<Failure<'p>> {
        (!self.ignores_failures()).then(|| Failure { policy: &self.name, binding: binding.map(Object::name), why })
    }
}

impl<'p, E> Invocation<'p, E> {
    fn failure(&self, why: String) -> Option<Failure<'p>> {
        self.policy.failure(Some(self.binding), why)
    }

    /// What the policy is to see. The error is why the object cannot be had in the form that it wants.
    async fn view(&self, chain: &Chain, request: &Request<'_>) -> Result<View, String> {
        match &self.form {
            None => Ok(View::of(request)),
            Some(kind) => {
                let view = View::converted(&chain.conversions, request, Arc::clone(kind)).await;
                view.map_err(|status| format!("failed to convert object version: {}", status.message))
            }
        }
    }

    /// Whether the policy's match conditions hold.
    fn concerns(&self, subject: &Subject) -> Result<bool, String> {
        let programs = self.policy.conditions.iter().map(|one| (one.name.as_str(), &one.program));
        matching::conditions_hold(programs, subject, &self.params, &Budget::new(matching::CONDITIONS_COST_MAX))
    }

    fn values<'v>(&'v self, subject: &'v Subject, budget: &'v Budget) -> Variables<'v> {
        Variables { declared: &self.policy.variables, subject, params: &self.params, budget, known: BTreeMap::new() }
    }
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

/// The parameters that a binding names: each is a run of its own.
fn params<E>(
    chain: &Chain,
    snapshot: &Snapshot,
    policy: &Policy<E>,
    binding: &Object,
    request: &Request<'_>,
) -> Result<Vec<Value>, String> {
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
        (false, own) if !own.is_empty() => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
        }
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

/// The variables of a policy, each evaluated when it is first named.
struct Variables<'v> {
    declared: &'v [Named],
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

    /// The same in upstream's words, for people.
    fn evaluate_source(&mut self, program: &Result<Program, String>, source: &str) -> Result<Cel<'v>, String> {
        let outcome = match program {
            Ok(program) => self.evaluate(program),
            Err(error) => Err(EvalError::Failed(format!("compilation error: {error}"))),
        };
        outcome.map_err(|error| format!("expression '{source}' resulted in error: {error}"))
    }

    fn variable(&mut self, name: &str) -> Result<Cel<'v>, EvalError> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        // A variable names only those before it, so that this ends.
        let found = self.declared.iter().find(|one| one.name == name);
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

/// A refusal by policies: `messages` are its causes.
fn refusal(request: &Request<'_>, message: &str, messages: Vec<String>) -> Status {
    let mut status = request.forbidden(message);
    let mut details = status.details.take().map(|details| *details).unwrap_or_default();
    let cause = |message| knarr_api::status::Cause { reason: String::new(), message, field: String::new() };
    details.causes = messages.into_iter().map(cause).collect();
    status.with_details(details)
}
