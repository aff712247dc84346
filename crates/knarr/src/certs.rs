//! `knarr certs`: every certificate of the cluster, and renewing them before their time. Asks the Knarr that runs; where none does, lists those
//! on disk.

use http::Method;
use knarr_apiserver::pki::{self, Listed, Pki, PkiError};

use crate::{
    cli::{CertsCommand, Place},
    orders, place,
    report::{Failure, chain},
};

pub(crate) fn run(command: Option<CertsCommand>, place: &Place) -> Result<(), Failure> {
    let running = place::holder(&place.data_dir)?.is_some();
    match command.unwrap_or(CertsCommand::List) {
        CertsCommand::List if running => orders::print(place, Method::GET, "/certs"),
        CertsCommand::List => {
            print!("{}", text(&pki::survey(&place.data_dir)?));
            println!("Knarr does not run here; certificates that live in memory only are made at its start");
            Ok(())
        }
        CertsCommand::Renew { name: Some(name) } if !is_name(&name) => {
            Err(Failure::Usage(format!("{name:?} is no name of a certificate; `knarr certs` lists them")))
        }
        CertsCommand::Renew { name } if running => {
            orders::print(place, Method::POST, &format!("/certs/renew/{}", name.as_deref().unwrap_or_default()))
        }
        CertsCommand::Renew { .. } => {
            Err(Failure::Machine(format!("no Knarr runs in {}; `knarr up` renews what is due when it starts", place.data_dir.display())))
        }
    }
}

/// Names of certificates are those of files. Others would say something else in the order's path.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// The answer to `list` of a running Knarr.
pub(crate) fn list(pki: &Pki) -> String {
    text(&pki.list())
}

/// Renews one, or all where `name` is empty; what was renewed.
pub(crate) fn renew(pki: &Pki, name: &str) -> Result<String, String> {
    let mut renewed = pki.renew(Some(name).filter(|name| !name.is_empty()));
    // What is left as somebody wants it was not asked for by name.
    let is_left = |(_, error): &mut (String, PkiError)| name.is_empty() && matches!(error, PkiError::Left { .. });
    let left: Vec<_> = renewed.failed.extract_if(.., is_left).collect();
    if renewed.done.is_empty() && renewed.failed.is_empty() {
        return Err(format!("there is no certificate {name:?} that renews; `knarr certs` lists them"));
    }
    let mut lines: Vec<String> = renewed.done.iter().map(|name| format!("renewed {name}\n")).collect();
    lines.extend(left.iter().map(|(name, error)| format!("left {name}: {}\n", chain(error))));
    if renewed.failed.is_empty() {
        return Ok(lines.concat());
    }
    lines.extend(renewed.failed.iter().map(|(name, error)| match error {
        PkiError::Unkept { .. } => format!("renewed {name}, but: {}\n", chain(error)),
        error => format!("not renewed: {name}: {}\n", chain(error)),
    }));
    Err(lines.concat().trim_end().to_owned())
}

fn text(all: &[Listed]) -> String {
    all.iter().map(|one| block(one) + "\n").collect()
}

fn block(one: &Listed) -> String {
    let time = |time: jiff::Timestamp| time.strftime("%Y-%m-%d %H:%M UTC").to_string();
    let mut text = format!("{}: {}\n", one.name, one.subject);
    let mut line = |what: &str, value: &str| text.push_str(&format!("  {what:<9} {value}\n"));
    line("used by", &one.used_by);
    if !one.sans.is_empty() {
        line("good for", &one.sans.join(", "));
    }
    line("issued", &time(one.issued));
    line("expires", &time(one.expires));
    match one.renewed {
        None if let Some(reason) = one.left => line("renewed", &format!("not now: {reason}")),
        Some(from) => line("renewed", &format!("by Knarr while it runs, from {} on", time(from))),
        None => line("renewed", "never; it is made with the cluster"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_and_not_written_is_not_called_unrenewed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("pki");
        let pki = Pki::open(&keys, &pki::Sans::default()).unwrap();
        let file = keys.join("apiserver.crt");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        let told = renew(&pki, "apiserver").unwrap_err();
        assert!(told.starts_with("renewed apiserver, but: the new certificate is shown, but not kept yet"), "{told}");
        assert!(told.contains(&format!("write {}", file.display())), "{told}");
        std::fs::remove_dir(&file).unwrap();
        assert_eq!(renew(&pki, "apiserver").unwrap(), "renewed apiserver\n");
    }

    #[test]
    fn an_order_names_one_certificate_or_is_none() {
        for name in ["apiserver", "admin.kubeconfig", "apiserver-kubelet-client"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "?", "?apiserver", "#", "a/b", "a b"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
