//! The public keys of an issuer (RFC 7517), and the signatures of its tokens.
//!
//! Own code and not a general library, as in [`super::jose`]: a key fixes the family of algorithms, a token can only choose within it, and nothing
//! but the nine asymmetric algorithms of upstream is known at all (plugin/pkg/authenticator/token/oidc, AllValidSigningAlgorithms; ES512 is
//! missing, which the cryptography at hand does not have).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

use super::jose::TOKEN_BYTES_MAX;

/// Keys taken from one set. Issuers have two or three.
const KEYS_MAX: usize = 100;

/// Why a token cannot be believed. Quotes nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenRefusal {
    #[error("the token is not a compact JSON web token")]
    Malformed,
    #[error("the token's algorithm is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384")]
    Algorithm,
    #[error("no key of the issuer has the token's key id")]
    UnknownKey,
    #[error("the token's signature is not valid")]
    Signature,
}

/// A token taken apart; nothing of it has been verified.
pub(super) struct Unverified<'t> {
    signed: &'t str,
    signature: Vec<u8>,
    algorithm: String,
    key_id: Option<String>,
    pub(super) claims: Value,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

impl<'t> Unverified<'t> {
    pub(super) fn parse(token: &'t str) -> Result<Unverified<'t>, TokenRefusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenRefusal::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenRefusal::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenRefusal::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenRefusal::Malformed);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenRefusal::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenRefusal::Algorithm);
        }
        let claims: Value = serde_json::from_slice(&decode(payload)?).map_err(|_| TokenRefusal::Malformed)?;
        if !claims.is_object() {
            return Err(TokenRefusal::Malformed);
        }
        Ok(Unverified { signed, signature: decode(signature)?, algorithm: header.alg, key_id: header.kid, claims })
    }
}

#[derive(Debug)]
enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
}

#[derive(Debug)]
struct Jwk {
    id: Option<String>,
    algorithm: Option<String>,
    public: Public,
}

#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Jwk>);

impl KeySet {
    /// Keys of other sorts, or for other uses, are passed over.
    pub(super) fn parse(bytes: &[u8]) -> Result<KeySet, String> {
        let set: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let keys = set["keys"].as_array().ok_or("there is no list \"keys\"")?;
        Ok(KeySet(keys.iter().filter_map(Jwk::parse).take(KEYS_MAX).collect()))
    }

    pub(super) fn verify(&self, token: &Unverified<'_>) -> Result<(), TokenRefusal> {
        let mut refusal = TokenRefusal::UnknownKey;
        let named = |key: &&Jwk| token.key_id.is_none() || key.id == token.key_id;
        for key in self.0.iter().filter(named) {
            match key.verify(token) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }
}

impl Jwk {
    fn parse(value: &Value) -> Option<Jwk> {
        if value["use"].as_str().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |field: &str| URL_SAFE_NO_PAD.decode(value[field].as_str()?).ok();
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == size && y.len() == size).then(|| [&[4], &*x, &*y].concat())
        };
        let public = match (value["kty"].as_str()?, value["crv"].as_str().unwrap_or("")) {
            ("RSA", _) => Public::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", "P-256") => Public::P256(point(32)?),
            ("EC", "P-384") => Public::P384(point(48)?),
            _ => return None,
        };
        Some(Jwk { id: value["kid"].as_str().map(str::to_owned), algorithm: value["alg"].as_str().map(str::to_owned), public })
    }

    fn verify(&self, token: &Unverified<'_>) -> Result<(), TokenRefusal> {
        if self.algorithm.as_ref().is_some_and(|algorithm| *algorithm != token.algorithm) {
            return Err(TokenRefusal::Algorithm);
        }
        let (message, given) = (token.signed.as_bytes(), &*token.signature);
        let verified = match (&self.public, &*token.algorithm) {
            (Public::Rsa { n, e }, algorithm) => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return Err(TokenRefusal::Algorithm),
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, given)
            }
            (Public::P256(point), "ES256") => UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, given),
            (Public::P384(point), "ES384") => UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, given),
            _ => return Err(TokenRefusal::Algorithm),
        };
        verified.map_err(|_| TokenRefusal::Signature)
    }
}
