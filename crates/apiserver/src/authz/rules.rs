//! RBAC rules: what one allows, and whether a set of them covers another.

use serde_json::{Map, Value};

use super::Attributes;

type Names = Box<[Box<str>]>;

/// One `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verbs: Names,
    pub(crate) groups: Names,
    pub(crate) resources: Names,
    pub(crate) names: Names,
    pub(crate) urls: Names,
}

impl Rule {
    /// Reads the `rules` of a role. Parts of another shape are taken as absent; validation lets none into the store.
    pub(crate) fn list(role: &Value) -> Vec<Rule> {
        role.as_object().map(Rule::list_of).unwrap_or_default()
    }

    pub(crate) fn list_of(role: &Map<String, Value>) -> Vec<Rule> {
        let rules = role.get("rules").and_then(Value::as_array);
        rules.into_iter().flatten().filter_map(Value::as_object).map(Rule::from_object).collect()
    }

    /// Every verb on every resource.
    pub(crate) fn everything() -> Rule {
        let any = || -> Names { Box::new(["*".into()]) };
        Rule { verbs: any(), groups: any(), resources: any(), ..Rule::default() }
    }

    /// Every verb on every path that is no resource.
    pub(crate) fn every_path() -> Rule {
        let any = || -> Names { Box::new(["*".into()]) };
        Rule { verbs: any(), urls: any(), ..Rule::default() }
    }

    /// How many single rights the rule stands for.
    pub(crate) fn combinations(&self) -> usize {
        let resources = self.groups.len().saturating_mul(self.resources.len()).saturating_mul(self.names.len().max(1));
        self.verbs.len().saturating_mul(resources.saturating_add(self.urls.len()))
    }

    pub(crate) fn from_object(rule: &Map<String, Value>) -> Rule {
        let names = |field: &str| -> Names {
            let list = rule.get(field).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).map(Box::from).collect()
        };
        Rule {
            verbs: names("verbs"),
            groups: names("apiGroups"),
            resources: names("resources"),
            names: names("resourceNames"),
            urls: names("nonResourceURLs"),
        }
    }

    /// As the API shows it; empty lists are left out.
    pub(crate) fn to_value(&self) -> Value {
        let mut rule = Map::new();
        for (field, names) in [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !names.is_empty() {
                rule.insert(field.to_owned(), names.iter().map(|name| Value::from(&**name)).collect());
            }
        }
        Value::Object(rule)
    }

    pub(crate) fn allows(&self, request: &Attributes<'_>) -> bool {
        if !any_or(&self.verbs, request.verb) {
            return false;
        }
        if request.resource_request {
            any_or(&self.groups, request.group)
                && self.resources.iter().any(|have| resource_matches(have, request.resource, request.subresource))
                && (self.names.is_empty() || has(&self.names, request.name))
        } else {
            self.urls.iter().any(|have| url_matches(have, request.path))
        }
    }

    /// Whether this rule alone allows everything that `wanted`, a rule with one entry in each list, allows.
    fn covers_single(&self, wanted: &Rule) -> bool {
        let verb = |names: &Names| names.first().is_some_and(|verb| any_or(&self.verbs, verb));
        if !verb(&wanted.verbs) {
            return false;
        }
        if let Some(url) = wanted.urls.first() {
            return self.urls.iter().any(|have| url_matches(have, url));
        }
        let (Some(group), Some(resource)) = (wanted.groups.first(), wanted.resources.first()) else {
            return false;
        };
        any_or(&self.groups, group)
            && self.resources.iter().any(|have| covers_resource(have, resource))
            // A right limited to names never covers one that is not.
            && (self.names.is_empty() || wanted.names.first().is_some_and(|name| has(&self.names, name)))
    }

    /// One rule for each combination of one verb with one group, resource and name (or URL).
    fn singles(&self) -> impl Iterator<Item = Rule> + '_ {
        let one = |name: &str| -> Names { Box::new([name.into()]) };
        let urls = self
            .verbs
            .iter()
            .flat_map(move |verb| self.urls.iter().map(move |url| Rule { verbs: one(verb), urls: one(url), ..Rule::default() }));
        let resources = self.verbs.iter().flat_map(move |verb| {
            self.groups.iter().flat_map(move |group| {
                self.resources.iter().flat_map(move |resource| {
                    let names: Vec<Names> = match self.names.is_empty() {
                        true => vec![Names::default()],
                        false => self.names.iter().map(|name| one(name)).collect(),
                    };
                    names.into_iter().map(move |names| Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        names,
                        urls: Names::default(),
                    })
                })
            })
        });
        urls.chain(resources)
    }
}

/// The parts of `wanted` that none of `held` allows, one verb, resource and name at a time. Empty: `held` covers `wanted`.
pub(crate) fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::singles).filter(|single| !held.iter().any(|have| have.covers_single(single))).collect()
}

fn has(names: &[Box<str>], name: &str) -> bool {
    names.iter().any(|have| &**have == name)
}

fn any_or(names: &[Box<str>], name: &str) -> bool {
    names.iter().any(|have| &**have == "*" || &**have == name)
}

/// `pods`, `pods/log`, `*/scale` or `*`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some(("*", sub)) => !subresource.is_empty() && sub == subresource,
        Some((have, sub)) => have == resource && sub == subresource && !subresource.is_empty(),
    }
}

/// The same between the resources of two rules.
fn covers_resource(rule: &str, wanted: &str) -> bool {
    match wanted.split_once('/') {
        _ if rule == "*" || rule == wanted => true,
        Some((_, subresource)) => rule.strip_prefix("*/") == Some(subresource),
        None => false,
    }
}

/// A path, or a prefix followed by `*`.
fn url_matches(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix.trim_end_matches('*')),
        None => rule == path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::User;

    /// `verbs groups resources[ names]`, each separated by commas; `""` is the core group; or `verbs /url`.
    fn rule(text: &str) -> Rule {
        let names = |part: Option<&str>| -> Names {
            part.into_iter().flat_map(|part| part.split(',')).map(|name| name.trim_matches('"').into()).collect()
        };
        let mut parts = text.split_whitespace();
        let verbs = names(parts.next());
        let second = parts.next().unwrap();
        if second.starts_with('/') {
            return Rule { verbs, urls: names(Some(second)), ..Rule::default() };
        }
        Rule { verbs, groups: names(Some(second)), resources: names(parts.next()), names: names(parts.next()), urls: Names::default() }
    }

    /// `verb group resource[/sub] [name]` or `verb /path`.
    fn allows(rule_text: &str, request: &str) -> bool {
        let parts: Vec<&str> = request.split_whitespace().collect();
        let user = User::default();
        let mut attributes = Attributes { version: "v1", ..Attributes::resource(&user, parts[0], "", "") };
        if parts[1].starts_with('/') {
            (attributes.path, attributes.resource_request) = (parts[1], false);
        } else {
            let (resource, subresource) = parts[2].split_once('/').unwrap_or((parts[2], ""));
            (attributes.group, attributes.resource, attributes.subresource) = (parts[1].trim_matches('"'), resource, subresource);
            attributes.name = parts.get(3).copied().unwrap_or("");
        }
        rule(rule_text).allows(&attributes)
    }

    #[test]
    fn one_rule_one_request() {
        for (rule, request, expected) in [
            (r#"get "" pods"#, r#"get "" pods"#, true),
            (r#"get "" pods"#, r#"list "" pods"#, false),
            (r#"get "" pods"#, "get apps pods", false),
            (r#"get "" pods"#, r#"get "" secrets"#, false),
            (r#"get "" pods"#, r#"get "" pods/log x"#, false),
            (r#"get "" pods/log"#, r#"get "" pods/log x"#, true),
            (r#"get "" pods/log"#, r#"get "" pods x"#, false),
            (r#"* * *"#, "frobnicate a.b c/d e", true),
            (r#"* * *"#, "get /healthz", false),
            ("* /*", "get /healthz", true),
            ("* /*", r#"get "" pods"#, false),
            (r#"get * pods/*"#, r#"get "" pods/log"#, false),
            ("update * */scale", "update apps deployments/scale x", true),
            ("update * */scale", "update apps deployments x", false),
            ("update * */scale", "update apps deployments/status x", false),
            (r#"get "" secrets a,b"#, r#"get "" secrets b"#, true),
            (r#"get "" secrets a,b"#, r#"get "" secrets c"#, false),
            (r#"list "" secrets a"#, r#"list "" secrets"#, false),
            (r#"create "" secrets a"#, r#"create "" secrets"#, false),
            ("get /api/*", "get /api/v1", true),
            ("get /api/*", "get /api", false),
            ("get /api/*", "get /api/", true),
            ("get /apis", "get /apis/apps", false),
            ("get /health*", "get /healthz", true),
            ("post /api", "get /api", false),
        ] {
            assert_eq!(allows(rule, request), expected, "{rule} | {request}");
        }
    }

    #[test]
    fn no_one_gives_what_he_does_not_hold() {
        for (held, wanted, missing) in [
            (vec![r#"* * *"#], vec![r#"get,list "" pods"#, "update apps deployments/scale a"], 0),
            (vec![r#"* * *"#], vec!["get /healthz"], 1),
            (vec![r#"get "" pods"#], vec![r#"get "" pods a"#], 0),
            (vec![r#"get "" pods a"#], vec![r#"get "" pods"#], 1),
            (vec![r#"get "" pods a"#], vec![r#"get "" pods a,b"#], 1),
            (vec![r#"get "" pods"#, r#"list "" pods"#], vec![r#"get,list "" pods"#], 0),
            (vec![r#"get "" pods"#], vec![r#"get,list,watch "" pods,secrets"#], 5),
            (vec![r#"get,list "" pods"#], vec![r#"* "" pods"#], 1),
            (vec![r#"get "" pods"#], vec!["get * pods"], 1),
            (vec![r#"get "" pods"#], vec![r#"get "" *"#], 1),
            (vec!["get * */scale"], vec!["get apps deployments/scale"], 0),
            (vec!["get * */scale"], vec!["get apps */scale"], 0),
            (vec!["get * */scale"], vec!["get apps deployments"], 1),
            (vec!["get /api/*"], vec!["get /api/v1,/api/*"], 0),
            (vec!["get /api/v1"], vec!["get /api/*"], 1),
            (vec![], vec![r#"get "" pods"#], 1),
            (vec![], vec![], 0),
        ] {
            let held: Vec<Rule> = held.into_iter().map(rule).collect();
            let wanted: Vec<Rule> = wanted.into_iter().map(rule).collect();
            assert_eq!(uncovered(&held, &wanted).len(), missing, "{held:?} | {wanted:?}");
        }
    }

    #[test]
    fn rules_keep_their_shape() {
        let value = serde_json::json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]});
        assert_eq!(Rule::from_object(value.as_object().unwrap()).to_value(), value);
    }
}
