//! What an idle cluster takes.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{Bench, Budget, Figure, Outcome, cluster::Cluster, process::Memory};

/// After the start, before anything is read.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(60);

pub(crate) fn measure(bench: &Bench) -> Outcome<Vec<Figure>> {
    let mut cluster = Cluster::place(bench)?;
    cluster.up()?;
    sleep(SETTLE);
    let cpu = || cluster.processes().into_iter().map(|process| process.cpu()).sum::<Outcome<Duration>>();
    let (began, before) = (Instant::now(), cpu()?);
    sleep(WATCHED);
    let (watched, spent) = (began.elapsed(), cpu()? - before);
    let memory = cluster.processes().into_iter().map(|process| process.memory()).sum::<Outcome<Memory>>()?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    Ok(vec![
        Figure::new("idle memory, all processes, RSS", Budget::AtMost(40.0), megabytes(memory.resident), "MB")
            .note(format!("{:.1} MB of it anonymous, the rest pages of files", megabytes(memory.anonymous))),
        Figure::new("idle memory, all processes, PSS", Budget::None, megabytes(memory.proportional), "MB"),
        Figure::new("idle CPU over a minute", Budget::AtMost(0.2), spent.as_secs_f64() / watched.as_secs_f64() * 100.0, "% of a core"),
    ])
}
