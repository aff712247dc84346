//! What a registry may do, out of malice or misfortune.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use knarr_runtime::{Credentials, Image, ImageError, Images, Progress, Registries, Registry};
use serde_json::{Value, json};

use super::server::{Content, INDEX, MANIFEST, Reply, Server, digest};

struct Node {
    dir: tempfile::TempDir,
    images: Images,
}

fn node(registries: Registries) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(&dir.path().join("images"), registries).unwrap();
    Node { dir, images }
}

impl Node {
    async fn pull(&self, reference: &str) -> Result<Arc<Image>, Arc<ImageError>> {
        self.pull_as(reference, &[]).await
    }

    async fn pull_as(&self, reference: &str, credentials: &[Credentials]) -> Result<Arc<Image>, Arc<ImageError>> {
        tokio::time::timeout(Duration::from_secs(60), self.images.pull(reference, credentials, |_| {})).await.expect("a pull ends")
    }

    /// The whole story of a pull that must fail, after which nothing half done may be left.
    async fn refused(&self, reference: &str) -> String {
        let error = self.pull(reference).await.expect_err("the pull fails");
        self.nothing_half_done();
        assert!(self.images.resolve(reference).is_none());
        told(&error)
    }

    /// Waits for threads that were writing when the pull ended: what they leave is gone when they are done.
    fn nothing_half_done(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let halves = names(&self.dir.path().join("images/tmp"));
            if halves.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{halves:?}");
            std::thread::yield_now();
        }
    }

    fn blobs(&self) -> Vec<String> {
        names(&self.dir.path().join("images/blobs/sha256"))
    }
}

fn names(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn told(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text.push_str(&format!(": {source}"));
        next = source.source();
    }
    text
}

fn user(username: &str, password: &str) -> Credentials {
    Credentials::Basic { username: username.into(), password: password.into() }
}

#[tokio::test]
async fn an_image_is_pulled_over_the_loopback_and_only_its_tag_is_asked_for_again() {
    let content = Content::new();
    let server = Server::start({
        let content = content.clone();
        move |request| content.answer(request)
    });
    let node = node(Registries::default());
    let name = format!("{}/app:1", server.address);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let image = node.images.pull(&name, &[], move |progress| told.lock().unwrap().push(progress)).await.unwrap();
    assert_eq!(image.names, std::slice::from_ref(&name));
    assert_eq!(image.repo_digests, [format!("{}/app@{}", server.address, content.digest("1"))]);
    assert_eq!(node.blobs().len(), 4);
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen[0], Progress::Started);
    let whole = content.layers[1].len() as u64;
    assert!(seen.contains(&Progress::Blob { digest: digest(&content.layers[1]), done: whole, total: whole }), "{seen:?}");
    assert!(seen.contains(&Progress::Unpacked { digest: digest(&content.layers[1]) }));

    let before = server.asked().len();
    assert_eq!(node.pull(&name).await.unwrap().id, image.id);
    let again: Vec<String> = server.asked()[before..].iter().map(|it| format!("{} {}", it.method, it.path)).collect();
    assert_eq!(again, ["HEAD /v2/app/manifests/1"]);
    let by_digest = format!("{}/app@{}", server.address, content.digest("1"));
    assert_eq!(node.pull(&by_digest).await.unwrap().id, image.id);
}

#[tokio::test]
async fn a_tag_that_moved_is_followed() {
    let content = Arc::new(Mutex::new(Content::new()));
    let held = content.clone();
    let server = Server::start(move |request| held.lock().unwrap().answer(request));
    let node = node(Registries::default());
    let name = format!("{}/app:1", server.address);
    let first = node.pull(&name).await.unwrap();
    *content.lock().unwrap() = Content::of(vec![super::server::layer("x", b"new")], std::env::consts::ARCH);
    let second = node.pull(&name).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(node.images.resolve(&name).unwrap().id, second.id);
}

#[tokio::test]
async fn content_with_another_digest_is_refused_and_leaves_nothing() {
    let content = Content::new();
    let wrong = digest(&content.layers[1]);
    let server = Server::start(move |request| {
        let mut reply = content.answer(request);
        if request.path.ends_with(&wrong) {
            reply.body[700] ^= 1;
        }
        reply
    });
    let node = node(Registries::default());
    let told = node.refused(&format!("{}/app:1", server.address)).await;
    assert!(told.contains("has the digest"), "{told}");
    assert!(!node.blobs().iter().any(|it| digest(&Content::new().layers[1]).ends_with(it.as_str())));
}

#[tokio::test]
async fn a_manifest_that_is_not_the_pinned_one_is_refused() {
    let content = Content::new();
    let server = Server::start(move |request| match request.path.contains("/manifests/") {
        true => Reply::new(200).with("Content-Type", MANIFEST).body(content.manifests["1"].1.clone()),
        false => content.answer(request),
    });
    let told = node(Registries::default()).refused(&format!("{}/app@{}", server.address, digest(b"other"))).await;
    assert!(told.contains("has the digest"), "{told}");
}

#[tokio::test]
async fn a_broken_connection_is_taken_up_where_it_broke() {
    let content = Content::new();
    let (large, whole) = (digest(&content.layers[1]), content.layers[1].len());
    let server = Server::start(move |request| {
        let mut reply = content.answer(request);
        if request.path.ends_with(&large) && request.header("range").is_none() {
            reply.cut = Some(whole / 2);
        }
        reply
    });
    node(Registries::default()).pull(&format!("{}/app:1", server.address)).await.unwrap();
    let ranges: Vec<String> = server.asked().iter().filter_map(|it| it.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [format!("bytes={}-", whole / 2)]);
}

#[tokio::test]
async fn a_registry_without_ranges_is_asked_from_the_start() {
    let content = Content::new();
    let (large, whole) = (digest(&content.layers[1]), content.layers[1].len());
    let times = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if !request.path.ends_with(&large) {
            return content.answer(request);
        }
        let mut reply = Reply::new(200).body(content.blobs[&large].clone());
        if times.fetch_add(1, Ordering::Relaxed) == 0 {
            reply.cut = Some(whole / 3);
        }
        reply
    });
    node(Registries::default()).pull(&format!("{}/app:1", server.address)).await.unwrap();
}

#[tokio::test]
async fn a_blob_that_stays_short_or_is_too_long_ends_the_pull() {
    for (change, expected) in [(-1, "and no more"), (1, "sends more than")] {
        let content = Content::new();
        let short = digest(&content.layers[0]);
        let server = Server::start(move |request| {
            let mut held = content.clone();
            let blob = held.blobs.get_mut(&short).unwrap();
            blob.resize(blob.len().checked_add_signed(change).unwrap(), 0);
            held.answer(request)
        });
        let told = node(Registries::default()).refused(&format!("{}/app:1", server.address)).await;
        assert!(told.contains(expected), "{told}");
    }
}

#[tokio::test]
async fn a_redirect_is_followed_without_the_credentials() {
    let content = Content::new();
    let held = content.clone();
    let storage = Server::start(move |request| held.answer(request));
    let to = storage.address;
    let server = Server::start(move |request| match request.header("authorization") {
        None => Reply::new(401).with("WWW-Authenticate", "Basic realm=\"r\""),
        Some(_) if request.path.contains("/blobs/") => Reply::new(307).with("Location", format!("http://{to}{}", request.path)),
        Some(_) => content.answer(request),
    });
    node(Registries::default()).pull_as(&format!("{}/app:1", server.address), &[user("u", "p")]).await.unwrap();
    let asked = storage.asked();
    assert_eq!(asked.len(), 3, "config and layers");
    assert!(asked.iter().all(|it| it.header("authorization").is_none()));
}

#[tokio::test]
async fn a_storage_that_asks_for_credentials_gets_none() {
    let thief = Server::start(|_| Reply::new(200).body(json!({"token": "t"}).to_string()));
    let realm = thief.address;
    let storage =
        Server::start(move |_| Reply::new(401).with("WWW-Authenticate", format!("Bearer realm=\"http://{realm}/token\",service=\"s\"")));
    let (content, to) = (Content::new(), storage.address);
    let server = Server::start(move |request| match request.header("authorization") {
        None => Reply::new(401).with("WWW-Authenticate", "Basic realm=\"r\""),
        Some(_) if request.path.contains("/blobs/") => Reply::new(307).with("Location", format!("http://{to}{}", request.path)),
        Some(_) => content.answer(request),
    });
    let error = node(Registries::default()).pull_as(&format!("{}/app:1", server.address), &[user("u", "p")]).await.unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("401"), "{error}");
    assert_eq!(thief.asked().len(), 0);
}

#[tokio::test]
async fn a_refresh_token_is_not_posted_on_to_another_host() {
    let thief = Server::start(|_| Reply::new(200).body(json!({"token": "t"}).to_string()));
    let to = thief.address;
    let tokens = Server::start(move |_| Reply::new(307).with("Location", format!("http://{to}/token")));
    let realm = tokens.address;
    let server =
        Server::start(move |_| Reply::new(401).with("WWW-Authenticate", format!("Bearer realm=\"http://{realm}/token\",service=\"s\"")));
    let fresh = [Credentials::Identity("fresh".into())];
    let error = node(Registries::default()).pull_as(&format!("{}/app:1", server.address), &fresh).await.unwrap_err();
    assert!(error.to_string().contains("which is not followed"), "{error}");
    assert_eq!(thief.asked().len(), 0);
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let server = Server::start(|request| Reply::new(302).with("Location", request.path.clone()));
    let told = node(Registries::default()).refused(&format!("{}/app:1", server.address)).await;
    assert!(told.contains("redirects more than 5 times"), "{told}");
}

/// A registry that gives tokens to `u` with the password `right`, and to the bearer of the refresh token `fresh`.
fn with_tokens() -> (Server, Server) {
    let tokens = Server::start(|request| {
        let basic = request.header("authorization") == Some("Basic dTpyaWdodA==");
        let refresh = request.body.contains("grant_type=refresh_token") && request.body.contains("refresh_token=fresh");
        match basic || refresh {
            true => Reply::new(200).body(json!({"token": "t0"}).to_string()),
            false => Reply::new(401).body(json!({"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}).to_string()),
        }
    });
    let (content, realm) = (Content::new(), tokens.address);
    let registry = Server::start(move |request| match request.header("authorization") {
        Some("Bearer t0") => content.answer(request),
        _ => Reply::new(401)
            .with("WWW-Authenticate", format!("Bearer realm=\"http://{realm}/token\",service=\"s\",scope=\"repository:app:pull\"")),
    });
    (registry, tokens)
}

#[tokio::test]
async fn a_password_and_a_refresh_token_are_traded_for_a_token_once() {
    for credentials in [user("u", "right"), Credentials::Identity("fresh".into())] {
        let (registry, tokens) = with_tokens();
        node(Registries::default()).pull_as(&format!("{}/app:1", registry.address), &[credentials]).await.unwrap();
        let asked = tokens.asked();
        assert_eq!(asked.len(), 1);
        let wish = format!("{}{}", asked[0].path, asked[0].body);
        assert!(wish.contains("service=s") && wish.contains("scope=repository%3Aapp%3Apull"), "{wish}");
    }
    let (registry, _tokens) = with_tokens();
    let ready = [Credentials::Bearer("t0".into())];
    node(Registries::default()).pull_as(&format!("{}/app:1", registry.address), &ready).await.unwrap();
}

#[tokio::test]
async fn wrong_credentials_are_named_without_their_secret_and_the_next_are_tried() {
    let (registry, _tokens) = with_tokens();
    let node = node(Registries::default());
    let name = format!("{}/app:1", registry.address);
    let error = node.pull_as(&name, &[user("u", "hunter2")]).await.unwrap_err();
    assert!(error.is_denied());
    let told = told(&error);
    assert!(told.contains("user \"u\"") && told.contains("UNAUTHORIZED no") && !told.contains("hunter2"), "{told}");
    let error = node.pull_as(&name, &[]).await.unwrap_err();
    assert!(error.is_denied() && error.to_string().contains("no credentials were given"), "{error}");
    node.pull_as(&name, &[user("u", "hunter2"), user("u", "right")]).await.unwrap();
}

#[tokio::test]
async fn the_nodes_own_credentials_are_read_at_each_pull() {
    let (registry, _tokens) = with_tokens();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let node = node(Registries { auth_file: Some(file.clone()), hosts: BTreeMap::new() });
    let name = format!("{}/app:1", registry.address);
    assert!(node.pull(&name).await.unwrap_err().is_denied());
    std::fs::write(&file, json!({"auths": {registry.address.to_string(): {"username": "u", "password": "right"}}}).to_string()).unwrap();
    node.pull(&name).await.unwrap();
    std::fs::write(&file, "{").unwrap();
    let told = told(&node.pull(&name).await.unwrap_err());
    assert!(told.contains("auth.json") && told.contains("not a docker config.json"), "{told}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_without_the_registrys_credentials_and_the_registry_if_it_fails() {
    let content = Content::new();
    let held = content.clone();
    let mirror = Server::start(move |request| held.answer(request));
    let broken = Server::start(|_| Reply::new(400));
    let registry = Server::start(move |request| content.answer(request));
    let with = |address: String| {
        let own = Registry { mirrors: vec![format!("http://{address}/mirrored")], ..Registry::default() };
        node(Registries { auth_file: None, hosts: [(registry.address.to_string(), own)].into() })
    };
    let name = format!("{}/app:1", registry.address);
    let image = with(mirror.address.to_string()).pull_as(&name, &[user("u", "p")]).await.unwrap();
    assert_eq!(image.names, std::slice::from_ref(&name));
    assert_eq!(registry.asked().len(), 0);
    assert!(mirror.asked().iter().all(|it| it.header("authorization").is_none() && it.path.starts_with("/mirrored/v2/app/")));
    with(broken.address.to_string()).pull(&name).await.unwrap();
    assert!(!broken.asked().is_empty() && !registry.asked().is_empty());
}

#[tokio::test]
async fn who_wants_the_same_image_shares_one_pull() {
    let content = Content::new();
    let server = Server::start(move |request| content.answer(request));
    let node = node(Registries::default());
    let name = format!("{}/app:1", server.address);
    let pulls = futures::future::join_all((0..5).map(|_| node.pull(&name))).await;
    assert!(pulls.iter().all(Result::is_ok), "{pulls:?}");
    assert_eq!(server.paths("/blobs/").len(), 3);
    assert_eq!(server.paths("/manifests/").len(), 2, "HEAD and GET");
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_ends_and_leaves_nothing_half_done() {
    let content = Content::new();
    let large = digest(&content.layers[1]);
    let (asked, was_asked) = std::sync::mpsc::sync_channel(4);
    let (go, gate) = std::sync::mpsc::sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    let server = Server::start(move |request| {
        if request.path.ends_with(&large) {
            asked.send(()).unwrap();
            // Until the test ends.
            let _ = gate.lock().unwrap().recv();
        }
        content.answer(request)
    });
    let node = node(Registries::default());
    let (images, name) = (node.images.clone(), format!("{}/app:1", server.address));
    let pull = tokio::spawn(async move { images.pull(&name, &[], |_| {}).await });
    tokio::task::spawn_blocking(move || was_asked.recv_timeout(Duration::from_secs(60)).unwrap()).await.unwrap();
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    node.nothing_half_done();
    drop(go);
    node.images.gc().unwrap();
    assert_eq!(node.blobs(), Vec::<String>::new());
}

#[tokio::test]
async fn an_overloaded_registry_is_asked_again_and_a_missing_image_is_not() {
    let content = Content::new();
    let times = AtomicUsize::new(0);
    let server = Server::start(move |request| match times.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::new(429).with("Retry-After", "0"),
        1 => Reply::new(503).with("Retry-After", "0"),
        _ => content.answer(request),
    });
    let node = node(Registries::default());
    node.pull(&format!("{}/app:1", server.address)).await.unwrap();
    let told = node.refused(&format!("{}/app:nosuch", server.address)).await;
    assert!(told.contains("has no such image") && told.contains("MANIFEST_UNKNOWN"), "{told}");
    assert_eq!(server.paths("nosuch"), ["HEAD /v2/app/manifests/nosuch", "GET /v2/app/manifests/nosuch"]);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_named_with_the_reason() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let told = node(Registries::default()).refused(&format!("{closed}/app:1")).await;
    assert!(told.contains("the connection was refused"), "{told}");
}

#[tokio::test]
async fn what_is_no_image_for_this_machine_is_refused_before_its_layers_come() {
    let manifest = |change: fn(&mut Value)| {
        let mut content = Content::new();
        let mut manifest = content.manifest.clone();
        change(&mut manifest);
        content.tag("1", MANIFEST, manifest.to_string().as_bytes());
        content
    };
    let index = |platform: Value| {
        let mut content = Content::new();
        let (digest, size) = (content.digest("1"), content.manifests["1"].1.len());
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": MANIFEST, "digest": digest, "size": size, "platform": platform},
            {"mediaType": MANIFEST, "digest": super::server::digest(b"other"), "size": 1, "platform": {"os": "plan9", "architecture": "mips"}}]});
        content.tag("1", INDEX, index.to_string().as_bytes());
        content
    };
    let cases: Vec<(Content, &str)> = vec![
        (manifest(|it| it["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".into()), "is encrypted"),
        (manifest(|it| it["layers"][0]["mediaType"] = "application/x-squashfs".into()), "no layer that can be unpacked"),
        (manifest(|it| it["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into()), "not a container image"),
        (manifest(|it| it["config"]["size"] = (5 << 20).into()), "more than the 4194304 allowed"),
        (manifest(|it| it["layers"][0]["size"] = (1_u64 << 40).into()), "more than the 68719476736 allowed"),
        (manifest(|it| it["manifests"] = json!([])), "is both an image and an index"),
        (manifest(|it| it["schemaVersion"] = 1.into()).without_config(), "schema version 1"),
        (index(json!({"os": "windows", "architecture": "amd64"})), "it has plan9/mips, windows/amd64"),
        (Content::of(vec![super::server::layer("x", b"")], "riscv64"), "is for linux/riscv64"),
    ];
    for (content, expected) in cases {
        let layers: Vec<String> = content.layers.iter().map(|it| digest(it)).collect();
        let server = Server::start(move |request| content.answer(request));
        let told = node(Registries::default()).refused(&format!("{}/app:1", server.address)).await;
        assert!(told.contains(expected), "{expected}: {told}");
        assert!(layers.iter().all(|layer| server.paths(layer).is_empty()), "{expected}");
    }
}

impl Content {
    fn without_config(mut self) -> Content {
        let (kind, text) = self.manifests["1"].clone();
        let mut manifest: Value = serde_json::from_slice(&text).unwrap();
        manifest.as_object_mut().unwrap().remove("config");
        self.tag("1", &kind, manifest.to_string().as_bytes());
        self
    }
}

#[tokio::test]
async fn an_index_leads_to_the_image_of_this_machine_and_gives_its_digest_to_the_name() {
    let mut content = Content::new();
    let (image, size) = (content.digest("1"), content.manifests["1"].1.len());
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": MANIFEST, "digest": digest(b"other"), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}},
        {"mediaType": MANIFEST, "digest": image, "size": size, "platform": {"os": "linux", "architecture": arch}}]});
    content.tag("1", INDEX, index.to_string().as_bytes());
    let top = content.digest("1");
    let server = Server::start(move |request| content.answer(request));
    let node = node(Registries::default());
    let pulled = node.pull(&format!("{}/app:1", server.address)).await.unwrap();
    assert_eq!(pulled.repo_digests, [format!("{}/app@{top}", server.address)]);
    assert!(node.images.resolve(&pulled.repo_digests[0]).is_some());
}

#[tokio::test]
async fn a_manifest_without_end_is_not_read_to_its_end() {
    let server = Server::start(|_| Reply::new(200).with("Content-Type", MANIFEST).body(vec![b' '; (4 << 20) + 1]));
    let told = node(Registries::default()).refused(&format!("{}/app:1", server.address)).await;
    assert!(told.contains("larger than the 4194304 bytes allowed"), "{told}");
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_stays_on_it() {
    knarr_testbed::require_root!();
    let dir = tempfile::tempdir().unwrap();
    rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=600k")).unwrap();
    let content = Content::new();
    let server = Server::start(move |request| content.answer(request));
    let images = Images::open(&dir.path().join("images"), Registries::default()).unwrap();
    let error = images.pull(&format!("{}/app:1", server.address), &[], |_| {}).await.unwrap_err();
    // A blob that was in the middle of a write when another found the disk full goes after that write.
    let all_gone = async {
        while !names(&dir.path().join("images/tmp")).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let unfinished = tokio::time::timeout(Duration::from_secs(60), all_gone).await;
    images.gc().unwrap();
    let blobs = names(&dir.path().join("images/blobs/sha256"));
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(error.is_full_disk(), "{}", told(&error));
    assert!(unfinished.is_ok(), "what was not finished is removed");
    assert_eq!(blobs, Vec::<String>::new());
}
