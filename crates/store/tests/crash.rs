//! What survives when the process or the disk fails. The writer is a child process: this same test program, told by its environment.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use knarr_store::{
    Cipher, Collection, CommitError, Embedded, Expect, Key, Options, Pattern, Provider, Sealing, SealingKey, Snapshot, Store as _, Write,
};

const DIRECTORY: &str = "KNARR_TEST_STORE";

/// Set where every write of the storm makes a new object, so that the disk fills.
const GROWING: &str = "KNARR_TEST_STORE_GROWS";
const HEAD: &str = r#"{"metadata":{"#;

/// Acknowledged writes after which the storm is cut off.
const STORM: usize = 200;

fn collection() -> Collection {
    Collection::new("core/configmaps")
}

fn put(name: &str, text: &str) -> Write {
    let value = format!(r#"{HEAD}"name":"{name}"}},"data":"{text}"}}"#).into();
    Write::Put { key: Key::new(&collection(), "default", name), value, stamp: HEAD.len(), meta: None, expect: Expect::Any, lazy: false }
}

fn open(dir: &Path) -> Embedded {
    Embedded::open(dir, Options { reserve_bytes: 0, ..Options::default() }).expect("the store opens again")
}

fn data(snapshot: &Snapshot, name: &str) -> Option<String> {
    let entry = snapshot.get(&Key::new(&collection(), "default", name))?;
    let value: serde_json::Value = serde_json::from_slice(&entry.value).expect("a value is never half written");
    assert_eq!(value["metadata"]["resourceVersion"], entry.revision.to_string());
    Some(value["data"].as_str()?.to_owned())
}

/// Not a test of its own: what the child of the tests below does. Eight tasks write as fast as they can and say what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storm() {
    let Some(dir) = std::env::var_os(DIRECTORY) else { return };
    let store = Arc::new(open(Path::new(&dir)));
    let growing = std::env::var_os(GROWING).is_some();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0_u32.. {
                // Padding makes memtables and journals turn over while the storm lasts.
                let text = format!("{round}:{}", noise(if growing { 256 << 10 } else { 1 << 10 }));
                let name = if growing { format!("{writer}-{round}") } else { writer.to_string() };
                let commit = vec![put(&format!("w{name}"), &text), put(&format!("v{name}"), &text)];
                if let Err(error) = store.commit(commit).await {
                    println!("refused {error}");
                    return round;
                }
                println!("acknowledged {writer} {round}");
            }
            unreachable!("the disk is smaller than that")
        })
    });
    let mut rounds = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        rounds.push(writer.await.unwrap());
    }
    // The disk is full. What was acknowledged is there after a new start, nothing else is, and deletions make room.
    drop(store);
    let store = open(Path::new(&dir));
    let snapshot = store.snapshot();
    for (writer, refused) in rounds.iter().enumerate() {
        for round in 0..*refused {
            let one = data(&snapshot, &format!("w{writer}-{round}")).expect("an acknowledged write survives a full disk");
            assert_eq!(Some(one), data(&snapshot, &format!("v{writer}-{round}")), "a commit is never half applied");
        }
        assert_eq!(data(&snapshot, &format!("w{writer}-{refused}")), None, "a refused write is not there after all");
    }
    let key = Key::new(&collection(), "default", "w0-0");
    store.commit(vec![Write::Delete { key, expect: Expect::Any }]).await.expect("a full disk takes deletions");
    println!("survived {}", snapshot.len(&collection()));
}

/// Objects that keys are turned over for, and rounds after which that is cut off.
const SEALED: usize = 600;
const RESEALING: &str = "KNARR_TEST_STORE_RESEALS";

fn sealed_with(names: [&str; 2]) -> Arc<Sealing> {
    let key = |name: &str| Arc::new(Provider::Key(SealingKey::new(Cipher::AesGcm, name, &[name.as_bytes()[0]; 32]).expect("32 bytes")));
    Sealing::new([(Pattern::Collection(collection()), names.map(key).to_vec())])
}

fn open_sealed(dir: &Path, names: [&str; 2]) -> Embedded {
    let options = Options { reserve_bytes: 0, sealing: sealed_with(names), ..Options::default() };
    Embedded::open(dir, options).expect("one of the two keys opens every record")
}

/// Not a test of its own: turns two keys over and over, and deletes what each round replaced.
#[tokio::test]
async fn reseal() {
    let Some(dir) = std::env::var_os(RESEALING) else { return };
    let store = open_sealed(Path::new(&dir), ["a", "b"]);
    for round in 0.. {
        let names = if round % 2 == 0 { ["b", "a"] } else { ["a", "b"] };
        store.seal_with(sealed_with(names)).await.unwrap();
        while store.reseal().await.unwrap().left > 0 {
            println!("acknowledged 0 {round}");
        }
        store.forget_overwritten().await.unwrap();
        println!("acknowledged 1 {round}");
    }
}

#[tokio::test]
async fn kill_9_while_keys_turn_over_leaves_every_object_readable() {
    for enough in [1, 2, 3, 7, 13] {
        let dir = tempfile::tempdir().unwrap();
        let store = open_sealed(dir.path(), ["a", "b"]);
        store.commit((0..SEALED).map(|number| put(&number.to_string(), &format!("value {number}"))).collect()).await.unwrap();
        drop(store);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "reseal", "--nocapture"]).env(RESEALING, dir.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        listen(&mut child, enough);
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open_sealed(dir.path(), ["b", "a"]);
        for number in 0..SEALED {
            assert_eq!(data(&store.snapshot(), &number.to_string()), Some(format!("value {number}")), "cut off after {enough}");
        }
        while store.reseal().await.unwrap().left > 0 {}
        store.seal_with(sealed_with(["b", "b"])).await.unwrap();
    }
}

/// Text that does not compress.
fn noise(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ std::time::Instant::now().elapsed().as_nanos() as u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + (state % 26) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

fn child(dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "storm", "--nocapture"]).env(DIRECTORY, dir).stdout(Stdio::piped());
    command
}

/// Reads acknowledgements until there are `enough` of them, or the child ends: the last round of each writer, and the refusals.
fn listen(child: &mut Child, enough: usize) -> (BTreeMap<u32, u32>, Vec<String>) {
    let (mut rounds, mut refusals, mut count) = (BTreeMap::new(), Vec::new(), 0);
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["acknowledged", writer, round] => {
                rounds.insert(writer.parse().unwrap(), round.parse().unwrap());
                count += 1;
            }
            ["refused", ..] => refusals.push(line),
            _ => {}
        }
        if count >= enough {
            break;
        }
    }
    (rounds, refusals)
}

/// Everything acknowledged is there; a writer may be one round ahead of what it could still say; both writes of a commit are there or neither.
fn check(dir: &Path, acknowledged: &BTreeMap<u32, u32>) {
    let store = open(dir);
    let snapshot = store.snapshot();
    for (writer, round) in acknowledged {
        let one = data(&snapshot, &format!("w{writer}")).expect("an acknowledged write is there");
        let other = data(&snapshot, &format!("v{writer}")).expect("an acknowledged write is there");
        assert_eq!(one, other, "a commit is never half applied");
        let found: u32 = one.split_once(':').unwrap().0.parse().unwrap();
        assert!(found >= *round, "writer {writer}: {found} is older than the acknowledged {round}");
    }
}

#[test]
fn kill_9_in_a_write_storm_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut newest = 0;
    for _ in 0..3 {
        let mut child = child(&store).spawn().unwrap();
        let (acknowledged, refusals) = listen(&mut child, STORM);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((acknowledged.len(), refusals), (8, Vec::new()));
        check(&store, &acknowledged);
        let revision = open(&store).snapshot().revision.0;
        assert!(revision > newest, "the revision never goes back");
        newest = revision;
    }
}

/// The journal that was written last.
fn journal(dir: &Path) -> PathBuf {
    let mut journals: Vec<_> = std::fs::read_dir(dir.join("engine"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .collect();
    journals.sort();
    journals.pop().expect("the engine keeps a journal")
}

#[test]
fn a_torn_last_write_is_dropped_and_the_rest_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    {
        let store = open(&path);
        runtime.block_on(store.commit(vec![put("kept", "whole")])).unwrap();
        // As after kill -9: nothing is tidied up.
        std::mem::forget(store);
    }
    // What a crash in the middle of the next flush leaves: the beginning of a record, then nothing.
    let copy = dir.path().join("copy");
    copy_tree(&path, &copy);
    let journal = journal(&copy);
    let bytes = std::fs::read(&journal).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut torn = bytes[..end].to_vec();
    torn.extend_from_slice(&bytes[..end / 2]);
    std::fs::write(&journal, torn).unwrap();
    assert_eq!(data(&open(&copy).snapshot(), "kept").as_deref(), Some("whole"));
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_tree(&path, &target) } else { std::fs::copy(&path, &target).map(drop).unwrap() }
    }
}

#[test]
fn a_full_disk_refuses_writes_keeps_what_was_acknowledged_and_takes_deletions() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED a_full_disk_refuses_writes_keeps_what_was_acknowledged_and_takes_deletions: mounting a small disk needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    // The child has the small disk in a mount namespace of its own, which outlives nothing.
    let mount = disk.clone();
    let mut command = child(&disk.join("store"));
    // SAFETY: only system calls between fork and exec, on memory allocated before.
    unsafe {
        command.pre_exec(move || {
            use rustix::mount::{MountFlags, MountPropagationFlags, mount_change};
            rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            rustix::mount::mount("tmpfs", &mount, "tmpfs", MountFlags::empty(), Some(c"size=48m"))?;
            Ok(())
        });
    }
    let mut child = command.env(GROWING, "1").spawn().unwrap();
    let (acknowledged, refusals) = listen(&mut child, usize::MAX);
    assert!(child.wait().unwrap().success(), "the child found everything that was acknowledged");
    assert!(!acknowledged.is_empty(), "the disk took some rounds");
    assert_eq!(refusals.len(), 8, "every writer was told");
}

#[tokio::test]
async fn near_the_end_of_the_disk_only_deletions_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = open(dir.path());
        store.commit(vec![put("a", "1")]).await.unwrap();
    }
    // A reserve larger than any disk stands for a disk that is nearly full.
    let store = Embedded::open(dir.path(), Options { reserve_bytes: u64::MAX, ..Options::default() }).unwrap();
    let refused = store.commit(vec![put("b", "1")]).await.unwrap_err();
    assert!(matches!(refused, CommitError::Full { .. }), "{refused}");
    let key = Key::new(&collection(), "default", "a");
    store.commit(vec![Write::Delete { key: key.clone(), expect: Expect::Any }]).await.unwrap();
    assert!(store.snapshot().get(&key).is_none());
}
