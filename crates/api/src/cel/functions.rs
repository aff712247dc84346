//! The functions of the language itself, and of the extensions for strings and lists that Kubernetes has.

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::ast::Binary;
use super::eval::{Eval, order};
use super::value::{Value, equal, failed, no_overload};
use super::{EvalError, kubernetes};
use crate::custom::schema::Items;

type Result<T> = std::result::Result<T, EvalError>;

/// Bytes that one string may grow to.
const STRING_BYTES_MAX: usize = 1 << 20;

/// Every function: name, whether it is called on a value, how many arguments it takes at least and at most. Those of Kubernetes are in
/// [`kubernetes::FUNCTIONS`].
pub(super) const FUNCTIONS: &[(&str, bool, usize, usize)] = &[
    ("size", false, 1, 1),
    ("size", true, 0, 0),
    ("int", false, 1, 1),
    ("uint", false, 1, 1),
    ("double", false, 1, 1),
    ("bool", false, 1, 1),
    ("string", false, 1, 1),
    ("bytes", false, 1, 1),
    ("type", false, 1, 1),
    ("dyn", false, 1, 1),
    ("timestamp", false, 1, 1),
    ("duration", false, 1, 1),
    ("matches", false, 2, 2),
    ("matches", true, 1, 1),
    ("contains", true, 1, 1),
    ("startsWith", true, 1, 1),
    ("endsWith", true, 1, 1),
    ("charAt", true, 1, 1),
    ("indexOf", true, 1, 2),
    ("lastIndexOf", true, 1, 2),
    ("lowerAscii", true, 0, 0),
    ("upperAscii", true, 0, 0),
    ("replace", true, 2, 3),
    ("split", true, 1, 2),
    ("substring", true, 1, 2),
    ("trim", true, 0, 0),
    ("join", true, 0, 1),
    ("format", true, 1, 1),
    ("getFullYear", true, 0, 1),
    ("getMonth", true, 0, 1),
    ("getDate", true, 0, 1),
    ("getDayOfMonth", true, 0, 1),
    ("getDayOfWeek", true, 0, 1),
    ("getDayOfYear", true, 0, 1),
    ("getHours", true, 0, 1),
    ("getMinutes", true, 0, 1),
    ("getSeconds", true, 0, 1),
    ("getMilliseconds", true, 0, 1),
    ("optional.of", false, 1, 1),
    ("optional.none", false, 0, 0),
    ("optional.ofNonZeroValue", false, 1, 1),
    ("hasValue", true, 0, 0),
    ("value", true, 0, 0),
    ("or", true, 1, 1),
    ("orValue", true, 1, 1),
];

pub(super) fn call<'a>(eval: &Eval<'_, 'a>, name: &str, on: Option<Value<'a>>, args: Vec<Value<'a>>) -> Result<Value<'a>> {
    if let Some(on) = &on {
        eval.look(on)?;
    }
    args.iter().try_for_each(|arg| eval.look(arg))?;
    if let Some(Value::Host(host)) = &on
        && let Some(result) = host.call(name, &args)
    {
        return result.map_err(EvalError::Failed);
    }
    let result = kubernetes::call(eval, name, on.as_ref(), &args).unwrap_or_else(|| match &on {
        Some(on) => member(eval, name, on, &args),
        None => global(eval, name, &args),
    });
    result.map_err(|error| match error {
        EvalError::NoOverload(found) if found == name => EvalError::NoOverload(no_function(name, on.iter().chain(&args))),
        error => error,
    })
}

/// That no function of this name takes these values. How much is said of them depends on how upstream declares the function (cel-go,
/// common/stdlib/standard.go).
fn no_function<'v, 'a: 'v>(name: &str, values: impl Iterator<Item = &'v Value<'a>>) -> String {
    match name {
        "contains" | "startsWith" | "endsWith" => String::new(),
        "matches" | "size" => name.to_owned(),
        _ => format!("{name}({})", values.map(Value::type_name).collect::<Vec<_>>().join(", ")),
    }
}

/// The same of an operator: the type of the left side decides whether there is such an operator at all.
fn no_operator(operator: Binary, one: &Value<'_>) -> EvalError {
    let has_it = match (operator, one) {
        (_, Value::Int(_) | Value::Uint(_)) => true,
        (Binary::Remainder, _) => false,
        (_, Value::Double(_)) => true,
        (Binary::Add | Binary::Subtract, Value::Timestamp(_) | Value::Duration(_)) => true,
        (Binary::Add, Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Array(..)) => true,
        _ => false,
    };
    EvalError::NoOverload(if has_it { String::new() } else { format!("_{}_", operator.symbol()) })
}

fn global<'a>(eval: &Eval<'_, 'a>, name: &str, args: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match (name, args) {
        ("size", [value]) => return size(value),
        ("dyn", [value]) => value.clone(),
        ("type", [value]) => Value::Type(value.type_name()),
        ("int", [value]) => to_int(value)?,
        ("uint", [value]) => to_uint(value)?,
        ("double", [Value::String(text)]) => match text.parse::<f64>() {
            // What is too large for a double is no infinity.
            Ok(value) if value.is_finite() || !text.contains(|letter: char| letter.is_ascii_digit()) => Value::Double(value),
            _ => return no_conversion("double"),
        },
        ("double", [Value::Int(whole)]) => Value::Double(*whole as f64),
        ("double", [Value::Uint(whole)]) => Value::Double(*whole as f64),
        ("double", [Value::Double(value)]) => Value::Double(*value),
        ("bool", [Value::Bool(value)]) => Value::Bool(*value),
        ("bool", [Value::String(text)]) => match &**text {
            "true" | "True" | "TRUE" | "t" | "T" | "1" => Value::Bool(true),
            "false" | "False" | "FALSE" | "f" | "F" | "0" => Value::Bool(false),
            _ => return no_conversion("bool"),
        },
        ("string", [Value::Bytes(bytes)]) => {
            Value::string(String::from_utf8(bytes.to_vec()).or_else(|_| failed("invalid UTF-8 in bytes, cannot convert to string"))?)
        }
        ("string", [value]) => Value::string(to_string(value).map_or_else(|| no_overload("string"), Ok)?),
        ("bytes", [Value::String(text)]) => Value::Bytes(text.as_bytes().into()),
        ("bytes", [Value::Bytes(bytes)]) => Value::Bytes(bytes.clone()),
        ("timestamp", [Value::String(text)]) => match crate::time::parse(text) {
            Some(time) => Value::Timestamp(in_range(time)?),
            None => return no_conversion("google.protobuf.Timestamp"),
        },
        ("timestamp", [Value::Timestamp(time)]) => Value::Timestamp(*time),
        ("timestamp", [Value::Int(seconds)]) => {
            Value::Timestamp(in_range(Timestamp::from_second(*seconds).or_else(|_| failed(TIMESTAMP_OVERFLOW))?)?)
        }
        ("duration", [Value::String(text)]) => match crate::duration::parse(text) {
            Some(nanos) => Value::Duration(SignedDuration::from_nanos(nanos)),
            None => return no_conversion("google.protobuf.Duration"),
        },
        ("duration", [Value::Duration(value)]) => Value::Duration(*value),
        ("matches", [on, pattern]) => return member(eval, "matches", on, std::slice::from_ref(pattern)),
        ("optional.of", [value]) => Value::some(value.clone()),
        ("optional.none", []) => Value::Optional(None),
        ("optional.ofNonZeroValue", [value]) => {
            let zero = match value {
                Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) => true,
                Value::Double(value) => *value == 0.0,
                other => other.size() == Some(0),
            };
            if zero { Value::Optional(None) } else { Value::some(value.clone()) }
        }
        _ => return no_overload(name),
    })
}

fn member<'a>(eval: &Eval<'_, 'a>, name: &str, on: &Value<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match on {
        Value::String(text) => string(eval, name, text, args),
        Value::Timestamp(time) => of_time(name, *time, args),
        Value::Duration(value) => of_duration(name, *value, args),
        Value::Optional(inner) => match (name, args) {
            ("hasValue", []) => Ok(Value::Bool(inner.is_some())),
            ("value", []) => inner.as_deref().cloned().map_or_else(|| failed("optional.none() dereference"), Ok),
            ("or", [other]) => Ok(if inner.is_some() { on.clone() } else { other.clone() }),
            ("orValue", [other]) => Ok(inner.as_deref().cloned().unwrap_or_else(|| other.clone())),
            _ => no_overload(name),
        },
        _ => match (name, args) {
            ("size", []) => size(on),
            ("join", args) => {
                let items = on.items().map_or_else(|| no_overload("join"), Ok)?;
                let texts: Vec<String> = items.iter().map(Value::to_text).collect();
                let separator = args.first().map(Value::to_text).unwrap_or_default();
                grown(eval, texts.join(&separator))
            }
            _ => no_overload(name),
        },
    }
}

fn size<'a>(value: &Value<'a>) -> Result<Value<'a>> {
    value.size().map_or_else(|| no_overload("size"), |size| Ok(Value::Int(size as i64)))
}

/// A new string, paid for.
fn grown<'a>(eval: &Eval<'_, 'a>, text: String) -> Result<Value<'a>> {
    if text.len() > STRING_BYTES_MAX {
        return failed(format!("a string grows beyond {STRING_BYTES_MAX} bytes"));
    }
    let value = Value::string(text);
    eval.look(&value)?;
    Ok(value)
}

fn string<'a>(eval: &Eval<'_, 'a>, name: &str, text: &str, args: &[Value<'a>]) -> Result<Value<'a>> {
    let letters = || text.chars().collect::<Vec<char>>();
    let whole = |value: &Value<'a>, max: usize| match value {
        Value::Int(at) => usize::try_from(*at).ok().filter(|at| *at <= max).map_or_else(|| failed(format!("index out of range: {at}")), Ok),
        _ => no_overload(name),
    };
    Ok(match (name, args) {
        ("size", []) => Value::Int(text.chars().count() as i64),
        ("contains", [Value::String(part)]) => Value::Bool(text.contains(&**part)),
        ("startsWith", [Value::String(part)]) => Value::Bool(text.starts_with(&**part)),
        ("endsWith", [Value::String(part)]) => Value::Bool(text.ends_with(&**part)),
        ("matches", [Value::String(pattern)]) => {
            eval.budget.spend(text.len().div_ceil(10).max(1) as u64 * pattern.len().div_ceil(4).max(1) as u64)?;
            Value::Bool(kubernetes::regex(eval, pattern)?.is_match(text))
        }
        ("charAt", [at]) => {
            let letters = letters();
            Value::string(letters.get(whole(at, letters.len())?).map(char::to_string).unwrap_or_default())
        }
        ("indexOf" | "lastIndexOf", [Value::String(part), rest @ ..]) => {
            let letters = letters();
            let from = rest.first().map(|at| whole(at, usize::MAX)).transpose()?;
            // Behind the end there is nothing, except the empty text, which is everywhere.
            if let Some(from) = from
                && (part.is_empty() || from >= letters.len())
            {
                return Ok(Value::Int(if part.is_empty() { from as i64 } else { -1 }));
            }
            let part: Vec<char> = part.chars().collect();
            eval.budget.spend((letters.len() * part.len().max(1)).div_ceil(10) as u64)?;
            let fits = |at: &usize| letters[*at..].starts_with(&part);
            let last = letters.len().checked_sub(part.len());
            let found = match (name, last) {
                (_, None) => None,
                ("indexOf", Some(last)) => (from.unwrap_or(0)..=last).find(fits),
                (_, Some(last)) => (0..=from.unwrap_or(last).min(last)).rev().find(fits),
            };
            Value::Int(found.map_or(-1, |at| at as i64))
        }
        ("lowerAscii", []) => grown(eval, text.to_ascii_lowercase())?,
        ("upperAscii", []) => grown(eval, text.to_ascii_uppercase())?,
        ("trim", []) => grown(eval, text.trim().to_owned())?,
        ("replace", [Value::String(from), Value::String(to), rest @ ..]) => {
            if text.matches(&**from).count().saturating_mul(to.len()).saturating_add(text.len()) > STRING_BYTES_MAX {
                return failed(format!("a string grows beyond {STRING_BYTES_MAX} bytes"));
            }
            match rest.first() {
                Some(Value::Int(count)) if *count >= 0 => {
                    grown(eval, text.replacen(&**from, to, usize::try_from(*count).unwrap_or(usize::MAX)))?
                }
                _ => grown(eval, text.replace(&**from, to))?,
            }
        }
        ("split", [Value::String(separator), rest @ ..]) => {
            let most = match rest.first() {
                Some(Value::Int(count)) => usize::try_from(*count).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            eval.budget.spend(text.matches(&**separator).count().min(most) as u64)?;
            let pieces: Vec<Value<'a>> = match most {
                0 => Vec::new(),
                // Letters, the last piece with all that are left.
                most if separator.is_empty() => {
                    let cuts = text.char_indices().map(|(at, _)| at).take(most);
                    let mut cuts = cuts.peekable();
                    let piece = || cuts.next().map(|from| &text[from..cuts.peek().copied().unwrap_or(text.len())]);
                    std::iter::from_fn(piece).map(Value::string).collect()
                }
                most => text.splitn(most, &**separator).map(Value::string).collect(),
            };
            let list = Value::list(pieces);
            eval.look(&list)?;
            list
        }
        ("substring", [from, rest @ ..]) => {
            let letters = letters();
            let start = whole(from, letters.len())?;
            let end = rest.first().map_or(Ok(letters.len()), |end| whole(end, letters.len()))?;
            if start > end {
                return failed(format!("invalid substring range. start: {start}, end: {end}"));
            }
            grown(eval, letters[start..end].iter().collect())?
        }
        ("format", [list]) => grown(eval, format(text, &list.items().map_or_else(|| no_overload("format"), Ok)?)?)?,
        _ => return no_overload(name),
    })
}

/// `'%s has %d'.format([a, b])`
fn format(template: &str, args: &[Value<'_>]) -> Result<String> {
    let (mut out, mut rest, mut args) = (String::new(), template, args.iter());
    let count = args.len();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end =
            rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').map_or_else(|| failed("unexpected end of string"), Ok)?;
        let precision: Option<usize> = rest[..end].strip_prefix('.').and_then(|digits| digits.parse().ok());
        let precision = precision.map(|digits| digits.min(100));
        let verb = rest[end..].chars().next().unwrap_or('%');
        rest = &rest[end + verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(arg) = args.next() else { return failed(format!("index {count} out of range")) };
        let cannot = |what: &str| EvalError::Failed(format!("error during formatting: {what}, was given {}", arg.type_name()));
        let float = |clause: &str| match arg {
            Value::Double(value) => Ok(*value),
            Value::Int(value) => Ok(*value as f64),
            _ => Err(cannot(&format!("{clause} clause can only be used on doubles"))),
        };
        match (verb, arg) {
            ('s', value) => out.push_str(&value.to_text()),
            ('d', Value::Int(_) | Value::Uint(_) | Value::Double(_)) => out.push_str(&arg.to_text()),
            ('f', _) => out.push_str(&format!("{:.*}", precision.unwrap_or(6), float("fixed-point")?)),
            ('e', _) => out.push_str(&format!("{:.*e}", precision.unwrap_or(6), float("scientific")?)),
            ('b', Value::Int(value)) => out.push_str(&format!("{value:b}")),
            ('b', Value::Bool(value)) => out.push_str(if *value { "1" } else { "0" }),
            ('o', Value::Int(value)) => out.push_str(&format!("{value:o}")),
            ('x', Value::Int(value)) => out.push_str(&format!("{value:x}")),
            ('X', Value::Int(value)) => out.push_str(&format!("{value:X}")),
            ('x', Value::String(text)) => out.extend(text.bytes().map(|byte| format!("{byte:02x}"))),
            ('X', Value::String(text)) => out.extend(text.bytes().map(|byte| format!("{byte:02X}"))),
            ('d', _) => return Err(cannot("decimal clause can only be used on integers")),
            ('b', _) => return Err(cannot("only integers and bools can be formatted as binary")),
            ('o', _) => return Err(cannot("octal clause can only be used on integers")),
            ('x' | 'X', _) => return Err(cannot("only integers, byte buffers, and strings can be formatted as hex")),
            _ => return failed(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"")),
        }
        if out.len() > STRING_BYTES_MAX {
            return failed(format!("a string grows beyond {STRING_BYTES_MAX} bytes"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn of_time<'a>(name: &str, time: Timestamp, args: &[Value<'a>]) -> Result<Value<'a>> {
    let zone = match args {
        [] => TimeZone::UTC,
        [Value::String(zone)] if **zone == *"UTC" => TimeZone::UTC,
        [Value::String(zone)] => offset(zone).map_or_else(|| failed(format!("unknown time zone {zone}")), Ok)?,
        _ => return no_overload(name),
    };
    let local = zone.to_datetime(time);
    let number = match name {
        "getFullYear" => i64::from(local.year()),
        "getMonth" => i64::from(local.month()) - 1,
        "getDate" => i64::from(local.day()),
        "getDayOfMonth" => i64::from(local.day()) - 1,
        "getDayOfWeek" => i64::from(local.weekday().to_sunday_zero_offset()),
        "getDayOfYear" => i64::from(local.day_of_year()) - 1,
        "getHours" => i64::from(local.hour()),
        "getMinutes" => i64::from(local.minute()),
        "getSeconds" => i64::from(local.second()),
        "getMilliseconds" => i64::from(local.millisecond()),
        _ => return no_overload(name),
    };
    Ok(Value::Int(number))
}

/// `+02:00`
fn offset(text: &str) -> Option<TimeZone> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let number = |text: &str| text.parse::<i32>().ok().filter(|_| text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = number(hours)? * 3600 + number(minutes)? * 60;
    jiff::tz::Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed)
}

fn of_duration<'a>(name: &str, value: SignedDuration, args: &[Value<'a>]) -> Result<Value<'a>> {
    let seconds = value.as_secs();
    match (name, args) {
        ("getHours", []) => Ok(Value::Int(seconds / 3600)),
        ("getMinutes", []) => Ok(Value::Int(seconds / 60)),
        ("getSeconds", []) => Ok(Value::Int(seconds)),
        ("getMilliseconds", []) => Ok(Value::Int(i64::try_from(value.as_millis()).unwrap_or(i64::MAX))),
        _ => no_overload(name),
    }
}

fn to_int<'a>(value: &Value<'a>) -> Result<Value<'a>> {
    Ok(Value::Int(match value {
        Value::Int(value) => *value,
        Value::Uint(value) => i64::try_from(*value).or_else(|_| failed("integer overflow"))?,
        #[expect(clippy::cast_possible_truncation, reason = "checked against the range before")]
        Value::Double(value) if value.abs() < -(i64::MIN as f64) => *value as i64,
        Value::Double(_) => return failed("integer overflow"),
        Value::String(text) => text.parse().or_else(|_| no_conversion("int"))?,
        Value::Timestamp(time) => time.as_second(),
        Value::Duration(value) => i64::try_from(value.as_nanos()).or_else(|_| failed("integer overflow"))?,
        _ => return no_overload("int"),
    }))
}

fn to_uint<'a>(value: &Value<'a>) -> Result<Value<'a>> {
    Ok(Value::Uint(match value {
        Value::Uint(value) => *value,
        Value::Int(value) => u64::try_from(*value).or_else(|_| failed("unsigned integer overflow"))?,
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against the range before")]
        Value::Double(value) if *value >= 0.0 && *value < 18_446_744_073_709_551_616.0 => *value as u64,
        Value::Double(_) => return failed("unsigned integer overflow"),
        Value::String(text) => text.parse().or_else(|_| no_conversion("uint"))?,
        _ => return no_overload("uint"),
    }))
}

const TIMESTAMP_OVERFLOW: &str = "timestamp overflow";
const DURATION_OVERFLOW: &str = "duration overflow";

/// A text that does not say such a value.
fn no_conversion<T>(ty: &str) -> Result<T> {
    failed(format!("type conversion error from 'string' to '{ty}'"))
}

/// Times of the years 1 to 9999.
fn in_range(time: Timestamp) -> Result<Timestamp> {
    if (-62_135_596_800..=253_402_300_799).contains(&time.as_second()) { Ok(time) } else { failed(TIMESTAMP_OVERFLOW) }
}

/// Durations whose nanoseconds are a number of 64 bits.
pub(super) fn short(duration: Option<SignedDuration>) -> Result<Value<'static>> {
    let fits = duration.filter(|duration| i64::try_from(duration.as_nanos()).is_ok());
    fits.map_or_else(|| failed(DURATION_OVERFLOW), |duration| Ok(Value::Duration(duration)))
}

fn moved(time: std::result::Result<Timestamp, jiff::Error>) -> Result<Value<'static>> {
    time.map_or_else(|_| failed(TIMESTAMP_OVERFLOW), in_range).map(Value::Timestamp)
}

/// None for what has no text.
pub(super) fn to_string(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::String(text) => text.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Timestamp(time) => time.to_string(),
        Value::Duration(value) => format!("{}s", value.as_secs_f64()),
        Value::Type(name) => (*name).to_owned(),
        Value::Quantity(quantity) => quantity.to_string(),
        Value::Ip(address) => address.to_string(),
        Value::Cidr(address, bits) => format!("{address}/{bits}"),
        Value::Url(url) => kubernetes::url_text(url),
        Value::Semver(version) => kubernetes::semver_text(version),
        Value::Object(..) | Value::Array(..) => value.to_json().to_string(),
        Value::List(list) => format!("[{}]", list.iter().map(Value::to_text).collect::<Vec<_>>().join(", ")),
        Value::Map(map) | Value::Made(_, map) => {
            let entries: Vec<String> = map.iter().map(|(key, value)| format!("{}: {}", key.value().to_text(), value.to_text())).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Optional(Some(inner)) => format!("optional({})", inner.to_text()),
        Value::Optional(None) => "optional.none()".to_owned(),
        Value::Format(_) | Value::Host(_) | Value::Failed(_) => return None,
    })
}

pub(super) fn arithmetic<'a>(operator: Binary, one: Value<'a>, two: Value<'a>) -> Result<Value<'a>> {
    use Binary::{Add, Divide, Multiply, Remainder, Subtract};
    let overflow = || EvalError::Failed("integer overflow".to_owned());
    let unsigned = || EvalError::Failed("unsigned integer overflow".to_owned());
    let zero = || EvalError::Failed(if operator == Remainder { "modulus by zero" } else { "division by zero" }.to_owned());
    Ok(match (one, two) {
        (Value::Int(one), Value::Int(two)) => Value::Int(match operator {
            Add => one.checked_add(two).ok_or_else(overflow)?,
            Subtract => one.checked_sub(two).ok_or_else(overflow)?,
            Multiply => one.checked_mul(two).ok_or_else(overflow)?,
            _ if two == 0 => return Err(zero()),
            Divide => one.checked_div(two).ok_or_else(overflow)?,
            _ => one.checked_rem(two).ok_or_else(overflow)?,
        }),
        (Value::Uint(one), Value::Uint(two)) => Value::Uint(match operator {
            Add => one.checked_add(two).ok_or_else(unsigned)?,
            Subtract => one.checked_sub(two).ok_or_else(unsigned)?,
            Multiply => one.checked_mul(two).ok_or_else(unsigned)?,
            _ if two == 0 => return Err(zero()),
            Divide => one / two,
            _ => one % two,
        }),
        (Value::Double(one), Value::Double(two)) => Value::Double(match operator {
            Add => one + two,
            Subtract => one - two,
            Multiply => one * two,
            Divide => one / two,
            _ => return Err(no_operator(operator, &Value::Double(one))),
        }),
        (Value::String(one), Value::String(two)) if operator == Add => {
            if one.len() + two.len() > STRING_BYTES_MAX {
                return failed(format!("a string grows beyond {STRING_BYTES_MAX} bytes"));
            }
            Value::string(format!("{one}{two}"))
        }
        (Value::Bytes(one), Value::Bytes(two)) if operator == Add => Value::Bytes([&one[..], &two[..]].concat().into()),
        (Value::Timestamp(one), Value::Timestamp(two)) if operator == Subtract => short(Some(one.duration_since(two)))?,
        (Value::Timestamp(one), Value::Duration(two)) | (Value::Duration(two), Value::Timestamp(one)) if operator == Add => {
            moved(one.checked_add(two))?
        }
        (Value::Timestamp(one), Value::Duration(two)) if operator == Subtract => moved(one.checked_sub(two))?,
        (Value::Duration(one), Value::Duration(two)) if operator == Add => short(one.checked_add(two))?,
        (Value::Duration(one), Value::Duration(two)) if operator == Subtract => short(one.checked_sub(two))?,
        (one, two) if operator == Add => match (one.items(), two.items()) {
            (Some(mut items), Some(more)) => {
                // Of sets the union; in lists of maps an item takes the place of that with its keys (x-kubernetes-list-type).
                let list = match &one {
                    Value::Array(_, Some(schema)) => Some(&schema.list),
                    _ => None,
                };
                let keys: Vec<Value<'a>> = match list {
                    Some(Items::Map(keys)) => keys.iter().map(|key| Value::string(key.as_str())).collect(),
                    _ => Vec::new(),
                };
                let same = |one: &Value<'a>, two: &Value<'a>| match list {
                    Some(Items::Set) => equal(one, two),
                    Some(Items::Map(_)) => keys.iter().all(|key| match (one.at(key), two.at(key)) {
                        (Ok(Some(one)), Ok(Some(two))) => equal(&one, &two),
                        (Ok(None), Ok(None)) => true,
                        _ => false,
                    }),
                    Some(Items::Atomic) | None => false,
                };
                for item in more {
                    match items.iter().position(|known| same(known, &item)) {
                        Some(at) => items[at] = item,
                        None => items.push(item),
                    }
                }
                Value::list(items)
            }
            _ => return Err(no_operator(operator, &one)),
        },
        (one, _) => return Err(no_operator(operator, &one)),
    })
}

/// The least or greatest of a list.
pub(super) fn extreme<'a>(name: &str, items: &[Value<'a>], wanted: Ordering) -> Result<Value<'a>> {
    let mut best = items.first().map_or_else(|| failed(format!("{name} called on empty list")), Ok)?;
    for item in &items[1..] {
        if order(item, best)? == Some(wanted) {
            best = item;
        }
    }
    Ok(best.clone())
}
