use std::{collections::BTreeMap, path::Path};

use super::*;
use crate::{CommitError, Embedded, Expect, OpenError, Options, Store as _, Write};

const HEAD: &str = r#"{"metadata":{"#;
const PLAIN: &str = "the plain text of a secret";

fn secrets() -> Collection {
    Collection::new("core/secrets")
}

fn key(name: &str) -> Key {
    Key::new(&secrets(), "default", name)
}

fn put(name: &str) -> Write {
    let value = format!(r#"{HEAD}"name":"{name}"}},"data":"{PLAIN}"}}"#).into();
    Write::Put { key: key(name), value, stamp: HEAD.len(), meta: None, expect: Expect::Any, lazy: false }
}

fn provider(cipher: Cipher, name: &str, secret: &[u8]) -> Arc<Provider> {
    Arc::new(Provider::Key(SealingKey::new(cipher, name, secret).unwrap()))
}

fn gcm(name: &str, byte: u8) -> Arc<Provider> {
    provider(Cipher::AesGcm, name, &[byte; 32])
}

fn identity() -> Arc<Provider> {
    Arc::new(Provider::Identity)
}

fn sealing(providers: Vec<Arc<Provider>>) -> Arc<Sealing> {
    Sealing::new([(Pattern::Collection(secrets()), providers)])
}

fn try_open(dir: &Path, sealing: &Arc<Sealing>) -> Result<Embedded, OpenError> {
    Embedded::open(dir, Options { reserve_bytes: 0, sealing: sealing.clone(), ..Options::default() })
}

fn open(dir: &Path, sealing: &Arc<Sealing>) -> Embedded {
    try_open(dir, sealing).expect("the store opens")
}

/// Whether any file beneath `dir` has `text`.
fn found(dir: &Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return found(&path, text);
        }
        let has = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(text);
        if has {
            println!("{text:?} is in {}", path.display());
        }
        has
    })
}

async fn fill(store: &Embedded, count: usize) {
    store.commit((0..count).map(|number| put(&format!("s{number}"))).collect()).await.unwrap();
}

fn counts(counts: Vec<SealCount>) -> Vec<String> {
    let shown = |count: SealCount| {
        let seal = count.seal.map_or("plain".to_owned(), |seal| seal.to_string());
        format!("{} {seal} {}{}", count.collection, count.objects, if count.current { " current" } else { "" })
    };
    counts.into_iter().map(shown).collect()
}

fn error(result: Result<Embedded, OpenError>) -> String {
    let error = result.err().expect("it does not open");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn every_cipher_opens_what_it_sealed_and_only_for_the_same_object() {
    for (cipher, lengths) in [(Cipher::AesGcm, &[16, 24, 32][..]), (Cipher::AesCbc, &[16, 24, 32]), (Cipher::Secretbox, &[32])] {
        for length in lengths {
            let sealing = sealing(vec![provider(cipher, "k", &vec![7; *length])]);
            let (stored, seal) = sealing.seal(&key("a"), PLAIN.as_bytes()).unwrap().unwrap();
            assert!(stored.starts_with(format!("k8s:enc:{seal}:").as_bytes()), "{seal}");
            assert!(!stored.windows(PLAIN.len()).any(|window| window == PLAIN.as_bytes()), "{seal}");
            let (opened, with) = sealing.open(&key("a"), &stored).unwrap();
            assert_eq!((opened.as_deref(), with), (Some(PLAIN.as_bytes()), Some(seal)));
            assert!(matches!(sealing.open(&key("b"), &stored), Err(SealError::WrongKey { .. })), "{cipher:?} {length}: moved");
            let mut bent = stored.clone();
            *bent.last_mut().unwrap() ^= 1;
            // AES-CBC has no authentication but the path and the padding; upstream's has not even the path.
            assert!(cipher == Cipher::AesCbc || sealing.open(&key("a"), &bent).is_err(), "{cipher:?} {length}: bent");
            assert_ne!(sealing.seal(&key("a"), PLAIN.as_bytes()).unwrap().unwrap().0, stored, "a nonce is used once");
        }
    }
}

#[test]
fn keys_have_the_lengths_of_their_cipher() {
    for (cipher, length) in [(Cipher::AesGcm, 31), (Cipher::AesCbc, 0), (Cipher::Secretbox, 16)] {
        let refused = SealingKey::new(cipher, "k", &vec![0; length]).unwrap_err();
        assert_eq!(refused.got, length);
    }
}

#[test]
fn the_closest_pattern_counts() {
    let first = |collection: &str, sealing: &Sealing| {
        let key = Key::new(&Collection::new(collection), "n", "a");
        sealing.wanted(&key).unwrap().map_or("plain".to_owned(), |seal| seal.to_string())
    };
    let sealing = Sealing::new([
        (Pattern::All, vec![gcm("all", 1)]),
        (Pattern::Group("apps".into()), vec![gcm("apps", 2)]),
        (Pattern::Collection(Collection::new("core/events")), vec![identity()]),
        (Pattern::Group("core".into()), vec![gcm("core", 3)]),
    ]);
    assert_eq!(first("apps/deployments", &sealing), "aesgcm:v1:apps");
    assert_eq!(first("core/secrets", &sealing), "aesgcm:v1:core");
    assert_eq!(first("core/events", &sealing), "plain");
    assert_eq!(first("batch/jobs", &sealing), "aesgcm:v1:all");
    assert_eq!(first("batch/jobs", &Sealing::none()), "plain");
}

#[tokio::test]
async fn what_is_sealed_is_nowhere_on_disk_in_plain_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let sealing = sealing(vec![gcm("k", 1)]);
    let store = open(dir.path(), &sealing);
    let mut watch = store.watch(&secrets(), crate::Revision(0)).unwrap();
    fill(&store, 3).await;
    assert!(!found(dir.path(), PLAIN), "while running");
    assert!(found(dir.path(), "k8s:enc:aesgcm:v1:k:"), "the test looks where the records are");
    assert_eq!(watch.next().await.unwrap().events.len(), 3);
    let before = store.snapshot().get(&key("s1")).unwrap().value.clone();
    assert!(before.windows(PLAIN.len()).any(|window| window == PLAIN.as_bytes()), "memory is plain");
    drop(store);
    assert!(!found(dir.path(), PLAIN), "stopped");
    let store = open(dir.path(), &sealing);
    assert_eq!(store.snapshot().get(&key("s1")).unwrap().value, before);
    assert_eq!(counts(store.seals().await), ["core/secrets aesgcm:v1:k 3 current"]);
}

#[tokio::test]
async fn plain_records_are_read_beside_sealed_ones_and_sealed_without_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Sealing::none());
    fill(&store, 600).await;
    assert!(found(dir.path(), PLAIN), "the test finds plain text");
    drop(store);
    let sealing = sealing(vec![gcm("k", 1), identity()]);
    let store = open(dir.path(), &sealing);
    store.commit(vec![put("new")]).await.unwrap();
    assert_eq!(counts(store.seals().await), ["core/secrets plain 600", "core/secrets aesgcm:v1:k 1 current"]);
    let before = store.snapshot().revision;
    let mut rounds = Vec::new();
    loop {
        let resealed = store.reseal().await.unwrap();
        rounds.push((resealed.rewritten, resealed.left));
        if resealed.left == 0 {
            break;
        }
    }
    assert_eq!(rounds, [(256, 344), (256, 88), (88, 0)]);
    assert_eq!(store.snapshot().revision, before);
    assert_eq!(counts(store.seals().await), ["core/secrets aesgcm:v1:k 601 current"]);
    store.forget_overwritten().await.unwrap();
    assert!(!found(dir.path(), PLAIN), "the old forms are gone from tables and journals");
    store.commit(vec![put("after")]).await.unwrap();
    drop(store);
    assert!(!found(dir.path(), PLAIN));
    let store = open(dir.path(), &sealing);
    assert_eq!((store.snapshot().len(&secrets()), store.snapshot().revision.0), (602, before.0 + 1));
}

#[tokio::test]
async fn a_rewriting_that_was_cut_off_leaves_the_engine_that_counts() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), &Sealing::none()));
    let names = |names: [&str; 2]| names.map(|name| dir.path().join(name));
    for [from, to] in [names(["engine", "engine.old"]), names(["engine", "engine"])] {
        let store = open(dir.path(), &Sealing::none());
        fill(&store, 1).await;
        drop(store);
        std::fs::rename(from, to).unwrap();
        std::fs::create_dir(dir.path().join("engine.new")).unwrap();
        let store = open(dir.path(), &Sealing::none());
        assert_eq!(store.snapshot().len(&secrets()), 1);
        assert!(!dir.path().join("engine.new").exists() && !dir.path().join("engine.old").exists());
    }
}

#[tokio::test]
async fn a_missing_or_wrong_key_is_named_with_the_object_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let right = sealing(vec![gcm("k", 1)]);
    let store = open(dir.path(), &right);
    fill(&store, 1).await;
    drop(store);
    let missing = error(try_open(dir.path(), &sealing(vec![gcm("other", 1)])));
    assert!(missing.contains("core/secrets/default/s0") && missing.contains("aesgcm:v1:k, and no such key"), "{missing}");
    assert!(missing.contains("knarr secrets status"), "{missing}");
    let wrong = error(try_open(dir.path(), &sealing(vec![gcm("k", 2)])));
    assert!(wrong.contains("core/secrets/default/s0") && wrong.contains("does not open it"), "{wrong}");
    let none = error(try_open(dir.path(), &Sealing::none()));
    assert!(none.contains("no such key is configured"), "{none}");
    assert_eq!(counts(Embedded::survey(dir.path()).unwrap()), ["core/secrets aesgcm:v1:k 1"]);
    assert_eq!(open(dir.path(), &right).snapshot().len(&secrets()), 1);
}

#[tokio::test]
async fn plain_text_slipped_into_the_store_is_not_taken_for_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Sealing::none());
    fill(&store, 1).await;
    drop(store);
    let refused = error(try_open(dir.path(), &sealing(vec![gcm("k", 1)])));
    assert!(refused.contains("core/secrets/default/s0") && refused.contains("identity"), "{refused}");
}

#[tokio::test]
async fn keys_turn_over_while_running_and_one_that_is_needed_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &sealing(vec![gcm("old", 1)]));
    fill(&store, 2).await;
    store.seal_with(sealing(vec![gcm("new", 2), gcm("old", 1)])).await.unwrap();
    store.commit(vec![put("s0")]).await.unwrap();
    let only_new = sealing(vec![gcm("new", 2)]);
    let refused = store.seal_with(only_new.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("1 of core/secrets are sealed with aesgcm:v1:old"), "{refused}");
    assert_eq!(store.reseal().await.unwrap(), Resealed { rewritten: 1, left: 0 });
    store.seal_with(only_new.clone()).await.unwrap();
    drop(store);
    assert_eq!(open(dir.path(), &only_new).snapshot().len(&secrets()), 2);
}

#[tokio::test]
async fn another_key_under_the_name_of_one_that_is_needed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let right = sealing(vec![gcm("k", 1)]);
    let store = open(dir.path(), &right);
    fill(&store, 1).await;
    let refused = store.seal_with(sealing(vec![gcm("k", 2)])).await.unwrap_err();
    assert!(matches!(&refused, SealingError::Unopened { key: refused, .. } if *refused == key("s0")), "{refused}");
    store.seal_with(sealing(vec![gcm("k", 2), gcm("k", 1)])).await.expect("both are there");
    drop(store);
    assert_eq!(open(dir.path(), &right).snapshot().len(&secrets()), 1);
}

#[tokio::test]
async fn identity_first_unseals() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &sealing(vec![gcm("k", 1)]));
    fill(&store, 2).await;
    store.seal_with(sealing(vec![identity(), gcm("k", 1)])).await.unwrap();
    assert_eq!(store.reseal().await.unwrap(), Resealed { rewritten: 2, left: 0 });
    drop(store);
    assert_eq!(open(dir.path(), &Sealing::none()).snapshot().len(&secrets()), 2);
}

/// Wraps by turning every bit, under whatever key id it is told.
#[derive(Debug)]
struct Turning {
    /// None: it is silent for those who seal. `gone` and `hang`: it fails, or hangs, for those who open.
    key_id: parking_lot::Mutex<Option<String>>,
    changed: parking_lot::Condvar,
}

impl Turning {
    fn new() -> Arc<Self> {
        Arc::new(Self { key_id: parking_lot::Mutex::new(Some("one".into())), changed: parking_lot::Condvar::new() })
    }

    fn set(&self, key_id: Option<&str>) {
        *self.key_id.lock() = key_id.map(str::to_owned);
        self.changed.notify_all();
    }
}

impl KeyService for Turning {
    fn name(&self) -> &str {
        "turning"
    }

    fn current(&self) -> Result<Arc<Envelope>, KeyServiceError> {
        let key_id = self.key_id.lock().clone().ok_or(KeyServiceError::Stale { seconds: 200 })?;
        let seed = Envelope::seed();
        let source = seed.map(|byte| !byte).to_vec();
        Envelope::new(seed, Wrapped { key_id, source, annotations: BTreeMap::new() }).map(Arc::new)
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<u8>, KeyServiceError> {
        let mut key_id = self.key_id.lock();
        self.changed.wait_while(&mut key_id, |key_id| key_id.as_deref() == Some("hang"));
        if key_id.as_deref() == Some("gone") {
            return Err(KeyServiceError::Call("connect: no such file".to_owned()));
        }
        Ok(wrapped.source.iter().map(|byte| !byte).collect())
    }
}

#[tokio::test]
async fn a_key_service_wraps_seeds_and_one_that_is_silent_stops_only_what_it_seals() {
    let dir = tempfile::tempdir().unwrap();
    let service = Turning::new();
    let sealing = sealing(vec![Arc::new(Provider::Service(service.clone()))]);
    let store = open(dir.path(), &sealing);
    fill(&store, 2).await;
    assert!(!found(dir.path(), PLAIN));
    service.set(Some("two"));
    assert_eq!(counts(store.seals().await), ["core/secrets kms:v2:turning:one 2"]);
    assert_eq!(store.reseal().await.unwrap(), Resealed { rewritten: 2, left: 0 });
    assert_eq!(counts(store.seals().await), ["core/secrets kms:v2:turning:two 2 current"]);
    service.set(None);
    let refused = store.reseal().await.unwrap_err();
    assert!(matches!(refused, CommitError::Seal { .. }), "what is left to do is not known: {refused}");
    let before = store.snapshot().revision;
    let refused = store.commit(vec![put("s9")]).await.unwrap_err();
    assert!(matches!(&refused, CommitError::Seal { key: refused, .. } if *refused == key("s9")), "{refused}");
    let Write::Put { value, stamp, .. } = put("c") else { unreachable!() };
    let other = Key::new(&Collection::new("core/configmaps"), "default", "c");
    store.commit(vec![Write::Put { key: other, value, stamp, meta: None, expect: Expect::Any, lazy: false }]).await.unwrap();
    assert_eq!(store.snapshot().revision.0, before.0 + 1, "the refused write took no revision");
    assert_eq!(store.snapshot().len(&secrets()), 2);
    drop(store);
    assert_eq!(open(dir.path(), &sealing).snapshot().len(&secrets()), 2);
}

#[tokio::test]
async fn what_a_silent_key_service_keeps_shut_at_the_start_opens_when_it_answers() {
    let dir = tempfile::tempdir().unwrap();
    let service = Turning::new();
    let sealing = sealing(vec![Arc::new(Provider::Service(service.clone()))]);
    let store = open(dir.path(), &sealing);
    fill(&store, 3).await;
    let (before, revision) = (store.snapshot().get(&key("s1")).unwrap().clone(), store.snapshot().revision);
    drop(store);
    service.set(Some("gone"));
    let refused = error(try_open(dir.path(), &sealing));
    assert!(refused.contains("core/secrets/default/s0") && refused.contains("ask the key service turning"), "{refused}");

    let store = Embedded::open(dir.path(), Options { reserve_bytes: 0, sealing: sealing.clone(), may_be_shut: vec![secrets()] }).unwrap();
    let shut = store.shut(&secrets()).expect("it is shut");
    assert_eq!((shut.objects, shut.key), (3, key("s0")));
    assert_eq!(store.snapshot().revision, revision, "revisions of what is shut are known");
    assert_eq!(counts(store.seals().await).len(), 1);
    for refused in [
        store.commit(vec![put("s1")]).await.unwrap_err(),
        store.commit(vec![Write::Delete { key: key("s1"), expect: Expect::Any }]).await.unwrap_err(),
        store.reseal().await.unwrap_err(),
        store.forget_overwritten().await.unwrap_err(),
        store.open_shut().await.unwrap_err(),
    ] {
        assert!(matches!(refused, CommitError::Shut(_)), "{refused}");
    }
    let Write::Put { value, stamp, .. } = put("c") else { unreachable!() };
    let other = Key::new(&Collection::new("core/configmaps"), "default", "c");
    store.commit(vec![Write::Put { key: other, value, stamp, meta: None, expect: Expect::Any, lazy: false }]).await.unwrap();

    service.set(Some("one"));
    store.open_shut().await.unwrap();
    assert!(store.shut(&secrets()).is_none());
    assert_eq!(store.snapshot().len(&secrets()), 3);
    let opened = store.snapshot().get(&key("s1")).unwrap().clone();
    assert_eq!((opened.revision, &opened.value), (before.revision, &before.value));
    store.commit(vec![put("s3")]).await.unwrap();
    drop(store);
    assert_eq!(open(dir.path(), &sealing).snapshot().len(&secrets()), 4);
}

#[tokio::test]
async fn a_key_service_that_hangs_holds_up_nobody_but_those_who_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let service = Turning::new();
    let sealing = sealing(vec![Arc::new(Provider::Service(service.clone()))]);
    let store = open(dir.path(), &sealing);
    fill(&store, 3).await;
    drop(store);
    service.set(Some("gone"));
    let options = Options { reserve_bytes: 0, sealing, may_be_shut: vec![secrets()] };
    let store = Arc::new(Embedded::open(dir.path(), options).unwrap());
    service.set(Some("hang"));
    // One leaves while he waits, another waits on.
    let ask = || {
        tokio::spawn({
            let store = store.clone();
            async move { store.open_shut().await }
        })
    };
    let left = ask();
    tokio::task::yield_now().await;
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    let waits = ask();
    tokio::task::yield_now().await;
    // What comes at once is committed before anything is opened: the second shows whether that holds it up.
    for name in ["c", "d"] {
        let Write::Put { value, stamp, .. } = put(name) else { unreachable!() };
        let other = Key::new(&Collection::new("core/configmaps"), "default", name);
        let write = store.commit(vec![Write::Put { key: other, value, stamp, meta: None, expect: Expect::Any, lazy: false }]);
        let written = tokio::time::timeout(std::time::Duration::from_secs(60), write).await;
        if written.is_err() {
            service.set(Some("one"));
        }
        written.expect("commits go on").unwrap();
    }
    assert!(store.shut(&secrets()).is_some());
    service.set(Some("one"));
    waits.await.unwrap().unwrap();
    assert_eq!(store.snapshot().len(&secrets()), 3);
}

#[test]
fn answers_of_a_key_service_are_checked() {
    let wrapped = |key_id: &str, source: usize, name: &str| Wrapped {
        key_id: key_id.to_owned(),
        source: vec![1; source],
        annotations: BTreeMap::from([(name.to_owned(), vec![])]),
    };
    assert!(Envelope::new([0; 32], wrapped("k", 1024, "version.example.com")).is_ok());
    for (wrong, reason) in [
        (wrapped("", 1, "a.b"), "key id is empty"),
        (wrapped(&"k".repeat(1025), 1, "a.b"), "key id is longer"),
        (wrapped("k", 0, "a.b"), "ciphertext is empty"),
        (wrapped("k", 1025, "a.b"), "ciphertext is longer"),
        (wrapped("k", 1, "nodots"), "domain name"),
    ] {
        let message = Envelope::new([0; 32], wrong).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}
