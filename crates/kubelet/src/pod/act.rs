//! Does what a plan names. Each action may be done twice, or be cut off anywhere and done again.
//!
//! Errors are not returned: they become a [`Failure`] in the worker's memory, which the next plan shows in the status and tries
//! again at its time, and an event.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use knarr_client::EventType;
use knarr_network::{HostPort, Protocol};
use knarr_runtime::SandboxConfig;
use kube::api::{DeleteParams, PropagationPolicy};
use sha2::{Digest as _, Sha256};

use super::plan::{self, Action};
use super::prepare;
use super::seen::{BackOff, Doom, Failure, Volumes, after};
use super::worker::{Busy, Desired, Worker, grace_s, label, name_of};
use crate::hook::{self, Target};
use crate::image::{chain, is_about_image};
use crate::{hosts, resources, security, volume};

/// Delays between attempts, first and longest, in seconds. Upstream: 500 ms to 2 min 2 s for volumes, sync loop for sandboxes.
const VOLUME_RETRY_S: (i64, i64) = (1, 122);
const SANDBOX_RETRY_S: (i64, i64) = (1, 60);
/// Upstream's image back-off: 10 s to 5 min.
const IMAGE_RETRY_S: (i64, i64) = (10, 300);
const START_RETRY_S: (i64, i64) = (1, 60);
/// An action that failed ends only after this time: the plan names it again at once.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// A limit that the kernel refuses now (more memory is in use) may be taken later.
const RESIZE_RETRY: Duration = Duration::from_secs(5);
const DELETE_RETRY_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn act(worker: Arc<Worker>, pod: Arc<Pod>, action: Action, busy: Busy) {
    // Dropped last: the worker plans again when the effects are in its memory.
    let _busy = busy;
    let worker = &*worker;
    match action {
        Action::SetUpVolumes => set_up_volumes(worker, &pod).await,
        Action::CreateSandbox { attempt } => create_sandbox(worker, &pod, attempt).await,
        Action::Start { container, attempt } => start(worker, &pod, &container, attempt).await,
        Action::Stop { id, container, deadline, why } => stop(worker, &pod, &id, &container, deadline, &why).await,
        Action::Resize { id, container } => resize(worker, &pod, &id, &container).await,
        Action::ResizePod { sandbox } => resize_pod(worker, &pod, &sandbox).await,
        Action::StopSandbox { id } => {
            if !stop_sandbox(worker, &id).await {
                tokio::time::sleep(FAILED_PAUSE).await;
            }
        }
        Action::RemoveContainer { id } => remove_container(worker, &id).await,
        Action::RemoveSandbox { id } => {
            stop_sandbox(worker, &id).await;
            if let Err(error) = worker.node.runtime.remove_sandbox(&id).await {
                tracing::warn!(sandbox = id, error = chain(&error), "remove a dead sandbox");
                tokio::time::sleep(FAILED_PAUSE).await;
            }
        }
        Action::ReleaseVolumes => release(worker).await,
        Action::TearDown => tear_down(worker).await,
        Action::AnnounceBackOff { container } => announce_back_off(worker, &pod, &container),
        Action::DeleteObject => delete_object(worker, &pod).await,
    }
}

async fn set_up_volumes(worker: &Worker, pod: &Arc<Pod>) {
    let result = prepare::volumes(worker, pod).await;
    let mut memory = worker.memory.lock();
    match result {
        Ok(places) => {
            memory.places = places;
            memory.volumes = Volumes::Ready;
        }
        Err((name, text)) => {
            let message = format!("MountVolume.SetUp failed for volume \"{name}\" : {text}");
            let refresh = memory.volumes == Volumes::Ready;
            let previous = match &memory.volumes {
                Volumes::Failed(it) => Some(it),
                _ => None,
            };
            let failure = Failure::after(previous, "FailedMount", message.clone(), Timestamp::now(), VOLUME_RETRY_S);
            // A volume that was there stays as it is when it cannot be renewed.
            if refresh {
                for token in memory.tokens.values_mut() {
                    token.renew_at = token.renew_at.max(failure.retry_at);
                }
            } else {
                memory.volumes = Volumes::Failed(failure);
            }
            drop(memory);
            worker.node.say(pod, None, EventType::Warning, "FailedMount", &message);
        }
    }
}

async fn create_sandbox(worker: &Worker, pod: &Pod, attempt: u32) {
    let id = format!("{}-{attempt}", worker.uid);
    if attempt > 0 && worker.memory.lock().sandbox_failure.is_none() {
        let message = "Pod sandbox changed, it will be killed and re-created.";
        worker.node.say(pod, None, EventType::Normal, "SandboxChanged", message);
    }
    let result = try_sandbox(worker, pod, &id).await;
    match result {
        Ok(()) => worker.memory.lock().sandbox_failure = None,
        Err(text) => {
            stop_sandbox(worker, &id).await;
            if let Err(error) = worker.node.runtime.remove_sandbox(&id).await {
                tracing::warn!(sandbox = id, error = chain(&error), "remove a sandbox that was not completed");
            }
            let message = format!("Failed to create pod sandbox: {text}");
            let mut memory = worker.memory.lock();
            let failure =
                Failure::after(memory.sandbox_failure.as_ref(), "FailedCreatePodSandBox", text, Timestamp::now(), SANDBOX_RETRY_S);
            memory.sandbox_failure = Some(failure);
            drop(memory);
            worker.node.say(pod, None, EventType::Warning, "FailedCreatePodSandBox", &message);
        }
    }
}

async fn try_sandbox(worker: &Worker, pod: &Pod, id: &str) -> Result<(), String> {
    let node = &worker.node;
    let config = &node.config;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let text = |it: &Option<String>| it.clone().unwrap_or_default();
    let namespace = text(&pod.metadata.namespace);
    let host_network = spec.host_network == Some(true);
    if spec.host_users == Some(false) {
        // Running it as the host's root would be less than it was promised.
        return Err("hostUsers: false is asked for, but this node does not offer user namespaces yet; leave it out to run the pod".into());
    }
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        // Rules are relaxed for such pods, as nothing of theirs can run here.
        return Err(format!("spec.os.name is {:?}, and this node runs linux", os.name));
    }
    // A host without this file has no resolver: pods get an empty one, too.
    let host_resolv = tokio::fs::read_to_string(&config.resolv_conf).await.unwrap_or_default();
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert(label::POD.into(), text(&pod.metadata.name));
    labels.insert(label::NAMESPACE.into(), namespace.clone());
    labels.insert(label::UID.into(), worker.uid.clone());
    labels.insert(label::GRACE.into(), grace_s(pod).to_string());
    let sandbox = SandboxConfig {
        id: id.to_owned(),
        hostname: if host_network { String::new() } else { hosts::hostname(pod, &config.cluster_domain) },
        resolv_conf: Some(hosts::resolv_conf(spec, &namespace, &config.dns, &config.cluster_domain, &host_resolv)),
        hosts: Some(hosts_text(worker, pod, &[])),
        share_pid: spec.share_process_namespace == Some(true),
        host_network,
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        sysctls: security::sysctls(spec),
        cgroup_parent: resources::cgroup_parent(spec, &worker.uid),
        resources: resources::of_pod(spec),
        shm_bytes: 0,
        labels,
    };
    let made = node.runtime.run_sandbox(sandbox).await.map_err(|error| chain(&error))?;
    attach(worker, pod, id, made.netns.as_deref()).await
}

fn hosts_text(worker: &Worker, pod: &Pod, ips: &[std::net::IpAddr]) -> String {
    // As above: a host without the file adds nothing.
    let host_file = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    hosts::hosts(pod, ips, &host_file, &worker.node.config.cluster_domain)
}

/// Gives the sandbox its network and tells its files; idempotent.
pub(crate) async fn attach(worker: &Worker, pod: &Pod, id: &str, netns: Option<&Path>) -> Result<(), String> {
    let node = &worker.node;
    let spec = pod.spec.as_ref();
    if spec.and_then(|it| it.host_network) == Some(true) {
        let mut memory = worker.memory.lock();
        memory.ips = node.host_ips().to_vec();
        memory.networked = Some(id.to_owned());
        return Ok(());
    }
    let Some(netns) = netns else {
        return Err("the sandbox has no network namespace".into());
    };
    let ports = spec.map(host_ports).unwrap_or_default();
    let address = node.network.attach(id, netns, &ports).await.map_err(|error| chain(&error))?;
    let text = hosts_text(worker, pod, &address.ips);
    node.runtime.set_hosts(id, &text).await.map_err(|error| chain(&error))?;
    let mut memory = worker.memory.lock();
    memory.ips = address.ips;
    memory.networked = Some(id.to_owned());
    Ok(())
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let port = |it: i32| u16::try_from(it).ok().filter(|it| *it > 0);
    (spec.containers.iter())
        .chain(spec.init_containers.iter().flatten().filter(|it| plan::is_sidecar(it)))
        .flat_map(|it| it.ports.iter().flatten())
        .filter_map(|it| {
            Some(HostPort {
                protocol: match it.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_ip: it.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: port(it.host_port?)?,
                container_port: port(it.container_port)?,
            })
        })
        .collect()
}

/// False if it may still run.
async fn stop_sandbox(worker: &Worker, id: &str) -> bool {
    {
        let mut memory = worker.memory.lock();
        if memory.networked.as_deref() == Some(id) {
            memory.networked = None;
            memory.ips.clear();
        }
    }
    if let Err(error) = worker.node.network.detach(id).await {
        tracing::warn!(sandbox = id, error = chain(&error), "detach the pod's network");
    }
    if let Err(error) = worker.node.runtime.stop_sandbox(id).await
        && !error.is_not_found()
    {
        tracing::warn!(sandbox = id, error = chain(&error), "stop the sandbox");
        return false;
    }
    true
}

/// Removes a dead container, and with it the logs and the message of its run: a container that crashes for days must not fill the
/// disk.
async fn remove_container(worker: &Worker, id: &str) {
    let status = worker.node.runtime.status(id);
    if let Err(error) = worker.node.runtime.remove_container(id).await {
        tracing::warn!(container = id, error = chain(&error), "remove a dead container");
        tokio::time::sleep(FAILED_PAUSE).await;
        return;
    }
    let Ok(status) = status else {
        return;
    };
    let message = worker.dir.termination_message(&status.name, status.attempt);
    let removed = tokio::task::spawn_blocking(move || {
        let mut files = vec![message];
        if let Some(log) = &status.log_path
            && let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|it| it.to_str()))
        {
            // The rotated files of `3.log` are `3.log.1` and so on.
            let rotated = format!("{name}.");
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            let own = entries.filter(|it| it.file_name().to_str().is_some_and(|it| it == name || it.starts_with(&rotated)));
            files.extend(own.map(|it| it.path()));
        }
        for file in files {
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %file.display(), %error, "remove what a dead container left");
                }
                _ => {}
            }
        }
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, "remove what a dead container left");
    }
}

async fn release(worker: &Worker) {
    let dir = worker.dir.clone();
    let released = match tokio::task::spawn_blocking(move || volume::release(&dir)).await {
        Ok(result) => result.map_err(|error| chain(&error)),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = released {
        tracing::warn!(pod = worker.uid, error, "remove the volumes of a pod that has ended");
        tokio::time::sleep(FAILED_PAUSE).await;
        return;
    }
    let mut memory = worker.memory.lock();
    memory.released = true;
    memory.volumes = Volumes::Unset;
    memory.places.clear();
    memory.tokens.clear();
}

async fn tear_down(worker: &Worker) {
    let node = &worker.node;
    let mut whole = true;
    for sandbox in node.runtime.list_sandboxes() {
        if sandbox.labels.get(label::UID) != Some(&worker.uid) {
            continue;
        }
        stop_sandbox(worker, &sandbox.id).await;
        if let Err(error) = node.runtime.remove_sandbox(&sandbox.id).await {
            tracing::warn!(sandbox = sandbox.id, error = chain(&error), "remove the sandbox");
            whole = false;
        }
    }
    let (dir, logs) = (worker.dir.clone(), worker.log_dir.clone());
    let removed = tokio::task::spawn_blocking(move || {
        volume::tear_down(&dir)?;
        match std::fs::remove_dir_all(&logs) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(volume::VolumeError::Io { step: "remove the logs", path: logs, source })
            }
            _ => Ok(()),
        }
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(pod = worker.uid, error = chain(&error), "remove the pod's files");
            whole = false;
        }
        Err(error) => {
            tracing::warn!(pod = worker.uid, %error, "remove the pod's files");
            whole = false;
        }
    }
    if !whole {
        tokio::time::sleep(FAILED_PAUSE).await;
        return;
    }
    let mut memory = worker.memory.lock();
    memory.torn_down = true;
    memory.used.clear();
    memory.places.clear();
}

async fn delete_object(worker: &Worker, pod: &Pod) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api = worker.node.cluster.api::<Pod>(pod.metadata.namespace.as_deref().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(kube::api::Preconditions { uid: Some(worker.uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    let mut pause = Duration::from_millis(100);
    loop {
        let written = worker.write_status(pod).await;
        let deleted = match written {
            Ok(()) => api.delete(name, &params).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) => break,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => break,
            Err(error) => tracing::warn!(pod = name_of(pod), %error, "delete the pod's object"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(DELETE_RETRY_MAX);
    }
    // The watch will tell that it is gone; until then there is nothing to do. Finalizers of others may keep it for long.
    let Desired { gone, .. } = worker.desired();
    if !gone {
        worker.gone().await;
    }
}

fn announce_back_off(worker: &Worker, pod: &Pod, container: &str) {
    let image = (pod.spec.as_ref()).and_then(|spec| plan::container(spec, container)).and_then(|it| it.image).unwrap_or_default();
    if let Some(failure) = worker.memory.lock().failures.get_mut(container) {
        failure.announced = true;
    }
    let node = &worker.node;
    node.say(pod, Some(container), EventType::Normal, "BackOff", &format!("Back-off pulling image \"{image}\""));
    node.say(pod, Some(container), EventType::Warning, "Failed", "Error: ImagePullBackOff");
}

/// Fingerprint of what may change in a running pod's container: its image, as upstream.
pub(crate) fn hash(container: &Container) -> String {
    let digest = Sha256::digest(format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default()));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A container's id: the same for the same run, so that a start that was cut off finds what it left.
fn container_id(sandbox: &str, name: &str, attempt: u32) -> String {
    Sha256::digest(format!("{sandbox}\0{name}\0{attempt}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The container's program could not be run; the runtime has recorded its end.
const RUN_FAILED: &str = "RunContainerError";

async fn start(worker: &Worker, pod: &Arc<Pod>, name: &str, attempt: u32) {
    let Some(container) = pod.spec.as_ref().and_then(|spec| plan::container(spec, name)) else {
        return;
    };
    let result = try_start(worker, pod, &container, attempt).await;
    let mut memory = worker.memory.lock();
    // What could not be run has ended like any other run, and waits like it for its restart.
    let ran = !matches!(result, Err((reason, _)) if reason != RUN_FAILED);
    if ran {
        memory.failures.remove(name);
        if attempt > 0 {
            let next = BackOff::next(memory.back_off.get(name).copied(), Timestamp::now());
            memory.back_off.insert(name.to_owned(), next);
        }
    }
    match result {
        Ok(()) => {}
        Err((_, message)) if ran => {
            drop(memory);
            worker.node.say(pod, Some(name), EventType::Warning, "Failed", &format!("Error: {message}"));
        }
        Err((reason, message)) => {
            let terms = if is_about_image(reason) { IMAGE_RETRY_S } else { START_RETRY_S };
            let failure = Failure::after(memory.failures.get(name), reason, message.clone(), Timestamp::now(), terms);
            memory.failures.insert(name.to_owned(), failure);
            drop(memory);
            let shown = if is_about_image(reason) { reason.to_owned() } else { message };
            worker.node.say(pod, Some(name), EventType::Warning, "Failed", &format!("Error: {shown}"));
        }
    }
}

async fn try_start(worker: &Worker, pod: &Arc<Pod>, container: &Container, attempt: u32) -> Result<(), (&'static str, String)> {
    let node = &worker.node;
    let name = container.name.as_str();
    let sandbox = worker.memory.lock().networked.clone();
    let sandbox = sandbox.ok_or(("CreateContainerError", "the sandbox is gone".to_owned()))?;
    let id = container_id(&sandbox, name, attempt);
    let say = |kind, reason: &str, message: &str| node.say(pod, Some(name), kind, reason, message);
    let prepared = async {
        let secrets = prepare::pull_secrets(worker, pod).await;
        let image = crate::image::ensure(node.runtime.images(), container, &secrets, &say).await;
        let image = image.map_err(|it| (it.reason, it.message))?;
        let config = prepare::container(worker, pod, container, attempt, &id, &image).await;
        config.map_err(|text| ("CreateContainerConfigError", text))
    };
    // A pull may take minutes: a pod that is deleted meanwhile does not wait for it.
    let config = tokio::select! {
        prepared = prepared => prepared?,
        () = worker.ending() => return Ok(()),
    };
    // Not before: a slow pull would keep others from starting.
    let seat = node.starts.acquire().await.map_err(|error| ("CreateContainerError", error.to_string()))?;
    // What a start that was cut off left.
    if node.runtime.status(&id).is_ok() {
        node.runtime.remove_container(&id).await.map_err(|error| ("CreateContainerError", chain(&error)))?;
    }
    let created = node.runtime.create_container(&sandbox, config).await;
    created.map_err(|error| ("CreateContainerError", chain(&error)))?;
    say(EventType::Normal, "Created", &format!("Created container: {name}"));
    let post_start = container.lifecycle.as_ref().and_then(|it| it.post_start.as_ref());
    if post_start.is_some() {
        worker.memory.lock().unhooked.insert(id.clone());
    }
    if let Err(error) = node.runtime.start_container(&id).await {
        let ended = node.runtime.status(&id).is_ok_and(|it| matches!(it.state, knarr_runtime::ContainerState::Exited(_)));
        return Err((if ended { RUN_FAILED } else { "CreateContainerError" }, chain(&error)));
    }
    say(EventType::Normal, "Started", &format!("Started container {name}"));
    let Some(post_start) = post_start else {
        return Ok(());
    };
    // A hook may take as long as it likes, but not in the way of other containers, of the pod's end, or of what its status tells meanwhile.
    drop(seat);
    worker.wake.notify_one();
    let ran = tokio::select! {
        ran = run_hook(worker, post_start, container, &id) => ran,
        () = worker.ending() => return Ok(()),
    };
    worker.memory.lock().unhooked.remove(&id);
    if let Err(text) = ran {
        say(EventType::Warning, "FailedPostStartHook", &format!("PostStartHook failed: {text}"));
        let deadline = after(Timestamp::now(), grace_s(pod));
        // One that is doomed already may have failed its hook for that.
        let doom = Doom { why: "FailedPostStartHook".into(), deadline, anew: false };
        worker.memory.lock().doomed.entry(id).or_insert(doom);
    }
    Ok(())
}

/// On v1 a container may not have more CPU than its pod, at no time: the pod's limits are set before those of the container, where they
/// grow, and after them, where they shrink.
async fn resize(worker: &Worker, pod: &Pod, id: &str, name: &str) {
    let runtime = &worker.node.runtime;
    let Some(spec) = pod.spec.as_ref() else { return };
    let (Some(container), Ok(status)) = (plan::container(spec, name), runtime.status(id)) else { return };
    let whole = resources::of_pod(spec);
    let grown = runtime.update_sandbox_resources(&status.sandbox, whole.clone()).await;
    let wanted = resources::of_container(&container);
    let mut done = runtime.update_resources(id, wanted).await;
    if done.is_ok() && grown.is_err() {
        done = runtime.update_sandbox_resources(&status.sandbox, whole).await;
    }
    if let Err(error) = done {
        worker.node.say(pod, Some(name), EventType::Warning, "ResizeError", &chain(&error));
        tokio::time::sleep(RESIZE_RETRY).await;
    }
}

/// What no container asks for besides: where one does, its own resize sees to the order of the two.
async fn resize_pod(worker: &Worker, pod: &Pod, sandbox: &str) {
    let Some(spec) = pod.spec.as_ref() else { return };
    if let Err(error) = worker.node.runtime.update_sandbox_resources(sandbox, resources::of_pod(spec)).await {
        worker.node.say(pod, None, EventType::Warning, "ResizeError", &chain(&error));
        tokio::time::sleep(RESIZE_RETRY).await;
    }
}

async fn run_hook(
    worker: &Worker,
    hook: &k8s_openapi::api::core::v1::LifecycleHandler,
    container: &Container,
    id: &str,
) -> Result<(), String> {
    let pod_ip = worker.memory.lock().ips.first().copied();
    let target = Target { runtime: &worker.node.runtime, container, container_id: id, pod_ip };
    hook::run(hook, &target).await.map_err(|it| it.0)
}

/// Waits until this node's Services have stopped leading to a pod that is being deleted, so that its end costs no new connection. The
/// endpoints are withdrawn within milliseconds of the deletion; without a control plane the pod ends all the same.
async fn withdraw(worker: &Worker, grace: Duration) {
    const WITHDRAWAL_MAX: Duration = Duration::from_secs(1);
    let ips = worker.memory.lock().ips.clone();
    for ip in ips.into_iter().filter(|ip| !worker.node.host_ips().contains(ip)) {
        if tokio::time::timeout(WITHDRAWAL_MAX.min(grace), worker.node.network.withdrawn(ip)).await.is_err() {
            tracing::info!(%ip, "Services still lead to a pod that ends");
        }
    }
}

async fn stop(worker: &Worker, pod: &Pod, id: &str, name: &str, deadline: Timestamp, why: &str) {
    let node = &worker.node;
    let left = || Duration::try_from(deadline.duration_since(Timestamp::now())).unwrap_or_default();
    let first = worker.memory.lock().pre_stopped.insert(id.to_owned());
    if first {
        node.say(pod, Some(name), EventType::Normal, "Killing", why);
        let container = pod.spec.as_ref().and_then(|spec| plan::container(spec, name));
        let hook = container.as_ref().and_then(|it| it.lifecycle.as_ref()?.pre_stop.as_ref());
        if let (Some(container), Some(hook)) = (&container, hook) {
            let ran = tokio::time::timeout(left(), run_hook(worker, hook, container, id)).await;
            if let Ok(Err(text)) = ran {
                node.say(pod, Some(name), EventType::Warning, "FailedPreStopHook", &format!("PreStopHook failed: {text}"));
            }
        }
    }
    if pod.metadata.deletion_timestamp.is_some() {
        withdraw(worker, left()).await;
    }
    // Even where the hook has used up the time, the container gets a moment (upstream: two seconds).
    const GRACE_MIN: Duration = Duration::from_secs(2);
    let grace = if first && left() < GRACE_MIN && grace_s(pod) >= 2 { GRACE_MIN } else { left() };
    if let Err(error) = node.runtime.stop_container(id, grace).await
        && !error.is_not_found()
    {
        tracing::warn!(container = id, error = chain(&error), "stop the container");
        tokio::time::sleep(FAILED_PAUSE).await;
    }
}
