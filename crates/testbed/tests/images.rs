//! The images that the kit makes are what other tools call an image.

use std::process::Command;

use knarr_testbed::image::{self, Format};

/// What skopeo, which shares no code with us, reads out of an archive.
fn inspect(archive: &str) -> serde_json::Value {
    let output = Command::new("skopeo").args(["inspect", "--config", archive]).output().expect("skopeo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("skopeo prints JSON")
}

#[test]
fn both_forms_are_the_same_image() {
    knarr_testbed::require_program!("skopeo");
    knarr_testbed::require_program!("apt-get");
    let docker = image::image("busybox").unwrap();
    let oci = image::image_as("busybox", Format::Oci).unwrap();
    let docker = inspect(&format!("docker-archive:{}:busybox:1", docker.display()));
    let oci = inspect(&format!("oci-archive:{}:busybox:1", oci.display()));
    assert_eq!(docker, oci);
    assert_eq!(docker["config"]["Cmd"], serde_json::json!(["sh"]));
}
