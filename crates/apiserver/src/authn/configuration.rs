//! AuthenticationConfiguration (apiserver.config.k8s.io/v1): read from YAML or JSON, with every rule that upstream has for it
//! (apiserver, apis/apiserver/validation). All faults are told at once, each with the path of its field.

use std::collections::BTreeSet;
use std::sync::Arc;

use knarr_api::cel::{Program, Static};
use knarr_api::{FieldError, names};
use serde_json::Value;

use super::claims::{Claims, Rule, Source};
use super::oidc::{Issuer, Keys};
use crate::strict::{self, Errors, list, only};

/// Issuers in one configuration (there, maxJWTAuthenticators).
const ISSUERS_MAX: usize = 64;
/// Fields that hold a text.
const TEXTS: [&str; 15] = [
    "apiVersion",
    "kind",
    "url",
    "discoveryURL",
    "certificateAuthority",
    "audienceMatchPolicy",
    "egressSelectorType",
    "claim",
    "prefix",
    "expression",
    "requiredValue",
    "message",
    "key",
    "valueExpression",
    "path",
];
const VERSIONS: [&str; 3] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

/// Whether callers without credentials are let in, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Anonymous {
    /// Nothing was said: the few paths that everyone may ask.
    Default,
    Never,
    Everywhere,
    /// Exactly these paths.
    On(Vec<String>),
}

pub(super) struct Configuration {
    pub(super) issuers: Vec<Arc<Issuer>>,
    pub(super) anonymous: Anonymous,
}

impl Configuration {
    /// `own_issuers` are those of service account tokens.
    pub(super) fn parse(text: &[u8], own_issuers: &[String]) -> Result<Configuration, String> {
        let value = strict::document(text)?;
        let mut errors = Errors::new();
        let api_version = value["apiVersion"].as_str().unwrap_or_default();
        if !VERSIONS.contains(&api_version) {
            errors.push(FieldError::not_supported("apiVersion", &value["apiVersion"], &VERSIONS));
        }
        if value["kind"] != "AuthenticationConfiguration" {
            errors.push(FieldError::not_supported("kind", &value["kind"], &["AuthenticationConfiguration"]));
        }
        only(&value, "", &["apiVersion", "kind", "jwt", "anonymous"], &mut errors);
        strict::typed(&value, "", &TEXTS, &mut errors);
        let all = list(&value, "jwt", "jwt", &mut errors);
        if all.len() > ISSUERS_MAX {
            errors.push(FieldError::too_many("jwt", all.len(), ISSUERS_MAX));
        }
        let (mut urls, mut discoveries) = (BTreeSet::new(), BTreeSet::new());
        let mut issuers = Vec::new();
        for (index, one) in all.iter().enumerate() {
            let at = format!("jwt[{index}]");
            let url = one["issuer"]["url"].as_str().unwrap_or_default();
            if !urls.insert(url.to_owned()) {
                errors.push(FieldError::duplicate(format!("{at}.issuer.url"), &url.into()));
            }
            let discovery = one["issuer"]["discoveryURL"].as_str().unwrap_or_default();
            if !discovery.is_empty() && !discoveries.insert(discovery.to_owned()) {
                errors.push(FieldError::duplicate(format!("{at}.issuer.discoveryURL"), &discovery.into()));
            }
            if own_issuers.iter().any(|own| own == url) {
                let detail = "URL must not overlap with disallowed issuers: it is that of this cluster's service account tokens";
                errors.push(FieldError::invalid(format!("{at}.issuer.url"), &url.into(), detail));
            }
            issuers.extend(issuer(one, &at, &mut errors));
        }
        let anonymous = anonymous(&value["anonymous"], &mut errors);
        match errors.is_empty() {
            true => Ok(Configuration { issuers, anonymous }),
            false => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
        }
    }
}

fn anonymous(value: &Value, errors: &mut Errors) -> Anonymous {
    if value.is_null() {
        return Anonymous::Default;
    }
    only(value, "anonymous", &["enabled", "conditions"], errors);
    let conditions = list(value, "conditions", "anonymous.conditions", errors);
    let mut paths = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = format!("anonymous.conditions[{index}]");
        only(condition, &at, &["path"], errors);
        match condition["path"].as_str() {
            Some(path) if path.starts_with('/') => paths.push(path.to_owned()),
            _ => errors.push(FieldError::invalid(format!("{at}.path"), &condition["path"], "must be a path that begins with /")),
        }
    }
    match (value["enabled"].as_bool(), conditions.is_empty()) {
        (None, _) => {
            errors.push(FieldError::required("anonymous.enabled", "say true or false"));
            Anonymous::Never
        }
        (Some(false), true) => Anonymous::Never,
        (Some(false), false) => {
            errors.push(FieldError::invalid(
                "anonymous.conditions",
                &value["conditions"],
                "enabled should be set to true when conditions are defined",
            ));
            Anonymous::Never
        }
        (Some(true), true) => Anonymous::Everywhere,
        (Some(true), false) => Anonymous::On(paths),
    }
}

fn issuer(value: &Value, at: &str, errors: &mut Errors) -> Option<Arc<Issuer>> {
    only(value, at, &["issuer", "claimValidationRules", "claimMappings", "userValidationRules"], errors);
    let before = errors.len();
    let part = &value["issuer"];
    let at_issuer = format!("{at}.issuer");
    let known = ["url", "discoveryURL", "certificateAuthority", "audiences", "audienceMatchPolicy", "egressSelectorType"];
    only(part, &at_issuer, &known, errors);
    let text = |field: &str| part[field].as_str().unwrap_or_default().to_owned();
    let (url, discovery, authority) = (text("url"), text("discoveryURL"), text("certificateAuthority"));
    check_url(&url, &format!("{at_issuer}.url"), true, errors);
    check_url(&discovery, &format!("{at_issuer}.discoveryURL"), false, errors);
    if !discovery.is_empty() && discovery.trim_end_matches('/') == url.trim_end_matches('/') {
        let detail = "discoveryURL must be different from URL";
        errors.push(FieldError::invalid(format!("{at_issuer}.discoveryURL"), &discovery.clone().into(), detail));
    }
    if !authority.is_empty() && !crate::callout::is_bundle(authority.as_bytes()) {
        errors.push(FieldError::invalid(
            format!("{at_issuer}.certificateAuthority"),
            &"<omitted>".into(),
            "data does not contain any valid RSA or ECDSA certificates",
        ));
    }
    let audiences = audiences(part, &at_issuer, errors);
    match text("egressSelectorType").as_str() {
        "" => {}
        given @ ("controlplane" | "cluster") => {
            let detail = "this server has no egress selectors: leave it out, and the issuer is reached directly";
            errors.push(FieldError::invalid(format!("{at_issuer}.egressSelectorType"), &given.into(), detail));
        }
        other => {
            errors.push(FieldError::not_supported(format!("{at_issuer}.egressSelectorType"), &other.into(), &["controlplane", "cluster"]))
        }
    }
    let claims = claims(value, at, errors)?;
    (errors.len() == before).then(|| {
        Arc::new(Issuer {
            url,
            discovery_url: Some(discovery).filter(|url| !url.is_empty()),
            authority: Some(authority).filter(|pem| !pem.is_empty()),
            audiences,
            claims,
            keys: Keys::default(),
        })
    })
}

fn check_url(url: &str, at: &str, required: bool, errors: &mut Errors) {
    if url.is_empty() {
        if required {
            errors.push(FieldError::required(at, "URL is required"));
        }
        return;
    }
    let fault = match url.parse::<http::Uri>() {
        Err(_) => "must be a URL",
        Ok(uri) if uri.scheme_str() != Some("https") => "URL scheme must be https",
        Ok(uri) if uri.host().is_none_or(str::is_empty) => "URL must have a host",
        Ok(uri) if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
            "URL must not contain a username or password"
        }
        Ok(uri) if uri.query().is_some() => "URL must not contain a query",
        Ok(_) if url.contains('#') => "URL must not contain a fragment",
        Ok(_) => return,
    };
    errors.push(FieldError::invalid(at, &url.into(), fault));
}

fn audiences(part: &Value, at: &str, errors: &mut Errors) -> Vec<String> {
    let at_list = format!("{at}.audiences");
    let given = list(part, "audiences", &at_list, errors);
    for (index, other) in given.iter().enumerate().filter(|(_, one)| !one.is_string()) {
        errors.push(FieldError::invalid(format!("{at_list}[{index}]"), other, "must be a string"));
    }
    let all: Vec<String> = given.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect();
    if all.is_empty() {
        errors.push(FieldError::required(&at_list, &format!("at least one {at_list} is required")));
    }
    for (index, audience) in all.iter().enumerate() {
        if audience.is_empty() {
            errors.push(FieldError::required(format!("{at_list}[{index}]"), "audience can't be empty"));
        } else if all[..index].contains(audience) {
            errors.push(FieldError::duplicate(format!("{at_list}[{index}]"), &audience.as_str().into()));
        }
    }
    let policy = part["audienceMatchPolicy"].as_str().unwrap_or_default();
    let fault = match (all.len(), policy) {
        (0 | 1, "" | "MatchAny") | (2.., "MatchAny") => None,
        (2.., _) => Some("audienceMatchPolicy must be MatchAny for multiple audiences"),
        _ => Some("audienceMatchPolicy must be empty or MatchAny for single audience"),
    };
    if let Some(fault) = fault {
        errors.push(FieldError::invalid(format!("{at}.audienceMatchPolicy"), &policy.into(), fault));
    }
    all
}

fn claims(value: &Value, at: &str, errors: &mut Errors) -> Option<Claims> {
    let rules = rules(value, "claimValidationRules", &format!("{at}.claimValidationRules"), "claims", errors);
    let user_rules = self::rules(value, "userValidationRules", &format!("{at}.userValidationRules"), "user", errors);
    let mappings = &value["claimMappings"];
    let at = format!("{at}.claimMappings");
    only(mappings, &at, &["username", "groups", "uid", "extra"], errors);
    let username = source(&mappings["username"], &format!("{at}.username"), true, errors);
    if username.is_none() && mappings["username"].is_null() {
        errors.push(FieldError::required(format!("{at}.username"), "claim or expression is required"));
    }
    let groups = source(&mappings["groups"], &format!("{at}.groups"), true, errors);
    let uid = source(&mappings["uid"], &format!("{at}.uid"), false, errors);
    let extra = extra(mappings, &format!("{at}.extra"), errors);
    let username = username?;
    email_is_verified(&username, &rules, &extra, &format!("{at}.username.expression"), errors);
    Some(Claims { rules, username, groups, uid, extra, user_rules })
}

/// A name that is an e-mail address is one only if the issuer has verified it, and an expression must look itself.
fn email_is_verified(username: &Source, rules: &[Rule], extra: &[(String, Program)], at: &str, errors: &mut Errors) {
    let Source::Expression(program) = username else { return };
    let looks = |program: &Program, field: &str| program.fields_of("claims").contains(field);
    if !looks(program, "email") {
        return;
    }
    let in_rules = rules.iter().any(|rule| match rule {
        Rule::Holds { program, .. } => looks(program, "email_verified"),
        Rule::Required { .. } => false,
    });
    if !(looks(program, "email_verified") || in_rules || extra.iter().any(|(_, program)| looks(program, "email_verified"))) {
        let detail = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        errors.push(FieldError::invalid(at, &"<expression>".into(), detail));
    }
}

/// `prefixed`: a claim's prefix must be stated, be it as nothing.
fn source(value: &Value, at: &str, prefixed: bool, errors: &mut Errors) -> Option<Source> {
    if value.is_null() {
        return None;
    }
    only(value, at, if prefixed { &["claim", "prefix", "expression"] } else { &["claim", "expression"] }, errors);
    let text = |field: &str| value[field].as_str().unwrap_or_default();
    match (text("claim"), text("expression")) {
        ("", "") => {
            errors.push(FieldError::required(at, "claim or expression is required"));
            None
        }
        ("", expression) => {
            if !value["prefix"].is_null() {
                errors.push(FieldError::invalid(format!("{at}.prefix"), &value["prefix"], "expression and prefix can't both be set"));
            }
            // Groups may be one text or a list of them.
            let result = if at.ends_with(".groups") { Static::Dyn } else { Static::String };
            compile(expression, "claims", &result, &format!("{at}.expression"), errors).map(Source::Expression)
        }
        (_, expression) if !expression.is_empty() => {
            errors.push(FieldError::invalid(at, &"".into(), "claim and expression can't both be set"));
            None
        }
        (claim, _) => {
            if prefixed && !value["prefix"].is_string() {
                let detail = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.push(FieldError::required(format!("{at}.prefix"), detail));
            }
            Some(Source::Claim { name: claim.to_owned(), prefix: text("prefix").to_owned() })
        }
    }
}

fn extra(mappings: &Value, at: &str, errors: &mut Errors) -> Vec<(String, Program)> {
    let mut found: Vec<(String, Program)> = Vec::new();
    let mut keys = BTreeSet::new();
    for (index, one) in list(mappings, "extra", at, errors).iter().enumerate() {
        let at = format!("{at}[{index}]");
        only(one, &at, &["key", "valueExpression"], errors);
        let key = one["key"].as_str().unwrap_or_default();
        if let Some(fault) = key_fault(key) {
            errors.push(FieldError::invalid(format!("{at}.key"), &key.into(), &fault));
        }
        if !keys.insert(key.to_owned()) {
            errors.push(FieldError::duplicate(format!("{at}.key"), &key.into()));
        }
        let expression = one["valueExpression"].as_str().unwrap_or_default();
        if expression.is_empty() {
            errors.push(FieldError::required(format!("{at}.valueExpression"), "valueExpression is required"));
        } else if let Some(program) = compile(expression, "claims", &Static::Dyn, &format!("{at}.valueExpression"), errors) {
            found.push((key.to_owned(), program));
        }
    }
    found
}

/// `example.org/role`: a domain that is not Kubernetes' own, and a path; all in lower case, as headers carry it.
fn key_fault(key: &str) -> Option<String> {
    let Some((domain, path)) = key.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty()) else {
        return Some("must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned());
    };
    if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some("key must be lowercase".to_owned());
    }
    if let Some(fault) = names::dns1123_subdomain(domain).into_iter().next() {
        return Some(fault);
    }
    if path.bytes().any(|byte| !(byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte))) {
        return Some("the path has a character that a URL's path cannot have".to_owned());
    }
    let reserved = ["k8s.io", "kubernetes.io"].into_iter().find(|own| domain == *own || domain.ends_with(&format!(".{own}")));
    reserved.map(|own| format!("{own} and its subdomains are reserved for Kubernetes"))
}

fn rules(value: &Value, field: &str, at: &str, variable: &str, errors: &mut Errors) -> Vec<Rule> {
    let mut rules = Vec::new();
    let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
    for (index, one) in list(value, field, at, errors).iter().enumerate() {
        let at = format!("{at}[{index}]");
        let over_claims = variable == "claims";
        only(one, &at, if over_claims { &["claim", "requiredValue", "expression", "message"] } else { &["expression", "message"] }, errors);
        let text = |field: &str| one[field].as_str().unwrap_or_default();
        match (text("claim"), text("expression")) {
            ("", "") => {
                let detail = if over_claims { "claim or expression is required" } else { "expression is required" };
                errors.push(FieldError::required(if over_claims { at } else { format!("{at}.expression") }, detail));
            }
            ("", expression) => {
                if !one["requiredValue"].is_null() {
                    errors.push(FieldError::invalid(&at, &one["requiredValue"], "requiredValue can't be set when expression is set"));
                }
                if !expressions.insert(expression.to_owned()) {
                    errors.push(FieldError::duplicate(format!("{at}.expression"), &expression.into()));
                }
                if let Some(program) = compile(expression, variable, &Static::Bool, &format!("{at}.expression"), errors) {
                    rules.push(Rule::Holds { program, message: text("message").to_owned() });
                }
            }
            (_, expression) if !expression.is_empty() => {
                errors.push(FieldError::invalid(&at, &expression.into(), "claim and expression can't both be set"));
            }
            (claim, _) => {
                if !text("message").is_empty() {
                    errors.push(FieldError::invalid(&at, &text("message").into(), "message can't be set when claim is set"));
                }
                if !claims.insert(claim.to_owned()) {
                    errors.push(FieldError::duplicate(format!("{at}.claim"), &claim.into()));
                }
                rules.push(Rule::Required { claim: claim.to_owned(), value: text("requiredValue").to_owned() });
            }
        }
    }
    rules
}

fn compile(expression: &str, variable: &str, result: &Static<'_>, at: &str, errors: &mut Errors) -> Option<Program> {
    // The claims are the issuer's to name, the parts of a user are known.
    const USER: [&str; 4] = ["username", "uid", "groups", "extra"];
    let known = if variable == "user" { Static::Fields(&USER) } else { Static::Dyn };
    match Program::compile(expression.trim(), &[(variable, known)], result) {
        Ok(program) => Some(program),
        Err(error) => {
            errors.push(FieldError::invalid(at, &expression.into(), &error.detail()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": { "url": "https://a.test", "audiences": ["x"] },
                "claimMappings": { "username": { "claim": "sub", "prefix": "" } },
            }],
        })
    }

    /// What is said of the good configuration after `value` was put at `pointer`.
    fn check(pointer: &str, value: Value, expected: &str) {
        let mut configuration = good();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        configuration.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"))[field] = value;
        let said = Configuration::parse(configuration.to_string().as_bytes(), &["https://own.test".to_owned()]).err().unwrap_or_default();
        match expected {
            "" => assert_eq!(said, "", "{pointer}"),
            expected => assert!(said.contains(expected), "{pointer}: {said}"),
        }
    }

    #[test]
    fn every_rule_names_its_field() {
        check("/kind", "AuthenticationConfiguration".into(), "");
        check("/kind", "X".into(), "kind: Unsupported value: \"X\"");
        check("/apiVersion", "v1".into(), "apiVersion: Unsupported value");
        check("/jtw", json!([]), "jtw: Unsupported value");
        let twice = Configuration::parse(b"kind: AuthenticationConfiguration\nkind: AuthenticationConfiguration\n", &[]).err();
        assert_eq!(twice.as_deref(), Some("line 2: key \"kind\" already set in map"));
        let issuer = |field: &str, value: Value, expected: &str| {
            let mut configuration = good();
            configuration["jwt"][0]["issuer"][field] = value;
            let said =
                Configuration::parse(configuration.to_string().as_bytes(), &["https://own.test".to_owned()]).err().unwrap_or_default();
            assert!(if expected.is_empty() { said.is_empty() } else { said.contains(expected) }, "{field}: {said}");
        };
        issuer("url", "".into(), "jwt[0].issuer.url: Required value: URL is required");
        issuer("url", "http://a.test".into(), "jwt[0].issuer.url: Invalid value: \"http://a.test\": URL scheme must be https");
        issuer("url", "https://u:p@a.test".into(), "must not contain a username or password");
        issuer("url", "https://a.test?x=1".into(), "must not contain a query");
        issuer("url", "https://own.test".into(), "URL must not overlap with disallowed issuers");
        issuer("discoveryURL", "https://a.test/".into(), "discoveryURL must be different from URL");
        issuer("discoveryURL", "https://b.test/x".into(), "");
        issuer("certificateAuthority", "x".into(), "jwt[0].issuer.certificateAuthority: Invalid value");
        issuer("certificateAuthority", json!({"file": "/ca.pem"}), "jwt[0].issuer.certificateAuthority: Invalid value");
        issuer("audiences", json!([7]), "jwt[0].issuer.audiences[0]: Invalid value: 7: must be a string");
        issuer("audiences", json!([]), "at least one jwt[0].issuer.audiences is required");
        issuer("audiences", json!(["a", "b"]), "audienceMatchPolicy must be MatchAny for multiple audiences");
        issuer("audiences", json!([""]), "jwt[0].issuer.audiences[0]: Required value");
        issuer("audienceMatchPolicy", "MatchAny".into(), "");
        issuer("audienceMatchPolicy", "MatchAll".into(), "audienceMatchPolicy must be empty or MatchAny for single audience");
        issuer("egressSelectorType", "etcd".into(), "jwt[0].issuer.egressSelectorType: Unsupported value");
        issuer("egressSelectorType", "cluster".into(), "this server has no egress selectors");
        let two = good()["jwt"][0].clone();
        check("/jwt", json!([two.clone(), two.clone()]), "jwt[1].issuer.url: Duplicate value");
        let [mut one, mut other] = [two.clone(), two.clone()];
        other["issuer"]["url"] = "https://other.test".into();
        [&mut one, &mut other].into_iter().for_each(|it| it["issuer"]["discoveryURL"] = "https://both.test/x".into());
        check("/jwt", json!([one, other]), "jwt[1].issuer.discoveryURL: Duplicate value: \"https://both.test/x\"");
        check("/jwt", Value::Array(vec![two; 65]), "jwt: Too many: 65: must have at most 64 items");
    }

    #[test]
    fn mappings_and_rules_are_judged() {
        let mapping = |field: &str, value: Value, expected: &str| check(&format!("/jwt/0/claimMappings/{field}"), value, expected);
        mapping("username", Value::Null, "jwt[0].claimMappings.username: Required value: claim or expression is required");
        mapping("username", json!({"claim": "sub"}), "jwt[0].claimMappings.username.prefix: Required value");
        mapping("username", json!({"claim": "sub", "expression": "claims.sub"}), "claim and expression can't both be set");
        mapping("username", json!({"expression": "claims.sub", "prefix": ""}), "expression and prefix can't both be set");
        mapping("username", json!({"expression": "claims.sub +"}), "jwt[0].claimMappings.username.expression: Invalid value");
        mapping("username", json!({"expression": "1"}), "must evaluate to string but got int");
        mapping("username", json!({"expression": "claims.email"}), "claims.email_verified must be used");
        mapping("username", json!({"expression": "claims.email_verified ? claims.email : ''"}), "");
        mapping("groups", json!({"claim": "g"}), "jwt[0].claimMappings.groups.prefix: Required value");
        mapping("groups", json!({"expression": "claims.?g.orValue([])"}), "");
        mapping("uid", json!({"claim": "u", "prefix": ""}), "jwt[0].claimMappings.uid.prefix: Unsupported value");
        let extra = |key: &str, expected: &str| mapping("extra", json!([{"key": key, "valueExpression": "'a'"}]), expected);
        extra("example.org/a", "");
        extra("a", "must be a domain-prefixed path");
        extra("example.org/A", "key must be lowercase");
        extra("x.k8s.io/a", "k8s.io and its subdomains are reserved for Kubernetes");
        extra("kubernetes.io/a", "kubernetes.io and its subdomains are reserved");
        let rule = |field: &str, value: Value, expected: &str| check(&format!("/jwt/0/{field}"), json!([value]), expected);
        rule("claimValidationRules", json!({"claim": "a", "requiredValue": "b"}), "");
        rule("claimValidationRules", json!({}), "jwt[0].claimValidationRules[0]: Required value");
        rule("claimValidationRules", json!({"claim": "a", "message": "m"}), "message can't be set when claim is set");
        rule(
            "claimValidationRules",
            json!({"expression": "true", "requiredValue": "b"}),
            "requiredValue can't be set when expression is set",
        );
        rule(
            "claimValidationRules",
            json!({"expression": "user.username == ''"}),
            "jwt[0].claimValidationRules[0].expression: Invalid value",
        );
        rule("userValidationRules", json!({"expression": "!user.username.startsWith('system:')"}), "");
        rule("userValidationRules", json!({"expression": "user.name == ''"}), "jwt[0].userValidationRules[0].expression: Invalid value");
        rule("userValidationRules", json!({"expression": "'a'"}), "must evaluate to bool but got string");
    }

    #[test]
    fn anonymous_callers_are_let_in_where_it_says() {
        let parse = |anonymous: Value| {
            let mut configuration = good();
            configuration["anonymous"] = anonymous;
            Configuration::parse(configuration.to_string().as_bytes(), &[]).map(|it| it.anonymous)
        };
        assert_eq!(parse(Value::Null).unwrap(), Anonymous::Default);
        assert_eq!(parse(json!({"enabled": false})).unwrap(), Anonymous::Never);
        assert_eq!(parse(json!({"enabled": true})).unwrap(), Anonymous::Everywhere);
        assert_eq!(parse(json!({"enabled": true, "conditions": [{"path": "/livez"}]})).unwrap(), Anonymous::On(vec!["/livez".to_owned()]));
        for wrong in
            [json!({}), json!({"enabled": false, "conditions": [{"path": "/x"}]}), json!({"enabled": true, "conditions": [{"path": "x"}]})]
        {
            assert!(parse(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
