//! What policies and webhooks are about: rules of operations and resources, selectors of namespaces and objects, match conditions
//! (apiserver, admission/plugin/webhook/predicates).

use std::sync::Arc;

use knarr_api::{
    Kind, Kinds, Object, Status, Subresource,
    cel::{Budget, EvalError, OBJECT_COST_MAX, Value as Cel},
    decode::FieldValidation,
    select::LabelSelector,
    status,
};
use knarr_store::Snapshot;
use serde_json::{Value, json};

use super::{Operation, Request, stored};
use crate::authz::Questions;
use crate::custom::Conversions;

impl Operation {
    pub(super) fn word(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What a policy or hook has to do with a request.
pub(super) enum About {
    Nothing,
    Itself,
    /// The request's object in the form of another kind, in which the rules name it.
    As(Arc<Kind>),
}

/// What `resources` (`matchConstraints`, `matchResources`, or a webhook), whose rules stand at the key `rules`, has to do with the request.
pub(super) fn about(resources: &Value, rules: &str, request: &Request<'_>, snapshot: &Snapshot, kinds: &Kinds) -> About {
    let list = |key: &str| resources[key].as_array().map_or(&[][..], Vec::as_slice);
    if !(namespace_fits(&resources["namespaceSelector"], request, snapshot) && object_fits(&resources["objectSelector"], request)) {
        return About::Nothing;
    }
    let equivalent = resources["matchPolicy"] != "Exact";
    let find = |rules: &[Value]| match rules.iter().any(|rule| rule_fits(rule, request, request.kind)) {
        true => About::Itself,
        false if equivalent => equivalents(request, kinds)
            .find(|kind| rules.iter().any(|rule| rule_fits(rule, request, kind)))
            .map_or(About::Nothing, |kind| About::As(kind.clone())),
        false => About::Nothing,
    };
    if !matches!(find(list("excludeResourceRules")), About::Nothing) {
        return About::Nothing;
    }
    // A binding without rules is about whatever its policy is about.
    if list(rules).is_empty() { About::Itself } else { find(list(rules)) }
}

/// The other kinds under which the same objects are served.
fn equivalents<'k>(request: &Request<'_>, kinds: &'k Kinds) -> impl Iterator<Item = &'k Arc<Kind>> {
    let own = request.kind;
    let (collection, group, version) = (own.collection.clone(), own.group.clone(), own.version.clone());
    let subresource = request.subresource.to_owned();
    kinds.iter().filter(move |kind| {
        let other = kind.group != group || kind.version != version;
        other && kind.collection == collection && (subresource.is_empty() || kind.subresource(&subresource).is_some())
    })
}

fn rule_fits(rule: &Value, request: &Request<'_>, kind: &Kind) -> bool {
    let has = |key: &str, wanted: &str| rule[key].as_array().into_iter().flatten().any(|one| one == "*" || one == wanted);
    let scope = match rule["scope"].as_str().unwrap_or("*") {
        "Namespaced" => kind.namespaced(),
        "Cluster" => !kind.namespaced(),
        _ => true,
    };
    let names = rule["resourceNames"].as_array().map_or(&[][..], Vec::as_slice);
    scope
        && has("operations", request.operation.word())
        && has("apiGroups", &kind.group)
        && has("apiVersions", &kind.version)
        && rule["resources"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .any(|one| resource_fits(one, &kind.resource, request.subresource))
        && (names.is_empty() || names.iter().any(|name| name == request.name))
}

/// `pods`, `pods/status`, `pods/*`, `*`, `*/status`, `*/*`
fn resource_fits(rule: &str, resource: &str, subresource: &str) -> bool {
    let (wanted, part) = rule.split_once('/').unwrap_or((rule, ""));
    (wanted == "*" || wanted == resource) && (part == subresource || part == "*")
}

fn namespace_fits(selector: &Value, request: &Request<'_>, snapshot: &Snapshot) -> bool {
    if is_empty(selector) {
        return true;
    }
    let is_namespace = request.kind.collection == "core/namespaces";
    // What is being written says what the namespace will be; a deletion or a part of it changes no labels.
    if is_namespace && request.subresource.is_empty() && matches!(request.operation, Operation::Create | Operation::Update) {
        return selects(selector, request.object);
    }
    match if is_namespace { request.name } else { request.namespace } {
        // Objects of the cluster are never left out by it.
        "" => true,
        namespace => selects(selector, &stored(snapshot, "core/namespaces", "", namespace).unwrap_or_default()),
    }
}

fn object_fits(selector: &Value, request: &Request<'_>) -> bool {
    is_empty(selector) || selects(selector, request.object) || request.old.is_some_and(|old| selects(selector, old))
}

fn is_empty(selector: &Value) -> bool {
    selector.as_object().is_none_or(serde_json::Map::is_empty)
}

/// Whether a label selector selects the object; one that cannot be read selects nothing.
pub(super) fn selects(selector: &Value, object: &Object) -> bool {
    LabelSelector::from_value(selector).is_ok_and(|selector| selector.matches(|key| object.label(key)))
}

/// The request's object in the form in which a policy or hook is to see it.
pub(super) struct View {
    /// Another kind than the request's own.
    converted: Option<Arc<Kind>>,
    /// Null for a deletion.
    pub(super) object: Value,
    pub(super) old: Value,
    /// What policies name `request`: an AdmissionRequest without its objects.
    pub(super) request: Value,
}

impl View {
    pub(super) fn of(request: &Request<'_>) -> View {
        let whole = |object: &Object| Value::Object(object.0.clone());
        Self::new(request, None, whole)
    }

    /// Where a webhook converts, it is asked.
    pub(super) async fn converted(conversions: &Conversions, request: &Request<'_>, kind: Arc<Kind>) -> Result<View, Status> {
        let mut view = Self::of(request);
        view.request = attributes(request, &kind);
        // The body of an act, like a Scale, is the same for all of them.
        if part(request).is_none() {
            for value in [&mut view.object, &mut view.old] {
                if let Some(object) = Object::from_value(value.take()) {
                    *value = convert(conversions, object, request.kind, &kind).await?.into_value();
                }
            }
            view.converted = Some(kind);
        }
        Ok(view)
    }

    fn new(request: &Request<'_>, converted: Option<Arc<Kind>>, form: impl Fn(&Object) -> Value) -> View {
        View {
            object: if request.operation == Operation::Delete { Value::Null } else { form(request.object) },
            // Of an act on an object, which is a create, that object is no older state.
            old: request.old.filter(|_| request.operation != Operation::Create).map_or(Value::Null, &form),
            request: attributes(request, converted.as_deref().unwrap_or(request.kind)),
            converted,
        }
    }

    /// The AdmissionRequest of a review, without its uid.
    pub(super) fn admission_request(&self) -> Value {
        let mut value = self.request.clone();
        value["object"] = self.object.clone();
        value["oldObject"] = self.old.clone();
        value
    }

    /// Makes a changed object, in the view's form, the request's, and says whether it is another than before. The namespace is not a policy's or
    /// hook's to change, and stays.
    /// `validation`: what is done about fields that a built-in kind does not have; what the schema of a custom one does not have is dropped.
    pub(super) async fn take_back(
        &self,
        conversions: &Conversions,
        request: &mut Request<'_>,
        changed: Object,
        validation: FieldValidation,
    ) -> Result<bool, Status> {
        let mut object = changed;
        let kind = match part(request) {
            Some(part) => part.body(),
            None => Some(self.converted.as_deref().unwrap_or(request.kind)),
        };
        if let Some(kind) = kind {
            let validation = if kind.custom.is_some() { FieldValidation::Ignore } else { validation };
            // Old clients send bodies of subresources in versions that are not served by themselves.
            if part(request).is_some() {
                object.set(&["apiVersion"], kind.api_version().into());
            }
            let conformed = knarr_api::decode::conform(object.into_value(), kind, validation);
            object = conformed.map_err(|error| status::internal(error.message))?.object;
            kind.default(&mut object);
            if let Some(kind) = &self.converted {
                object = convert(conversions, object, kind, request.kind).await?;
            }
        }
        match request.object.get(&["metadata", "namespace"]) {
            Some(value) => object.set(&["metadata", "namespace"], value.clone()),
            None => drop(object.remove(&["metadata", "namespace"])),
        }
        let differs = object != *request.object;
        *request.object = object;
        Ok(differs)
    }
}

/// The subresource whose body, of another kind than the resource, is the request's object: a Scale, Binding, Eviction, or the options of a stream.
pub(super) fn part<'a>(request: &Request<'a>) -> Option<&'a Subresource> {
    request.kind.subresource(request.subresource).filter(|part| part.kind != request.kind.kind)
}

async fn convert(conversions: &Conversions, object: Object, from: &Kind, to: &Kind) -> Result<Object, Status> {
    if !converts_outside(from) {
        return Ok(convert_here(object, from, to));
    }
    let mut object = conversions.to_version(from, &to.version, object).await?;
    to.from_storage(&mut object);
    Ok(object)
}

fn converts_outside(kind: &Kind) -> bool {
    kind.custom.as_ref().is_some_and(|custom| custom.conversion.is_some())
}

fn convert_here(mut object: Object, from: &Kind, to: &Kind) -> Object {
    from.to_storage(&mut object);
    to.from_storage(&mut object);
    object.set_type(&to.api_version(), &to.kind);
    object
}

/// The request as policies see it and webhooks are sent it, under `kind`.
fn attributes(request: &Request<'_>, kind: &Kind) -> Value {
    let of = |kind: &Kind| match kind.subresource(request.subresource) {
        Some(part) => json!({"group": part.group, "version": part.version, "kind": part.kind}),
        None => json!({"group": kind.group, "version": kind.version, "kind": kind.kind}),
    };
    let resource = |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.resource});
    let mut user = json!({"username": request.user.name, "groups": request.user.groups});
    if !request.user.uid.is_empty() {
        user["uid"] = request.user.uid.as_str().into();
    }
    if !request.user.extra.is_empty() {
        user["extra"] = json!(request.user.extra);
    }
    let mut value = json!({
        "kind": of(kind), "resource": resource(kind), "requestKind": of(request.kind), "requestResource": resource(request.kind),
        "name": request.name, "operation": request.operation.word(), "userInfo": user, "dryRun": request.dry_run,
        "options": (request.options)(),
    });
    // The paths of one namespace name it twice (endpoints/request/requestinfo.go).
    let namespace = match request.kind.collection == "core/namespaces" && request.operation != Operation::Create {
        true => request.name,
        false => request.namespace,
    };
    for (key, text) in [("namespace", namespace), ("subResource", request.subresource), ("requestSubResource", request.subresource)] {
        if !text.is_empty() {
            value[key] = text.into();
        }
    }
    value
}

/// What expressions about a request can name.
pub(super) struct Subject {
    pub(super) view: View,
    pub(super) namespace: Value,
    pub(super) authorizer: Arc<dyn knarr_api::cel::Host>,
    questions: Arc<Questions>,
}

impl Subject {
    pub(super) fn new(
        request: &Request<'_>,
        snapshot: &Snapshot,
        view: View,
        authorizer: Arc<dyn knarr_api::cel::Host>,
        questions: Arc<Questions>,
    ) -> Subject {
        let namespace = match request.namespace {
            "" => Value::Null,
            name => stored(snapshot, "core/namespaces", "", name).map_or(Value::Null, Object::into_value),
        };
        Subject { view, namespace, authorizer, questions }
    }

    /// Evaluates what may ask the authorizer, as often as it takes until all that it asks is answered.
    pub(super) async fn answered<T>(&self, work: impl Fn() -> T) -> T {
        self.questions.answered(work).await
    }

    pub(super) fn variable(&self, name: &str) -> Option<Cel<'_>> {
        Some(match name {
            "object" => Cel::json(&self.view.object),
            "oldObject" => Cel::json(&self.view.old),
            "request" => Cel::json(&self.view.request),
            "namespaceObject" => Cel::json(&self.namespace),
            "authorizer" => Cel::Host(self.authorizer.clone()),
            _ => return None,
        })
    }
}

/// What the match conditions of one policy or webhook may cost together: a quarter of an object's rules (apiserver, apis/cel/config.go,
/// RuntimeCELCostBudgetMatchConditions).
pub(super) const CONDITIONS_COST_MAX: u64 = OBJECT_COST_MAX / 4;

/// Whether all conditions hold. One that is false decides, even if another fails; the error is of the first that fails.
pub(super) fn conditions_hold<'p>(
    conditions: impl Iterator<Item = (&'p str, &'p Result<knarr_api::cel::Program, knarr_api::cel::CompileError>)>,
    subject: &Subject,
    params: &Value,
    budget: &Budget,
) -> Result<bool, String> {
    let lookup = |name: &str| if name == "params" { Some(Cel::json(params)) } else { subject.variable(name) };
    let mut failure = None;
    for (name, program) in conditions {
        let outcome = match program {
            Ok(program) => program.evaluate(&lookup, budget),
            Err(error) => Err(EvalError::Failed(format!("compilation error: {error}"))),
        };
        match outcome {
            Ok(Cel::Bool(true)) => {}
            Ok(_) => return Ok(false),
            Err(error @ (EvalError::Failed(_) | EvalError::NoOverload(_))) => {
                failure.get_or_insert(format!("match condition '{name}' failed: {error}"));
            }
            Err(error @ (EvalError::TooCostly | EvalError::BudgetSpent)) => return Err(error.to_string()),
        }
    }
    failure.map_or(Ok(true), Err)
}
