//! Images from a tar archive: Docker's `save` layout (`manifest.json`) or an OCI layout (`index.json`), plain or compressed.
//!
//! The archive is read once, from front to back, for it may be a pipe: every file in it becomes a blob as it passes, and only at
//! the end do the documents say which are wanted. The rest is dropped again.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use serde::Deserialize;

use super::Progress;
use super::compression;
use super::config::Image;
use super::content::at;
use super::digest::Digest;
use super::error::ImageError;
use super::oci::{self, Descriptor, Document, Index, Manifest};
use super::reference::Reference;
use super::store::{Lease, Store};
use super::tarball::{Kind, Tarball};

/// Files in one archive: each image has one per layer and a few documents.
const FILES_MAX: usize = 100_000;

/// Images in one archive.
const IMAGES_MAX: usize = 10_000;

/// Links followed to find a file: `docker save` before 25 made one.
const LINKS_MAX: usize = 8;

/// Indexes within indexes. Builders make two: the layout's own and that of the platforms.
const INDEX_DEPTH_MAX: usize = 4;

/// `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// The files of the archive, stored by their content.
#[derive(Default)]
struct Files {
    stored: HashMap<String, (Digest, u64)>,
    links: HashMap<String, String>,
}

/// An image that the archive holds.
struct Found {
    manifest: Digest,
    names: Vec<Reference>,
}

pub(crate) fn import(store: &Arc<Store>, archive: impl Read, progress: &dyn Fn(Progress)) -> Result<Vec<Arc<Image>>, ImageError> {
    let lease = store.lease();
    let mut files = Files::default();
    let result = read_files(store, &lease, archive, &mut files, progress)
        .and_then(|()| images(store, &lease, &files))
        .and_then(|found| found.into_iter().map(|found| adopt(store, &lease, found, progress)).collect());
    drop(lease);
    let stored: Vec<Digest> = files.stored.into_values().map(|(digest, _)| digest).collect();
    store.drop_unreachable(&stored)?;
    result
}

fn read_files(store: &Store, lease: &Lease, archive: impl Read, files: &mut Files, progress: &dyn Fn(Progress)) -> Result<(), ImageError> {
    let failed = |source| ImageError::Archive { source };
    let plain = compression::decompress(archive).map_err(failed)?;
    let mut tarball = Tarball::new(plain);
    while let Some(member) = tarball.next().map_err(failed)? {
        let path = normal(&String::from_utf8_lossy(&member.path));
        match member.kind {
            Kind::File => {
                // Its digest is not known yet, so progress goes by the name in the archive.
                let mut report = |done| progress(Progress::Blob { digest: path.clone(), done, total: member.size });
                let stored = store.put(lease, &mut tarball, None, &mut report)?;
                files.stored.insert(path, stored);
            }
            Kind::Symlink => {
                let target = String::from_utf8_lossy(&member.link).into_owned();
                let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                files.links.insert(path.clone(), normal(&format!("{dir}/{target}")));
            }
            Kind::Hardlink => {
                files.links.insert(path, normal(&String::from_utf8_lossy(&member.link)));
            }
            Kind::Directory | Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {}
        }
        if files.stored.len() + files.links.len() > FILES_MAX {
            return Err(ImageError::TooLarge {
                what: "number of files in the archive".to_owned(),
                bytes: FILES_MAX as u64 + 1,
                max: FILES_MAX as u64,
            });
        }
    }
    Ok(())
}

/// The images that the documents of the archive name.
fn images(store: &Store, lease: &Lease, files: &Files) -> Result<Vec<Found>, ImageError> {
    let mut found = Vec::new();
    if let Some((index, _)) = files.get("index.json") {
        let index: Index = oci::parse(&store.content.document(index)?, || "index.json".to_owned())?;
        for descriptor in index.manifests.iter().take(IMAGES_MAX) {
            if let Some(manifest) = manifest_of(store, descriptor)? {
                found.push(Found { manifest, names: names_of(descriptor)? });
            }
        }
    }
    if let Some((saved, _)) = files.get("manifest.json") {
        let saved: Vec<SavedImage> = oci::parse(&store.content.document(saved)?, || "manifest.json".to_owned())?;
        for image in saved.iter().take(IMAGES_MAX) {
            let names = image.repo_tags.iter().flatten().map(|name| Reference::parse(name)).collect::<Result<Vec<_>, _>>()?;
            let config = files.need(&image.config)?;
            // Docker 25 and newer write both forms: then the manifest is the registry's own, and keeps its digest.
            match found.iter_mut().find(|known| config_of(store, &known.manifest).is_some_and(|digest| digest == config.0)) {
                Some(known) => known.names.extend(names),
                None => found.push(Found { manifest: make_manifest(store, lease, files, image, config)?, names }),
            }
        }
    }
    if found.is_empty() {
        let (architecture, _) = oci::machine();
        return Err(ImageError::Content {
            what: "image archive".to_owned(),
            reason: format!("it holds no image for linux/{architecture} (looked for manifest.json and index.json)"),
        });
    }
    Ok(found)
}

/// The image manifest that a descriptor leads to, if it is for this machine and in the archive.
fn manifest_of(store: &Store, descriptor: &Descriptor) -> Result<Option<Digest>, ImageError> {
    let mut digest = descriptor.digest.clone();
    for _ in 0..INDEX_DEPTH_MAX {
        if !store.content.contains(&digest) {
            return Ok(None);
        }
        match oci::document(&store.content.document(&digest)?, &digest)? {
            Document::Manifest(_) => return Ok(Some(digest)),
            Document::Index(index) => match index.for_this_machine() {
                Some(chosen) => digest = chosen.digest.clone(),
                None => return Ok(None),
            },
        }
    }
    Err(oci::content(|| format!("index {}", descriptor.digest), "has indexes nested more than 4 deep"))
}

/// A full name, or the reference name where it is one: alone, `latest` or `1.0` is only a tag and names nothing.
fn names_of(descriptor: &Descriptor) -> Result<Vec<Reference>, ImageError> {
    if let Some(name) = descriptor.annotations.get(oci::ANNOTATION_IMAGE_NAME) {
        return Ok(vec![Reference::parse(name)?]);
    }
    match descriptor.annotations.get(oci::ANNOTATION_REF_NAME) {
        Some(name) if name.contains(['/', ':']) => Ok(vec![Reference::parse(name)?]),
        _ => Ok(Vec::new()),
    }
}

fn config_of(store: &Store, manifest: &Digest) -> Option<Digest> {
    match oci::document(&store.content.document(manifest).ok()?, manifest).ok()? {
        Document::Manifest(manifest) => Some(manifest.config.digest),
        Document::Index(_) => None,
    }
}

/// `docker save` before 25 writes no manifest, so one is made of what it wrote.
fn make_manifest(
    store: &Store,
    lease: &Lease,
    files: &Files,
    image: &SavedImage,
    (config, config_size): &(Digest, u64),
) -> Result<Digest, ImageError> {
    let descriptor = |media_type: String, digest: &Digest, size: u64| Descriptor {
        media_type,
        digest: digest.clone(),
        size,
        annotations: Default::default(),
        platform: None,
    };
    let mut layers = Vec::with_capacity(image.layers.len());
    for path in &image.layers {
        let (digest, size) = files.need(path)?;
        let blob = store.content.open_blob(digest)?;
        let compression = compression::of_file(blob).map_err(at("read blob", &store.content.path(digest)))?;
        layers.push(descriptor(format!("{}{}", oci::OCI_LAYER, compression.suffix()), digest, *size));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: oci::OCI_MANIFEST.to_owned(),
        config: descriptor(oci::OCI_CONFIG.to_owned(), config, *config_size),
        layers,
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|source| ImageError::Archive { source: source.into() })?;
    Ok(store.put(lease, &mut bytes.as_slice(), None, &mut |_| {})?.0)
}

fn adopt(store: &Arc<Store>, lease: &Lease, found: Found, progress: &dyn Fn(Progress)) -> Result<Arc<Image>, ImageError> {
    let record = store.read(&found.manifest)?;
    store.unpack(lease, &record, &|layer| progress(Progress::Unpacked { digest: layer.blob.to_string() }))?;
    let repo_digests: Vec<String> = found.names.iter().map(|name| name.with_digest(&found.manifest)).collect();
    store.add(record, &found.names, &repo_digests)
}

impl Files {
    fn get(&self, path: &str) -> Option<&(Digest, u64)> {
        let mut path = normal(path);
        for _ in 0..LINKS_MAX {
            if let Some(stored) = self.stored.get(&path) {
                return Some(stored);
            }
            path = self.links.get(&path)?.clone();
        }
        None
    }

    fn need(&self, path: &str) -> Result<&(Digest, u64), ImageError> {
        self.get(path).ok_or_else(|| ImageError::Content { what: "image archive".to_owned(), reason: format!("{path:?} is missing") })
    }
}

/// A path of the archive without `.` and `..`. It is only ever compared with others of its kind.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
