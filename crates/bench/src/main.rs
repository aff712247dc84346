//! Measures the release binary as a user would use it: real processes, real containers, HTTPS from outside, in a network namespace and a data
//! directory of their own. `./x bench` builds and starts this.
//!
//! `knarr-bench --knarr BINARY --dir DIR [--write FILE] [NAME...]`: names choose what is measured; without names, everything. `--write` puts the
//! table between the markers of a Markdown file.

mod api;
mod client;
mod cluster;
mod figure;
mod idle;
mod junk;
mod load;
mod machine;
mod many;
mod pods;
mod process;
mod service;
mod start;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use figure::{Budget, Figure};

/// What everything here ends with; a failure is told to a person.
type Outcome<T> = Result<T, String>;

/// What measurements are told.
struct Bench {
    knarr: PathBuf,
    /// Data directories are made in here, on the file system that is meant.
    dir: PathBuf,
}

/// Name, how it is measured, how.
type Measurement = (&'static str, &'static str, fn(&Bench) -> Outcome<Vec<Figure>>);

const MEASUREMENTS: &[Measurement] = &[
    (
        "start",
        "process start to the line that says the Node is Ready; medians of 5 fresh data directories and of 5 later starts",
        start::measure,
    ),
    ("idle", "fresh cluster without pods, settled for 10 s, then a minute: memory and CPU of all its processes, from /proc", idle::measure),
    (
        "pods",
        "POST to the watch event that shows Ready, over HTTPS; memory: private memory of all processes with 100 pods less that without, each settled for 10 s, shared out",
        pods::measure,
    ),
    (
        "api",
        "32 HTTP/1.1 connections over TLS with a client certificate, each with one request under way, 10 s each; lists are not compressed",
        api::measure,
    ),
    (
        "many",
        "1,000 watches on connections of their own, PUT to the last watcher's event, median of 20; 10,000 objects listed page by page, median of 5",
        many::measure,
    ),
    (
        "junk",
        "a million requests over 32 connections that name nothing there is, with bodies that are no objects, each with words of its own: private memory before and after",
        junk::measure,
    ),
    (
        "service",
        "PUT of an EndpointSlice to the first connection that reaches the new endpoint, 1,000 Services beside it; median of 50",
        service::measure,
    ),
    ("size", "the stripped release binary, runtime, network and DNS included", size),
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (mut knarr, mut dir, mut write, mut names) = (None, None, None, Vec::new());
    while let Some(argument) = arguments.next() {
        let mut path = || arguments.next().map(PathBuf::from).ok_or(format!("{argument} needs a path"));
        match &*argument {
            "--knarr" => knarr = Some(path()?),
            "--dir" => dir = Some(path()?),
            "--write" => write = Some(path()?),
            name if MEASUREMENTS.iter().any(|(known, ..)| *known == name) => names.push(argument),
            _ => {
                let known: Vec<_> = MEASUREMENTS.iter().map(|(name, ..)| *name).collect();
                return Err(format!("there is no measurement {argument:?}; choose from {}", known.join(", ")));
            }
        }
    }
    let bench = Bench { knarr: knarr.ok_or("--knarr is missing")?, dir: dir.ok_or("--dir is missing")? };
    if !knarr_testbed::is_root() {
        return Err("containers need root: run it as root".to_owned());
    }
    std::fs::create_dir_all(&bench.dir).map_err(|error| format!("make {}: {error}", bench.dir.display()))?;
    // Before the namespace, from which its packages could not be fetched.
    knarr_testbed::image::image("busybox").map_err(|error| format!("make the image: {error}"))?;
    // No other thread runs yet, so all that follow are in there too.
    knarr_testbed::netns::enter_new().map_err(|error| format!("make a network namespace: {error}"))?;
    let chosen = MEASUREMENTS.iter().filter(|(name, ..)| names.is_empty() || names.iter().any(|wanted| wanted == name));
    let machine = machine::describe(&bench.dir)?;
    println!("{machine}");
    let mut report = figure::Report::new(machine);
    for (name, how, measure) in chosen {
        let figures = measure(&bench).map_err(|error| format!("{name}: {error}"))?;
        figures.iter().for_each(|figure| println!("{figure}"));
        report.add(name, how, figures);
    }
    println!("\n{report}");
    match write {
        Some(file) => report.write(&file),
        None => Ok(()),
    }
}

fn size(bench: &Bench) -> Outcome<Vec<Figure>> {
    let bytes = std::fs::metadata(&bench.knarr).map_err(|error| format!("{}: {error}", bench.knarr.display()))?.len();
    Ok(vec![Figure::new("binary", Budget::AtMost(40.0), bytes as f64 / 1e6, "MB")])
}

/// Runs `work` on a runtime with as many threads as there are cores.
fn block_on<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| format!("start tokio: {error}"))?;
    runtime.block_on(work)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn fault<E: std::fmt::Display>(step: &str, path: &Path) -> impl FnOnce(E) -> String {
    move |error| format!("{step} {}: {error}", path.display())
}
