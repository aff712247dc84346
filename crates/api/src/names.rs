//! The forms of names. Each function returns the reasons why a value is not of the form; none means that it is.

/// Longest DNS label, in bytes (RFC 1123).
pub const DNS1123_LABEL_MAX: usize = 63;
/// Longest DNS subdomain, in bytes (RFC 1123).
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;

pub fn dns1123_label(_value: &str) -> Vec<String> {
    todo!()
}
pub fn dns1123_subdomain(_value: &str) -> Vec<String> {
    todo!()
}
pub fn dns1035_label(_value: &str) -> Vec<String> {
    todo!()
}
/// `name` or `prefix/name`, as of label keys and finalizers.
pub fn qualified_name(_value: &str) -> Vec<String> {
    todo!()
}
pub fn label_value(_value: &str) -> Vec<String> {
    todo!()
}
/// A name that can be a segment of a path (RBAC names).
pub fn path_segment(_value: &str) -> Vec<String> {
    todo!()
}
