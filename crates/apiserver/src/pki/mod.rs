//! The certificate authority, certificates and keys.
