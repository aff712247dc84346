//! What messages and fields mean, in upstream's words.

/// Empty where there is none.
pub(super) fn of_message(_definition: &str) -> &'static str {
    ""
}

/// Empty where there is none.
pub(super) fn of_field(_definition: &str, _field: &str) -> &'static str {
    ""
}
