//! The libraries of Kubernetes: lists, regex, url, quantity, ip, cidr, format, semver, sets (apiserver, pkg/cel/library).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use regex::Regex;

use super::EvalError;
use super::eval::{Eval, PER_COST, order};
use super::functions::extreme;
use super::value::{Semver, Url, Value, equal, failed};
use crate::quantity::Quantity;
use crate::{custom, names};

type Result<T> = std::result::Result<T, EvalError>;

/// See [`super::functions::FUNCTIONS`].
pub(super) const FUNCTIONS: &[(&str, bool, usize, usize)] = &[
    ("isSorted", true, 0, 0),
    ("sum", true, 0, 0),
    ("min", true, 0, 0),
    ("max", true, 0, 0),
    ("indexOf", true, 1, 2),
    ("lastIndexOf", true, 1, 2),
    ("find", true, 1, 1),
    ("findAll", true, 1, 2),
    ("url", false, 1, 1),
    ("isURL", false, 1, 1),
    ("getScheme", true, 0, 0),
    ("getHost", true, 0, 0),
    ("getHostname", true, 0, 0),
    ("getPort", true, 0, 0),
    ("getEscapedPath", true, 0, 0),
    ("getQuery", true, 0, 0),
    ("quantity", false, 1, 1),
    ("isQuantity", false, 1, 1),
    ("isInteger", true, 0, 0),
    ("asInteger", true, 0, 0),
    ("asApproximateFloat", true, 0, 0),
    ("sign", true, 0, 0),
    ("add", true, 1, 1),
    ("sub", true, 1, 1),
    ("isGreaterThan", true, 1, 1),
    ("isLessThan", true, 1, 1),
    ("compareTo", true, 1, 1),
    ("ip", false, 1, 1),
    ("isIP", false, 1, 1),
    ("ip.isCanonical", false, 1, 1),
    ("family", true, 0, 0),
    ("isUnspecified", true, 0, 0),
    ("isLoopback", true, 0, 0),
    ("isLinkLocalMulticast", true, 0, 0),
    ("isLinkLocalUnicast", true, 0, 0),
    ("isGlobalUnicast", true, 0, 0),
    ("cidr", false, 1, 1),
    ("isCIDR", false, 1, 1),
    ("containsIP", true, 1, 1),
    ("containsCIDR", true, 1, 1),
    ("ip", true, 0, 0),
    ("masked", true, 0, 0),
    ("prefixLength", true, 0, 0),
    ("format.named", false, 1, 1),
    ("validate", true, 1, 1),
    ("semver", false, 1, 2),
    ("isSemver", false, 1, 2),
    ("major", true, 0, 0),
    ("minor", true, 0, 0),
    ("patch", true, 0, 0),
    ("sets.contains", false, 2, 2),
    ("sets.equivalent", false, 2, 2),
    ("sets.intersects", false, 2, 2),
    // pkg/cel/library/jsonpatch.go
    ("jsonpatch.escapeKey", false, 1, 1),
    // dynamic-resource-allocation, cel/compile.go
    ("includes", true, 1, 1),
    // The authorizer (pkg/cel/library/authz.go).
    ("path", true, 1, 1),
    ("group", true, 1, 1),
    ("serviceAccount", true, 2, 2),
    ("resource", true, 1, 1),
    ("subresource", true, 1, 1),
    ("namespace", true, 1, 1),
    ("name", true, 1, 1),
    ("check", true, 1, 1),
    ("allowed", true, 0, 0),
    ("reason", true, 0, 0),
    ("errored", true, 0, 0),
    ("error", true, 0, 0),
    ("fieldSelector", true, 1, 1),
    ("labelSelector", true, 1, 1),
];

/// Those that an expression has only where it says so.
pub(super) const EXTENSIONS: [&str; 1] = ["includes"];

/// Names of formats (pkg/cel/library/format.go).
const FORMATS: [&str; 15] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
    "ipv4",
    "ipv6",
];

/// What a pattern costs that is not known yet: compiling a large one takes milliseconds.
const PATTERN_COST: u64 = 10_000;

/// Compiled patterns that are kept: those of the rules in use. Each may take [`custom::schema`]'s limit.
const PATTERNS_MAX: usize = 128;

static PATTERNS: LazyLock<Mutex<HashMap<String, Arc<Regex>>>> = LazyLock::new(Mutex::default);

/// Rules run over each item with the same patterns; who makes new ones pays for each.
pub(super) fn regex(eval: &Eval<'_, '_>, pattern: &str) -> Result<Arc<Regex>> {
    let known = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner).get(pattern).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    eval.budget.spend(PATTERN_COST)?;
    let made = custom::schema::pattern(pattern).or_else(|error| failed(format!("error parsing regexp: {error}")))?;
    let made = Arc::new(made);
    let mut known = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= PATTERNS_MAX {
        known.clear();
    }
    known.insert(pattern.to_owned(), made.clone());
    Ok(made)
}

/// None where no library has the function for these values.
pub(super) fn call<'a>(eval: &Eval<'_, 'a>, name: &str, on: Option<&Value<'a>>, args: &[Value<'a>]) -> Option<Result<Value<'a>>> {
    let text = |value: &Value<'a>| match value {
        Value::String(text) => Some(text.to_string()),
        _ => None,
    };
    if let ("includes", Some(on), [item]) = (name, on, args) {
        return Some(includes(eval, on, item));
    }
    match on {
        None => global(eval, name, args, text),
        Some(Value::Quantity(quantity)) => of_quantity(name, quantity, args),
        Some(Value::Url(url)) => of_url(name, url),
        Some(Value::Ip(address)) => of_ip(name, *address),
        Some(Value::Cidr(address, bits)) => of_cidr(name, *address, *bits, args),
        Some(Value::Semver(version)) => of_semver(name, version, args),
        Some(Value::Format(format)) if name == "validate" => Some(Ok(validate(format, &text(args.first()?)?))),
        Some(Value::String(on)) => match (name, args) {
            ("find", [Value::String(pattern)]) => Some(find(eval, on, pattern, Some(1)).map(|mut found| match found.is_empty() {
                true => Value::string(""),
                false => found.swap_remove(0),
            })),
            ("findAll", [Value::String(pattern), rest @ ..]) => {
                let limit = match rest.first() {
                    Some(Value::Int(limit)) => usize::try_from(*limit).ok(),
                    _ => None,
                };
                Some(find(eval, on, pattern, limit).map(Value::list))
            }
            _ => None,
        },
        Some(list @ (Value::List(_) | Value::Array(..))) => {
            if let ("indexOf" | "lastIndexOf", [item]) = (name, args)
                && let Err(error) = eval.look_for(item, list)
            {
                return Some(Err(error));
            }
            of_list(name, &list.items()?, args)
        }
        Some(_) => None,
    }
}

/// Whether a value is the other, or a list of values has it.
fn includes<'a>(eval: &Eval<'_, 'a>, on: &Value<'a>, item: &Value<'a>) -> Result<Value<'a>> {
    eval.look_for(item, on)?;
    Ok(Value::Bool(match on.items() {
        Some(items) => items.iter().any(|one| equal(one, item)),
        None => equal(on, item),
    }))
}

fn find<'a>(eval: &Eval<'_, 'a>, on: &str, pattern: &str, limit: Option<usize>) -> Result<Vec<Value<'a>>> {
    eval.budget.spend(on.len().div_ceil(PER_COST).max(1) as u64 * pattern.len().div_ceil(4).max(1) as u64)?;
    let regex = regex(eval, pattern)?;
    let found = regex.find_iter(on).take(limit.unwrap_or(usize::MAX));
    found
        .map(|found| {
            // A value is larger than its letters.
            eval.budget.spend(1)?;
            Ok(Value::string(found.as_str()))
        })
        .collect()
}

fn of_list<'a>(name: &str, items: &[Value<'a>], args: &[Value<'a>]) -> Option<Result<Value<'a>>> {
    Some(match (name, args) {
        ("isSorted", []) => items
            .windows(2)
            .try_fold(true, |sorted, pair| Ok(sorted && !matches!(order(&pair[0], &pair[1])?, Some(Ordering::Greater))))
            .map(Value::Bool),
        ("sum", []) => {
            let mut sum = match items.first() {
                Some(Value::Double(_)) => Value::Double(0.0),
                Some(Value::Uint(_)) => Value::Uint(0),
                Some(Value::Duration(_)) => Value::Duration(jiff::SignedDuration::ZERO),
                _ => Value::Int(0),
            };
            for item in items {
                match super::functions::arithmetic(super::ast::Binary::Add, sum, item.clone()) {
                    Ok(next) => sum = next,
                    Err(error) => return Some(Err(error)),
                }
            }
            Ok(sum)
        }
        ("min", []) => extreme(name, items, Ordering::Less),
        ("max", []) => extreme(name, items, Ordering::Greater),
        ("indexOf", [item]) => Ok(Value::Int(items.iter().position(|other| equal(other, item)).map_or(-1, |at| at as i64))),
        ("lastIndexOf", [item]) => Ok(Value::Int(items.iter().rposition(|other| equal(other, item)).map_or(-1, |at| at as i64))),
        _ => return None,
    })
}

fn global<'a>(
    eval: &Eval<'_, 'a>,
    name: &str,
    args: &[Value<'a>],
    text: impl Fn(&Value<'a>) -> Option<String>,
) -> Option<Result<Value<'a>>> {
    let or = |found: Option<Value<'a>>, why: String| found.map_or_else(|| failed(why), Ok);
    let one = args.first().and_then(&text);
    Some(match (name, one) {
        ("url", Some(text)) => or(
            parse_url(&text).map(|url| Value::Url(Arc::new(url))),
            format!("URL parse error during conversion from string: parse {text:?}: invalid URI for request"),
        ),
        ("isURL", Some(text)) => Ok(Value::Bool(parse_url(&text).is_some())),
        ("quantity", Some(text)) => Quantity::parse(&text).map(Value::Quantity).or_else(|error| failed(error.to_string())),
        ("isQuantity", Some(text)) => Ok(Value::Bool(Quantity::parse(&text).is_ok())),
        ("ip", Some(text)) => or(parse_ip(&text).map(Value::Ip), no_ip(&text)),
        ("isIP", Some(text)) => Ok(Value::Bool(parse_ip(&text).is_some())),
        ("ip.isCanonical", Some(text)) => or(parse_ip(&text).map(|address| Value::Bool(address.to_string() == text)), no_ip(&text)),
        ("cidr", Some(text)) => or(
            parse_cidr(&text).map(|(address, bits)| Value::Cidr(address, bits)),
            format!("network address parse error during conversion from string: {}", no_cidr(&text)),
        ),
        ("isCIDR", Some(text)) => Ok(Value::Bool(parse_cidr(&text).is_some())),
        ("jsonpatch.escapeKey", Some(text)) => Ok(Value::string(text.replace('~', "~0").replace('/', "~1"))),
        ("semver" | "isSemver", Some(text)) => {
            let loose = matches!(args.get(1), Some(Value::Bool(true)));
            let parsed = parse_semver(&text, loose);
            if name == "isSemver" {
                Ok(Value::Bool(parsed.is_some()))
            } else {
                or(parsed.map(|one| Value::Semver(Arc::new(one))), no_semver(&text))
            }
        }
        ("format.named", Some(text)) => {
            let known = FORMATS.into_iter().find(|known| *known == text);
            Ok(Value::Optional(known.map(|known| Arc::new(Value::Format(known)))))
        }
        (name, None) if name.starts_with("format.") && args.is_empty() => {
            let known = FORMATS.into_iter().find(|known| name.strip_prefix("format.") == Some(known))?;
            Ok(Value::Format(known))
        }
        ("sets.contains" | "sets.equivalent" | "sets.intersects", _) => {
            let (one, two) = (args.first()?, args.get(1)?);
            if let Err(error) = eval.look_for(one, two).and_then(|()| eval.look_for(two, one)) {
                return Some(Err(error));
            }
            let (one, two) = (one.items()?, two.items()?);
            let within = |some: &[Value<'a>], all: &[Value<'a>]| some.iter().all(|item| all.iter().any(|other| equal(item, other)));
            Ok(Value::Bool(match name {
                "sets.contains" => within(&two, &one),
                "sets.equivalent" => within(&one, &two) && within(&two, &one),
                _ => one.iter().any(|item| two.iter().any(|other| equal(item, other))),
            }))
        }
        _ => return None,
    })
}

fn of_quantity<'a>(name: &str, on: &Quantity, args: &[Value<'a>]) -> Option<Result<Value<'a>>> {
    let other = match args {
        [Value::Quantity(other)] => Some(*other),
        [Value::Int(other)] => Some(Quantity::from_units(*other)),
        _ => None,
    };
    Some(Ok(match (name, other) {
        ("isInteger", None) => Value::Bool(on.is_whole() && i64::try_from(on.value()).is_ok()),
        ("asInteger", None) => match i64::try_from(on.value()) {
            Ok(value) if on.is_whole() => Value::Int(value),
            _ => return Some(failed("cannot convert value to integer")),
        },
        ("asApproximateFloat", None) => Value::Double(on.milli() as f64 / 1000.0),
        ("sign", None) => Value::Int(if on.is_zero() {
            0
        } else if on.is_negative() {
            -1
        } else {
            1
        }),
        ("add", Some(other)) => Value::Quantity(*on + other),
        ("sub", Some(other)) => Value::Quantity(*on - other),
        ("isGreaterThan", Some(other)) => Value::Bool(*on > other),
        ("isLessThan", Some(other)) => Value::Bool(*on < other),
        ("compareTo", Some(other)) => Value::Int(on.cmp(&other) as i64),
        _ => return None,
    }))
}

fn parse_url(text: &str) -> Option<Url> {
    let uri = |text: &str| text.bytes().all(|byte| byte > 0x20 && byte != 0x7f && byte != b'"' && byte != b'<' && byte != b'>');
    if !uri(text) {
        return None;
    }
    let (text, _) = text.split_once('#').unwrap_or((text, ""));
    let (before, query) = text.split_once('?').unwrap_or((text, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescape(key), unescape(value))
    });
    let query = query.collect();
    if let Some(path) = before.strip_prefix('/') {
        let path = format!("/{path}");
        return Some(Url { scheme: String::new(), host: String::new(), hostname: String::new(), port: String::new(), path, query });
    }
    let (scheme, rest) = before.split_once("://")?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (hostname, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, port)) => (inner, port.strip_prefix(':').unwrap_or("")),
        None => host.rsplit_once(':').unwrap_or((host, "")),
    };
    let valid = scheme.starts_with(|letter: char| letter.is_ascii_alphabetic()) && port.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| Url {
        scheme: scheme.to_ascii_lowercase(),
        host: host.to_owned(),
        hostname: hostname.to_owned(),
        port: port.to_owned(),
        path: path.to_owned(),
        query,
    })
}

/// Percent-encoding and plus signs of a query.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) fn url_text(url: &Url) -> String {
    let host = if url.scheme.is_empty() { String::new() } else { format!("{}://{}", url.scheme, url.host) };
    format!("{host}{}", url.path)
}

fn of_url<'a>(name: &str, url: &Url) -> Option<Result<Value<'a>>> {
    Some(Ok(match name {
        "getScheme" => Value::string(url.scheme.clone()),
        "getHost" => Value::string(url.host.clone()),
        "getHostname" => Value::string(url.hostname.clone()),
        "getPort" => Value::string(url.port.clone()),
        "getEscapedPath" => Value::string(url.path.clone()),
        "getQuery" => {
            let mut map: std::collections::BTreeMap<super::value::Key, Vec<Value<'a>>> = std::collections::BTreeMap::new();
            for (key, value) in &url.query {
                map.entry(super::value::Key::String(key.clone())).or_default().push(Value::string(value.clone()));
            }
            Value::Map(Arc::new(map.into_iter().map(|(key, values)| (key, Value::list(values))).collect()))
        }
        _ => return None,
    }))
}

/// No IPv4 in IPv6 and no zones, as upstream.
fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().filter(|address| !matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()))
}

/// Why a text is no address (pkg/cel/library/ip.go, parseIPAddr).
fn no_ip(text: &str) -> String {
    match text.split_once('%') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => format!("IP address {text:?} with zone value is not allowed"),
        _ if text.parse::<IpAddr>().is_ok() => format!("IPv4-mapped IPv6 address {text:?} is not allowed"),
        _ => format!("IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"),
    }
}

/// Why a text is no network (cidr.go there, parseCIDR).
fn no_cidr(text: &str) -> String {
    let why = match text.split_once('/') {
        None => "no '/'".to_owned(),
        Some((address, _)) if parse_ip(address).is_none() => match address.parse::<IpAddr>() {
            Ok(_) => return format!("IPv4-mapped IPv6 address {text:?} is not allowed"),
            Err(_) => format!("ParseAddr({address:?}): unable to parse IP"),
        },
        Some((_, bits)) if !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|byte| byte.is_ascii_digit()) => {
            "prefix length out of range".to_owned()
        }
        Some((_, bits)) => format!("bad bits after slash: {bits:?}"),
    };
    format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}")
}

fn of_ip<'a>(name: &str, address: IpAddr) -> Option<Result<Value<'a>>> {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.octets()[0] == 0xff && v6.octets()[1] & 0x0f == 2,
    };
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    Some(Ok(match name {
        "family" => Value::Int(if address.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Value::Bool(address.is_unspecified()),
        "isLoopback" => Value::Bool(address.is_loopback()),
        "isLinkLocalUnicast" => Value::Bool(link_local),
        "isLinkLocalMulticast" => Value::Bool(link_local_multicast),
        "isGlobalUnicast" => {
            Value::Bool(!(broadcast || address.is_unspecified() || address.is_loopback() || address.is_multicast() || link_local))
        }
        _ => return None,
    }))
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    if !custom::format::fits("cidr", text) {
        return None;
    }
    let (address, bits) = text.split_once('/')?;
    Some((parse_ip(address)?, bits.parse().ok()?))
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into()),
    }
}

fn of_cidr<'a>(name: &str, address: IpAddr, bits: u8, args: &[Value<'a>]) -> Option<Result<Value<'a>>> {
    let inside = |other: IpAddr| other.is_ipv4() == address.is_ipv4() && masked(other, bits) == masked(address, bits);
    Some(Ok(match (name, args) {
        ("containsIP", [Value::Ip(other)]) => Value::Bool(inside(*other)),
        ("containsIP", [Value::String(other)]) => match parse_ip(other) {
            Some(other) => Value::Bool(inside(other)),
            None => return Some(failed(no_ip(other))),
        },
        ("containsCIDR", [Value::Cidr(other, other_bits)]) => Value::Bool(*other_bits >= bits && inside(*other)),
        ("containsCIDR", [Value::String(other)]) => match parse_cidr(other) {
            Some((other, other_bits)) => Value::Bool(other_bits >= bits && inside(other)),
            None => return Some(failed(no_cidr(other))),
        },
        ("ip", []) => Value::Ip(address),
        ("masked", []) => Value::Cidr(masked(address, bits), bits),
        ("prefixLength", []) => Value::Int(i64::from(bits)),
        _ => return None,
    }))
}

fn validate<'a>(format: &str, text: &str) -> Value<'a> {
    let prefix = |text: &str| text.strip_suffix('-').map_or_else(|| text.to_owned(), |rest| format!("{rest}a"));
    let wrong = match format {
        "dns1123Label" => names::dns1123_label(text),
        "dns1123Subdomain" => names::dns1123_subdomain(text),
        "dns1035Label" => names::dns1035_label(text),
        "dns1123LabelPrefix" => names::dns1123_label(&prefix(text)),
        "dns1123SubdomainPrefix" => names::dns1123_subdomain(&prefix(text)),
        "dns1035LabelPrefix" => names::dns1035_label(&prefix(text)),
        "qualifiedName" => names::qualified_name(text),
        "labelValue" => names::label_value(text),
        other if custom::format::fits(other, text) => Vec::new(),
        other => vec![format!("{text:?} is no {other}")],
    };
    match wrong.is_empty() {
        true => Value::Optional(None),
        false => Value::some(Value::list(wrong.into_iter().map(Value::string).collect())),
    }
}

/// semver.org; `loose`: a leading v, missing minor and patch, leading zeros.
fn parse_semver(text: &str, loose: bool) -> Option<Semver> {
    let text = if loose { text.strip_prefix('v').unwrap_or(text) } else { text };
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
    let name = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let number = |part: &str| {
        let plain = part.bytes().all(|byte| byte.is_ascii_digit()) && (loose || part == "0" || !part.starts_with('0'));
        if plain { part.parse().ok() } else { None }
    };
    let mut numbers = core.split('.').map(number).collect::<Option<Vec<u64>>>()?;
    if loose {
        while numbers.len() < 3 {
            numbers.push(0);
        }
    }
    let pre: Vec<String> = pre.into_iter().flat_map(|pre| pre.split('.')).map(str::to_owned).collect();
    let numeric_zero = |part: &String| part.len() > 1 && part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit());
    let valid = pre.iter().all(|part| name(part) && !numeric_zero(part)) && build.is_none_or(|build| build.split('.').all(name));
    valid.then_some(Semver { numbers: numbers.try_into().ok()?, pre })
}

/// Why a text is no version, as the library that upstream has says it (blang/semver).
fn no_semver(text: &str) -> String {
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [major, minor, _] = parts[..] else { return "No Major.Minor.Patch elements found".to_owned() };
    for (part, name) in [(major, "Major"), (minor, "Minor")] {
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return format!("Invalid character(s) found in {} number {part:?}", name.to_lowercase());
        }
        if part.len() > 1 && part.starts_with('0') {
            return format!("{name} number must not contain leading zeroes {part:?}");
        }
    }
    let patch = parts[2].split(['-', '+']).next().unwrap_or_default();
    match patch.bytes().all(|byte| byte.is_ascii_digit()) {
        false => format!("Invalid character(s) found in patch number {patch:?}"),
        true if patch.len() > 1 && patch.starts_with('0') => format!("Patch number must not contain leading zeroes {patch:?}"),
        true => format!("{text:?} is no semantic version"),
    }
}

pub(super) fn semver_text(version: &Semver) -> String {
    let [major, minor, patch] = version.numbers;
    let pre = if version.pre.is_empty() { String::new() } else { format!("-{}", version.pre.join(".")) };
    format!("{major}.{minor}.{patch}{pre}")
}

fn compare_semver(one: &Semver, two: &Semver) -> Ordering {
    let part = |one: &String, two: &String| match (one.parse::<u64>(), two.parse::<u64>()) {
        (Ok(one), Ok(two)) => one.cmp(&two),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => one.cmp(two),
    };
    one.numbers.cmp(&two.numbers).then_with(|| match (one.pre.is_empty(), two.pre.is_empty()) {
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        _ => {
            let first = one.pre.iter().zip(&two.pre).map(|(one, two)| part(one, two)).find(|order| order.is_ne());
            first.unwrap_or_else(|| one.pre.len().cmp(&two.pre.len()))
        }
    })
}

fn of_semver<'a>(name: &str, on: &Semver, args: &[Value<'a>]) -> Option<Result<Value<'a>>> {
    let [major, minor, patch] = on.numbers.map(|number| Value::Int(i64::try_from(number).unwrap_or(i64::MAX)));
    Some(Ok(match (name, args) {
        ("major", []) => major,
        ("minor", []) => minor,
        ("patch", []) => patch,
        ("isGreaterThan", [Value::Semver(other)]) => Value::Bool(compare_semver(on, other).is_gt()),
        ("isLessThan", [Value::Semver(other)]) => Value::Bool(compare_semver(on, other).is_lt()),
        ("compareTo", [Value::Semver(other)]) => Value::Int(compare_semver(on, other) as i64),
        _ => return None,
    }))
}
