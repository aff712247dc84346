//! Where a webhook is called: exactly one of a URL and a Service (apiserver, pkg/util/webhook/validation.go).

use serde_json::Value;

use crate::error::{FieldError, FieldErrors};
use crate::names;

pub(crate) fn client(config: &Value, at: &str, errors: &mut FieldErrors) {
    match (config["url"].as_str(), &config["service"]) {
        (Some(url), Value::Null) => check_url(url, &format!("{at}.url"), errors),
        (None, service @ Value::Object(_)) => check_service(service, &format!("{at}.service"), errors),
        _ => errors.push(FieldError::required(at, "exactly one of url or service is required")),
    }
}

fn check_url(url: &str, at: &str, errors: &mut FieldErrors) {
    let form = "; desired format: https://host[/path]";
    let parts = match Parts::of(url) {
        Ok(parts) => parts,
        Err(why) => {
            errors.push(FieldError::required(at, &format!("url must be a valid URL: parse {url:?}: {why}{form}")));
            return;
        }
    };
    let mut fault = |value: &str, detail: &str| errors.push(FieldError::invalid(at, &value.into(), detail));
    if parts.scheme != "https" {
        fault(&parts.scheme, &format!("'https' is the only allowed URL scheme{form}"));
    }
    if parts.host.is_empty() {
        fault("", &format!("host must be provided{form}"));
    }
    if let Some(user) = parts.user {
        fault(user, "user information is not permitted in the URL");
    }
    if !parts.fragment.is_empty() {
        fault(parts.fragment, "fragments are not permitted in the URL");
    }
    if !parts.query.is_empty() {
        fault(parts.query, "query parameters are not permitted in the URL");
    }
}

/// A URL as Go's net/url takes it apart, so far as the rules look at it.
struct Parts<'a> {
    scheme: String,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Result<Parts<'a>, String> {
        if url.bytes().any(|c| c < b' ' || c == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (scheme, rest) = match rest.split_once(':') {
            Some(("", _)) => return Err("missing protocol scheme".to_owned()),
            Some((word, after)) if is_scheme(word) => (word.to_ascii_lowercase(), after),
            Some((segment, _)) if !segment.contains(['/', '?']) => {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
            _ => (String::new(), rest),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or(""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if let Some((_, port)) = host.rsplit_once(':')
            && !host.ends_with(']')
            && !port.bytes().all(|c| c.is_ascii_digit())
        {
            return Err(format!("invalid port {:?} after host", format!(":{port}")));
        }
        Ok(Parts { scheme, user, host, query, fragment })
    }
}

fn is_scheme(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c))
}

/// Upstream swaps the two names when it calls this, and so tells the one that is there to be missing; here each is told under its own name.
fn check_service(service: &Value, at: &str, errors: &mut FieldErrors) {
    for key in ["name", "namespace"] {
        if service[key].as_str().unwrap_or("").is_empty() {
            errors.push(FieldError::required(format!("{at}.{key}"), &format!("service {key} is required")));
        }
    }
    let port = service["port"].as_i64().unwrap_or(443);
    if let Some(why) = names::port_number(port) {
        errors.push(FieldError::invalid(format!("{at}.port"), &port.into(), &format!("port is not valid: {why}")));
    }
    check_path(service["path"].as_str().unwrap_or(""), &format!("{at}.path"), errors);
}

fn check_path(path: &str, at: &str, errors: &mut FieldErrors) {
    let mut fault = |detail: &str| errors.push(FieldError::invalid(at, &path.into(), detail));
    match path {
        "" | "/" => return,
        "//" => return fault("segment[0] may not be empty"),
        _ if !path.starts_with('/') => fault("must start with a '/'"),
        _ => {}
    }
    let mut inner = path.chars();
    inner.next();
    let inner = inner.as_str();
    for (index, segment) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if segment.is_empty() {
            fault(&format!("segment[{index}] may not be empty"));
            continue;
        }
        for reason in names::dns1123_subdomain(segment) {
            fault(&format!("segment[{index}]: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(config: Value, expected: &[&str]) {
        let mut errors = Vec::new();
        client(&config, "c", &mut errors);
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, expected, "{config}");
    }

    #[test]
    fn a_webhook_is_called_at_one_plain_https_url() {
        let form = "; desired format: https://host[/path]";
        let scheme = |scheme: &str| format!("c.url: Invalid value: {scheme:?}: 'https' is the only allowed URL scheme{form}");
        let host = format!("c.url: Invalid value: \"\": host must be provided{form}");
        let parse = |url: &str, why: &str| format!("c.url: Required value: url must be a valid URL: parse {url:?}: {why}{form}");
        for (url, expected) in [
            ("https://a.example:8443/x", vec![]),
            ("https://[fd00::1]/x", vec![]),
            ("HTTPS://a.example", vec![]),
            ("http://a.example", vec![scheme("http")]),
            ("a.example/x", vec![scheme(""), host.clone()]),
            ("https:///x", vec![host]),
            ("https://u:p@a.example", vec!["c.url: Invalid value: \"u:p\": user information is not permitted in the URL".to_owned()]),
            (
                "https://a.example?x=1#y",
                vec![
                    "c.url: Invalid value: \"y\": fragments are not permitted in the URL".to_owned(),
                    "c.url: Invalid value: \"x=1\": query parameters are not permitted in the URL".to_owned(),
                ],
            ),
            ("127.0.0.1:8443", vec![parse("127.0.0.1:8443", "first path segment in URL cannot contain colon")]),
            (":x", vec![parse(":x", "missing protocol scheme")]),
            ("https://a:b", vec![parse("https://a:b", "invalid port \":b\" after host")]),
        ] {
            check(json!({ "url": url }), &expected.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    #[test]
    fn or_at_a_service() {
        let one = "c: Required value: exactly one of url or service is required";
        check(json!({}), &[one]);
        check(json!({"url": "https://a", "service": {}}), &[one]);
        let service = |path: &str| json!({"service": {"namespace": "n", "name": "s", "port": 443, "path": path}});
        for path in ["", "/", "/a", "/a/b.c/"] {
            check(service(path), &[]);
        }
        check(service("//"), &["c.service.path: Invalid value: \"//\": segment[0] may not be empty"]);
        check(service("xa"), &["c.service.path: Invalid value: \"xa\": must start with a '/'"]);
        check(service("/a//b"), &["c.service.path: Invalid value: \"/a//b\": segment[1] may not be empty"]);
        let subdomain = &names::dns1123_subdomain("B")[0];
        check(service("/a/B"), &[&format!("c.service.path: Invalid value: \"/a/B\": segment[1]: {subdomain}")]);
        check(
            json!({"service": {"port": 0}}),
            &[
                "c.service.name: Required value: service name is required",
                "c.service.namespace: Required value: service namespace is required",
                "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ],
        );
    }
}
