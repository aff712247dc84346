//! Bodies of subresources that are kinds of their own. Nothing is stored under them and no resource bears their name: their rows give the
//! patches, applies and policies of such bodies a schema.

use std::sync::LazyLock;

use super::row::row;
use crate::kind::{Kind, Subresource, VerbSet};

static BODIES: LazyLock<[Kind; 4]> = LazyLock::new(|| {
    [("autoscaling", "v1", "Scale"), ("", "v1", "Binding"), ("policy", "v1", "Eviction"), ("authentication.k8s.io", "v1", "TokenRequest")]
        .map(|(group, version, kind)| row(group, version, kind, "").only(VerbSet::NONE))
});

impl Subresource {
    /// The kind of the body, if it is one of its own; the options of streams (exec, proxy) are none.
    pub fn body(&self) -> Option<&'static Kind> {
        BODIES.iter().find(|body| body.group == self.group && body.version == self.version && body.kind == self.kind)
    }
}

#[cfg(test)]
mod tests {
    use crate::Kinds;

    #[test]
    fn every_body_of_a_subresource_has_a_schema_or_is_of_a_stream() {
        for kind in Kinds::builtin().iter() {
            for part in kind.subresources.iter().filter(|part| part.kind != kind.kind && !part.kind.ends_with("Options")) {
                let body = part.body().unwrap_or_else(|| panic!("{}/{}: {}", kind.resource, part.name, part.kind));
                assert!(body.message.is_some(), "{}/{}: {}", kind.resource, part.name, part.kind);
            }
        }
    }
}
