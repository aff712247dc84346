//! The forms of names. Each function returns the reasons why a value is not of the form; none means that it is.
//! Words and limits are those of apimachinery's `util/validation`.

/// Longest DNS label, in bytes (RFC 1123).
pub const DNS1123_LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes (RFC 1123).
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;
/// Longest label value, and longest name part of a qualified name, in bytes.
pub const LABEL_MAX: usize = 63;
/// Longest port name, in bytes (RFC 6335, IANA_SVC_NAME).
const PORT_NAME_MAX: usize = 15;

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

pub fn dns1123_label(value: &str) -> Vec<String> {
    limited(value, DNS1123_LABEL_MAX, is_label(value, lower_or_digit), DNS1123_LABEL)
}

pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    limited(value, DNS1123_SUBDOMAIN_MAX, is_subdomain(value), DNS1123_SUBDOMAIN)
}

/// The same for a search domain, where labels may have underscores.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let label = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label);
        is_label(&rest.replace('_', "-"), lower_or_digit)
    };
    let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
    limited(value, DNS1123_SUBDOMAIN_MAX, value.split('.').all(label), why)
}

pub fn dns1035_label(value: &str) -> Vec<String> {
    limited(value, DNS1123_LABEL_MAX, is_label(value, |c| c.is_ascii_lowercase()), DNS1035_LABEL)
}

/// `*.example.com`
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let rest = value.strip_prefix("*.");
    let ok = rest.is_some_and(is_subdomain);
    let why = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    limited(value, DNS1123_SUBDOMAIN_MAX, ok, why)
}

/// `name` or `prefix/name`, as of label keys and finalizers.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((prefix, name)) if !name.contains('/') => {
            if prefix.is_empty() {
                reasons.push("prefix part must be non-empty".to_owned());
            } else {
                reasons.extend(dns1123_subdomain(prefix).into_iter().map(|reason| format!("prefix part {reason}")));
            }
            name
        }
        Some(_) => {
            let form = QUALIFIED.trim_start_matches("name part must consist");
            return vec![format!(
                "a qualified name must consist{form} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        reasons.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        reasons.push(format!("name part must be no more than {LABEL_MAX} bytes"));
    }
    if !is_word(name) {
        reasons.push(QUALIFIED.to_owned());
    }
    reasons
}

/// A qualified name, or one of those from before there were any.
pub fn finalizer(value: &str) -> Vec<String> {
    let mut reasons = qualified_name(value);
    if !value.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&value) {
        reasons.push("name is neither a standard finalizer name nor is it fully qualified".to_owned());
    }
    reasons
}

pub fn label_value(value: &str) -> Vec<String> {
    limited(value, LABEL_MAX, value.is_empty() || is_word(value), LABEL_VALUE)
}

/// A key of a ConfigMap or Secret: it will be a file name.
pub fn config_key(value: &str) -> Vec<String> {
    let ok = !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
    let mut reasons = limited(value, DNS1123_SUBDOMAIN_MAX, ok, CONFIG_KEY);
    match value {
        "." => reasons.push("must not be '.'".to_owned()),
        ".." => reasons.push("must not be '..'".to_owned()),
        value if value.starts_with("..") => reasons.push("must not start with '..'".to_owned()),
        _ => {}
    }
    reasons
}

/// The name of an environment variable: any printable ASCII but `=` (relaxed in upstream 1.32).
pub fn env_name(value: &str) -> Vec<String> {
    let ok = !value.is_empty() && value.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=');
    let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    if ok { Vec::new() } else { vec![why.to_owned()] }
}

/// The name of a port: at most 15 of `a-z0-9-`, with a letter.
pub fn port_name(value: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if value.len() > PORT_NAME_MAX {
        reasons.push(format!("must be no more than {PORT_NAME_MAX} bytes"));
    }
    if !value.bytes().all(|c| lower_or_digit(c) || c == b'-') {
        reasons.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        reasons.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        reasons.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        reasons.push("must not begin or end with a hyphen".to_owned());
    }
    reasons
}

/// A name that can be a segment of a path (RBAC names).
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].into_iter().filter(|c| value.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A domain of at least two labels, with or without the last dot (upstream's IsFullyQualifiedDomainName).
pub fn full_domain(value: &str) -> Vec<String> {
    let value = value.strip_suffix('.').unwrap_or(value);
    let reasons = dns1123_subdomain(value);
    if !reasons.is_empty() {
        return vec![reasons.join(",")];
    }
    if !value.contains('.') {
        return vec!["should be a domain with at least two segments separated by dots".to_owned()];
    }
    value.split('.').flat_map(dns1123_label).collect()
}

/// `example.com/path`: a domain, and what it knows (upstream's IsDomainPrefixedPath).
pub fn domain_prefixed_path(value: &str) -> Vec<String> {
    let Some((domain, path)) = value.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty()) else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    };
    let mut reasons = dns1123_subdomain(domain);
    if !path.bytes().all(|c| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c)) {
        reasons.push("Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')".to_owned());
    }
    reasons
}

/// 1 to 65535, or the reason why not.
pub fn port_number(value: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&value)).then_some("must be between 1 and 65535, inclusive")
}

fn limited(value: &str, bytes_max: usize, ok: bool, form: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    if value.len() > bytes_max {
        reasons.push(format!("must be no more than {bytes_max} bytes"));
    }
    if !ok {
        reasons.push(form.to_owned());
    }
    reasons
}

fn lower_or_digit(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Lower-case letters, digits and inner hyphens; `first` says what it may begin with.
fn is_label(value: &str, first: fn(u8) -> bool) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(|c| first(*c))
        && bytes.last().is_some_and(|c| lower_or_digit(*c))
        && bytes.iter().all(|c| lower_or_digit(*c) || *c == b'-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(|label| is_label(label, lower_or_digit))
}

/// Letters, digits and inner `-_.`
fn is_word(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(form: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for value in good {
            assert_eq!(form(value), Vec::<String>::new(), "{value:?}");
        }
        for value in bad {
            assert!(!form(value).is_empty(), "{value:?} should not pass");
        }
    }

    #[test]
    fn each_form_takes_what_it_should() {
        let long = "a".repeat(64);
        check(dns1123_label, &["a", "0-a"], &["", "-a", "a-", "a.b", "A", &long]);
        check(dns1123_subdomain, &["a.b-c", "0", &long], &["", "a..b", ".a", "a_b", "A"]);
        check(dns1123_subdomain_with_underscore, &["a", "_tcp.a_b.c"], &["", "a_", "__a", "A"]);
        check(finalizer, &["kubernetes", "orphan", "x.io/y"], &["mine", "", "x/"]);
        check(dns1035_label, &["a-0"], &["0a", "", "a."]);
        check(qualified_name, &["a", "x.io/A_b.c", "A"], &["", "/a", "x/", "a/b/c", "-a", "X.io/a", &long]);
        check(label_value, &["", "A.b_c"], &["-a", "a/b", &long]);
        check(config_key, &["a", ".bashrc", "A_b-c.d"], &["", "..", ".", "..a", "a/b"]);
        check(env_name, &["A", "a.b-c", "0"], &["", "a=b", "é"]);
        check(port_name, &["http", "a-1"], &["", "123", "a--b", "-a", "abcdefghijklmnop"]);
        check(full_domain, &["a.io", "a.io."], &["", "a", "A.io"]);
        check(domain_prefixed_path, &["a.io/b", "a.io/B/c"], &["", "a.io", "/b", "a.io/", "A.io/b", "a.io/b c"]);
        check(path_segment, &["system:node", "a b"], &["a/b", "..", "%"]);
    }

    #[test]
    fn reasons_are_worded_as_upstream() {
        assert_eq!(dns1123_label(&"a".repeat(70)), ["must be no more than 63 bytes"]);
        assert!(dns1123_subdomain("A")[0].starts_with("a lowercase RFC 1123 subdomain must consist of"));
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
    }
}
