//! From the claims of a token to a user: the rules and mappings of one issuer (apiserver, plugin/pkg/authenticator/token/oidc).

use std::collections::BTreeMap;

use knarr_api::cel::{Budget, OBJECT_COST_MAX, Program, Value as Cel};
use serde_json::{Value, json};

use super::EXTRA_CREDENTIAL;
use crate::User;

/// How one value is got from the claims.
#[derive(Debug)]
pub(super) enum Source {
    Claim { name: String, prefix: String },
    Expression(Program),
}

/// One rule over the claims or the user.
#[derive(Debug)]
pub(super) enum Rule {
    Required { claim: String, value: String },
    Holds { program: Program, message: String },
}

#[derive(Debug)]
pub(super) struct Claims {
    pub(super) rules: Vec<Rule>,
    pub(super) username: Source,
    pub(super) groups: Option<Source>,
    pub(super) uid: Option<Source>,
    pub(super) extra: Vec<(String, Program)>,
    pub(super) user_rules: Vec<Rule>,
}

impl Claims {
    /// The error says which part of the configuration refuses, and nothing of the claims.
    pub(super) fn user(&self, claims: &Value) -> Result<User, String> {
        let budget = Budget::new(OBJECT_COST_MAX);
        for (index, rule) in self.rules.iter().enumerate() {
            rule.check("claims", claims, &budget).map_err(|why| format!("claimValidationRules[{index}]: {why}"))?;
        }
        let name = text(self.username.value(claims, &budget)?, "username")?.unwrap_or_default();
        if name.is_empty() {
            return Err("username claim is missing or empty".to_owned());
        }
        if let Source::Claim { name: claim, .. } = &self.username
            && claim == "email"
            && claims.get("email_verified").is_some_and(|verified| *verified != true)
        {
            return Err("email not verified".to_owned());
        }
        let groups = match &self.groups {
            Some(source) => texts(source.value(claims, &budget)?, "groups")?,
            None => Vec::new(),
        };
        let mut user = User { name, groups, ..User::default() };
        if let Some(source) = &self.uid {
            user.uid = text(source.value(claims, &budget)?, "uid")?.unwrap_or_default();
        }
        let mut extra = BTreeMap::new();
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            extra.insert(EXTRA_CREDENTIAL.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, program) in &self.extra {
            let values = texts(evaluate(program, "claims", claims, &budget)?, key)?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        user.extra = extra;
        let shown = json!({ "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra });
        for (index, rule) in self.user_rules.iter().enumerate() {
            rule.check("user", &shown, &budget).map_err(|why| format!("userValidationRules[{index}]: {why}"))?;
        }
        // The rules judge what the issuer says, as upstream's do: a rule against groups of the system must not meet the one that everybody gets.
        Ok(user.proven())
    }
}

impl Rule {
    fn check(&self, variable: &str, value: &Value, budget: &Budget) -> Result<(), String> {
        match self {
            Rule::Required { claim, value: wanted } => match &value[claim] {
                Value::String(text) if text == wanted => Ok(()),
                _ => Err(format!("claim {claim} does not have the required value")),
            },
            Rule::Holds { program, message } => match evaluate(program, variable, value, budget)? {
                Value::Bool(true) => Ok(()),
                _ if message.is_empty() => Err("validation expression failed".to_owned()),
                _ => Err(message.clone()),
            },
        }
    }
}

impl Source {
    fn value(&self, claims: &Value, budget: &Budget) -> Result<Value, String> {
        match self {
            Source::Expression(program) => evaluate(program, "claims", claims, budget),
            Source::Claim { name, prefix } => Ok(match &claims[name] {
                Value::String(text) => format!("{prefix}{text}").into(),
                Value::Array(all) => {
                    all.iter().map(|one| one.as_str().map_or(Value::Null, |text| format!("{prefix}{text}").into())).collect()
                }
                other => other.clone(),
            }),
        }
    }
}

fn evaluate(program: &Program, variable: &str, value: &Value, budget: &Budget) -> Result<Value, String> {
    let lookup = |name: &str| (name == variable).then(|| Cel::json(value));
    program.evaluate(&lookup, budget).map(|value| value.to_json()).map_err(|error| error.to_string())
}

fn text(value: Value, what: &str) -> Result<Option<String>, String> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(format!("{what} is not a string")),
    }
}

/// One string or several; empty ones are left out.
fn texts(value: Value, what: &str) -> Result<Vec<String>, String> {
    let texts = match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text],
        Value::Array(all) => {
            let texts = all.into_iter().map(|one| text(one, what).map(Option::unwrap_or_default));
            texts.collect::<Result<Vec<_>, _>>()?
        }
        _ => return Err(format!("{what} is neither a string nor a list of strings")),
    };
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}
