//! Secrets on disk: sealed from the first start, under keys that turn over while the server runs.

use std::{fs, future::Future, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use knarr_apiserver::encryption::{Encryption, EncryptionError, Progress};
use knarr_store::{Embedded, Options, SealCount, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kit::{CONFIG_MAPS, Cluster, names};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// `the secret words` in base64, as the API takes it and the store would have it.
const WORDS: &str = "dGhlIHNlY3JldCB3b3Jkcw==";

fn secret(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"words": WORDS}})
}

fn found(dir: &Path, text: &str) -> bool {
    fs::read_dir(dir).expect("a directory").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found(&path, text) } else { String::from_utf8_lossy(&fs::read(&path).expect("a file")).contains(text) }
    })
}

fn shown(counts: &[SealCount]) -> Vec<String> {
    let seal = |count: &SealCount| count.seal.as_ref().map_or("plain".to_owned(), |seal| seal.to_string());
    counts.iter().map(|count| format!("{} {} {}", count.collection, seal(count), count.objects)).collect()
}

/// Waits for what a task in the background brings about.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

async fn start(dir: TempDir, file: Option<&Path>) -> (Cluster, Arc<Encryption>) {
    let encryption = Arc::new(Encryption::open(dir.path(), file).expect("a configuration"));
    let told = encryption.clone();
    (Cluster::start_as(dir, encryption.store_options(), |config| config.encryption = Some(told)).await, encryption)
}

fn keep(cluster: &Cluster, encryption: &Arc<Encryption>) {
    let (encryption, store) = (encryption.clone(), cluster.store.clone());
    tokio::spawn(async move { encryption.keep(store).await });
}

fn own_file(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("pki/encryption.json")
}

fn own_keys(dir: &TempDir) -> Vec<String> {
    let config: Value = serde_json::from_slice(&fs::read(own_file(dir)).unwrap()).unwrap();
    let keys = config["resources"][0]["providers"][0]["aesgcm"]["keys"].as_array().unwrap().clone();
    assert_eq!(config["resources"][0]["providers"].as_array().unwrap().len(), 1, "nothing plain is read: {config}");
    keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn from_the_first_start_no_secret_is_on_disk_in_plain() {
    let (cluster, encryption) = start(tempfile::tempdir().unwrap(), None).await;
    let admin = cluster.admin();
    admin.post(SECRETS, &secret("a")).await.expect(201);
    admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "c"}, "data": {"k": "in plain view"}})).await.expect(201);
    let merge = json!({"metadata": {"labels": {"l": "1"}}});
    admin.patch(&format!("{SECRETS}/a"), "merge-patch", &merge).await.expect(200);
    let before = admin.get(&format!("{SECRETS}/a")).await.expect(200);
    assert!(!found(cluster.dir.path(), WORDS), "journals and tables of the running store");
    assert!(found(cluster.dir.path(), "in plain view"), "the test looks where objects are");
    let mode = fs::metadata(encryption.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let dir = cluster.stop().await;
    assert!(!found(dir.path(), WORDS), "after an orderly stop");
    let (cluster, _) = start(dir, None).await;
    assert_eq!(cluster.admin().get(&format!("{SECRETS}/a")).await.expect(200), before);
}

#[tokio::test]
async fn secrets_of_a_cluster_from_before_are_sealed_at_its_next_start() {
    let cluster = Cluster::start_in(tempfile::tempdir().unwrap(), Options::default()).await;
    cluster.admin().post(SECRETS, &secret("old")).await.expect(201);
    let dir = cluster.stop().await;
    assert!(found(dir.path(), WORDS));
    let (cluster, encryption) = start(dir, None).await;
    assert_eq!(names(&cluster.admin().get(SECRETS).await.expect(200)), ["old"]);
    keep(&cluster, &encryption);
    let path = own_file(&cluster.dir);
    until("the own configuration reads nothing plain", || async { !fs::read_to_string(&path).unwrap().contains("identity") }).await;
    assert_eq!(own_keys(&cluster.dir).len(), 1);
    let dir = cluster.stop().await;
    assert!(!found(dir.path(), WORDS), "the plain forms are gone too");
    let (cluster, _) = start(dir, None).await;
    assert_eq!(cluster.admin().get(&format!("{SECRETS}/old")).await.expect(200)["data"]["words"], WORDS);
}

#[tokio::test]
async fn a_new_key_takes_over_while_the_server_runs_and_no_one_notices() {
    let (cluster, encryption) = start(tempfile::tempdir().unwrap(), None).await;
    let admin = cluster.admin();
    for number in 0..300 {
        admin.post(SECRETS, &secret(&format!("s{number}"))).await.expect(201);
    }
    let before = admin.get(SECRETS).await.expect(200);
    let old = own_keys(&cluster.dir);
    let mut told = Vec::new();
    encryption.rotate(&*cluster.store, &mut |progress: Progress| told.push((progress.done, progress.total))).await.unwrap();
    assert_eq!(told, [(256, 300), (300, 300)]);
    let new = own_keys(&cluster.dir);
    assert!(new.len() == 1 && new != old, "{old:?} {new:?}");
    assert_eq!(shown(&encryption.seals(&*cluster.store).await), [format!("core/secrets aesgcm:v1:{} 300", new[0])]);
    assert_eq!(admin.get(SECRETS).await.expect(200), before, "the same objects at the same revisions");
    assert!(!found(&cluster.dir.path().join("store"), &old[0]), "nothing under the old key is left");
    let (cluster, _) = start(cluster.stop().await, None).await;
    assert_eq!(names(&cluster.admin().get(SECRETS).await.expect(200)).len(), 300);
}

#[tokio::test]
async fn a_turn_over_that_was_cut_off_is_ended_by_the_next_start() {
    let (cluster, _) = start(tempfile::tempdir().unwrap(), None).await;
    cluster.admin().post(SECRETS, &secret("a")).await.expect(201);
    let dir = cluster.stop().await;
    // As rotate leaves it when it is killed right after it wrote the new key.
    let mut config: Value = serde_json::from_slice(&fs::read(own_file(&dir)).unwrap()).unwrap();
    let keys = config["resources"][0]["providers"][0]["aesgcm"]["keys"].as_array_mut().unwrap();
    keys.insert(0, json!({"name": "newer", "secret": "c2VjcmV0IGlzIHNlY3VyZSwgb3IgaXMgaXQ/AAAAAAA="}));
    fs::write(own_file(&dir), config.to_string()).unwrap();
    let (cluster, encryption) = start(dir, None).await;
    keep(&cluster, &encryption);
    until("one key is left", || async { own_keys(&cluster.dir) == ["newer"] }).await;
    let (cluster, _) = start(cluster.stop().await, None).await;
    assert_eq!(names(&cluster.admin().get(SECRETS).await.expect(200)), ["a"]);
}

#[tokio::test]
async fn a_lost_key_is_said_with_the_object_and_comes_back_with_the_key() {
    let (cluster, _) = start(tempfile::tempdir().unwrap(), None).await;
    cluster.admin().post(SECRETS, &secret("a")).await.expect(201);
    let dir = cluster.stop().await;
    let backup = fs::read(own_file(&dir)).unwrap();
    fs::remove_file(own_file(&dir)).unwrap();
    let encryption = Encryption::open(dir.path(), None).unwrap();
    let options = || Options { reserve_bytes: 0, ..encryption.store_options() };
    let error = Embedded::open(&dir.path().join("store"), options()).err().expect("it does not open");
    let source = std::error::Error::source(&error).expect("why").to_string();
    assert_eq!(error.to_string(), "read core/secrets/default/a from the store");
    assert!(
        source.contains("aesgcm:v1:local-") && source.contains("pki/encryption.json") && source.contains("knarr secrets status"),
        "{source}"
    );
    assert_eq!(Embedded::survey(&dir.path().join("store")).unwrap().iter().filter(|count| count.seal.is_some()).count(), 1);
    fs::write(own_file(&dir), backup).unwrap();
    let (cluster, _) = start(dir, None).await;
    assert_eq!(names(&cluster.admin().get(SECRETS).await.expect(200)), ["a"]);
}

fn keys(cipher: &str, keys: &[(&str, u8)]) -> Value {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let keys: Vec<_> = keys.iter().map(|(name, byte)| json!({"name": name, "secret": STANDARD.encode([*byte; 32])})).collect();
    json!({cipher: {"keys": keys}})
}

fn config_of(resources: Value, providers: Value) -> String {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": resources, "providers": providers}],
    })
    .to_string()
}

#[tokio::test]
async fn a_file_of_the_users_is_followed_and_one_that_could_not_read_what_is_stored_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("encryption.yaml");
    let write = |providers: Value| fs::write(&file, config_of(json!(["secrets", "configmaps"]), providers)).unwrap();
    write(json!([keys("secretbox", &[("one", 1)])]));
    let (cluster, encryption) = start(dir, Some(&file)).await;
    keep(&cluster, &encryption);
    let admin = cluster.admin();
    admin.post(SECRETS, &secret("a")).await.expect(201);
    admin.post(CONFIG_MAPS, &json!({"metadata": {"name": "c"}, "data": {"k": WORDS}})).await.expect(201);
    assert!(!found(&cluster.dir.path().join("store"), WORDS));
    // A new key first, the old one still there: what is written from now on is under the new one.
    write(json!([keys("aescbc", &[("two", 2)]), keys("secretbox", &[("one", 1)])]));
    until("the new key seals", || async {
        admin.patch(&format!("{SECRETS}/a"), "merge-patch", json!({"metadata": {"labels": {"l": uuid()}}})).await.expect(200);
        shown(&cluster.store.seals().await).contains(&"core/secrets aescbc:v1:two 1".to_owned())
    })
    .await;
    // Without the old one the ConfigMap could not be read: refused, and everything goes on.
    write(json!([keys("aescbc", &[("two", 2)])]));
    encryption.rotate(&*cluster.store, &mut |_| {}).await.unwrap();
    until("nothing is under the old key", || async {
        shown(&cluster.store.seals().await).iter().all(|line| line.contains("aescbc:v1:two"))
    })
    .await;
    assert_eq!(names(&admin.get(SECRETS).await.expect(200)), ["a"]);
    let (cluster, _) = start(cluster.stop().await, Some(&file)).await;
    assert_eq!(cluster.admin().get(&format!("{CONFIG_MAPS}/c")).await.expect(200)["data"]["k"], WORDS);
}

#[tokio::test]
async fn a_turn_over_to_the_users_keys_that_was_cut_off_is_ended_when_it_is_asked_for_again() {
    let cluster = Cluster::start().await;
    cluster.admin().post(SECRETS, &secret("a")).await.expect(201);
    let dir = cluster.stop().await;
    let file = dir.path().join("encryption.yaml");
    fs::write(&file, config_of(json!(["secrets"]), json!([keys("aesgcm", &[("one", 1)]), {"identity": {}}]))).unwrap();
    let (cluster, encryption) = start(dir, Some(&file)).await;
    // Everything is sealed, and then it ended: what was overwritten is still in the engine's files.
    while cluster.store.reseal().await.unwrap().left > 0 {}
    assert!(found(&cluster.dir.path().join("store"), WORDS));
    encryption.rotate(&*cluster.store, &mut |_| {}).await.unwrap();
    assert!(!found(&cluster.dir.path().join("store"), WORDS));
}

fn uuid() -> String {
    fastrand::u64(..).to_string()
}

/// A key service in the test's own process: HTTP/2 and gRPC by hand, wrapping by turning every bit.
mod service {
    use std::{convert::Infallible, path::Path, sync::Arc};

    use bytes::{BufMut as _, Bytes, BytesMut};
    use http::{HeaderMap, Request, Response};
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::Incoming;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use parking_lot::Mutex;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    struct Status {
        #[prost(string, tag = "1")]
        version: String,
        #[prost(string, tag = "2")]
        healthz: String,
        #[prost(string, tag = "3")]
        key_id: String,
    }

    /// Request and answer of both Encrypt and Decrypt begin with the bytes.
    #[derive(Clone, PartialEq, Message)]
    struct Wrap {
        #[prost(bytes = "vec", tag = "1")]
        bytes: Vec<u8>,
        #[prost(string, tag = "2")]
        key_id: String,
    }

    #[derive(Debug, Default)]
    pub(super) struct Told {
        pub(super) key_id: String,
        pub(super) healthz: String,
        pub(super) calls: Vec<String>,
    }

    pub(super) fn start(socket: &Path) -> Arc<Mutex<Told>> {
        let told = Arc::new(Mutex::new(Told { key_id: "key-1".into(), healthz: "ok".into(), calls: Vec::new() }));
        let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
        let shared = told.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let shared = shared.clone();
                let serve = hyper::service::service_fn(move |request| answer(shared.clone(), request));
                tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), serve));
            }
        });
        told
    }

    async fn answer(
        told: Arc<Mutex<Told>>,
        request: Request<Incoming>,
    ) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
        let method = request.uri().path().strip_prefix("/v2.KeyManagementService/").expect("the service's path").to_owned();
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let message = &body[5..];
        let mut told = told.lock();
        told.calls.push(method.clone());
        let answer = match method.as_str() {
            "Status" => Status { version: "v2".into(), healthz: told.healthz.clone(), key_id: told.key_id.clone() }.encode_to_vec(),
            "Encrypt" | "Decrypt" => {
                let asked = Wrap::decode(message).expect("a message");
                let key_id = if method == "Encrypt" { told.key_id.clone() } else { String::new() };
                Wrap { bytes: asked.bytes.iter().map(|byte| !byte).collect(), key_id }.encode_to_vec()
            }
            other => panic!("unexpected call {other}"),
        };
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(answer.len() as u32);
        frame.put_slice(&answer);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        let body = Full::from(frame.freeze()).with_trailers(async move { Some(Ok(trailers)) }).boxed();
        Ok(Response::builder().header("content-type", "application/grpc").body(body).expect("a response"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_service_holds_the_key_and_a_server_without_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("kms.sock");
    let told = service::start(&socket);
    let file = dir.path().join("encryption.json");
    let kms = |timeout: &str| json!({"kms": {"apiVersion": "v2", "name": "cloud", "endpoint": format!("unix://{}", socket.display()), "timeout": timeout}});
    fs::write(&file, config_of(json!(["secrets"]), json!([kms("30s")]))).unwrap();
    let (cluster, _) = start(dir, Some(&file)).await;
    cluster.admin().post(SECRETS, &secret("a")).await.expect(201);
    assert!(!found(&cluster.dir.path().join("store"), WORDS));
    assert!(found(&cluster.dir.path().join("store"), "k8s:enc:kms:v2:cloud:"));
    assert_eq!(shown(&cluster.store.seals().await), ["core/secrets kms:v2:cloud:key-1 1"]);
    assert_eq!(told.lock().calls, ["Status", "Encrypt"], "one seed, whatever is sealed");
    let dir = cluster.stop().await;
    // The service has another key now: old values are read with the old one, and a rotation writes them under the new one.
    told.lock().key_id = "key-2".into();
    let (cluster, encryption) = start(dir, Some(&file)).await;
    assert_eq!(cluster.admin().get(&format!("{SECRETS}/a")).await.expect(200)["data"]["words"], WORDS);
    encryption.rotate(&*cluster.store, &mut |_| {}).await.unwrap();
    assert_eq!(shown(&cluster.store.seals().await), ["core/secrets kms:v2:cloud:key-2 1"]);
    for path in ["/readyz", "/healthz/kms-providers", "/readyz?verbose"] {
        assert_eq!(cluster.admin().get(path).await.code, 200, "{path} of a service that is well");
    }
    let dir = cluster.stop().await;
    drop(encryption);
    // A service that is not well seals nothing, and the rest of the cluster goes on.
    told.lock().healthz = "the vault is closed".into();
    let (cluster, _) = start(dir, Some(&file)).await;
    let (_, message) = cluster.admin().post(SECRETS, &secret("b")).await.refused(500);
    assert!(message.contains("cloud"), "{message}");
    cluster.admin().config_map("c", json!({})).await;
    let health = async |path: &str| {
        let answer = cluster.admin().get(path).await;
        (answer.code.as_u16(), String::from_utf8_lossy(&answer.bytes).into_owned())
    };
    let (code, report) = health("/readyz").await;
    assert!(code == 500 && report.contains("[-]kms-providers failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n"), "{report}");
    assert_eq!(health("/readyz?exclude=kms-providers").await, (200, "ok".to_owned()));
    let (code, report) = health("/healthz/kms-providers").await;
    assert!(code == 500 && report.starts_with("internal server error: cloud: ") && report.contains("the vault is closed"), "{report}");
    // To begin anew would not help.
    assert_eq!(health("/livez").await.0, 200);
    assert_eq!(names(&cluster.admin().get(SECRETS).await.expect(200)), ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_while_its_key_service_is_not_there_yet_and_has_its_secrets_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("kms.sock");
    let file = dir.path().join("encryption.json");
    let kms = |name: &str, socket: &Path| json!({"kms": {"apiVersion": "v2", "name": name, "endpoint": format!("unix://{}", socket.display()), "timeout": "3s"}});
    // The second is gone for good, and sealed nothing.
    let services = json!([kms("cloud", &socket), kms("gone", &sockets.path().join("gone.sock"))]);
    fs::write(&file, config_of(json!(["secrets"]), services)).unwrap();
    let told = service::start(&socket);
    let (cluster, encryption) = start(dir, Some(&file)).await;
    cluster.admin().post(SECRETS, &secret("a")).await.expect(201);
    let dir = cluster.stop().await;
    drop(encryption);
    let away = sockets.path().join("away");
    fs::rename(&socket, &away).unwrap();

    let (cluster, encryption) = start(dir, Some(&file)).await;
    let admin = cluster.admin();
    for refused in [
        admin.get(&format!("{SECRETS}/a")).await,
        admin.get(SECRETS).await,
        admin.get("/api/v1/secrets?watch=true").await,
        admin.post(SECRETS, &secret("b")).await,
        admin.delete(&format!("{SECRETS}/a")).await,
    ] {
        let (_, message) = refused.refused(500);
        assert!(message.contains("cloud") && message.contains("kms-providers") && !message.contains("default/a"), "{message}");
    }
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "abcdef.0123456789abcdef"}});
    admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.refused(500);
    let rotated = encryption.rotate(&*cluster.store, &mut |_| {}).await.unwrap_err();
    assert!(matches!(rotated, EncryptionError::Reseal(_)), "{rotated}");
    admin.config_map("c", json!({})).await;
    assert_eq!(admin.get("/livez").await.code, 200);

    fs::rename(&away, &socket).unwrap();
    let opened = async {
        loop {
            let answer = admin.get(&format!("{SECRETS}/a")).await;
            if answer.code == 200 {
                return answer;
            }
            answer.refused(500);
        }
    };
    // The service is asked for its state every ten seconds.
    let answer = tokio::time::timeout(Duration::from_secs(60), opened).await.expect("the service answers again");
    assert_eq!(answer.expect(200)["data"]["words"], WORDS);
    assert_eq!(names(&admin.get(SECRETS).await.expect(200)), ["a"]);
    admin.post(SECRETS, &secret("b")).await.expect(201);
    drop(told);
}
