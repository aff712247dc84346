//! Bootstrap tokens: `abcdef.0123456789abcdef`, a Secret of its type in `kube-system`, by which a node joins (plugin/pkg/auth/authenticator/token/bootstrap).

use jiff::Timestamp;
use knarr_store::{Collection, Key, Snapshot};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::User;

pub(crate) const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";
const NAME_PREFIX: &str = "bootstrap-token-";
const USER_PREFIX: &str = "system:bootstrap:";
const GROUP: &str = "system:bootstrappers";

const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 16;

/// Id and secret of a token of that form.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let good =
        |part: &str, bytes: usize| part.len() == bytes && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (good(id, ID_BYTES) && good(secret, SECRET_BYTES)).then_some((id, secret))
}

/// Whether a token is written as these are.
pub(super) fn looks_like(token: &str) -> bool {
    split(token).is_some()
}

/// Who shows this token; `None` where it is none, or not good.
pub(super) fn verify(snapshot: &Snapshot, token: &str, now: Timestamp) -> Option<User> {
    let (id, secret) = split(token)?;
    let entry = snapshot.get(&Key::new(&Collection::new("core/secrets"), NAMESPACE, &format!("{NAME_PREFIX}{id}")))?;
    let stored: Value = serde_json::from_slice(&entry.value).ok()?;
    let refuse = |why: &str| {
        tracing::debug!(id, why, "bootstrap token refused");
        None
    };
    if stored["type"] != SECRET_TYPE || !stored["metadata"]["deletionTimestamp"].is_null() {
        return refuse("the Secret is of another type, or being deleted");
    }
    let data = |key: &str| {
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, stored["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    if data("token-id").as_deref() != Some(id) || !same(&data("token-secret")?, secret) {
        return refuse("it is another token");
    }
    // A time that cannot be read is taken as past; an empty one is none.
    if data("expiration").filter(|text| !text.is_empty()).is_some_and(|text| text.parse::<Timestamp>().map_or(true, |end| end <= now)) {
        return refuse("it has expired");
    }
    if data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return refuse("it is not for authentication");
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').map(str::trim).filter(|group| !group.is_empty()) {
        if !is_bootstrap_group(group) {
            return refuse("it names a group that a bootstrap token cannot give");
        }
        groups.push(group.to_owned());
    }
    Some(User::authenticated(format!("{USER_PREFIX}{id}"), groups))
}

/// Takes as long whatever the difference is: by their hashes, which a caller cannot steer.
fn same(one: &str, other: &str) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}

/// `system:bootstrappers:<a-z0-9:->` (cluster-bootstrap, token/api).
fn is_bootstrap_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b':' || byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = rest.as_bytes();
    bytes.len() <= 255 && bytes.iter().all(|byte| inner(*byte)) && edge(bytes.first()) && edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_groups_have_their_form() {
        assert_eq!(split("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for wrong in ["abcdef.0123456789abcde", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "abcdef", "a.b.c"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
        assert!(is_bootstrap_group("system:bootstrappers:workers:a-1"));
        for wrong in
            ["system:masters", "system:bootstrappers:", "system:bootstrappers:A", "system:bootstrappers:a-", "system:bootstrappersx"]
        {
            assert!(!is_bootstrap_group(wrong), "{wrong}");
        }
    }
}
