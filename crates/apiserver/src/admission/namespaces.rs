//! Objects live in namespaces that exist; namespaces that go take nothing in; three never go.

use std::borrow::Cow;

use knarr_api::status::{self, Cause, Status};
use knarr_store::{Collection, Key, Snapshot};
use serde::{Deserialize, de::IgnoredAny};

use super::{Chain, Operation, Request};

/// Deleting one of these would take the cluster with it (plugin/namespace/lifecycle, immortalNamespaces).
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// A create or update needs its namespace; a create needs one that is not being deleted, and so does an act on a part, as a token or an eviction is.
pub(super) fn lifecycle(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    if !writes
        || request.namespace.is_empty()
        || request.is_of("", "namespaces")
        || request.is_of("authorization.k8s.io", "localsubjectaccessreviews")
    {
        return Ok(());
    }
    let key = Key::new(&Collection::new("core/namespaces"), "", request.namespace);
    let entry = snapshot.get(&key).ok_or_else(|| status::not_found("", "namespaces", request.namespace))?;
    if request.operation != Operation::Create || !is_going(&entry.value) {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {} because it is being terminated", request.namespace);
    let mut refused = request.forbidden(&why);
    if let Some(details) = &mut refused.details {
        details.causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {} is being terminated", request.namespace),
            field: "metadata.namespace".to_owned(),
        });
    }
    Err(refused)
}

/// Every create asks this: nothing else of the namespace is read.
fn is_going(namespace: &[u8]) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<IgnoredAny>,
    }
    #[derive(Default, Deserialize)]
    struct Status<'a> {
        #[serde(borrow)]
        phase: Option<Cow<'a, str>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Namespace<'a> {
        metadata: Metadata,
        #[serde(borrow)]
        status: Status<'a>,
    }

    let Namespace { metadata, status } = serde_json::from_slice(namespace).unwrap_or_default();
    metadata.deletion_timestamp.is_some() || status.phase.as_deref() == Some("Terminating")
}

pub(super) fn protect(_: &Chain, _: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    match request.operation == Operation::Delete && request.is("", "namespaces") && IMMORTAL.contains(&request.name) {
        true => Err(request.forbidden("this namespace may not be deleted")),
        false => Ok(()),
    }
}
