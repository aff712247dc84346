//! The table's text to messages. The text is ours: a line that does not parse is a defect that the tests find.

use std::collections::HashMap;

use super::{Field, Label, ListType, Message, MessageId, Schema, Type};
use crate::shape;

pub(super) fn table(text: &'static str) -> Schema {
    let by_name: HashMap<&'static str, MessageId> =
        text.lines().filter_map(|line| line.strip_prefix('=')).zip(0..).map(|(name, id)| (name, MessageId(id))).collect();
    let mut messages: Vec<Message> = Vec::with_capacity(by_name.len());
    for line in text.lines() {
        match line.strip_prefix('=') {
            Some(name) => messages.push(Message { name, atomic: shape::is_atomic_struct(name), fields: Vec::new() }),
            None => messages.last_mut().expect("the first line names a message").fields.push(field(line, &by_name)),
        }
    }
    Schema { messages, by_name }
}

fn field(line: &'static str, by_name: &HashMap<&'static str, MessageId>) -> Field {
    let mut columns = line.split('\t');
    let mut column = || columns.next().unwrap_or("");
    let (json, number, ty, flags) = (column(), column(), column(), column());
    let has = |flag: char| flags.contains(flag);
    let label = match () {
        () if has('m') => Label::Map,
        () if has('r') => Label::Repeated,
        () => Label::Optional,
    };
    let list_type = match () {
        () if label != Label::Repeated => None,
        () if has('a') => Some(ListType::Atomic),
        () if has('s') => Some(ListType::Set),
        () if has('k') => Some(ListType::Map),
        () => None,
    };
    Field {
        json,
        number: number.parse().unwrap_or_else(|_| panic!("number in the line {line:?} of fields.tsv")),
        label,
        ty: kind(ty, by_name).unwrap_or_else(|| panic!("type in the line {line:?} of fields.tsv")),
        required: has('!'),
        inline: has('i'),
        list_type,
        map_keys: column(),
        atomic: has('a') && label != Label::Repeated,
        patch_merge: has('M'),
        patch_retain_keys: has('K'),
        patch_replace: has('R'),
        merge_key: column(),
        default: column(),
    }
}

fn kind(name: &str, by_name: &HashMap<&'static str, MessageId>) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int32" | "uint32" => Type::Int32,
        "int64" | "uint64" => Type::Int64,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "quantity" => Type::Quantity,
        "intorstring" => Type::IntOrString,
        "raw" => Type::RawExtension,
        "fieldsv1" => Type::FieldsV1,
        "any" => Type::Any,
        name => match name.strip_prefix('@') {
            Some(list) => Type::Strings(*by_name.get(list)?),
            None => match name.strip_prefix('|') {
                Some(union) => Type::Union(*by_name.get(union)?),
                None => Type::Message(*by_name.get(name)?),
            },
        },
    })
}
