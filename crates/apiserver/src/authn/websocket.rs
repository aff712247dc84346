//! The bearer token of a browser, which cannot set Authorization on a WebSocket: a subprotocol that says it
//! (apiserver, pkg/authentication/request/websocket).

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Unreadable;

/// Followed by the token in base64url without padding.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether the request asks to become a WebSocket.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, &header::CONNECTION, "upgrade") && has_token(headers, &header::UPGRADE, "websocket")
}

/// Whether a header is a list in which this stands.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// The subprotocols that a client offers, in its order.
pub(crate) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|protocol| !protocol.is_empty())
}

/// The token, if there is one. There must be another subprotocol beside it, which the answer can name: a browser that offered some takes no
/// answer without one, and the token is not sent back.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Unreadable> {
    if !is_asked_for(headers) {
        return Ok(None);
    }
    let mut tokens = protocols(headers).filter_map(|protocol| protocol.strip_prefix(BEARER));
    let (Some(encoded), more) = (tokens.next(), tokens.next()) else { return Ok(None) };
    let alone = !protocols(headers).any(|protocol| !protocol.starts_with(BEARER));
    if more.is_some() || alone {
        return Err(Unreadable);
    }
    let token = URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    token.filter(|token| !token.is_empty()).map(|token| Some(token.into())).ok_or(Unreadable)
}

/// Takes the token away: it was for us, and nobody behind us may hear it.
pub(super) fn strip(headers: &mut HeaderMap) {
    if !protocols(headers).any(|protocol| protocol.starts_with(BEARER)) {
        return;
    }
    let kept: Vec<&str> = protocols(headers).filter(|protocol| !protocol.starts_with(BEARER)).collect();
    match HeaderValue::try_from(kept.join(", ")) {
        Ok(value) if !kept.is_empty() => headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value),
        _ => headers.remove(header::SEC_WEBSOCKET_PROTOCOL),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(protocols: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        for protocol in protocols {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        headers
    }

    #[test]
    fn one_subprotocol_beside_others_is_the_token() {
        let check = |protocols: &[&'static str], expected: Result<Option<&str>, Unreadable>| {
            let headers = headers(protocols);
            assert_eq!(token(&headers).as_ref().map(Option::as_deref), expected.as_ref().copied(), "{protocols:?}");
        };
        check(&["base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"], Ok(Some("secret")));
        check(&["x", "base64url.bearer.authorization.k8s.io.c2VjcmV0"], Ok(Some("secret")));
        check(&["x"], Ok(None));
        check(&[], Ok(None));
        check(&["base64url.bearer.authorization.k8s.io.c2VjcmV0"], Err(Unreadable));
        check(&["x, base64url.bearer.authorization.k8s.io.c2VjcmV0, base64url.bearer.authorization.k8s.io.c2VjcmV0"], Err(Unreadable));
        check(&["x, base64url.bearer.authorization.k8s.io."], Err(Unreadable));
        check(&["x, base64url.bearer.authorization.k8s.io.c2VjcmV0=="], Err(Unreadable));
        check(&["x, base64url.bearer.authorization.k8s.io.__79"], Err(Unreadable));
        let mut plain = headers(&["x, base64url.bearer.authorization.k8s.io.c2VjcmV0"]);
        plain.remove(header::UPGRADE);
        assert_eq!(token(&plain), Ok(None), "no WebSocket is asked for");
    }

    #[test]
    fn the_token_stays_here() {
        let mut headers = headers(&["base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io", "x"]);
        strip(&mut headers);
        assert_eq!(protocols(&headers).collect::<Vec<_>>(), ["v5.channel.k8s.io", "x"]);
    }
}
