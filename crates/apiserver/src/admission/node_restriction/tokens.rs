//! Tokens that a kubelet asks for: for pods on its node, and for those audiences that the pods want.

use futures::future::BoxFuture;
use knarr_api::Object;
use knarr_api::status::Status;
use knarr_store::Snapshot;
use serde_json::Value;

use super::super::{Chain, Operation, Request, stored};
use super::{Verdict, refuse};
use crate::authz::{Attributes, ephemeral_claim};

/// Lets a kubelet ask for tokens for an audience that no volume of its pods names: of the resource with the audience's name and the account's
/// (KEP-4412).
const RIGHT: &str = "request-serviceaccounts-token-audience";
/// Drivers that took over what once was built in (csi-translation-lib, plugins).
const MIGRATED: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

/// A kubelet gets tokens only for pods on its node, and only bound to them, so that they end with the pod.
pub(super) fn check(snapshot: &Snapshot, node: &str, request: &Request<'_>) -> Verdict {
    let token = &*request.object;
    let (kind, name, uid) = (
        token.str(&["spec", "boundObjectRef", "kind"]),
        token.str(&["spec", "boundObjectRef", "name"]),
        token.str(&["spec", "boundObjectRef", "uid"]),
    );
    if kind != "Pod" || name.is_empty() {
        return refuse("node requested token not bound to a pod".to_owned());
    }
    if uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid".to_owned());
    }
    let pod = stored(snapshot, "core/pods", request.namespace, name).ok_or_else(|| format!("pod {name:?} not found"))?;
    if pod.uid() != uid {
        return refuse(format!("the UID in the bound object reference ({uid}) does not match the UID in record"));
    }
    if pod.str(&["spec", "nodeName"]) != node {
        return refuse("node requested token bound to a pod scheduled on a different node".to_owned());
    }
    match pod.str(&["spec", "serviceAccountName"]) == request.name {
        true => Ok(()),
        false => refuse("node requested token for a service account that the pod does not run as".to_owned()),
    }
}

/// A token is of use where its audience is: who breaks into a node shall not get such as no pod there could have.
pub(in crate::admission) fn check_audience<'a>(chain: &'a Chain, request: &'a Request<'_>) -> Option<BoxFuture<'a, Result<(), Status>>> {
    request.user.node_name()?;
    if request.operation != Operation::Create || !request.is_of("", "serviceaccounts") || request.subresource != "token" {
        return None;
    }
    let refuse = |why: String| -> Option<BoxFuture<'a, Result<(), Status>>> {
        let refused = request.forbidden(&why);
        Some(Box::pin(std::future::ready(Err(refused))))
    };
    let audience = match request.object.list(&["spec", "audiences"]) {
        [] => "",
        [audience] => audience.as_str().unwrap_or(""),
        _ => return refuse("node may only request 0 or 1 audiences".to_owned()),
    };
    let snapshot = chain.store.snapshot();
    let pod = stored(&snapshot, "core/pods", request.namespace, request.object.str(&["spec", "boundObjectRef", "name"]));
    match pod.map_or(Ok(false), |pod| wants(&snapshot, &pod, audience)) {
        Ok(true) => None,
        Ok(false) => Some(Box::pin(has_right(chain, request, audience))),
        Err(why) => refuse(format!("error validating audience {audience:?}: {why}")),
    }
}

async fn has_right(chain: &Chain, request: &Request<'_>, audience: &str) -> Result<(), Status> {
    let (name, namespace) = (request.name, request.namespace);
    let right = Attributes { version: "v1", name, namespace, ..Attributes::resource(request.user, RIGHT, "", audience) };
    match chain.authorizer.decide(&right).await.allowed() {
        true => Ok(()),
        false => Err(request.forbidden(&format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            request.user.name
        ))),
    }
}

/// Whether a volume of the pod is a token for the audience, or its driver wants one. The error tells which volumes could not be followed.
fn wants(snapshot: &Snapshot, pod: &Object, audience: &str) -> Result<bool, String> {
    let mut lost = Vec::new();
    for volume in pod.list(&["spec", "volumes"]) {
        let mut sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        let is_it = |token: &Value| token["audience"].as_str().unwrap_or("") == audience;
        if sources.any(|source| source.get("serviceAccountToken").is_some_and(is_it)) {
            return Ok(true);
        }
        let asks = driver(snapshot, pod, volume).and_then(|driver| match driver {
            Some(driver) => asks_for(snapshot, &driver, audience),
            None => Ok(false),
        });
        match asks {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => lost.push(why),
        }
    }
    match lost.len() {
        0 => Ok(false),
        1 => Err(lost.remove(0)),
        _ => Err(format!("[{}]", lost.join(", "))),
    }
}

/// The CSI driver of a pod's volume: of its own, or behind its claim.
fn driver(snapshot: &Snapshot, pod: &Object, volume: &Value) -> Result<Option<String>, String> {
    let claim = match volume.get("ephemeral") {
        Some(_) => ephemeral_claim(pod.name(), volume["name"].as_str().unwrap_or("")),
        None => match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(name) => name.to_owned(),
            None => return Ok(driver_of(volume)),
        },
    };
    let found = stored(snapshot, "core/persistentvolumeclaims", pod.namespace(), &claim);
    let found = found.ok_or_else(|| format!("persistentvolumeclaim {claim:?} not found"))?;
    let name = found.str(&["spec", "volumeName"]);
    let volume = stored(snapshot, "core/persistentvolumes", "", name).ok_or_else(|| format!("persistentvolume {name:?} not found"))?;
    Ok(volume.get(&["spec"]).and_then(driver_of))
}

fn driver_of(source: &Value) -> Option<String> {
    if let Some(driver) = source["csi"]["driver"].as_str() {
        return Some(driver.to_owned());
    }
    MIGRATED.iter().find(|(built_in, _)| source.get(*built_in).is_some()).map(|(_, driver)| (*driver).to_owned())
}

fn asks_for(snapshot: &Snapshot, driver: &str, audience: &str) -> Result<bool, String> {
    let found = stored(snapshot, "storage.k8s.io/csidrivers", "", driver);
    let found = found.ok_or_else(|| format!("csidriver.storage.k8s.io {driver:?} not found"))?;
    let mut asked = found.list(&["spec", "tokenRequests"]).iter();
    Ok(asked.any(|one| one["audience"].as_str().unwrap_or("") == audience))
}
