//! Durations as Go writes them (time.Duration.String) and reads them (time.ParseDuration), which is how they stand in objects and configurations.

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;

/// Nanoseconds of `1h30m`, `1.5s`, `-500ms`.
pub fn parse(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0_i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (whole, fraction) = rest[..end].split_once('.').unwrap_or((&rest[..end], ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok() };
        rest = &rest[end..];
        let end = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        let unit: u64 = match &rest[..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => MICROSECOND,
            "ms" => MILLISECOND,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3_600 * SECOND,
            _ => return None,
        };
        total += i128::from(number(whole)?) * i128::from(unit) + i128::from(part(fraction, unit)?);
        rest = &rest[end..];
    }
    i64::try_from(sign * total).ok()
}

/// Nanoseconds of the digits behind a point, reckoned as Go does, so that what is written with many digits is the same length there and here.
fn part(digits: &str, unit: u64) -> Option<u64> {
    let (mut number, mut scale) = (0_i64, 1_f64);
    for digit in digits.chars() {
        let digit = i64::from(digit.to_digit(10)?);
        // What does not fit is less than a nanosecond of the longest unit.
        let Some(longer) = number.checked_mul(10).and_then(|tens| tens.checked_add(digit)) else { break };
        (number, scale) = (longer, scale * 10.0);
    }
    Some((number as f64 * (unit as f64 / scale)) as u64)
}

/// `1h2m3.5s`; below a second in the greatest unit that leaves a whole number before the point: `1.5ms`.
pub fn text(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let length = nanoseconds.unsigned_abs();
    let in_unit = |length: u64, unit: u64, name: &str| {
        let digits = format!("{:0width$}", length % unit, width = unit.ilog10() as usize);
        match digits.trim_end_matches('0') {
            "" => format!("{}{name}", length / unit),
            fraction => format!("{}.{fraction}{name}", length / unit),
        }
    };
    let rest = || in_unit(length % (60 * SECOND), SECOND, "s");
    let (hours, minutes) = (length / (3_600 * SECOND), length / (60 * SECOND) % 60);
    match length {
        0 => "0s".to_owned(),
        1..MICROSECOND => format!("{sign}{length}ns"),
        MICROSECOND..MILLISECOND => format!("{sign}{}", in_unit(length, MICROSECOND, "µs")),
        MILLISECOND..SECOND => format!("{sign}{}", in_unit(length, MILLISECOND, "ms")),
        _ if hours > 0 => format!("{sign}{hours}h{minutes}m{}", rest()),
        _ if minutes > 0 => format!("{sign}{minutes}m{}", rest()),
        _ => format!("{sign}{}", rest()),
    }
}

/// The same of a length, as [`text`] writes it. One that Go could not hold (292 years) is the longest that it can.
pub fn text_of(length: std::time::Duration) -> String {
    text(i64::try_from(length.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them_and_read_back() {
        for (nanoseconds, written) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (100_000_000, "100ms"),
            (999_999_999, "999.999999ms"),
            (1_020_000_000, "1.02s"),
            (60_000_000_000, "1m0s"),
            (65_500_000_000, "1m5.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-5_400_000_000_000, "-1h30m0s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(text(nanoseconds), written);
            assert_eq!(parse(written), Some(nanoseconds), "{written}");
        }
    }

    #[test]
    fn other_spellings_are_read_and_what_is_none_is_not() {
        for (spelt, nanoseconds) in [
            ("1h30m", 5_400_000_000_000),
            ("+.5s", 500_000_000),
            ("0", 0),
            ("1us", 1_000),
            ("90m", 5_400_000_000_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
        ] {
            assert_eq!(parse(spelt), Some(nanoseconds), "{spelt}");
        }
        for wrong in ["", "-", "5", "s", "1d", "5 m", ".s", "99999999h"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
