//! Times as the API writes them.

use jiff::Timestamp;

/// `2026-01-02T03:04:05Z`
pub fn format(_time: Timestamp) -> String {
    todo!()
}
/// `2026-01-02T03:04:05.000000Z`
pub fn format_micro(_time: Timestamp) -> String {
    todo!()
}
pub fn parse(_text: &str) -> Option<Timestamp> {
    todo!()
}
/// `5m`, `2d3h`: upstream's `duration.HumanDuration`.
pub fn human_duration(_seconds: i64) -> String {
    todo!()
}
