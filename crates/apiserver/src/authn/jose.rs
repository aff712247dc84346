//! JSON Web Tokens as the API server signs them: compact form, ES256, nothing else.
//!
//! Own code and not a general library, because the safe subset is small: the algorithm is fixed by the key, never chosen by the
//! token (RFC 8725, 3.1); a token whose header has `crit`, an embedded key or another algorithm is refused before its signature is
//! looked at.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::pki::{PkiError, TokenKeys};

const ALGORITHM: &str = "ES256";
/// Bytes of a token. Tokens of upstream with all claims have about 1.2 KiB; a header line may have 64 KiB in most servers.
pub(super) const TOKEN_BYTES_MAX: usize = 16 << 10;

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<Value>,
}

/// Why a token is not one of ours. The text is for the log and for token reviews; it quotes nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoseError {
    #[error("the token is not a compact JSON web token")]
    Malformed,
    #[error("the token is not signed with ES256")]
    Algorithm,
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    #[error("the token's signature is not valid")]
    Signature,
}

/// Whether `token` is a compact JWS at all, so that other kinds of tokens can go to other authenticators.
pub(super) fn looks_like(token: &str) -> bool {
    token.len() <= TOKEN_BYTES_MAX && token.bytes().filter(|&byte| byte == b'.').count() == 2
}

/// Signs `claims`.
pub(super) fn sign<T: Serialize>(keys: &TokenKeys, claims: &T) -> Result<String, PkiError> {
    let key = keys.signing(Timestamp::now());
    let header = Header { alg: ALGORITHM.to_owned(), kid: key.id().to_owned(), crit: None };
    let encode =
        |bytes: Result<Vec<u8>, serde_json::Error>| bytes.map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).map_err(|_| PkiError::Generate);
    let mut token = encode(serde_json::to_vec(&header))?;
    token.push('.');
    token.push_str(&encode(serde_json::to_vec(claims))?);
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature));
    Ok(token)
}

/// The payload of `token`, whose signature has been verified, and the id of the key. Nothing has been checked of what it says.
pub(super) fn verify(keys: &TokenKeys, token: &str) -> Result<(Vec<u8>, String), JoseError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(JoseError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(JoseError::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(JoseError::Malformed)?;
    if payload.contains('.') {
        return Err(JoseError::Malformed);
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JoseError::Malformed);
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| JoseError::Malformed)?;
    if header.alg != ALGORITHM || header.crit.is_some() {
        return Err(JoseError::Algorithm);
    }
    let key = keys.find(&header.kid).ok_or(JoseError::UnknownKey)?;
    if !key.verifies(signed.as_bytes(), &decode(signature)?) {
        return Err(JoseError::Signature);
    }
    Ok((decode(payload)?, header.kid))
}

/// The public keys, as `/openid/v1/jwks` shows them (RFC 7517).
pub(super) fn key_set(keys: &TokenKeys) -> Value {
    let keys: Vec<Value> = keys
        .all()
        .iter()
        .map(|key| {
            let (x, y) = key.coordinates();
            json!({
                "use": "sig", "kty": "EC", "kid": key.id(), "crv": "P-256", "alg": ALGORITHM,
                "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
            })
        })
        .collect();
    json!({ "keys": keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn what_was_signed_verifies() {
        let keys = TokenKeys::generate();
        let token = sign(&keys, &json!({"sub": "a"})).unwrap();
        assert!(looks_like(&token));
        assert_eq!(verify(&keys, &token).unwrap(), (br#"{"sub":"a"}"#.to_vec(), keys.signing(Timestamp::now()).id().to_owned()));
        assert_eq!(verify(&TokenKeys::generate(), &token), Err(JoseError::UnknownKey));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let keys = TokenKeys::generate();
        let token = sign(&keys, &json!({"sub": "a", "n": 12345})).unwrap();
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of a 64-byte signature carries unused bits; a strict decoder refuses those too.
            assert!(verify(&keys, &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_token_does_not_choose_its_algorithm() {
        let keys = TokenKeys::generate();
        let kid = keys.signing(Timestamp::now()).id().to_owned();
        let payload = encode(r#"{"sub":"admin"}"#);
        for (header, expected) in [
            (format!(r#"{{"alg":"none","kid":"{kid}"}}"#), JoseError::Algorithm),
            (format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), JoseError::Algorithm),
            (format!(r#"{{"alg":"es256","kid":"{kid}"}}"#), JoseError::Algorithm),
            (format!(r#"{{"alg":"ES256","kid":"{kid}","crit":["b64"],"b64":false}}"#), JoseError::Algorithm),
            (r#"{"alg":"ES256","kid":"other"}"#.to_owned(), JoseError::UnknownKey),
            (r#"{"alg":"ES256"}"#.to_owned(), JoseError::Malformed),
            (format!(r#"{{"alg":"ES256","alg":"none","kid":"{kid}"}}"#), JoseError::Malformed),
        ] {
            for signature in [String::new(), encode("x"), URL_SAFE_NO_PAD.encode([0u8; 64])] {
                let token = format!("{}.{payload}.{signature}", encode(&header));
                assert_eq!(verify(&keys, &token), Err(expected), "{header}");
            }
        }
        let good = format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#);
        for signature in [vec![], vec![0; 64], vec![0; 63], vec![1; 65]] {
            let token = format!("{}.{payload}.{}", encode(&good), URL_SAFE_NO_PAD.encode(signature));
            assert_eq!(verify(&keys, &token), Err(JoseError::Signature));
        }
    }

    #[test]
    fn odd_shapes_are_refused() {
        let keys = TokenKeys::generate();
        let token = sign(&keys, &json!({})).unwrap();
        for bad in ["", ".", "..", "...", "a.b", "a.b.c.d", "a.b.c", &format!("{token}="), &format!("{token}.x"), &format!(" {token}")] {
            assert!(verify(&keys, bad).is_err(), "{bad}");
        }
        assert_eq!(verify(&keys, &"a".repeat(TOKEN_BYTES_MAX + 1)), Err(JoseError::Malformed));
    }
}
