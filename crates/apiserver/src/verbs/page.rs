//! Pages of a list.
//!
//! A continue token names the revision that the list is at and the last object shown. It is opaque to clients, as upstream's is; a token that
//! says revision 0 goes on in the present, knowing that the list is then not consistent.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use knarr_api::{Status, status};
use knarr_store::Revision;
use serde::{Deserialize, Serialize};

/// Longest namespace and longest name, with room for the JSON around them.
const TOKEN_BYTES_MAX: usize = 1 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// The format, `meta.k8s.io/v1`, as in upstream's tokens.
    v: String,
    rv: u64,
    /// The store name of the last object shown.
    start: String,
}

impl Token {
    /// `at` is none for a list that is not consistent.
    pub(crate) fn new(at: Option<Revision>, last: &str) -> Self {
        Self { v: "meta.k8s.io/v1".into(), rv: at.map_or(0, |revision| revision.0), start: last.into() }
    }

    pub(crate) fn revision(&self) -> Option<Revision> {
        (self.rv != 0).then_some(Revision(self.rv))
    }

    pub(crate) fn last(&self) -> &str {
        &self.start
    }

    pub(crate) fn encode(&self) -> String {
        // Strings and a number always serialise.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    pub(crate) fn decode(text: &str) -> Result<Self, Status> {
        let invalid = || status::bad_request(format!("continue key is not valid: {text:.80}"));
        if text.len() > TOKEN_BYTES_MAX {
            return Err(invalid());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| invalid())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        (token.v == "meta.k8s.io/v1" && !token.start.is_empty()).then_some(token).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_way_to_the_client_and_back() {
        for token in [Token::new(Some(Revision(7)), "a/b"), Token::new(None, "n")] {
            assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        }
    }

    #[test]
    fn others_are_refused() {
        for text in ["", "x", "!!!", &"A".repeat(5000), &URL_SAFE_NO_PAD.encode("{}")] {
            assert_eq!(Token::decode(text).map_err(|status| status.code), Err(400), "{text:.20}");
        }
    }
}
