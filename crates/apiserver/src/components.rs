//! ComponentStatus: whether the parts of the control plane are at work. Deprecated, and still read by people and their tools.
//!
//! Upstream asks ports on loopback. Here nobody listens for that: controllers and a scheduler that are at work watch, wherever they run, and watches
//! end with who holds them. What upstream calls `etcd-0` is the store.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Response, StatusCode};
use knarr_api::{
    Object, Status, Verb,
    select::{FieldSelector, LabelSelector},
    status,
};
use serde_json::{Value, json};

use crate::{
    body::Body,
    call::Call,
    paths,
    render::{self, Shown},
    request::options::ListOptions,
    server::Core,
};

/// Components that watch: their names, and the users that they are.
const WATCHING: [(&str, &str); 2] = [("controller-manager", "system:kube-controller-manager"), ("scheduler", "system:kube-scheduler")];
const STORE: &str = "etcd-0";

/// How many watches each of those components has open.
#[derive(Debug, Default)]
pub(crate) struct Components([AtomicUsize; WATCHING.len()]);

impl Components {
    /// The count of a user's watches, if it is one of the components.
    pub(crate) fn watches_of(&self, user: &str) -> Option<&AtomicUsize> {
        let index = WATCHING.iter().position(|(_, name)| *name == user)?;
        self.0.get(index)
    }
}

/// GET of one, or of those that selectors name.
pub(crate) fn serve(call: &Call, verb: Verb) -> Result<Response<Body>, Status> {
    let all = statuses(&call.core);
    if verb != Verb::List {
        let found = all.into_iter().find(|(name, _)| *name == call.path.name);
        let (name, state) = found.ok_or_else(|| call.not_found(&call.path.name))?;
        return render::one(call, StatusCode::OK, Shown::Made(object(name, &state)));
    }
    let options = ListOptions::parse(&call.query, false)?;
    let labels = LabelSelector::parse(&options.label_selector)
        .map_err(|error| status::bad_request(format!("unable to parse requirement: {error}")))?;
    let fields = FieldSelector::parse(&options.field_selector, &call.kind)?;
    let selected = all.into_iter().filter(|(name, _)| {
        // They have no labels.
        labels.matches(|_| None) && fields.matches(|path| (path == "metadata.name").then_some(*name))
    });
    render::objects_list(call, &json!({}), selected.map(|(name, state)| object(name, &state)).collect())
}

/// In the order of their names. An error says why one is not well.
fn statuses(core: &Core) -> Vec<(&'static str, Result<(), String>)> {
    let watching = WATCHING.iter().zip(&core.components.0).map(|((name, user), watches)| {
        let works = watches.load(Ordering::Relaxed) > 0;
        (*name, if works { Ok(()) } else { Err(format!("nobody watches the API as {user}")) })
    });
    let mut all: Vec<_> = watching.chain([(STORE, paths::store_health(core))]).collect();
    all.sort_by_key(|(name, _)| *name);
    all
}

fn object(name: &str, state: &Result<(), String>) -> Object {
    let mut condition = json!({"type": "Healthy", "status": if state.is_ok() { "True" } else { "False" }});
    match state {
        Ok(()) => condition["message"] = "ok".into(),
        Err(reason) => condition["error"] = reason.as_str().into(),
    }
    let object: Value = json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name}, "conditions": [condition]});
    Object::from_value(object).expect("a map is an object")
}
