//! `./x check`.

use crate::{
    run::{Outcome, cargo, must},
    tidy,
};

pub(crate) fn run(_: &[String]) -> Outcome {
    must(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run(&[])?;
    must(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    // Advisories need the network; licences, sources and bans do not.
    must(&mut cargo(&["deny", "--offline", "--log-level", "error", "check", "licenses", "sources", "bans"]))
}
