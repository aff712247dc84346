//! How large the values of a schema can grow: by what the schema says, or else by what fits into one request
//! (apiserver, pkg/cel/common/schemas.go and limits.go).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::escape;
use crate::custom::schema::{Additional, Structural, Type};

/// Bytes of a request, as upstream's estimates assume them, whatever a server accepts (apiserver, apis/cel/config.go, MaxRequestSizeBytes).
pub(crate) const REQUEST_BYTES: u64 = 3 << 20;

/// Bytes that a letter of a string may have.
const LETTER_BYTES: u64 = 4;

/// Bytes that JSON has around a key and its value, and around a property of an object.
const ENTRY_BYTES: u64 = 6;
const PROPERTY_BYTES: u64 = 4;

/// A value of a schema at its largest.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(super) form: Form,
    /// Bytes of a string, items of a list, entries of a map. Zero for what has no such size.
    pub(super) elements: u64,
    /// Bytes that it takes at least as JSON.
    bytes_least: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Form {
    /// A number or a string.
    Either,
    /// What a driver tells of a device.
    Attribute,
    Quantity,
    Bool,
    Int,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Extent>),
    Map(Arc<Extent>),
    /// Fields by their names in expressions.
    Object(BTreeMap<String, Arc<Extent>>),
}

/// The values that are within one: none for what expressions cannot see.
#[derive(Default)]
pub(crate) struct Within<'s> {
    pub(crate) items: Option<Arc<Extent>>,
    pub(crate) additional: Option<Arc<Extent>>,
    pub(crate) properties: BTreeMap<&'s str, Arc<Extent>>,
}

static KEY: Extent = Extent { form: Form::String, elements: 0, bytes_least: 2 };

impl Extent {
    /// The keys of all maps. Upstream takes their size for nothing.
    pub(super) fn key() -> &'static Extent {
        &KEY
    }

    fn new(form: Form, elements: u64, bytes_least: u64) -> Extent {
        Extent { form, elements, bytes_least }
    }

    /// None for what expressions cannot see.
    #[cfg(test)]
    pub(crate) fn of_schema(schema: &Structural) -> Option<Extent> {
        let shared = |schema| Extent::of_schema(schema).map(Arc::new);
        let mut within = Within { items: schema.items.as_deref().and_then(shared), ..Within::default() };
        if let Additional::Schema(inner) = &schema.additional {
            within.additional = shared(inner);
        }
        within.properties = schema.properties.iter().filter_map(|(name, property)| Some((name.as_str(), shared(property)?))).collect();
        Extent::around(schema, &within)
    }

    /// A value of the schema, of what is known of the values in it.
    pub(crate) fn around(schema: &Structural, within: &Within<'_>) -> Option<Extent> {
        let checks = &schema.checks;
        if schema.int_or_string {
            let elements = checks.max_length.map_or(REQUEST_BYTES - 2, |letters| letters.saturating_mul(LETTER_BYTES));
            return Some(Extent::new(Form::Either, elements, 1));
        }
        Some(match schema.ty {
            Type::Boolean => Extent::new(Form::Bool, 0, 4),
            Type::Integer => Extent::new(Form::Int, 0, 1),
            Type::Number => Extent::new(Form::Double, 0, 1),
            Type::String => Extent::of_text(schema),
            Type::Array => {
                let item = within.items.clone()?;
                let elements = checks.max_items.unwrap_or((REQUEST_BYTES - 2) / (item.bytes_least + 1));
                Extent::new(Form::List(item), elements, 2)
            }
            Type::Object => match &schema.additional {
                Additional::Schema(_) => {
                    let value = within.additional.clone()?;
                    let elements = checks.max_properties.unwrap_or((REQUEST_BYTES - 2) / (value.bytes_least + ENTRY_BYTES));
                    Extent::new(Form::Map(value), elements, 2)
                }
                _ => Extent::of_object(schema, within),
            },
            Type::Any => return None,
        })
    }

    fn of_text(schema: &Structural) -> Extent {
        let checks = &schema.checks;
        match checks.format.as_str() {
            "byte" => Extent::new(Form::Bytes, checks.max_length.unwrap_or(REQUEST_BYTES - 2), 2),
            "duration" => Extent::new(Form::Duration, 32, 3),
            "date" => Extent::new(Form::Timestamp, 12, 12),
            "date-time" => Extent::new(Form::Timestamp, 32, 21),
            _ => {
                let longest = checks.one_of_values.iter().map(|value| value.as_str().map_or(0, str::len) as u64).max();
                let bytes = checks.max_length.map(|letters| letters.saturating_mul(LETTER_BYTES)).or(longest);
                Extent::string(bytes.unwrap_or(REQUEST_BYTES - 2))
            }
        }
    }

    fn of_object(schema: &Structural, within: &Within<'_>) -> Extent {
        let (mut fields, mut bytes) = (BTreeMap::new(), 2_u64);
        let required: HashSet<&str> = schema.checks.required.iter().map(String::as_str).collect();
        let mut add = |name: &str, extent: Arc<Extent>, is_given: bool| {
            if is_given && required.contains(name) {
                bytes = bytes.saturating_add(name.len() as u64 + PROPERTY_BYTES).saturating_add(extent.bytes_least);
            }
            // Others have room in an object, and no name in an expression.
            if let Some(escaped) = escape(name) {
                fields.insert(escaped, extent);
            }
        };
        // What the schema says of these counts only where it says all of it.
        let is_whole = schema.embedded && !says_metadata(schema);
        let own = schema.properties.iter().filter(|(name, _)| !is_whole || !["apiVersion", "kind", "metadata"].contains(&name.as_str()));
        for (name, property) in own {
            if let Some(extent) = within.properties.get(name.as_str()) {
                add(name, extent.clone(), property.default.is_none());
            }
        }
        if is_whole {
            let text = || Extent::string(REQUEST_BYTES - 2);
            add("apiVersion", text().into(), true);
            add("kind", text().into(), true);
            add("metadata", Extent::object([("name", text()), ("generateName", text())]).into(), true);
        }
        Extent::new(Form::Object(fields), 0, bytes)
    }

    /// A device as selectors see it: as large as its names, and its attributes and capacities together, can be (resource/types.go).
    pub(super) fn device() -> Extent {
        let (driver, value, many) = (63, 64, 32);
        let by_name = |form: Form, elements: u64| {
            let inner = Extent::new(Form::Map(Extent::new(form, elements, 1).into()), many, 2);
            Extent::new(Form::Map(inner.into()), many, 2)
        };
        Extent::object([
            ("driver", Extent::string(driver)),
            ("attributes", by_name(Form::Attribute, value)),
            ("capacity", by_name(Form::Quantity, 0)),
            ("allowMultipleAllocations", Extent::new(Form::Bool, 1, 4)),
        ])
    }

    /// How often such a value can be in one request at most.
    pub(crate) fn count(&self) -> u64 {
        REQUEST_BYTES / (self.bytes_least + 1)
    }

    pub(crate) fn string(bytes: u64) -> Extent {
        Extent::new(Form::String, bytes, 2)
    }

    pub(crate) fn object<const N: usize>(fields: [(&str, Extent); N]) -> Extent {
        Extent::new(Form::Object(fields.map(|(name, extent)| (name.to_owned(), extent.into())).into()), 0, 2)
    }
}

fn says_metadata(schema: &Structural) -> bool {
    let is_text = |schema: &Structural, name: &str| schema.properties.get(name).is_some_and(|property| property.ty == Type::String);
    let is_whole = |metadata: &Structural| metadata.ty == Type::Object && is_text(metadata, "name") && is_text(metadata, "generateName");
    is_text(schema, "apiVersion") && is_text(schema, "kind") && schema.properties.get("metadata").is_some_and(is_whole)
}
