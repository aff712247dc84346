//! Service account token controller.
//! Watches: Secret, of the type of service account tokens; ServiceAccount.  Writes: such a Secret's `token`, `ca.crt` and `namespace`, and the uid of its
//! account in its annotations; deletes such Secrets.
//! Converges: a Secret that names a living account holds a token of it that the cluster still knows, and the cluster's authority; one whose account is
//! gone, or was made anew, is gone.
//! Never: makes a Secret; touches one of another type, or an immutable one.
//! Wakes: on change, and once a day where a token stands.  Plan: [`plan`].

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use knarr_client::{Change, Cluster, Informer, ObjectKey, WorkQueue};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const TOKEN: &str = "token";
const AUTHORITY: &str = "ca.crt";
const NAMESPACE: &str = "namespace";

/// Nobody tells when the key that signed a token is forgotten.
const LOOK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Whose token is to be signed, and for which Secret.
#[derive(Debug)]
pub struct TokenOrder<'a> {
    pub namespace: &'a str,
    pub account: &'a str,
    pub account_uid: &'a str,
    pub secret: &'a str,
}

/// Signs tokens, with a key that lies with the API server.
pub trait SecretTokens: Send + Sync {
    /// A token, or why there is none.
    fn sign(&self, order: &TokenOrder<'_>) -> Result<String, String>;

    /// Whether a token is one for this order, signed with a key that is still known.
    fn knows(&self, order: &TokenOrder<'_>, token: &str) -> bool;
}

/// Without it somebody else fills such Secrets.
#[derive(Clone)]
pub struct TokenSigner(pub Arc<dyn SecretTokens>);

impl std::fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenSigner")
    }
}

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner, TokenSigner(signer): TokenSigner, root_ca: &str) {
    let secrets = cluster.informer_with::<Secret>(&format!("type={TYPE}"));
    let accounts = cluster.informer::<ServiceAccount>();
    let queue = Arc::new(WorkQueue::default());
    secrets.subscribe({
        let queue = queue.clone();
        move |change: &Change<Secret>| queue.add(ObjectKey::of(&**change.object()))
    });
    accounts.subscribe({
        let (queue, secrets) = (queue.clone(), secrets.clone());
        move |change: &Change<ServiceAccount>| {
            let account = change.object();
            let of = |secret: &Secret| secret.namespace() == account.namespace() && name_of_account(secret) == account.name_any();
            secrets.snapshot().values().filter(|secret| of(secret)).for_each(|secret| queue.add(ObjectKey::of(&**secret)));
        }
    });
    let controller = Controlled { cluster: cluster.clone(), secrets: secrets.clone(), signer, root_ca: root_ca.to_owned() };
    runner.start(controller, queue, async move {
        secrets.ready().await;
        accounts.ready().await;
    });
}

struct Controlled {
    cluster: Cluster,
    secrets: Informer<Secret>,
    signer: Arc<dyn SecretTokens>,
    root_ca: String,
}

impl Controller for Controlled {
    type Key = ObjectKey;

    const NAME: &'static str = "serviceaccount-token";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let Some(secret) = self.secrets.get(&key.namespace, &key.name) else { return Ok(activation) };
        if name_of_account(&secret).is_empty() || secret.metadata.deletion_timestamp.is_some() {
            return Ok(activation);
        }
        // Asked for live: by an older view a Secret would go whose account was made a moment before it.
        let accounts: Api<ServiceAccount> = self.cluster.api(&key.namespace);
        let account = accounts.get_opt(name_of_account(&secret)).await.step(|| "read a token's service account".to_owned())?;
        let secrets: Api<Secret> = self.cluster.api(&key.namespace);
        match plan(&secret, account.as_ref(), &self.root_ca, |order, token| self.signer.knows(order, token)) {
            Plan::Rest => activation.wake = Some(LOOK_EVERY),
            // Only its author can mend that, by a Secret of another name.
            Plan::Immutable => {}
            Plan::Delete => {
                let (uid, resource_version) = (secret.metadata.uid.clone(), secret.metadata.resource_version.clone());
                let params = DeleteParams { preconditions: Some(Preconditions { uid, resource_version }), ..DeleteParams::default() };
                secrets.delete(&key.name, &params).await.step(|| "delete a token whose service account is gone".to_owned())?;
                activation.changed(format!("delete the token {key}, whose service account is gone"));
            }
            Plan::Fill { account_uid, needs_token } => {
                let account = name_of_account(&secret).to_owned();
                let mut filled = Secret::clone(&secret);
                let data = filled.data.get_or_insert_default();
                if needs_token {
                    let order = TokenOrder { namespace: &key.namespace, account: &account, account_uid: &account_uid, secret: &key.name };
                    let token = self.signer.sign(&order).map_err(|why| kube::Error::Service(why.into()));
                    let token = token.step(|| format!("sign a token for {account}"))?;
                    data.insert(TOKEN.to_owned(), ByteString(token.into_bytes()));
                }
                data.insert(AUTHORITY.to_owned(), ByteString(self.root_ca.clone().into_bytes()));
                data.insert(NAMESPACE.to_owned(), ByteString(key.namespace.clone().into_bytes()));
                filled.annotations_mut().insert(ACCOUNT_UID.to_owned(), account_uid);
                // Under the revision that the plan was made from: what was changed since is looked at anew.
                secrets.replace(&key.name, &PostParams::default(), &filled).await.step(|| "fill a service account token".to_owned())?;
                activation.changed(format!("fill the token {key} of {account}"));
            }
        }
        Ok(activation)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Rest,
    Delete,
    Fill { account_uid: String, needs_token: bool },
    Immutable,
}

/// `knows` tells whether a token is this Secret's, and the cluster's keys still verify it: another, or one that is signed with a forgotten key, is
/// as good as none.
fn plan(secret: &Secret, account: Option<&ServiceAccount>, root_ca: &str, knows: impl Fn(&TokenOrder<'_>, &str) -> bool) -> Plan {
    let wanted_uid = secret.annotations().get(ACCOUNT_UID).map(String::as_str).unwrap_or_default();
    let account_uid = account.and_then(|account| account.uid()).unwrap_or_default();
    if account_uid.is_empty() || !(wanted_uid.is_empty() || wanted_uid == account_uid) {
        return Plan::Delete;
    }
    let held = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice()).unwrap_or_default();
    let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
    let order = TokenOrder { namespace: &namespace, account: name_of_account(secret), account_uid: &account_uid, secret: &name };
    let needs_token = !std::str::from_utf8(held(TOKEN)).is_ok_and(|token| knows(&order, token));
    // The namespace is filled in where it is missing, and is otherwise the author's, as upstream.
    let complete = !needs_token && held(AUTHORITY) == root_ca.as_bytes() && !held(NAMESPACE).is_empty() && !wanted_uid.is_empty();
    match (complete, secret.immutable) {
        (true, _) => Plan::Rest,
        (false, Some(true)) => Plan::Immutable,
        (false, _) => Plan::Fill { account_uid, needs_token },
    }
}

fn name_of_account(secret: &Secret) -> &str {
    secret.annotations().get(ACCOUNT_NAME).map(String::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is planned for a Secret of the account `robot`, uid `u1`, with this uid in its annotations and this data, where `good` is a known token.
    fn check(uid: &str, data: &[(&str, &str)], expected: Plan) {
        check_all(uid, data, false, Some("u1"), expected);
    }

    fn check_all(uid: &str, data: &[(&str, &str)], immutable: bool, account: Option<&str>, expected: Plan) {
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": { "name": "s", "namespace": "a", "annotations": { ACCOUNT_NAME: "robot" } }, "immutable": immutable, "type": TYPE,
        }))
        .unwrap();
        if !uid.is_empty() {
            secret.annotations_mut().insert(ACCOUNT_UID.to_owned(), uid.to_owned());
        }
        secret.data = Some(data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect());
        let account = account.map(|uid| serde_json::from_value(json!({ "metadata": { "name": "robot", "uid": uid } })).unwrap());
        let knows = |order: &TokenOrder<'_>, token: &str| {
            token == "good" && (order.namespace, order.account, order.account_uid, order.secret) == ("a", "robot", "u1", "s")
        };
        assert_eq!(plan(&secret, account.as_ref(), "pem", knows), expected, "{uid} {data:?} {immutable}");
    }

    #[test]
    fn a_secret_is_filled_as_far_as_it_is_not_and_goes_with_its_account() {
        let fill = |needs_token: bool| Plan::Fill { account_uid: "u1".to_owned(), needs_token };
        let whole = [(TOKEN, "good"), (AUTHORITY, "pem"), (NAMESPACE, "a")];
        check("", &[], fill(true));
        check("u1", &[], fill(true));
        check("u1", &whole, Plan::Rest);
        check("", &whole, fill(false));
        check("u1", &[(TOKEN, "good"), (AUTHORITY, "old"), (NAMESPACE, "a")], fill(false));
        check("u1", &[(TOKEN, "good"), (AUTHORITY, "pem")], fill(false));
        check("u1", &[(TOKEN, "of a forgotten key"), (AUTHORITY, "pem"), (NAMESPACE, "a")], fill(true));
        check("u2", &whole, Plan::Delete);
        check_all("u1", &whole, false, None, Plan::Delete);
        check_all("", &[], false, None, Plan::Delete);
        check_all("u1", &[], true, Some("u1"), Plan::Immutable);
        check_all("u1", &whole, true, Some("u1"), Plan::Rest);
    }
}
