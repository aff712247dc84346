//! Admission webhooks: what is asked of servers outside about a request, and what becomes of their answers
//! (apiserver, admission/plugin/webhook).
//!
//! A [`Hook`] is one entry of a configuration, compiled: its conditions, its target with the connections to it. Hooks are kept until a
//! configuration changes, which every request looks for: a change is in force with the next request. Choosing hooks looks at the store's snapshot;
//! nothing is held while a hook is waited for.

mod counts;
mod dispatch;
mod review;

use std::{sync::Arc, time::Duration};

use knarr_api::{
    Object, Status,
    cel::{
        Budget, CompileError, Program,
        policy::{Purpose, Surroundings},
    },
    status,
};
use knarr_store::{Collection, Snapshot};
use parking_lot::Mutex;
use serde_json::Value;

use super::{
    Chain, Request,
    matching::{self, About, View},
    policies, stored_all,
};
use crate::callout::Target;

pub(crate) use counts::Counts;
pub(super) use dispatch::{mutate, validate};

pub(super) const MUTATING: &str = "admissionregistration.k8s.io/mutatingwebhookconfigurations";
pub(super) const VALIDATING: &str = "admissionregistration.k8s.io/validatingwebhookconfigurations";

/// Upstream's default for timeoutSeconds, which validation keeps between 1 and 30.
const SECONDS: u64 = 10;

/// Versions of AdmissionReview that are spoken.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The hooks of one state of the store.
#[derive(Default)]
pub(super) struct Cache(Mutex<Option<(u64, Arc<Hooks>)>>);

#[derive(Default)]
pub(super) struct Hooks {
    mutating: Vec<Hook>,
    validating: Vec<Hook>,
}

/// The configuration's name and the place in it.
pub(super) type HookId = (String, usize);

struct Hook {
    id: HookId,
    name: String,
    spec: Value,
    conditions: Vec<(String, Result<Program, CompileError>)>,
    target: Arc<Result<Target, String>>,
    version: &'static str,
    time_max: Duration,
    /// What cannot be asked is passed over.
    ignore: bool,
    reinvoked: bool,
}

impl Cache {
    fn at(&self, snapshot: &Snapshot) -> Arc<Hooks> {
        let now = policies::fingerprint(snapshot, &[MUTATING, VALIDATING]);
        let mut cached = self.0.lock();
        let before = match &*cached {
            Some((then, hooks)) if *then == now => return hooks.clone(),
            Some((_, hooks)) => hooks.clone(),
            None => Arc::default(),
        };
        let hooks = Arc::new(Hooks {
            mutating: Hook::compile_all(snapshot, MUTATING, &before),
            validating: Hook::compile_all(snapshot, VALIDATING, &before),
        });
        *cached = Some((now, hooks.clone()));
        hooks
    }
}

impl Hooks {
    /// Connections outlive a change of configuration that is not about them.
    fn target(&self, client_config: &Value) -> Option<Arc<Result<Target, String>>> {
        let mut all = self.mutating.iter().chain(&self.validating);
        all.find(|hook| hook.spec["clientConfig"] == *client_config).map(|hook| hook.target.clone())
    }
}

impl Hook {
    /// In the order of the configurations' names, in which the store keeps them.
    fn compile_all(snapshot: &Snapshot, collection: &str, before: &Hooks) -> Vec<Hook> {
        let mut hooks = Vec::new();
        for configuration in stored_all(snapshot, collection, "") {
            for (index, spec) in configuration.list(&["webhooks"]).iter().enumerate() {
                hooks.push(Hook::compile(&configuration, index, spec, before));
            }
        }
        hooks
    }

    fn compile(configuration: &Object, index: usize, spec: &Value, before: &Hooks) -> Hook {
        let text = |key: &str| spec[key].as_str().unwrap_or_default();
        let condition = |one: &Value| {
            let program = Surroundings::of_webhook().compile(one["expression"].as_str().unwrap_or_default(), Purpose::Condition);
            (one["name"].as_str().unwrap_or_default().to_owned(), program)
        };
        let target = before
            .target(&spec["clientConfig"])
            .unwrap_or_else(|| Arc::new(Target::from_client_config(&spec["clientConfig"]).map_err(|error| crate::connect::chain(&error))));
        let known = |one: &Value| VERSIONS.into_iter().find(|known| one == known);
        Hook {
            id: (configuration.name().to_owned(), index),
            name: text("name").to_owned(),
            conditions: spec["matchConditions"].as_array().into_iter().flatten().map(condition).collect(),
            target,
            version: spec["admissionReviewVersions"].as_array().into_iter().flatten().find_map(known).unwrap_or(VERSIONS[0]),
            time_max: Duration::from_secs(spec["timeoutSeconds"].as_u64().unwrap_or(SECONDS)),
            ignore: text("failurePolicy") == "Ignore",
            reinvoked: text("reinvocationPolicy") == "IfNeeded",
            spec: spec.clone(),
        }
    }

    /// What the hook is to be asked about the request as it is now, if anything.
    async fn asks(&self, chain: &Chain, snapshot: &Snapshot, request: &Request<'_>) -> Result<Option<View>, Status> {
        let about = matching::about(&self.spec, "rules", request, snapshot, &chain.registry.now().kinds);
        let view = match about {
            About::Nothing => return Ok(None),
            About::Itself => View::of(request),
            About::As(kind) => match View::converted(&chain.conversions, request, kind).await {
                Ok(view) => view,
                Err(_) if self.ignore => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        if self.conditions.is_empty() {
            return Ok(Some(view));
        }
        let subject = chain.subject(snapshot, request, view);
        let held = || {
            let conditions = self.conditions.iter().map(|(name, program)| (name.as_str(), program));
            matching::conditions_hold(conditions, &subject, &Value::Null, &Budget::new(matching::CONDITIONS_COST_MAX))
        };
        match subject.answered(held).await {
            Ok(true) => Ok(Some(subject.view)),
            Ok(false) => Ok(None),
            Err(_) if self.ignore => Ok(None),
            Err(error) => Err(request.forbidden(&error)),
        }
    }

    /// Whether the hook can be asked about a dry run.
    fn check_dry_run(&self, request: &Request<'_>) -> Result<(), Status> {
        let harmless = matches!(self.spec["sideEffects"].as_str(), Some("None" | "NoneOnDryRun"));
        if request.dry_run && !harmless {
            return Err(status::bad_request(format!("admission webhook {:?} does not support dry run", self.name)));
        }
        Ok(())
    }
}

/// Whoever could forbid changes to the configuration of admission could never be undone.
pub(super) fn is_exempt(request: &Request<'_>) -> bool {
    const CONFIGURATION: [&str; 6] = [
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    ];
    request.kind.group == "admissionregistration.k8s.io" && CONFIGURATION.contains(&&*request.kind.resource)
}

/// Whether there is a hook at all, which is to cost next to nothing where there is none.
pub(super) fn any(snapshot: &Snapshot, collection: &str) -> bool {
    snapshot.len(&Collection::new(collection)) > 0
}
