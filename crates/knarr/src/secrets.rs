//! `knarr secrets`: what is sealed on disk with which key, turning keys over, and who had access. Asks the Knarr that runs; where none does, `status` reads
//! the store itself, also one that does not open for want of a key.

mod report;

use http::Method;
use hyper::body::Incoming;
use knarr_apiserver::encryption::{Encryption, Progress};
use knarr_store::{Embedded, SealCount, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    cli::{Place, SecretsCommand},
    client::get::aligned,
    orders, place,
    report::{Failure, chain},
};

/// What a turn-over tells, one JSON document a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Line {
    Sealed { done: usize, total: usize },
    Done { text: String },
    Failed { reason: String },
}

pub(crate) fn run(command: SecretsCommand, place: &Place) -> Result<(), Failure> {
    let running = place::holder(&place.data_dir)?.is_some();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        SecretsCommand::Report(asked) => report::run(&asked, &place.data_dir),
        SecretsCommand::Status if running => runtime.block_on(async {
            print!("{}", orders::collected(orders::send(place, Method::GET, "/secrets", orders::empty()).await?).await?);
            Ok(())
        }),
        SecretsCommand::Status => {
            let held = place::Held::take(&place.data_dir)?;
            let counts = Embedded::survey(&held.data_dir.join("store"))?;
            print!("{}", table(&counts));
            println!("Knarr does not run here; which key is the current one shows when it does");
            Ok(())
        }
        SecretsCommand::Rotate if running => runtime.block_on(async {
            print!("{}", follow(orders::send(place, Method::POST, "/secrets/rotate", orders::empty()).await?).await?);
            Ok(())
        }),
        SecretsCommand::Rotate => Err(Failure::Machine(format!(
            "no Knarr runs in {}; start it with `knarr up`, keys turn over while it serves",
            place.data_dir.display()
        ))),
    }
}

/// Of each resource how many objects are sealed with what.
fn table(counts: &[SealCount]) -> String {
    let mut lines = vec![["RESOURCE", "SEALED WITH", "OBJECTS", "CURRENT"].map(str::to_owned).to_vec()];
    lines.extend(counts.iter().map(|count| {
        let seal = count.seal.as_ref().map_or("not sealed".to_owned(), ToString::to_string);
        let current = if count.current { "yes" } else { "no" };
        vec![count.collection.to_string(), seal, count.objects.to_string(), current.to_owned()]
    }));
    aligned(&lines)
}

/// The answer to `status` of a running Knarr.
pub(crate) async fn status(encryption: &Encryption, store: &dyn Store) -> String {
    let counts = encryption.seals(store).await;
    let mut text = table(&counts);
    let whose = if encryption.is_own() { "the cluster's own key" } else { "by --encryption-provider-config" };
    text.push_str(&format!("keys in {} ({whose})\n", encryption.path().display()));
    if counts.iter().any(|count| !count.current) {
        text.push_str("some are sealed otherwise than new ones: `knarr secrets rotate` seals them anew\n");
    }
    text
}

/// Turns keys over and tells how it goes.
pub(crate) async fn rotate(encryption: &Encryption, store: &dyn Store, lines: mpsc::Sender<Line>) {
    let mut sealed = 0;
    // A caller who is slow to read misses some of the progress, and no more.
    let mut tell = |Progress { done, total }| {
        sealed = done;
        drop(lines.try_send(Line::Sealed { done, total }));
    };
    let last = match encryption.rotate(store, &mut tell).await {
        Ok(()) if encryption.is_own() => Line::Done {
            text: format!(
                "sealed {sealed} objects with a new key; the old one is gone from {}\nback that file up: without it the data cannot be read\n",
                encryption.path().display()
            ),
        },
        Ok(()) => Line::Done {
            text: format!(
                "sealed {sealed} objects as {} says; providers behind the first are no longer needed\n",
                encryption.path().display()
            ),
        },
        Err(error) => Line::Failed { reason: chain(&error) },
    };
    // Refused only where the caller is gone.
    let _ = lines.send(last).await;
}

async fn follow(body: Incoming) -> Result<String, Failure> {
    let bar = indicatif::ProgressBar::new(0);
    let told = orders::follow(body, |line| match line {
        Line::Sealed { done, total } => {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
            None
        }
        Line::Done { text } => Some(Ok(text)),
        Line::Failed { reason } => Some(Err(reason)),
    });
    let told = told.await;
    bar.finish_and_clear();
    told?.ok_or_else(|| Failure::Failed("Knarr ended before the turn-over did; start it again and repeat `knarr secrets rotate`".into()))
}
