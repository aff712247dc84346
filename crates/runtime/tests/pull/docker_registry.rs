//! The registry that others run, with images that another tool pushed.

use std::collections::BTreeMap;
use std::path::Path;

use knarr_runtime::{Credentials, Images, Registries, Registry};
use knarr_testbed::registry::{DockerRegistry, WITH_PASSWORD};

/// Runs `test` where port 5000 is free, on a thread with a runtime.
fn alone(test: impl AsyncFnOnce(&Path) + Send + 'static) {
    knarr_testbed::image::image("busybox").expect("the test kit makes the image");
    knarr_testbed::netns::run(move || {
        let dir = tempfile::tempdir().unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test(dir.path()));
    })
    .expect("a network namespace can be made");
}

fn right() -> Credentials {
    Credentials::Basic { username: "u".into(), password: "right".into() }
}

#[test]
fn every_form_that_skopeo_pushes_is_pulled_and_runs_from_the_same_files() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("docker-registry");
    knarr_testbed::require_program!("skopeo");
    alone(async |dir| {
        let registry = DockerRegistry::start("");
        let images = Images::open(&dir.join("images"), Registries::default()).unwrap();
        for (name, arguments) in [
            ("docker:1", &["--format", "v2s2"] as &[&str]),
            ("oci:1", &["--format", "oci"]),
            ("zstd:1", &["--format", "oci", "--dest-compress-format", "zstd"]),
        ] {
            registry.push(name, arguments);
            let image = images.pull(&format!("127.0.0.1:5000/{name}"), &[], |_| {}).await.unwrap();
            let rootfs = images.mount(&image.id, name.split(':').next().unwrap()).unwrap();
            assert!(rootfs.path.join("bin/sh").symlink_metadata().is_ok(), "{name}");
            images.unmount(name.split(':').next().unwrap()).unwrap();
        }
    });
}

#[test]
fn a_registry_with_passwords_takes_the_right_one() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("docker-registry");
    knarr_testbed::require_program!("skopeo");
    alone(async |dir| {
        let registry = DockerRegistry::start(WITH_PASSWORD);
        registry.push("app:1", &["--dest-creds", "u:right"]);
        let images = Images::open(&dir.join("images"), Registries::default()).unwrap();
        let denied = images.pull("127.0.0.1:5000/app:1", &[], |_| {}).await.unwrap_err();
        assert!(denied.is_denied() && denied.to_string().contains("wants a user name"), "{denied}");
        let wrong = Credentials::Basic { username: "u".into(), password: "wrong".into() };
        let denied = images.pull("127.0.0.1:5000/app:1", &[wrong], |_| {}).await.unwrap_err();
        assert!(denied.is_denied(), "{denied}");
        images.pull("127.0.0.1:5000/app:1", &[right()], |_| {}).await.unwrap();
    });
}

#[test]
fn a_certificate_is_trusted_if_its_authority_is_named() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("docker-registry");
    knarr_testbed::require_program!("skopeo");
    alone(async |dir| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = authority.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(authority, key);
        let own = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
        let at = |name: &str| dir.join(name);
        std::fs::write(at("ca.pem"), ca.pem()).unwrap();
        std::fs::write(at("crt.pem"), certificate.pem()).unwrap();
        std::fs::write(at("key.pem"), own.serialize_pem()).unwrap();
        let tls = format!("  tls: {{certificate: {}, key: {}}}\n", at("crt.pem").display(), at("key.pem").display());
        let registry = DockerRegistry::start(&tls);
        registry.push("app:1", &[]);
        let images =
            |name: &str, hosts: BTreeMap<String, Registry>| Images::open(&dir.join(name), Registries { auth_file: None, hosts }).unwrap();
        let unknown = images("without", BTreeMap::new()).pull("127.0.0.1:5000/app:1", &[], |_| {}).await.unwrap_err();
        assert!(unknown.to_string().contains("unknown authority") && unknown.to_string().contains("ca-file"), "{unknown}");
        let own = Registry { ca_file: Some(at("ca.pem")), ..Registry::default() };
        let with = images("with", [("127.0.0.1:5000".to_owned(), own)].into());
        with.pull("127.0.0.1:5000/app:1", &[], |_| {}).await.unwrap();
    });
}
