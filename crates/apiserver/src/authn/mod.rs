//! Who is the caller? Client certificates and tokens.
