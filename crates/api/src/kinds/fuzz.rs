//! Objects made at random from the schema go through every hook of their kind: whatever a client sends, nothing panics,
//! defaults are set once, and what was decoded decodes to itself.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::Kinds;
use crate::decode::{self, FieldValidation};
use crate::kind::Kind;
use crate::schema::{Field, Label, MessageId, Schema, Type};
use crate::table::{self, IncludeObject};

/// A stream of small numbers from a seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn pick<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[usize::try_from(self.roll(values.len() as u64)).expect("an index of the slice")]
    }
}

/// Levels of messages below the object. Deep enough for probes in templates.
const DEPTH_MAX: usize = 9;

pub(crate) fn message(id: MessageId, dice: &mut Dice, depth: usize) -> Value {
    let mut map = Map::new();
    let fields = Schema::get().by_id(id).json_fields();
    // Shallow objects get most of their fields, deep ones few: sizes stay small.
    let odds = 2 + depth as u64 * 2;
    for field in fields {
        if (field.required || dice.roll(odds) == 0) && depth < DEPTH_MAX {
            map.insert(field.json.to_owned(), labelled(field, dice, depth));
        }
    }
    Value::Object(map)
}

fn labelled(field: &Field, dice: &mut Dice, depth: usize) -> Value {
    match field.label {
        Label::Optional => single(field, dice, depth),
        Label::Repeated => (0..dice.roll(3)).map(|_| single(field, dice, depth)).collect(),
        Label::Map => {
            let keys = ["cpu", "memory", "a", "x.io/y", "", "-"];
            (0..dice.roll(3)).map(|_| (dice.pick(&keys).to_owned(), single(field, dice, depth))).collect::<Map<_, _>>().into()
        }
    }
}

fn single(field: &Field, dice: &mut Dice, depth: usize) -> Value {
    let number = [-1, 0, 1, 80, 65_536, 2_147_483_647][usize::try_from(dice.roll(6)).expect("below six")];
    let words = [
        "",
        "a",
        "A",
        "b-c",
        "Always",
        "None",
        "ClusterIP",
        "ExternalName",
        "LoadBalancer",
        "RollingUpdate",
        "In",
        "Gt",
        "Exists",
        "10.0.0.1",
        "True",
        "Ready",
        "Container",
        "..",
        "a:b",
    ];
    match field.ty {
        Type::Bool => (dice.roll(2) == 0).into(),
        Type::Int32 | Type::Int64 => number.into(),
        Type::Double => json!(0.5),
        Type::String => dice.pick(&words).into(),
        Type::Bytes => dice.pick(&["", "YQ==", "e30="]).into(),
        Type::Time | Type::MicroTime => dice.pick(&["2026-01-01T00:00:00Z", "1969-01-01T00:00:00.5Z"]).into(),
        Type::Duration => "1s".into(),
        Type::Quantity => dice.pick(&["0", "-1", "100m", "1.5Gi", "1n", "9E"]).into(),
        Type::IntOrString => {
            if dice.roll(2) == 0 {
                number.into()
            } else {
                dice.pick(&["25%", "x", "http", "200%"]).into()
            }
        }
        Type::RawExtension | Type::FieldsV1 => json!({}),
        Type::Any | Type::Union(_) => Value::Null,
        Type::Strings(_) => json!(["a"]),
        Type::Message(id) => message(id, dice, depth + 1),
    }
}

fn exercise(kind: &Kind, dice: &mut Dice) {
    let Some(id) = kind.message else { return };
    let make = |dice: &mut Dice| decode::conform(message(id, dice, 0), kind, FieldValidation::Strict).map(|decoded| decoded.object);
    let mut object = make(dice).unwrap_or_else(|status| panic!("{kind:?}: {status}"));
    let again = decode::json(&object.to_bytes(), kind, FieldValidation::Strict).expect("decodes again").object;
    assert_eq!(again, object, "{kind:?}: decoding is not stable");
    let old = make(dice).expect("made like the first");
    kind.default(&mut object);
    let mut twice = object.clone();
    kind.default(&mut twice);
    assert_eq!(twice, object, "{kind:?}: defaults are not stable");
    for subresource in ["", "status", "ephemeralcontainers", "resize", "finalize"] {
        let mut new = object.clone();
        kind.prepare_update(&mut new, &old, subresource);
        let _ = kind.validate_update(&new, &old, subresource);
    }
    let _ = (kind.validate(&object), kind.warn(&object, Some(&old)));
    for field in &kind.selectable {
        let _ = field.value(&object);
    }
    table::render(kind, &mut [&object].into_iter(), IncludeObject::None, jiff::Timestamp::UNIX_EPOCH);
    kind.prepare_create(&mut object);
    if let Some(converter) = kind.storage {
        (converter.to_storage)(&mut object);
        (converter.from_storage)(&mut object);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_is_sent_nothing_panics(seed in any::<u64>()) {
        let mut dice = Dice(seed);
        for kind in Kinds::builtin().iter() {
            exercise(kind, &mut dice);
        }
    }
}
