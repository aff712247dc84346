//! A pull as people see it: a bar for each blob on its way. On what is no terminal nothing is drawn.

use std::{collections::HashMap, sync::Arc, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use super::pull::Line;

/// Characters of a digest that tell blobs apart.
const DIGEST_SHOWN: usize = 12;
/// Between two pictures of a bar that moves by itself.
const TICK: Duration = Duration::from_millis(120);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shown {
    all: MultiProgress,
    bars: Arc<Mutex<HashMap<String, ProgressBar>>>,
}

impl Shown {
    pub(crate) fn new() -> Self {
        Self { all: MultiProgress::new(), bars: Arc::default() }
    }

    pub(crate) fn show(&self, line: &Line) {
        match line {
            Line::Blob { digest, done, total } => {
                let mut bars = self.bars.lock();
                let bar = bars.entry(digest.clone()).or_insert_with(|| self.all.add(bar(digest)));
                bar.set_length(*total);
                bar.set_position(*done);
                if done == total {
                    bar.set_message("fetched");
                }
            }
            Line::Unpacked { digest } => {
                if let Some(bar) = self.bars.lock().get(digest) {
                    bar.finish_with_message("ready");
                }
            }
            Line::Waiting | Line::Started | Line::Pulled { .. } | Line::Failed { .. } => {}
        }
    }

    pub(crate) fn clear(&self) {
        for bar in self.bars.lock().values() {
            bar.finish_and_clear();
        }
    }
}

fn bar(digest: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{prefix} {bar:32} {bytes:>10} / {total_bytes:<10} {bytes_per_sec:>12} {msg}");
    bar.set_style(style.expect("the template is valid"));
    bar.set_prefix(digest.trim_start_matches("sha256:").chars().take(DIGEST_SHOWN).collect::<String>());
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_blob_has_one_bar_that_follows_it() {
        let shown = Shown::new();
        let blob = |done| Line::Blob { digest: "sha256:0123456789abcdef".into(), done, total: 10 };
        [blob(0), blob(4), blob(10), Line::Unpacked { digest: "sha256:0123456789abcdef".into() }].iter().for_each(|line| shown.show(line));
        let bars = shown.bars.lock();
        assert_eq!(bars.len(), 1);
        let bar = &bars["sha256:0123456789abcdef"];
        assert_eq!((bar.position(), bar.message(), bar.is_finished()), (10, "ready".into(), true));
    }
}
