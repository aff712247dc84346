//! Times as the API writes them, and ages as `kubectl get` shows them.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// `2026-01-02T03:04:05Z`: seconds are cut, not rounded.
pub fn format(time: Timestamp) -> String {
    print(time, 0)
}

/// `2026-01-02T03:04:05.000000Z`
pub fn format_micro(time: Timestamp) -> String {
    print(time, 6)
}

fn print(time: Timestamp, fraction_digits: u8) -> String {
    DateTimePrinter::new().precision(Some(fraction_digits)).timestamp_to_string(&time)
}

/// RFC 3339 with any offset.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// `5m`, `2d3h`: about three figures, as upstream's `duration.HumanDuration`.
pub fn human_duration(seconds: i64) -> String {
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        small => format!("{large}{large_unit}{small}{small_unit}"),
    };
    match seconds {
        // A clock a little ahead of the server's is forgiven.
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(seconds / YEAR, "y", seconds % YEAR / DAY, "d"),
        _ => format!("{}y", seconds / YEAR),
    }
}

/// The age of something that began at `since`; `<unknown>` where that is no time.
pub fn age(since: &str, now: Timestamp) -> String {
    match parse(since) {
        Some(since) => human_duration(now.as_second() - since.as_second()),
        None => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_shows_them() {
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (172_800 + 3 * 3600, "2d3h"),
            (8 * 86_400, "8d"),
            (2 * 365 * 86_400, "2y"),
            ((2 * 365 + 5) * 86_400, "2y5d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn times_are_utc_with_the_digits_of_their_type() {
        let time = parse("2026-01-02T04:04:05.9999999+01:00").unwrap();
        assert_eq!(format(time), "2026-01-02T03:04:05Z");
        assert_eq!(format_micro(time), "2026-01-02T03:04:05.999999Z");
        assert_eq!(parse("yesterday"), None);
    }
}
