//! The protobuf form of an OpenAPI 2 document, as gnostic defines it (openapiv2/OpenAPIv2.proto). client-go asks for nothing else.
//!
//! Only what our documents have is encoded; a key that this encoder does not know is a vendor extension, or is left out.
//! Numbers of messages and fields are gnostic's.

use serde_json::{Map, Value};

/// Bytes of one message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        const LENGTH_DELIMITED: u64 = 2;
        self.varint(u64::from(field) << 3 | LENGTH_DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u32, message: Message) {
        self.bytes(field, &message.0);
    }

    fn text(&mut self, field: u32, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, value: Option<&Value>) {
        for text in list(value) {
            self.text(field, Some(text));
        }
    }

    fn flag(&mut self, field: u32, value: Option<&Value>) {
        if value.and_then(Value::as_bool) == Some(true) {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    /// Maps are lists of messages with a name and a value.
    fn named(&mut self, field: u32, value: Option<&Value>, encode: fn(&Value) -> Message) {
        for (name, value) in value.and_then(Value::as_object).into_iter().flatten() {
            self.message(field, named(name, encode(value)));
        }
    }

    fn extensions(&mut self, field: u32, map: &Value) {
        for (name, value) in map.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            self.message(field, named(name, any(value)));
        }
    }
}

fn named(name: &str, value: Message) -> Message {
    let mut message = Message::default();
    message.bytes(1, name.as_bytes());
    message.message(2, value);
    message
}

/// A message with one message in it, as gnostic wraps alternatives and lists.
fn wrap(field: u32, inner: Message) -> Message {
    let mut message = Message::default();
    message.message(field, inner);
    message
}

/// Any value, as YAML. JSON is YAML.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, format!("{value}\n").as_bytes());
    message
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut message = Message::default();
    message.text(1, document.get("swagger"));
    if let Some(info) = document.get("info") {
        message.message(2, encode_info(info));
    }
    let mut paths = Message::default();
    paths.named(2, document.get("paths"), path);
    message.message(8, paths);
    let mut definitions = Message::default();
    definitions.named(1, document.get("definitions"), schema);
    message.message(9, definitions);
    for requirement in list(document.get("security")) {
        message.message(12, security_requirement(requirement));
    }
    let mut security = Message::default();
    security.named(1, document.get("securityDefinitions"), api_key);
    message.message(13, security);
    message.0
}

fn encode_info(info: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, info.get("title"));
    message.text(2, info.get("version"));
    message
}

fn security_requirement(requirement: &Value) -> Message {
    let mut message = Message::default();
    message.named(1, Some(requirement), |scopes| {
        let mut scopes_message = Message::default();
        scopes_message.texts(1, Some(scopes));
        scopes_message
    });
    message
}

fn api_key(security: &Value) -> Message {
    let mut key = Message::default();
    key.text(1, security.get("type"));
    key.text(2, security.get("name"));
    key.text(3, security.get("in"));
    key.text(4, security.get("description"));
    wrap(2, key)
}

fn path(item: &Value) -> Message {
    let mut message = Message::default();
    for (field, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")] {
        if let Some(found) = item.get(method) {
            message.message(field, operation(found));
        }
    }
    for item in list(item.get("parameters")) {
        message.message(9, parameter(item));
    }
    message.extensions(10, item);
    message
}

fn operation(operation: &Value) -> Message {
    let mut message = Message::default();
    message.texts(1, operation.get("tags"));
    message.text(3, operation.get("description"));
    message.text(5, operation.get("operationId"));
    message.texts(6, operation.get("produces"));
    message.texts(7, operation.get("consumes"));
    for item in list(operation.get("parameters")) {
        message.message(8, parameter(item));
    }
    let mut responses = Message::default();
    responses.named(1, operation.get("responses"), response);
    message.message(9, responses);
    message.texts(10, operation.get("schemes"));
    message.extensions(13, operation);
    message
}

fn response(response: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, response.get("description"));
    if let Some(found) = response.get("schema") {
        message.message(2, wrap(1, schema(found)));
    }
    wrap(1, message)
}

fn parameter(parameter: &Value) -> Message {
    let place = parameter.get("in").and_then(Value::as_str).unwrap_or("");
    let encoded = match place {
        "body" => {
            let mut body = Message::default();
            body.text(1, parameter.get("description"));
            body.text(2, parameter.get("name"));
            body.text(3, parameter.get("in"));
            body.flag(4, parameter.get("required"));
            if let Some(found) = parameter.get("schema") {
                body.message(5, schema(found));
            }
            wrap(1, body)
        }
        "path" => wrap(2, wrap(4, plain_parameter(parameter, [5, 19]))),
        _ => wrap(2, wrap(3, plain_parameter(parameter, [6, 20]))),
    };
    wrap(1, encoded)
}

/// `numbers`: of `type` and `uniqueItems`, which differ between query and path.
fn plain_parameter(parameter: &Value, numbers: [u32; 2]) -> Message {
    let mut message = Message::default();
    message.flag(1, parameter.get("required"));
    message.text(2, parameter.get("in"));
    message.text(3, parameter.get("description"));
    message.text(4, parameter.get("name"));
    message.text(numbers[0], parameter.get("type"));
    message.flag(numbers[1], parameter.get("uniqueItems"));
    message
}

fn schema(schema_value: &Value) -> Message {
    let mut message = Message::default();
    let empty = Map::new();
    let map = schema_value.as_object().unwrap_or(&empty);
    message.text(1, map.get("$ref"));
    message.text(2, map.get("format"));
    message.text(4, map.get("description"));
    if let Some(default) = map.get("default") {
        message.message(5, any(default));
    }
    message.texts(19, map.get("required"));
    if let Some(additional) = map.get("additionalProperties") {
        message.message(21, wrap(1, schema(additional)));
    }
    if let Some(ty) = map.get("type") {
        let mut types = Message::default();
        types.text(1, Some(ty));
        message.message(22, types);
    }
    if let Some(items) = map.get("items") {
        message.message(23, wrap(1, schema(items)));
    }
    if map.contains_key("properties") {
        let mut properties = Message::default();
        properties.named(1, map.get("properties"), schema);
        message.message(25, properties);
    }
    message.extensions(31, schema_value);
    message
}
