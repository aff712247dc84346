//! How a row is written: what most kinds share is given, the rest is added.

use crate::kind::{Column, Converter, Field, Kind, Scope, SelectableField, Strategy, Subresource, Text, Verb, VerbSet};
use crate::object::Object;
use crate::schema::Schema;

/// A namespaced kind with every verb; names are DNS subdomains.
pub(super) fn row(group: &'static str, version: &'static str, kind: &'static str, resource: &'static str) -> Kind {
    let collection = if group.is_empty() { format!("core/{resource}") } else { format!("{group}/{resource}") };
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        resource: resource.into(),
        singular: kind.to_ascii_lowercase().into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        scope: Scope::Namespaced,
        message: Schema::get().of_kind(group, version, kind),
        collection: collection.into(),
        storage: None,
        verbs: VerbSet::ALL,
        subresources: Vec::new(),
        name_form: crate::names::dns1123_subdomain,
        strategy: Strategy::default(),
        columns: Vec::new(),
        selectable: Vec::new(),
        has_status: false,
        status_on_create: false,
        generation: false,
        heartbeat: false,
        virtual_: false,
        create_on_update: false,
        unconditional_update: true,
        graceful: false,
        orphans: false,
        orphan_warning: None,
        deprecation: None,
        inert: false,
        custom: None,
    }
}

/// The parts of a row, in the order in which they are read.
impl Kind {
    pub(super) fn cluster(mut self) -> Kind {
        self.scope = Scope::Cluster;
        self
    }

    pub(super) fn short(mut self, names: &[&'static str]) -> Kind {
        self.short_names.extend(names.iter().map(|name| Text::Borrowed(name)));
        self
    }

    /// Listed by `kubectl get all`.
    pub(super) fn in_all(self) -> Kind {
        self.category("all")
    }

    pub(super) fn category(mut self, name: &'static str) -> Kind {
        self.categories.push(name.into());
        self
    }

    pub(super) fn named(mut self, form: fn(&str) -> Vec<String>) -> Kind {
        self.name_form = form;
        self
    }

    /// Has a status, written through its subresource only.
    pub(super) fn status(mut self) -> Kind {
        self.has_status = true;
        let (group, version, kind) = (self.group.clone(), self.version.clone(), self.kind.clone());
        self.subresources.push(Subresource { name: "status".into(), group, version, kind, verbs: VerbSet::GET_PATCH_UPDATE });
        self
    }

    pub(super) fn status_on_create(mut self) -> Kind {
        self.status_on_create = true;
        self
    }

    pub(super) fn scale(self) -> Kind {
        self.sub("scale", "autoscaling/v1 Scale", VerbSet::GET_PATCH_UPDATE)
    }

    /// A subresource; its body is `group/version Kind`, or `version Kind` in the core group.
    pub(super) fn sub(mut self, name: &'static str, body: &'static str, verbs: VerbSet) -> Kind {
        let (api_version, kind) = body.split_once(' ').expect("a body is written `group/version Kind`");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.subresources.push(Subresource { name: name.into(), group: group.into(), version: version.into(), kind: kind.into(), verbs });
        self
    }

    pub(super) fn counts_generations(mut self) -> Kind {
        self.generation = true;
        self
    }

    pub(super) fn without(mut self, verb: Verb) -> Kind {
        self.verbs = self.verbs.without(verb);
        self
    }

    pub(super) fn only(mut self, verbs: VerbSet) -> Kind {
        self.verbs = verbs;
        self
    }

    /// A question that is answered and not kept.
    pub(super) fn review(mut self) -> Kind {
        self.verbs = VerbSet::CREATE;
        self.virtual_ = true;
        self.name_form = |_| Vec::new();
        self
    }

    /// Measured when someone asks, and not kept.
    pub(super) fn measured(mut self) -> Kind {
        self.verbs = VerbSet::GET_LIST;
        self.virtual_ = true;
        self
    }

    pub(super) fn heartbeat(mut self) -> Kind {
        self.heartbeat = true;
        self
    }

    pub(super) fn put_creates(mut self) -> Kind {
        self.create_on_update = true;
        self
    }

    /// An update must carry the resourceVersion that it changes.
    pub(super) fn conditional_update(mut self) -> Kind {
        self.unconditional_update = false;
        self
    }

    pub(super) fn graceful(mut self) -> Kind {
        self.graceful = true;
        self
    }

    pub(super) fn orphans(mut self) -> Kind {
        self.orphans = true;
        self
    }

    /// The same, and users are told.
    pub(super) fn orphans_with_warning(mut self, warning: &'static str) -> Kind {
        self.orphan_warning = Some(warning);
        self.orphans()
    }

    pub(super) fn deprecated(mut self, warning: &'static str) -> Kind {
        self.deprecation = Some(warning);
        self
    }

    pub(super) fn stored_as(mut self, collection: &'static str, converter: Converter) -> Kind {
        self.collection = collection.into();
        self.storage = Some(converter);
        self
    }

    pub(super) fn default_by(mut self, default: fn(&mut Object)) -> Kind {
        self.strategy.default = default;
        self
    }

    pub(super) fn validate_by(mut self, validate: fn(&Object) -> crate::FieldErrors) -> Kind {
        self.strategy.validate = validate;
        self
    }

    pub(super) fn validate_creation_by(mut self, validate: fn(&Object) -> crate::FieldErrors) -> Kind {
        self.strategy.validate_creation = validate;
        self
    }

    pub(super) fn validate_change_by(mut self, validate: fn(&Object, &Object) -> crate::FieldErrors) -> Kind {
        self.strategy.validate_update = validate;
        self
    }

    pub(super) fn validate_status_by(mut self, validate: fn(&Object, &Object) -> crate::FieldErrors) -> Kind {
        self.strategy.validate_status = validate;
        self
    }

    pub(super) fn validate_part_by(mut self, validate: fn(&Object, &Object, &str) -> crate::FieldErrors) -> Kind {
        self.strategy.validate_part = validate;
        self
    }

    pub(super) fn prepare_by(mut self, create: fn(&mut Object), update: fn(&mut Object, &Object)) -> Kind {
        self.strategy.prepare_create = create;
        self.strategy.prepare_update = update;
        self
    }

    pub(super) fn resets(mut self, fields: &'static [&'static str]) -> Kind {
        self.strategy.resets = fields;
        self
    }

    /// Writes of the status change no more of the metadata than a status needs; the others may label and annotate as well.
    pub(super) fn status_leaves(mut self, metadata: &'static [&'static str]) -> Kind {
        self.strategy.status_leaves = metadata;
        self
    }

    pub(super) fn prepare_status_by(mut self, prepare: fn(&mut Object, &Object)) -> Kind {
        self.strategy.prepare_status = prepare;
        self
    }

    /// Counts the changes of this metadata, too.
    pub(super) fn counts_generations_of(mut self, metadata: &'static [&'static str]) -> Kind {
        self.strategy.generation_of = metadata;
        self.counts_generations()
    }

    pub(super) fn prepare_delete_by(mut self, prepare: fn(&mut Object)) -> Kind {
        self.strategy.prepare_delete = prepare;
        self
    }

    pub(super) fn inert(mut self) -> Kind {
        self.inert = true;
        self
    }

    pub(super) fn warn_by(mut self, warn: fn(&Object, Option<&Object>) -> Vec<String>) -> Kind {
        self.strategy.warn = warn;
        self
    }

    pub(super) fn columns(mut self, columns: Vec<Column>) -> Kind {
        self.columns = columns;
        self
    }

    pub(super) fn select(mut self, path: &'static str, get: fn(&Object) -> String) -> Kind {
        self.selectable.push(SelectableField { path: path.into(), get: Field::Computed(get) });
        self
    }
}
