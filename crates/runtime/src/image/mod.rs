//! Image references, content store, unpacking and snapshots.

/// The images of a node, and the root file systems made from them.
pub struct Images {
    _private: (),
}
