//! Certificate signing requests: approval of those that nodes make for themselves, signing, and removal.
//! Watches: CertificateSigningRequest.  Writes: their `approval` and `status`; deletes them.
//! Converges: a kubelet's request for its own client certificate is approved if its requester may make such (a SubjectAccessReview tells);
//! an approved request to one of the built-in signers has its certificate, or the condition Failed and why; an old request is gone.
//! Never: approves a serving certificate or any other for people or programs; signs for a signer that is not built in; signs what is denied.
//! Wakes: on change, and when a request is to go.  Plan: [`plan`].  Act: [`Requests::act`].

mod plan;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use knarr_client::{Change, Cluster, Informer, WorkQueue};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};
use plan::{Plan, plan};

/// One request as the authority is asked to sign it.
#[derive(Debug)]
pub struct Order<'a> {
    /// PKCS #10 in PEM.
    pub request: &'a [u8],
    pub usages: &'a [&'a str],
    /// The life that is asked for.
    pub seconds: Option<i64>,
}

/// Signs a request, or tells why not.
pub type Sign = dyn Fn(&Order<'_>) -> Result<String, String> + Send + Sync;

/// The cluster's certificate authority, whose key lies with the API server.
#[derive(Clone)]
pub struct Authority(pub Arc<Sign>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner, authority: Option<Authority>) {
    let requests = cluster.informer::<CertificateSigningRequest>();
    let queue = Arc::new(WorkQueue::default());
    requests.subscribe({
        let queue = queue.clone();
        move |change: &Change<CertificateSigningRequest>| queue.add(change.object().name_any())
    });
    let controller = Requests { cluster: cluster.clone(), requests: requests.clone(), authority };
    runner.start(controller, queue, async move { requests.ready().await });
}

struct Requests {
    cluster: Cluster,
    requests: Informer<CertificateSigningRequest>,
    /// Without it requests are approved and removed, and somebody else signs.
    authority: Option<Authority>,
}

impl Controller for Requests {
    type Key = String;

    const NAME: &'static str = "certificates";

    async fn reconcile(&self, name: &String) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let Some(request) = self.requests.get("", name) else { return Ok(activation) };
        let now = Timestamp::now();
        self.act(&request, plan(&request, now), now, &mut activation).await?;
        // What was written comes back by the watch, with a deadline of its own.
        activation.wake = plan::goes_at(&request).map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        Ok(activation)
    }
}

impl Requests {
    async fn act(
        &self,
        request: &CertificateSigningRequest,
        plan: Plan,
        now: Timestamp,
        activation: &mut Activation,
    ) -> Result<(), StepError> {
        let name = request.name_any();
        let api: Api<CertificateSigningRequest> = self.cluster.all();
        match plan {
            Plan::Rest => {}
            Plan::Delete { why } => {
                let metadata = &request.metadata;
                let (uid, resource_version) = (metadata.uid.clone(), metadata.resource_version.clone());
                let params = DeleteParams { preconditions: Some(Preconditions { uid, resource_version }), ..DeleteParams::default() };
                api.delete(&name, &params).await.step(|| "delete an old request".to_owned())?;
                activation.changed(format!("delete {name}: {why}"));
            }
            Plan::Review(rights) => {
                for right in rights {
                    if self.may(request, right).await? {
                        let what = if right == rules::SELF_NODE { "self kubelet client" } else { "kubelet client" };
                        let message = format!("Auto approving {what} certificate after SubjectAccessReview.");
                        let patch = self.decided(request, "Approved", "AutoApproved", &message, now);
                        api.patch_subresource("approval", &name, &PatchParams::default(), &Patch::Merge(patch))
                            .await
                            .step(|| "approve a request".to_owned())?;
                        activation.changed(format!("approve {name}"));
                        return Ok(());
                    }
                }
            }
            Plan::Sign => {
                let Some(Authority(sign)) = &self.authority else { return Ok(()) };
                let usages: Vec<&str> = request.spec.usages.iter().flatten().map(String::as_str).collect();
                let order =
                    Order { request: &request.spec.request.0, usages: &usages, seconds: request.spec.expiration_seconds.map(i64::from) };
                let patch = match sign(&order) {
                    Ok(certificate) => json!({
                        "metadata": { "resourceVersion": request.metadata.resource_version },
                        "status": { "certificate": k8s_openapi::ByteString(certificate.into_bytes()) },
                    }),
                    Err(why) => self.decided(request, "Failed", "SigningFailure", &why, now),
                };
                self.write_status(&api, &name, patch).await?;
                activation.changed(format!("sign {name}"));
            }
            Plan::Fail { why } => {
                let patch = self.decided(request, "Failed", "SignerValidationFailure", &why, now);
                self.write_status(&api, &name, patch).await?;
                activation.changed(format!("fail {name}: {why}"));
            }
        }
        Ok(())
    }

    async fn write_status(&self, api: &Api<CertificateSigningRequest>, name: &str, patch: Value) -> Result<(), StepError> {
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.step(|| "write a request's status".to_owned())?;
        Ok(())
    }

    /// A patch that adds a condition, if the request has not changed meanwhile.
    fn decided(&self, request: &CertificateSigningRequest, ty: &str, reason: &str, message: &str, now: Timestamp) -> Value {
        let mut conditions = json!(request.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default());
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if let Some(conditions) = conditions.as_array_mut() {
            conditions.push(json!({
                "type": ty, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now, "lastTransitionTime": now,
            }));
        }
        json!({ "metadata": { "resourceVersion": request.metadata.resource_version }, "status": { "conditions": conditions } })
    }

    /// Whether the requester may create `certificatesigningrequests/<right>`.
    async fn may(&self, request: &CertificateSigningRequest, right: &str) -> Result<bool, StepError> {
        let spec = &request.spec;
        let attributes = ResourceAttributes {
            group: Some("certificates.k8s.io".to_owned()),
            resource: Some("certificatesigningrequests".to_owned()),
            subresource: Some(right.to_owned()),
            verb: Some("create".to_owned()),
            ..ResourceAttributes::default()
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(attributes),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = self.cluster.all();
        let answer = reviews.create(&PostParams::default(), &review).await.step(|| format!("ask whether the requester may {right}"))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
