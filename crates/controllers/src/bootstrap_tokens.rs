//! Bootstrap token cleaner.
//! Watches: Secret, of the type of bootstrap tokens.  Deletes: those whose time is over.
//! Converges: no token in `kube-system` outlives its `expiration`.
//! Never: touches a Secret elsewhere or of another type; a token without an end, which lives until somebody deletes it.
//! Wakes: on change, and when a token ends.  Plan: [`plan`].

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use knarr_client::{Change, Cluster, Informer, WorkQueue};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner) {
    let tokens = cluster.informer_with::<Secret>(&format!("type={TYPE}"));
    let queue = Arc::new(WorkQueue::default());
    tokens.subscribe({
        let queue = queue.clone();
        move |change: &Change<Secret>| {
            if change.object().namespace().as_deref() == Some(NAMESPACE) {
                queue.add(change.object().name_any());
            }
        }
    });
    let controller = BootstrapTokens { cluster: cluster.clone(), tokens: tokens.clone() };
    runner.start(controller, queue, async move { tokens.ready().await });
}

struct BootstrapTokens {
    cluster: Cluster,
    tokens: Informer<Secret>,
}

impl Controller for BootstrapTokens {
    type Key = String;

    const NAME: &'static str = "token-cleaner";

    async fn reconcile(&self, name: &String) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let Some(token) = self.tokens.get(NAMESPACE, name) else { return Ok(activation) };
        match plan(&token, Timestamp::now()) {
            Plan::Rest => {}
            Plan::Wait(left) => activation.wake = Some(left),
            Plan::Delete => {
                // One that was made again under the name, or given more time, stays.
                let (uid, resource_version) = (token.metadata.uid.clone(), token.metadata.resource_version.clone());
                let params = DeleteParams { preconditions: Some(Preconditions { uid, resource_version }), ..DeleteParams::default() };
                let secrets: Api<Secret> = self.cluster.api(NAMESPACE);
                secrets.delete(name, &params).await.step(|| "delete a bootstrap token that has ended".to_owned())?;
                activation.changed(format!("delete the bootstrap token {name}, which has ended"));
            }
        }
        Ok(activation)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Rest,
    Wait(Duration),
    Delete,
}

/// A time that cannot be read is taken as past, as it is where the token is shown (cluster-bootstrap, util/secrets, GetExpiration).
fn plan(token: &Secret, now: Timestamp) -> Plan {
    let is_one = token.type_.as_deref() == Some(TYPE) && token.metadata.deletion_timestamp.is_none();
    let end = token.data.as_ref().and_then(|data| data.get("expiration")).filter(|end| !end.0.is_empty());
    let Some(end) = end.filter(|_| is_one) else { return Plan::Rest };
    let end = std::str::from_utf8(&end.0).ok().and_then(|text| text.parse::<Timestamp>().ok());
    match end.and_then(|end| Duration::try_from(end.duration_since(now)).ok()) {
        Some(left) if !left.is_zero() => Plan::Wait(left),
        _ => Plan::Delete,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn check(ty: &str, expiration: Option<&str>, expected: Plan) {
        let data = expiration.map(|text| [("expiration".to_owned(), ByteString(text.into()))].into());
        let token = Secret { type_: Some(ty.to_owned()), data, ..Secret::default() };
        assert_eq!(plan(&token, "2026-11-27T08:00:00Z".parse().unwrap()), expected, "{ty} {expiration:?}");
    }

    #[test]
    fn a_token_goes_when_its_time_is_over() {
        check(TYPE, None, Plan::Rest);
        check(TYPE, Some(""), Plan::Rest);
        check(TYPE, Some("2026-11-27T08:00:01Z"), Plan::Wait(Duration::from_secs(1)));
        check(TYPE, Some("2026-11-27T10:00:01+02:00"), Plan::Wait(Duration::from_secs(1)));
        check(TYPE, Some("2026-11-27T08:00:00Z"), Plan::Delete);
        check(TYPE, Some("2020-01-01T00:00:00Z"), Plan::Delete);
        check(TYPE, Some("tomorrow"), Plan::Delete);
        check("Opaque", Some("2020-01-01T00:00:00Z"), Plan::Rest);
    }
}
