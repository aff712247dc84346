//! Who is calling: the identity that authentication yields and that everything after it (limits, authorisation,
//! admission, audit) is told.

use std::collections::BTreeMap;

/// Members may do everything, whatever the stored roles say; the way back in when a role was broken.
pub const GROUP_MASTERS: &str = "system:masters";
/// Every caller who proved an identity.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Every caller who did not.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// Every kubelet; with the user name `system:node:<name>`.
pub const GROUP_NODES: &str = "system:nodes";
/// Every service account; `system:serviceaccounts:<namespace>` are those of one namespace.
pub const GROUP_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// The name of a caller without an identity.
pub const USER_ANONYMOUS: &str = "system:anonymous";

const NODE_PREFIX: &str = "system:node:";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// An authenticated identity (or the anonymous one).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    pub name: String,
    /// Empty where the way of authentication knows none (client certificates).
    pub uid: String,
    pub groups: Vec<String>,
    /// What the authenticator adds, for example the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user who proved an identity: `system:authenticated` is added to the groups.
    pub fn authenticated<I, S>(name: impl Into<String>, groups: I) -> User
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        User { name: name.into(), groups: groups.into_iter().map(Into::into).collect(), ..User::default() }.proven()
    }

    /// The same user, who has proved to be that one.
    pub(crate) fn proven(mut self) -> User {
        if !self.in_group(GROUP_AUTHENTICATED) {
            self.groups.push(GROUP_AUTHENTICATED.to_owned());
        }
        self
    }

    /// The caller who showed no credentials.
    pub fn anonymous() -> User {
        User { name: USER_ANONYMOUS.to_owned(), groups: vec![GROUP_UNAUTHENTICATED.to_owned()], ..User::default() }
    }

    /// The identity of the service account `namespace/name`.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> User {
        let mut user = User::authenticated(
            format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            [GROUP_SERVICE_ACCOUNTS.to_owned(), format!("{GROUP_SERVICE_ACCOUNTS}:{namespace}")],
        );
        user.uid = uid.to_owned();
        user
    }

    /// The identity of the kubelet of `node`.
    pub fn node(node: &str) -> User {
        User::authenticated(format!("{NODE_PREFIX}{node}"), [GROUP_NODES])
    }

    pub fn is_anonymous(&self) -> bool {
        self.name == USER_ANONYMOUS
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|have| have == group)
    }

    /// The node whose kubelet this is: the name alone does not make a kubelet, the group must agree.
    pub fn node_name(&self) -> Option<&str> {
        if !self.in_group(GROUP_NODES) {
            return None;
        }
        self.name.strip_prefix(NODE_PREFIX).filter(|node| !node.is_empty())
    }

    /// Namespace and name of the service account whose user name this is.
    pub fn service_account_name(&self) -> Option<(&str, &str)> {
        service_account_of(&self.name)
    }
}

/// Splits `system:serviceaccount:<namespace>:<name>`.
pub(crate) fn service_account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_needs_name_and_group() {
        assert_eq!(User::node("n1").node_name(), Some("n1"));
        assert_eq!(User::authenticated("system:node:n1", ["x"]).node_name(), None);
        assert_eq!(User::authenticated("n1", [GROUP_NODES]).node_name(), None);
        assert_eq!(User::authenticated("system:node:", [GROUP_NODES]).node_name(), None);
    }

    #[test]
    fn service_account_names_split() {
        assert_eq!(User::service_account("a", "b", "u").service_account_name(), Some(("a", "b")));
        for bad in ["system:serviceaccount:a", "system:serviceaccount:a:b:c", "system:serviceaccount::b", "a:b"] {
            assert_eq!(service_account_of(bad), None, "{bad}");
        }
    }
}
