//! `x-kubernetes-validations`: rules in CEL, compiled with the schema and run over each object (apiextensions-apiserver, pkg/apiserver/schema/cel).
//!
//! A rule that names `oldSelf` is about a change: it runs on updates, where the value can be found again in the old object. Other rules are not run
//! on values that did not change.

use serde_json::{Map, Value as Json};

use super::check::Before;
use super::jsonpath::Path;
use super::schema::{Additional, Items, Structural};
use crate::cel::{Budget, CompileError, EvalError, Extent, OBJECT_COST_MAX, Program, Static, Value};
use crate::error::{ErrorKind, FieldError, FieldErrors};

/// Bytes of a message. Upstream's limit for what expressions yield (MaxEvaluatedMessageExpressionSizeBytes).
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// One compiled rule. What does not compile was refused with its definition; met nevertheless, it fails every object.
#[derive(Clone, Debug)]
pub struct Rule {
    program: Result<Program, CompileError>,
    message: String,
    message_program: Option<Program>,
    reason: ErrorKind,
    /// Below the value of the rule, where the fault is told.
    field_path: String,
    /// It compares with the old value.
    is_transition: bool,
    /// It also runs where there is no old value.
    optional_old: bool,
}

/// The rules of a schema.
pub(super) fn compile(schema: &Structural, rules: &Json) -> Vec<Rule> {
    rules.as_array().into_iter().flatten().map(|rule| Rule::new(schema, rule)).collect()
}

fn variables(schema: &Structural, optional_old: bool) -> [(&'static str, Static<'_>); 2] {
    let own = Static::of_schema(schema);
    let old = if optional_old { Static::Optional(Box::new(own.clone())) } else { own.clone() };
    [("self", own), ("oldSelf", old)]
}

impl Rule {
    fn new(schema: &Structural, rule: &Json) -> Rule {
        let text = |key: &str| rule[key].as_str().unwrap_or("").trim();
        let optional_old = rule["optionalOldSelf"] == true;
        let variables = variables(schema, optional_old);
        let program = Program::compile(text("rule"), &variables, &Static::Bool);
        let message_program = Program::compile(text("messageExpression"), &variables, &Static::String).ok();
        Rule {
            is_transition: program.as_ref().is_ok_and(|program| program.names("oldSelf")),
            program,
            message: if text("message").is_empty() { format!("failed rule: {}", text("rule")) } else { text("message").to_owned() },
            message_program,
            reason: reason(text("reason")).unwrap_or(ErrorKind::Invalid),
            field_path: text("fieldPath").to_owned(),
            optional_old,
        }
    }

    /// What its expression and that of its message cost at most.
    pub(super) fn costs(&self, extent: &Extent) -> (u64, Option<u64>) {
        let optional: &[&str] = if self.optional_old { &["oldSelf"] } else { &[] };
        let rule = self.program.as_ref().map_or(0, |program| program.cost_at_most(extent, optional));
        (rule, self.message_program.as_ref().map(|program| program.cost_at_most(extent, optional)))
    }

    fn run<'a>(&self, own: &Value<'a>, old: Option<&Value<'a>>, budget: &Budget) -> Result<Option<String>, EvalError> {
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => return Ok(Some(format!("the rule does not compile: {error}"))),
        };
        let old = match (self.optional_old, old) {
            (true, old) => Some(Value::Optional(old.cloned().map(std::sync::Arc::new))),
            (false, old) => old.cloned(),
        };
        let lookup = |name: &str| match name {
            "self" => Some(own.clone()),
            "oldSelf" => old.clone(),
            _ => None,
        };
        match program.evaluate(&lookup, budget) {
            Ok(Value::Bool(true)) => Ok(None),
            Ok(_) => Ok(Some(self.words(&lookup, budget)?)),
            Err(EvalError::Failed(error)) => Ok(Some(format!("{error} evaluating rule: {}", self.message))),
            Err(error) => Err(error),
        }
    }

    fn words<'a>(&self, lookup: &dyn Fn(&str) -> Option<Value<'a>>, budget: &Budget) -> Result<String, EvalError> {
        let Some(program) = &self.message_program else { return Ok(self.message.clone()) };
        match program.evaluate(lookup, budget) {
            Ok(value) => {
                let text = value.to_text();
                let fits = !text.trim().is_empty() && !text.contains('\n') && text.len() <= MESSAGE_BYTES_MAX;
                Ok(if fits { text.trim().to_owned() } else { self.message.clone() })
            }
            Err(EvalError::Failed(_)) => Ok(self.message.clone()),
            Err(error) => Err(error),
        }
    }
}

fn reason(text: &str) -> Option<ErrorKind> {
    Some(match text {
        "" | "FieldValueInvalid" => ErrorKind::Invalid,
        "FieldValueForbidden" => ErrorKind::Forbidden,
        "FieldValueRequired" => ErrorKind::Required,
        "FieldValueDuplicate" => ErrorKind::Duplicate,
        _ => return None,
    })
}

/// Runs all rules over an object.
pub(super) fn check(object: &Map<String, Json>, old: Option<&Map<String, Json>>, schema: &Structural) -> FieldErrors {
    let mut errors = Vec::new();
    if !has_rules(schema) {
        return errors;
    }
    let budget = Budget::new(OBJECT_COST_MAX);
    let own = Value::Object(object, Some(schema));
    let before = old.map(|old| Value::Object(old, Some(schema)));
    let mut walk = Walk { budget: &budget, errors: &mut errors };
    let spent = walk.apply(&own, before.as_ref(), old == Some(object), schema, "").and_then(|()| walk.members(object, old, schema, ""));
    if let Err(error) = spent {
        errors.push(FieldError::invalid("", &"".into(), &error.to_string()));
    }
    errors
}

/// Whether there is anything to run, here or below.
fn has_rules(schema: &Structural) -> bool {
    let below = schema.properties.values().chain(schema.items.as_deref());
    let additional = match &schema.additional {
        Additional::Schema(inner) => Some(&**inner),
        Additional::Any | Additional::Unsaid => None,
    };
    !schema.rules.is_empty() || below.chain(additional).any(has_rules)
}

struct Walk<'w> {
    budget: &'w Budget,
    errors: &'w mut FieldErrors,
}

impl Walk<'_> {
    fn apply<'a>(
        &mut self,
        own: &Value<'a>,
        old: Option<&Value<'a>>,
        unchanged: bool,
        schema: &Structural,
        path: &str,
    ) -> Result<(), EvalError> {
        for rule in &schema.rules {
            let runs = if rule.is_transition { old.is_some() || rule.optional_old } else { !unchanged };
            if !runs {
                continue;
            }
            let failure = match rule.run(own, old, self.budget) {
                Err(EvalError::TooCostly) => Some(format!(
                    "{}: no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    EvalError::TooCostly,
                    rule.message
                )),
                other => other?,
            };
            if let Some(message) = failure {
                let at = format!("{path}{}", rule.field_path).trim_start_matches('.').to_owned();
                let value: Json = schema.ty.word().into();
                self.errors.push(match rule.reason {
                    ErrorKind::Forbidden => FieldError::forbidden(at, &message),
                    ErrorKind::Required => FieldError::required(at, &message),
                    ErrorKind::Duplicate => FieldError::duplicate(at, &value),
                    _ => FieldError::invalid(at, &value, &message),
                });
            }
        }
        Ok(())
    }

    fn members(
        &mut self,
        map: &Map<String, Json>,
        old: Option<&Map<String, Json>>,
        schema: &Structural,
        path: &str,
    ) -> Result<(), EvalError> {
        for (key, value) in map {
            let Some(inner) = schema.member(key) else { continue };
            let old = old.and_then(|old| old.get(key));
            self.value(value, old, inner, &format!("{path}.{key}"))?;
        }
        Ok(())
    }

    fn value(&mut self, value: &Json, old: Option<&Json>, schema: &Structural, path: &str) -> Result<(), EvalError> {
        if value.is_null() || !has_rules(schema) {
            return Ok(());
        }
        let own = Value::typed(value, Some(schema));
        let before = old.filter(|old| !old.is_null()).map(|old| Value::typed(old, Some(schema)));
        self.apply(&own, before.as_ref(), old == Some(value), schema, path)?;
        match value {
            Json::Object(map) => self.members(map, old.and_then(Json::as_object), schema, path),
            Json::Array(list) => {
                let Some(items) = &schema.items else { return Ok(()) };
                let before = Before::of(old, schema);
                for (index, item) in list.iter().enumerate() {
                    let old = before.same(item, schema);
                    self.value(item, old, items, &format!("{path}[{index}]"))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// What is wrong with the rules of a schema at `path`. `lost`: the schema around this one whose values cannot be found again in an old object.
pub(super) fn check_schema(schema: &Structural, raw: &Json, path: &str, lost: Option<&str>, errors: &mut FieldErrors) {
    for (index, rule) in raw["x-kubernetes-validations"].as_array().into_iter().flatten().enumerate() {
        check_rule(schema, rule, &format!("{path}.x-kubernetes-validations[{index}]"), lost, errors);
    }
    for (key, property) in &schema.properties {
        check_schema(property, &raw["properties"][key.as_str()], &format!("{path}.properties[{key}]"), lost, errors);
    }
    if let Additional::Schema(inner) = &schema.additional {
        check_schema(inner, &raw["additionalProperties"], &format!("{path}.additionalProperties"), lost, errors);
    }
    if let Some(items) = &schema.items {
        let lost = lost.or((!matches!(schema.list, Items::Map(_))).then_some(path));
        check_schema(items, &raw["items"], &format!("{path}.items"), lost, errors);
    }
}

fn check_rule(schema: &Structural, rule: &Json, path: &str, lost: Option<&str>, errors: &mut FieldErrors) {
    let before = errors.len();
    check_words(schema, rule, path, errors);
    if errors.len() > before {
        return;
    }
    let text = |key: &str| rule[key].as_str().unwrap_or("");
    let variables = variables(schema, rule["optionalOldSelf"] == true);
    match Program::compile(text("rule").trim(), &variables, &Static::Bool) {
        Err(error) => {
            let why = match error {
                CompileError::Yields { .. } => "cel expression must evaluate to a bool".to_owned(),
                wrong @ CompileError::Wrong(_) => wrong.detail(),
            };
            errors.push(FieldError::invalid(format!("{path}.rule"), &text("rule").into(), &why));
        }
        Ok(program) => match (program.names("oldSelf"), lost) {
            (true, Some(lost)) => {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {lost}");
                errors.push(FieldError::invalid(format!("{path}.rule"), &text("rule").into(), &why));
            }
            (false, _) if !rule["optionalOldSelf"].is_null() => {
                let why = "may not be set if oldSelf is not used in rule";
                errors.push(FieldError::invalid(format!("{path}.optionalOldSelf"), &rule["optionalOldSelf"], why));
            }
            _ => {}
        },
    }
    if !text("messageExpression").is_empty()
        && let Err(error) = Program::compile(text("messageExpression").trim(), &variables, &Static::String)
    {
        let why = match error {
            CompileError::Wrong(issues) => format!("messageExpression compilation failed: {issues}"),
            CompileError::Yields { .. } => "messageExpression must evaluate to a string".to_owned(),
        };
        errors.push(FieldError::invalid(format!("{path}.messageExpression"), &text("messageExpression").into(), &why));
    }
}

/// What can be said of a rule without compiling it.
fn check_words(schema: &Structural, rule: &Json, path: &str, errors: &mut FieldErrors) {
    let text = |key: &str| rule[key].as_str().unwrap_or("");
    let blank = |key: &str| !text(key).is_empty() && text(key).trim().is_empty();
    let lines = |text: &str| text.contains(['\n', '\r']);
    let (message, field_path) = (format!("{path}.message"), format!("{path}.fieldPath"));
    if text("rule").trim().is_empty() {
        errors.push(FieldError::required(format!("{path}.rule"), "rule is not specified"));
    } else if blank("message") {
        errors.push(FieldError::invalid(message, &text("message").into(), "message must be non-empty if specified"));
    } else if lines(text("message").trim()) {
        errors.push(FieldError::invalid(message, &text("message").into(), "message must not contain line breaks"));
    } else if lines(text("rule").trim()) && text("message").is_empty() {
        errors.push(FieldError::required(message, "message must be specified if rule contains line breaks"));
    }
    if blank("messageExpression") {
        let why = "messageExpression must be non-empty if specified";
        errors.push(FieldError::required(format!("{path}.messageExpression"), why));
    }
    if reason(text("reason")).is_none() {
        let known = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        errors.push(FieldError::not_supported(format!("{path}.reason"), &text("reason").into(), &known));
    }
    if text("fieldPath").is_empty() {
        return;
    }
    let mut wrong = |why: &str| errors.push(FieldError::invalid(&field_path, &text("fieldPath").into(), why));
    if blank("fieldPath") {
        wrong("fieldPath must be non-empty if specified");
    }
    if lines(text("fieldPath")) {
        wrong("fieldPath must not contain line breaks");
    }
    let parsed = Path::parse(text("fieldPath")).ok();
    if parsed.as_ref().and_then(Path::names).is_none_or(|names| schema.at(&names).is_none()) {
        wrong("fieldPath must be a valid path");
    }
}
