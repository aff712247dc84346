//! Parameters of policies are for those to name who may read them: what a policy says when it refuses tells what they hold
//! (registry/admissionregistration, authz.go).

use futures::future::BoxFuture;
use knarr_api::status::{self, Status};
use knarr_api::{FieldError, Object};
use serde_json::Value;

use super::super::{Chain, Operation, Request, stored};
use super::{MUTATING, VALIDATING};
use crate::auth::GROUP_MASTERS;
use crate::authz::Attributes;

const GROUP: &str = "admissionregistration.k8s.io";

/// A policy takes the right to get every object of its parameters' kind; a binding, to get the object that it names, or to list those it selects from.
pub(in crate::admission) fn check_rights<'a>(chain: &'a Chain, request: &'a Request<'_>) -> Option<BoxFuture<'a, Result<(), Status>>> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes || request.kind.group != GROUP || !request.subresource.is_empty() || request.user.in_group(GROUP_MASTERS) {
        return None;
    }
    let set = |field: &str| request.object.get(&["spec", field]).filter(|value| !value.is_null());
    let is_new = |fields: &[&str]| {
        request.old.is_none_or(|old| fields.iter().any(|field| old.get(&["spec", *field]) != request.object.get(&["spec", *field])))
    };
    let written = format!("{GROUP}/{}", request.kind.resource);
    let [policies, _] = [VALIDATING, MUTATING].into_iter().find(|ends| ends.contains(&written.as_str()))?;
    if written == policies {
        let kind = set("paramKind").filter(|_| is_new(&["paramKind"]))?;
        return Some(Box::pin(policy(chain, request, kind)));
    }
    let reference = set("paramRef").filter(|_| is_new(&["paramRef", "policyName"]))?;
    Some(Box::pin(binding(chain, request, policies, reference)))
}

async fn policy(chain: &Chain, request: &Request<'_>, kind: &Value) -> Result<(), Status> {
    let Named { group, version, resource, .. } = Named::resolve(chain, kind);
    let attributes =
        Attributes { version: &version, name: "*", namespace: "*", ..Attributes::resource(request.user, "get", &group, &resource) };
    if chain.authorizer.decide(&attributes).await.allowed() {
        return Ok(());
    }
    let text = |key: &str| kind[key].as_str().unwrap_or("");
    refuse(
        request,
        "spec.paramKind",
        &format!(
            "user {:?} must have \"get\" permission on all objects of the referenced paramKind (kind={}, apiVersion={})",
            request.user.name,
            text("kind"),
            text("apiVersion")
        ),
    )
}

async fn binding(chain: &Chain, request: &Request<'_>, policies: &str, reference: &Value) -> Result<(), Status> {
    let policy = request.object.str(&["spec", "policyName"]);
    let found = stored(&chain.store.snapshot(), policies, "", policy);
    let kind = found.as_ref().and_then(|policy| policy.get(&["spec", "paramKind"])).filter(|kind| !kind.is_null());
    let Named { group, version, resource, unknown } = kind.map_or_else(Named::anything, |kind| Named::resolve(chain, kind));
    let text = |key: &str| reference[key].as_str().unwrap_or("");
    // Without a namespace it is that of whatever the policy judges: any.
    let (name, namespace) = (text("name"), text("namespace"));
    let verb = if name.is_empty() { "list" } else { "get" };
    let attributes = Attributes { version: &version, name, namespace, ..Attributes::resource(request.user, verb, &group, &resource) };
    if chain.authorizer.decide(&attributes).await.allowed() {
        return Ok(());
    }
    let user = &request.user.name;
    let everything = |what: String| {
        format!(
            "unable to {what} to determine minimum required permissions and user {user:?} does not have {verb:?} permission for all groups, versions and resources"
        )
    };
    refuse(
        request,
        "spec.paramRef",
        &match (found, unknown) {
            (None, _) => everything(format!("get policy {policy}")),
            (Some(_), Some(kind)) => everything(format!("resolve paramKind {kind}")),
            (Some(_), None) => format!("user {user:?} does not have {verb:?} permission on the object referenced by paramRef"),
        },
    )
}

/// What a right must be for. Of a kind that is not served it must be for any that may come.
struct Named {
    group: String,
    version: String,
    resource: String,
    /// The kind that is not served.
    unknown: Option<String>,
}

impl Named {
    fn anything() -> Named {
        let [group, version, resource] = ["*"; 3].map(str::to_owned);
        Named { group, version, resource, unknown: None }
    }

    fn resolve(chain: &Chain, kind: &Value) -> Named {
        let text = |key: &str| kind[key].as_str().unwrap_or("");
        let (api_version, name) = (text("apiVersion"), text("kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let row = chain.registry.now().kinds.by_kind(group, version, name);
        Named {
            group: group.to_owned(),
            version: version.to_owned(),
            unknown: row.is_none().then(|| format!("{api_version}, Kind={name}")),
            resource: row.map_or_else(|| "*".to_owned(), |row| row.resource.to_string()),
        }
    }
}

/// As upstream answers, which asks where it validates.
fn refuse(request: &Request<'_>, at: &str, detail: &str) -> Result<(), Status> {
    let object: &Object = request.object;
    Err(status::invalid(GROUP, &request.kind.kind, object.name(), &[FieldError::forbidden(at, detail)]))
}
