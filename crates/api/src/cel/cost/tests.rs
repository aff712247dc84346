//! Costs of expressions over schemas. The numbers are upstream's (apiextensions-apiserver, pkg/apiserver/schema/cel/compilation_test.go;
//! apiserver, pkg/cel/library/cost_test.go).

use serde_json::{Value as Json, json};

use crate::cel::{Extent, Program, Static};
use crate::custom::Structural;

fn cost(schema: &Json, rule: &str) -> u64 {
    let schema = Structural::parse(schema);
    let own = Static::of_schema(&schema);
    let program = Program::compile(rule, &[("self", own.clone()), ("oldSelf", own)], &Static::Dyn).expect("the rule compiles");
    program.cost_at_most(&Extent::of_schema(&schema).expect("the schema says what it is of"), &[])
}

/// Without a bound, and with it on every text, list and map of the schema.
#[track_caller]
fn check(schema: impl Fn(Option<u64>) -> Json, rule: &str, unbounded: u64, bound: u64, bounded: u64) {
    let schemas = [(schema(None), unbounded, "no bound".to_owned()), (schema(Some(bound)), bounded, format!("the bound {bound}"))];
    for (schema, expected, what) in schemas {
        assert_eq!(cost(&schema, rule), expected, "{rule} over {schema} with {what}");
    }
}

fn with(mut schema: Json, key: &str, bound: Option<u64>) -> Json {
    if let Some(bound) = bound {
        schema[key] = bound.into();
    }
    schema
}

/// `number`, `string/date-time`, `int-or-string`
fn scalar(ty: &str) -> Json {
    match ty.split_once('/') {
        Some((ty, format)) => json!({"type": ty, "format": format}),
        None if ty == "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        None => json!({"type": ty}),
    }
}

fn list_of(item: impl Into<Json>) -> impl Fn(Option<u64>) -> Json {
    let item = item.into();
    move |bound| with(json!({"type": "array", "items": item}), "maxItems", bound)
}

fn map_of(value: impl Into<Json>) -> impl Fn(Option<u64>) -> Json {
    let value = value.into();
    move |bound| with(json!({"type": "object", "additionalProperties": value}), "maxProperties", bound)
}

fn text(bound: Option<u64>) -> Json {
    with(scalar("string"), "maxLength", bound)
}

fn texts(bound: Option<u64>) -> Json {
    with(json!({"type": "array", "items": text(bound)}), "maxItems", bound)
}

fn named() -> Json {
    json!({"type": "object", "required": ["required"], "properties": {"required": scalar("string"), "optional": scalar("string")}})
}

#[test]
fn a_loop_costs_as_often_as_there_can_be_items() {
    check(list_of(scalar("number")), "self.all(x, true)", 4_718_591, 10, 32);
    check(list_of(scalar("string")), "self.all(x, true)", 3_145_727, 20, 62);
    check(list_of(scalar("boolean")), "self.all(x, true)", 1_887_437, 5, 17);
    check(list_of(list_of(scalar("number"))(None)), "self.all(x, true)", 3_145_727, 100, 302);
    check(list_of(scalar("int-or-string")), "self.all(x, true)", 4_718_591, 10, 32);
    check(list_of(scalar("string/duration")), "self.all(x, true)", 2_359_295, 5, 17);
    check(list_of(scalar("string/date")), "self.all(x, true)", 725_936, 15, 47);
    check(list_of(scalar("string/date-time")), "self.all(x, true)", 428_963, 25, 77);
    check(map_of(scalar("number")), "self.all(x, true)", 1_348_169, 10, 32);
    check(map_of(scalar("string")), "self.all(x, true)", 1_179_647, 3, 11);
    check(map_of(scalar("boolean")), "self.all(x, true)", 943_718, 100, 302);
    check(map_of(scalar("int-or-string")), "self.all(x, true)", 1_348_169, 15, 47);
    check(map_of(named()), "self.all(x, true)", 428_963, 20, 62);
    check(map_of(map_of(scalar("number"))(None)), "self.all(x, true)", 1_179_647, 10, 32);
    check(map_of(scalar("string/date")), "self.all(x, true)", 524_288, 10, 32);
    check(map_of(scalar("string/date-time")), "self.all(x, true)", 349_526, 25, 77);
    let number = list_of(scalar("number"));
    check(&number, "self.all(x, x == 0.0)", 6_291_454, 3 * 1024 * 2048, 25_165_826);
    for (rule, bounded) in [("self.all(x, self.all(y, true))", 352), ("self.all(x, self.all(y, self.all(z, true)))", 3552)] {
        assert_eq!(cost(&number(Some(10)), rule), bounded, "{rule}");
        assert!(cost(&number(None), rule) > crate::custom::costs::EXPRESSION_MAX, "{rule}");
    }
}

#[test]
fn what_is_within_is_bounded_by_its_own_schema() {
    let nested = |bound: Option<u64>| list_of(map_of(named())(bound))(bound);
    check(nested, r#"self.all(x, x["y"].required == "z")"#, 7_340_027, 10, 72);
    check(|bound| list_of(map_of(named())(bound))(None), r#"self.all(x, x["y"].required == "z")"#, 7_340_027, 10, 7_340_027);
    check(|bound| list_of(map_of(scalar("number"))(bound))(bound), "self.all(x, x.y == 25.2)", 6_291_452, 12, 74);
    check(|bound| map_of(text(bound))(bound), "self.all(x, x.contains(self[x]))", 2_752_507, 10, 72);
    check(list_of(scalar("string")), "self[1] == self[1]", 314_577, 8, 314_577);
    check(list_of(scalar("number")), "self[1] == 0.0", 2, 5000, 2);
    check(list_of(scalar("number")), "self[3] == 0.0", 2, 0, 2);
    check(list_of(scalar("int-or-string")), "self[0] == 5", 3, 10, 3);
    check(list_of(list_of(scalar("number"))(None)), "self[0][0] == -1.0", 3, 51, 3);
    check(list_of(scalar("string/duration")), "self[0].getHours() == 2", 4, 525, 4);
    check(map_of(scalar("string/date-time")), "self['a'] == self['b']", 8, 7, 8);
    check(map_of(scalar("integer")), "oldSelf.size() == self.size()", 5, 10, 5);
    check(map_of(scalar("number")), "has(self.x)", 1, 100, 1);
}

#[test]
fn texts_cost_a_tenth_of_their_bytes() {
    check(text, "self.contains('test')", 314_574, 10, 5);
    check(text, "self.startsWith('test')", 2, 15, 2);
    check(text, "size(self + 'hello') > size('hello')", 314_578, 4, 7);
    check(text, "self.matches('x')", 314_574, 50, 22);
    check(text, "''.matches('(((((((((())))))))))[0-9]')", 7, 10, 7);
    check(text, "self.matches('')", 1, 100, 1);
    check(text, "self == 'x'", 2, 0, 1);
    check(|bound| with(scalar("string/byte"), "maxLength", bound), "self == b'x'", 2, 0, 1);
    check(text, "self.find('[0-9]+') == ''", 629_147, 10, 11);
    check(text, "self.lowerAscii() == 'lower!'", 314_575, 10, 6);
    check(texts, "self.join(' ') == 'aa bb'", 329_853_068_905, 10, 43);
    check(texts, "self.isSorted() == true", 329_854_432_052, 10, 52);
    let three = |bound| {
        let part = |bound| text(Some(bound));
        json!({"type": "object", "properties": {"str": text(bound), "before": part(2), "after": part(4)}})
    };
    check(three, "self.str.replace(self.before, self.after) == 'does not matter'", 629_154, 4, 12);
    let two = |bound| json!({"type": "object", "properties": {"str": text(bound), "separator": text(bound)}});
    check(two, "self.str.split(self.separator) == []", 629_160, 10, 22);
    let words = |bound| with(json!({"type": "string", "enum": ["A", "B", "C", "LongValue"]}), "maxLength", bound);
    check(words, "self.contains('A')", 2, 1000, 401);
}

#[test]
fn functions_of_the_libraries() {
    for (expression, expected) in [
        ("'ABCDEFGHIJ abcdefghij'.lowerAscii() == 'abcdefghij ABCDEFGHIJ'.lowerAscii()", 9),
        ("'abc 123 def 123'.replace('', 'x')", 3),
        ("'abc 123 def 123'.split(' ', 1)", 3),
        ("'abc 123 def 123'.substring(5, 8)", 2),
        ("'abc 123 def 123'.findAll('123', 1)", 2),
        ("sets.contains([1, 2, 3, 4], [2, 3])", 29),
        ("sets.equivalent([1, 2, 3], [3, 2, 1])", 39),
        ("!sets.intersects([1], [2])", 23),
        ("quantity('50k').add(quantity('20')).compareTo(quantity('50.02k')) > 0", 6),
        ("quantity('50k').isLessThan(quantity('20'))", 3),
        // What upstream could not bound at first, it bounds now.
        ("quantity('200M') == quantity('0.2G')", 3),
        ("cidr('192.168.0.0/16').containsIP('192.0.0.1')", 1 + 5),
        ("cidr('192.168.0.0/16').containsCIDR('192.0.0.0/30')", 1 + 9),
        ("[1, 2, 3, 4, 5].sum()", 15),
        ("[1, 2, 3, 4, 5].indexOf(3)", 15),
        ("'01234567890123456789012345678901234567890123456789'.indexOf('123')", 5),
        ("[1, 2].map(x, x * 2)", 10 + 10 + 1 + 2 * 14),
        ("[1, 2].filter(x, x > 1)", 10 + 10 + 1 + 2 * 15),
        ("[1, 2].exists_one(x, x > 1)", 10 + 2 + 2 * 4),
        ("{'a': 1}.transformMap(k, v, v + 1)", 30 + 30 + 1 + 5),
        ("optional.of(1).optMap(x, x + 1).orValue(0)", 1 + (1 + 1) + (10 + 1 + 1 + 2) + 1),
    ] {
        assert_eq!(cost(&json!({"type": "object"}), expression), expected, "{expression}");
    }
}

#[test]
fn what_has_no_bound_is_endless() {
    let numbers = json!({"type": "object", "properties": {"n": scalar("integer"), "list": texts(Some(4))}});
    for endless in [
        // Upstream's own example of a message is refused for this (kubernetes/kubernetes#124234).
        "'at most ' + string(self.n)",
        "type(self.n) == type(self.list)",
        "self.?list[?0].orValue('').matches('a')",
        "self.list.map(x, x.lowerAscii()).join(',')",
        "quantity('1') != quantity('2')",
    ] {
        assert!(cost(&numbers, endless) > u64::MAX / 100, "{endless}: {}", cost(&numbers, endless));
    }
    assert_eq!(cost(&numbers, "'at most %d'.format([self.n])"), 1 + 10 + 2);
}
