//! MutatingAdmissionPolicy: changes the object before the mutating webhooks see it (apiserver, admission/plugin/policy/mutating).

use std::sync::Arc;

use knarr_api::{
    Kind, Object, Status,
    cel::{
        Budget, CompileError, OBJECT_COST_MAX, Program, Value as Cel,
        policy::{Purpose, Surroundings},
    },
    decode::{self, FieldValidation},
    patch, ssa,
};
use serde_json::{Value, json};

use super::{Collections, End, Failure, Invocation, MUTATING, Subjects, invocations, is_exempt, refusal};
use crate::admission::{
    Chain, Request,
    matching::{Subject, part},
    reinvocation::Reinvocation,
};

pub(super) struct Mutator {
    mutations: Vec<Mutation>,
    reinvoked: bool,
}

struct Mutation {
    how: How,
    program: Result<Program, CompileError>,
    source: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// The expression gives fields that are merged into the object.
    Apply,
    /// It gives operations of a JSON patch.
    Patch,
}

impl End for Mutator {
    const COLLECTIONS: Collections = MUTATING;

    fn compile(spec: &Value, around: &Surroundings<'_>) -> Mutator {
        let mutation = |one: &Value| {
            let (how, key, purpose) = match one["patchType"].as_str() {
                Some("JSONPatch") => (How::Patch, "jsonPatch", Purpose::Patch),
                _ => (How::Apply, "applyConfiguration", Purpose::Apply),
            };
            let source = one[key]["expression"].as_str().unwrap_or_default().trim().to_owned();
            Mutation { how, program: around.compile(&source, purpose), source }
        };
        Mutator {
            mutations: spec["mutations"].as_array().into_iter().flatten().map(mutation).collect(),
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

/// The policy, its binding, and namespace and name of the parameter.
pub(in crate::admission) type InvocationId = (String, String, String, String);

/// Runs the policies that are about the request in turn, and says whether one changed the object.
pub(in crate::admission) async fn mutate(
    chain: &Chain,
    request: &mut Request<'_>,
    again: &mut Reinvocation<InvocationId>,
) -> Result<bool, Status> {
    let snapshot = chain.store.snapshot();
    if is_exempt(request) || !super::any(&snapshot, MUTATING) {
        return Ok(false);
    }
    let policies = chain.policies.mutators.at(&snapshot);
    let (invocations, failures) = invocations(chain, &snapshot, &policies, request).await;
    drop(snapshot);
    let mut failures: Vec<(Failure<'_>, &str)> = failures.into_iter().map(|failure| (failure, "Forbidden")).collect();
    again.begin(request.object);
    let mut changed = false;
    let mut subjects = Subjects::default();
    for invocation in &invocations {
        let before = request.object.clone();
        let outcome = invocation.run(chain, request, again, &mut subjects).await;
        failures.extend(outcome.troubles.into_iter().filter_map(|why| Some((invocation.failure(why)?, "Invalid"))));
        if *request.object != before {
            changed = true;
            again.object_changed();
        }
        if outcome.ran && invocation.policy.end.reinvoked {
            again.asked(invocation.id());
        }
    }
    again.end(request.object);
    let messages: Vec<String> = failures.iter().map(|(failure, _)| failure.words()).collect();
    match (messages.first(), failures.first()) {
        (Some(message), Some((_, reason))) => {
            let mut status = refusal(request, "", messages.clone());
            status.message.clone_from(message);
            status.reason = reason;
            Err(status)
        }
        _ => Ok(changed),
    }
}

impl Failure<'_> {
    fn words(&self) -> String {
        let by = self.binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        format!("policy '{}'{by} denied request: {}", self.policy, self.why)
    }
}

#[derive(Default)]
struct Outcome {
    /// The policy is about the request, and was due.
    ran: bool,
    /// Why mutations were not made.
    troubles: Vec<String>,
}

impl Outcome {
    fn not_run(why: String) -> Outcome {
        Outcome { ran: false, troubles: vec![why] }
    }
}

impl Invocation<'_, Mutator> {
    fn id(&self) -> InvocationId {
        let text = |key: &str| self.params["metadata"][key].as_str().unwrap_or_default().to_owned();
        (self.policy.name.clone(), self.binding.name().to_owned(), text("namespace"), text("name"))
    }

    /// Makes the policy's mutations one after the other, each on what the one before made.
    async fn run(&self, chain: &Chain, request: &mut Request<'_>, again: &Reinvocation<InvocationId>, subjects: &mut Subjects) -> Outcome {
        let concerned = match subjects.of(self.form.as_ref(), chain, request).await {
            Ok(subject) => subject.answered(|| self.concerns(&subject)).await,
            Err(why) => Err(why),
        };
        match concerned {
            Ok(true) if again.is_due(&self.id()) => {}
            Ok(_) => return Outcome::default(),
            Err(why) => return Outcome::not_run(why),
        }
        let mut outcome = Outcome { ran: true, troubles: Vec::new() };
        for mutation in &self.policy.end.mutations {
            match self.make(mutation, chain, request, subjects).await {
                Ok(true) => subjects.object_changed(),
                Ok(false) => {}
                Err(why) => outcome.troubles.push(why),
            }
        }
        outcome
    }

    /// Makes one mutation and says whether the object is another for it.
    async fn make(&self, mutation: &Mutation, chain: &Chain, request: &mut Request<'_>, subjects: &mut Subjects) -> Result<bool, String> {
        let subject = subjects.of(self.form.as_ref(), chain, request).await?;
        // A deletion has no object to change.
        let Some(object) = Object::from_value(subject.view.object.clone()) else { return Ok(false) };
        let reading = &*request;
        match subject.answered(|| self.mutated(mutation, &subject, &object, reading)).await? {
            Some(changed) if changed != object => {
                let taken = subject.view.take_back(&chain.conversions, request, changed, FieldValidation::Strict).await;
                taken.map_err(|status| status.message)
            }
            _ => Ok(false),
        }
    }

    /// What the mutation makes of the object; none if a test in its patch does not hold.
    fn mutated(&self, mutation: &Mutation, subject: &Subject, object: &Object, request: &Request<'_>) -> Result<Option<Object>, String> {
        let budget = Budget::new(OBJECT_COST_MAX);
        let value = self.values(subject, &budget).evaluate_source(&mutation.program, &mutation.source)?;
        match mutation.how {
            How::Patch => patch::json_if(object, operations(&value)?.to_string().as_bytes())
                .map_err(|status| format!("JSONPatch: {}", status.message)),
            How::Apply => {
                // What the compiler cannot know the type of may be anything.
                if value.made().is_none() {
                    return Err(format!("unsupported return type from ApplyConfiguration expression: {}", value.type_name()));
                }
                value.check_made("Object").map_err(|why| format!("type mismatch: {why}"))?;
                let kind: &Kind = match part(request) {
                    // The options of a stream have no schema, upstream neither.
                    Some(part) => part.body().ok_or_else(|| format!("ApplyConfiguration cannot change {}; use JSONPatch", part.kind))?,
                    None => self.form.as_ref().map_or(request.kind, Arc::as_ref),
                };
                applied(object, value.to_json(), kind).map(Some).map_err(|why| format!("error applying patch: {why}"))
            }
        }
    }
}

fn applied(object: &Object, mut fields: Value, kind: &Kind) -> Result<Object, String> {
    fields["apiVersion"] = kind.api_version().into();
    fields["kind"] = (*kind.kind).into();
    // A field that the schema does not have is a mistake, not something to drop.
    let fields = decode::conform(fields, kind, FieldValidation::Strict);
    let fields = fields.map_err(|status| format!("failed to convert patch object to typed object: {}", status.message))?;
    ssa::merge(object, &fields.object, kind)
}

/// The `JSONPatch` values of an expression as a JSON patch.
fn operations(value: &Cel<'_>) -> Result<Value, String> {
    let made = value.items().ok_or("type mismatch: JSONPatchType.expression should evaluate to array")?;
    let operation = |one: &Cel<'_>| {
        // The compiler lets no other made values through, only what it cannot know.
        let Some(("JSONPatch", fields)) = one.made() else {
            return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".to_owned());
        };
        let mut operation = json!({});
        for (name, field) in fields {
            if let Some((ty, _)) = field.made() {
                field.check_made(ty).map_err(|why| format!("type mismatch: {why}"))?;
            }
            operation[name] = field.to_json();
        }
        if operation["from"] == "" {
            operation.as_object_mut().map(|operation| operation.remove("from"));
        }
        Ok(operation)
    };
    made.iter().map(operation).collect()
}
