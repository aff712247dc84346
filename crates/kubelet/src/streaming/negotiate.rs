//! Which transport and which version of its protocol: read from the request's headers, answered with 101 or a reason.

use base64::Engine as _;
use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// How SPDY clients name the version of what flows in the streams (apimachinery, httpstream.HeaderProtocolVersion).
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_STREAM_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    WebSocket,
    Spdy,
}

/// What the client and this server agree on; `protocol` is empty where a WebSocket client named none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agreed<'a> {
    pub(super) transport: Transport,
    pub(super) protocol: &'a str,
}

/// Chooses the first protocol of the client's list that is in ours.
pub(super) fn negotiate<'a>(
    headers: &HeaderMap,
    websocket: &[&'a str],
    spdy: &[&'a str],
) -> Result<Agreed<'a>, Box<Response<Full<Bytes>>>> {
    if !words(headers, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err(refuse(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    if words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case("websocket")) {
        let offered: Vec<&str> = words(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
        if offered.is_empty() {
            return Ok(Agreed { transport: Transport::WebSocket, protocol: "" });
        }
        return match first_common(&offered, websocket) {
            Some(protocol) => Ok(Agreed { transport: Transport::WebSocket, protocol }),
            None => {
                Err(refuse(StatusCode::FORBIDDEN, &format!("none of the WebSocket protocols {offered:?} is supported, only {websocket:?}")))
            }
        };
    }
    if words(headers, &UPGRADE).any(|word| word.eq_ignore_ascii_case("SPDY/3.1")) {
        let offered: Vec<&str> = words(headers, &STREAM_PROTOCOL).collect();
        if offered.is_empty() {
            return Err(refuse(StatusCode::BAD_REQUEST, "unable to upgrade: X-Stream-Protocol-Version header is required"));
        }
        return match first_common(&offered, spdy) {
            Some(protocol) => Ok(Agreed { transport: Transport::Spdy, protocol }),
            None => {
                let reason =
                    format!("unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {spdy:?}");
                let mut response = refuse(StatusCode::FORBIDDEN, &reason);
                for protocol in spdy {
                    if let Ok(value) = HeaderValue::from_str(protocol) {
                        response.headers_mut().append(ACCEPTED_STREAM_PROTOCOLS, value);
                    }
                }
                Err(response)
            }
        };
    }
    Err(refuse(StatusCode::BAD_REQUEST, "the connection can be upgraded to websocket or SPDY/3.1 only"))
}

impl Agreed<'_> {
    /// The 101 that lets the streams begin.
    pub(super) fn response(&self, request: &HeaderMap) -> Result<Response<Full<Bytes>>, Box<Response<Full<Bytes>>>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        let protocol =
            HeaderValue::from_str(self.protocol).map_err(|_| refuse(StatusCode::BAD_REQUEST, "the protocol's name is malformed"))?;
        match self.transport {
            Transport::Spdy => {
                headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
                headers.insert(STREAM_PROTOCOL, protocol);
            }
            Transport::WebSocket => {
                // RFC 6455, section 4.2.1.
                let (Some(key), Some(version)) = (request.get(SEC_WEBSOCKET_KEY), request.get(SEC_WEBSOCKET_VERSION)) else {
                    return Err(refuse(StatusCode::BAD_REQUEST, "the WebSocket handshake has no key or no version"));
                };
                let is_key = base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
                if version != "13" || !is_key {
                    let mut response = refuse(StatusCode::BAD_REQUEST, "the WebSocket handshake must be version 13 with a key of 16 bytes");
                    response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                    return Err(response);
                }
                headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
                if let Ok(accept) = HeaderValue::from_str(&accept) {
                    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
                }
                if !self.protocol.is_empty() {
                    headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
                }
            }
        }
        Ok(response)
    }
}

/// The comma-separated words of all headers of a name.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn first_common<'a>(offered: &[&str], ours: &[&'a str]) -> Option<&'a str> {
    offered.iter().find_map(|offer| ours.iter().find(|our| *our == offer).copied())
}

fn refuse(status: StatusCode, reason: &str) -> Box<Response<Full<Bytes>>> {
    let mut response = Response::new(Full::from(format!("{reason}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Box::new(response)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[track_caller]
    fn check(headers: &[(&str, &str)], expected: &str) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            });
        let found = match negotiate(&headers, &["v5", "v4"], &["v4", "v3"]) {
            Ok(agreed) => format!("{:?} {}", agreed.transport, agreed.protocol),
            Err(response) => response.status().as_u16().to_string(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn the_clients_first_choice_that_is_ours() {
        check(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "v9, v4, v5")], "WebSocket v4");
        check(&[("connection", "upgrade"), ("upgrade", "websocket")], "WebSocket ");
        check(&[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-protocol", "v9")], "403");
        check(
            &[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v5"), ("x-stream-protocol-version", "v3")],
            "Spdy v3",
        );
        check(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")], "400");
        check(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v9")], "403");
        check(&[("connection", "Upgrade"), ("upgrade", "h2c")], "400");
        check(&[("upgrade", "websocket")], "400");
    }
}
