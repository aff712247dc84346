//! `WWW-Authenticate`: what a registry asks for (RFC 9110 §11.6.1; distribution, "token authentication").

/// Parameters of one challenge: real ones have three.
const PARAMETERS_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scope: String },
}

/// The strongest challenge of a header that we can answer: a token before a password.
pub(crate) fn parse(header: &str) -> Option<Challenge> {
    let mut best = None;
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(rest.len());
        let (scheme, after) = rest.split_at(end);
        let (parameters, after) = parameters(after);
        let of = |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = of("realm")
        {
            return Some(Challenge::Bearer { realm, service: of("service").unwrap_or_default(), scope: of("scope").unwrap_or_default() });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            best = Some(Challenge::Basic);
        }
        rest = after.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }
    best
}

/// `name=value` pairs up to the next scheme, and what follows them.
fn parameters(text: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let start = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        let Some((name, value)) = start.split_once('=') else { return (found, rest) };
        let name = name.trim_end();
        // Words before the sign are the next challenge's scheme.
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == ',') || found.len() == PARAMETERS_MAX {
            return (found, rest);
        }
        let (value, after) = value_of(value.trim_start());
        found.push((name.to_owned(), value));
        rest = after;
    }
}

/// A token or a quoted string.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_as_registries_write_them() {
        let bearer = |realm: &str, service: &str, scope: &str| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.into(), scope: scope.into() })
        };
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull,push""#,
                bearer("https://auth.docker.io/token", "registry.docker.io", "repository:library/nginx:pull,push"),
            ),
            (r#"Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            (r#"basic"#, Some(Challenge::Basic)),
            (r#"Basic realm="x", Bearer realm="https://a/t" , service=s"#, bearer("https://a/t", "s", "")),
            (r#"Negotiate, Basic realm="a \"b\"""#, Some(Challenge::Basic)),
            (r#"Digest realm="x""#, None),
            (r#"Bearer service="x""#, None),
            ("", None),
            ("=,=\"", None),
        ] {
            assert_eq!(parse(header), expected, "{header}");
        }
    }
}
