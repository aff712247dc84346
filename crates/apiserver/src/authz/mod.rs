//! May this caller do that?

use crate::User;

/// What a caller wants to do. Empty strings stand for what does not apply.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `bind`, `escalate`, `impersonate`, ...;
    /// for paths that are no resource the HTTP method in lower case.
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
    /// The URL's path.
    pub path: &'a str,
    /// Whether the resource fields apply; otherwise only `path` does.
    pub resource_request: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allow,
    Deny,
    /// This authorizer does not know; without another, it is a denial.
    NoOpinion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// For the message of the 403 and for reviews.
    pub reason: String,
}
