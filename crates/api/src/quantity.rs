//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Exact to a billionth, as upstream's `resource.Quantity`.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};

/// An exact quantity, with the suffix family in which it prints.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// Ki, Mi, Gi, ...
    Binary,
    /// m, k, M, G, ...
    Decimal,
    /// e3, e6, ...
    Exponent,
}

/// Not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

const NANO: i128 = 1_000_000_000;
/// Longest text that is looked at, in bytes: more digits than any quantity has.
const TEXT_MAX: usize = 64;
/// Upstream caps quantities at 2^63-1 units.
const UNITS_MAX: i128 = i64::MAX as i128;

/// Suffix, family, and the factor as base and exponent.
const SUFFIXES: [(&str, Format, i128, i32); 17] = [
    ("", Format::Decimal, 10, 0),
    ("n", Format::Decimal, 10, -9),
    ("u", Format::Decimal, 10, -6),
    ("m", Format::Decimal, 10, -3),
    ("k", Format::Decimal, 10, 3),
    ("M", Format::Decimal, 10, 6),
    ("G", Format::Decimal, 10, 9),
    ("T", Format::Decimal, 10, 12),
    ("P", Format::Decimal, 10, 15),
    ("E", Format::Decimal, 10, 18),
    ("Ki", Format::Binary, 2, 10),
    ("Mi", Format::Binary, 2, 20),
    ("Gi", Format::Binary, 2, 30),
    ("Ti", Format::Binary, 2, 40),
    ("Pi", Format::Binary, 2, 50),
    ("Ei", Format::Binary, 2, 60),
    // Never printed by itself; the exponent follows.
    ("e", Format::Exponent, 10, 0),
];

impl Quantity {
    pub const ZERO: Quantity = Quantity { nano: 0, format: Format::Decimal };

    pub fn parse(text: &str) -> Result<Quantity, ParseError> {
        if text.len() > TEXT_MAX {
            return Err(ParseError);
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseError);
        }
        let (format, base, exponent) = parse_suffix(suffix)?;
        let nano = scale(whole, fraction, base, exponent).ok_or(ParseError)?;
        Ok(Quantity { nano: if negative { -nano } else { nano }, format })
    }

    pub fn from_units(units: i64) -> Quantity {
        Quantity { nano: i128::from(units) * NANO, format: Format::Decimal }
    }

    pub fn from_milli(milli: i64) -> Quantity {
        Quantity { nano: i128::from(milli) * (NANO / 1000), format: Format::Decimal }
    }

    /// Thousandths, rounded up (away from zero) as upstream's `MilliValue`.
    pub fn milli(&self) -> i128 {
        round_up(self.nano, NANO / 1000)
    }

    /// Whole units, rounded up (away from zero) as upstream's `Value`.
    pub fn value(&self) -> i128 {
        round_up(self.nano, NANO)
    }

    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nano % NANO == 0
    }

    /// Rounded up to thousandths, as resource lists are kept.
    pub fn round_up_to_milli(self) -> Quantity {
        Quantity { nano: self.milli() * (NANO / 1000), ..self }
    }
}

/// Rounds away from zero, as upstream's infScale arithmetic.
fn round_up(nano: i128, unit: i128) -> i128 {
    let whole = nano / unit;
    match nano % unit {
        0 => whole,
        rest => whole + rest.signum(),
    }
}

fn parse_suffix(suffix: &str) -> Result<(Format, i128, i32), ParseError> {
    if let Some((_, format, base, exponent)) = SUFFIXES.iter().find(|(text, ..)| *text == suffix && *text != "e") {
        return Ok((*format, *base, *exponent));
    }
    let digits = suffix.strip_prefix(['e', 'E']).ok_or(ParseError)?;
    let exponent: i32 = digits.parse().map_err(|_| ParseError)?;
    Ok((Format::Exponent, 10, exponent))
}

/// whole.fraction × base^exponent in billionths, rounded up, capped at the largest quantity; `None` if a digit is no digit.
fn scale(whole: &str, fraction: &str, base: i128, exponent: i32) -> Option<i128> {
    let cap = UNITS_MAX * NANO;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // 10^places is what the digits must still be multiplied with.
    let mut places = 9 - i32::try_from(fraction.len()).ok()?;
    let mut factor = 1;
    if base == 2 {
        factor = 1i128 << exponent;
    } else {
        places = places.saturating_add(exponent);
    }
    // Beyond 30 digits the value is over the cap; beyond 38 it would not fit the arithmetic.
    if i64::from(places) + digits.len() as i64 > 30 {
        return Some(cap);
    }
    if digits.len() > 38 {
        return None;
    }
    let number: i128 = digits.parse().ok()?;
    let Some(product) = number.checked_mul(factor) else {
        return Some(cap);
    };
    let scaled = match u32::try_from(places) {
        Ok(places) => product.checked_mul(10i128.checked_pow(places)?).unwrap_or(cap),
        Err(_) => match 10i128.checked_pow(places.unsigned_abs()) {
            Some(divisor) => round_up(product, divisor),
            None => 1,
        },
    };
    Some(scaled.min(cap))
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that keeps it exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        // Binary suffixes have no fractions: below 1024, and where a fraction is left, decimal ones are used.
        if self.format == Format::Binary && self.nano.abs() >= 1024 * NANO && self.is_whole() {
            let mut units = self.nano / NANO;
            let mut index = 0;
            while units % 1024 == 0 && index < 6 {
                units /= 1024;
                index += 1;
            }
            return write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][index]);
        }
        let (mut number, mut exponent) = (self.nano, -9);
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{number}"),
            (Format::Exponent, exponent) => write!(f, "{number}e{exponent}"),
            (_, exponent) => {
                let suffix = SUFFIXES.iter().find(|(_, _, base, e)| *base == 10 && *e == exponent).map_or("", |row| row.0);
                write!(f, "{number}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Quantity;

    /// Prints as the left side does, unless that is zero.
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nano == 0 { other.format } else { self.format };
        Quantity { nano: self.nano.saturating_add(other.nano), format }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.nano == 0 { other.format } else { self.format };
        Quantity { nano: self.nano.saturating_sub(other.nano), format }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, canonical: &str, milli: i128) {
        let quantity = Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!((quantity.to_string().as_str(), quantity.milli()), (canonical, milli), "{text}");
    }

    #[test]
    fn quantities_print_in_canonical_form() {
        check("0", "0", 0);
        check("100m", "100m", 100);
        check("0.1", "100m", 100);
        check("1.5", "1500m", 1500);
        check("1500m", "1500m", 1500);
        check("2000m", "2", 2000);
        check("1000", "1k", 1_000_000);
        check("1.5Gi", "1536Mi", 1_610_612_736_000);
        check("1024Mi", "1Gi", 1_073_741_824_000);
        check("512", "512", 512_000);
        check("0.5Ki", "512", 512_000);
        check("1e3", "1e3", 1_000_000);
        check("12E2", "1200", 1_200_000);
        check("1E", "1E", 1_000_000_000_000_000_000_000);
        check("-1.5", "-1500m", -1500);
        check("+1", "1", 1000);
        check(".5", "500m", 500);
        check("1n", "1n", 1);
        check("0.0000000001", "1n", 1);
        check("100000000000000000000", "9223372036854775807", i128::from(i64::MAX) * 1000);
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "-", ".", "1.2.3", "1x", "1 ", " 1", "Gi", "1GiB", "1e", "0x10", "1KI", "1ki", "½"] {
            assert_eq!(Quantity::parse(text), Err(ParseError), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_stable(text in "[+-]?[0-9]{0,12}(\\.[0-9]{0,10})?(n|u|m|k|M|G|T|Ki|Mi|Gi|Ti|e[0-9]|E-[0-9])?") {
            if let Ok(quantity) = Quantity::parse(&text) {
                let printed = quantity.to_string();
                let again = Quantity::parse(&printed).unwrap();
                prop_assert_eq!(again, quantity);
                prop_assert_eq!(again.to_string(), printed);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,70}") {
            let _ = Quantity::parse(&text);
        }
    }
}
