//! Protobuf bodies, as Go clients send them, to the JSON that the same client would have sent.
//!
//! A body is `k8s\0` and a `runtime.Unknown`: the type, then the object's own message. Go writes fields that are not pointers even when they are
//! empty; those are dropped here where JSON would leave them out, so that "not set" has one form for everything behind.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::strict_json;
use crate::encode::{MAGIC, message_of};
use crate::schema::{Field, Label, Message, Schema, Type};
use crate::{duration, time};

/// Messages in messages. The deepest of the API, a schema in a CustomResourceDefinition, may nest further, and is refused as upstream's
/// JSON would be at 10,000; a stack frame here has under 1 KiB.
const DEPTH_MAX: usize = 100;

/// Numbers whose 0 means "not set": Go's plain integers with `omitempty`. All other numbers keep their 0.
const ZERO_IS_UNSET: &str = "\
availableReplicas count currentReplicas deprecatedCount failureThreshold fullyLabeledReplicas generation healthCheckNodePort hostPort \
initialDelaySeconds minReadySeconds nodePort number observedGeneration periodSeconds readyReplicas signal sizeBytes successThreshold \
timeoutSeconds unavailableReplicas updatedReplicas";
/// Booleans whose false means "not set", likewise. All others are pointers in Go, or are always written.
const FALSE_IS_UNSET: &str = "\
allNodes allowWatchBookmarks bindsToNode chapAuthDiscovery chapAuthSession denied exclusiveMaximum exclusiveMinimum follow globalDefault \
hostIPC hostNetwork hostPID paused previous publishNotReadyAddresses readOnly sslEnabled stderr stdin stdinOnce stdout timestamps tty \
unschedulable uniqueItems watch";
/// Strings whose "" says something. All other empty strings mean "not set".
const EMPTY_IS_SET: [&str; 2] = ["storageClassName", "volumeAttributesClassName"];

type Result<T> = std::result::Result<T, String>;

/// The object in a body, with its `apiVersion` and `kind`.
pub(super) fn parse(bytes: &[u8]) -> Result<Value> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or("proto: the body does not begin with the prefix of Kubernetes objects")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    each(envelope, |number, wire| {
        match number {
            1 => each(wire.bytes()?, |number, wire| {
                match number {
                    1 => api_version = wire.text()?,
                    2 => kind = wire.text()?,
                    _ => {}
                }
                Ok(())
            })?,
            2 => raw = wire.bytes()?,
            3 if !wire.bytes()?.is_empty() => return Err("proto: encoded contents are not read".to_owned()),
            4 if !matches!(wire.bytes()?, b"" | b"application/vnd.kubernetes.protobuf") => {
                return Err("proto: contents of another type".to_owned());
            }
            _ => {}
        }
        Ok(())
    })?;
    let id = message_of(&api_version, &kind).ok_or_else(|| format!("proto: no kind {kind:?} in version {api_version:?}"))?;
    let mut object = Map::new();
    fill(&mut object, Schema::get().by_id(id), raw, 0)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(object.into())
}

/// One value on the wire.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err("proto: wrong wire type".to_owned()),
        }
    }

    fn text(self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "proto: a string is not UTF-8".to_owned())
    }

    fn integer(self) -> Result<i64> {
        match self {
            // Negative numbers are written as their two's complement.
            Wire::Varint(bits) => Ok(bits.cast_signed()),
            _ => Err("proto: wrong wire type".to_owned()),
        }
    }
}

/// Calls `visit` with the number and value of each field of a message.
fn each<'a>(mut bytes: &'a [u8], mut visit: impl FnMut(u64, Wire<'a>) -> Result<()>) -> Result<()> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let wire = match tag & 7 {
            0 => Wire::Varint(varint(&mut bytes)?),
            1 => Wire::Fixed(u64::from_le_bytes(fixed(&mut bytes)?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| cut())?;
                let (value, rest) = bytes.split_at_checked(length).ok_or_else(cut)?;
                bytes = rest;
                Wire::Bytes(value)
            }
            5 => Wire::Fixed(u32::from_le_bytes(fixed(&mut bytes)?).into()),
            _ => return Err("proto: groups are not read".to_owned()),
        };
        visit(tag >> 3, wire)?;
    }
    Ok(())
}

fn cut() -> String {
    "proto: unexpected end of the body".to_owned()
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or_else(cut)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("proto: integer overflow".to_owned())
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (value, rest) = bytes.split_first_chunk::<N>().ok_or_else(cut)?;
    *bytes = rest;
    Ok(*value)
}

/// Puts the fields of `message` into a JSON object. Fields that the schema does not know are dropped, as Go does.
fn fill(object: &mut Map<String, Value>, message: &Message, bytes: &[u8], depth: usize) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err("proto: nested too deeply".to_owned());
    }
    each(bytes, |number, wire| {
        let Some(field) = message.fields.iter().find(|field| u64::from(field.number) == number) else { return Ok(()) };
        match (field.label, field.ty) {
            (_, Type::Message(id)) if field.inline => fill(object, Schema::get().by_id(id), wire.bytes()?, depth + 1),
            (Label::Map, _) => {
                let (key, value) = entry(field, wire.bytes()?, depth)?;
                slot(object, field, || Value::Object(Map::new())).as_object_mut().map(|map| map.insert(key, value));
                Ok(())
            }
            (Label::Repeated, _) => {
                let values = repeated(field, wire, depth)?;
                if let Some(list) = slot(object, field, || Value::Array(Vec::new())).as_array_mut() {
                    list.extend(values);
                }
                Ok(())
            }
            (Label::Optional, _) => {
                // A message may come in pieces, which are one.
                if let (Type::Message(id), Some(Value::Object(have))) = (field.ty, object.get_mut(field.json)) {
                    return fill(have, Schema::get().by_id(id), wire.bytes()?, depth + 1);
                }
                let value = single(field.ty, wire, depth)?;
                match is_unset(field, &value) {
                    true => object.remove(field.json),
                    false => object.insert(field.json.to_owned(), value),
                };
                Ok(())
            }
        }
    })
}

fn slot<'a>(object: &'a mut Map<String, Value>, field: &Field, make: impl FnOnce() -> Value) -> &'a mut Value {
    object.entry(field.json).or_insert_with(make)
}

/// Whether Go's JSON would leave it out.
fn is_unset(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !EMPTY_IS_SET.contains(&field.json),
        Value::Number(number) => number.as_i64() == Some(0) && lists(ZERO_IS_UNSET, field),
        Value::Bool(false) => lists(FALSE_IS_UNSET, field),
        _ => false,
    }
}

fn lists(names: &str, field: &Field) -> bool {
    names.split(' ').any(|name| name == field.json)
}

/// Numbers may come packed together.
fn repeated(field: &Field, wire: Wire<'_>, depth: usize) -> Result<Vec<Value>> {
    if let (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(mut bytes)) = (field.ty, wire) {
        let mut values = Vec::new();
        while !bytes.is_empty() {
            values.push(single(field.ty, Wire::Varint(varint(&mut bytes)?), depth)?);
        }
        return Ok(values);
    }
    Ok(vec![single(field.ty, wire, depth)?])
}

fn entry(field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value)> {
    let (mut key, mut value) = (String::new(), None);
    each(bytes, |number, wire| {
        match number {
            1 => key = wire.text()?,
            2 => value = Some(single(field.ty, wire, depth)?),
            _ => {}
        }
        Ok(())
    })?;
    let value = match value {
        Some(value) => value,
        None => single(field.ty, Wire::Bytes(&[]), depth).unwrap_or_default(),
    };
    Ok((key, value))
}

fn single(ty: Type, wire: Wire<'_>, depth: usize) -> Result<Value> {
    Ok(match ty {
        Type::Bool => (wire.integer()? != 0).into(),
        Type::Int32 | Type::Int64 => wire.integer()?.into(),
        Type::Double => match wire {
            Wire::Fixed(bits) => f64::from_bits(bits).into(),
            _ => return Err("proto: wrong wire type".to_owned()),
        },
        Type::String => wire.text()?.into(),
        Type::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Type::Time => instant(wire.bytes()?)?.map(time::format).into(),
        Type::MicroTime => instant(wire.bytes()?)?.map(time::format_micro).into(),
        Type::Duration => duration::text(first(wire.bytes()?)?.map_or(Ok(0), Wire::integer)?).into(),
        Type::Quantity => first(wire.bytes()?)?.map_or(Ok(String::new()), Wire::text)?.into(),
        Type::IntOrString => int_or_string(wire.bytes()?)?,
        Type::RawExtension | Type::FieldsV1 | Type::Any => match first(wire.bytes()?)? {
            None => Value::Null,
            Some(raw) => strict_json::parse(raw.bytes()?)?.value,
        },
        Type::Union(id) => {
            let union = Schema::get().by_id(id);
            let mut object = Map::new();
            fill(&mut object, union, wire.bytes()?, depth + 1)?;
            union.chosen(object)
        }
        Type::Strings(_) => {
            let mut items = Vec::new();
            each(wire.bytes()?, |_, item| {
                items.push(Value::from(item.text()?));
                Ok(())
            })?;
            items.into()
        }
        Type::Message(id) => {
            let mut object = Map::new();
            fill(&mut object, Schema::get().by_id(id), wire.bytes()?, depth + 1)?;
            object.into()
        }
    })
}

/// Field 1 of a message that wraps one value.
fn first(bytes: &[u8]) -> Result<Option<Wire<'_>>> {
    let mut found = None;
    each(bytes, |number, wire| {
        if number == 1 {
            found = Some(wire);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Seconds and nanoseconds since 1970; an empty message is Go's zero time, which means "never".
fn instant(bytes: &[u8]) -> Result<Option<Timestamp>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanoseconds) = (0, 0);
    each(bytes, |number, wire| {
        match number {
            1 => seconds = wire.integer()?,
            2 => nanoseconds = wire.integer()?,
            _ => {}
        }
        Ok(())
    })?;
    let nanoseconds = i32::try_from(nanoseconds).map_err(|_| "proto: a time is out of range")?;
    Timestamp::new(seconds, nanoseconds).map(Some).map_err(|_| "proto: a time is out of range".to_owned())
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut integer, mut text) = (false, 0, String::new());
    each(bytes, |number, wire| {
        match number {
            1 => is_text = wire.integer()? == 1,
            2 => integer = wire.integer()?,
            3 => text = wire.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(if is_text { text.into() } else { integer.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A length-delimited field.
    fn field(number: u8, contents: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = contents.len();
        while length > 0x7f {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(contents);
        bytes
    }

    fn number(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let ty = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC, &field(1, &ty), &field(2, raw), &field(3, b""), &field(4, b"")].concat()
    }

    #[test]
    fn a_secret_and_its_empty_fields() {
        let metadata = [field(1, b"s"), field(2, b""), field(3, b"default"), number(7, 0), field(8, b"")].concat();
        let data = field(2, &[field(1, b"key"), field(2, b"\x00\xff")].concat());
        let secret = [field(1, &metadata), data, field(3, b"Opaque")].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": { "key": "AP8=" },
            "metadata": { "name": "s", "namespace": "default" },
        });
        assert_eq!(parse(&body("v1", "Secret", &secret)).unwrap(), expected);
    }

    #[test]
    fn a_service_with_its_ports() {
        let port = [
            field(1, b""),
            field(2, b"TCP"),
            number(3, 80),
            field(4, &[number(1, 1), number(2, 0), field(3, b"http")].concat()),
            number(5, 0),
        ];
        let spec = [field(1, &port.concat()), field(2, &[field(1, b"app"), field(2, b"web")].concat()), field(4, b"NodePort")].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "Service",
            "spec": { "type": "NodePort", "selector": { "app": "web" }, "ports": [{ "protocol": "TCP", "port": 80, "targetPort": "http" }] },
        });
        assert_eq!(parse(&body("v1", "Service", &field(2, &spec))).unwrap(), expected);
    }

    #[test]
    fn volumes_are_inline_and_empty_messages_stay() {
        let source = field(2, b"");
        let volume = [field(1, b"tmp"), field(2, &source)].concat();
        let pod = field(2, &field(1, &volume));
        let spec = &parse(&body("v1", "Pod", &pod)).unwrap()["spec"];
        assert_eq!(*spec, json!({ "volumes": [{ "name": "tmp", "emptyDir": {} }] }));
    }

    #[test]
    fn false_is_kept_where_it_says_something() {
        // hostNetwork and enableServiceLinks.
        let spec = [number(11, 0), vec![0xf0, 0x01, 0]].concat();
        let pod = parse(&body("v1", "Pod", &field(2, &spec))).unwrap();
        assert_eq!(pod["spec"], json!({ "enableServiceLinks": false }));
    }

    #[test]
    fn options_come_under_any_group() {
        let options = [number(1, 0), field(4, b"Background")].concat();
        let expected =
            json!({ "apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "propagationPolicy": "Background" });
        assert_eq!(parse(&body("apps/v1", "DeleteOptions", &options)).unwrap(), expected);
    }

    #[test]
    fn broken_bodies_are_errors() {
        let good = body("v1", "Secret", &field(1, &field(1, b"s")));
        for end in 0..good.len() - 1 {
            // Cut anywhere it is an error, or what is left is a smaller body; never a panic.
            let _ = parse(&good[..end]);
        }
        assert!(parse(b"{}").is_err());
        assert!(parse(&body("v1", "Nonsense", b"")).is_err());
        assert!(parse(&body("v1", "Secret", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")).is_err());
        let mut deep = Vec::new();
        for _ in 0..2000 {
            // JSONSchemaProps.not
            deep = field(29, &deep);
        }
        let _ = parse(&body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &deep));
    }
}
