//! `knarr tokens`: the keys that sign the tokens of service accounts, and turning them over. Asks the Knarr that runs.

use http::Method;
use knarr_apiserver::pki::{KeyUse, ListedKey, Pki, Turnover};

use crate::{
    cli::{Place, TokensCommand},
    client::get::aligned,
    orders, place,
    report::{Failure, chain},
};

pub(crate) fn run(command: &TokensCommand, place: &Place) -> Result<(), Failure> {
    if place::holder(&place.data_dir)?.is_none() {
        return Err(Failure::Machine(format!(
            "no Knarr runs in {}; start it with `knarr up`, keys turn over while it serves",
            place.data_dir.display()
        )));
    }
    match command {
        TokensCommand::Status => orders::print(place, Method::GET, "/tokens"),
        TokensCommand::Rotate { now: false } => orders::print(place, Method::POST, "/tokens/rotate"),
        TokensCommand::Rotate { now: true } => orders::print(place, Method::POST, "/tokens/rotate/now"),
        TokensCommand::Forget { force: false } => orders::print(place, Method::POST, "/tokens/forget"),
        TokensCommand::Forget { force: true } => orders::print(place, Method::POST, "/tokens/forget/forced"),
    }
}

pub(crate) fn status(pki: &Pki) -> String {
    let mut lines = vec![["KEY", "MADE", "NEW TOKENS"].map(str::to_owned).to_vec()];
    lines.extend(pki.list_token_keys().into_iter().map(|key| {
        let made = key.made.map_or("unknown".to_owned(), |made| made.to_string());
        let use_of = match key.use_of {
            KeyUse::SignsFrom(from) => format!("signs from {from} on"),
            KeyUse::Signs => "signs".to_owned(),
            KeyUse::VerifiesOnly => "verifies only".to_owned(),
        };
        vec![key.id, made, use_of]
    }));
    aligned(&lines)
}

pub(crate) fn rotate(pki: &Pki, turnover: Turnover) -> Result<String, String> {
    let ListedKey { id, use_of, .. } = pki.rotate_token_key(turnover).map_err(|error| chain(&error))?;
    let told = match use_of {
        KeyUse::SignsFrom(from) => {
            format!("the new key {id} is published, and tokens are signed with it from {from} on, when relying parties know it")
        }
        KeyUse::Signs | KeyUse::VerifiesOnly => format!("tokens are signed with the new key {id}"),
    };
    Ok(format!(
        "{told}; those of older keys stay good until they end\n\
         pods get new tokens as theirs grow old, within a day; `knarr tokens forget` then ends what the old keys signed\n"
    ))
}

pub(crate) fn forget(pki: &Pki, forced: bool) -> Result<String, String> {
    let forgotten = pki.forget_token_keys(forced).map_err(|error| chain(&error))?;
    match forgotten.is_empty() {
        true => Ok("there is one key only; `knarr tokens rotate` makes another\n".to_owned()),
        false => Ok(forgotten.iter().map(|key| format!("forgot {key}: tokens that it signed are refused\n")).collect()),
    }
}
