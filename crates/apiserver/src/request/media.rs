//! Content negotiation: what a client sends and what it can read.

use knarr_api::decode;
use serde_json::Value;

/// Media types that bodies can have and answers can be given in, in upstream's order of preference. Kinds made at run time have no protobuf.
pub(crate) const SUPPORTED: [&str; 3] = [JSON, YAML, PROTOBUF];

pub(crate) const JSON: &str = "application/json";
pub(crate) const YAML: &str = "application/yaml";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Accept headers of real clients list up to six types; more than this is noise.
const RANGES_MAX: usize = 32;

/// One alternative of an Accept header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Range<'a> {
    /// `application/json`, `application/*`, `*/*`
    pub(crate) media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Range<'a> {
    pub(crate) fn param(&self, name: &str) -> Option<&'a str> {
        self.params.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// 0 for a type in full, 2 for `*/*`.
    fn wildcards(&self) -> usize {
        self.media.split('/').filter(|part| *part == "*").count()
    }

    pub(crate) fn accepts(&self, media: &str) -> bool {
        self.media == media || self.media == "*/*" || self.media.strip_suffix("/*").is_some_and(|top| media.split('/').next() == Some(top))
    }
}

/// The alternatives of an Accept header, the best first. An absent header accepts everything.
pub(crate) fn ranges(accept: Option<&str>) -> Vec<Range<'_>> {
    let accept = accept.map(str::trim).filter(|accept| !accept.is_empty()).unwrap_or("*/*");
    let mut ranges: Vec<_> = accept.split(',').take(RANGES_MAX).filter_map(range).filter(|range| range.quality > 0.0).collect();
    // Stable: among equals the client's order counts, but what is said exactly comes before wildcards (goautoneg).
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality).then_with(|| a.wildcards().cmp(&b.wildcards())));
    ranges
}

fn range(text: &str) -> Option<Range<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().filter(|media| !media.is_empty())?;
    let mut range = Range { media, params: Vec::new(), quality: 1.0 };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        match key {
            "q" => range.quality = value.parse().ok().filter(|q: &f32| q.is_finite())?,
            _ => range.params.push((key, value)),
        }
    }
    Some(range)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    Json,
    Yaml,
    Protobuf,
}

impl Format {
    pub(crate) fn media(self) -> &'static str {
        match self {
            Self::Json => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }
}

/// What can be given of a resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// Tables, and metadata alone.
    pub(crate) shapes: bool,
    /// The whole object in protobuf. Metadata alone is had in protobuf of every kind.
    pub(crate) protobuf: bool,
}

impl Offer {
    pub(crate) const ALL: Self = Self { shapes: true, protobuf: true };
    /// Of what is no object of a kind: discovery, versions.
    pub(crate) const DOCUMENT: Self = Self { shapes: false, protobuf: true };

    /// Media types to name in a refusal.
    pub(crate) fn media(self) -> &'static [&'static str] {
        if self.protobuf { &SUPPORTED } else { &SUPPORTED[..2] }
    }

    fn has(self, format: Format, shape: Shape) -> bool {
        match shape {
            Shape::Whole => self.protobuf || format != Format::Protobuf,
            // Tables have no protobuf form (meta/v1/types.go).
            Shape::Table => self.shapes && format != Format::Protobuf,
            Shape::Metadata => self.shapes,
        }
    }
}

/// What of an object the client wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    Whole,
    Table,
    Metadata,
}

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    /// Of meta.k8s.io, for shapes other than [`Shape::Whole`].
    pub(crate) version: &'static str,
    pub(crate) pretty: bool,
}

impl Answer {
    pub(crate) const JSON: Self = Self { format: Format::Json, shape: Shape::Whole, version: "v1", pretty: false };

    /// The first alternative that is on offer.
    pub(crate) fn negotiate(accept: Option<&str>, offer: Offer) -> Option<Self> {
        ranges(accept).iter().filter(|range| range.param("stream").is_none_or(|stream| stream == "watch")).find_map(|range| {
            let (shape, version) = shape(range)?;
            let mut formats = [Format::Json, Format::Yaml, Format::Protobuf].into_iter();
            let format = formats.find(|format| range.accepts(format.media()) && offer.has(*format, shape))?;
            Some(Self { format, shape, version, pretty: false })
        })
    }
}

fn shape(range: &Range<'_>) -> Option<(Shape, &'static str)> {
    let Some(kind) = range.param("as") else { return Some((Shape::Whole, "v1")) };
    let version = match (range.param("g"), range.param("v")) {
        (Some("meta.k8s.io"), Some("v1")) => "v1",
        (Some("meta.k8s.io"), Some("v1beta1")) => "v1beta1",
        _ => return None,
    };
    match kind {
        "Table" => Some((Shape::Table, version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some((Shape::Metadata, version)),
        _ => None,
    }
}

/// How a body is written. Go's typed clients send protobuf whenever they may, and fall back to JSON for answers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyFormat {
    Json,
    Yaml,
    Protobuf,
}

impl BodyFormat {
    /// By the Content-Type; none when it is not one that can be read.
    pub(crate) fn of(content_type: Option<&str>) -> Option<Self> {
        match essence(content_type) {
            "" | JSON => Some(Self::Json),
            YAML => Some(Self::Yaml),
            PROTOBUF => Some(Self::Protobuf),
            _ => None,
        }
    }

    /// A body that is no object of its resource: options, a binding, a scale.
    pub(crate) fn value(self, bytes: &[u8]) -> Result<Value, String> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|error| format!("the body is not JSON: {error}")),
            Self::Yaml => decode::value_from_yaml(bytes),
            Self::Protobuf => decode::value_from_protobuf(bytes),
        }
    }
}

/// The media type without its parameters.
pub(crate) fn essence(content_type: Option<&str>) -> &str {
    content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::Json, "application/json-patch+json"),
        (Self::Merge, "application/merge-patch+json"),
        (Self::Strategic, "application/strategic-merge-patch+json"),
        (Self::Apply, "application/apply-patch+yaml"),
    ];

    pub(crate) fn from_content_type(content_type: Option<&str>) -> Option<Self> {
        let essence = essence(content_type);
        Self::ALL.into_iter().find(|(_, media)| *media == essence).map(|(patch, _)| patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

    fn check(accept: &str, expected: Option<(Format, Shape)>) {
        let answer = Answer::negotiate(Some(accept), Offer::ALL);
        assert_eq!(answer.map(|answer| (answer.format, answer.shape)), expected, "{accept}");
    }

    #[test]
    fn the_first_that_can_be_given_wins() {
        check("", Some((Format::Json, Shape::Whole)));
        check("*/*", Some((Format::Json, Shape::Whole)));
        check("application/yaml", Some((Format::Yaml, Shape::Whole)));
        check("application/vnd.kubernetes.protobuf,application/json", Some((Format::Protobuf, Shape::Whole)));
        check("application/json,application/vnd.kubernetes.protobuf", Some((Format::Json, Shape::Whole)));
        check("application/vnd.kubernetes.protobuf;stream=watch", Some((Format::Protobuf, Shape::Whole)));
        check("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", None);
        check("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", Some((Format::Protobuf, Shape::Metadata)));
        check("application/cbor,application/vnd.kubernetes.protobuf;q=0.9,*/*;q=0.8", Some((Format::Protobuf, Shape::Whole)));
        check("text/html", None);
        check(&format!("{TABLE},application/json"), Some((Format::Json, Shape::Table)));
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some((Format::Json, Shape::Metadata)));
        check("application/json;as=Nonsense;g=meta.k8s.io;v=v1", None);
        check("application/json;stream=watch", Some((Format::Json, Shape::Whole)));
        check("application/json;stream=other", None);
    }

    #[test]
    fn quality_comes_before_order() {
        check("application/json;q=0.5, application/yaml;q=0.9", Some((Format::Yaml, Shape::Whole)));
        check("application/json;q=0", None);
        check("*/*,application/yaml", Some((Format::Yaml, Shape::Whole)));
        check("application/*,application/vnd.kubernetes.protobuf", Some((Format::Protobuf, Shape::Whole)));
    }

    #[test]
    fn kinds_made_at_run_time_have_protobuf_of_their_metadata_only() {
        let check = |accept: &str, expected: Option<(Format, Shape)>| {
            let offer = Offer { protobuf: false, ..Offer::ALL };
            assert_eq!(Answer::negotiate(Some(accept), offer).map(|answer| (answer.format, answer.shape)), expected, "{accept}");
        };
        check("application/vnd.kubernetes.protobuf,application/json", Some((Format::Json, Shape::Whole)));
        check("application/vnd.kubernetes.protobuf", None);
        check("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", Some((Format::Protobuf, Shape::Metadata)));
    }

    #[test]
    fn without_tables_a_table_is_not_acceptable() {
        assert_eq!(Answer::negotiate(Some(TABLE), Offer::DOCUMENT), None);
        let fallback = Answer::negotiate(Some(&format!("{TABLE},application/json")), Offer::DOCUMENT);
        assert!(fallback.is_some_and(|answer| answer.shape == Shape::Whole));
    }

    #[test]
    fn bodies() {
        assert_eq!(BodyFormat::of(None), Some(BodyFormat::Json));
        assert_eq!(BodyFormat::of(Some("application/yaml; charset=utf-8")), Some(BodyFormat::Yaml));
        assert_eq!(BodyFormat::of(Some("application/vnd.kubernetes.protobuf")), Some(BodyFormat::Protobuf));
        assert_eq!(BodyFormat::of(Some("application/cbor")), None);
        assert_eq!(PatchType::from_content_type(Some("application/merge-patch+json; charset=UTF-8")), Some(PatchType::Merge));
        assert_eq!(PatchType::from_content_type(Some("application/json")), None);
    }
}
