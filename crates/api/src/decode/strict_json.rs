//! JSON to a value, noting fields that are given twice. serde_json refuses nesting deeper than 128.

use std::fmt;

use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{FAULTS_MAX, Parsed};

pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let mut duplicates = Vec::new();
    let mut path = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed { path: &mut path, duplicates: &mut duplicates };
    let value = serde::de::DeserializeSeed::deserialize(seed, &mut deserializer).map_err(|e| e.to_string())?;
    deserializer.end().map_err(|e| e.to_string())?;
    Ok(Parsed { value, duplicates })
}

enum Step {
    Key(String),
    Index(usize),
}

struct Seed<'a> {
    path: &'a mut Vec<Step>,
    duplicates: &'a mut Vec<String>,
}

impl Seed<'_> {
    fn note_duplicate(&mut self, key: &str) {
        if self.duplicates.len() < FAULTS_MAX {
            let mut text = String::new();
            for step in self.path.iter() {
                match step {
                    Step::Key(key) if text.is_empty() => text.push_str(key),
                    Step::Key(key) => text.extend([".", key]),
                    Step::Index(index) => text.push_str(&format!("[{index}]")),
                }
            }
            let dot = if text.is_empty() { "" } else { "." };
            self.duplicates.push(format!("duplicate field \"{text}{dot}{key}\""));
        }
    }

    fn child(&mut self) -> Seed<'_> {
        Seed { path: self.path, duplicates: self.duplicates }
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.path.push(Step::Index(list.len()));
            let item = access.next_element_seed(self.child());
            self.path.pop();
            match item? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                self.note_duplicate(&key);
            }
            self.path.push(Step::Key(key.clone()));
            let value = access.next_value_seed(self.child());
            self.path.pop();
            map.insert(key, value?);
        }
        Ok(Value::Object(map))
    }
}
