//! URL paths of the API: which resource, which object, which part of it.
//!
//! Parsing is by shape only; whether the resource exists and lives in namespaces is for the router to say. Authorisation looks at the same
//! parts that the router does, so that no spelling of a path can mean one thing to one and another to the other: every segment is decoded
//! once, and one that decodes to something with a slash, to `.` or to `..` is refused (CVE-2019-11247, CVE-2022-3162).

/// A request's path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Resource(ResourcePath),
    /// Discovery, health and the rest: everything that is no resource.
    Other,
}

/// `/api/v1/namespaces/a/pods/b/log` and its kind. Parts that are absent are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    /// For `namespaces/a` itself this is `a`, as it is upstream, so that a role in `a` can allow to read it.
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows the subresource, as the client wrote it; with its leading slash when there is one. Of this server's own subresources only `proxy`
    /// goes on; those of extension servers may.
    pub(crate) rest: String,
    /// The old `/api/v1/watch/...` form.
    pub(crate) watch: bool,
    /// Whether the path said `namespaces/<namespace>/` in front of the resource.
    pub(crate) namespaced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("a segment of the path is not percent-encoded UTF-8")]
    Encoding,
    #[error("a segment of the path is empty, \".\", \"..\" or holds a slash")]
    Segment,
}

/// The subresource whose rest of the path is the business of whoever is proxied to.
pub(crate) const PROXY: &str = "proxy";

pub(crate) fn parse(path: &str) -> Result<Target, PathError> {
    let Some((group, version, rest)) = split_version(path)? else { return Ok(Target::Other) };
    let mut target = ResourcePath { group, version, ..ResourcePath::default() };
    let mut segments = Segments { rest };
    let Some(mut first) = segments.next()? else { return Ok(Target::Other) };
    if first == "watch" {
        target.watch = true;
        match segments.next()? {
            Some(next) => first = next,
            None => return Ok(Target::Other),
        }
    }
    target.resource = first;
    if let Some(name) = segments.next()? {
        target.name = name;
    }
    let Some(mut third) = segments.next()? else {
        if target.resource == "namespaces" {
            target.namespace.clone_from(&target.name);
        }
        return Ok(Target::Resource(target));
    };
    if target.resource == "namespaces" {
        target.namespace.clone_from(&target.name);
        if third != "status" && third != "finalize" {
            target.namespaced = true;
            target.resource = third;
            target.name = segments.next()?.unwrap_or_default();
            match segments.next()? {
                Some(next) => third = next,
                None => return Ok(Target::Resource(target)),
            }
        }
    }
    target.subresource = third;
    let rest = segments.rest;
    if target.subresource == PROXY {
        target.rest = rest.to_owned();
    } else {
        let mut further = false;
        while segments.next()?.is_some() {
            further = true;
        }
        target.rest = if further { rest.to_owned() } else { String::new() };
    }
    Ok(Target::Resource(target))
}

/// Group, version and the rest of a path under `/api/<version>/` or `/apis/<group>/<version>/`; none for other paths.
fn split_version(path: &str) -> Result<Option<(String, String, &str)>, PathError> {
    let mut segments = Segments { rest: path };
    let group = match segments.next()?.as_deref() {
        Some("api") => String::new(),
        Some("apis") => match segments.next()? {
            Some(group) => group,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let Some(version) = segments.next()? else { return Ok(None) };
    Ok(Some((group, version, segments.rest)))
}

/// The segments of a path, decoded.
struct Segments<'a> {
    rest: &'a str,
}

impl Segments<'_> {
    /// None at the end; one slash there is as good as none.
    fn next(&mut self) -> Result<Option<String>, PathError> {
        let Some(rest) = self.rest.strip_prefix('/') else { return if self.rest.is_empty() { Ok(None) } else { Err(PathError::Segment) } };
        if rest.is_empty() {
            self.rest = rest;
            return Ok(None);
        }
        let (raw, after) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        self.rest = after;
        let segment = decode(raw)?;
        if segment.is_empty() || segment == "." || segment == ".." || segment.contains(['/', '\0']) {
            return Err(PathError::Segment);
        }
        Ok(Some(segment))
    }
}

fn decode(raw: &str) -> Result<String, PathError> {
    let bytes = raw.as_bytes();
    let mut escapes = bytes.iter().enumerate().filter(|(_, b)| **b == b'%').map(|(at, _)| at);
    if !escapes.all(|at| bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))) {
        return Err(PathError::Encoding);
    }
    Ok(percent_encoding::percent_decode_str(raw).decode_utf8().map_err(|_| PathError::Encoding)?.into_owned())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(path: &str, expected: Expect) {
        let text = match parse(path) {
            Ok(Target::Other) => "other".to_owned(),
            Ok(Target::Resource(p)) => {
                let ResourcePath { group, version, namespace, resource, name, subresource, rest, watch, namespaced } = p;
                let marks = [(watch, " watch"), (namespaced, " namespaced")].map(|(on, text)| if on { text } else { "" }).concat();
                format!("[{group}/{version}] ns={namespace} {resource} name={name} sub={subresource} rest={rest}{marks}")
            }
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn resources() {
        check("/api/v1/pods", expect!["[/v1] ns= pods name= sub= rest="]);
        check("/api/v1/nodes/n1/status", expect!["[/v1] ns= nodes name=n1 sub=status rest="]);
        check("/api/v1/namespaces/a/pods/b/log", expect!["[/v1] ns=a pods name=b sub=log rest= namespaced"]);
        check("/apis/apps/v1/namespaces/a/deployments/", expect!["[apps/v1] ns=a deployments name= sub= rest= namespaced"]);
        check("/api/v1/watch/namespaces/a/pods", expect!["[/v1] ns=a pods name= sub= rest= watch namespaced"]);
    }

    #[test]
    fn a_namespace_is_in_itself() {
        check("/api/v1/namespaces", expect!["[/v1] ns= namespaces name= sub= rest="]);
        check("/api/v1/namespaces/a", expect!["[/v1] ns=a namespaces name=a sub= rest="]);
        check("/api/v1/namespaces/a/status", expect!["[/v1] ns=a namespaces name=a sub=status rest="]);
        check("/api/v1/namespaces/a/finalize", expect!["[/v1] ns=a namespaces name=a sub=finalize rest="]);
    }

    #[test]
    fn proxies_keep_their_path() {
        check(
            "/api/v1/namespaces/a/services/https:b:80/proxy/x%2Fy/../z",
            expect!["[/v1] ns=a services name=https:b:80 sub=proxy rest=/x%2Fy/../z namespaced"],
        );
        check("/api/v1/nodes/n/proxy", expect!["[/v1] ns= nodes name=n sub=proxy rest="]);
    }

    #[test]
    fn what_is_no_resource() {
        for path in
            ["/", "/api", "/api/v1", "/api/v1/", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v3/api/v1", "/x/../y"]
        {
            check(path, expect!["other"]);
        }
    }

    #[test]
    fn tricks_are_refused() {
        for path in [
            "/api/v1/namespaces/../secrets",
            "/api/v1/namespaces/a%2Fsecrets",
            "/api/v1//pods",
            "/apis/apps%2fv1/deployments/x/y",
            "/api/v1/%2e%2e/x",
        ] {
            check(path, expect![[r#"a segment of the path is empty, ".", ".." or holds a slash"#]]);
        }
        check("/api/v1/pods/%zz", expect!["a segment of the path is not percent-encoded UTF-8"]);
        check("/api/v1/pods/%ff", expect!["a segment of the path is not percent-encoded UTF-8"]);
        check("/api/v1/namespaces/a/pods/b/log/../c", expect![[r#"a segment of the path is empty, ".", ".." or holds a slash"#]]);
    }

    #[test]
    fn what_follows_a_subresource_is_kept() {
        check("/apis/g/v1/namespaces/a/things/b/port/22/tcp", expect!["[g/v1] ns=a things name=b sub=port rest=/22/tcp namespaced"]);
        check("/apis/g/v1/namespaces/a/things/b/port/", expect!["[g/v1] ns=a things name=b sub=port rest= namespaced"]);
    }
}
