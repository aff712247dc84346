//! `./x check`.

use crate::{
    run::{Outcome, cargo, must},
    tidy,
};

pub(crate) fn run(_: &[String]) -> Outcome {
    must(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy::run(&[])?;
    must(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    // It looks at the crates of other systems too, which no build here has fetched: so not `--offline`. The database of advisories is not at hand.
    must(&mut cargo(&["deny", "--log-level", "error", "check", "licenses", "sources", "bans"]))
}
