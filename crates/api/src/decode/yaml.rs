//! One YAML document to a value, with aliases and merge keys, within limits.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde_json::{Map, Value};

use super::{FAULTS_MAX, Parsed, depth::levels, scalar};

/// Levels of lists and maps. serde_json has the same limit for JSON bodies.
const LEVELS_MAX: usize = 127;

/// Nodes that aliases may add to a document: a few anchors are common, a bomb has millions.
const ALIAS_NODES_MAX: usize = 50_000;

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    let mut loader =
        Loader { parser: Parser::new_from_str(text), anchors: HashMap::new(), alias_nodes: 0, duplicates: Vec::new(), line: 1 };
    let value = loader.document()?;
    Ok(Parsed { value, duplicates: loader.duplicates })
}

struct Loader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Anchored>,
    alias_nodes: usize,
    duplicates: Vec<String>,
    line: usize,
}

/// What an anchor stands for.
struct Anchored {
    value: Value,
    /// How many nodes it is, and levels of them.
    size: usize,
    levels: usize,
}

impl<'a> Loader<'a> {
    fn next(&mut self) -> Result<Event<'a>, String> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(error)) => Err(format!("yaml: {error}")),
            None => Ok(Event::StreamEnd),
        }
    }

    /// The first document; an empty stream is null.
    fn document(&mut self) -> Result<Value, String> {
        loop {
            match self.next()? {
                Event::DocumentStart(_) => {
                    let event = self.next()?;
                    return self.node(event, 0).map(|(value, _)| value);
                }
                Event::StreamEnd => return Ok(Value::Null),
                _ => {}
            }
        }
    }

    /// A node and how many nodes it is.
    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<(Value, usize), String> {
        if depth >= LEVELS_MAX && matches!(event, Event::SequenceStart(..) | Event::MappingStart(..)) {
            return Err(self.too_deep());
        }
        let (anchor, value, size) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor, self.scalar(&text, style, tag.as_deref())?, 1),
            Event::SequenceStart(anchor, _) => {
                let (value, size) = self.sequence(depth)?;
                (anchor, value, size)
            }
            Event::MappingStart(anchor, _) => {
                let (value, size) = self.mapping(depth)?;
                (anchor, value, size)
            }
            Event::Alias(anchor) => return self.alias(anchor, depth),
            other => return Err(format!("yaml: line {}: unexpected {other:?}", self.line)),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, Anchored { value: value.clone(), size, levels: levels(&value, &mut 0) });
        }
        Ok((value, size))
    }

    fn alias(&mut self, anchor: usize, depth: usize) -> Result<(Value, usize), String> {
        let line = self.line;
        let Some(Anchored { value, size, levels }) = self.anchors.get(&anchor) else {
            return Err(format!("yaml: line {line}: unknown anchor, or one that contains itself"));
        };
        if depth + levels > LEVELS_MAX {
            return Err(self.too_deep());
        }
        self.alias_nodes += size;
        if self.alias_nodes > ALIAS_NODES_MAX {
            return Err("yaml: document contains excessive aliasing".to_owned());
        }
        Ok((value.clone(), *size))
    }

    fn too_deep(&self) -> String {
        format!("yaml: line {}: exceeded max depth of {LEVELS_MAX}", self.line)
    }

    fn sequence(&mut self, depth: usize) -> Result<(Value, usize), String> {
        let (mut list, mut size) = (Vec::new(), 1);
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok((Value::Array(list), size)),
                event => {
                    let (value, nodes) = self.node(event, depth + 1)?;
                    list.push(value);
                    size += nodes;
                }
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<(Value, usize), String> {
        let (mut map, mut size) = (Map::new(), 1);
        let mut merged = Vec::new();
        loop {
            let event = match self.next()? {
                Event::MappingEnd => break,
                event => event,
            };
            let line = self.line;
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, _) if text == "<<");
            let (key, _) = self.node(event, depth + 1)?;
            let event = self.next()?;
            let (value, nodes) = self.node(event, depth + 1)?;
            size += nodes + 1;
            if is_merge {
                merged.push(value);
                continue;
            }
            let key = key_text(key).ok_or_else(|| format!("yaml: line {line}: invalid map key"))?;
            if map.insert(key.clone(), value).is_some() && self.duplicates.len() < FAULTS_MAX {
                self.duplicates.push(format!("line {line}: key {key:?} already set in map"));
            }
        }
        for value in merged {
            merge(&mut map, value)
                .ok_or_else(|| format!("yaml: line {}: map merge requires map or sequence of maps as the value", self.line))?;
        }
        Ok((Value::Object(map), size))
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
        let at = |message: String| format!("yaml: line {}: {message}", self.line);
        match tag {
            Some(tag) if tag.is_yaml_core_schema() => tagged(text, &tag.suffix).map_err(at),
            // `!` alone: not resolved.
            Some(_) => Ok(text.into()),
            None if style == ScalarStyle::Plain => scalar::plain(text).map_err(at),
            None => Ok(text.into()),
        }
    }
}

fn tagged(text: &str, tag: &str) -> Result<Value, String> {
    let mismatch = || format!("cannot decode {text:?} as a !!{tag}");
    match tag {
        "str" | "timestamp" => Ok(text.into()),
        "null" => Ok(Value::Null),
        "int" | "float" => scalar::number(text).ok_or_else(mismatch),
        "bool" => scalar::plain(text).ok().filter(Value::is_boolean).ok_or_else(mismatch),
        "binary" => {
            use base64::Engine;
            let compact: String = text.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(compact).map_err(|_| mismatch())?;
            String::from_utf8(bytes).map(Value::from).map_err(|_| mismatch())
        }
        _ => Err(format!("unknown tag !!{tag}")),
    }
}

/// JSON has only string keys; sigs.k8s.io/yaml writes the others out.
fn key_text(key: Value) -> Option<String> {
    Some(match key {
        Value::String(text) => text,
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Null => "null".to_owned(),
        Value::Array(_) | Value::Object(_) => return None,
    })
}

/// What the map has itself comes first, then the merged maps in order.
fn merge(map: &mut Map<String, Value>, value: Value) -> Option<()> {
    match value {
        Value::Object(other) => {
            for (key, value) in other {
                map.entry(key).or_insert(value);
            }
            Some(())
        }
        Value::Array(list) => list.into_iter().try_for_each(|item| if item.is_object() { merge(map, item) } else { None }),
        _ => None,
    }
}
