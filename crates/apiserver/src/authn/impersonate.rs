//! Acting as another: the `Impersonate-*` headers, each part of which the caller must be allowed to take on.

use std::collections::BTreeMap;

use http::HeaderMap;
use knarr_api::status::{self, Status};

use crate::User;
use crate::auth::{GROUP_AUTHENTICATED, GROUP_SERVICE_ACCOUNTS, GROUP_UNAUTHENTICATED, USER_ANONYMOUS, service_account_of};
use crate::authz::{Attributes, Authorizer};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";
/// Groups and extra values in one request; each costs an authorisation.
const PARTS_MAX: usize = 256;

const AUTHENTICATION_GROUP: &str = "authentication.k8s.io";

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

    /// The user to act as, if `caller` may take on every part.
    pub async fn authorize(self, caller: &User, authorizer: &Authorizer) -> Result<User, Status> {
        let may = async |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
            authorizer
                .permit(&Attributes { subresource, namespace, name, ..Attributes::resource(caller, "impersonate", group, resource) })
                .await
        };
        match service_account_of(&self.user) {
            Some((namespace, name)) => may("", "serviceaccounts", "", namespace, name).await?,
            None => may("", "users", "", "", &self.user).await?,
        }
        for group in &self.groups {
            may("", "groups", "", "", group).await?;
        }
        if !self.uid.is_empty() {
            may(AUTHENTICATION_GROUP, "uids", "", "", &self.uid).await?;
        }
        for (key, values) in &self.extra {
            for value in values {
                may(AUTHENTICATION_GROUP, "userextras", key, "", value).await?;
            }
        }
        Ok(self.into_user())
    }

    fn into_user(self) -> User {
        let mut groups = self.groups;
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
