//! Field selectors: equality on the few fields that a kind declares.

use crate::kind::Kind;
use crate::status::{self, Status};

/// A field selector: `spec.nodeName=a,status.phase!=Failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    path: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    pub const EVERYTHING: FieldSelector = FieldSelector { terms: Vec::new() };

    /// A field that the kind does not declare is a 400, as upstream.
    pub fn parse(text: &str, kind: &Kind) -> Result<FieldSelector, Status> {
        let selector = FieldSelector::parse_any(text)?;
        let known = |path: &str| match path {
            "metadata.name" => true,
            "metadata.namespace" => kind.namespaced(),
            path => kind.selectable.iter().any(|field| field.path == path),
        };
        if let Some(path) = selector.paths().find(|path| !known(path)) {
            return Err(status::bad_request(format!("field label not supported: {path}")));
        }
        Ok(selector)
    }

    /// Of fields of whatever kind.
    pub fn parse_any(text: &str) -> Result<FieldSelector, Status> {
        let terms = split(text).into_iter().map(|part| {
            term(part).ok_or_else(|| {
                status::bad_request(format!("unable to parse field selector: invalid selector: '{text}'; can't understand '{part}'"))
            })
        });
        Ok(FieldSelector { terms: terms.collect::<Result<_, _>>()? })
    }

    /// Of paths, whether they must be equal, and values.
    pub fn of_terms(terms: impl IntoIterator<Item = (String, bool, String)>) -> FieldSelector {
        FieldSelector { terms: terms.into_iter().map(|(path, equal, value)| Term { path, equal, value }).collect() }
    }

    /// As [`FieldSelector::of_terms`] takes them.
    pub fn terms(&self) -> impl Iterator<Item = (&str, bool, &str)> {
        self.terms.iter().map(|term| (&*term.path, term.equal, &*term.value))
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that a field must equal, if the selector says so: to narrow a read to one name or namespace.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.path == path).map(|term| term.value.as_str())
    }

    /// `fields`: the value of a selectable field of the object. A field without a value equals "".
    pub fn matches<'a>(&self, fields: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|term| (fields(&term.path).unwrap_or("") == term.value) == term.equal)
    }

    /// The paths that it looks at.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|term| term.path.as_str())
    }
}

/// At commas that no backslash escapes; empty parts are passed over, as upstream.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in text.char_indices() {
        if c == ',' && !escaped {
            parts.push(&text[start..index]);
            start = index + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.is_empty());
    parts
}

/// `None` where there is no operator or a broken escape.
fn term(part: &str) -> Option<Term> {
    let at = part.find(['=', '!'])?;
    let (path, rest) = part.split_at(at);
    let (equal, value) = match rest {
        rest if rest.starts_with("!=") => (false, &rest[2..]),
        rest if rest.starts_with("==") => (true, &rest[2..]),
        rest if rest.starts_with('=') => (true, &rest[1..]),
        _ => return None,
    };
    Some(Term { path: path.trim().to_owned(), equal, value: unescape(value)? })
}

/// `\,`, `\=` and `\\` are the escapes; a bare comma or equals sign is none.
fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                c @ ('\\' | ',' | '=') => out.push(c),
                _ => return None,
            },
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kinds;

    #[test]
    fn terms_match_and_unknown_fields_are_refused() {
        let pods = Kinds::builtin().resource("", "v1", "pods").unwrap();
        let selector = FieldSelector::parse("spec.nodeName=a,status.phase!=Failed", &pods).unwrap();
        let fields = |node: &'static str, phase: &'static str| move |path: &str| Some(if path == "spec.nodeName" { node } else { phase });
        assert!(selector.matches(fields("a", "Running")));
        assert!(!selector.matches(fields("a", "Failed")));
        assert!(!selector.matches(fields("b", "Running")));
        assert_eq!(selector.exact("spec.nodeName"), Some("a"));
        assert_eq!(selector.exact("status.phase"), None);
        let error = FieldSelector::parse("spec.foo=a", &pods).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, "field label not supported: spec.foo"));
        for text in ["metadata.name", "metadata.name=a=b", "metadata.name=a\\x"] {
            assert_eq!(FieldSelector::parse(text, &pods).unwrap_err().code, 400, "{text}");
        }
        let escaped = FieldSelector::parse("metadata.name=a\\,b\\=c", &pods).unwrap();
        assert_eq!(escaped.exact("metadata.name"), Some("a,b=c"));
        assert!(FieldSelector::parse("", &pods).unwrap().is_empty());
    }
}
