//! Every pod runs as a service account of its namespace, and finds that account's token, the cluster's CA and its own namespace under
//! `/var/run/secrets/kubernetes.io/serviceaccount`.

use std::collections::HashSet;

use knarr_api::Object;
use knarr_api::status::Status;
use knarr_store::Snapshot;
use serde_json::{Value, json};

use super::{Chain, Operation, Request, list_mut, stored};
use crate::authz::{Referent, visit_references};

const DEFAULT: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Letters of generated names: no vowels, so that no words appear (apimachinery, util/rand).
const NAME_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_LETTERS_COUNT: usize = 5;
/// An hour, and 7 seconds by which kubelets tell tokens mounted here from those that a user asked for
/// (serviceaccount/jwt.go, WarnOnlyBoundTokenExpirationPeriod).
const TOKEN_SECONDS: i64 = crate::reviews::TOKEN_SECONDS_EXTENDED;
/// A pod that the kubelet made from a file; it is only shown, and runs without the API.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// Names the account of a new pod, mounts its token, and takes over its pull secrets.
pub(super) fn fill(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    if !request.is("", "pods") || request.operation != Operation::Create {
        return Ok(());
    }
    let pod = &mut *request.object;
    if pod.annotation(MIRROR).is_some() {
        return Ok(());
    }
    if pod.str(&["spec", "serviceAccountName"]).is_empty() {
        let old_name = pod.str(&["spec", "serviceAccount"]).to_owned();
        let name = if old_name.is_empty() { DEFAULT.to_owned() } else { old_name };
        pod.set(&["spec", "serviceAccountName"], name.into());
    }
    let name = pod.str(&["spec", "serviceAccountName"]).to_owned();
    // The field's old name is shown beside the new one.
    pod.set(&["spec", "serviceAccount"], name.as_str().into());
    let account = account(snapshot, request, &name)?;
    let pod = &mut *request.object;
    if mounts_token(pod, &account) {
        mount_token(pod);
    }
    if pod.list(&["spec", "imagePullSecrets"]).is_empty() && !account.list(&["imagePullSecrets"]).is_empty() {
        pod.set(&["spec", "imagePullSecrets"], account.list(&["imagePullSecrets"]).into());
    }
    Ok(())
}

fn account(snapshot: &Snapshot, request: &Request<'_>, name: &str) -> Result<Object, Status> {
    stored(snapshot, "core/serviceaccounts", request.namespace, name).ok_or_else(|| {
        request.forbidden(&format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", request.namespace))
    })
}

/// The pod's word counts, then the account's, then yes.
fn mounts_token(pod: &Object, account: &Object) -> bool {
    let of = |value: Option<&Value>| value.and_then(Value::as_bool);
    of(pod.get(&["spec", "automountServiceAccountToken"])).or(of(account.get(&["automountServiceAccountToken"]))).unwrap_or(true)
}

fn mount_token(pod: &mut Object) {
    let names: Vec<String> =
        pod.list(&["spec", "volumes"]).iter().filter_map(|volume| volume["name"].as_str()).map(str::to_owned).collect();
    let present = names.iter().find(|name| name.starts_with(VOLUME_PREFIX)).cloned();
    let volume = present.clone().unwrap_or_else(|| unused_name(&names));
    let mut mounted = false;
    for containers in ["initContainers", "containers"] {
        let containers = pod.get_mut(&["spec", containers]).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let taken =
                container["volumeMounts"].as_array().is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH));
            if let (false, Some(mounts)) = (taken, list_mut(container, "volumeMounts")) {
                mounts.push(json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH }));
                mounted = true;
            }
        }
    }
    if mounted
        && present.is_none()
        && let Some(volumes) = pod.get_mut(&["spec"]).and_then(|spec| list_mut(spec, "volumes"))
    {
        volumes.push(token_volume(&volume));
    }
}

fn unused_name(names: &[String]) -> String {
    loop {
        let letters = (0..NAME_LETTERS_COUNT).map(|_| NAME_LETTERS[fastrand::usize(..NAME_LETTERS.len())] as char);
        let name: String = VOLUME_PREFIX.chars().chain(letters).collect();
        if !names.contains(&name) {
            return name;
        }
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
            ],
        },
    })
}

/// Mirror pods reach nothing of the API. Accounts that say so limit their pods to the secrets that they list; ephemeral containers
/// and `envFrom` count too (CVE-2023-2728, CVE-2024-3177).
pub(super) fn check(_: &Chain, snapshot: &Snapshot, request: &mut Request<'_>) -> Result<(), Status> {
    let relevant = match request.subresource {
        "" => request.operation == Operation::Create,
        "ephemeralcontainers" => request.operation == Operation::Update,
        _ => false,
    };
    if !relevant || !request.is_of("", "pods") {
        return Ok(());
    }
    let pod = &*request.object;
    if pod.annotation(MIRROR).is_some() {
        return check_mirror(request, pod);
    }
    let account = account(snapshot, request, pod.str(&["spec", "serviceAccountName"]))?;
    if account.annotation(ENFORCE_MOUNTABLE) != Some("true") {
        return Ok(());
    }
    let names = |field: &str| -> HashSet<String> {
        account.list(&[field]).iter().filter_map(|secret| secret["name"].as_str()).map(str::to_owned).collect()
    };
    let (mountable, pullable) = (names("secrets"), names("imagePullSecrets"));
    let mut refused = None;
    visit_references(&Value::Object(pod.0.clone()), &mut |kind, name| {
        let allowed = match kind {
            Referent::Secret => mountable.contains(name),
            Referent::PullSecret => pullable.contains(name),
            _ => true,
        };
        if !allowed {
            refused = Some(format!(
                "secret {name:?} is not referenced by service account {}, which limits its pods to its own secrets",
                account.name()
            ));
        }
    });
    match refused {
        Some(why) => Err(request.forbidden(&why)),
        None => Ok(()),
    }
}

fn check_mirror(request: &Request<'_>, pod: &Object) -> Result<(), Status> {
    if !pod.str(&["spec", "serviceAccountName"]).is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    let mut secret = false;
    visit_references(&Value::Object(pod.0.clone()), &mut |kind, _| secret |= kind == Referent::Secret);
    let token = pod.list(&["spec", "volumes"]).iter().any(|volume| {
        let sources = volume["projected"]["sources"].as_array();
        sources.is_some_and(|sources| sources.iter().any(|source| source.get("serviceAccountToken").is_some()))
    });
    match (secret, token) {
        (true, _) => Err(request.forbidden("a mirror pod may not reference secrets")),
        (_, true) => Err(request.forbidden("a mirror pod may not use ServiceAccountToken volume projections")),
        _ => Ok(()),
    }
}
