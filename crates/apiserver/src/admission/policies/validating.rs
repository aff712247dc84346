//! ValidatingAdmissionPolicy: denies, warns, or writes into the audit log what its validations do not hold for
//! (apiserver, admission/plugin/policy/validating).

use std::collections::BTreeMap;

use knarr_api::{
    Object, Status,
    cel::{
        Budget, CompileError, OBJECT_COST_MAX, Program, Value as Cel,
        policy::{Purpose, Surroundings},
    },
};
use serde_json::{Value, json};

use super::{Collections, End, Invocation, Named, Subjects, VALIDATING, Variables, invocations, is_exempt, refusal};
use crate::admission::{Chain, Request, matching::Subject};

/// Bytes of a message that an expression makes; longer ones are not told (apiserver, apis/cel/config.go, MaxEvaluatedMessageExpressionSizeBytes).
const MESSAGE_BYTES_MAX: usize = 5 << 10;

/// Bytes of one value of an audit annotation; the rest is cut off (validating/dispatcher.go, maxAuditAnnotationValueLength).
const ANNOTATION_BYTES_MAX: usize = 10 << 10;

/// In the audit log: a validation that did not hold, for a binding that asks for `Audit`.
const FAILURE_ANNOTATION: &str = "validation.policy.admission.k8s.io/validation_failure";

pub(super) struct Judge {
    validations: Vec<Validation>,
    annotations: Vec<Named>,
}

struct Validation {
    program: Result<Program, CompileError>,
    source: String,
    /// What is said if the message's expression says nothing.
    message: String,
    message_program: Option<Program>,
    reason: String,
}

impl End for Judge {
    const COLLECTIONS: Collections = VALIDATING;

    fn compile(spec: &Value, around: &Surroundings<'_>) -> Judge {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().trim().to_owned();
        let validation = |one: &Value| {
            let (source, message, made) = (text(one, "expression"), text(one, "message"), text(one, "messageExpression"));
            Validation {
                program: around.compile(&source, Purpose::Validation),
                message: if message.is_empty() { format!("failed expression: {source}") } else { message },
                message_program: around.compile(&made, Purpose::Message).ok().filter(|_| !made.is_empty()),
                reason: text(one, "reason"),
                source,
            }
        };
        Judge {
            validations: spec["validations"].as_array().into_iter().flatten().map(validation).collect(),
            annotations: Named::list(&spec["auditAnnotations"], "key", "valueExpression", around, Purpose::Annotation),
        }
    }
}

/// One validation that did not hold, or could not be judged.
struct Fault {
    /// The validation's place in the policy.
    index: usize,
    message: String,
    reason: String,
}

/// What a policy says about a request.
#[derive(Default)]
struct Verdict {
    faults: Vec<Fault>,
    annotations: Vec<(String, String)>,
    /// Why an audit annotation has no value. The request is denied for it, whatever the binding's actions are.
    broken: Vec<String>,
}

/// The first denial, and its status' reason.
#[derive(Default)]
struct Denials(Option<(String, String)>);

impl Denials {
    fn add(&mut self, policy: &str, binding: Option<&str>, why: &str, reason: &str) {
        let by = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        self.0.get_or_insert_with(|| (format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {why}"), reason.to_owned()));
    }
}

/// Judges the request by all policies that are about it; the error is that of the first that denies it.
pub(in crate::admission) async fn validate(chain: &Chain, request: &mut Request<'_>) -> Result<(), Status> {
    if is_exempt(request) {
        return Ok(());
    }
    let snapshot = chain.store.snapshot();
    let policies = chain.policies.judges.at(&snapshot);
    let (invocations, failures) = invocations(chain, &snapshot, &policies, request).await;
    let mut subjects = Subjects::default();
    let mut denials = Denials::default();
    failures.iter().for_each(|failure| denials.add(failure.policy, failure.binding, &failure.why, ""));
    let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for invocation in &invocations {
        let (policy, binding) = (invocation.policy, invocation.binding);
        let subject = match subjects.of(invocation.form.as_ref(), chain, request).await {
            Ok(subject) => subject,
            Err(why) => {
                if let Some(failure) = policy.failure(None, why) {
                    denials.add(failure.policy, failure.binding, &failure.why, "");
                }
                continue;
            }
        };
        let verdict = subject.answered(|| invocation.judge(&subject)).await;
        for fault in verdict.faults {
            act(binding, &policy.name, &fault, request, &mut denials);
        }
        for (key, value) in verdict.annotations {
            let values = annotations.entry(format!("{}/{key}", policy.name)).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        verdict.broken.iter().for_each(|why| denials.add(&policy.name, Some(binding.name()), why, ""));
    }
    // Several bindings or parameters may say different things under one key.
    request.annotations.extend(annotations.into_iter().map(|(key, values)| (key, values.join(", "))));
    let Some((message, reason)) = denials.0 else { return Ok(()) };
    let mut status = refusal(request, &message, vec![message.clone()]);
    (status.reason, status.code) = match reason.as_str() {
        "Unauthorized" => ("Unauthorized", 401),
        "Forbidden" => ("Forbidden", 403),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
        _ => ("Invalid", 422),
    };
    Err(status)
}

/// Denies, warns, notes, or does nothing, as the binding says.
fn act(binding: &Object, policy: &str, fault: &Fault, request: &mut Request<'_>, denials: &mut Denials) {
    let actions = binding.list(&["spec", "validationActions"]);
    let acts = |action: &str| actions.iter().any(|one| one == action);
    if acts("Warn") {
        let (name, message) = (binding.name(), &fault.message);
        request.warnings.push(format!("Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {message}"));
    }
    if acts("Audit") {
        let failure = json!([{"message": fault.message, "policy": policy, "binding": binding.name(), "expressionIndex": fault.index,
            "validationActions": actions}]);
        // The first is kept, as upstream.
        request.annotations.entry(FAILURE_ANNOTATION.to_owned()).or_insert_with(|| failure.to_string());
    }
    if acts("Deny") {
        denials.add(policy, Some(binding.name()), &fault.message, &fault.reason);
    }
}

impl Invocation<'_, Judge> {
    fn judge(&self, subject: &Subject) -> Verdict {
        let mut verdict = Verdict::default();
        let failed = |index: usize, message: String| Fault { index, message, reason: String::new() };
        let ignored = self.policy.ignores_failures();
        match self.concerns(subject) {
            Ok(true) => {}
            Err(why) if !ignored => return Verdict { faults: vec![failed(0, why)], ..verdict },
            Ok(false) | Err(_) => return verdict,
        }
        let budget = Budget::new(OBJECT_COST_MAX);
        let values = self.values(subject, &budget);
        for (index, validation) in self.policy.end.validations.iter().enumerate() {
            match values.evaluate_source(&validation.program, &validation.source) {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => verdict.faults.push(Fault { index, message: validation.words(&values), reason: validation.reason.clone() }),
                Err(why) if !ignored => verdict.faults.push(failed(index, why)),
                Err(_) => {}
            }
        }
        let budget = Budget::new(OBJECT_COST_MAX);
        let values = self.values(subject, &budget);
        for Named { name, program } in &self.policy.end.annotations {
            let outcome = program.as_ref().map_err(ToString::to_string);
            match outcome.and_then(|program| values.evaluate(program).map_err(|error| error.to_string())) {
                Ok(Cel::String(text)) => {
                    let text = text.trim();
                    if !text.is_empty() {
                        let end = text.floor_char_boundary(ANNOTATION_BYTES_MAX);
                        verdict.annotations.push((name.clone(), text[..end].to_owned()));
                    }
                }
                Ok(Cel::Null) => {}
                Ok(_) => {
                    verdict.broken.push(format!("the valueExpression of the audit annotation '{name}' gave neither a string nor null"))
                }
                Err(why) if !ignored => verdict.broken.push(format!("the valueExpression of the audit annotation '{name}' failed: {why}")),
                Err(_) => {}
            }
        }
        verdict
    }
}

impl Validation {
    fn words(&self, values: &Variables<'_>) -> String {
        let made = self.message_program.as_ref().and_then(|program| values.evaluate(program).ok());
        let text = made.map(|value| value.to_text()).unwrap_or_default();
        let text = text.trim();
        if text.is_empty() || text.contains('\n') || text.len() > MESSAGE_BYTES_MAX { self.message.clone() } else { text.to_owned() }
    }
}
