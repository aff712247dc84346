//! Layers and a config as one archive.

use std::io::{self, Write};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::recipe::Config;

/// The two forms that images travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `docker save`: plain layers and `manifest.json`.
    Docker,
    /// OCI image layout: gzip'd layers and `index.json`.
    Oci,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Docker => "docker",
            Format::Oci => "oci",
        }
    }
}

pub(crate) fn write(
    file: &mut dyn Write,
    format: Format,
    name: &str,
    tags: &[String],
    layers: &[Vec<u8>],
    config: &Config,
) -> io::Result<()> {
    let tags: Vec<String> = if tags.is_empty() { vec![name.to_owned()] } else { tags.to_vec() };
    let config = config_json(config, layers).to_string().into_bytes();
    let mut tar = tar::Builder::new(file);
    match format {
        Format::Docker => {
            let config_path = format!("{}.json", hex(&config));
            let mut paths = Vec::new();
            for layer in layers {
                let path = format!("{}/layer.tar", hex(layer));
                add(&mut tar, &path, layer)?;
                paths.push(path);
            }
            add(&mut tar, &config_path, &config)?;
            let manifest = json!([{ "Config": config_path, "RepoTags": tags, "Layers": paths }]);
            add(&mut tar, "manifest.json", manifest.to_string().as_bytes())?;
        }
        Format::Oci => {
            add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            let mut blob = |bytes: &[u8], media_type: &str| -> io::Result<Value> {
                add(&mut tar, &format!("blobs/sha256/{}", hex(bytes)), bytes)?;
                Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len() }))
            };
            let mut descriptors = Vec::new();
            for layer in layers {
                descriptors.push(blob(&gzip(layer)?, "application/vnd.oci.image.layer.v1.tar+gzip")?);
            }
            let config = blob(&config, "application/vnd.oci.image.config.v1+json")?;
            let media_type = "application/vnd.oci.image.manifest.v1+json";
            let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors });
            let manifest = blob(manifest.to_string().as_bytes(), media_type)?;
            let named = tags.iter().map(|tag| {
                let mut named = manifest.clone();
                named["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
                named
            });
            let index = json!({ "schemaVersion": 2, "manifests": named.collect::<Vec<_>>() });
            add(&mut tar, "index.json", index.to_string().as_bytes())?;
        }
    }
    tar.into_inner()?.flush()
}

fn config_json(config: &Config, layers: &[Vec<u8>]) -> Value {
    let set = |names: &[String]| names.iter().map(|name| (name.clone(), json!({}))).collect::<serde_json::Map<_, _>>();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "created": "2026-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Env": config.env,
            "WorkingDir": config.working_dir,
            "User": config.user,
            "StopSignal": config.stop_signal,
            "ExposedPorts": set(&config.ports),
            "Volumes": set(&config.volumes),
            "Labels": config.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| format!("sha256:{}", hex(layer))).collect::<Vec<_>>() },
    })
}

fn add(tar: &mut tar::Builder<&mut dyn Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, name, bytes)
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
