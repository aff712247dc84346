//! `knarr certs`: every certificate of the cluster, and renewing them before their time. Asks the Knarr that runs; where none does, lists those
//! on disk.

use http::Method;
use knarr_apiserver::pki::{self, Listed, Pki};

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
        CertsCommand::Renew { name } if running => {
            orders::print(place, Method::POST, &format!("/certs/renew/{}", name.as_deref().unwrap_or_default()))
        }
        CertsCommand::Renew { .. } => {
            Err(Failure::Machine(format!("no Knarr runs in {}; `knarr up` renews what is due when it starts", place.data_dir.display())))
        }
    }
}

/// The answer to `list` of a running Knarr.
pub(crate) fn list(pki: &Pki) -> String {
    text(&pki.list())
}

/// Renews one, or all where `name` is empty; what was renewed.
pub(crate) fn renew(pki: &Pki, name: &str) -> Result<String, String> {
    let renewed = pki.renew(Some(name).filter(|name| !name.is_empty())).map_err(|error| chain(&error))?;
    if renewed.is_empty() {
        return Err(format!("there is no certificate {name:?} that renews; `knarr certs` lists them"));
    }
    Ok(renewed.iter().map(|name| format!("renewed {name}\n")).collect())
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
        Some(from) => line("renewed", &format!("by Knarr while it runs, from {} on", time(from))),
        None => line("renewed", "never; it is made with the cluster"),
    }
    text
}
