//! What a container is started from: the pod's volumes, and the container's configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Container, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, ServiceAccount, Volume, VolumeMount};
use knarr_runtime::{ContainerConfig, Image, Mount, MountKind, Propagation};
use kube::api::PostParams;

use super::act;
use super::seen::seconds_between;
use super::worker::{Token, Used, Worker, label};
use crate::env::{self, Objects};
use crate::image::{PullSecrets, chain};
use crate::volume::{self, Place, Places, payload, subpath};
use crate::{resources, security};

/// A token is renewed when this part of its life is over (upstream: 80 %).
const TOKEN_LIFE_PERCENT: i64 = 80;
/// A token is renewed at the latest after this time, however long it lives (upstream: 24 h).
const TOKEN_AGE_MAX_S: i64 = 24 * 3600;
/// Life of a token for which the pod names none (the API's default).
const TOKEN_LIFE_S: i64 = 3600;
/// Where a container writes why it ended, unless it says otherwise (the API's default).
const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// The named ConfigMaps and Secrets as they are now; from here on their changes wake the worker.
async fn objects(worker: &Worker, pod: &Pod, config_maps: &[String], secrets: &[String]) -> Result<Objects, String> {
    let namespace = namespace(pod);
    let mut out = Objects::default();
    for name in config_maps {
        let source = worker.node.config_maps.follow(namespace, name, &worker.wake);
        worker.memory.lock().used.insert(("ConfigMap", name.clone()), Used::ConfigMap(source.clone()));
        let object = source.get(namespace, name).await.map_err(|error| error.to_string())?;
        out.config_maps.insert(name.clone(), object);
    }
    for name in secrets {
        let source = worker.node.secrets.follow(namespace, name, &worker.wake);
        worker.memory.lock().used.insert(("Secret", name.clone()), Used::Secret(source.clone()));
        let object = source.get(namespace, name).await.map_err(|error| error.to_string())?;
        out.secrets.insert(name.clone(), object);
    }
    Ok(out)
}

/// The Secrets of `imagePullSecrets`. A missing one is no error: the image may be public.
pub(crate) async fn pull_secrets(worker: &Worker, pod: &Pod) -> PullSecrets {
    let spec = pod.spec.as_ref();
    let names: Vec<String> = spec.and_then(|it| it.image_pull_secrets.as_ref()).into_iter().flatten().map(|it| it.name.clone()).collect();
    let mut secrets = PullSecrets::default();
    match objects(worker, pod, &[], &names).await {
        Ok(mut objects) => {
            for name in names {
                match objects.secrets.remove(&name).flatten() {
                    Some(secret) => secrets.found.push(secret),
                    None => secrets.missing.push(name),
                }
            }
        }
        Err(error) => {
            tracing::warn!(error, "read the pod's pull secrets");
            secrets.missing = names;
        }
    }
    secrets
}

/// Makes or refreshes all volumes of the pod. The error names the volume that failed.
pub(crate) async fn volumes(worker: &Worker, pod: &Arc<Pod>) -> Result<Places, (String, String)> {
    let list = pod.spec.as_ref().and_then(|it| it.volumes.clone()).unwrap_or_default();
    let mut places = Places::new();
    for volume in list {
        let place = one_volume(worker, pod, &volume).await.map_err(|text| (volume.name.clone(), text))?;
        if let Some(place) = place {
            places.insert(volume.name, place);
        }
    }
    Ok(places)
}

async fn one_volume(worker: &Worker, pod: &Arc<Pod>, volume: &Volume) -> Result<Option<Place>, String> {
    // An image volume has no place on the node: the runtime mounts it.
    if volume.image.is_some() {
        return Ok(None);
    }
    let (config_maps, secrets) = payload::needs(volume);
    let objects = objects(worker, pod, &config_maps, &secrets).await?;
    let tokens = tokens(worker, pod, volume).await?;
    let persistent = match &volume.persistent_volume_claim {
        Some(claim) => Some(persistent(worker, pod, &claim.claim_name).await?),
        None => None,
    };
    let pod_ips = worker.memory.lock().ips.clone();
    let context = payload::Context {
        pod,
        objects: &objects,
        tokens: &tokens,
        pod_ips: &pod_ips,
        host_ips: worker.node.host_ips(),
        allocatable: &worker.node.allocatable,
    };
    let files = payload::payload(volume, &context).map_err(|error| error.to_string())?;
    let (dir, pod, volume) = (worker.dir.clone(), pod.clone(), volume.clone());
    let made = tokio::task::spawn_blocking(move || volume::set_up(&dir, &pod, &volume, files.as_ref(), persistent.as_ref()));
    match made.await {
        Ok(place) => place.map(Some).map_err(|error| chain(&error)),
        Err(error) => Err(error.to_string()),
    }
}

async fn persistent(worker: &Worker, pod: &Pod, claim: &str) -> Result<PersistentVolume, String> {
    let cluster = &worker.node.cluster;
    let trouble = |trouble: String| volume::VolumeError::Claim { claim: claim.to_owned(), trouble }.to_string();
    let object = cluster.api::<PersistentVolumeClaim>(namespace(pod)).get_opt(claim).await;
    let object = object.map_err(|error| trouble(error.to_string()))?.ok_or_else(|| trouble("not found".into()))?;
    let name = object.spec.and_then(|it| it.volume_name).filter(|it| !it.is_empty());
    let name = name.ok_or_else(|| trouble("is not bound".into()))?;
    cluster.all::<PersistentVolume>().get(&name).await.map_err(|error| trouble(error.to_string()))
}

/// The service account tokens of a projected volume: those that are fresh enough, and new ones.
async fn tokens(worker: &Worker, pod: &Pod, volume: &Volume) -> Result<BTreeMap<(String, usize), String>, String> {
    let mut out = BTreeMap::new();
    let sources = volume.projected.iter().flat_map(|it| it.sources.iter().flatten());
    for (index, source) in sources.enumerate() {
        let Some(wanted) = &source.service_account_token else {
            continue;
        };
        let key = (volume.name.clone(), index);
        let now = Timestamp::now();
        let fresh = worker.memory.lock().tokens.get(&key).filter(|it| it.renew_at > now).map(|it| it.text.clone());
        let text = match fresh {
            Some(text) => text,
            None => {
                let life_s = wanted.expiration_seconds.unwrap_or(TOKEN_LIFE_S);
                let token = request_token(worker, pod, wanted.audience.as_deref(), life_s).await?;
                let text = token.text.clone();
                worker.memory.lock().tokens.insert(key.clone(), token);
                text
            }
        };
        out.insert(key, text);
    }
    Ok(out)
}

async fn request_token(worker: &Worker, pod: &Pod, audience: Option<&str>, life_s: i64) -> Result<Token, String> {
    let account = (pod.spec.as_ref()).and_then(|it| it.service_account_name.clone()).filter(|it| !it.is_empty());
    let account = account.unwrap_or_else(|| "default".into());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.filter(|it| !it.is_empty()).map(|it| vec![it.to_owned()]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            expiration_seconds: Some(life_s),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let api = worker.node.cluster.api::<ServiceAccount>(namespace(pod));
    let answer = api.create_token_request(&account, &PostParams::default(), &request).await;
    let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
    let status = answer.status.ok_or("the token request was answered without a token")?;
    let now = Timestamp::now();
    let (Some(text), Some(expires)) = (status.token, status.expiration_timestamp) else {
        return Err("the token request was answered without a token".into());
    };
    let life_s = seconds_between(now, expires.0).max(1);
    let renew_s = (life_s * TOKEN_LIFE_PERCENT / 100).min(TOKEN_AGE_MAX_S);
    Ok(Token { text, renew_at: super::seen::after(now, renew_s) })
}

/// Everything that the runtime needs to know of a container.
pub(crate) async fn container(
    worker: &Worker,
    pod: &Arc<Pod>,
    container: &Container,
    attempt: u32,
    id: &str,
    image: &Image,
) -> Result<ContainerConfig, String> {
    let node = &worker.node;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let rights = security::rights(spec, container, &image.config.user, &node.config.seccomp_root).map_err(|error| error.to_string())?;
    let (config_maps, secrets) = env::needs(container);
    let objects = objects(worker, pod, &config_maps, &secrets).await?;
    let (pod_ips, places) = {
        let memory = worker.memory.lock();
        (memory.ips.clone(), memory.places.clone())
    };
    let services = node.visible_services(pod);
    let context = env::Context {
        pod,
        objects: &objects,
        services: &services,
        pod_ips: &pod_ips,
        host_ips: node.host_ips(),
        allocatable: &node.allocatable,
    };
    let own = env::environment(container, &context).map_err(|error| error.to_string())?;
    let get = |name: &str| own.iter().rev().find(|it| it.0 == name).map(|it| it.1.as_str());
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> { list.iter().flatten().map(|text| env::expand(text, get)).collect() };
    let argv = image.config.argv(&expanded(&container.command), &expanded(&container.args));
    if argv.is_empty() {
        return Err("no command specified".into());
    }
    let host_network = spec.host_network == Some(true);
    let mut variables = image.config.env.clone();
    if !variables.iter().any(|it| it.0 == "PATH") {
        variables.push(("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()));
    }
    let hostname = if host_network { node.config.node_name.clone() } else { crate::hosts::hostname(pod, &node.config.cluster_domain) };
    variables.push(("HOSTNAME".into(), hostname));
    variables.extend(own.iter().cloned());
    let mounts = {
        let (worker_dir, container, places, variables) = (worker.dir.clone(), container.clone(), places, own.clone());
        let images = image_volumes(worker, pod, spec).await?;
        let made = tokio::task::spawn_blocking(move || mounts(&worker_dir, &container, attempt, &places, &images, &variables));
        made.await.map_err(|error| error.to_string())??
    };
    let cwd = container.working_dir.clone().filter(|it| !it.is_empty()).unwrap_or_else(|| image.config.working_dir.clone());
    let stop_signal = container.lifecycle.as_ref().and_then(|it| it.stop_signal.as_deref()).and_then(signal);
    let labels = BTreeMap::from([
        (label::POD.to_owned(), pod.metadata.name.clone().unwrap_or_default()),
        (label::NAMESPACE.to_owned(), namespace(pod).to_owned()),
        (label::UID.to_owned(), worker.uid.clone()),
        (label::CONTAINER.to_owned(), container.name.clone()),
        (label::HASH.to_owned(), act::hash(container)),
        (label::IMAGE.to_owned(), shown_name(container.image.as_deref().unwrap_or_default(), &image.names)),
        (label::IMAGE_ID.to_owned(), image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone())),
        (label::WHOLE.to_owned(), serde_json::to_string(&resources::of_pod(spec)).map_err(|error| error.to_string())?),
    ]);
    Ok(ContainerConfig {
        id: id.to_owned(),
        name: container.name.clone(),
        attempt,
        image: image.id.clone(),
        argv,
        env: variables,
        cwd,
        user: rights.user,
        mounts,
        devices: Vec::new(),
        privileged: rights.privileged,
        capabilities: rights.capabilities,
        seccomp: rights.seccomp,
        no_new_privileges: rights.no_new_privileges,
        readonly_rootfs: rights.readonly_rootfs,
        masked_paths: rights.masked_paths,
        readonly_paths: rights.readonly_paths,
        rlimits: Vec::new(),
        resources: resources::of_container(container),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log_path: Some(worker.log_dir.join(&container.name).join(format!("{attempt}.log"))),
        stop_signal: stop_signal.unwrap_or(image.config.stop_signal),
        oom_score_adj: Some(resources::oom_score_adj(spec, container, node.memory_bytes)),
        processes_of: target(worker, spec, &container.name)?,
        labels,
    })
}

/// The running container whose processes an ephemeral container asks to see (`kubectl debug --target`).
fn target(worker: &Worker, spec: &PodSpec, name: &str) -> Result<Option<String>, String> {
    let ephemeral = spec.ephemeral_containers.iter().flatten().find(|it| it.name == name);
    let Some(target) = ephemeral.and_then(|it| it.target_container_name.as_deref()).filter(|it| !it.is_empty()) else {
        return Ok(None);
    };
    let running = worker.node.runtime.list_containers().into_iter().find(|it| {
        it.labels.get(label::UID) == Some(&worker.uid)
            && it.name == target
            && matches!(it.state, knarr_runtime::ContainerState::Running { .. })
    });
    match running {
        Some(it) if spec.share_process_namespace != Some(true) && spec.host_pid != Some(true) => Ok(Some(it.id)),
        Some(_) => Ok(None),
        None => Err(format!("unable to find target container \"{target}\"")),
    }
}

/// The image's full name that the pod meant, for the status: of several tags that lead to it, the one asked for.
fn shown_name(reference: &str, names: &[String]) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    let tagged = if last.contains([':', '@']) { reference.to_owned() } else { format!("{reference}:latest") };
    let meant = names.iter().find(|it| **it == tagged || it.strip_suffix(&tagged).is_some_and(|rest| rest.ends_with('/')));
    meant.or_else(|| names.first()).cloned().unwrap_or_else(|| reference.to_owned())
}

/// The number of a signal by its name; real-time signals as `SIGRTMIN+3`.
fn signal(name: &str) -> Option<i32> {
    const NAMES: &str = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU \
                         URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return Some(34 + offset);
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse().ok()? };
        return Some(64 - offset);
    }
    let index = NAMES.split_whitespace().position(|it| it == name)?;
    i32::try_from(index + 1).ok()
}

/// Digests of the images that the pod mounts as volumes, by volume; fetched if their policy says so.
async fn image_volumes(worker: &Worker, pod: &Pod, spec: &PodSpec) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    for volume in spec.volumes.iter().flatten() {
        let Some(source) = &volume.image else {
            continue;
        };
        let as_container =
            Container { image: source.reference.clone(), image_pull_policy: source.pull_policy.clone(), ..Container::default() };
        let secrets = pull_secrets(worker, pod).await;
        let say = |kind, reason: &str, message: &str| worker.node.say(pod, None, kind, reason, message);
        let image = crate::image::ensure(worker.node.runtime.images(), &as_container, &secrets, &say).await;
        let image = image.map_err(|it| it.message)?;
        out.insert(volume.name.clone(), image.id.clone());
    }
    Ok(out)
}

fn mounts(
    dir: &volume::PodDir,
    container: &Container,
    attempt: u32,
    places: &Places,
    images: &BTreeMap<String, String>,
    variables: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let mut out = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let sub_path = sub_path(wanted, variables)?;
        let kind = if let Some(digest) = images.get(&wanted.name) {
            MountKind::Image { digest: digest.clone(), sub_path: sub_path.clone().unwrap_or_default() }
        } else {
            let place = places.get(&wanted.name).ok_or_else(|| format!("volume {} is not there", wanted.name))?;
            let source = match &sub_path {
                Some(path) => {
                    let target = dir.subpath(&container.name, index);
                    subpath::bind(&place.path, path, &target).map_err(|error| chain(&error))?;
                    target
                }
                None => place.path.clone(),
            };
            MountKind::Bind { source }
        };
        let fixed = images.contains_key(&wanted.name) || places.get(&wanted.name).is_some_and(|it| it.readonly);
        out.push(Mount {
            kind,
            target: PathBuf::from(&wanted.mount_path),
            readonly: fixed || wanted.read_only == Some(true),
            recursive_readonly: matches!(wanted.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
            propagation: match wanted.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    let message = dir.termination_message(&container.name, attempt);
    make_message_file(&message).map_err(|error| format!("make {}: {error}", message.display()))?;
    let target = container.termination_message_path.as_deref().filter(|it| !it.is_empty()).unwrap_or(TERMINATION_MESSAGE_PATH);
    out.push(Mount {
        kind: MountKind::Bind { source: message },
        target: PathBuf::from(target),
        readonly: false,
        recursive_readonly: false,
        propagation: Propagation::Private,
    });
    // A mount below another must come after it.
    out.sort_by_key(|it| it.target.components().count());
    Ok(out)
}

/// Whoever the container runs as may write it.
fn make_message_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::File::create(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
}

fn sub_path(wanted: &VolumeMount, variables: &[(String, String)]) -> Result<Option<PathBuf>, String> {
    if let Some(path) = wanted.sub_path.as_deref().filter(|it| !it.is_empty()) {
        return Ok(Some(PathBuf::from(path)));
    }
    let Some(expression) = wanted.sub_path_expr.as_deref().filter(|it| !it.is_empty()) else {
        return Ok(None);
    };
    let get = |name: &str| variables.iter().rev().find(|it| it.0 == name).map(|it| it.1.as_str());
    let path = env::expand(expression, get);
    if path.contains("$(") {
        return Err(format!("missing value for {expression}"));
    }
    Ok(Some(PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_name() {
        for (name, number) in
            [("SIGTERM", 15), ("TERM", 15), ("SIGKILL", 9), ("SIGUSR1", 10), ("SIGSYS", 31), ("SIGRTMIN+3", 37), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(signal(name), Some(number), "{name}");
        }
        assert_eq!(signal("SIGNO"), None);
    }

    #[test]
    fn the_tag_that_was_asked_for_is_shown() {
        let names = ["docker.io/library/busybox:1", "docker.io/library/busybox:latest"].map(str::to_owned);
        assert_eq!(shown_name("busybox", &names), names[1]);
        assert_eq!(shown_name("docker.io/library/busybox:1", &names), names[0]);
        assert_eq!(shown_name("sha256:00", &names), names[0]);
        assert_eq!(shown_name("x", &[]), "x");
    }

    #[test]
    fn mounts_are_ordered_and_volumes_of_files_are_read_only() {
        let data = tempfile::tempdir().unwrap();
        let dir = volume::PodDir::new(data.path(), "u");
        let container: Container = serde_json::from_value(serde_json::json!({"name": "web", "volumeMounts": [
            {"name": "a", "mountPath": "/data/inner"}, {"name": "b", "mountPath": "/data", "readOnly": false}]}))
        .unwrap();
        let place = |path: &str, readonly| Place { path: path.into(), readonly };
        let places = Places::from([("a".to_owned(), place("/va", true)), ("b".to_owned(), place("/vb", false))]);
        let made = mounts(&dir, &container, 3, &places, &BTreeMap::new(), &[]).unwrap();
        let shown: Vec<(&str, bool)> = made.iter().map(|it| (it.target.to_str().unwrap(), it.readonly)).collect();
        assert_eq!(shown, [("/data", false), ("/data/inner", true), ("/dev/termination-log", false)]);
    }
}
