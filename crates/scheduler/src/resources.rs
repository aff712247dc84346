//! Amounts of resources: what a node has, and what pods ask for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What a container that asks for nothing counts in scores, so that such pods spread too (scheduler/util/pod_resources.go).
const UNASKED_MILLI_CPU: i64 = 100;
const UNASKED_MEMORY: i64 = 200 << 20;

type List = BTreeMap<String, Quantity>;

/// CPU in thousandths, everything else in units (bytes, devices).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) milli_cpu: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral: i64,
    /// Extended resources and huge pages, by name.
    pub(crate) other: BTreeMap<String, i64>,
}

impl Resources {
    pub(crate) fn of(list: Option<&List>) -> Resources {
        let mut amounts = Resources::default();
        for (name, quantity) in list.into_iter().flatten() {
            // The API server lets no malformed quantity in.
            let Ok(quantity) = knarr_api::Quantity::parse(&quantity.0) else { continue };
            let units = i64::try_from(quantity.value()).unwrap_or(i64::MAX);
            match name.as_str() {
                "cpu" => amounts.milli_cpu = i64::try_from(quantity.milli()).unwrap_or(i64::MAX),
                "memory" => amounts.memory = units,
                "ephemeral-storage" => amounts.ephemeral = units,
                "pods" => {}
                name => {
                    amounts.other.insert(name.to_owned(), units);
                }
            }
        }
        amounts
    }

    pub(crate) fn add(&mut self, more: &Resources) {
        self.milli_cpu = self.milli_cpu.saturating_add(more.milli_cpu);
        self.memory = self.memory.saturating_add(more.memory);
        self.ephemeral = self.ephemeral.saturating_add(more.ephemeral);
        for (name, amount) in &more.other {
            let have = self.other.entry(name.clone()).or_default();
            *have = have.saturating_add(*amount);
        }
    }

    pub(crate) fn subtract(&mut self, less: &Resources) {
        self.milli_cpu -= less.milli_cpu;
        self.memory -= less.memory;
        self.ephemeral -= less.ephemeral;
        for (name, amount) in &less.other {
            if let Some(have) = self.other.get_mut(name) {
                *have -= amount;
            }
        }
    }

    fn raise(&mut self, floor: &Resources) {
        self.milli_cpu = self.milli_cpu.max(floor.milli_cpu);
        self.memory = self.memory.max(floor.memory);
        self.ephemeral = self.ephemeral.max(floor.ephemeral);
        for (name, amount) in &floor.other {
            let have = self.other.entry(name.clone()).or_default();
            *have = (*have).max(*amount);
        }
    }
}

/// What a pod needs at any moment of its life: its containers together with its sidecars, or the init container that needs most
/// beside the sidecars started before it; and the overhead of its runtime. Amounts for the whole pod, where given, come before.
pub(crate) fn requests(pod: &Pod) -> Resources {
    total(pod, &|container| Resources::of(container_requests(container)))
}

/// [`requests`] with something for containers that ask for nothing. For scores only.
pub(crate) fn scored_requests(pod: &Pod) -> Resources {
    total(pod, &|container| {
        let asked = container_requests(container);
        let mut amounts = Resources::of(asked);
        let asks = |name: &str| asked.is_some_and(|list| list.contains_key(name));
        if !asks("cpu") {
            amounts.milli_cpu = UNASKED_MILLI_CPU;
        }
        if !asks("memory") {
            amounts.memory = UNASKED_MEMORY;
        }
        amounts
    })
}

fn container_requests(container: &Container) -> Option<&List> {
    container.resources.as_ref()?.requests.as_ref()
}

fn total(pod: &Pod, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&of(container));
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&of(container));
            peak.raise(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&of(container));
            peak.raise(&moment);
        }
    }
    running.add(&sidecars);
    running.raise(&peak);
    if let Some(list) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let whole = Resources::of(Some(list));
        for name in list.keys() {
            match name.as_str() {
                "cpu" => running.milli_cpu = whole.milli_cpu,
                "memory" => running.memory = whole.memory,
                name => {
                    running.other.insert(name.to_owned(), whole.other.get(name).copied().unwrap_or(0));
                }
            }
        }
    }
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: serde_json::Value, milli_cpu: i64, memory: i64) {
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap();
        let asked = requests(&pod);
        assert_eq!((asked.milli_cpu, asked.memory), (milli_cpu, memory), "{spec}");
    }

    #[test]
    fn a_pod_needs_the_most_of_its_life() {
        let asks = |cpu: &str, memory: &str| json!({ "name": "c", "resources": { "requests": { "cpu": cpu, "memory": memory } } });
        let sidecar = |cpu: &str| json!({ "name": "c", "restartPolicy": "Always", "resources": { "requests": { "cpu": cpu } } });
        check(json!({ "containers": [asks("100m", "1Ki"), asks("1", "1Ki")] }), 1100, 2048);
        check(json!({ "containers": [asks("1", "1Ki")], "initContainers": [asks("3", "1")] }), 3000, 1024);
        check(json!({ "containers": [asks("1", "1")], "initContainers": [sidecar("1"), asks("3", "1")] }), 4000, 1);
        check(json!({ "containers": [asks("4", "1")], "initContainers": [asks("3", "1"), sidecar("1")] }), 5000, 1);
        check(json!({ "containers": [asks("1", "1")], "overhead": { "cpu": "250m" } }), 1250, 1);
        check(json!({ "containers": [asks("1", "1")], "resources": { "requests": { "cpu": "2" } } }), 2000, 1);
        check(json!({ "containers": [{ "name": "c" }] }), 0, 0);
    }
}
