//! Archives made here byte by byte, imported, mounted and exported.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::json;
use tar::{EntryType, Header};

use super::digest::Digest;
use super::*;

/// One member of a layer, as the tests write it.
enum M<'a> {
    Dir(&'a str, u32),
    File(&'a str, u32, &'a [u8]),
    Link(&'a str, &'a str),
    Symlink(&'a str, &'a str),
    Device(&'a str, u32, u32),
    Xattr(&'a str, &'a str, &'a [u8]),
}

/// Names are written as they are: the tar crate would refuse the hostile ones.
fn layer(members: &[M<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut put = |kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8], device: (u32, u32)| {
        let mut header = Header::new_gnu();
        if name.len() > 100 {
            let mut long = Header::new_gnu();
            long.set_entry_type(EntryType::GNULongName);
            long.set_size(name.len() as u64 + 1);
            long.set_cksum();
            tar.extend_from_slice(long.as_bytes());
            tar.extend_from_slice(name.as_bytes());
            tar.push(0);
            pad(&mut tar);
        } else {
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        }
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_device_major(device.0).unwrap();
        header.set_device_minor(device.1).unwrap();
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content);
        pad(&mut tar);
    };
    for member in members {
        match member {
            M::Dir(name, mode) => put(EntryType::Directory, name, "", *mode, b"", (0, 0)),
            M::File(name, mode, content) => put(EntryType::Regular, name, "", *mode, content, (0, 0)),
            M::Link(name, target) => put(EntryType::Link, name, target, 0o644, b"", (0, 0)),
            M::Symlink(name, target) => put(EntryType::Symlink, name, target, 0o777, b"", (0, 0)),
            M::Device(name, major, minor) => put(EntryType::Char, name, "", 0o666, b"", (*major, *minor)),
            M::Xattr(name, key, value) => {
                let record = [format!("SCHILY.xattr.{key}=").as_bytes(), value, b"\n"].concat();
                let mut length = record.len() + 3;
                while length != record.len() + length.to_string().len() + 1 {
                    length = record.len() + length.to_string().len() + 1;
                }
                put(EntryType::XHeader, "pax", "", 0o644, &[format!("{length} ").as_bytes(), &record].concat(), (0, 0));
                put(EntryType::Regular, name, "", 0o755, b"x", (0, 0));
            }
        }
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn pad(tar: &mut Vec<u8>) {
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<M<'_>> = files.iter().map(|(name, content)| M::File(name, 0o644, content)).collect();
    layer(&members)
}

fn config_json(layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/bin/app"], "Cmd": ["serve"], "Env": ["PATH=/bin"], "User": "app", "WorkingDir": "/srv", "StopSignal": "SIGQUIT" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    config.to_string().into_bytes()
}

/// As `docker save` before 25 writes it.
fn docker_archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config_json(layers);
    let config_path = format!("{}.json", Digest::of(&config).hex());
    let paths: Vec<String> = (0..layers.len()).map(|n| format!("{n:064}/layer.tar")).collect();
    let mut files: Vec<(String, Vec<u8>)> = paths.iter().cloned().zip(layers.iter().cloned()).collect();
    files.push((config_path.clone(), config));
    files.push(("manifest.json".into(), json!([{ "Config": config_path, "RepoTags": [name], "Layers": paths }]).to_string().into_bytes()));
    archive(&files)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn oci_archive(name: &str, layers: &[Vec<u8>], pack: fn(&[u8]) -> Vec<u8>, kind: &str) -> Vec<u8> {
    let mut blobs = Vec::new();
    let mut blob = |bytes: Vec<u8>, media_type: &str| {
        let descriptor = json!({ "mediaType": media_type, "digest": Digest::of(&bytes).to_string(), "size": bytes.len() });
        blobs.push((format!("blobs/sha256/{}", Digest::of(&bytes).hex()), bytes));
        descriptor
    };
    let config = blob(config_json(layers), oci::OCI_CONFIG);
    let layers: Vec<_> = layers.iter().map(|layer| blob(pack(layer), &format!("{}{kind}", oci::OCI_LAYER))).collect();
    let manifest = json!({ "schemaVersion": 2, "mediaType": oci::OCI_MANIFEST, "config": config, "layers": layers });
    let mut ours = blob(manifest.to_string().into_bytes(), oci::OCI_MANIFEST);
    ours["platform"] = json!({ "os": "linux", "architecture": oci::machine().0 });
    let mut foreign = ours.clone();
    foreign["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    foreign["digest"] = json!(Digest::of(b"absent").to_string());
    let platforms = json!({ "schemaVersion": 2, "mediaType": oci::OCI_INDEX, "manifests": [foreign, ours] });
    let mut named = blob(platforms.to_string().into_bytes(), oci::OCI_INDEX);
    named["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [named] });
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
    ];
    files.extend(blobs);
    archive(&files)
}

struct Bench {
    dir: tempfile::TempDir,
    images: Images,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let images = Images::open(&dir.path().join("images"), Registries::default()).unwrap();
    Bench { dir, images }
}

impl Bench {
    fn import(&self, archive: &[u8]) -> Arc<Image> {
        let found = self.images.import(archive, &|_| {}).unwrap();
        assert_eq!(found.len(), 1);
        Arc::clone(&found[0])
    }

    fn layers(&self) -> Vec<String> {
        names(&self.dir.path().join("images/layers"))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A failed assertion must not leave mounts.
        let _ = self.images.retain_mounts(&HashSet::new());
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED {test}: needs root");
    }
    root
}

const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\napp:x:7:8::/srv:/bin/sh\n";

fn base() -> Vec<u8> {
    layer(&[
        M::Dir("etc/", 0o755),
        M::File("etc/passwd", 0o644, PASSWD),
        M::Dir("srv", 0o1777),
        M::File("srv/old", 0o644, b"old"),
        M::Dir("data", 0o750),
        M::File("data/a", 0o644, b"a"),
        M::File("data/b", 0o644, b"b"),
        M::Dir("usr/lib", 0o755),
        M::Symlink("lib", "usr/lib"),
    ])
}

fn change() -> Vec<u8> {
    layer(&[
        M::File("bin/app", 0o4755, b"#!app"),
        M::Link("bin/other", "/bin/app"),
        M::Device("dev/null", 1, 3),
        M::File("srv/.wh.old", 0o644, b""),
        M::File("data/.wh..wh..opq", 0o644, b""),
        M::File("data/c", 0o644, b"c"),
        M::File("lib/libc.so", 0o755, b"libc"),
    ])
}

/// What a container sees of `base` and `change` together.
fn check_merged(root: &Path) {
    assert_eq!(names(root), ["bin", "data", "dev", "etc", "lib", "srv", "usr"]);
    assert_eq!(fs::read(root.join("etc/passwd")).unwrap(), PASSWD);
    assert!(names(&root.join("srv")).is_empty(), "the whiteout hides srv/old");
    assert_eq!(names(&root.join("data")), ["c"], "the opaque directory hides what was below");
    let app = fs::metadata(root.join("bin/app")).unwrap();
    assert_eq!((app.mode() & 0o7777, app.nlink(), app.mtime()), (0o4755, 2, 1_000_000_000));
    assert_eq!(app.ino(), fs::metadata(root.join("bin/other")).unwrap().ino());
    let null = fs::symlink_metadata(root.join("dev/null")).unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("usr/lib"), "the link of the layer below is followed, not replaced");
    assert_eq!(fs::read(root.join("usr/lib/libc.so")).unwrap(), b"libc");
    assert_eq!(fs::metadata(root.join("srv")).unwrap().mode() & 0o7777, 0o1777, "a directory that is only implied keeps its mode");
    assert_eq!(fs::metadata(root.join("data")).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn a_docker_archive_becomes_a_root_file_system() {
    if !is_root("a_docker_archive_becomes_a_root_file_system") {
        return;
    }
    let bench = bench();
    let image = bench.import(&docker_archive("shop/app:1", &[base(), change()]));
    assert_eq!(image.names, ["docker.io/shop/app:1"]);
    assert_eq!(image.config.argv(&[], &["x".into()]), ["/bin/app", "x"]);
    assert_eq!((image.config.stop_signal, image.config.user.as_str(), image.config.working_dir.as_str()), (3, "app", "/srv"));
    assert_eq!(bench.images.resolve("shop/app:1").unwrap().id, image.id);
    assert_eq!(bench.images.resolve(&image.id).unwrap().id, image.id);
    assert!(bench.images.resolve("shop/app:2").is_none());

    let root = bench.images.mount(&image.id, "c1").unwrap();
    check_merged(&root.path);
    assert_eq!(resolve_user(&root.path, &image.config.user).unwrap(), ResolvedUser { uid: 7, gid: 8, groups: vec![], home: "/srv".into() });
    fs::write(root.path.join("srv/mine"), vec![1; 10_000]).unwrap();
    assert_eq!(bench.images.mount(&image.id, "c1").unwrap(), root, "mounting again gives the same");
    assert!(bench.images.usage("c1").unwrap().bytes >= 10_000);

    let other = bench.images.mount("shop/app:1", "c2").unwrap();
    assert!(names(&other.path.join("srv")).is_empty(), "containers do not see each other's changes");
    bench.images.unmount("c1").unwrap();
    bench.images.unmount("c1").unwrap();
    assert!(!root.path.exists());
    check_merged(&other.path);
}

#[test]
fn mounts_survive_a_restart_and_keep_their_layers() {
    if !is_root("mounts_survive_a_restart_and_keep_their_layers") {
        return;
    }
    let bench = bench();
    let image = bench.import(&docker_archive("app", &[base(), change()]));
    let root = bench.images.mount(&image.id, "c1").unwrap();
    assert!(matches!(bench.images.remove("app"), Err(ImageError::InUse { .. })));

    // Even if the index were lost.
    let dir = bench.dir.path().join("images");
    fs::write(dir.join("index.json"), br#"{"version":1,"images":[]}"#).unwrap();
    let images = Images::open(&dir, Registries::default()).unwrap();
    assert!(images.resolve(&image.id).is_none());
    let collected = images.gc().unwrap();
    assert_eq!((collected.blobs, collected.layers), (4, 0), "manifest, config and two layer blobs go; what the container uses stays");
    assert_eq!(images.mount(&image.id, "c1").unwrap(), root);
    check_merged(&root.path);

    // As after a reboot: the mount is gone, the container's changes are not.
    fs::write(root.path.join("srv/mine"), b"kept").unwrap();
    images.store.snapshots.unmount("c1").unwrap();
    images.mount(&image.id, "c1").unwrap();
    assert_eq!(fs::read(root.path.join("srv/mine")).unwrap(), b"kept");

    images.retain_mounts(&HashSet::new()).unwrap();
    assert_eq!(images.gc().unwrap().layers, 2);
    assert!(bench.layers().is_empty());
    assert!(names(&bench.dir.path().join("images/containers")).is_empty());
}

#[test]
fn without_overlayfs_the_copy_is_the_same() {
    if !is_root("without_overlayfs_the_copy_is_the_same") {
        return;
    }
    let bench = bench();
    let image = bench.import(&docker_archive("app", &[base(), change()]));
    let snapshots = &bench.images.store.snapshots;
    let chains = bench.images.store.find("app").unwrap().1.chains();
    let record = snapshot::Record { image: Digest::parse(&image.id).unwrap(), layers: chains, readonly: false, copied: true };
    snapshots.register("c1", &record).unwrap();
    let root = bench.images.mount(&image.id, "c1").unwrap();
    assert_eq!(root.upper, None);
    check_merged(&root.path);
    bench.images.unmount("c1").unwrap();
    assert!(!root.path.exists());
}

#[test]
fn many_layers_and_read_only_mounts() {
    if !is_root("many_layers_and_read_only_mounts") {
        return;
    }
    let bench = bench();
    let names: Vec<String> = (0..120).map(|n| format!("f{n:03}")).collect();
    let layers: Vec<Vec<u8>> = names.iter().map(|name| layer(&[M::File(name, 0o644, name.as_bytes())])).collect();
    let image = bench.import(&docker_archive("deep", &layers));
    let root = bench.images.mount_readonly(&image.id, "v1").unwrap();
    assert_eq!(super::tests::names(&root.path), names);
    assert_eq!(fs::write(root.path.join("new"), b"").unwrap_err().raw_os_error(), Some(libc::EROFS));
    let single = bench.import(&docker_archive("single", &[base()]));
    let root = bench.images.mount_readonly(&single.id, "v2").unwrap();
    assert_eq!(fs::read(root.path.join("data/a")).unwrap(), b"a");
}

#[test]
fn archives_in_every_packing_give_the_same_image() {
    if !is_root("archives_in_every_packing_give_the_same_image") {
        return;
    }
    let layers = [base(), change()];
    let docker = docker_archive("app:1", &layers);
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let bench = bench();
    let id = bench.import(&docker).id.clone();
    for (case, archive) in [
        ("docker gzip", gzip(&docker)),
        ("docker zstd", zstd(&docker)),
        ("oci plain", oci_archive("app:2", &layers, <[u8]>::to_vec, "")),
        ("oci gzip layers", oci_archive("app:3", &layers, gzip, "+gzip")),
        ("oci zstd layers", oci_archive("app:4", &layers, zstd, "+zstd")),
        ("oci mislabelled", oci_archive("app:5", &layers, gzip, "")),
    ] {
        assert_eq!(bench.import(&archive).id, id, "{case}");
    }
    let image = bench.images.resolve("app:4").unwrap();
    assert_eq!(image.names, ["app:1", "app:2", "app:3", "app:4", "app:5"].map(|name| format!("docker.io/library/{name}")));
    assert_eq!(bench.images.list().len(), 1);
    assert_eq!(bench.layers().len(), 2, "the layers are shared");
}

#[test]
fn what_is_exported_can_be_imported() {
    if !is_root("what_is_exported_can_be_imported") {
        return;
    }
    let (from, to) = (bench(), bench());
    let image = from.import(&oci_archive("app:1", &[base(), change()], gzip, "+gzip"));
    let mut first = Vec::new();
    from.images.export(&["app:1"], &mut first).unwrap();
    let mut second = Vec::new();
    from.images.export(&[&image.id], &mut second).unwrap();
    assert!(first == second, "an export is reproducible");
    assert_eq!(to.import(&first), image, "digests and names are kept");
    let mut nothing = Vec::new();
    assert!(from.images.export(&["nope"], &mut nothing).unwrap_err().is_not_found());
}

#[test]
fn names_move_pin_and_go() {
    if !is_root("names_move_pin_and_go") {
        return;
    }
    let bench = bench();
    let old = bench.import(&docker_archive("app", &[base()]));
    let new = bench.import(&docker_archive("app", &[base(), change()]));
    assert_ne!(old.id, new.id);
    assert_eq!(bench.images.resolve("app").unwrap().id, new.id);
    assert_eq!(bench.images.resolve(&old.id).unwrap().names, Vec::<String>::new(), "the old image has lost its name");
    bench.images.tag(&new.id, "app:2").unwrap();
    bench.images.pin("app:2", true).unwrap();
    assert!(matches!(bench.images.remove("app:2"), Err(ImageError::Pinned { .. })));
    bench.images.pin("app:2", false).unwrap();
    bench.images.remove("app:2").unwrap();
    assert!(bench.images.remove("app:2").unwrap_err().is_not_found());
    assert_eq!(bench.images.resolve("app").unwrap().id, new.id);

    let images = Images::open(&bench.dir.path().join("images"), Registries::default()).unwrap();
    assert_eq!(images.resolve("app").unwrap().names, ["docker.io/library/app:latest"], "names survive a restart");
    images.remove(&new.id).unwrap();
    images.remove(&old.id).unwrap();
    images.gc().unwrap();
    assert!(names(&bench.dir.path().join("images/blobs/sha256")).is_empty());
    assert!(bench.layers().is_empty());
}

#[test]
fn an_import_leaves_nothing_that_is_not_needed() {
    if !is_root("an_import_leaves_nothing_that_is_not_needed") {
        return;
    }
    let bench = bench();
    bench.import(&docker_archive("app", &[base()]));
    assert_eq!(names(&bench.dir.path().join("images/blobs/sha256")).len(), 3, "manifest, config, layer; not manifest.json");
    assert!(names(&bench.dir.path().join("images/tmp")).is_empty());
    let before = names(&bench.dir.path().join("images/blobs/sha256"));
    let mut cut = docker_archive("other", &[base(), change()]);
    cut.truncate(cut.len() / 2);
    assert!(bench.images.import(cut.as_slice(), &|_| {}).is_err());
    assert_eq!(names(&bench.dir.path().join("images/blobs/sha256")), before);
    assert!(names(&bench.dir.path().join("images/tmp")).is_empty());
}

#[test]
fn half_unpacked_layers_are_done_again() {
    if !is_root("half_unpacked_layers_are_done_again") {
        return;
    }
    let bench = bench();
    let image = bench.import(&docker_archive("app", &[base(), change()]));
    let images = bench.dir.path().join("images");
    // As a crash leaves it: one layer half made in tmp, none under its name.
    for layer in bench.layers() {
        fs::rename(images.join("layers").join(&layer), images.join("tmp").join(format!("layer-{layer}"))).unwrap();
    }
    let reopened = Images::open(&images, Registries::default()).unwrap();
    let root = reopened.mount(&image.id, "c1").unwrap();
    check_merged(&root.path);
}

#[test]
fn damaged_content_is_refused() {
    if !is_root("damaged_content_is_refused") {
        return;
    }
    let bench = bench();
    let good = docker_archive("app", &[base()]);
    let mut bad = good.clone();
    let at = bad.windows(3).position(|window| window == b"old").unwrap();
    bad[at + 512..][..3].copy_from_slice(b"odd");
    let error = bench.images.import(bad.as_slice(), &|_| {}).unwrap_err();
    assert!(matches!(error, ImageError::Digest { .. }), "{error}");
    assert!(bench.images.list().is_empty());
    assert!(bench.layers().is_empty());
}

#[test]
fn parallel_imports_share_their_layers() {
    if !is_root("parallel_imports_share_their_layers") {
        return;
    }
    let bench = bench();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let images = &bench.images;
            scope.spawn(move || {
                images.import(docker_archive(&format!("app:{n}"), &[base(), change()]).as_slice(), &|_| {}).unwrap();
                images.gc().unwrap();
                images.mount(&format!("app:{n}"), &format!("c{n}")).unwrap();
            });
        }
    });
    assert_eq!(bench.images.list()[0].names.len(), 8);
    assert_eq!(bench.layers().len(), 2);
}

#[test]
fn hostile_layers_stay_inside() {
    if !is_root("hostile_layers_stay_inside") {
        return;
    }
    // Each case tries to write `pwned` next to the layer, or to reach what is there.
    let refused: &[(&str, &[M<'_>])] = &[
        ("dot dot", &[M::File("../pwned", 0o644, b"x")]),
        ("dot dot within", &[M::File("a/../../pwned", 0o644, b"x")]),
        ("hard link out", &[M::Link("a", "../../index.json")]),
        ("hard link absolute", &[M::Link("a", "/etc/passwd")]),
        ("hard link through a link", &[M::Symlink("up", "../../.."), M::Link("a", "up/index.json")]),
        ("whiteout of the parent", &[M::File(".wh...", 0o644, b"")]),
        ("whiteout of nothing", &[M::File(".wh.", 0o644, b"")]),
        ("loop", &[M::Symlink("a", "b"), M::Symlink("b", "a"), M::File("a/x", 0o644, b"x")]),
        ("through a file", &[M::File("a", 0o644, b"x"), M::File("a/x", 0o644, b"x")]),
        ("the root as a file", &[M::File("./", 0o644, b"x"), M::Symlink("/", "/etc")]),
        ("a long path", &[M::File(&"a/".repeat(3000), 0o644, b"x")]),
    ];
    for (case, members) in refused {
        let bench = bench();
        let result = bench.images.import(docker_archive("bad", &[layer(members)]).as_slice(), &|_| {});
        assert!(matches!(result, Err(ImageError::Layer { .. })), "{case}: {result:?}");
        assert!(bench.layers().is_empty(), "{case}");
        assert!(bench.images.list().is_empty(), "{case}");
    }
    // These are fine inside a root, and must end up there.
    let contained: &[(&str, &[M<'_>], &str)] = &[
        ("absolute", &[M::File("/pwned", 0o644, b"x")], "pwned"),
        ("absolute link", &[M::Symlink("etc", "/"), M::File("etc/pwned", 0o644, b"x")], "pwned"),
        ("link above the root", &[M::Dir("d", 0o755), M::Symlink("d/up", "../../../.."), M::File("d/up/pwned", 0o644, b"x")], "pwned"),
        ("link replaced by its directory", &[M::Symlink("tmp", "/"), M::Dir("tmp", 0o755), M::File("tmp/pwned", 0o644, b"x")], "tmp/pwned"),
        ("file over a link", &[M::Symlink("pwned", "/etc/passwd"), M::File("pwned", 0o644, b"x")], "pwned"),
        ("link to itself", &[M::File("pwned", 0o644, b"x"), M::Link("pwned", "pwned")], "pwned"),
        ("directory over a file", &[M::File("a", 0o644, b""), M::Dir("a", 0o755), M::File("a/pwned", 0o644, b"x")], "a/pwned"),
        ("file over a directory", &[M::File("pwned/a/b", 0o644, b""), M::File("pwned", 0o644, b"x")], "pwned"),
    ];
    for (case, members, path) in contained {
        let bench = bench();
        bench.import(&docker_archive("odd", &[layer(members)]));
        let layer = bench.dir.path().join("images/layers").join(&bench.layers()[0]);
        let metadata = fs::symlink_metadata(layer.join(path)).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(metadata.is_file() && metadata.len() == 1, "{case}");
        assert_eq!(names(&bench.dir.path().join("images")), ["blobs", "containers", "index.json", "layers", "tmp"], "{case}");
    }
}

#[test]
fn layers_do_not_steer_overlayfs() {
    if !is_root("layers_do_not_steer_overlayfs") {
        return;
    }
    let bench = bench();
    // vfs_cap_data, revision 2: cap_net_raw effective and permitted, with a line end in it as the kernel never minds.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let image = bench.import(&docker_archive(
        "caps",
        &[layer(&[
            M::Xattr("ping", "security.capability", &capability),
            M::Xattr("redirect", "trusted.overlay.redirect", b"/etc"),
            M::Xattr("note", "user.note", b"a\nb"),
        ])],
    ));
    let root = bench.images.mount(&image.id, "c1").unwrap().path;
    let get = |file: &str, name: &str| {
        let mut value = [0u8; 64];
        rustix::fs::getxattr(root.join(file), name, &mut value).map(|length| value[..length].to_vec())
    };
    assert_eq!(get("ping", "security.capability").unwrap(), capability);
    assert_eq!(get("note", "user.note").unwrap(), b"a\nb");
    let layer = bench.dir.path().join("images/layers").join(&bench.layers()[0]);
    assert!(rustix::fs::getxattr(layer.join("redirect"), "trusted.overlay.redirect", &mut [0u8; 64]).is_err());
}

#[test]
fn long_names_are_whole() {
    if !is_root("long_names_are_whole") {
        return;
    }
    let bench = bench();
    let name = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let image = bench.import(&docker_archive("long", &[layer(&[M::File(&name, 0o644, b"long")])]));
    let root = bench.images.mount(&image.id, "c1").unwrap();
    assert_eq!(fs::read(root.path.join(name)).unwrap(), b"long");
}

#[test]
fn progress_is_reported() {
    if !is_root("progress_is_reported") {
        return;
    }
    let bench = bench();
    let seen = RefCell::new(Vec::new());
    bench.images.import(docker_archive("app", &[base(), change()]).as_slice(), &|progress| seen.borrow_mut().push(progress)).unwrap();
    let unpacked: Vec<String> = seen
        .into_inner()
        .into_iter()
        .filter_map(|progress| match progress {
            Progress::Started => None,
            Progress::Unpacked { digest } => Some(digest),
            Progress::Blob { done, total, .. } => {
                assert!(done <= total);
                None
            }
        })
        .collect();
    assert_eq!(unpacked, [Digest::of(&base()).to_string(), Digest::of(&change()).to_string()]);
}

#[test]
fn an_image_that_a_container_uses_keeps_its_last_name() {
    let bench = bench();
    let image = bench.import(&docker_archive("app", &[base()]));
    let name = image.names[0].clone();
    bench.images.tag(&name, "other:1").unwrap();
    let mount = super::snapshot::Record { image: Digest::parse(&image.id).unwrap(), layers: Vec::new(), readonly: false, copied: false };
    bench.images.store.snapshots.register("c1", &mount).unwrap();
    assert_eq!(bench.images.in_use().unwrap(), BTreeMap::from([(image.id.clone(), vec!["c1".to_owned()])]));
    bench.images.remove("other:1").unwrap();
    for reference in [&name, &image.id] {
        let refused = bench.images.remove(reference).unwrap_err().to_string();
        assert!(refused.contains("is used by c1"), "{refused}");
    }
    bench.images.unmount("c1").unwrap();
    bench.images.remove(&name).unwrap();
    assert!(bench.images.list().is_empty());
}

#[test]
fn ids_of_containers_cannot_name_other_places() {
    let bench = bench();
    for id in ["", ".", "..", "a/b", "../x", &"a".repeat(300)] {
        assert!(bench.images.unmount(id).is_err(), "{id:?}");
    }
}
