//! FlowSchemas and PriorityLevelConfigurations as the server reads them, and which schema a request belongs to
//! (apiserver/pkg/util/flowcontrol, rule.go and formatting of its config).

use std::sync::Arc;

use serde::Deserialize;

use crate::{User, auth::service_account_of, authz::Attributes};

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct FlowSchema {
    pub(super) metadata: Metadata,
    pub(super) spec: FlowSchemaSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FlowSchemaSpec {
    pub(super) priority_level_configuration: Reference,
    /// Lower comes first (default 1000).
    #[serde(default = "precedence")]
    pub(super) matching_precedence: i64,
    pub(super) distinguisher_method: Option<Distinguisher>,
    #[serde(default)]
    rules: Vec<Rule>,
}

fn precedence() -> i64 {
    1000
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Reference {
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Distinguisher {
    #[serde(rename = "type")]
    by: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    subjects: Vec<Subject>,
    #[serde(default)]
    resource_rules: Vec<ResourceRule>,
    #[serde(default)]
    non_resource_rules: Vec<PathRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    #[serde(default)]
    kind: String,
    user: Option<Reference>,
    group: Option<Reference>,
    service_account: Option<ServiceAccount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ServiceAccount {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceRule {
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    api_groups: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    cluster_scope: bool,
    #[serde(default)]
    namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PathRule {
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    urls: Vec<String>,
}

impl FlowSchema {
    pub(super) fn matches(&self, asked: &Attributes<'_>) -> bool {
        self.spec.rules.iter().any(|rule| rule.matches(asked))
    }

    /// Requests of one schema with the same text are one flow.
    pub(super) fn distinguisher<'a>(&self, asked: &Attributes<'a>) -> &'a str {
        match self.spec.distinguisher_method.as_ref().map(|method| method.by.as_str()) {
            Some("ByUser") => &asked.user.name,
            Some("ByNamespace") => asked.namespace,
            _ => "",
        }
    }
}

impl Rule {
    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let about = || match asked.resource_request {
            true => self.resource_rules.iter().any(|rule| rule.matches(asked)),
            false => self.non_resource_rules.iter().any(|rule| rule.matches(asked)),
        };
        self.subjects.iter().any(|subject| subject.is(asked.user)) && about()
    }
}

impl Subject {
    fn is(&self, user: &User) -> bool {
        match self.kind.as_str() {
            "User" => self.user.as_ref().is_some_and(|wanted| wanted.name == "*" || wanted.name == user.name),
            "Group" => self.group.as_ref().is_some_and(|wanted| wanted.name == "*" || user.in_group(&wanted.name)),
            "ServiceAccount" => self.service_account.as_ref().is_some_and(|wanted| {
                let fits = |(namespace, name)| namespace == wanted.namespace && (wanted.name == "*" || name == wanted.name);
                service_account_of(&user.name).is_some_and(fits)
            }),
            _ => false,
        }
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|one| one == "*" || one == value)
}

impl ResourceRule {
    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let resource = |name: &String| match asked.subresource {
            _ if name == "*" => true,
            "" => name == asked.resource,
            subresource => name.split_once('/') == Some((asked.resource, subresource)),
        };
        let scope = match asked.namespace {
            "" => self.cluster_scope,
            namespace => has(&self.namespaces, namespace),
        };
        has(&self.verbs, asked.verb) && has(&self.api_groups, asked.group) && self.resources.iter().any(resource) && scope
    }
}

impl PathRule {
    fn matches(&self, asked: &Attributes<'_>) -> bool {
        let covers = |url: &String| match url.strip_suffix('*') {
            Some(start) => asked.path.starts_with(start),
            None => url == asked.path,
        };
        has(&self.verbs, asked.verb) && self.urls.iter().any(covers)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PriorityLevel {
    pub(super) metadata: Metadata,
    pub(super) spec: PriorityLevelSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PriorityLevelSpec {
    #[serde(default, rename = "type")]
    kind: String,
    limited: Option<Limited>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limited {
    /// Default 30 (apis/flowcontrol/v1/defaults.go).
    nominal_concurrency_shares: Option<u32>,
    lendable_percent: Option<u32>,
    borrowing_limit_percent: Option<u32>,
    limit_response: Option<LimitResponse>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct LimitResponse {
    queuing: Option<Queuing>,
}

/// Queues of one level, which are all made when the level is: upstream's defaults have at most 128.
const QUEUES_MAX: usize = 10_000;
/// Queues of one flow's hand. Of more than 60 validation refuses any.
const HAND_MAX: usize = 60;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Queuing {
    #[serde(default)]
    pub(super) queues: usize,
    #[serde(default)]
    pub(super) hand_size: usize,
    #[serde(default)]
    pub(super) queue_length_limit: usize,
}

/// How many seats a level has of `total`, and how it shares them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) nominal: usize,
    /// Of the nominal ones, what others may use while they are free.
    pub(super) lendable: usize,
    /// What it may use beyond the nominal ones.
    pub(super) borrowable: usize,
    /// None refuses what does not fit.
    pub(super) queuing: Option<Queuing>,
}

impl PriorityLevel {
    /// None for one that is exempt.
    fn limited(&self) -> Option<&Limited> {
        self.spec.limited.as_ref().filter(|_| self.spec.kind != "Exempt")
    }

    fn shares(&self) -> usize {
        self.limited().map_or(0, |limited| limited.nominal_concurrency_shares.unwrap_or(30) as usize)
    }
}

/// What is stored may be from before such hands were refused.
fn bounded(queuing: Queuing) -> Queuing {
    Queuing { queues: queuing.queues.min(QUEUES_MAX), hand_size: queuing.hand_size.min(HAND_MAX), ..queuing }
}

/// The share of each level that is not exempt; none for those that are.
pub(super) fn shares(levels: &[Arc<PriorityLevel>], total: usize) -> Vec<Option<Share>> {
    let sum = levels.iter().map(|level| level.shares()).sum::<usize>().max(1);
    let share = |level: &Arc<PriorityLevel>| {
        let limited = level.limited()?;
        // Rounded up, as upstream (apf_controller.go).
        let nominal = (total * level.shares()).div_ceil(sum);
        let percent = |percent: u32| (nominal * percent as usize + 50) / 100;
        Some(Share {
            nominal,
            lendable: percent(limited.lendable_percent.unwrap_or(0)),
            borrowable: limited.borrowing_limit_percent.map_or(total, percent),
            queuing: limited
                .limit_response
                .as_ref()
                .and_then(|response| response.queuing)
                .filter(|queuing| queuing.queues > 0)
                .map(bounded),
        })
    };
    levels.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(resource: serde_json::Value) -> FlowSchema {
        let subjects = json!([{"kind": "Group", "group": {"name": "system:authenticated"}}]);
        let rule = json!({"subjects": subjects, "resourceRules": [resource]});
        serde_json::from_value(json!({"metadata": {}, "spec": {"priorityLevelConfiguration": {}, "rules": [rule]}})).unwrap()
    }

    #[test]
    fn rules_match_by_verb_group_resource_and_scope() {
        let ann = User::authenticated("ann", Vec::<String>::new());
        let pods = |verb, namespace| Attributes { namespace, ..Attributes::resource(&ann, verb, "", "pods") };
        let schema = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["a"]}));
        assert!(schema.matches(&pods("get", "a")));
        assert!(!schema.matches(&pods("list", "a")));
        assert!(!schema.matches(&pods("get", "b")));
        assert!(!schema.matches(&pods("get", "")), "over all namespaces is cluster scope");
        let status = Attributes { subresource: "status", ..pods("get", "a") };
        assert!(!schema.matches(&status));
        let schema =
            rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["pods/status"], "clusterScope": true, "namespaces": ["*"]}));
        assert!(schema.matches(&status) && !schema.matches(&pods("get", "a")));
        assert!(!schema.matches(&Attributes { user: &User::anonymous(), ..status }));
        assert!(!schema.matches(&Attributes { path: "/healthz", resource_request: false, ..Attributes::resource(&ann, "get", "", "") }));
    }

    #[test]
    fn seats_follow_shares_and_are_rounded_up() {
        let level = |limited: serde_json::Value| -> Arc<PriorityLevel> {
            Arc::new(serde_json::from_value(json!({"metadata": {}, "spec": {"type": "Limited", "limited": limited}})).unwrap())
        };
        let exempt = Arc::new(serde_json::from_value(json!({"metadata": {}, "spec": {"type": "Exempt"}})).unwrap());
        let levels = [
            level(json!({"nominalConcurrencyShares": 10, "lendablePercent": 50, "borrowingLimitPercent": 20})),
            level(json!({"nominalConcurrencyShares": 20})),
            exempt,
            level(json!({})),
        ];
        let shares = shares(&levels, 100);
        let shown: Vec<_> = shares.iter().map(|share| share.map(|share| (share.nominal, share.lendable, share.borrowable))).collect();
        assert_eq!(shown, [Some((17, 9, 3)), Some((34, 0, 100)), None, Some((50, 0, 100))]);
    }
}
