//! Images from a registry that asks for a password, for pods and for people.

use std::process::Output;

use knarr_testbed::registry::{DockerRegistry, WITH_PASSWORD};

use crate::harness::Knarr;

fn pod(name: &str, tag: u32, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {more}\n  containers:\n  - \
         {{name: main, image: '127.0.0.1:5000/app:{tag}', command: [sleep, '3600']}}\n"
    )
}

fn secret(knarr: &Knarr, name: &str, password: &str) {
    let text = knarr.must_kubectl(&[
        "create",
        "secret",
        "docker-registry",
        name,
        "--docker-server=127.0.0.1:5000",
        "--docker-username=u",
        &format!("--docker-password={password}"),
        "--dry-run=client",
        "-o",
        "yaml",
    ]);
    apply(knarr, name, &text);
}

fn apply(knarr: &Knarr, name: &str, text: &str) {
    let file = knarr.write(&format!("{name}.yaml"), text);
    knarr.must_kubectl(&["apply", "-f", file.to_str().unwrap()]);
}

fn waiting(knarr: &Knarr, pod: &str, field: &str) -> String {
    knarr.must_kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{.status.containerStatuses[0].state.waiting.{field}}}")])
}

fn with_a_registry(test: fn(Knarr)) {
    knarr_testbed::image::image("busybox").expect("the test kit makes the image");
    knarr_testbed::netns::run(move || {
        let registry = DockerRegistry::start(WITH_PASSWORD);
        for tag in ["app:1", "app:2", "app:3"] {
            registry.push(tag, &["--dest-creds", "u:right"]);
        }
        let mut knarr = Knarr::new();
        knarr.up();
        test(knarr);
    })
    .expect("a network namespace can be made");
}

#[test]
fn a_pod_pulls_with_its_secret_and_recovers_when_a_wrong_one_is_mended() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("kubectl");
    knarr_testbed::require_program!("docker-registry");
    knarr_testbed::require_program!("skopeo");
    with_a_registry(|knarr| {
        secret(&knarr, "wrong", "nonsense");
        secret(&knarr, "right", "right");
        apply(&knarr, "bad", &pod("bad", 2, "imagePullSecrets: [{name: wrong}]"));
        apply(&knarr, "good", &pod("good", 1, "imagePullSecrets: [{name: right}]"));
        apply(&knarr, "none", &pod("none", 3, "imagePullSecrets: [{name: nosuch}]"));
        knarr.must_kubectl(&["wait", "pod/good", "--for=condition=Ready", "--timeout=60s"]);
        let events =
            knarr.must_kubectl(&["get", "events", "--field-selector=involvedObject.name=good", "-o", "jsonpath={.items[*].message}"]);
        assert!(
            events.contains("Pulling image") && events.contains("Successfully pulled image") && events.contains("including waiting"),
            "{events}"
        );

        knarr.eventually("the pull is not allowed", |knarr| {
            matches!(waiting(knarr, "bad", "reason").as_str(), "ErrImagePull" | "ImagePullBackOff")
        });
        let message = waiting(&knarr, "bad", "message");
        assert!(message.contains("the credentials came from the Secret wrong") && !message.contains("nonsense"), "{message}");
        knarr.eventually("the back-off is shown", |knarr| waiting(knarr, "bad", "reason") == "ImagePullBackOff");
        secret(&knarr, "wrong", "right");
        knarr.must_kubectl(&["wait", "pod/bad", "--for=condition=Ready", "--timeout=60s"]);

        let events =
            knarr.must_kubectl(&["get", "events", "--field-selector=involvedObject.name=none", "-o", "jsonpath={.items[*].reason}"]);
        assert!(events.contains("FailedToRetrieveImagePullSecret"), "{events}");

        // A service account's Secrets are its pods'.
        knarr.must_kubectl(&["patch", "serviceaccount", "default", "-p", r#"{"imagePullSecrets":[{"name":"right"}]}"#]);
        apply(&knarr, "account", &pod("account", 3, "restartPolicy: Never"));
        knarr.must_kubectl(&["wait", "pod/account", "--for=condition=Ready", "--timeout=60s"]);
    });
}

#[test]
fn people_pull_list_export_and_remove_images() {
    knarr_testbed::require_root!();
    knarr_testbed::require_program!("docker-registry");
    knarr_testbed::require_program!("skopeo");
    with_a_registry(|knarr| {
        let try_run = |arguments: &[&str]| -> Output { knarr.command(arguments).output().unwrap() };
        let refused = |arguments: &[&str], code: i32, hint: &str| {
            let output = try_run(arguments);
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
            assert!(message.contains(hint), "{arguments:?}: {message}");
        };
        let name = "127.0.0.1:5000/app:1";
        refused(&["image", "pull", name], 1, "give other credentials with --auth-file");
        refused(&["image", "pull", "Not/A:Name:"], 2, "image reference");
        refused(&["image", "remove", "nosuch"], 1, "`knarr image list` shows them");
        let auth = knarr.write("auth.json", r#"{"auths":{"127.0.0.1:5000":{"username":"u","password":"right"}}}"#);
        let auth = auth.to_str().unwrap();
        let pulled = knarr.run(&["image", "pull", name, "--auth-file", auth]);
        assert!(pulled.starts_with(&format!("pulled {name} (sha256:")), "{pulled}");
        refused(&["image", "pull", "127.0.0.1:5000/nosuch:1", "--auth-file", auth], 1, "has no such image");
        // What stands in the data directory is for every pull.
        std::fs::copy(auth, knarr.data_dir().join("registry-auth.json")).unwrap();
        knarr.run(&["image", "pull", "127.0.0.1:5000/app:2"]);
        assert!(knarr.run(&["image", "list"]).contains("127.0.0.1:5000/app:2"));

        let archive = knarr.data_dir().join("out.tar");
        let archive = archive.to_str().unwrap();
        refused(&["image", "export", "nosuch", archive], 1, "there is no image \"nosuch\"");
        assert!(!std::path::Path::new(archive).exists());
        knarr.run(&["image", "export", name, archive]);
        assert!(knarr.run(&["image", "import", archive]).contains(name));

        let file = knarr.write("user.yaml", &pod("user", 1, "restartPolicy: Never"));
        knarr.run(&["apply", "-f", file.to_str().unwrap()]);
        knarr.run(&["wait", "pod/user", "--for", "condition=Ready", "--timeout", "60s"]);
        // The other tag is only a name.
        knarr.run(&["image", "remove", "127.0.0.1:5000/app:2"]);
        refused(&["image", "remove", name], 1, "is used by");
        knarr.run(&["delete", "pod", "user"]);
        knarr.eventually("the container is gone", |_| try_run(&["image", "remove", name]).status.success());
        assert!(!knarr.run(&["image", "list"]).contains("app"));
    });
}
