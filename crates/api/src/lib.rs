//! Kinds, schema, codecs and patches of the Kubernetes API. No I/O, no async.
