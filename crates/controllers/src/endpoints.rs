//! Endpoints controller.
//! Watches: Service, Pod, Endpoints.  Writes: Endpoints of the Service's name.
//! Converges: the Endpoints of a Service with a selector hold the addresses that its slices hold, for clients from before there were slices.
//! Never: touches Endpoints of a Service without a selector, which are made by hand; writes what stands already.
//! Wakes: on change.  Plan: [`plan`].  Act: [`LegacyEndpoints::apply`].

#![allow(deprecated, reason = "Endpoints are deprecated in favour of slices, and are still part of the API")]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::Endpoint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_client::{Cluster, Informer, ObjectKey, WorkQueue};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};

use crate::endpointslice;
use crate::runner::{Activation, Controller, Runner, Step as _, StepError};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// Addresses in one Endpoints; those of a larger Service are cut off (endpoints_controller.go, maxCapacity).
const ADDRESSES_MAX: usize = 1_000;

pub(crate) fn start(cluster: &Cluster, runner: &mut Runner) {
    let (services, pods, endpoints) = (cluster.informer::<Service>(), cluster.informer::<Pod>(), cluster.informer::<Endpoints>());
    let queue = Arc::new(WorkQueue::default());
    services.subscribe({
        let queue = Arc::clone(&queue);
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    endpoints.subscribe({
        let queue = Arc::clone(&queue);
        move |change| queue.add(ObjectKey::of(&**change.object()))
    });
    pods.subscribe({
        let (queue, services) = (Arc::clone(&queue), services.clone());
        move |change| endpointslice::pod_changed(change, &queue, &services)
    });
    let synced = (services.clone(), pods.clone(), endpoints.clone());
    runner.start(LegacyEndpoints { cluster: cluster.clone(), services, pods, endpoints }, queue, async move {
        synced.0.ready().await;
        synced.1.ready().await;
        synced.2.ready().await;
    });
}

struct LegacyEndpoints {
    cluster: Cluster,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
}

#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Create(Box<Endpoints>),
    Replace(Box<Endpoints>),
    Delete,
}

/// `pods` are those that the Service chooses.
fn plan(service: Option<&Service>, pods: &[Arc<Pod>], known: Option<&Endpoints>) -> Plan {
    let ours = known.is_some_and(|known| known.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER));
    let Some(groups) = service.and_then(|service| endpointslice::first_family(service, pods)) else {
        return if ours { Plan::Delete } else { Plan::Nothing };
    };
    let Some(service) = service else { return Plan::Nothing };
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    let mut room = ADDRESSES_MAX;
    let mut cut = false;
    for (ports, mut endpoints) in groups {
        endpoints.retain(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.terminating != Some(true)));
        endpoints.sort_by(|one, two| one.addresses.cmp(&two.addresses));
        cut |= endpoints.len() > room;
        endpoints.truncate(room);
        room -= endpoints.len();
        if endpoints.is_empty() {
            continue;
        }
        let (ready, unready): (Vec<Endpoint>, Vec<Endpoint>) = endpoints.into_iter().partition(is_ready);
        let addresses = |endpoints: Vec<Endpoint>| (!endpoints.is_empty()).then(|| endpoints.into_iter().map(address).collect());
        let ports: Vec<EndpointPort> = ports
            .into_iter()
            .map(|port| EndpointPort {
                name: port.name.filter(|name| !name.is_empty()),
                port: port.port.unwrap_or_default(),
                protocol: port.protocol,
                app_protocol: port.app_protocol,
            })
            .collect();
        subsets.push(EndpointSubset {
            addresses: addresses(ready),
            not_ready_addresses: addresses(unready),
            ports: (!ports.is_empty()).then_some(ports),
        });
    }
    let mut wanted = known.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    let labels = wanted.metadata.labels.get_or_insert_default();
    labels.retain(|key, _| service.labels().contains_key(key));
    labels.extend(service.labels().clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    if cut {
        wanted.metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = wanted.metadata.annotations.as_mut() {
        annotations.remove(OVER_CAPACITY);
    }
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    match known {
        None => Plan::Create(Box::new(wanted)),
        Some(known) if *known == wanted => Plan::Nothing,
        Some(_) => Plan::Replace(Box::new(wanted)),
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
}

fn address(endpoint: Endpoint) -> EndpointAddress {
    EndpointAddress {
        ip: endpoint.addresses.into_iter().next().unwrap_or_default(),
        hostname: endpoint.hostname,
        node_name: endpoint.node_name,
        target_ref: endpoint.target_ref,
    }
}

impl Controller for LegacyEndpoints {
    type Key = ObjectKey;

    const NAME: &'static str = "endpoints";

    async fn reconcile(&self, key: &ObjectKey) -> Result<Activation, StepError> {
        let service = self.services.get(&key.namespace, &key.name);
        let pods: Vec<Arc<Pod>> = match &service {
            Some(service) => self.pods.snapshot().values().filter(|pod| endpointslice::chooses(service, pod)).cloned().collect(),
            None => Vec::new(),
        };
        let known = self.endpoints.get(&key.namespace, &key.name);
        let plan = plan(service.as_deref(), &pods, known.as_deref());
        self.apply(key, known.as_deref(), plan).await
    }
}

impl LegacyEndpoints {
    async fn apply(&self, key: &ObjectKey, known: Option<&Endpoints>, plan: Plan) -> Result<Activation, StepError> {
        let api: Api<Endpoints> = self.cluster.api(&key.namespace);
        let mut activation = Activation::default();
        match plan {
            Plan::Nothing => return Ok(activation),
            Plan::Create(wanted) => {
                api.create(&PostParams::default(), &wanted).await.step(|| "create endpoints".to_owned())?;
                activation.changed("create endpoints");
            }
            Plan::Replace(wanted) => {
                api.replace(&key.name, &PostParams::default(), &wanted).await.step(|| "write endpoints".to_owned())?;
                activation.changed("write endpoints");
            }
            Plan::Delete => {
                let preconditions = Preconditions { uid: known.and_then(|known| known.metadata.uid.clone()), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                match api.delete(&key.name, &params).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => return Ok(activation),
                    result => drop(result.step(|| "delete endpoints".to_owned())?),
                }
                activation.changed("delete endpoints");
            }
        }
        Ok(activation)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    fn service(selector: &Value) -> Service {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default", "labels": { "team": "a" } },
            "spec": { "selector": selector, "ports": [{ "port": 80, "targetPort": "http", "protocol": "TCP" }] },
        }))
        .expect("a service")
    }

    /// `name ip port [ready] [deleting]`
    fn pod(line: &str) -> Arc<Pod> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ready = if words.contains(&"ready") { "True" } else { "False" };
        let pod = json!({
            "metadata": { "name": words[0], "namespace": "default", "deletionTimestamp": words.contains(&"deleting").then_some("2026-01-02T03:04:05Z") },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": words[2].parse::<i32>().expect("a port") }] }] },
            "status": { "phase": "Running", "podIP": words[1], "podIPs": [{ "ip": words[1] }], "conditions": [{ "type": "Ready", "status": ready }] },
        });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[track_caller]
    fn check(pods: &str, expected: Expect) {
        let pods: Vec<Arc<Pod>> = pods.lines().map(pod).collect();
        let Plan::Create(endpoints) = plan(Some(&service(&json!({ "app": "web" }))), &pods, None) else { panic!("created") };
        let ips = |addresses: &Option<Vec<EndpointAddress>>| {
            addresses.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>().join(" ")
        };
        let lines: Vec<String> = endpoints
            .subsets
            .iter()
            .flatten()
            .map(|subset| {
                let ports: Vec<i32> = subset.ports.iter().flatten().map(|port| port.port).collect();
                format!("{ports:?} ready [{}] unready [{}]", ips(&subset.addresses), ips(&subset.not_ready_addresses))
            })
            .collect();
        expected.assert_eq(&lines.join("\n"));
        assert_eq!(plan(Some(&service(&json!({ "app": "web" }))), &pods, Some(&endpoints)), Plan::Nothing);
    }

    #[test]
    fn addresses_are_grouped_by_port_and_readiness() {
        check(
            "a 10.0.0.2 8080 ready\nb 10.0.0.1 8080 ready\nc 10.0.0.3 8080",
            expect!["[8080] ready [10.0.0.1 10.0.0.2] unready [10.0.0.3]"],
        );
        check(
            "a 10.0.0.1 8080 ready\nb 10.0.0.2 9090 ready",
            expect![[r#"
            [8080] ready [10.0.0.1] unready []
            [9090] ready [10.0.0.2] unready []"#]],
        );
        check("a 10.0.0.1 8080 ready deleting", expect![""]);
    }

    #[test]
    fn endpoints_made_by_hand_are_left_alone() {
        let by_hand: Endpoints =
            serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "default" } })).expect("endpoints");
        assert_eq!(plan(Some(&service(&json!({}))), &[], Some(&by_hand)), Plan::Nothing);
        assert_eq!(plan(None, &[], Some(&by_hand)), Plan::Nothing);
        let Plan::Create(ours) = plan(Some(&service(&json!({ "app": "web" }))), &[], None) else { panic!("created") };
        assert_eq!(plan(None, &[], Some(&ours)), Plan::Delete);
    }
}
