//! Frees the disk of images that nobody uses, when it runs full.
//!
//! As upstream's image manager (pkg/kubelet/images/image_gc_manager.go): from a high mark of use on, images go until use is below a low mark,
//! the longest unused first. Never one that a container is made from, never a pinned one, never one that came a moment ago: its pod
//! may be about to start. What no image reaches (layers of pulls that failed) goes each time.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use knarr_client::EventType;
use knarr_runtime::{Image, ImageError, Images};

use crate::image::chain;
use crate::node::Node;

/// Percent of the file system in use, upstream's defaults (imageGCHighThresholdPercent, imageGCLowThresholdPercent).
pub(crate) const HIGH_PERCENT: u64 = 85;
pub(crate) const LOW_PERCENT: u64 = 80;
/// An image this young is left alone (imageMinimumGCAge).
pub(crate) const AGE_MIN: Duration = Duration::from_secs(120);
/// Between two looks (upstream: ImageGCPeriod). Images do not grow by themselves.
const PERIOD: Duration = Duration::from_secs(300);

/// When images were first seen and last used, by id. Lost at a restart: then every image counts as new.
#[derive(Default)]
struct Ages {
    known: HashMap<String, Age>,
}

#[derive(Clone, Copy)]
struct Age {
    seen: Instant,
    used: Option<Instant>,
}

/// What may go, the first to go first.
fn plan(images: &[Arc<Image>], in_use: &BTreeMap<String, Vec<String>>, ages: &Ages, now: Instant) -> Vec<String> {
    let mut found: Vec<(Option<Instant>, Instant, &str)> = (images.iter())
        .filter(|image| !image.pinned && !in_use.contains_key(&image.id))
        .filter_map(|image| ages.known.get(&image.id).map(|age| (age.used, age.seen, image.id.as_str())))
        .filter(|(_, seen, _)| now.saturating_duration_since(*seen) >= AGE_MIN)
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, _, id)| id.to_owned()).collect()
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug)]
struct Disk {
    capacity: u64,
    available: u64,
}

impl Disk {
    fn look(path: &Path) -> std::io::Result<Disk> {
        let it = rustix::fs::statvfs(path)?;
        Ok(Disk { capacity: it.f_blocks * it.f_frsize, available: it.f_bavail * it.f_frsize })
    }

    fn used_percent(self) -> u64 {
        100 - (self.available.min(self.capacity) * 100).checked_div(self.capacity).unwrap_or(100)
    }

    /// Bytes to free until use is at the low mark.
    fn excess(self) -> u64 {
        (self.capacity / 100 * (100 - LOW_PERCENT)).saturating_sub(self.available)
    }
}

/// What one look did.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    removed: Vec<String>,
    /// Bytes that should have been freed and could not be.
    lacking: u64,
}

impl Ages {
    fn note(&mut self, images: &[Arc<Image>], in_use: &BTreeMap<String, Vec<String>>, now: Instant) {
        self.known.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let age = self.known.entry(image.id.clone()).or_insert(Age { seen: now, used: None });
            if in_use.contains_key(&image.id) {
                age.used = Some(now);
            }
        }
    }

    fn collect(&mut self, images: &Images, data_dir: &Path, now: Instant) -> Result<Outcome, ImageError> {
        let look = || {
            Disk::look(data_dir).map_err(|source| ImageError::Path { step: "look at the free space of", path: data_dir.to_owned(), source })
        };
        let in_use = images.in_use()?;
        let known = images.list();
        self.note(&known, &in_use, now);
        let garbage = images.gc()?;
        if garbage.blobs > 0 {
            tracing::info!(blobs = garbage.blobs, bytes = garbage.bytes, "removed what no image needs");
        }
        let mut outcome = Outcome::default();
        let mut disk = look()?;
        if disk.used_percent() < HIGH_PERCENT {
            return Ok(outcome);
        }
        for id in plan(&known, &in_use, self, now) {
            if disk.excess() == 0 {
                break;
            }
            match images.remove(&id) {
                Ok(()) => {}
                // A container was made from it since.
                Err(ImageError::InUse { .. } | ImageError::NotFound { .. } | ImageError::Pinned { .. }) => continue,
                Err(error) => return Err(error),
            }
            images.gc()?;
            disk = look()?;
            tracing::info!(image = id, used_percent = disk.used_percent(), "removed an image that nobody uses: the disk runs full");
            outcome.removed.push(id);
        }
        outcome.lacking = disk.excess();
        Ok(outcome)
    }
}

/// Looks now and then; ends only when dropped.
pub(crate) async fn keep(node: Arc<Node>) {
    let name = node.config.node_name.clone();
    let reference = ObjectReference { kind: Some("Node".into()), name: Some(name.clone()), uid: Some(name), ..ObjectReference::default() };
    let mut ages = Ages::default();
    loop {
        let (images, data_dir) = (node.runtime.images().clone(), node.config.data_dir.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let outcome = ages.collect(&images, &data_dir, Instant::now());
            (ages, outcome)
        });
        let outcome = match looked.await {
            Ok((kept, outcome)) => {
                ages = kept;
                outcome
            }
            Err(error) => {
                tracing::error!(%error, "the collection of images ended badly; it begins anew");
                ages = Ages::default();
                Ok(Outcome::default())
            }
        };
        let trouble = match outcome {
            Ok(Outcome { lacking: 0, .. }) => None,
            Ok(Outcome { lacking, .. }) => Some((
                "FreeDiskSpaceFailed",
                format!(
                    "Failed to garbage collect required amount of images: {lacking} more bytes should be free, and every image left is used, pinned or new."
                ),
            )),
            Err(error) => Some(("ImageGCFailed", chain(&error))),
        };
        if let Some((reason, message)) = trouble {
            node.recorder.record_ref(&reference, EventType::Warning, reason, &message);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, pinned: bool) -> Arc<Image> {
        let (names, repo_digests) = (vec![format!("docker.io/library/{id}:1")], Vec::new());
        Arc::new(Image { id: id.to_owned(), names, repo_digests, size_bytes: 1, pinned, config: Default::default() })
    }

    #[test]
    fn the_longest_unused_goes_first_and_what_is_used_pinned_or_new_stays() {
        let images = [
            image("used", false),
            image("pinned", true),
            image("new", false),
            image("late", false),
            image("early", false),
            image("never", false),
        ];
        let in_use = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), vec!["c".to_owned()])).collect::<BTreeMap<_, _>>();
        let start = Instant::now();
        let mut ages = Ages::default();
        let old = |images: &[Arc<Image>]| images.iter().filter(|it| it.id != "new").cloned().collect::<Vec<_>>();
        ages.note(&old(&images), &in_use(&["used", "early", "late"]), start);
        ages.note(&old(&images), &in_use(&["used", "late"]), start + Duration::from_secs(60));
        let now = start + Duration::from_secs(200);
        ages.note(&images, &in_use(&["used"]), now);
        assert_eq!(plan(&images, &in_use(&["used"]), &ages, now), ["never", "early", "late"]);
    }

    #[test]
    fn the_marks_are_percents_of_the_file_system() {
        let disk = |available| Disk { capacity: 1000, available };
        assert_eq!((disk(150).used_percent(), disk(150).excess()), (85, 50));
        assert_eq!((disk(200).used_percent(), disk(200).excess()), (80, 0));
        assert_eq!(Disk { capacity: 0, available: 0 }.used_percent(), 0);
    }

    /// A file system of 16 MB, all but full of seven images of 1 MB, packed and unpacked.
    fn full_disk(dir: &Path) -> Images {
        rustix::mount::mount("tmpfs", dir, "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=16m")).unwrap();
        let images = Images::open(&dir.join("images"), Default::default()).unwrap();
        for number in 0u8..7 {
            let noise: Vec<u8> =
                (0u32..1 << 20).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(u32::from(number)) >> 13) as u8).collect();
            let files = knarr_testbed::image::Tree::new().file("noise", 0o644, noise);
            let config = knarr_testbed::image::Config::default();
            let path = tempfile::NamedTempFile::new().unwrap();
            knarr_testbed::image::custom(path.path(), &format!("i{number}"), false, files, &config, knarr_testbed::image::Format::Docker)
                .unwrap();
            let made = images.import(std::fs::File::open(path.path()).unwrap(), &|_| {}).unwrap();
            images.tag(&made[0].id, &format!("kept:{number}")).unwrap();
        }
        images
    }

    #[test]
    fn a_full_disk_is_freed_of_what_nobody_uses_and_of_nothing_else() {
        knarr_testbed::require_root!();
        let dir = tempfile::tempdir().unwrap();
        let images = full_disk(dir.path());
        let (used, pinned) = (images.resolve("kept:0").unwrap(), images.resolve("kept:1").unwrap());
        images.pin("kept:1", true).unwrap();
        images.mount(&used.id, "c1").unwrap();
        let mut ages = Ages::default();
        let start = Instant::now();
        let young = ages.collect(&images, dir.path(), start).unwrap();
        let before = Disk::look(dir.path()).unwrap().used_percent();
        let later = ages.collect(&images, dir.path(), start + AGE_MIN).unwrap();
        let after = Disk::look(dir.path()).unwrap().used_percent();
        let left: Vec<String> = images.list().iter().map(|image| image.id.clone()).collect();
        images.unmount("c1").unwrap();
        rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(before >= HIGH_PERCENT, "{before}");
        assert!(young.removed.is_empty() && young.lacking > 0, "{young:?}");
        assert!(after <= LOW_PERCENT && later.lacking == 0, "{after} {later:?}");
        assert!(left.contains(&used.id) && left.contains(&pinned.id) && left.len() > 2, "no more than is needed: {left:?}");
    }
}
