//! Reading requests: paths, query parameters, media types.

pub(crate) mod media;
pub(crate) mod options;
pub(crate) mod path;
