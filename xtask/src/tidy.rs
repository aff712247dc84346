//! The rules of the house that a compiler does not know.
//!
//! Each rule is one function from the sources to complaints. ARCHITECTURE.md states the same rules for people.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{CargoOpt, DependencyKind, MetadataCommand};

use crate::run::{Outcome, root};

/// Which crates of the house a crate may use. `testbed` may be used by every crate's tests.
const EDGES: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("store", &[]),
    ("apiserver", &["api", "store"]),
    ("client", &["api"]),
    ("controllers", &["client", "api"]),
    ("scheduler", &["client", "api"]),
    ("runtime", &[]),
    ("network", &["client", "api"]),
    ("kubelet", &["client", "api", "runtime", "network"]),
];

/// Lines of production code (tests apart) over which a file is probably two things.
const FILE_LINES_MAX: usize = 600;

/// What starts programs: the runtime and DNS start keepers (this same binary), the test kit builds images and drives real clients, benchmarks
/// drive the binary.
const STARTS_PROGRAMS: &[&str] =
    &["crates/runtime/src/node/spawn.rs", "crates/network/src/dns/process.rs", "crates/testbed", "crates/bench", "crates/knarr/build.rs"];

/// Crates that are no part of Knarr: they may wait for time.
const APART: &[&str] = &["testbed", "bench"];

/// Words that must not stay. Spelled in two halves so that this file passes.
const MARKERS: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("todo", "!("), concat!("unimplemented", "!(")];

struct Source {
    /// Relative to the root of the repository.
    path: PathBuf,
    text: String,
}

impl Source {
    /// Name of the crate's folder.
    fn crate_name(&self) -> &str {
        self.path.iter().nth(1).and_then(|part| part.to_str()).unwrap_or_default()
    }

    fn is_test(&self) -> bool {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let named = matches!(&*stem, "tests" | "testing" | "fixture" | "fuzz") || stem.ends_with("_tests");
        named || self.path.iter().any(|part| part == "tests" || part == "benches" || part == "examples")
    }

    /// The lines before the tests of the file.
    fn production(&self) -> impl Iterator<Item = &str> {
        let limit = if self.is_test() { 0 } else { usize::MAX };
        self.text.lines().take(limit).take_while(|line| !line.starts_with("#[cfg(test)]") || self.text.contains("#[cfg(test)]\nmod tests;"))
    }
}

pub(crate) fn run(_: &[String]) -> Outcome {
    let complaints = complaints();
    for complaint in &complaints {
        eprintln!("tidy: {complaint}");
    }
    if complaints.is_empty() { Ok(()) } else { Err(format!("{} complaints", complaints.len())) }
}

fn complaints() -> Vec<String> {
    let sources = sources(&root());
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap_or_default();
    let readme = fs::read_to_string(root().join("README.md")).unwrap_or_default();
    let rules = [
        module_docs(&sources),
        length(&sources),
        markers(&sources),
        programs(&sources),
        no_io_in_api(&sources),
        unbounded(&sources),
        timers(&sources, &architecture),
        edges(),
        map(&architecture),
        commands(&readme),
    ];
    rules.into_iter().flatten().collect()
}

fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask")];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("the tree does not change while it is read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
                let path = path.strip_prefix(root).expect("found beneath the root").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|one, two| one.path.cmp(&two.path));
    found
}

fn module_docs(sources: &[Source]) -> Vec<String> {
    let lacking = sources.iter().filter(|source| !source.is_test() && !source.text.starts_with("//!"));
    lacking.map(|source| format!("{}: begin with //! and say what the module is for", source.path.display())).collect()
}

fn length(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let lines = source.production().count();
        if lines > FILE_LINES_MAX {
            let path = source.path.display();
            complaints.push(format!("{path}: {lines} lines of production code, at most {FILE_LINES_MAX}; it is probably two things"));
        }
    }
    complaints
}

fn markers(sources: &[Source]) -> Vec<String> {
    find(sources.iter(), |line| MARKERS.iter().any(|marker| line.contains(marker)), "unfinished work is an issue, not a marker")
}

/// Invariant 8.
fn programs(sources: &[Source]) -> Vec<String> {
    let starts = |source: &&Source| STARTS_PROGRAMS.iter().any(|path| source.path.starts_with(path));
    let house = sources.iter().filter(|source| source.path.starts_with("crates") && !starts(source));
    find_production(house, |line| line.contains("process::Command") || line.contains("Command::new("), "no external program at run time")
}

/// Invariant 1.
fn no_io_in_api(sources: &[Source]) -> Vec<String> {
    let api = sources.iter().filter(|source| source.path.starts_with("crates/api/src"));
    let io = ["std::fs", "TcpStream", "TcpListener", "UdpSocket", "std::process", "std::thread", "tokio", "async fn"];
    find_production(api, |line| io.iter().any(|word| line.contains(word)) && !line.trim_start().starts_with("//"), "api does no I/O")
}

/// Invariant 7.
fn unbounded(sources: &[Source]) -> Vec<String> {
    let calls = ["unbounded_channel", "mpsc::unbounded", "std::sync::mpsc::channel("];
    find_production(
        sources.iter().filter(|source| source.path.starts_with("crates")),
        |line| calls.iter().any(|call| line.contains(call)),
        "every queue has a limit",
    )
}

/// Invariant 5: whoever waits for time stands in the table of timers.
fn timers(sources: &[Source], architecture: &str) -> Vec<String> {
    let waits = ["sleep(", "sleep_until(", "interval(", "interval_at("];
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("crates") && !APART.contains(&source.crate_name())) {
        let waiting = source.production().any(|line| waits.iter().any(|wait| line.contains(wait)) && !line.trim_start().starts_with("//"));
        let path = source.path.to_string_lossy();
        let module = path.trim_start_matches("crates/");
        if waiting && !architecture.contains(&format!("`{module}`")) {
            complaints.push(format!("{path}: waits for time; add `{module}` with period and reason to the timers of ARCHITECTURE.md"));
        }
    }
    complaints
}

/// Invariants 1 and 2: what may use what.
fn edges() -> Vec<String> {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec();
    let metadata = metadata.unwrap_or_else(|error| panic!("cargo metadata: {error}"));
    let mut complaints = Vec::new();
    for package in &metadata.packages {
        let Some(name) = package.name.strip_prefix("knarr-") else {
            continue;
        };
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
            continue;
        };
        for dependency in package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal) {
            if let Some(used) = dependency.name.strip_prefix("knarr-")
                && !allowed.contains(&used)
            {
                complaints.push(format!("crates/{name} may not use {used}; see the map in ARCHITECTURE.md"));
            }
        }
    }
    complaints
}

/// Every crate is on the map, and the map has no other.
fn map(architecture: &str) -> Vec<String> {
    let folders: BTreeSet<String> = fs::read_dir(root().join("crates"))
        .expect("there are crates")
        .map(|entry| entry.expect("the tree does not change while it is read").file_name().to_string_lossy().into_owned())
        .collect();
    let mapped: BTreeSet<String> =
        architecture.lines().filter_map(|line| line.strip_prefix("| `crates/")?.split_once('`')).map(|(name, _)| name.to_owned()).collect();
    let lacking = folders.difference(&mapped).map(|name| format!("ARCHITECTURE.md: crates/{name} is not on the map"));
    let gone = mapped.difference(&folders).map(|name| format!("ARCHITECTURE.md: crates/{name} does not exist"));
    lacking.chain(gone).collect()
}

/// The tasks that the README names exist.
fn commands(readme: &str) -> Vec<String> {
    let named = readme
        .split("./x ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next())
        .filter(|name| !name.is_empty());
    let unknown = named.filter(|name| !crate::TASKS.iter().any(|(known, ..)| known == name));
    unknown.map(|name| format!("README.md: there is no ./x {name}")).collect()
}

fn find<'a>(sources: impl Iterator<Item = &'a Source>, wrong: impl Fn(&str) -> bool, why: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let lines = source.text.lines().enumerate().filter(|(_, line)| wrong(line));
        complaints.extend(lines.map(|(index, _)| format!("{}:{}: {why}", source.path.display(), index + 1)));
    }
    complaints
}

fn find_production<'a>(sources: impl Iterator<Item = &'a Source>, wrong: impl Fn(&str) -> bool, why: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let lines = source.production().enumerate().filter(|(_, line)| wrong(line));
        complaints.extend(lines.map(|(index, _)| format!("{}:{}: {why}", source.path.display(), index + 1)));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        assert_eq!(complaints(), Vec::<String>::new());
    }

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source { path: path.into(), text: text.to_owned() }]
    }

    #[test]
    fn each_rule_can_complain() {
        assert_eq!(module_docs(&source("crates/a/src/x.rs", "fn main() {}")).len(), 1);
        assert_eq!(length(&source("crates/a/src/x.rs", &"\n".repeat(FILE_LINES_MAX + 1))).len(), 1);
        assert_eq!(markers(&source("crates/a/src/x.rs", MARKERS[0])).len(), 1);
        assert_eq!(programs(&source("crates/a/src/x.rs", "Command::new(\"nft\")")).len(), 1);
        assert_eq!(no_io_in_api(&source("crates/api/src/x.rs", "use std::fs;")).len(), 1);
        assert_eq!(unbounded(&source("crates/a/src/x.rs", "mpsc::unbounded_channel()")).len(), 1);
        assert_eq!(timers(&source("crates/a/src/x.rs", "sleep(PERIOD).await"), "").len(), 1);
        assert_eq!(timers(&source("crates/a/src/x.rs", "sleep(PERIOD).await"), "| `a/src/x.rs` |").len(), 0);
        assert_eq!(map("| `crates/attic` |").iter().filter(|complaint| complaint.contains("attic")).count(), 1);
        assert_eq!(commands("run `./x fly`").len(), 1);
    }

    #[test]
    fn tests_of_a_file_do_not_count_as_production() {
        let text = "//! Docs.\n#[cfg(test)]\nmod tests {\n    sleep(1);\n}\n";
        assert_eq!(timers(&source("crates/a/src/x.rs", text), "").len(), 0);
    }
}
