//! Images to a tar archive: an OCI layout that also carries Docker's `manifest.json`, so that `docker load`, skopeo, podman and
//! containerd read it. The same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::json;

use super::digest::Digest;
use super::error::ImageError;
use super::oci;
use super::reference::Reference;
use super::store::{Lease, Record, Store};

pub(crate) fn export(store: &Store, lease: &Lease, references: &[&str], archive: impl Write) -> Result<(), ImageError> {
    let failed = |source| ImageError::Write { source };
    let mut manifests = Vec::new();
    let mut saved = Vec::new();
    let mut blobs: BTreeSet<Digest> = BTreeSet::new();
    for reference in references {
        let (entry, record) = store.find(reference).ok_or_else(|| ImageError::NotFound { reference: (*reference).to_owned() })?;
        let contents = [&record.manifest, &record.config].into_iter().chain(record.layers.iter().map(|layer| &layer.blob));
        for digest in contents {
            lease.add(digest);
            blobs.insert(digest.clone());
        }
        // By name: that name. By digest or id: every name that it has.
        let names: Vec<String> = match Reference::parse(reference) {
            Ok(name) if entry.names.contains(&name.to_string()) => vec![name.to_string()],
            _ => entry.names.iter().cloned().collect(),
        };
        manifests.extend(descriptors(&record, &names));
        saved.push(json!({
            "Config": blob_path(&record.config),
            "RepoTags": names,
            "Layers": record.layers.iter().map(|layer| blob_path(&layer.blob)).collect::<Vec<_>>(),
        }));
    }
    let mut tar = tar::Builder::new(archive);
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({ "schemaVersion": 2, "mediaType": oci::OCI_INDEX, "manifests": manifests });
    add(&mut tar, "index.json", index.to_string().as_bytes())?;
    add(&mut tar, "manifest.json", serde_json::Value::Array(saved).to_string().as_bytes())?;
    for digest in &blobs {
        let file = store.content.open_blob(digest)?;
        let size = store.content.size(digest).unwrap_or(0);
        tar.append_data(&mut header(size), blob_path(digest), file).map_err(failed)?;
    }
    tar.into_inner().and_then(|mut archive| archive.flush()).map_err(failed)
}

/// One descriptor for each name, or one without.
fn descriptors(record: &Record, names: &[String]) -> Vec<serde_json::Value> {
    let descriptor = |annotations: BTreeMap<String, String>| {
        let mut value = json!({ "mediaType": record.media_type, "digest": record.manifest.as_str(), "size": record.manifest_bytes });
        if !annotations.is_empty() {
            value["annotations"] = json!(annotations);
        }
        value
    };
    if names.is_empty() {
        return vec![descriptor(BTreeMap::new())];
    }
    let named = names.iter().map(|name| {
        let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        descriptor(BTreeMap::from([
            (oci::ANNOTATION_IMAGE_NAME.to_owned(), name.clone()),
            (oci::ANNOTATION_REF_NAME.to_owned(), tag.to_owned()),
        ]))
    });
    named.collect()
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn add(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
    tar.append_data(&mut header(bytes.len() as u64), name, bytes).map_err(|source| ImageError::Write { source })
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
