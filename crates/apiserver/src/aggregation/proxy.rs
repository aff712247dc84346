//! Requests that another server answers.
//!
//! The caller was authenticated and authorised here. The extension server believes the `X-Remote-*` headers because they come with the front proxy's
//! certificate; what a caller sends of such headers is dropped on the way, as are his credentials.

use http::{HeaderMap, HeaderName, HeaderValue, Response, request::Parts};
use hyper::upgrade::OnUpgrade;
use knarr_api::{Status, status};

use super::{
    probe,
    remote::{Availability, Remote},
};
use crate::{
    User, body,
    body::Body,
    connect::{Backend, Passage, pass},
    listen::PeerAddress,
    server::Core,
};

/// Seconds after which a client may ask again for what is not available.
const RETRY_AFTER_SECONDS: u32 = 1;

/// Answers a request to a version that another server serves.
pub(crate) async fn serve(
    core: &Core,
    user: &User,
    remote: &Remote,
    mut parts: Parts,
    body: body::Incoming,
) -> Result<Response<Body>, Status> {
    let target = match (&remote.availability, &remote.target) {
        (Availability::Available, Some(target)) => target.clone(),
        _ => return Err(status::service_unavailable("service unavailable", RETRY_AFTER_SECONDS)),
    };
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let backend = Backend::Extension { target, identity: identity(user)? };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let address = PeerAddress::of(&parts.extensions);
    let passage = Passage { core, method: &parts.method, headers: &parts.headers, address, upgrade };
    pass(passage, body, &backend, path).await
}

/// The OpenAPI document of a version. Whoever may read such documents may read this one: it is asked for in the aggregator's own name.
pub(crate) async fn openapi_v3(core: &Core, remote: &Remote, parts: &Parts) -> Result<Response<Body>, Status> {
    let body = body::empty();
    let parts = parts.clone();
    serve(core, &probe::aggregator(), remote, parts, body).await
}

/// Who the caller is, in the words of the front proxy (authentication/request/headerrequest).
pub(super) fn identity(user: &User) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(status::internal(format!("user {:?} has a name, group or extra value that cannot stand in a header", user.name)));
        };
        headers.append(name, value);
        Ok(())
    };
    add("x-remote-user", &user.name)?;
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid)?;
    }
    user.groups.iter().try_for_each(|group| add("x-remote-group", group))?;
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escape(key));
        values.iter().try_for_each(|value| add(&name, value))?;
    }
    Ok(headers)
}

/// Keys of extra values may hold what no header's name may; such bytes are percent-encoded (client-go, transport, headerKeyEscape).
fn escape(key: &str) -> String {
    key.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => text.push(byte as char),
            byte if b"!#$&'*+-.^_`|~".contains(&byte) => text.push(byte as char),
            byte => text += &format!("%{byte:02X}"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_caller_in_headers() {
        let extra = BTreeMap::from([("example.com/team".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        let user = User { name: "anne".into(), uid: "7".into(), groups: vec!["x".into(), "y".into()], extra };
        let headers = identity(&user).unwrap();
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(",");
        assert_eq!((all("x-remote-user"), all("x-remote-uid"), all("x-remote-group")), ("anne".into(), "7".into(), "x,y".into()));
        assert_eq!(all("x-remote-extra-example.com%2Fteam"), "a,b");
        assert_eq!(escape("100%/é"), "100%25%2F%C3%A9");
        let forged = User { name: "a\r\nx-remote-group: system:masters".into(), ..user };
        assert_eq!(identity(&forged).unwrap_err().code, 500);
    }
}
