//! `/healthz`, `/livez`, `/readyz`, and each check by its name below them, with upstream's words (apiserver, pkg/server/healthz).

use std::fmt::Write as _;

use http::{Response, StatusCode};
use knarr_api::{Status, status};
use knarr_store::{Collection, HistoryError};

use super::text;
use crate::{body::Body, request::options::Query, server::Core};

/// One thing that may be wrong.
struct Check {
    /// As upstream calls it, where upstream has it.
    name: &'static str,
    /// The questions that it is a part of.
    of: &'static [&'static str],
    /// Why not.
    run: fn(&Core) -> Result<(), String>,
}

/// What is asked, in the order of the answer. Alive is who answers and can read its store; a key service that does not answer is no reason to begin
/// anew, and a server that is told to stop is well, but not to be asked any more, so that load balancers look elsewhere first.
const CHECKS: [Check; 4] = [
    Check { name: "ping", of: &["healthz", "livez", "readyz"], run: |_| Ok(()) },
    Check { name: "etcd", of: &["healthz", "livez", "readyz"], run: store },
    Check { name: "kms-providers", of: &["healthz", "readyz"], run: key_services },
    Check { name: "shutdown", of: &["readyz"], run: shutdown },
];

pub(crate) fn store(core: &Core) -> Result<(), String> {
    match core.store.watch(&Collection::new("core/namespaces"), core.store.snapshot().revision) {
        Err(error @ HistoryError::Closed) => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn key_services(core: &Core) -> Result<(), String> {
    let sealing = core.encryption.as_ref().map(|encryption| encryption.sealing());
    let faults = sealing.iter().flat_map(|sealing| sealing.services());
    let faults: Vec<String> = faults.filter_map(|service| Some(format!("{}: {}", service.name(), service.fault()?))).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

fn shutdown(core: &Core) -> Result<(), String> {
    if core.stop.is_cancelled() { Err("the server is stopping".to_owned()) } else { Ok(()) }
}

/// The paths of all checks.
pub(super) fn paths() -> impl Iterator<Item = String> {
    CHECKS.iter().flat_map(|check| check.of.iter().map(|which| format!("/{which}/{}", check.name)))
}

/// All checks of `which`, but for those that `exclude` names.
pub(super) fn all(core: &Core, which: &str, query: &Query) -> Response<Body> {
    let excluded: Vec<&str> = query.all("exclude").collect();
    let mut report = String::new();
    let mut good = true;
    for check in checks(which) {
        let line = if excluded.contains(&check.name) {
            format!("[+]{} excluded: ok\n", check.name)
        } else if let Err(reason) = (check.run)(core) {
            // Anyone may ask, as often as he likes; who is not well says so in the log himself.
            tracing::debug!(which, check = check.name, reason, "not well");
            good = false;
            // Who may ask this may not ask everything.
            format!("[-]{} failed: reason withheld\n", check.name)
        } else {
            format!("[+]{} ok\n", check.name)
        };
        report.push_str(&line);
    }
    let unknown: Vec<String> =
        excluded.iter().filter(|name| !checks(which).any(|check| check.name == **name)).map(|name| format!("{name:?}")).collect();
    if !unknown.is_empty() {
        let written = writeln!(report, "warn: some health checks cannot be excluded: no matches for {}", unknown.join(","));
        written.expect("writing to a String does not fail");
    }
    if good && query.flag("verbose").is_none() {
        return text(StatusCode::OK, "ok".into());
    }
    report.push_str(which);
    report.push_str(if good { " check passed\n" } else { " check failed\n" });
    text(if good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, report)
}

/// One check.
pub(super) fn one(core: &Core, which: &str, name: &str) -> Result<Response<Body>, Status> {
    let check = checks(which).find(|check| check.name == name).ok_or_else(status::no_such_resource)?;
    Ok(match (check.run)(core) {
        Ok(()) => text(StatusCode::OK, "ok".into()),
        Err(reason) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {reason}\n")),
    })
}

fn checks<'a>(which: &'a str) -> impl Iterator<Item = &'static Check> + 'a {
    CHECKS.iter().filter(move |check| check.of.contains(&which))
}
