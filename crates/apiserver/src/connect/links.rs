//! Links of proxied pages: those to the backend's own root lead through the proxy once more (apimachinery, util/proxy/transport.go).
//!
//! The page passes as it comes, tag by tag. Only values of attributes that are URLs change; everything else stays byte for byte.

use std::{io::Write as _, ops::Range};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures::{StreamExt, stream};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;

use crate::body::{Body, BodyError};

/// Bytes of a tag or comment that are waited for. What comes of a longer one passes as it is, and what follows is read as text of the page: links in
/// the rest of a longer comment are changed, too, which nobody sees.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Bytes of a page that are taken at a time: packed ones become a thousand times as many at worst.
const PIECE_BYTES: usize = 4 << 10;

/// The attributes that are URLs, by their tags (HTML 4.01 and HTML 5, as upstream knows them).
const ATTRIBUTES: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text up to their end tag, whatever it looks like.
const TEXT: [&str; 8] = ["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

/// What is to become of links.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// The path of the proxy, without a slash at its end.
    pub(super) prefix: String,
    /// The backend's address.
    pub(super) backend: String,
    /// The host that the client asked.
    pub(super) host: String,
}

impl Links {
    /// Makes the answer's Location and the links of its page lead through the proxy.
    pub(super) fn lead_back(self, mut response: Response<Body>) -> Response<Body> {
        if let Some(location) = response.headers().get(header::LOCATION) {
            let changed = location.to_str().ok().and_then(|url| HeaderValue::try_from(self.url(url)).ok());
            if let Some(changed) = changed {
                response.headers_mut().insert(header::LOCATION, changed);
            }
            return response;
        }
        let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let html = text(header::CONTENT_TYPE).split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("text/html"));
        let unpack = match text(header::CONTENT_ENCODING) {
            "" => None,
            "gzip" => Some(MultiGzDecoder::new(Vec::new())),
            _ => return response,
        };
        // A part of a page cannot be read, and where there is none nothing is to be changed.
        let whole = !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
            && !response.headers().contains_key(header::CONTENT_RANGE)
            && response.body().exact_len() != Some(0)
            && !text(header::CONTENT_LENGTH).eq("0");
        if !html || !whole {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.remove(header::CONTENT_ENCODING);
        Response::from_parts(parts, rewritten(body, Page { links: self, unpack, pending: Vec::new(), inside: None }))
    }

    /// A URL that a page has, as it reaches the same through the proxy.
    fn url(&self, url: &str) -> String {
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?', '#']) => (&url[..scheme.len() + 1], Some(rest)),
            _ => ("", url.strip_prefix("//")),
        };
        let (authority, path) = match rest {
            Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            None => ("", url),
        };
        let elsewhere = !authority.is_empty() && authority != self.backend && authority != self.host;
        if elsewhere || !path.starts_with('/') {
            return url.to_owned();
        }
        // Who already names the host that the client asked keeps it; the backend's address means nothing to the client.
        let origin = if !authority.is_empty() && authority == self.host { format!("{scheme}//{authority}") } else { String::new() };
        let prefix = if path.starts_with(&self.prefix) { "" } else { &self.prefix };
        format!("{origin}{prefix}{path}")
    }
}

fn rewritten(body: Body, page: Page) -> Body {
    let state = Some((body.into_data_stream(), Bytes::new(), page));
    Body::stream(stream::try_unfold(state, |state| async move {
        let Some((mut input, mut waiting, mut page)) = state else { return Ok::<_, BodyError>(None) };
        loop {
            if waiting.is_empty() {
                match input.next().await {
                    Some(chunk) => waiting = chunk?,
                    None => return Ok(Some((page.finish()?.into(), None))),
                }
            }
            let piece = waiting.split_to(waiting.len().min(PIECE_BYTES));
            let ready = page.push(&piece)?;
            if !ready.is_empty() {
                return Ok(Some((Bytes::from(ready), Some((input, waiting, page)))));
            }
        }
    }))
}

/// A page on its way.
struct Page {
    links: Links,
    unpack: Option<MultiGzDecoder<Vec<u8>>>,
    /// The beginning of a token whose end is still to come.
    pending: Vec<u8>,
    /// The element whose text it is in.
    inside: Option<&'static str>,
}

impl Page {
    /// What can be sent on after these bytes.
    fn push(&mut self, piece: &[u8]) -> std::io::Result<Vec<u8>> {
        match &mut self.unpack {
            Some(unpack) => {
                unpack.write_all(piece)?;
                self.pending.append(unpack.get_mut());
            }
            None => self.pending.extend_from_slice(piece),
        }
        Ok(self.take())
    }

    fn finish(&mut self) -> std::io::Result<Vec<u8>> {
        if let Some(unpack) = &mut self.unpack {
            unpack.try_finish()?;
            self.pending.append(unpack.get_mut());
        }
        let mut last = self.take();
        last.append(&mut self.pending);
        Ok(last)
    }

    /// The complete tokens, with their links changed.
    fn take(&mut self) -> Vec<u8> {
        let whole = std::mem::take(&mut self.pending);
        let (mut out, mut rest) = (Vec::with_capacity(whole.len()), &whole[..]);
        while !rest.is_empty() {
            let length = match self.inside {
                Some(element) => self.text(element, rest, &mut out),
                None => self.token(rest, &mut out),
            };
            let Some(length) = length else { break };
            rest = &rest[length..];
        }
        if rest.len() > TOKEN_BYTES_MAX {
            out.extend_from_slice(rest);
            rest = &[];
        }
        self.pending = rest.to_vec();
        out
    }

    /// Sends the next token on; its length, or none while its end is missing.
    fn token(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let until = |end: &[u8]| find(rest, end).map(|at| at + end.len());
        let length = match rest {
            [b'<'] => return None,
            [b'<', b'!', ..] if rest.len() < 4 => return None,
            [b'<', b'!', b'-', b'-', ..] => until(b"-->")?,
            [b'<', b'!' | b'?' | b'/', ..] => until(b">")?,
            [b'<', letter, ..] if letter.is_ascii_alphabetic() => return self.tag(rest, out),
            _ => 1 + rest[1..].iter().position(|byte| *byte == b'<').unwrap_or(rest.len() - 1),
        };
        out.extend_from_slice(&rest[..length]);
        Some(length)
    }

    fn tag(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let tag = Tag::read(rest)?;
        let name = String::from_utf8_lossy(&rest[tag.name.clone()]).to_ascii_lowercase();
        let urls = ATTRIBUTES.iter().find(|(tag, _)| *tag == name).map_or(&[][..], |(_, urls)| urls);
        let mut done = 0;
        for (attribute, value) in tag.attributes {
            let is_url = urls.iter().any(|url| url.as_bytes().eq_ignore_ascii_case(&rest[attribute.clone()]));
            // What is not UTF-8 is no URL of ours.
            if let (true, Ok(url)) = (is_url, std::str::from_utf8(&rest[value.clone()])) {
                out.extend_from_slice(&rest[done..value.start]);
                out.extend_from_slice(self.links.url(url).as_bytes());
                done = value.end;
            }
        }
        out.extend_from_slice(&rest[done..tag.length]);
        self.inside = TEXT.into_iter().find(|element| *element == name);
        Some(tag.length)
    }

    /// Sends the text of `element` on, up to its end tag; its length, or none while it may be that tag's beginning.
    fn text(&mut self, element: &str, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let end = format!("</{element}");
        let length = match find(rest, end.as_bytes()) {
            Some(0) => {
                self.inside = None;
                return Some(0);
            }
            Some(length) => length,
            // All but what may be the beginning of the end.
            None => rest.len().checked_sub(end.len() - 1).filter(|length| *length > 0)?,
        };
        out.extend_from_slice(&rest[..length]);
        Some(length)
    }
}

/// Where the parts of a start tag are.
struct Tag {
    name: Range<usize>,
    /// Names, and values without their quotes.
    attributes: Vec<(Range<usize>, Range<usize>)>,
    length: usize,
}

impl Tag {
    /// None while its end is missing (HTML Standard, 13.2.5, tag and attribute states).
    fn read(bytes: &[u8]) -> Option<Self> {
        let skip = |from: usize, over: fn(&u8) -> bool| Some(from + bytes[from..].iter().position(|byte| !over(byte))?);
        let space = |byte: &u8| byte.is_ascii_whitespace();
        let mut at = skip(1, |byte| !byte.is_ascii_whitespace() && !b"/>".contains(byte))?;
        let (name, mut attributes) = (1..at, Vec::new());
        loop {
            at = skip(at, |byte| byte.is_ascii_whitespace() || *byte == b'/')?;
            if bytes[at] == b'>' {
                return Some(Self { name, attributes, length: at + 1 });
            }
            // An equals sign at the beginning is part of the name.
            let end = skip(at + 1, |byte| !byte.is_ascii_whitespace() && !b"=/>".contains(byte))?;
            let attribute = at..end;
            at = skip(end, space)?;
            if bytes[at] != b'=' {
                continue;
            }
            at = skip(at + 1, space)?;
            let value = match bytes[at] {
                quote @ (b'"' | b'\'') => at + 1..at + 1 + bytes[at + 1..].iter().position(|byte| *byte == quote)?,
                _ => at..skip(at, |byte| !byte.is_ascii_whitespace() && *byte != b'>')?,
            };
            // Past the quote that ends it.
            at = value.end + usize::from(value.start > at);
            attributes.push((attribute, value));
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links { prefix: "/api/v1/p/proxy".into(), backend: "10.0.0.1:80".into(), host: "k8s:6443".into() }
    }

    fn check(page: &str, expected: &str) {
        // However it is cut, the same comes out.
        for size in [1, 2, 3, 7, page.len()] {
            let mut on_its_way = Page { links: links(), unpack: None, pending: Vec::new(), inside: None };
            let mut out = Vec::new();
            for piece in page.as_bytes().chunks(size) {
                out.extend(on_its_way.push(piece).unwrap());
            }
            out.extend(on_its_way.finish().unwrap());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn urls_of_the_backend_lead_through_the_proxy() {
        for (url, expected) in [
            ("/x", "/api/v1/p/proxy/x"),
            ("/", "/api/v1/p/proxy/"),
            ("/x?u=http://a/#b", "/api/v1/p/proxy/x?u=http://a/#b"),
            ("http://10.0.0.1:80/x", "/api/v1/p/proxy/x"),
            ("//10.0.0.1:80/x", "/api/v1/p/proxy/x"),
            ("https://k8s:6443/x", "https://k8s:6443/api/v1/p/proxy/x"),
            ("/api/v1/p/proxy/x", "/api/v1/p/proxy/x"),
            ("x/y", "x/y"),
            ("#x", "#x"),
            ("", ""),
            ("mailto:a@b", "mailto:a@b"),
            ("data:text/plain,a", "data:text/plain,a"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
            ("http://example.com/x", "http://example.com/x"),
        ] {
            assert_eq!(links().url(url), expected, "{url}");
        }
    }

    #[test]
    fn only_attributes_that_are_urls_change() {
        check(r#"<a href="/rewriteme">test</a>"#, r#"<a href="/api/v1/p/proxy/rewriteme">test</a>"#);
        check("<A Class=x HREF = '/a'>/a</A>", "<A Class=x HREF = '/api/v1/p/proxy/a'>/a</A>");
        check("<img src=/a.png alt=/b><br/>", "<img src=/api/v1/p/proxy/a.png alt=/b><br/>");
        check(r#"<a title="a > b" data-x='"' href="/c">"#, r#"<a title="a > b" data-x='"' href="/api/v1/p/proxy/c">"#);
        check(r#"<p href="/a"> 1 < 2 <- "#, r#"<p href="/a"> 1 < 2 <- "#);
        check("ü <b", "ü <b");
    }

    #[test]
    fn comments_and_scripts_are_text() {
        check(r#"<!-- <a href="/a"> --><!DOCTYPE html>"#, r#"<!-- <a href="/a"> --><!DOCTYPE html>"#);
        check(
            r#"<script src="/s.js">x = '<a href="/a">' < 1</Script><a href="/b">"#,
            r#"<script src="/api/v1/p/proxy/s.js">x = '<a href="/a">' < 1</Script><a href="/api/v1/p/proxy/b">"#,
        );
    }

    #[test]
    fn what_never_ends_is_not_waited_for() {
        let mut page = Page { links: links(), unpack: None, pending: Vec::new(), inside: None };
        let long = vec![b'x'; TOKEN_BYTES_MAX];
        assert!(page.push(b"<a href='").unwrap().is_empty());
        assert_eq!(page.push(&long).unwrap().len(), TOKEN_BYTES_MAX + 9);
    }
}
