//! The entry points of the fuzz targets, over what is near to valid input: so that they are built with the rest, and tried a little each time.

#[path = "../fuzz/entries.rs"]
mod entries;

use std::time::{Duration, Instant};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

/// Valid and nearly valid input, from which the others are made.
const SEEDS: &[&str] = &[
    r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"b"},"ownerReferences":[{"uid":"1"}]},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1","memory":"1Gi"}},"env":[{"name":"E","value":"1"}]}],"nodeSelector":{"x":"y"}}}"#,
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {x: 'y'}}\nspec:\n  containers:\n  - &c {name: c, image: i}\n  - {<<: *c, name: d}\n",
    r#"[{"op":"add","path":"/metadata/labels/x","value":"y"},{"op":"copy","from":"/spec","path":"/metadata/x"},{"op":"test","path":"/spec/containers/0/name","value":"c"},{"op":"move","from":"/spec/containers/0","path":"/spec/containers/-"},{"op":"remove","path":"/metadata/labels"}]"#,
    r#"{"metadata":{"labels":null},"spec":{"containers":[{"name":"c","$patch":"delete"}],"$setElementOrder/containers":[{"name":"c"}],"$retainKeys":["x"]}}"#,
    "a in (b, c), !d, e notin (f), g=h, i!=j, k>1",
    "metadata.name=a,spec.nodeName!=b,status.phase==Running",
    "12.5Mi",
    "1e9223372036854775807",
    "self.all(x, x.size() > 1 && ['a'].exists(y, y == string(x))) ? duration('1h') : {'a': 1u}[b\"c\"]",
    r#"{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"things.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"things","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","x-kubernetes-validations":[{"rule":"self.x > 1"}],"properties":{"x":{"type":"integer","default":2,"pattern":"("}}}}}}}]}}"#,
    "\n\u{2}v1\u{12}\u{3}Pod\u{1a}\u{5}\n\u{3}\n\u{1}a",
    "\u{0}\u{ff}",
    "",
];

#[test]
fn every_target_has_its_entry_and_every_entry_its_target() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    let targets: Vec<&str> =
        manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\"")).collect();
    let entries: Vec<&str> = entries::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(targets, entries);
    for name in entries {
        let path = format!("{}/fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        assert!(std::fs::read_to_string(&path).is_ok_and(|source| source.contains("fuzz_target!")), "{path}");
    }
}

#[test]
fn no_seed_makes_an_entry_panic() {
    for (_, entry) in entries::ALL {
        SEEDS.iter().for_each(|seed| entry(seed.as_bytes()));
    }
}

/// A seed in which bytes were changed, doubled, cut out, or replaced by a part of another.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let edit = (0..4_u8, any::<prop::sample::Index>(), any::<u8>(), any::<prop::sample::Index>(), 0..SEEDS.len());
    (0..SEEDS.len(), prop::collection::vec(edit, 1..6)).prop_map(|(seed, edits)| {
        let mut bytes = SEEDS[seed].as_bytes().to_vec();
        for (kind, at, byte, length, other) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + length.index(24)).min(bytes.len());
            match kind {
                0 => bytes.insert(at, byte),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let other = SEEDS[other].as_bytes();
                    let from = at.min(other.len());
                    bytes.splice(at..end, other[from..(from + 16).min(other.len())].iter().copied());
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mangled_seeds_make_no_entry_panic(bytes in mangled()) {
        entries::ALL.iter().for_each(|(_, entry)| entry(&bytes));
    }
}

/// How long one input may keep an entry, in a release build: inputs are a kilobyte.
const ENTRY_TIME_MAX: Duration = Duration::from_secs(2);

/// For as long as a machine is given to it, where cargo-fuzz is not at hand: `KNARR_FUZZ_SECONDS=300 cargo test --release -p knarr-api --test fuzz --
/// --ignored`.
#[test]
#[ignore = "minutes long; KNARR_FUZZ_SECONDS says how many seconds, 60 if it is not set"]
fn mangled_seeds_make_no_entry_panic_for_long() {
    let seconds = std::env::var("KNARR_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    let mut inputs = 0_u64;
    while Instant::now() < until {
        let bytes = mangled().new_tree(&mut runner).expect("a seed can always be mangled").current();
        for (name, entry) in entries::ALL {
            let began = Instant::now();
            let ended = std::panic::catch_unwind(|| entry(&bytes));
            let shown = String::from_utf8_lossy(&bytes);
            assert!(ended.is_ok(), "{name} panics on {shown:?}");
            assert!(began.elapsed() < ENTRY_TIME_MAX, "{name} took {:?} for {shown:?}", began.elapsed());
        }
        inputs += 1;
    }
    eprintln!("{inputs} inputs in {seconds} s");
}
