//! Everything that `./x` does. Run `./x` for the list.

mod bench;
mod check;
mod clients;
mod descriptions;
mod run;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use run::Outcome;

/// Name, what it does, how.
type Task = (&'static str, &'static str, fn(&[String]) -> Outcome);

const TASKS: &[Task] = &[
    ("up", "build Knarr and start a cluster; further words go to `knarr up`", run::up),
    ("test", "run every test that this machine can run, and name those it cannot; further words go to nextest", test::run),
    ("check", "formatting, clippy, tidy, licences and sources of dependencies", check::run),
    ("tidy", "the rules of the house alone", tidy::run),
    ("build", "build the release binary", run::build),
    ("bench", "measure the release binary; `--write` puts the table into SPECIFICATION.md, names choose what to measure", bench::run),
    ("vm", "run the tests of the named packages on Debian's kernel with cgroup v2, in a virtual machine", vm::run),
    ("descriptions", "write the descriptions of OpenAPI documents anew, from k8s-openapi's sources", descriptions::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        println!("usage: ./x TASK\n");
        for (name, what, _) in TASKS {
            println!("  {name:<14}{what}");
        }
        return ExitCode::SUCCESS;
    };
    let Some((.., task)) = TASKS.iter().find(|(known, ..)| known == name) else {
        eprintln!("x: there is no task {name:?}; `./x` lists them");
        return ExitCode::from(2);
    };
    match task(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("x {name}: {message}");
            ExitCode::FAILURE
        }
    }
}
