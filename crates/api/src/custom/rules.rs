//! `x-kubernetes-validations`: rules in CEL, compiled with the schema and run over each object (apiextensions-apiserver, pkg/apiserver/schema/cel).
//!
//! A rule that names `oldSelf` is about a change: it runs on updates, where the value can be found again in the old object. Other rules are not run
//! on values that did not change, nor on what is within them; upstream runs them, and makes warnings of their faults.

use serde_json::{Map, Value as Json};

use super::check::Before;
use super::jsonpath::Path;
use super::schema::{Additional, Items, Structural, Type};
use crate::cel::{Budget, CompileError, EvalError, Extent, OBJECT_COST_MAX, Program, Static, Value};
use crate::error::{ErrorKind, FieldError, FieldErrors};

/// Bytes of a message. Upstream's limit for what expressions yield (MaxEvaluatedMessageExpressionSizeBytes).
const MESSAGE_BYTES_MAX: usize = 5 * 1024;

/// One compiled rule. What does not compile was refused with its definition; met nevertheless, it fails every object.
#[derive(Clone, Debug)]
pub struct Rule {
    program: Result<Program, CompileError>,
    message: String,
    /// What names it where it could not be run.
    title: String,
    /// With its source. None where the message is no expression.
    message_program: Option<(Result<Program, CompileError>, String)>,
    reason: ErrorKind,
    /// Below the value of the rule, where the fault is told: fields after a dot, keys of maps in brackets.
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
        let message = text("messageExpression");
        let message_program = (!message.is_empty()).then(|| (Program::compile(message, &variables, &Static::String), message.to_owned()));
        Rule {
            is_transition: program.as_ref().is_ok_and(|program| program.names("oldSelf")),
            program,
            message: if text("message").is_empty() { format!("failed rule: {}", text("rule")) } else { text("message").to_owned() },
            title: text(if text("message").is_empty() { "rule" } else { "message" }).to_owned(),
            message_program,
            reason: reason(text("reason")).unwrap_or(ErrorKind::Invalid),
            field_path: normalized(schema, text("fieldPath")),
            optional_old,
        }
    }

    /// `shown`: the value, unless it is too large to be shown.
    fn fault(&self, at: String, shown: Option<&Json>, text: &str) -> FieldError {
        match (self.reason, shown) {
            (ErrorKind::Forbidden, _) => FieldError::forbidden(at, text),
            (ErrorKind::Required, _) => FieldError::required(at, text),
            (ErrorKind::Duplicate, Some(value)) => FieldError::duplicate(at, value),
            (ErrorKind::Duplicate, None) => FieldError::duplicate_without_value(at),
            (_, Some(value)) => FieldError::invalid(at, value, text),
            (_, None) => FieldError::invalid_without_value(at, text),
        }
    }

    /// What its expression and that of its message cost at most.
    pub(super) fn costs(&self, extent: &Extent) -> (u64, Option<u64>) {
        let optional: &[&str] = if self.optional_old { &["oldSelf"] } else { &[] };
        let rule = self.program.as_ref().map_or(0, |program| program.cost_at_most(extent, optional));
        let message = self.message_program.as_ref().and_then(|(program, _)| program.as_ref().ok());
        (rule, message.map(|program| program.cost_at_most(extent, optional)))
    }

    fn run<'a>(&self, own: &Value<'a>, old: Option<&Value<'a>>, budget: &Budget) -> Outcome {
        let program = match &self.program {
            Ok(program) => program,
            Err(error) => return Outcome::Broken(format!("rule compile error: {error}")),
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
        let title = &self.title;
        match program.evaluate(&lookup, budget) {
            Ok(Value::Bool(true)) => Outcome::Good,
            Ok(_) => self.words(&lookup, budget),
            Err(error @ EvalError::NoOverload(_)) => Outcome::Broken(format!(
                "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {title}"
            )),
            Err(EvalError::Failed(error)) => Outcome::Broken(format!("{error} evaluating rule: {title}")),
            Err(error @ EvalError::TooCostly) => Outcome::Over(format!(
                "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {title}"
            )),
            Err(error @ EvalError::BudgetSpent) => Outcome::Over(error.to_string()),
        }
    }

    fn words<'a>(&self, lookup: &dyn Fn(&str) -> Option<Value<'a>>, budget: &Budget) -> Outcome {
        let Some((Ok(program), source)) = &self.message_program else { return Outcome::Bad(self.message.clone()) };
        match program.evaluate(lookup, budget) {
            Ok(value) => {
                let text = value.to_text();
                let text = text.trim();
                let fits = !text.is_empty() && !text.contains('\n') && text.len() <= MESSAGE_BYTES_MAX;
                Outcome::Bad(if fits { text.to_owned() } else { self.message.clone() })
            }
            Err(EvalError::Failed(_) | EvalError::NoOverload(_)) => Outcome::Bad(self.message.clone()),
            Err(EvalError::TooCostly) => {
                let why = "no further validation rules will be run due to call cost exceeds limit for messageExpression";
                Outcome::Over(format!("{why}: {source:?}"))
            }
            Err(EvalError::BudgetSpent) => Outcome::Over(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run".to_owned(),
            ),
        }
    }
}

/// What became of a rule.
enum Outcome {
    Good,
    /// The value is not as the rule has it.
    Bad(String),
    /// The rule could not be run to its end.
    Broken(String),
    /// Neither it nor any other rule can be run any more.
    Over(String),
}

/// No more rules are run.
struct Over;

fn reason(text: &str) -> Option<ErrorKind> {
    Some(match text {
        "" | "FieldValueInvalid" => ErrorKind::Invalid,
        "FieldValueForbidden" => ErrorKind::Forbidden,
        "FieldValueRequired" => ErrorKind::Required,
        "FieldValueDuplicate" => ErrorKind::Duplicate,
        _ => return None,
    })
}

fn normalized(schema: &Structural, path: &str) -> String {
    let Ok(parsed) = Path::parse(path) else { return String::new() };
    let mut out = String::new();
    let mut schema = Some(schema);
    for name in parsed.names().unwrap_or_default() {
        let is_field = schema.is_some_and(|schema| schema.properties.contains_key(name));
        out.push_str(&if is_field { format!(".{name}") } else { format!("[{name}]") });
        schema = schema.and_then(|schema| schema.member(name));
    }
    out
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
    let is_unchanged = old == Some(object);
    // What stopped it is among the faults.
    let _: Result<(), Over> = walk
        .apply(&own, before.as_ref(), is_unchanged, (schema, None), "")
        .and_then(|()| walk.members(object, old, is_unchanged, schema, ""));
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
    /// `place`: the schema of the value, and the value where faults show it.
    fn apply<'a>(
        &mut self,
        own: &Value<'a>,
        old: Option<&Value<'a>>,
        is_unchanged: bool,
        (schema, shown): (&Structural, Option<&Json>),
        path: &str,
    ) -> Result<(), Over> {
        for rule in &schema.rules {
            let runs = if rule.is_transition { old.is_some() || rule.optional_old } else { !is_unchanged };
            if !runs {
                continue;
            }
            let below = |field_path: &str| format!("{path}{field_path}").trim_start_matches('.').to_owned();
            let ty: Json = schema.ty.word().into();
            match rule.run(own, old, self.budget) {
                Outcome::Good => {}
                Outcome::Bad(text) => self.errors.push(rule.fault(below(&rule.field_path), shown, &text)),
                Outcome::Broken(text) => self.errors.push(FieldError::invalid(below(""), &ty, &text)),
                Outcome::Over(text) => {
                    self.errors.push(FieldError::invalid(below(""), &ty, &text));
                    return Err(Over);
                }
            }
        }
        Ok(())
    }

    fn members(
        &mut self,
        map: &Map<String, Json>,
        old: Option<&Map<String, Json>>,
        is_unchanged: bool,
        schema: &Structural,
        path: &str,
    ) -> Result<(), Over> {
        for (key, value) in map {
            let Some(inner) = schema.member(key) else { continue };
            let old = old.and_then(|old| old.get(key));
            let path = if schema.properties.contains_key(key) { format!("{path}.{key}") } else { format!("{path}[{key}]") };
            self.value(value, old, is_unchanged, inner, &path)?;
        }
        Ok(())
    }

    /// `is_unchanged`: what is around the value is as it was.
    fn value(&mut self, value: &Json, old: Option<&Json>, is_unchanged: bool, schema: &Structural, path: &str) -> Result<(), Over> {
        if value.is_null() || !has_rules(schema) {
            return Ok(());
        }
        let is_unchanged = is_unchanged || old == Some(value);
        let own = Value::typed(value, Some(schema));
        let before = old.filter(|old| !old.is_null()).map(|old| Value::typed(old, Some(schema)));
        let shown = (!matches!(schema.ty, Type::Object | Type::Array)).then_some(value);
        self.apply(&own, before.as_ref(), is_unchanged, (schema, shown), path)?;
        match value {
            Json::Object(map) => self.members(map, old.and_then(Json::as_object), is_unchanged, schema, path),
            Json::Array(list) => {
                let Some(items) = &schema.items else { return Ok(()) };
                let before = Before::of(old, schema);
                for (index, item) in list.iter().enumerate() {
                    let old = before.same(item, schema);
                    self.value(item, old, is_unchanged, items, &format!("{path}[{index}]"))?;
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
        // All rules were compiled with the schema, in their order.
        let Some(compiled) = schema.rules.get(index) else { continue };
        check_rule(schema, rule, compiled, &format!("{path}.x-kubernetes-validations[{index}]"), lost, errors);
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

fn check_rule(schema: &Structural, rule: &Json, compiled: &Rule, path: &str, lost: Option<&str>, errors: &mut FieldErrors) {
    let before = errors.len();
    check_words(schema, rule, path, errors);
    if errors.len() > before {
        return;
    }
    let text = |key: &str| rule[key].as_str().unwrap_or("");
    match &compiled.program {
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
    if let Some((Err(error), _)) = &compiled.message_program {
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
