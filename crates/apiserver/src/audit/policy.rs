//! The audit policy (audit.k8s.io/v1): what is recorded of which request. The first rule that matches counts, as upstream's checker has it
//! (apiserver/pkg/audit/policy/checker.go).

use serde::{Deserialize, Serialize};

use crate::authz::Attributes;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[expect(dead_code, reason = "may be there, as in every object, and says nothing")]
    metadata: serde_json::Value,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What a policy says of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) omit_stages: Vec<Stage>,
    pub(super) omit_managed_fields: bool,
}

/// Resources whose bodies are secrets or carry them. They are never recorded beyond Metadata, whatever a policy asks for.
const SECRET: [(&str, &str); 3] = [("", "secrets"), ("", "serviceaccounts/token"), ("authentication.k8s.io", "tokenreviews")];

impl Policy {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let value = knarr_api::decode::value_from_yaml(text)?;
        let policy: Self = serde_json::from_value(value).map_err(|error| error.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(format!("it is {} {:?}; expected audit.k8s.io/v1 Policy", policy.api_version, policy.kind));
        }
        // An empty policy records nothing, and is more likely a mistake (policy/reader.go).
        if policy.rules.is_empty() {
            return Err("it has no rules".to_owned());
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Some(fault) = rule.fault() {
                return Err(format!("rules[{index}]: {fault}"));
            }
        }
        Ok(policy)
    }

    pub(super) fn judge(&self, asked: &Attributes<'_>) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(asked)) else {
            return Verdict { level: Level::None, omit_stages: Vec::new(), omit_managed_fields: false };
        };
        let mut omit_stages = self.omit_stages.clone();
        omit_stages.extend(rule.omit_stages.iter().copied());
        let is = |name: &str| asked.resource == name || name.split_once('/') == Some((asked.resource, asked.subresource));
        let secret = asked.resource_request && SECRET.iter().any(|(group, name)| asked.group == *group && is(name));
        Verdict {
            level: if secret { rule.level.min(Level::Metadata) } else { rule.level },
            omit_stages,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    /// audit/validation/validation.go.
    fn fault(&self) -> Option<String> {
        let about_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if about_resources && !self.non_resource_urls.is_empty() {
            return Some("rules cannot apply to both regular resources and non-resource URLs".to_owned());
        }
        let url = |url: &&String| {
            url.as_str() != "*" && (!url.starts_with('/') || url.trim_end_matches('*').contains('*') || url.ends_with("**"))
        };
        if let Some(url) = self.non_resource_urls.iter().find(url) {
            return Some(format!("nonResourceURLs: {url:?} must begin with '/' and may end with one '*'"));
        }
        let named = |resources: &GroupResources| !resources.resource_names.is_empty() && resources.resources.is_empty();
        if self.resources.iter().any(named) {
            return Some("using resourceNames requires at least one resource".to_owned());
        }
        // `apps/v1` is no group.
        self.resources
            .iter()
            .find(|resources| resources.group.contains('/'))
            .map(|resources| format!("group {:?}: no version belongs here", resources.group))
    }

    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let holds = |list: &[String], value: &str| list.is_empty() || list.iter().any(|one| one == value);
        let group = || self.user_groups.is_empty() || self.user_groups.iter().any(|group| asked.user.in_group(group));
        if !holds(&self.users, &asked.user.name) || !group() {
            return false;
        }
        if !holds(&self.verbs, asked.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.resource_request && holds(&self.namespaces, asked.namespace) && self.names(asked);
        }
        if !self.non_resource_urls.is_empty() {
            return !asked.resource_request && self.non_resource_urls.iter().any(|url| covers(url, asked.path));
        }
        true
    }

    fn names(&self, asked: &Attributes<'_>) -> bool {
        // `resource/*` is the resource itself too, and neither `*/*` nor `*` of verbs is anything.
        let fits = |name: &str| match name.split_once('/') {
            None => name == "*" || (name == asked.resource && asked.subresource.is_empty()),
            Some((resource, "*")) => resource == asked.resource,
            Some((resource, subresource)) => subresource == asked.subresource && (resource == "*" || resource == asked.resource),
        };
        self.resources.is_empty()
            || self.resources.iter().filter(|resources| resources.group == asked.group).any(|resources| {
                let named = resources.resource_names.is_empty() || resources.resource_names.iter().any(|name| name == asked.name);
                resources.resources.is_empty() || (named && resources.resources.iter().any(|name| fits(name)))
            })
    }
}

fn covers(url: &str, path: &str) -> bool {
    url.strip_suffix('*').map_or(url == path, |start| path.starts_with(start))
}

/// What is recorded where no policy is given: every access to a Secret, everything that others than the system's own parts do, and what those write;
/// of all that who, what, when and with what result, and no bodies. What comes every few seconds and says nothing is left out: leases, events, probes,
/// discovery.
pub(super) const DEFAULT: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources: [{group: "", resources: [secrets, serviceaccounts/token]}]
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi*", "/api", "/api/*", "/apis", "/apis/*", "/metrics"]
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}]
- level: None
  resources: [{group: "", resources: [events]}, {group: events.k8s.io, resources: [events]}]
- level: None
  userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: None
  users: ["system:kube-controller-manager", "system:kube-scheduler", "knarr:network", "system:apiserver"]
  verbs: [get, list, watch]
- level: None
  userGroups: ["system:nodes"]
  resources: [{group: "", resources: [nodes/status, pods/status]}]
- level: Metadata
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::User;

    fn check(rules: &str, asked: &str, expected: Level) {
        let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: {rules}\n");
        let policy = Policy::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{rules}: {error}"));
        assert_eq!(judge(&policy, asked).level, expected, "{rules} of {asked}");
    }

    /// `verb group resource/subresource namespace name`, `-` for nothing; or `verb /path`.
    fn judge(policy: &Policy, asked: &str) -> Verdict {
        let user = User::authenticated("ann", ["staff"]);
        let words: Vec<&str> = asked.split(' ').map(|word| if word == "-" { "" } else { word }).collect();
        let asked = match words[..] {
            [verb, path] => Attributes { path, resource_request: false, ..Attributes::resource(&user, verb, "", "") },
            [verb, group, resource, namespace, name] => {
                let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                Attributes { subresource, namespace, name, ..Attributes::resource(&user, verb, group, resource) }
            }
            _ => panic!("{asked}"),
        };
        policy.judge(&asked)
    }

    #[test]
    fn rules_match_as_upstreams() {
        use Level::{Metadata, None, Request, RequestResponse};
        let pods = "get - pods ns a";
        check("[{level: Request}]", pods, Request);
        check("[{level: None}, {level: Request}]", pods, None);
        check("[{level: Request, users: [ann]}]", pods, Request);
        check("[{level: Request, users: [bob]}]", pods, None);
        check("[{level: Request, userGroups: [staff]}]", pods, Request);
        check("[{level: Request, userGroups: [guests]}]", pods, None);
        check("[{level: Request, verbs: [list]}]", pods, None);
        check("[{level: Request, verbs: ['*']}]", pods, None);
        check("[{level: Request, namespaces: [ns]}]", pods, Request);
        check("[{level: Request, namespaces: ['']}]", pods, None);
        check("[{level: Request, namespaces: ['']}]", "get - nodes - a", Request);
        check("[{level: Request, resources: [{group: ''}]}]", pods, Request);
        check("[{level: Request, resources: [{group: apps}]}]", pods, None);
        check("[{level: Request, resources: [{resources: [pods]}]}]", "get - pods/log ns a", None);
        check("[{level: Request, resources: [{resources: [pods/log]}]}]", "get - pods/log ns a", Request);
        check("[{level: Request, resources: [{resources: ['pods/*']}]}]", "get - pods/log ns a", Request);
        check("[{level: Request, resources: [{resources: ['pods/*']}]}]", pods, Request);
        check("[{level: Request, resources: [{resources: ['*/log']}]}]", "get - pods/log ns a", Request);
        check("[{level: Request, resources: [{resources: ['*/*']}]}]", "get - pods/log ns a", None);
        check("[{level: Request, resources: [{resources: ['*']}]}]", "get - pods/log ns a", Request);
        check("[{level: Request, resources: [{resources: [pods], resourceNames: [a]}]}]", pods, Request);
        check("[{level: Request, resources: [{resources: [pods], resourceNames: [b]}]}]", pods, None);
        check("[{level: RequestResponse, nonResourceURLs: ['/heal*']}]", "get /healthz", RequestResponse);
        check("[{level: RequestResponse, nonResourceURLs: ['*']}]", "get /healthz", RequestResponse);
        check("[{level: RequestResponse, nonResourceURLs: ['/healthz']}]", "get /healthz/ping", None);
        check("[{level: RequestResponse, nonResourceURLs: ['*']}]", pods, None);
        check("[{level: RequestResponse, resources: [{}]}]", "get /healthz", None);
        check("[{level: Metadata}]", "get /healthz", Metadata);
    }

    #[test]
    fn secrets_are_never_recorded_with_their_bodies() {
        let all = "[{level: RequestResponse}]";
        for secret in [
            "create - secrets ns -",
            "get - secrets ns a",
            "create - serviceaccounts/token ns a",
            "create authentication.k8s.io tokenreviews - -",
        ] {
            check(all, secret, Level::Metadata);
        }
        check(all, "get - serviceaccounts ns a", Level::RequestResponse);
        check("[{level: None}]", "get - secrets ns a", Level::None);
    }

    #[test]
    fn stages_and_managed_fields_add_up() {
        let text = "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], omitManagedFields: true, \
                    rules: [{level: Request, verbs: [get], omitStages: [Panic], omitManagedFields: false}, {level: Request}]}";
        let policy = Policy::parse(text.as_bytes()).unwrap();
        let get = judge(&policy, "get - pods ns a");
        assert_eq!((get.omit_stages, get.omit_managed_fields), (vec![Stage::RequestReceived, Stage::Panic], false));
        assert!(judge(&policy, "list - pods ns -").omit_managed_fields);
    }

    #[test]
    fn wrong_policies_are_refused() {
        for (policy, reason) in [
            ("{apiVersion: audit.k8s.io/v1, kind: Policy}", "no rules"),
            ("{apiVersion: v1, kind: Policy, rules: [{level: None}]}", "expected audit.k8s.io/v1 Policy"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: All}]}", "unknown variant `All`"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{levle: None}]}", "unknown field `levle`"),
            (
                "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, nonResourceURLs: [/a], namespaces: [ns]}]}",
                "rules[0]: rules cannot",
            ),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, nonResourceURLs: [a]}]}", "must begin"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, nonResourceURLs: ['/a*b']}]}", "must begin"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, resources: [{resourceNames: [a]}]}]}", "requires at least"),
            ("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None, resources: [{group: apps/v1}]}]}", "no version"),
        ] {
            let error = Policy::parse(policy.as_bytes()).expect_err(policy);
            assert!(error.contains(reason), "{policy}: {error}");
        }
    }

    #[test]
    fn the_default_records_what_people_do_and_leaves_the_pulse_out() {
        let policy = Policy::parse(DEFAULT.as_bytes()).unwrap();
        let node = User::node("n");
        let by_node =
            |resource| policy.judge(&Attributes { namespace: "ns", name: "a", ..Attributes::resource(&node, "get", "", resource) }).level;
        assert_eq!((by_node("secrets"), by_node("pods")), (Level::Metadata, Level::None));
        for (asked, level) in [
            ("create - pods ns -", Level::Metadata),
            ("get - secrets ns a", Level::Metadata),
            ("get /logs", Level::Metadata),
            ("get /healthz", Level::None),
            ("update coordination.k8s.io leases ns a", Level::None),
            ("create - events ns -", Level::None),
        ] {
            assert_eq!(judge(&policy, asked).level, level, "{asked}");
        }
    }
}
