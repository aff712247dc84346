//! Tokens asked for (`serviceaccounts/token`) and tokens shown to others (TokenReview).

use jiff::{SignedDuration, Timestamp};
use knarr_api::status::{self, Status};
use knarr_api::{FieldError, Object};
use knarr_store::{Collection, Key, Snapshot};
use serde_json::json;

use super::{Reviews, user_info};
use crate::authn::{Bound, Reference, TokenError, Tokens, Verified};
use crate::shut::still_shut;

/// Shortest life that may be asked for (pkg/apis/authentication/validation).
const SECONDS_MIN: i64 = 10 * 60;
/// Longest that may be asked for: what fits in 32 bits, as upstream refuses more.
const SECONDS_MAX: i64 = 1 << 32;
/// What admission asks for in the volume of every pod's token, and nobody else should (serviceaccount/claims.go, WarnOnlyBoundTokenExpirationSeconds).
pub(crate) const SECONDS_EXTENDED: i64 = 60 * 60 + 7;
/// Life where none is asked for (defaults.go).
const SECONDS_DEFAULT: i64 = 60 * 60;
/// Longest life given, whatever was asked for: a year. Upstream gives what is asked for; a token that no one remembers should end some day.
pub(crate) const SECONDS_GRANTED_MAX: i64 = 365 * 24 * 60 * 60;

const GROUP: &str = "authentication.k8s.io";

impl Reviews {
    /// Issues a token for the service account `namespace/name` as a TokenRequest asks: the answer, and the id of the token. Dry runs get the request
    /// back without one.
    pub fn token(&self, namespace: &str, name: &str, mut request: Object, dry_run: bool) -> Result<(Object, Option<String>), Status> {
        let snapshot = self.store.snapshot();
        let account =
            stored(&snapshot, "serviceaccounts", namespace, name).ok_or_else(|| status::not_found("", "serviceaccounts", name))?;
        let seconds = request.int(&["spec", "expirationSeconds"]).unwrap_or(SECONDS_DEFAULT);
        check_seconds(&request, seconds)?;
        let mut audiences: Vec<String> =
            request.list(&["spec", "audiences"]).iter().filter_map(|audience| audience.as_str()).map(str::to_owned).collect();
        if audiences.is_empty() {
            audiences.push(self.authn.tokens().api_audience().to_owned());
        }
        let mut bound = Bound {
            namespace: namespace.to_owned(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: reference(&account),
            warnafter: None,
        };
        // What is not known yet is not missing.
        if request.str(&["spec", "boundObjectRef", "kind"]) == "Secret"
            && let Some(shut) = self.store.shut(&Collection::new("core/secrets"))
        {
            return Err(still_shut(&shut));
        }
        bind(&snapshot, &account, &request, &mut bound)?;
        let now = Timestamp::now();
        let granted = seconds.min(SECONDS_GRANTED_MAX);
        let after = |seconds: i64| now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        let renew_by = after(granted);
        let expires = if is_extended(seconds, &bound, &audiences, self.authn.tokens()) {
            bound.warnafter = Some(renew_by.as_second());
            after(SECONDS_GRANTED_MAX)
        } else {
            renew_by
        };
        request.set(&["spec", "audiences"], audiences.clone().into());
        request.set(&["spec", "expirationSeconds"], granted.into());
        if dry_run {
            return Ok((request, None));
        }
        let (token, claims) =
            self.authn.tokens().issue(audiences, bound, now, expires).map_err(|error| status::internal(error.to_string()))?;
        // Whoever asked renews it by then, extended or not.
        let renew_by = renew_by.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        request.set(&["status"], json!({ "token": token, "expirationTimestamp": renew_by }));
        Ok((request, Some(claims.jti)))
    }

    /// Who is behind the token in the spec, for services that are shown tokens of this cluster. The token itself is not sent back.
    pub(super) async fn token_review(&self, review: &mut Object) -> Result<(), Status> {
        let token = review.str(&["spec", "token"]).to_owned();
        if token.is_empty() {
            return Err(status::bad_request("token is required for TokenReview in authentication"));
        }
        let audiences: Vec<String> =
            review.list(&["spec", "audiences"]).iter().filter_map(|audience| audience.as_str()).map(str::to_owned).collect();
        let answer = match self.authn.token(&token, &audiences, Timestamp::now()).await {
            Ok(Verified { user, audiences, .. }) => json!({ "authenticated": true, "user": user_info(&user), "audiences": audiences }),
            Err(TokenError::Unknown(why)) => return Err(status::internal(why)),
            Err(TokenError::Jose(_)) => json!({ "authenticated": false, "user": {}, "error": "invalid bearer token" }),
            Err(error) => json!({ "authenticated": false, "user": {}, "error": format!("[invalid bearer token, {error}]") }),
        };
        review.set(&["status"], answer);
        Ok(())
    }
}

/// Whether a token lives on after the time that was asked for (registry/core/serviceaccount/storage/token.go, --service-account-extend-token-expiration,
/// which is on by default): one that a kubelet projects into a pod for the API server. Programs that read their token once at the start go on, and are
/// found by their stale tokens.
fn is_extended(seconds: i64, bound: &Bound, audiences: &[String], tokens: &Tokens) -> bool {
    seconds == SECONDS_EXTENDED && bound.pod.is_some() && audiences.iter().all(|audience| tokens.is_own_audience(audience))
}

fn check_seconds(request: &Object, seconds: i64) -> Result<(), Status> {
    let why = if seconds < SECONDS_MIN {
        "may not specify a duration less than 10 minutes"
    } else if seconds > SECONDS_MAX {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let error = FieldError::invalid("spec.expirationSeconds", &seconds.into(), why);
    Err(status::invalid(GROUP, "TokenRequest", request.name(), &[error]))
}

/// Binds the token to the object that the request names, which must be there under the uid that the request gives.
fn bind(snapshot: &Snapshot, account: &Object, request: &Object, bound: &mut Bound) -> Result<(), Status> {
    let field = |field: &str| request.str(&["spec", "boundObjectRef", field]);
    let (api_version, kind, name, uid) = (field("apiVersion"), field("kind"), field("name"), field("uid"));
    if request.get(&["spec", "boundObjectRef"]).is_none_or(|reference| reference.is_null()) {
        return Ok(());
    }
    let resource = match (api_version, kind) {
        ("v1", "Pod") => "pods",
        ("v1", "Secret") => "secrets",
        ("v1", "Node") => "nodes",
        _ => {
            return Err(status::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to {kind} {name:?}: unsupported kind",
                account.name()
            )));
        }
    };
    let namespace = if resource == "nodes" { "" } else { account.namespace() };
    let object = stored(snapshot, resource, namespace, name).ok_or_else(|| status::not_found("", resource, name))?;
    if !uid.is_empty() && uid != object.uid() {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(status::conflict("", resource, name, &why));
    }
    match resource {
        "pods" => {
            if object.str(&["spec", "serviceAccountName"]) != account.name() {
                let why =
                    format!("cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.", account.name());
                return Err(status::bad_request(why));
            }
            bound.node = stored(snapshot, "nodes", "", object.str(&["spec", "nodeName"])).map(|node| reference(&node));
            bound.pod = Some(reference(&object));
        }
        "secrets" => bound.secret = Some(reference(&object)),
        _ => bound.node = Some(reference(&object)),
    }
    Ok(())
}

fn reference(object: &Object) -> Reference {
    Reference { name: object.name().to_owned(), uid: object.uid().to_owned() }
}

fn stored(snapshot: &Snapshot, resource: &str, namespace: &str, name: &str) -> Option<Object> {
    let entry = snapshot.get(&Key::new(&Collection::new(&format!("core/{resource}")), namespace, name))?;
    serde_json::from_slice(&entry.value).ok()
}
