//! The formats of strings in schemas (kube-openapi, pkg/validation/strfmt; apiextensions-apiserver, schema/formats). Unknown ones are let pass, as upstream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

use crate::{duration, names};

/// Whether `text` has the form that `format` names; any text has one that is unknown.
pub(crate) fn fits(format: &str, text: &str) -> bool {
    form(format, text).unwrap_or(true)
}

/// Whether something is asked of a text by this name.
pub(crate) fn is_known(format: &str) -> bool {
    form(format, "").is_some()
}

fn form(format: &str, text: &str) -> Option<bool> {
    Some(match format.replace('-', "").as_str() {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "datetime" => is_date_time(text),
        "duration" => is_duration(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "email" => is_email(text),
        "hostname" => is_host_name(text),
        "uri" => text.split_once(':').is_some_and(|(scheme, rest)| is_scheme(scheme) && is_printable(rest)),
        "bsonobjectid" => text.len() == 24 && is_hex(text),
        "hexcolor" => text.strip_prefix('#').is_some_and(|digits| matches!(digits.len(), 3 | 6) && is_hex(digits)),
        "isbn" => is_isbn(text, 10) || is_isbn(text, 13),
        "isbn10" => is_isbn(text, 10),
        "isbn13" => is_isbn(text, 13),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "rgbcolor" => is_rgb(text),
        "k8sshortname" => names::dns1123_label(text).is_empty(),
        "k8slongname" => names::dns1123_subdomain(text).is_empty(),
        // Upstream knows these by name and asks nothing.
        "password" | "quantity" => true,
        _ => return None,
    })
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_printable(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphabetic()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let plain = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let max = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    plain && bits.parse::<u32>().is_ok_and(|bits| bits <= max)
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| part.len() == 2 && is_hex(part))
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let digits: String = text.split('-').collect();
    let shaped = digits.len() == 32 && is_hex(&digits) && (text.len() == 32 || text.split('-').map(str::len).eq([8, 4, 4, 4, 12]));
    let variant = || version == Some('3') || digits[16..17].contains(['8', '9', 'a', 'b', 'A', 'B']);
    shaped && version.is_none_or(|version| digits[12..13].starts_with(version) && variant())
}

/// RFC 3339: a date, a time and an offset.
fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't']) else { return false };
    date.len() == 10
        && time.ends_with(|letter: char| letter.is_ascii_digit() || "Zz".contains(letter))
        && crate::time::parse(text).is_some()
}

/// Go's `1h30m`, or Scala's `5 days`, as upstream takes both.
fn is_duration(text: &str) -> bool {
    duration::parse(text).is_some() || {
        const UNITS: &str =
            "ns nano nanosecond us micro microsecond ms milli millisecond s sec second m min minute h hr hour d day w wk week";
        let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim().to_lowercase();
        let single = unit.strip_suffix('s').filter(|rest| !rest.is_empty()).unwrap_or(&unit);
        !number.is_empty() && UNITS.split(' ').any(|known| known == single || known == unit)
    }
}

fn is_email(text: &str) -> bool {
    let address = text.rsplit_once('<').map_or(text, |(_, rest)| rest.trim_end_matches('>'));
    address.rsplit_once('@').is_some_and(|(local, host)| is_printable(local) && is_printable(host) && !local.contains(['<', '>', ',']))
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn digits(text: &str) -> Option<Vec<u32>> {
    text.chars().filter(|letter| !" -".contains(*letter)).map(|letter| letter.to_digit(10)).collect()
}

fn is_isbn(text: &str, length: usize) -> bool {
    let plain: String = text.chars().filter(|letter| !" -".contains(*letter)).collect();
    if plain.len() != length || !plain.is_ascii() {
        return false;
    }
    let value = |(at, letter): (usize, char)| match letter {
        'X' | 'x' if length == 10 && at == 9 => Some(10),
        letter => letter.to_digit(10),
    };
    let Some(values) = plain.chars().enumerate().map(value).collect::<Option<Vec<u32>>>() else { return false };
    match length {
        10 => values.iter().zip((1..=10).rev()).map(|(value, weight)| value * weight).sum::<u32>() % 11 == 0,
        _ => values.iter().zip([1, 3].into_iter().cycle()).map(|(value, weight)| value * weight).sum::<u32>() % 10 == 0,
    }
}

/// Luhn's check.
fn is_credit_card(text: &str) -> bool {
    let Some(digits) = digits(text).filter(|digits| (13..=19).contains(&digits.len())) else { return false };
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit }).sum::<u32>() % 10 == 0
}

fn is_ssn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(['-', ' ']).collect();
    parts.iter().map(|part| part.len()).eq([3, 2, 4]) && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    inner.is_some_and(|inner| inner.split(',').count() == 3 && inner.split(',').all(|part| part.trim().parse::<u8>().is_ok()))
}

#[cfg(test)]
mod tests {
    use super::{fits, is_known};

    #[test]
    fn formats_take_and_refuse() {
        for (format, good, bad) in [
            ("ipv4", "10.0.0.1", "10.0.0.01"),
            ("ipv6", "fe80::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11:22:33:44"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            ("uuid4", "123e4567-e89b-42d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174000"),
            ("date", "2024-02-29", "2023-02-29"),
            ("date-time", "2024-01-01T00:00:00Z", "2024-01-01"),
            ("date-time", "2024-01-01T00:00:00.5+02:00", "2024-01-01T00:00:00"),
            ("duration", "1h30m", "1 fortnight"),
            ("duration", "5 days", "5"),
            ("byte", "aGk=", "aGk"),
            ("email", "a@b.c", "a.b.c"),
            ("hostname", "a-b.example.com", "a_b"),
            ("uri", "https://x/y", "no uri"),
            ("isbn10", "0-306-40615-2", "0-306-40615-3"),
            ("isbn13", "978-0-306-40615-7", "978-0-306-40615-8"),
            ("creditcard", "4539 1488 0343 6467", "4539 1488 0343 6468"),
            ("hexcolor", "#fff", "fff"),
            ("rgbcolor", "rgb(1, 2, 255)", "rgb(1,2,256)"),
            ("k8s-short-name", "abc", "a.b"),
            ("k8s-long-name", "a.b", "A"),
        ] {
            assert!(fits(format, good), "{format} {good}");
            assert!(!fits(format, bad), "{format} {bad}");
        }
        // No address is asked of `ip`, as upstream, which has never known it.
        for unknown in ["anything-else", "ip"] {
            assert!(fits(unknown, "x") && !is_known(unknown), "{unknown}");
        }
        assert!(fits("password", "x") && is_known("password") && is_known("date-time"));
    }
}
