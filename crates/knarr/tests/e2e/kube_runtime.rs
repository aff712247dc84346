//! The `kube` crate as operators use it, over HTTPS: watchers with and without streaming lists, reflectors, and a controller.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api, Client, Config, Resource as _, ResourceExt as _,
    api::{AttachParams, DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        Controller, WatchStreamExt as _,
        controller::Action,
        reflector,
        wait::{await_condition, conditions},
        watcher::{self, watcher},
    },
};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::harness::Knarr;

/// How long a state may take to come on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `test` with a client of a cluster in a network namespace of its own.
pub(crate) fn with_client<F: Future<Output = ()> + 'static>(image: Option<&'static str>, test: fn(Client) -> F) {
    knarr_testbed::require_root!();
    if let Some(image) = image {
        knarr_testbed::image::image(image).expect("the test kit makes the image");
    }
    let run = move || {
        let mut knarr = Knarr::new();
        knarr.up();
        if let Some(image) = image {
            knarr.import(image);
        }
        // On this thread alone: others are in another network.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(knarr.kubeconfig()).unwrap();
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
            let test = test(Client::try_from(config).unwrap());
            tokio::time::timeout(PATIENCE, test).await.unwrap_or_else(|_| panic!("not in {PATIENCE:?}\n{}", knarr.errors()));
        });
    };
    knarr_testbed::netns::run(run).expect("a network namespace can be made");
}

fn settings(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"mirror": "yes"}}, "data": {"value": value}})).unwrap()
}

/// The next events as text, until the one that begins with `last`.
async fn told(events: &mut (impl Stream<Item = watcher::Result<watcher::Event<ConfigMap>>> + Unpin), last: &str) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        let text = match event.expect("a watch without faults") {
            watcher::Event::Init => "init".to_owned(),
            watcher::Event::InitApply(object) => format!("init {}", object.name_any()),
            watcher::Event::InitDone => "done".to_owned(),
            watcher::Event::Apply(object) => format!("apply {}={}", object.name_any(), object.data.unwrap_or_default()["value"]),
            watcher::Event::Delete(object) => format!("delete {}", object.name_any()),
        };
        told.push(text);
        if told.last().is_some_and(|text| text.starts_with(last)) {
            break;
        }
    }
    told
}

async fn watched(client: Client, config: watcher::Config) {
    let api: Api<ConfigMap> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &settings("a", "1")).await.unwrap();
    api.create(&PostParams::default(), &settings("b", "1")).await.unwrap();
    let mut events = watcher(api.clone(), config.labels("mirror=yes")).boxed();
    assert_eq!(told(&mut events, "done").await, ["init", "init a", "init b", "done"]);
    let change = Patch::Merge(json!({"data": {"value": "2"}}));
    api.patch("a", &PatchParams::default(), &change).await.unwrap();
    // One that leaves the selector is deleted for this watcher.
    let unlabelled = Patch::Merge(json!({"metadata": {"labels": {"mirror": "no"}}}));
    api.patch("a", &PatchParams::default(), &unlabelled).await.unwrap();
    api.delete("b", &DeleteParams::default()).await.unwrap();
    assert_eq!(told(&mut events, "delete b").await, ["apply a=2", "delete a", "delete b"]);
}

#[test]
fn a_watcher_lists_and_watches() {
    with_client(None, |client| watched(client, watcher::Config::default().page_size(1)));
}

#[test]
fn a_watcher_streams_its_list() {
    with_client(None, |client| watched(client, watcher::Config::default().streaming_lists()));
}

#[test]
fn a_reflector_holds_what_is_there() {
    with_client(None, |client| async move {
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        api.create(&PostParams::default(), &settings("a", "1")).await.unwrap();
        let (store, writer) = reflector::store();
        let events =
            watcher(api.clone(), watcher::Config::default().labels("mirror=yes")).default_backoff().reflect(writer).touched_objects();
        let mut events = Box::pin(events);
        let first = events.next().await.unwrap().unwrap();
        assert_eq!(first.name_any(), "a");
        api.create(&PostParams::default(), &settings("b", "1")).await.unwrap();
        assert_eq!(events.next().await.unwrap().unwrap().name_any(), "b");
        let mut names: Vec<_> = store.state().iter().map(|object| object.name_any()).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
    });
}

/// Keeps a Secret of the same name, which the ConfigMap owns.
async fn mirror(settings: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let secrets: Api<Secret> = Api::default_namespaced((*client).clone());
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": settings.name_any(), "ownerReferences": [settings.controller_owner_ref(&()).expect("it has a uid")]},
        "stringData": settings.data,
    });
    secrets.patch(&settings.name_any(), &PatchParams::apply("mirror").force(), &Patch::Apply(secret)).await?;
    Ok(Action::await_change())
}

#[test]
fn a_controller_keeps_what_its_objects_own() {
    with_client(None, |client| async move {
        let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let secrets: Api<Secret> = Api::default_namespaced(client.clone());
        let controller = Controller::new(api.clone(), watcher::Config::default().labels("mirror=yes"))
            .owns(secrets.clone(), watcher::Config::default())
            .run(mirror, |_, error, _| panic!("{error}"), Arc::new(client))
            .for_each(|result| async { drop(result) });
        let story = async {
            let holds = |value: &'static str| {
                move |secret: Option<&Secret>| {
                    let data: Option<&BTreeMap<_, _>> = secret.and_then(|secret| secret.data.as_ref());
                    data.is_some_and(|data| data.get("value").is_some_and(|bytes| bytes.0 == value.as_bytes()))
                }
            };
            api.create(&PostParams::default(), &settings("a", "1")).await.unwrap();
            let first = await_condition(secrets.clone(), "a", holds("1")).await.unwrap().unwrap();
            api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"value": "2"}}))).await.unwrap();
            await_condition(secrets.clone(), "a", holds("2")).await.unwrap();
            secrets.delete("a", &DeleteParams::default()).await.unwrap();
            await_condition(secrets.clone(), "a", conditions::is_deleted(&first.uid().unwrap())).await.unwrap();
            let second = await_condition(secrets.clone(), "a", holds("2")).await.unwrap().unwrap();
            assert_ne!(first.uid(), second.uid(), "it is made anew");
            api.delete("a", &DeleteParams::default()).await.unwrap();
            await_condition(secrets.clone(), "a", conditions::is_deleted(&second.uid().unwrap())).await.unwrap();
        };
        tokio::select! {
            () = controller => panic!("the controller ended"),
            () = story => {}
        }
    });
}

#[test]
fn pods_run_answer_and_forward() {
    with_client(Some("busybox"), |client| async move {
        let pods: Api<Pod> = Api::default_namespaced(client);
        let command = "mkdir /www; echo served > /www/index.html; echo started; exec httpd -f -p 8080 -h /www";
        let container = json!({"name": "main", "image": "busybox:1", "command": ["sh", "-c", command],
            "readinessProbe": {"httpGet": {"port": 8080}, "periodSeconds": 1}});
        let pod = json!({"metadata": {"name": "web"}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}});
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let ready = |pod: Option<&Pod>| {
            let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
            conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        await_condition(pods.clone(), "web", ready).await.unwrap();
        assert_eq!(pods.logs("web", &Default::default()).await.unwrap(), "started\n");

        let mut session = pods.exec("web", ["sh", "-c", "cat /www/index.html; exit 3"], &AttachParams::default()).await.unwrap();
        let status = session.take_status().unwrap();
        let mut output = String::new();
        session.stdout().unwrap().read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "served\n");
        assert_eq!(status.await.unwrap().reason.as_deref(), Some("NonZeroExitCode"));

        let mut forward = pods.portforward("web", &[8080]).await.unwrap();
        let mut stream = forward.take_stream(8080).unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("served\n"), "{answer}");

        let uid = pods.get("web").await.unwrap().uid().unwrap();
        pods.delete("web", &DeleteParams::default()).await.unwrap();
        await_condition(pods, "web", conditions::is_deleted(&uid)).await.unwrap();
    });
}
