//! The authenticating proxy: who shows a certificate of the proxies' authority may say in headers for whom he asks
//! (apiserver, pkg/authentication/request/headerrequest). Headers of anyone else mean nothing.

use http::HeaderMap;

use super::impersonate::unescape;
use crate::User;

/// What a proxy's headers are called, and what proxies are.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// PEM of the authority that signs proxies' certificates; none: the cluster's own front-proxy authority.
    pub authority: Option<String>,
    /// Common names that a proxy's certificate may have; none: any.
    pub names: Vec<String>,
    pub user_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl Default for Proxy {
    /// kubeadm's choice, which extension servers expect.
    fn default() -> Proxy {
        let one = |text: &str| vec![text.to_owned()];
        Proxy {
            authority: None,
            names: one("front-proxy-client"),
            user_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }
}

impl Proxy {
    pub(crate) fn is_proxy(&self, common_name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| name == common_name)
    }

    /// Takes away what says for whom a proxy asks: nobody behind us may hear it from a caller.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        let named = [&self.user_headers, &self.uid_headers, &self.group_headers];
        for name in named.into_iter().flatten() {
            headers.remove(name.as_str());
        }
        let prefixes: Vec<String> = self.extra_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase()).collect();
        let extra: Vec<_> =
            headers.keys().filter(|name| prefixes.iter().any(|prefix| name.as_str().starts_with(prefix))).cloned().collect();
        for name in extra {
            headers.remove(name);
        }
    }

    /// For whom the proxy asks; `None` where it names nobody.
    pub(super) fn user(&self, headers: &HeaderMap) -> Option<User> {
        let first = |names: &[String]| {
            names.iter().flat_map(|name| headers.get(name.as_str())).find_map(|value| value.to_str().ok().filter(|text| !text.is_empty()))
        };
        let name = first(&self.user_headers)?;
        let groups = self.group_headers.iter().flat_map(|name| headers.get_all(name.as_str()));
        let mut user = User::authenticated(name, groups.filter_map(|value| value.to_str().ok()));
        user.uid = first(&self.uid_headers).unwrap_or_default().to_owned();
        for (name, value) in headers {
            let key = self.extra_prefixes.iter().find_map(|prefix| name.as_str().strip_prefix(prefix.to_ascii_lowercase().as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                user.extra.entry(unescape(key).to_lowercase()).or_default().push(value.to_owned());
            }
        }
        Some(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_make_a_user() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "ann"),
            ("x-remote-group", "devs"),
            ("x-remote-group", "ops"),
            ("x-remote-uid", "u1"),
            ("x-remote-extra-acme.com%2fproject", "a"),
            ("x-remote-extra-scopes", "b"),
        ] {
            headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let user = Proxy::default().user(&headers).unwrap();
        assert_eq!((&*user.name, &*user.uid), ("ann", "u1"));
        assert_eq!(user.groups, ["devs", "ops", "system:authenticated"]);
        assert_eq!(user.extra["acme.com/project"], ["a"]);
        assert_eq!(user.extra["scopes"], ["b"]);
        headers.remove("x-remote-user");
        assert_eq!(Proxy::default().user(&headers), None);
    }
}
