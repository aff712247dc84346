//! Image references: what people write, made whole the way Docker and the CRI do (distribution/reference, normalize.go).

use std::fmt;

use super::digest::Digest;
use super::error::ImageError;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// Bytes of registry and repository together (distribution/reference, RepositoryNameTotalLengthMax).
const NAME_BYTES_MAX: usize = 255;

/// Bytes of a tag (OCI distribution-spec, "Pulling manifests").
const TAG_BYTES_MAX: usize = 128;

/// `docker.io/library/nginx:1.25`, or with a digest, which then decides alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reference {
    /// Host and port.
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Reference, ImageError> {
        parse(text).map_err(|reason| ImageError::Reference { reference: text.chars().take(NAME_BYTES_MAX).collect(), reason })
    }

    /// Registry and repository.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    pub(crate) fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

/// The canonical form. A tag beside a digest is dropped, since it says nothing more.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        None => (text, None),
        Some((rest, digest)) => (rest, Some(Digest::parse(digest).ok_or("the digest must be sha256: and 64 hexadecimal digits")?)),
    };
    // A colon after the last slash starts the tag; before it, it belongs to the registry's port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].find(':') {
        None => (rest, None),
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
    };
    if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("64 hexadecimal digits are an image id; write sha256: before them");
    }
    let (registry, repository) = split_registry(name);
    if !is_registry(&registry) {
        return Err("the registry is not a host name with an optional port");
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository name must be lower case");
    }
    if !repository.split('/').all(is_path_component) {
        return Err("the repository name may have letters, digits and single separators . _ - between them");
    }
    if registry.len() + 1 + repository.len() > NAME_BYTES_MAX {
        return Err("the name is longer than 255 bytes");
    }
    if !tag.is_none_or(is_tag) {
        return Err("a tag has up to 128 letters, digits, _ . and -, and starts with none of . -");
    }
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { registry, repository, tag, digest })
}

fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase()) => {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        (registry.to_owned(), format!("{DEFAULT_NAMESPACE}{repository}"))
    } else {
        (registry.to_owned(), repository.to_owned())
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => return address.parse::<std::net::Ipv6Addr>().is_ok(),
        Some((address, port)) => match port.strip_prefix(':') {
            Some(port) if address.parse::<std::net::Ipv6Addr>().is_ok() => return is_port(port),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `[a-z0-9]+` parts joined by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes
        .split(alphanumeric)
        .filter(|separator| !separator.is_empty())
        .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    text.len() <= TAG_BYTES_MAX
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        match Reference::parse(text) {
            Ok(reference) => assert_eq!(reference.to_string(), expected, "{text}"),
            Err(ImageError::Reference { reason, .. }) => assert_eq!(format!("! {reason}"), expected, "{text}"),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_names_are_made_whole() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.25", "docker.io/library/nginx:1.25");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
        check("docker.io/nginx", "docker.io/library/nginx:latest");
        check("bitnami/redis", "docker.io/bitnami/redis:latest");
        check("localhost/app", "localhost/app:latest");
        check("localhost:5000/app", "localhost:5000/app:latest");
        check("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9");
        check("quay.io/a/b/c:v1", "quay.io/a/b/c:v1");
        check("[::1]:5000/app", "[::1]:5000/app:latest");
        check("a__b/c-d---e.f", "docker.io/a__b/c-d---e.f:latest");
    }

    #[test]
    fn a_digest_decides_alone() {
        check(&format!("nginx@sha256:{HEX}"), &format!("docker.io/library/nginx@sha256:{HEX}"));
        check(&format!("nginx:1@sha256:{HEX}"), &format!("docker.io/library/nginx@sha256:{HEX}"));
    }

    #[test]
    fn what_is_no_reference_says_why() {
        check("", "! the repository name may have letters, digits and single separators . _ - between them");
        check("Nginx", "! the repository name must be lower case");
        check("a//b", "! the repository name may have letters, digits and single separators . _ - between them");
        check("../etc", "! the registry is not a host name with an optional port");
        check("a/../b", "! the repository name may have letters, digits and single separators . _ - between them");
        check("a._b", "! the repository name may have letters, digits and single separators . _ - between them");
        check("nginx:", "! a tag has up to 128 letters, digits, _ . and -, and starts with none of . -");
        check("nginx:-1", "! a tag has up to 128 letters, digits, _ . and -, and starts with none of . -");
        check("host:99999/app", "! the registry is not a host name with an optional port");
        check("nginx@sha256:12", "! the digest must be sha256: and 64 hexadecimal digits");
        check(HEX, "! 64 hexadecimal digits are an image id; write sha256: before them");
        check(&"a".repeat(250), "! the name is longer than 255 bytes");
    }
}
