//! Policy type checking controller.
//! Watches: ValidatingAdmissionPolicy, and that definitions of custom kinds change.  Writes: ValidatingAdmissionPolicy.status.
//! Converges: the status says which expressions do not fit the schemas of the kinds that the policy names, for this generation of it.
//! Never: keeps a policy from being in force; touches the status' conditions.
//! Wakes: on change of a policy; when a definition changes, for every policy.  Plan: [`plan`].  Act: one patch of the status.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::admissionregistration::v1::ValidatingAdmissionPolicy,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use knarr_api::{Kinds, Object, cel::policy, custom};
use knarr_client::{Change, Cluster, Informer, WorkQueue};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::runner::{Activation, Controller, Runner, Step as _, StepError};
use crate::world::{Told, World};

pub(crate) fn start(cluster: &Cluster, world: &Arc<World>, runner: &mut Runner) {
    let policies = cluster.informer::<ValidatingAdmissionPolicy>();
    let queue = Arc::new(WorkQueue::default());
    policies.subscribe({
        let queue = queue.clone();
        move |change: &Change<ValidatingAdmissionPolicy>| queue.add(change.object().name_any())
    });
    world.subscribe({
        let (queue, policies) = (queue.clone(), policies.clone());
        move |told: &Told| {
            let (Told::Applied { new: item, .. } | Told::Deleted(item)) = told;
            if item.resource.api.kind == "CustomResourceDefinition" {
                policies.list().iter().for_each(|policy| queue.add(policy.name_any()));
            }
        }
    });
    let controller = PolicyTypes { cluster: cluster.clone(), policies: policies.clone() };
    runner.start(controller, queue, async move { policies.ready().await });
}

struct PolicyTypes {
    cluster: Cluster,
    policies: Informer<ValidatingAdmissionPolicy>,
}

impl Controller for PolicyTypes {
    type Key = String;

    const NAME: &'static str = "policy-types";

    async fn reconcile(&self, name: &String) -> Result<Activation, StepError> {
        let mut activation = Activation::default();
        let Some(policy) = self.policies.get("", name).and_then(|policy| object(&*policy)) else { return Ok(activation) };
        let mut kinds = Kinds::builtin();
        // Few are asked for, and none is kept: schemas are large.
        let definitions: Api<CustomResourceDefinition> = self.cluster.all();
        for name in definitions_of(&policy, &kinds) {
            let definition = definitions.get_opt(&name).await.step(|| format!("get the definition {name}"))?;
            for kind in definition.as_ref().and_then(object).iter().flat_map(|definition| custom::rows(definition, 0)) {
                kinds.insert(kind);
            }
        }
        if let Some(status) = plan(&policy, &kinds) {
            let policies: Api<ValidatingAdmissionPolicy> = self.cluster.all();
            let patch = Patch::Merge(json!({"status": status}));
            policies.patch_status(name, &PatchParams::default(), &patch).await.step(|| "write what the type check found".to_owned())?;
            activation.changed(format!("check the types of policy {name}"));
        }
        Ok(activation)
    }
}

/// The definitions of the custom kinds that the policy's rules name.
fn definitions_of(policy: &Object, kinds: &Kinds) -> BTreeSet<String> {
    fn texts<'v>(rule: &'v Value, key: &str) -> impl Iterator<Item = &'v str> {
        rule[key].as_array().into_iter().flatten().filter_map(Value::as_str)
    }
    let mut names = BTreeSet::new();
    for rule in policy.list(&["spec", "matchConstraints", "resourceRules"]) {
        for group in texts(rule, "apiGroups").filter(|group| group.contains('.') && !kinds.iter().any(|kind| kind.group == *group)) {
            names.extend(
                texts(rule, "resources").filter(|resource| !resource.contains(['*', '/'])).map(|resource| format!("{resource}.{group}")),
            );
        }
    }
    names
}

fn object(typed: &impl serde::Serialize) -> Option<Object> {
    Object::from_value(serde_json::to_value(typed).ok()?)
}

/// What the status should say; none where it does.
fn plan(policy: &Object, kinds: &Kinds) -> Option<Value> {
    let warnings = policy::warnings(policy, kinds).into_iter().map(|warning| json!({"fieldRef": warning.field, "warning": warning.text}));
    let warnings: Vec<Value> = warnings.collect();
    let seen = policy.int(&["status", "observedGeneration"]) == Some(policy.generation());
    if seen && policy.list(&["status", "typeChecking", "expressionWarnings"]) == warnings {
        return None;
    }
    Some(json!({"observedGeneration": policy.generation(), "typeChecking": {"expressionWarnings": warnings}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_written_when_it_is_not_what_it_should_be() {
        let policy = |expression: &str, status: Value| {
            let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["*"]});
            let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": expression}]});
            Object::from_value(json!({"metadata": {"name": "p", "generation": 2}, "spec": spec, "status": status})).unwrap()
        };
        let kinds = Kinds::builtin();
        let text = "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'x'\n | object.spec.x == 1\n | ...........^\n";
        let warning = json!([{"fieldRef": "spec.validations[0].expression", "warning": text}]);
        let wrong = json!({"observedGeneration": 2, "typeChecking": {"expressionWarnings": warning}});
        let right = json!({"observedGeneration": 2, "typeChecking": {"expressionWarnings": []}});
        for (expression, status, expected) in [
            ("object.spec.x == 1", json!({}), Some(&wrong)),
            ("object.spec.x == 1", wrong.clone(), None),
            ("object.spec.paused", json!({}), Some(&right)),
            ("object.spec.paused", json!({"observedGeneration": 1}), Some(&right)),
            ("object.spec.paused", wrong.clone(), Some(&right)),
            ("object.spec.paused", right.clone(), None),
            ("object.spec.paused", json!({"observedGeneration": 2}), None),
        ] {
            assert_eq!(plan(&policy(expression, status.clone()), &kinds).as_ref(), expected, "{expression} {status}");
        }
    }
}
