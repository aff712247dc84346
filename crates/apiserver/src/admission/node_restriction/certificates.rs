//! Certificates that a kubelet asks for: its own, and those of the pods on its node.

use futures::future::BoxFuture;
use knarr_api::Object;
use knarr_api::status::Status;
use knarr_store::Snapshot;

use super::super::certificates::requested_name;
use super::super::{Chain, Operation, Request, stored};
use super::{MIRROR, Verdict, refuse};
use crate::authz::Attributes;

/// Signers that make kubelets.
const KUBELET_SIGNERS: [&str; 2] = ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"];
/// Lets a kubelet ask a signer that no volume of the pod names, for the pods of an account.
const RIGHT: &str = "request-serviceaccounts-podcertificate-signer";

/// A node that could ask for the name of another would become it with the next approval.
pub(super) fn signing_request(node: &str, request: &Request<'_>) -> Verdict {
    if request.operation != Operation::Create || !KUBELET_SIGNERS.contains(&request.object.str(&["spec", "signerName"])) {
        return Ok(());
    }
    let name = requested_name(request.object).map_err(|why| format!("unable to parse csr: {why}"))?;
    match name == format!("system:node:{node}") {
        true => Ok(()),
        false => refuse(format!("can only create a node CSR with CN=system:node:{node}")),
    }
}

/// All that a pod's request says of node, pod and account must be so. Who only saw an older state, as the code tells, may try again.
pub(super) fn pod_request(snapshot: &Snapshot, node: &str, request: &Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create {
        return Err(request.forbidden("unexpected operation"));
    }
    let spec = |key: &str| request.object.str(&["spec", key]);
    let forbid = |why: String| Err(request.forbidden(&why));
    let stale = |why: String| Err(Status::new(500, "", why));
    let find = |what: &str, resource: &str, namespace: &str, name: &str| -> Result<Object, Status> {
        let shown = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        stored(snapshot, &format!("core/{resource}"), namespace, name).ok_or_else(|| {
            let kind = what.replace(' ', "");
            let why = format!("while retrieving {what} {shown:?} named in the PodCertificateRequest: {kind} {name:?} not found");
            Status::new(500, "", why)
        })
    };
    let pod_name = format!("{}/{}", request.namespace, spec("podName"));
    if spec("nodeName") != node {
        return forbid(format!("PodCertificateRequest.Spec.NodeName={:?}, which is not the requesting node {node:?}", spec("nodeName")));
    }
    let running = find("node", "nodes", "", node)?;
    if running.uid() != spec("nodeUID") {
        return stale(format!(
            "PodCertificateRequest for pod {pod_name:?} names node UID {:?}, inconsistent with the running node ({:?})",
            spec("nodeUID"),
            running.uid()
        ));
    }
    let pod = find("pod", "pods", request.namespace, spec("podName"))?;
    if pod.uid() != spec("podUID") {
        return stale(format!(
            "PodCertificateRequest for pod {pod_name:?} contains pod UID ({:?}) which differs from running pod {:?}",
            spec("podUID"),
            pod.uid()
        ));
    }
    if pod.str(&["spec", "nodeName"]) != node {
        return forbid(format!("pod {pod_name:?} is not running on node {node:?} named in the PodCertificateRequest"));
    }
    if pod.annotation(MIRROR).is_some() {
        return forbid(format!("pod {pod_name:?} is a mirror pod"));
    }
    let account = pod.str(&["spec", "serviceAccountName"]);
    if account != spec("serviceAccountName") {
        return forbid(format!(
            "PodCertificateRequest for pod {pod_name:?} contains serviceAccountName ({:?}) that differs from running pod ({account:?})",
            spec("serviceAccountName")
        ));
    }
    let account = find("service account", "serviceaccounts", request.namespace, account)?;
    if account.uid() != spec("serviceAccountUID") {
        return stale(format!(
            "PodCertificateRequest for pod {pod_name:?} names service account UID {:?}, which differs from the running service account ({:?})",
            spec("serviceAccountUID"),
            account.uid()
        ));
    }
    Ok(())
}

/// The pod must want a certificate of that signer, else whoever breaks into a node would have an identity at every signer.
pub(in crate::admission) fn check_signer<'a>(chain: &'a Chain, request: &'a Request<'_>) -> Option<BoxFuture<'a, Result<(), Status>>> {
    request.user.node_name()?;
    if request.operation != Operation::Create || !request.is("certificates.k8s.io", "podcertificaterequests") {
        return None;
    }
    let signer = request.object.str(&["spec", "signerName"]);
    let pod = stored(&chain.store.snapshot(), "core/pods", request.namespace, request.object.str(&["spec", "podName"]));
    let volumes = pod.as_ref().map_or(&[][..], |pod| pod.list(&["spec", "volumes"]));
    let mut sources = volumes.iter().flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    if sources.any(|source| source["podCertificate"]["signerName"] == signer) {
        return None;
    }
    Some(Box::pin(async move {
        // A resource has no slash in its name.
        let resource = signer.replace('/', ":");
        let (name, namespace) = (request.object.str(&["spec", "serviceAccountName"]), request.namespace);
        let right =
            Attributes { version: "*", name, namespace, ..Attributes::resource(request.user, RIGHT, "certificates.k8s.io", &resource) };
        match chain.authorizer.decide(&right).await.allowed() {
            true => Ok(()),
            false => Err(request.forbidden(&format!(
                "signer {signer:?} not found in pod spec volume, {} is not authorized to request certificates of this signer",
                request.user.name
            ))),
        }
    }))
}
