//! The documents of an image: index, manifest and config, in the OCI and Docker forms, as far as they are needed.
//! What is written to disk or sent is always the original bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::config::ImageConfig;
use super::digest::Digest;
use super::error::ImageError;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Older builders wrote the config under a type that says nothing.
const OCTETS: &str = "application/octet-stream";

/// Layers of one image. overlayfs takes 500 (fs/overlayfs/params.h, OVL_MAX_STACK); builders stop at 127.
pub(crate) const LAYERS_MAX: usize = 500;

/// Manifests in one index.
pub(crate) const INDEX_ENTRIES_MAX: usize = 1000;

/// Name of an image in an OCI layout: a tag or a full name (image-spec, annotations.md).
pub(crate) const ANNOTATION_REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Full name of an image in an archive written by containerd, Docker or Knarr.
pub(crate) const ANNOTATION_IMAGE_NAME: &str = "io.containerd.image.name";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    pub(crate) architecture: String,
    #[serde(default)]
    pub(crate) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) variant: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    #[serde(default)]
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

/// A manifest or an index, told apart by what is in it: a media type is optional in OCI documents.
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

pub(crate) fn document(bytes: &[u8], digest: &Digest) -> Result<Document, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        schema_version: u32,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let what = || format!("manifest {digest}");
    let shape: Shape = parse(bytes, what)?;
    match shape {
        // A document that is both would be read differently by different tools (CVE-2021-41190).
        Shape { manifests: Some(_), config: Some(_), .. } => Err(content(what, "is both an image and an index")),
        Shape { manifests: Some(_), .. } => {
            let index: Index = parse(bytes, what)?;
            if index.manifests.len() > INDEX_ENTRIES_MAX {
                return Err(content(what, "has more than 1,000 entries"));
            }
            Ok(Document::Index(index))
        }
        Shape { config: Some(_), .. } => {
            let manifest: Manifest = parse(bytes, what)?;
            if manifest.layers.len() > LAYERS_MAX {
                return Err(content(what, "has more than 500 layers"));
            }
            Ok(Document::Manifest(manifest))
        }
        Shape { schema_version: 1, .. } => {
            Err(content(what, "has schema version 1, which registries gave up in 2019; push the image again"))
        }
        Shape { .. } => Err(content(what, "is neither an image nor an index")),
    }
}

impl Document {
    /// What it says of itself; "" where it says nothing.
    pub(crate) fn media_type(&self) -> &str {
        match self {
            Document::Manifest(manifest) => &manifest.media_type,
            Document::Index(index) => &index.media_type,
        }
    }
}

/// A type of manifest or index. Registries that know none send `application/json` or the like.
pub(crate) fn is_known(media_type: &str) -> bool {
    [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX].contains(&media_type)
}

/// Refuses what is no image of a container, before any of it is fetched.
pub(crate) fn check_types(manifest: &Manifest) -> Result<(), ImageError> {
    let config = manifest.config.media_type.as_str();
    if ![OCI_CONFIG, DOCKER_CONFIG, OCTETS, ""].contains(&config) {
        return Err(content(
            || format!("config {}", manifest.config.digest),
            &format!("is of the type {config}: not a container image, so it cannot run"),
        ));
    }
    for layer in &manifest.layers {
        let what = || format!("layer {}", layer.digest);
        let kind = layer.media_type.as_str();
        let packing = kind.strip_prefix(OCI_LAYER).or_else(|| kind.strip_prefix(DOCKER_LAYER));
        match packing {
            Some("" | "+gzip" | "+zstd" | ".gzip" | ".zstd") => {}
            Some(packing) if packing.contains("encrypted") => {
                return Err(content(what, "is encrypted, which is not supported"));
            }
            _ if kind.contains("nondistributable") || kind.contains("foreign") => {
                return Err(content(what, "is not distributed by registries (a layer of Windows)"));
            }
            _ => return Err(content(what, &format!("is of the type {kind:?}, which is no layer that can be unpacked"))),
        }
    }
    Ok(())
}

/// Refuses the config of an image for another machine. One that names none is given the benefit of the doubt.
pub(crate) fn check_machine(bytes: &[u8], digest: &Digest) -> Result<(), ImageError> {
    let what = || format!("config {digest}");
    let platform: Platform = parse(bytes, what)?;
    let (architecture, _) = machine();
    let fits = |said: &str, own: &str| said.is_empty() || said == own;
    if fits(&platform.os, "linux") && fits(&platform.architecture, architecture) {
        return Ok(());
    }
    Err(content(what, &format!("is for {}/{}, and this node is linux/{architecture}", platform.os, platform.architecture)))
}

impl Index {
    /// For people who find theirs missing.
    pub(crate) fn platforms(&self) -> String {
        let mut all: Vec<String> =
            self.manifests.iter().filter_map(|it| it.platform.as_ref()).map(|it| format!("{}/{}", it.os, it.architecture)).collect();
        all.sort();
        all.dedup();
        all.retain(|it| it != "unknown/unknown");
        if all.is_empty() { "none that it names".to_owned() } else { all.join(", ") }
    }

    /// The image for this machine. An entry without a platform matches only if it is alone; attestations never do.
    pub(crate) fn for_this_machine(&self) -> Option<&Descriptor> {
        let (architecture, variants) = machine();
        let fits = |descriptor: &&Descriptor| {
            descriptor
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "linux" && p.architecture == architecture && variants.contains(&p.variant.as_str()))
        };
        // The best variant first: the order of `variants`.
        let rank = |descriptor: &&Descriptor| variants.iter().position(|v| descriptor.platform.as_ref().is_some_and(|p| p.variant == *v));
        match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            entries => entries.iter().filter(fits).min_by_key(rank),
        }
    }
}

/// Go's name of this machine's architecture, and the variants that it runs.
pub(crate) fn machine() -> (&'static str, &'static [&'static str]) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", &["", "v1"]),
        "aarch64" => ("arm64", &["v8", ""]),
        other => (other, &[""]),
    }
}

/// The config of an image: what a container starts from, and the layers that it must have.
pub(crate) struct Config {
    pub(crate) image: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    config: Option<ContainerDefaults>,
    rootfs: RootFsDocument,
}

#[derive(Deserialize)]
struct RootFsDocument {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// Every field may be absent or null.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerDefaults {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

pub(crate) fn config(bytes: &[u8], digest: &Digest) -> Result<Config, ImageError> {
    let what = || format!("config {digest}");
    let document: ConfigDocument = parse(bytes, what)?;
    let defaults = document.config.unwrap_or_default();
    if document.rootfs.diff_ids.len() > LAYERS_MAX {
        return Err(content(what, "has more than 500 layers"));
    }
    let env = defaults.env.unwrap_or_default().into_iter().map(|entry| match entry.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (entry, String::new()),
    });
    let image = ImageConfig {
        entrypoint: defaults.entrypoint.unwrap_or_default(),
        cmd: defaults.cmd.unwrap_or_default(),
        env: env.collect(),
        working_dir: defaults.working_dir.unwrap_or_default(),
        user: defaults.user.unwrap_or_default(),
        stop_signal: defaults.stop_signal.as_deref().map_or(0, signal),
        exposed_ports: defaults.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: defaults.volumes.unwrap_or_default().into_keys().collect(),
        labels: defaults.labels.unwrap_or_default(),
    };
    Ok(Config { image, diff_ids: document.rootfs.diff_ids })
}

/// `15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`; 0 for what is not a signal, so that the caller's default holds.
fn signal(text: &str) -> i32 {
    const REAL_TIME_MIN: i32 = 34;
    const REAL_TIME_MAX: i32 = 64;
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return if (1..=REAL_TIME_MAX).contains(&number) { number } else { 0 };
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: i32, offset: &str| match offset {
        "" => base,
        offset => offset.parse::<i32>().map_or(0, |offset| base + offset),
    };
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let number = real_time(REAL_TIME_MIN, offset);
        return if (REAL_TIME_MIN..=REAL_TIME_MAX).contains(&number) { number } else { 0 };
    }
    if let Some(offset) = name.strip_prefix("RTMAX") {
        let number = real_time(REAL_TIME_MAX, offset);
        return if (REAL_TIME_MIN..=REAL_TIME_MAX).contains(&number) { number } else { 0 };
    }
    match name {
        "HUP" => libc::SIGHUP,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "ABRT" | "IOT" => libc::SIGABRT,
        "KILL" => libc::SIGKILL,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "PIPE" => libc::SIGPIPE,
        "ALRM" => libc::SIGALRM,
        "TERM" => libc::SIGTERM,
        "CHLD" | "CLD" => libc::SIGCHLD,
        "CONT" => libc::SIGCONT,
        "STOP" => libc::SIGSTOP,
        "TSTP" => libc::SIGTSTP,
        "WINCH" => libc::SIGWINCH,
        "PWR" => libc::SIGPWR,
        "SYS" => libc::SIGSYS,
        _ => 0,
    }
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::Content { what: what(), reason: error.to_string() })
}

pub(crate) fn content(what: impl Fn() -> String, reason: &str) -> ImageError {
    ImageError::Content { what: what(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_by_name_and_number() {
        for (text, number) in
            [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("SIGNOPE", 0), ("0", 0), ("RTMIN+99", 0)]
        {
            assert_eq!(signal(text), number, "{text}");
        }
    }

    #[test]
    fn config_fields_may_be_null() {
        let text = br#"{"architecture":"amd64","config":{"Cmd":null,"Env":["A=b=c","LONE"],"Labels":null,"ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = config(text, &Digest::of(text)).unwrap();
        assert_eq!(config.image.env, [("A".into(), "b=c".into()), ("LONE".into(), "".into())]);
        assert_eq!(config.image.exposed_ports, ["80/tcp"]);
        assert_eq!(config.image.argv(&[], &[]), Vec::<String>::new());
    }

    #[test]
    fn a_document_that_is_both_is_refused() {
        let text = br#"{"schemaVersion":2,"manifests":[],"config":{}}"#;
        assert!(document(text, &Digest::of(text)).is_err());
    }
}
