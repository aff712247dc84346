//! Acting as another: the `Impersonate-*` headers, each part of which the caller must be allowed to take on.
//!
//! By the verb `impersonate` he may then do all that the other may. By a constrained mode (KEP-5284) he may do what the other may and his own
//! rights say: `impersonate:<mode>` on the other, and `impersonate-on:<mode>:<verb>` on what he asks for. Constrained modes are tried first.

use std::collections::BTreeMap;

use http::HeaderMap;
use knarr_api::names;
use knarr_api::status::{self, Status};

use super::tokens::EXTRA_NODE_NAME;
use crate::User;
use crate::auth::{
    GROUP_AUTHENTICATED, GROUP_MASTERS, GROUP_NODES, GROUP_SERVICE_ACCOUNTS, GROUP_UNAUTHENTICATED, USER_ANONYMOUS, service_account_of,
};
use crate::authz::{Attributes, Authorizer, Decision, Verdict};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
/// Groups and extra values in one request; each costs an authorisation.
const PARTS_MAX: usize = 256;

const AUTHENTICATION_GROUP: &str = "authentication.k8s.io";

/// What a webhook sees of a service account's extra values where it acts as its own node: the keys alone, as upstream.
const ASSOCIATED_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";

/// By what kind of right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account as the node that its token is bound to.
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    /// Whoever is neither a node nor a service account.
    UserInfo,
    /// The verb `impersonate` alone.
    Unconstrained,
}

/// In the order in which they are tried.
const MODES: [Mode; 5] = [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Unconstrained];

impl Mode {
    fn verb(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "impersonate:associated-node",
            Mode::ArbitraryNode => "impersonate:arbitrary-node",
            Mode::ServiceAccount => "impersonate:serviceaccount",
            Mode::UserInfo => "impersonate:user-info",
            Mode::Unconstrained => "impersonate",
        }
    }

    /// None of the one that is not constrained.
    fn constraint(self) -> Option<&'static str> {
        Some(self.verb()).filter(|_| self != Mode::Unconstrained)
    }

    fn is_for(self, wanted: &Impersonation, caller: &User) -> bool {
        let node = node_of(&wanted.user);
        match self {
            Mode::AssociatedNode => {
                let own = caller.extra.get(EXTRA_NODE_NAME).filter(|_| caller.service_account_name().is_some());
                wanted.is_name_only() && node.is_some_and(|node| own.is_some_and(|own| own.as_slice() == [node]))
            }
            Mode::ArbitraryNode => wanted.is_name_only() && node.is_some(),
            Mode::ServiceAccount => wanted.is_name_only() && service_account_of(&wanted.user).is_some(),
            Mode::UserInfo => node.is_none() && service_account_of(&wanted.user).is_none(),
            Mode::Unconstrained => true,
        }
    }
}

fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|node| names::dns1123_subdomain(node).is_empty())
}

/// Whom a request asks to act as.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Impersonation {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Impersonation {
    /// Reads the headers; `None` where there are none.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Impersonation>, Status> {
        let mut wanted = Impersonation::default();
        let mut parts = 0;
        for (name, value) in headers {
            let part = name.as_str();
            if !part.starts_with("impersonate-") {
                continue;
            }
            parts += 1;
            if parts > PARTS_MAX {
                return Err(status::bad_request(format!("more than {PARTS_MAX} impersonation headers")));
            }
            let value = value.to_str().map_err(|_| status::bad_request("an impersonation header is not text"))?.to_owned();
            match part {
                USER => wanted.user = value,
                UID => wanted.uid = value,
                GROUP => wanted.groups.push(value),
                _ => match part.strip_prefix(EXTRA_PREFIX) {
                    Some(key) => wanted.extra.entry(unescape(key)).or_default().push(value),
                    None => return Err(status::bad_request(format!("unknown impersonation header {part:?}"))),
                },
            }
        }
        match (parts, wanted.user.is_empty()) {
            (0, _) => Ok(None),
            (_, true) => Err(status::bad_request("requested impersonation of groups, uid or extra without impersonating a user")),
            (_, false) => Ok(Some(wanted)),
        }
    }

    /// The user to act as and the constrained verb that allowed it, if the caller may take on every part for this request of his.
    pub async fn authorize(self, request: &Attributes<'_>, authorizer: &Authorizer) -> Result<(User, Option<&'static str>), Status> {
        let mut refusal = None;
        for mode in MODES.into_iter().filter(|mode| mode.is_for(&self, request.user)) {
            match self.check(mode, request, authorizer).await {
                Ok(()) => return Ok((self.into_user(mode), mode.constraint())),
                // The first is told, as upstream tells it.
                Err(status) => refusal = refusal.or(Some(status)),
            }
        }
        Err(refusal.unwrap_or_else(|| status::forbidden("", "users", &self.user, "this user cannot be impersonated")))
    }

    async fn check(&self, mode: Mode, request: &Attributes<'_>, authorizer: &Authorizer) -> Result<(), Status> {
        let keys = || BTreeMap::from([(ASSOCIATED_KEYS.to_owned(), request.user.extra.keys().cloned().collect())]);
        let anywhere = (mode == Mode::AssociatedNode).then(|| User { extra: keys(), ..request.user.clone() });
        let caller = anywhere.as_ref().unwrap_or(request.user);
        if let Some(constraint) = mode.constraint() {
            let kind = constraint.trim_start_matches("impersonate:");
            let on = format!("impersonate-on:{kind}:{}", request.verb);
            authorizer.permit(&Attributes { user: caller, verb: &on, ..*request }).await?;
        }
        let may = async |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
            let asked = Attributes { subresource, namespace, name, ..Attributes::resource(caller, mode.verb(), group, resource) };
            authorizer.permit(&asked).await
        };
        let group = if mode == Mode::Unconstrained { "" } else { AUTHENTICATION_GROUP };
        match (mode, service_account_of(&self.user), node_of(&self.user)) {
            // The right is to whichever node the account is on.
            (Mode::AssociatedNode, ..) => may(group, "nodes", "", "", "*").await?,
            (Mode::ArbitraryNode, _, Some(node)) => may(group, "nodes", "", "", node).await?,
            (_, Some((namespace, name)), _) => may(group, "serviceaccounts", "", namespace, name).await?,
            _ => may(group, "users", "", "", &self.user).await?,
        }
        if mode != Mode::Unconstrained {
            self.check_constrained(caller, mode)?;
        }
        for one in &self.groups {
            may(group, "groups", "", "", one).await?;
        }
        if !self.uid.is_empty() {
            may(AUTHENTICATION_GROUP, "uids", "", "", &self.uid).await?;
        }
        for (key, values) in &self.extra {
            for value in values {
                may(AUTHENTICATION_GROUP, "userextras", key, "", value).await?;
            }
        }
        Ok(())
    }

    /// What no right gives in a constrained mode.
    fn check_constrained(&self, caller: &User, mode: Mode) -> Result<(), Status> {
        let refuse = |resource: &str, name: &str, why: &str| {
            let attributes = Attributes { name, ..Attributes::resource(caller, mode.verb(), AUTHENTICATION_GROUP, resource) };
            Err(attributes.forbidden(&Decision { verdict: Verdict::Deny, reason: why.to_owned() }))
        };
        if self.groups.iter().any(String::is_empty) {
            return refuse("groups", "", "impersonating the empty string group is not allowed");
        }
        if self.groups.iter().any(|group| group == GROUP_MASTERS) {
            return refuse("groups", GROUP_MASTERS, "impersonating the system:masters group is not allowed");
        }
        for (key, values) in &self.extra {
            let is_path = key.split_once('/').is_some_and(|(domain, path)| names::dns1123_subdomain(domain).is_empty() && !path.is_empty());
            if !is_path || *key != key.to_lowercase() {
                return refuse(
                    "userextras",
                    "",
                    &format!("impersonating the extra key {key:?} is not allowed: it must be a domain-prefixed path in lower case"),
                );
            }
            if values.iter().any(String::is_empty) {
                return refuse("userextras", "", "impersonating the empty string value in extra is not allowed");
            }
        }
        Ok(())
    }

    fn is_name_only(&self) -> bool {
        self.uid.is_empty() && self.groups.is_empty() && self.extra.is_empty()
    }

    fn into_user(self, mode: Mode) -> User {
        let mut groups = self.groups;
        if matches!(mode, Mode::AssociatedNode | Mode::ArbitraryNode) {
            groups = vec![GROUP_NODES.to_owned()];
        }
        if let (Some((namespace, _)), true) = (service_account_of(&self.user), groups.is_empty()) {
            groups = vec![GROUP_SERVICE_ACCOUNTS.to_owned(), format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}")];
        }
        let implied = match self.user.as_str() {
            USER_ANONYMOUS => GROUP_UNAUTHENTICATED,
            _ => GROUP_AUTHENTICATED,
        };
        if !groups.iter().any(|group| group == implied || group == GROUP_UNAUTHENTICATED) {
            groups.push(implied.to_owned());
        }
        User { name: self.user, uid: self.uid, groups, extra: self.extra }
    }
}

/// Keys of extra values come percent-encoded, because header names cannot hold `/`. What is not an encoding stays as it is, as
/// upstream reads it (filters/impersonation.go, unescapeExtraKey).
pub(super) fn unescape(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'%' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        let digits = bytes.get(at + 1..at + 3).and_then(|hex| Some(((hex[0] as char).to_digit(16)?, (hex[1] as char).to_digit(16)?)));
        let Some((high, low)) = digits else {
            return key.to_owned();
        };
        out.push((high * 16 + low) as u8);
        at += 3;
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}
