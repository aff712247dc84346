//! What an image says of itself: the values of its config that a container starts from.

use std::collections::BTreeMap;

/// An image that is here, whole and unpacked.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Digest of its config (`sha256:...`): what CRI calls the image id.
    pub id: String,
    /// Full names with tags, sorted.
    pub names: Vec<String>,
    /// Full names with digests (`docker.io/library/nginx@sha256:...`), sorted.
    pub repo_digests: Vec<String>,
    /// Bytes of manifest, config and layers as they are stored.
    pub size_bytes: u64,
    pub pinned: bool,
    pub config: ImageConfig,
}

/// The defaults that an image gives its containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    /// As the image says it: "", "1000", "nginx:adm".
    pub user: String,
    /// Signal number; 0 where the image names none.
    pub stop_signal: i32,
    /// As `80/tcp`.
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

impl ImageConfig {
    /// Program and arguments by the rule of Kubernetes: a command replaces the entry point and the image's arguments,
    /// arguments alone replace the image's.
    pub fn argv(&self, command: &[String], args: &[String]) -> Vec<String> {
        let (program, arguments): (&[String], &[String]) = match (command, args) {
            ([], []) => (&self.entrypoint, &self.cmd),
            ([], args) => (&self.entrypoint, args),
            (command, args) => (command, args),
        };
        program.iter().chain(arguments).cloned().collect()
    }
}
