//! What functions cost, and how large their results are (apiserver, pkg/cel/library/cost.go; cel-go, checker/cost.go and ext/sets.go).

use super::kind::{Kind, Opaque};
use super::{CALL, Costs, Found, LETTER, PATTERN_LETTER, Place, Size, Step};

/// Letters of the pattern that a named format stands for (apiserver, pkg/cel/limits.go, MaxNameFormatRegexSize).
const FORMAT_LETTERS: f64 = 128.0;

/// Values of one attribute (resource/types.go, ResourceSliceMaxAttributeValuesPerDevice).
const INCLUDES: u64 = 48;

/// Bytes of an address.
const ADDRESS: Size = Size { least: 4, most: 16 };

impl<'e> Costs<'_, 'e> {
    /// The call alone, without what it is called on and with.
    pub(super) fn call(&self, name: &str, on: Option<&Found<'e>>, args: &[Found<'e>]) -> Found<'e> {
        let made = |cost: u64| Found::made(cost, result(name, on, args));
        let list = |kind: Kind<'e>| Kind::List(Box::new(kind));
        match (on, name, args) {
            (Some(on), "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", _) => made(self.walk(on)),
            (None, "url" | "jsonpatch.escapeKey", [text]) => made(text.size().cost(LETTER)).sized(Some(text.size())),
            (Some(on), "lowerAscii" | "upperAscii" | "substring" | "trim", _) => made(on.size().cost(LETTER)).sized(Some(on.size())),
            (Some(on), "replace", [from, to, ..]) => {
                made(on.size().cost(2.0 * LETTER)).sized(Some(replaced(on.size(), from.size(), to.size())))
            }
            (Some(on), "split", [_, rest @ ..]) => {
                let most = rest.first().and_then(|limit| limit.whole).unwrap_or(on.size().most);
                Found::made(on.size().cost(2.0 * LETTER), list(Kind::String)).sized(Some(Size::up_to(most)))
            }
            (Some(on), "join", _) => {
                let separators = Size { least: on.size().least.saturating_sub(1), most: on.size().most.saturating_sub(1) };
                let between = args.first().map_or(Size::exactly(0), |separator| separator.size().times(separators));
                let text = self.item_size(on).map_or(Size::exactly(0), |item| on.size().times(item)).and(between);
                made(text.cost(LETTER)).sized(Some(text))
            }
            (Some(on), "find" | "findAll", [pattern, ..]) => {
                made(searched(on.size(), pattern.size())).sized(Some(Size::up_to(on.size().most)))
            }
            (Some(on), "matches", [pattern]) => made(searched(on.size(), pattern.size())),
            (Some(on), "contains", [part]) => made(on.size().cost(LETTER).saturating_mul(part.size().cost(LETTER))),
            (Some(_), "startsWith" | "endsWith", [part]) => made(part.size().cost(LETTER)),
            // Upstream's next release knows that the result is no longer than what it is made of.
            (Some(on), "format", [values]) => made(on.size().cost(LETTER)).sized(Some(on.size().and(values.size()))),
            (Some(_), "containsIP", [other]) => made(ADDRESS.and(ADDRESS).cost(LETTER).saturating_add(parsed(other))),
            (Some(_), "containsCIDR", [other]) => {
                let compared = ADDRESS.and(ADDRESS).cost(LETTER) + ADDRESS.cost(LETTER) + CALL;
                made(compared.saturating_add(parsed(other)))
            }
            (Some(_), "validate", [text]) => made(super::by(text.size().cost(LETTER), FORMAT_LETTERS * PATTERN_LETTER)),
            (Some(_), "includes", [_]) => made(INCLUDES),
            (None, "sets.contains" | "sets.intersects", [one, two]) => made(one.size().times(two.size()).cost(1.0).saturating_add(CALL)),
            (None, "sets.equivalent", [one, two]) => made(one.size().times(two.size()).cost(2.0).saturating_add(CALL)),
            (None, "bytes", [text]) if matches!(text.kind, Kind::String | Kind::Dyn) => {
                let size = text.size();
                made(size.cost(LETTER)).sized(Some(Size { most: size.most.saturating_mul(4), ..size }))
            }
            (None, "string", [bytes]) if matches!(bytes.kind, Kind::Bytes | Kind::Dyn) => {
                let size = bytes.size();
                let cost = if bytes.kind == Kind::Dyn { size.cost(LETTER).max(CALL) } else { size.cost(LETTER) };
                made(cost).sized(Some(Size { least: size.least / 4, ..size }))
            }
            _ => made(CALL),
        }
    }

    /// Each item once, and of texts each letter.
    fn walk(&self, on: &Found<'e>) -> u64 {
        match &on.kind {
            Kind::List(item) => {
                let is_text = matches!(**item, Kind::String | Kind::Bytes);
                let letters = if is_text { self.item_size(on).unwrap_or(Size::ENDLESS).cost(LETTER) } else { 0 };
                on.size().most.saturating_mul(letters.saturating_add(1))
            }
            Kind::Unknown => CALL,
            _ => on.size().cost(LETTER),
        }
    }

    /// The size of the items of a list, by its place alone. None for what is no list.
    fn item_size(&self, on: &Found<'e>) -> Option<Size> {
        let Kind::List(_) = &on.kind else { return None };
        let place = match on.place {
            Place::Nowhere => Place::Lost,
            place => self.step(place, &Step::Item),
        };
        Some(place.size().unwrap_or(Size::ENDLESS))
    }
}

/// What it costs to look for a pattern. The empty text costs something, too.
fn searched(text: Size, pattern: Size) -> u64 {
    text.and(Size::exactly(1)).cost(LETTER).saturating_mul(pattern.cost(PATTERN_LETTER))
}

/// What it costs to read an address that is still a text.
fn parsed(address: &Found<'_>) -> u64 {
    if matches!(address.kind, Kind::String | Kind::Dyn) { address.size().cost(LETTER) } else { 0 }
}

/// How long a text can become by putting one part in the place of another, and how short.
fn replaced(text: Size, from: Size, to: Size) -> Size {
    // Of nothing there is one before each letter and one at the end.
    let (most, kept_most) = match (from.least, to.most) {
        (0, _) => (text.most.saturating_add(1), text.most),
        (from, to) if to <= from => (0, text.most),
        (from, _) => (text.most.div_ceil(from), 0),
    };
    let (least, kept_least) = match (from.most, to.least) {
        (0, _) => (text.least.saturating_add(1), text.least),
        (from, to) if from <= to => (0, text.least),
        (from, _) => (text.least.div_ceil(from), 0),
    };
    Size { least, most }.times(to).and(Size { least: kept_least, most: kept_most })
}

fn result<'e>(name: &str, on: Option<&Found<'e>>, args: &[Found<'e>]) -> Kind<'e> {
    let list = |kind: Kind<'e>| Kind::List(Box::new(kind));
    match name {
        "size" | "int" | "indexOf" | "lastIndexOf" | "asInteger" | "sign" | "compareTo" | "family" | "prefixLength" | "major" | "minor"
        | "patch" => Kind::Int,
        "uint" => Kind::Uint,
        "double" | "asApproximateFloat" => Kind::Double,
        "string"
        | "charAt"
        | "lowerAscii"
        | "upperAscii"
        | "replace"
        | "substring"
        | "trim"
        | "join"
        | "format"
        | "find"
        | "getScheme"
        | "getHost"
        | "getHostname"
        | "getPort"
        | "getEscapedPath"
        | "jsonpatch.escapeKey"
        | "reason"
        | "error" => Kind::String,
        "bytes" => Kind::Bytes,
        "type" => Kind::Type,
        "timestamp" => Kind::Timestamp,
        "duration" => Kind::Duration,
        "split" | "findAll" => list(Kind::String),
        "sum" | "min" | "max" => on.map_or(Kind::Unknown, |on| on.kind.item()),
        "optional.of" | "optional.ofNonZeroValue" => args.first().map_or(Kind::Unknown, |value| value.kind.clone()).optional(),
        "optional.none" => Kind::Unknown.optional(),
        "value" | "orValue" => match on.map(|on| &on.kind) {
            Some(Kind::Optional(inner)) if **inner == Kind::Unknown => args.first().map_or(Kind::Unknown, |other| other.kind.clone()),
            Some(Kind::Optional(inner)) => (**inner).clone(),
            Some(_) => Kind::Dyn,
            None => Kind::Unknown,
        },
        "or" => on.map_or(Kind::Unknown, |on| on.kind.clone()),
        "getQuery" => Kind::Map(Box::new(list(Kind::String))),
        "url" => Kind::Opaque(Opaque::Url),
        "quantity" | "add" | "sub" => Kind::Opaque(Opaque::Quantity),
        "ip" => Kind::Opaque(Opaque::Ip),
        "cidr" | "masked" => Kind::Opaque(Opaque::Cidr),
        "semver" => Kind::Opaque(Opaque::Semver),
        "format.named" => Kind::Opaque(Opaque::Format).optional(),
        "validate" => list(Kind::String).optional(),
        _ if name.starts_with("format.") => Kind::Opaque(Opaque::Format),
        _ if name.starts_with("get") => Kind::Int,
        _ => Kind::Bool,
    }
}
