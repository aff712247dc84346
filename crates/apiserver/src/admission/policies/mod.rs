//! Admission policies: rules in CEL about requests, put in force by bindings (apiserver, admission/plugin/policy).
//!
//! One mechanism with two ends: [`validating`] policies judge the object, [`mutating`] ones change it. A policy is compiled when it is first met
//! and kept until a policy or binding changes, which every request looks for: a change is in force with the next request. For each binding and
//! each of its parameters the policy is an [`Invocation`] of its own.

mod mutating;
mod rights;
mod validating;
mod variables;

use std::collections::BTreeSet;
use std::sync::Arc;

use knarr_api::{
    Kind, Object,
    cel::{
        Budget, CompileError, Program,
        policy::{Purpose, Surroundings},
    },
    status::Status,
};
use knarr_store::{Collection, Entry, Key, Snapshot};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    Chain, Request,
    authorizer_library::{Question, Resource},
    matching::{self, About, Subject, View},
    stored_all,
};
use crate::{
    authz::{Questions, Selectors},
    shut::still_shut,
};

pub(super) use mutating::mutate;
pub(super) use rights::check_rights;
pub(super) use validating::validate;
use variables::{Declared, Variables};

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
    variables: Declared,
    bindings: Vec<Object>,
    end: E,
}

struct Named {
    name: String,
    program: Result<Program, CompileError>,
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
        let declared: BTreeSet<&str> = spec["variables"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
        let around = Surroundings::of_policy(!spec["paramKind"].is_null(), &declared);
        Policy {
            name: policy.name().to_owned(),
            conditions: Named::list(&spec["matchConditions"], "name", "expression", &around, Purpose::Condition),
            variables: Declared::new(Named::list(&spec["variables"], "name", "expression", &around, Purpose::Variable)),
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
async fn invocations<'p, E>(
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
            match params(chain, snapshot, policy, binding, request).await {
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

    /// Whether the policy's match conditions hold.
    fn concerns(&self, subject: &Subject) -> Result<bool, String> {
        let programs = self.policy.conditions.iter().map(|one| (one.name.as_str(), &one.program));
        matching::conditions_hold(programs, subject, &self.params, &Budget::new(matching::CONDITIONS_COST_MAX))
    }

    fn values<'v>(&'v self, subject: &'v Subject, budget: &'v Budget) -> Variables<'v> {
        Variables::new(&self.policy.variables, subject, &self.params, budget)
    }
}

/// What the policies see of a request, in the forms in which they want to see it. Each is made once, until the object changes.
#[derive(Default)]
struct Subjects(Vec<(Option<Arc<Kind>>, Made)>);

type Made = Result<Arc<Subject>, String>;

impl Subjects {
    /// The error is why the object cannot be had in that form.
    async fn of(&mut self, form: Option<&Arc<Kind>>, chain: &Chain, request: &Request<'_>) -> Made {
        let is_it = |known: &Option<Arc<Kind>>| match (known, form) {
            (Some(known), Some(form)) => Arc::ptr_eq(known, form),
            (known, form) => known.is_none() && form.is_none(),
        };
        if let Some((_, known)) = self.0.iter().find(|(known, _)| is_it(known)) {
            return known.clone();
        }
        let view = match form {
            None => Ok(View::of(request)),
            Some(kind) => View::converted(&chain.conversions, request, Arc::clone(kind)).await,
        };
        let made = match view {
            Ok(view) => Ok(Arc::new(chain.subject(&chain.store.snapshot(), request, view))),
            Err(status) => Err(format!("failed to convert object version: {}", status.message)),
        };
        self.0.push((form.cloned(), made.clone()));
        made
    }

    fn object_changed(&mut self) {
        self.0.clear();
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
            selectors: Selectors::default(),
        };
        let questions = Arc::new(Questions::new(self.authorizer.clone()));
        let question = Question::new(questions.clone(), Arc::new(request.user.clone()), own);
        Subject::new(request, snapshot, view, Arc::new(question), questions)
    }
}

/// The parameters that a binding names: each is a run of its own.
async fn params<E>(
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
    let (collection, name) = (Collection::new(row.storage_collection()), text(reference, "name"));
    // What is not known yet is not missing.
    if let Some(shut) = chain.store.shut(&collection) {
        return Err(still_shut(&shut).message);
    }
    let entries: Vec<Arc<Entry>> = match name.as_str() {
        "" => {
            let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            snapshot.range(&collection, &prefix, None).cloned().collect()
        }
        name => snapshot.get(&Key::new(&collection, &namespace, name)).into_iter().cloned().collect(),
    };
    let entries = chain.conversions.entries(&row, entries).await.map_err(|status| status.message)?;
    let mut found = Vec::new();
    for entry in entries {
        let mut object = serde_json::from_slice::<Object>(&entry.value).map_err(|error| format!("stored {}: {error}", entry.key))?;
        row.from_storage(&mut object);
        if !name.is_empty() || matching::selects(&reference["selector"], &object) {
            found.push(object);
        }
    }
    match found.is_empty() {
        true if text(reference, "parameterNotFoundAction") == "Allow" => Ok(Vec::new()),
        true => Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()),
        false => Ok(found.into_iter().map(Object::into_value).collect()),
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
