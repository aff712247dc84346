//! A kind: one row of names, schema, hooks, columns and subresources.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::custom::{self, Custom, jsonpath::Path};
use crate::error::{ERRORS_MAX, FieldError, FieldErrors};
use crate::object::Object;
use crate::schema::{MessageId, Schema, Type};

/// Text of a row: static for built-in kinds, owned for kinds made at run time.
pub type Text = Cow<'static, str>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// What can be done with a resource. `as_str` is the word of discovery and RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Verb {
    Create = 1,
    Delete = 1 << 1,
    DeleteCollection = 1 << 2,
    Get = 1 << 3,
    List = 1 << 4,
    Patch = 1 << 5,
    Update = 1 << 6,
    Watch = 1 << 7,
}

impl Verb {
    /// In the order in which discovery lists them.
    pub const ALL: [Verb; 8] =
        [Verb::Create, Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerbSet(u16);

impl VerbSet {
    pub const NONE: VerbSet = VerbSet(0);
    pub const ALL: VerbSet = VerbSet(0xff);
    pub const CREATE: VerbSet = VerbSet(Verb::Create as u16);
    pub const GET: VerbSet = VerbSet(Verb::Get as u16);
    pub const GET_LIST: VerbSet = VerbSet(Verb::Get as u16 | Verb::List as u16);
    /// Of a status or scale subresource.
    pub const GET_PATCH_UPDATE: VerbSet = VerbSet(Verb::Get as u16 | Verb::Patch as u16 | Verb::Update as u16);
    pub const UPDATE: VerbSet = VerbSet(Verb::Update as u16);
    /// Of exec, attach and port-forward.
    pub const CREATE_GET: VerbSet = VerbSet(Verb::Create as u16 | Verb::Get as u16);
    /// Of a proxy, for which discovery lists all of HTTP's methods.
    pub const PROXY: VerbSet =
        VerbSet(Verb::Create as u16 | Verb::Delete as u16 | Verb::Get as u16 | Verb::Patch as u16 | Verb::Update as u16);

    pub fn contains(self, verb: Verb) -> bool {
        self.0 & verb as u16 != 0
    }

    pub fn without(self, verb: Verb) -> VerbSet {
        VerbSet(self.0 & !(verb as u16))
    }

    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

/// `pods/status`, `deployments/scale`, `pods/exec`, ... The kind is that of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: Text,
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub verbs: VerbSet,
}

/// The hooks of a kind. Each is called by the [`Kind`] method of the same name, which adds what all kinds share.
#[derive(Clone, Copy)]
pub struct Strategy {
    /// Drops what a client may not set on creation. The status is already gone.
    pub prepare_create: fn(&mut Object),
    /// What an update of the object itself does not change, besides the status; nobody owns it by such an update (upstream's GetResetFields).
    pub resets: &'static [&'static str],
    /// Metadata that a write of the status leaves alone, and that nobody owns by one.
    pub status_leaves: &'static [&'static str],
    /// Metadata whose changes count as a new generation, as those of the spec do.
    pub generation_of: &'static [&'static str],
    /// Keeps what a client may not change. Status, generation and `resets` are already seen to.
    pub prepare_update: fn(&mut Object, &Object),
    /// Keeps what a writer of the status need not repeat, or may not change.
    pub prepare_status: fn(&mut Object, &Object),
    /// Marks what must happen before a deleted object may go.
    pub prepare_delete: fn(&mut Object),
    pub default: fn(&mut Object),
    pub validate: fn(&Object) -> FieldErrors,
    /// What a new object may not have besides, and a changed one may.
    pub validate_creation: fn(&Object) -> FieldErrors,
    pub validate_update: fn(&Object, &Object) -> FieldErrors,
    /// Called with the new and the old status in them.
    pub validate_status: fn(&Object, &Object) -> FieldErrors,
    /// For the other subresources whose body is the object itself; the last argument names the subresource.
    pub validate_part: fn(&Object, &Object, &str) -> FieldErrors,
    /// Deprecations and likely mistakes, for Warning headers; of an update, with the object before it.
    pub warn: fn(&Object, Option<&Object>) -> Vec<String>,
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy {
            prepare_create: |_| (),
            resets: &[],
            status_leaves: &[],
            generation_of: &[],
            prepare_update: |_, _| (),
            prepare_status: |_, _| (),
            prepare_delete: |_| (),
            default: |_| (),
            validate: |_| Vec::new(),
            validate_creation: |_| Vec::new(),
            validate_update: |_, _| Vec::new(),
            validate_status: |_, _| Vec::new(),
            validate_part: |_, _, _| Vec::new(),
            warn: |_, _| Vec::new(),
        }
    }
}

/// Computes one cell of a table, given the object and the present.
pub type CellFn = fn(&Object, jiff::Timestamp) -> Value;

#[derive(Clone, Debug)]
pub struct Column {
    pub name: Text,
    /// `string`, `integer`, `boolean`, `number`, `date`.
    pub ty: Text,
    /// `name` for the column that identifies the object, else empty.
    pub format: Text,
    /// 1 = shown with `-o wide` only.
    pub priority: i32,
    pub description: Text,
    pub cell: Cell,
}

/// Where a cell's value comes from.
#[derive(Clone, Debug)]
pub enum Cell {
    Computed(CellFn),
    /// Of kinds made at run time.
    At(Path),
}

impl Column {
    pub fn value(&self, object: &Object, now: jiff::Timestamp) -> Value {
        match &self.cell {
            Cell::Computed(compute) => compute(object, now),
            Cell::At(path) => custom::cell(path, &self.ty, object, now),
        }
    }
}

/// A field that field selectors may name, besides `metadata.name` and `metadata.namespace`.
#[derive(Clone, Debug)]
pub struct SelectableField {
    pub path: Text,
    pub get: Field,
}

/// How a selectable field is read.
#[derive(Clone, Debug)]
pub enum Field {
    Computed(fn(&Object) -> String),
    /// Of kinds made at run time.
    At(Path),
}

impl SelectableField {
    pub fn value(&self, object: &Object) -> String {
        match &self.get {
            Field::Computed(get) => get(object),
            Field::At(path) => custom::field_text(path, object),
        }
    }
}

/// Collections whose deletions answer the object (ReturnDeletedObject in registry/*/storage).
const ANSWER_DELETED: [&str; 16] = [
    "core/pods",
    "core/persistentvolumes",
    "core/persistentvolumeclaims",
    "core/podtemplates",
    "core/resourcequotas",
    "core/serviceaccounts",
    "core/services",
    "storage.k8s.io/storageclasses",
    "storage.k8s.io/csidrivers",
    "storage.k8s.io/csinodes",
    "storage.k8s.io/volumeattachments",
    "storage.k8s.io/volumeattributesclasses",
    "resource.k8s.io/deviceclasses",
    "resource.k8s.io/resourceclaims",
    "resource.k8s.io/resourceclaimtemplates",
    "resource.k8s.io/resourceslices",
];

/// One resource of the API.
#[derive(Clone)]
pub struct Kind {
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub list_kind: Text,
    /// Plural, as in paths.
    pub resource: Text,
    pub singular: Text,
    pub short_names: Vec<Text>,
    pub categories: Vec<Text>,
    pub scope: Scope,
    /// The schema; `None` for kinds made at run time.
    pub message: Option<MessageId>,
    /// "group/resource" of the stored form ("core" for the core group); two kinds may share it, see `storage`.
    pub collection: Text,
    /// Set where objects are stored as another kind (events.k8s.io Events are stored as core Events).
    pub storage: Option<Converter>,
    pub verbs: VerbSet,
    pub subresources: Vec<Subresource>,
    /// Why a name is not one for this kind.
    pub name_form: fn(&str) -> Vec<String>,
    pub strategy: Strategy,
    pub columns: Vec<Column>,
    pub selectable: Vec<SelectableField>,
    pub has_status: bool,
    /// A status sent with a create is kept: a kubelet registers its node with what it has.
    pub status_on_create: bool,
    /// metadata.generation counts changes of the spec.
    pub generation: bool,
    /// Written so often that the store may persist it lazily.
    pub heartbeat: bool,
    /// Created, answered and never stored (reviews).
    pub virtual_: bool,
    /// A PUT to a name that does not exist creates it.
    pub create_on_update: bool,
    /// An update may come without resourceVersion.
    pub unconditional_update: bool,
    /// DELETE waits for a grace period (pods).
    pub graceful: bool,
    /// DELETE without a propagation policy leaves what the object owns: kinds that are older than garbage collection.
    pub orphans: bool,
    /// What users are told who leave it at that.
    pub orphan_warning: Option<&'static str>,
    /// What users of a kind that comes with Knarr are told about its end.
    pub deprecation: Option<&'static str>,
    /// Stored and served, but nothing of Knarr acts on it yet: whoever writes one is told.
    pub inert: bool,
    /// Set for kinds made at run time.
    pub custom: Option<Arc<Custom>>,
}

/// To and from the form in which objects of a kind are stored.
#[derive(Clone, Copy)]
pub struct Converter {
    pub to_storage: fn(&mut Object),
    pub from_storage: fn(&mut Object),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({} {})", self.api_version(), self.kind)
    }
}

impl Kind {
    /// `v1`, `apps/v1`
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The warning for whoever uses the kind, if it is deprecated.
    pub fn deprecation(&self) -> Option<&str> {
        self.custom.as_ref().map_or(self.deprecation, |custom| custom.deprecation.as_deref())
    }

    pub fn storage_collection(&self) -> &str {
        &self.collection
    }

    /// Whether a DELETE answers the object even when it is gone, and not just a success.
    pub fn answers_deleted(&self) -> bool {
        ANSWER_DELETED.contains(&self.storage_collection())
    }

    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// The value of a selectable field; `None` where the kind does not have it.
    pub fn selectable(&self, path: &str, object: &Object) -> Option<String> {
        match path {
            "metadata.name" => Some(object.name().to_owned()),
            "metadata.namespace" if self.namespaced() => Some(object.namespace().to_owned()),
            _ => self.selectable.iter().find(|field| field.path == path).map(|field| field.value(object)),
        }
    }

    /// Whether objects are stored in another form than this kind's.
    pub fn converts(&self) -> bool {
        self.storage.is_some() || self.custom.as_ref().is_some_and(|custom| custom.storage_version != self.version)
    }

    /// Whether an object that was stored at `revision` is, byte for byte, what this kind shows.
    pub fn shows_stored(&self, revision: u64) -> bool {
        !self.converts() && self.custom.as_ref().is_none_or(|custom| revision > custom.since)
    }

    /// Brings an object into the form in which it is stored.
    pub fn to_storage(&self, object: &mut Object) {
        if let Some(converter) = self.storage {
            (converter.to_storage)(object);
        }
        if let Some(custom) = &self.custom {
            object.set_type(&format!("{}/{}", self.group, custom.storage_version), &self.kind);
        }
    }

    /// Brings a stored object into this kind's form. Custom resources are pruned and defaulted as they are read: their schema may have
    /// changed since they were written.
    pub fn from_storage(&self, object: &mut Object) {
        if let Some(converter) = self.storage {
            (converter.from_storage)(object);
        }
        if let Some(custom) = &self.custom {
            object.set_type(&self.api_version(), &self.kind);
            custom.prune(object, &mut |_| ());
            custom.default(object);
        }
    }

    /// Fills in what the client left out.
    pub fn default(&self, object: &mut Object) {
        if let Some(custom) = &self.custom {
            custom.default(object);
        }
        (self.strategy.default)(object);
    }

    /// Before admission of a create: drops the status and whatever else a client may not set.
    pub fn prepare_create(&self, object: &mut Object) {
        if self.has_status && !self.status_on_create {
            object.remove(&["status"]);
        }
        if self.has_status
            && object.get(&["status"]).is_none()
            && let Some(id) = self.message
        {
            object.set(&["status"], empty_status(id));
        }
        if self.generation {
            object.metadata_mut().insert("generation".into(), 1.into());
        }
        (self.strategy.prepare_create)(object);
    }

    /// Before admission of an update of the object itself (`subresource` empty), of its status, or of another part.
    pub fn prepare_update(&self, new: &mut Object, old: &Object, subresource: &str) {
        crate::kinds::prepare::update(self, new, old, subresource);
    }

    /// All faults of a new object, metadata included.
    pub fn validate(&self, object: &Object) -> FieldErrors {
        let mut errors = crate::validate::metadata(self, object);
        errors.extend((self.strategy.validate)(object));
        errors.extend((self.strategy.validate_creation)(object));
        if let Some(custom) = &self.custom {
            errors.extend(custom.validate(object, None));
        }
        errors.truncate(ERRORS_MAX);
        errors
    }

    /// All faults of an updated object and of the change itself. What was already wrong with the stored object is not held against a
    /// change of something else: the rules may have become stricter since it was made.
    pub fn validate_update(&self, new: &Object, old: &Object, subresource: &str) -> FieldErrors {
        let mut errors = crate::validate::metadata_update(self, new, old);
        if let Some(custom) = &self.custom {
            errors.extend(custom.validate(new, Some(old)));
        }
        match subresource {
            "" => {
                errors.extend(self.new_faults(new, old));
                errors.extend((self.strategy.validate_update)(new, old));
            }
            "status" => errors.extend((self.strategy.validate_status)(new, old)),
            part => {
                errors.extend(self.new_faults(new, old));
                errors.extend((self.strategy.validate_part)(new, old, part));
            }
        }
        errors.truncate(ERRORS_MAX);
        errors
    }

    fn new_faults(&self, new: &Object, old: &Object) -> FieldErrors {
        let mut errors = (self.strategy.validate)(new);
        if !errors.is_empty() {
            let known: HashSet<FieldError> = (self.strategy.validate)(old).into_iter().collect();
            errors.retain(|error| !known.contains(error));
        }
        errors
    }

    /// What whoever writes an object is told; `before` is what an update changes. Of parts of objects nothing is said, as upstream.
    pub fn warn(&self, object: &Object, before: Option<&Object>) -> Vec<String> {
        let inert = self.inert.then(|| format!("this version of Knarr stores a {}, but nothing acts on it yet", self.kind));
        inert.into_iter().chain((self.strategy.warn)(object, before)).collect()
    }
}

/// Go's status is a struct and always there, with zeros in the numbers that are always written; clients read on from it.
fn empty_status(id: MessageId) -> Value {
    let schema = Schema::get();
    let Some(Type::Message(status)) = schema.by_id(id).field("status").map(|field| field.ty) else { return json!({}) };
    let numbers = schema.by_id(status).fields.iter().filter(|field| field.required && matches!(field.ty, Type::Int32 | Type::Int64));
    numbers.map(|field| (field.json.to_owned(), Value::from(0))).collect()
}
