//! Expressions over JSON, what they yield and what they are refused for.

use serde_json::{Value as Json, json};

use super::*;
use crate::custom::Structural;

fn run(source: &str, data: &Json) -> String {
    let program = match Program::compile(source, &[("self", Static::Dyn)], &Static::Dyn) {
        Ok(program) => program,
        Err(error) => return format!("refused: {}", said(&error)),
    };
    let value = program.evaluate(&|name| (name == "self").then(|| Value::json(data)), &Budget::new(OBJECT_COST_MAX));
    value.map_or_else(|error| format!("failed: {error}"), |value| value.to_text())
}

/// What is wrong, without the place.
fn said(error: &CompileError) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.splitn(5, ':').nth(4).map_or(first, str::trim).to_owned()
}

#[track_caller]
fn check(source: &str, expected: &str) {
    let data = json!({"a": 1, "b": "text", "list": [3, 1, 2], "map": {"x": 1, "y": 2}, "none": null, "f": 1.5,
        "items": [{"name": "a", "n": 1}, {"name": "b", "n": 2}]});
    assert_eq!(run(source, &data), expected, "{source}");
}

#[test]
fn the_language() {
    check("1 + 2 * 3 - -4", "11");
    check("(1 + 2) * 3 % 4", "1");
    check("7 / 2", "3");
    check("1.5 + 2.5", "4");
    check("'a' + \"b\" + r'\\n' + '\\x41\\u0042'", "ab\\nAB");
    check("self.a == 1 && self.b != 'x' || false", "true");
    check("self.a == 1.0", "true");
    check("1 < 2.5 && 2u > 1", "true");
    check("self.a > 0 ? 'yes' : 'no'", "yes");
    check("has(self.a) && !has(self.zzz)", "true");
    check("self.zzz", "failed: no such key: zzz");
    check("self.zzz == 1 || true", "true");
    check(&format!("false{}", " || self.a == 2".repeat(500)), "false");
    check(&format!("true{} && self.zzz == 1", " && self.a == 1".repeat(500)), "failed: no such key: zzz");
    check("true || self.zzz == 1", "true");
    check("false && self.zzz == 1", "false");
    check("self.list[1]", "1");
    check("self.list[9]", "failed: index out of bounds: 9");
    check("2 in self.list && 'x' in self.map && !(9 in self.list)", "true");
    check("self.list.all(x, x > 0)", "true");
    check("self.list.exists(x, x == 2) && self.list.exists_one(x, x == 2)", "true");
    check("self.list.map(x, x * 2)", "[6, 2, 4]");
    check("self.list.map(x, x > 1, x * 2)", "[6, 4]");
    check("self.list.filter(x, x > 1)", "[3, 2]");
    check("self.map.all(k, k != 'z')", "true");
    check("self.list.all(i, x, i < 3 && x > 0)", "true");
    check("self.map.transformMap(k, v, v + 1)['x']", "2");
    check("{'a': [1, 2]}.a[0]", "1");
    check("self.?zzz.orValue('none')", "none");
    check("self.?a.optMap(x, x + 1).orValue(0)", "2");
    check("self.map[?'q'].hasValue()", "false");
    check("type(self.a) == int && type(self.b) == string", "true");
    check("size(self.list) + self.b.size()", "7");
    check("int('7') + int(1.9) + int(timestamp('1970-01-01T00:00:05Z'))", "13");
    check("string(1) + string(true)", "1true");
    check("timestamp('2024-01-01T00:00:00Z') + duration('1h') < timestamp('2024-01-01T02:00:00Z')", "true");
    check("timestamp('2024-03-01T12:30:00Z').getDayOfYear()", "60");
    check("timestamp('2024-03-01T23:30:00Z').getHours('+02:00')", "1");
    check("[1, 2] + [3] == [1, 2, 3]", "true");
    check("9223372036854775807 + 1", "failed: integer overflow");
    check("1 / 0", "failed: division by zero");
    check("-9223372036854775808", "-9223372036854775808");
    check("int(18446744073709551615u)", "failed: integer overflow");
    check("uint('18446744073709551615') == 18446744073709551615u && uint(1e19) == 10000000000000000000u", "true");
    check("uint(-1)", "failed: unsigned integer overflow");
    check("duration('1.5s').getMilliseconds()", "1500");
    check("int(duration('2500000h0.000000001s')) == 9000000000000000001", "true");
    check("timestamp('2024-01-01T00:00:00Z').getHours('+2000000000:00')", "failed: unknown time zone +2000000000:00");
    check("timestamp('2024-01-01T00:00:00Z').getHours('+2:30') == 2 && timestamp('2024-01-01T00:00:00Z').getHours('-02:30') == 21", "true");
}

#[test]
fn the_libraries() {
    check("'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c') && 'abc'.matches('^a.c$')", "true");
    check("'a,b,c'.split(',').join('-') + 'X'.lowerAscii() + ' y '.trim()", "a-b-cxy");
    check("'tacocat'.indexOf('a') + 'tacocat'.lastIndexOf('a') + 'tacocat'.indexOf('z')", "5");
    check("'abc'.indexOf('b', 9) == -1 && 'abc'.indexOf('', 2) == 2 && 'abc'.lastIndexOf('b', 9) == -1", "true");
    check("'abc'.split('', 2) == ['a', 'bc'] && 'abc'.split('') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']", "true");
    check("'hello'.substring(1, 3) + 'hello'.replace('l', 'L', 1) + 'hello'.charAt(4)", "elheLloo");
    check("'%s is %d, %.2f %%'.format(['x', 3, 1.5])", "x is 3, 1.50 %");
    check("[1, 2, 2].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && ['a', 'b'].max() == 'b' && [1, 2].indexOf(2) == 1", "true");
    check("'abc123'.find('[0-9]+') + '1a2b'.findAll('[0-9]')[1]", "1232");
    check("url('https://u@example.com:80/p?q=1&q=2').getHostname() + url('https://x:80/a').getPort()", "example.com80");
    check("url('https://x/a?q=1&q=2').getQuery()['q'].size() == 2 && !isURL('x y')", "true");
    check(
        "quantity('1.5Gi').isGreaterThan(quantity('1G')) && quantity('1k').asInteger() == 1000 && quantity('1').add(quantity('2')) == quantity('3')",
        "true",
    );
    check("ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && isIP('1.2.3.4') && !isIP('1.2.3')", "true");
    check(
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')",
        "true",
    );
    check("!format.dns1123Label().validate('abc').hasValue() && format.dns1123Label().validate('A').hasValue()", "true");
    check("format.named('uuid').hasValue()", "true");
    check(
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-a').compareTo(semver('1.0.0')) == -1 && semver('v1', true).major() == 1",
        "true",
    );
    check("sets.contains([1, 2], [2]) && sets.equivalent([1, 2], [2, 1]) && !sets.intersects([1], [2])", "true");
    check("optional.of(1).or(optional.none()).value()", "1");
}

/// In the words of cel-go (common/types, interpreter) and of the libraries of Kubernetes: clients see them in faults of rules and in denials.
#[test]
fn what_evaluation_fails_with() {
    for (source, expected) in [
        ("int('abc')", "type conversion error from 'string' to 'int'"),
        ("int('9223372036854775808')", "type conversion error from 'string' to 'int'"),
        ("uint('-1')", "type conversion error from 'string' to 'uint'"),
        ("double('x')", "type conversion error from 'string' to 'double'"),
        ("double('1e400')", "type conversion error from 'string' to 'double'"),
        ("bool('x')", "type conversion error from 'string' to 'bool'"),
        ("duration('x')", "type conversion error from 'string' to 'google.protobuf.Duration'"),
        ("timestamp('x')", "type conversion error from 'string' to 'google.protobuf.Timestamp'"),
        ("timestamp(253402300800)", "timestamp overflow"),
        ("timestamp('0000-12-31T23:59:59Z')", "timestamp overflow"),
        ("int(dyn(true))", "no such overload: int(bool)"),
        ("int(1e19)", "integer overflow"),
        ("int(double('nan'))", "integer overflow"),
        ("uint(-1.0)", "unsigned integer overflow"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("9223372036854775807 * 2", "integer overflow"),
        ("-9223372036854775808 / -1", "integer overflow"),
        ("0u - 1u", "unsigned integer overflow"),
        ("18446744073709551615u + 1u", "unsigned integer overflow"),
        ("timestamp('9999-12-30T20:00:00Z') + duration('48h')", "timestamp overflow"),
        ("timestamp('9999-12-30T00:00:00Z') - timestamp('0001-01-01T00:00:00Z')", "duration overflow"),
        ("duration('9223372036s') + duration('1s')", "duration overflow"),
        ("self.list[3]", "index out of bounds: 3"),
        ("self.list[-1]", "index out of bounds: -1"),
        ("self.list['a']", "unsupported index type 'string' in list"),
        ("self.map.z", "no such key: z"),
        ("self.map['z']", "no such key: z"),
        ("self.a.z", "no such key: z"),
        ("self.a[0]", "no such key: 0"),
        ("self.none.z", "no such key: z"),
        ("self.a + self.b", "no such overload"),
        ("self.map + 1", "no such overload: _+_"),
        ("self.b * 2", "no such overload: _*_"),
        ("self.f % 2.0", "no such overload: _%_"),
        ("self.a < self.b", "no such overload"),
        ("self.list < 1", "no such overload: _<_"),
        ("-self.b", "no such overload: -_"),
        ("!self.a", "no such overload"),
        ("self.a && true", "no such overload"),
        ("self.a ? 1 : 2", "no such overload"),
        ("1 in self.a", "no such overload"),
        ("self.a.startsWith('x')", "no such overload"),
        ("self.a.matches('x')", "no such overload: matches"),
        ("size(self.a)", "no such overload: size"),
        ("self.b.lowerAscii().charAt(9)", "index out of range: 9"),
        ("self.b.substring(3, 1)", "invalid substring range. start: 3, end: 1"),
        ("self.a.trim()", "no such overload: trim(int)"),
        ("self.a.isGreaterThan(self.b)", "no such overload: isGreaterThan(int, string)"),
        ("optional.none().value()", "optional.none() dereference"),
        ("[].min()", "min called on empty list"),
        ("[].max()", "max called on empty list"),
        ("'%d'.format([])", "index 0 out of range"),
        ("'%d'.format(['x'])", "error during formatting: decimal clause can only be used on integers, was given string"),
        ("'%a'.format([1])", "could not parse formatting clause: unrecognized formatting clause \"a\""),
        ("quantity('x')", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
        ("quantity('1.5').asInteger()", "cannot convert value to integer"),
        ("url('x y')", "URL parse error during conversion from string: parse \"x y\": invalid URI for request"),
        ("ip('x')", "IP Address \"x\" parse error during conversion from string: ParseAddr(\"x\"): unable to parse IP"),
        ("ip('fe80::1%en0')", "IP address \"fe80::1%en0\" with zone value is not allowed"),
        ("ip('::ffff:10.0.0.1')", "IPv4-mapped IPv6 address \"::ffff:10.0.0.1\" is not allowed"),
        (
            "cidr('10.0.0.0')",
            "network address parse error during conversion from string: network address parse error during conversion from string: netip.ParsePrefix(\"10.0.0.0\"): no '/'",
        ),
        ("semver('1.2')", "No Major.Minor.Patch elements found"),
        ("semver('1.x.2')", "Invalid character(s) found in minor number \"x\""),
        ("semver('1.2.03')", "Patch number must not contain leading zeroes \"03\""),
    ] {
        check(source, &format!("failed: {expected}"));
    }
    check("has(self.a.z) || bool('T') && !bool('F')", "true");
}

#[test]
fn what_is_refused_before_there_is_data() {
    let beginnings = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";
    for (source, expected) in [
        ("nothing", "undeclared reference to 'nothing' (in container '')"),
        ("self.foo()", "undeclared reference to 'foo' (in container '')"),
        ("size()", "found no matching overload for 'size' applied to '()'"),
        ("1 + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
        ("1 == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("1 && true", "found no matching overload for '_&&_' applied to '(int, bool)'"),
        ("(", &format!("Syntax error: mismatched input '<EOF>' expecting {beginnings}")),
        ("1 +", &format!("Syntax error: mismatched input '<EOF>' expecting {beginnings}")),
        ("a b", "Syntax error: extraneous input 'b' expecting <EOF>"),
        ("(1", "Syntax error: missing ')' at '<EOF>'"),
        ("1 @ 2", "Syntax error: token recognition error at: '@'"),
        ("'a'.contains(1)", "found no matching overload for 'contains' applied to 'string.(int)'"),
        ("['a'] + 1", "found no matching overload for '_+_' applied to '(list(string), int)'"),
        ("1.all(x, true)", "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)"),
        ("'open", "Syntax error: a string has no end"),
        ("for", "reserved identifier: for"),
        ("[1].all(1, true)", "argument must be a simple name"),
        ("has(1)", "invalid argument to has() macro"),
    ] {
        assert_eq!(run(source, &Json::Null), format!("refused: {expected}"), "{source}");
    }
    assert!(run(&"(".repeat(5000), &Json::Null).contains("nests deeper"));
    assert!(run(&format!("{}1", "!".repeat(5000)), &Json::Null).contains("nests deeper"));
    assert!(run(&format!("1{}", " + 1".repeat(3000)), &Json::Null).contains("in a row"));
    // Chains within parentheses multiply.
    let chains = (0..60).fold("1".to_owned(), |inner, _| format!("({inner}{}{})", "*1".repeat(60), "+1".repeat(60)));
    assert!(run(&chains, &Json::Null).contains("nests deeper"));
    // The highest tree that is allowed is walked.
    let high = (0..60).fold("1".to_owned(), |inner, _| format!("({inner} + 1 + 1)"));
    check(&high, "121");
    assert!(run("9223372036854775808 < 0", &Json::Null).contains("is no number"));
}

/// As upstream tells it: line and column, the line, and a mark under the place.
#[test]
fn what_is_wrong_is_told_with_its_place() {
    let schema = Structural::parse(&json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}));
    let variables = [("self", Static::of_schema(&schema))];
    for (source, expected) in [
        ("self.c == 1", "1:5: undefined field 'c'\n | self.c == 1\n | ....^"),
        (
            "self.a == 1 && oter.a == 2",
            "1:16: undeclared reference to 'oter' (in container '')\n | self.a == 1 && oter.a == 2\n | ...............^",
        ),
        ("self.a == 'x'", "1:8: found no matching overload for '_==_' applied to '(int, string)'\n | self.a == 'x'\n | .......^"),
        ("self.b.foo(1)", "1:11: undeclared reference to 'foo' (in container '')\n | self.b.foo(1)\n | ..........^"),
        (
            "self.a > 0 &&\n\tself.b < 1",
            "2:9: found no matching overload for '_<_' applied to '(string, int)'\n |  self.b < 1\n | ........^",
        ),
        ("has(self.b) && has(self.d)", "1:24: undefined field 'd'\n | has(self.b) && has(self.d)\n | .......................^"),
        (
            "self.a ==",
            "1:10: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | self.a ==\n | .........^",
        ),
        ("(self.a > 1", "1:12: Syntax error: missing ')' at '<EOF>'\n | (self.a > 1\n | ...........^"),
        ("'é' == self.a", "1:5: found no matching overload for '_==_' applied to '(string, int)'\n | 'é' == self.a\n | .．..^"),
        ("has(self)", "1:5: invalid argument to has() macro\n | has(self)\n | ....^"),
        (
            "self.b.all(x, true)",
            "1:5: expression of type 'string' cannot be range of a comprehension (must be list, map, or dynamic)\n | self.b.all(x, true)\n | ....^",
        ),
        ("!self.b", "1:1: found no matching overload for '!_' applied to '(string)'\n | !self.b\n | ^"),
    ] {
        let error = Program::compile(source, &variables, &Static::Bool).unwrap_err();
        assert_eq!(error, CompileError::Wrong(format!("ERROR: <input>:{expected}")), "{source}");
    }
    let yields = CompileError::Yields { wanted: "bool".to_owned(), found: "int".to_owned() };
    assert_eq!(Program::compile("self.a + 1", &variables, &Static::Bool).unwrap_err(), yields);
}

#[test]
fn schemas_tell_fields_and_types() {
    let schema = Structural::parse(&json!({"type": "object", "properties": {
        "replicas": {"type": "integer"}, "name": {"type": "string"}, "namespace": {"type": "string"}, "a-b": {"type": "string"},
        "when": {"type": "string", "format": "date-time"}, "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}}));
    let compile = |source: &str| {
        let variables = [("self", Static::of_schema(&schema))];
        Program::compile(source, &variables, &Static::Bool)
    };
    for (source, expected) in [
        ("self.replica > 0", "undefined field 'replica'"),
        ("self.replicas", "must evaluate to bool but got int"),
        ("self.name > 1", "found no matching overload for '_>_' applied to '(string, int)'"),
        ("self.name.x == 1", "type 'string' does not support field selection"),
    ] {
        assert_eq!(said(&compile(source).unwrap_err()), expected, "{source}");
    }
    let data = json!({"replicas": 1, "namespace": "n", "a-b": "c", "when": "2024-01-01T00:00:00Z", "set": ["b", "a"]});
    for source in [
        "self.__namespace__ == 'n' && self.a__dash__b == 'c'",
        "self.when < timestamp('2024-01-02T00:00:00Z')",
        "self.set == ['a', 'b'] ? true : self.set.size() == 2",
        "!has(self.name)",
    ] {
        let program = compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        let value = program.evaluate(&|_| Some(Value::typed(&data, Some(&schema))), &Budget::new(OBJECT_COST_MAX));
        assert_eq!(value.unwrap().to_text(), "true", "{source}");
    }
}

#[test]
fn cost_is_bounded() {
    let list: Json = (0..2000).collect();
    let data = json!({"list": list, "text": "x".repeat(100_000)});
    assert_eq!(
        run("self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))", &data),
        "failed: operation cancelled: actual cost limit exceeded"
    );
    let nested = "[1,2,3,4,5,6,7,8,9].map(a, self.text + self.text + self.text + self.text + self.text + self.text + self.text + self.text + self.text + self.text + self.text)";
    assert!(run(nested, &data).starts_with("failed: "));
    // Shared lists are small until they are walked.
    let huge = (0..40).fold("1".to_owned(), |inner, _| format!("[{inner}].map(x, [x, x])"));
    for source in [format!("{huge} == {huge}"), format!("[{huge}].all(t, t == t)"), format!("string({huge})"), huge] {
        assert_eq!(run(&source, &data), "failed: operation cancelled: actual cost limit exceeded");
    }
    // Patterns made on the way are compiled, each of them.
    assert_eq!(
        run("self.list.all(a, !self.text.matches('y' + string(a)))", &json!({"list": data["list"], "text": "x"})),
        "failed: operation cancelled: actual cost limit exceeded"
    );
    assert_eq!(run("self.list.all(a, !self.text.matches('y'))", &json!({"list": data["list"], "text": "x"})), "true");
    // Text is copied wherever it is named.
    let copies = format!("self.list.map(a, self.list.map(b, '{}'))", "x".repeat(10_000));
    assert_eq!(run(&copies, &data), "failed: operation cancelled: actual cost limit exceeded");
    // Equality looks at all of both, not at their outsides.
    assert_eq!(run("self.list.all(a, [self] == [self])", &data), "failed: operation cancelled: actual cost limit exceeded");
}

#[test]
fn maps_and_sets_are_equal_whatever_their_order() {
    check("{'a': 1, 'b': [2]} == {'b': [2.0], 'a': 1u}", "true");
    check("self.map == {'y': 2, 'x': 1} && {'x': 1, 'y': 3} != self.map", "true");
    check("self.map == {'y': 2}", "false");
    let schema = Structural::parse(&json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}}));
    let (one, two, three) = (json!([1, 2, 3]), json!([3, 1, 2]), json!([1, 2, 4]));
    let same = |one: &Json, two: &Json| value::equal(&Value::typed(one, Some(&schema)), &Value::typed(two, Some(&schema)));
    assert!(same(&one, &two) && !same(&one, &three));
}

#[test]
fn lists_of_maps_are_merged_by_their_keys() {
    let schema =
        Structural::parse(&json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
        "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}));
    let program = Program::compile("(self + [{'k': 'b', 'v': 3}, {'k': 'c', 'v': 4}]).map(x, x.v)", &[("self", Static::Dyn)], &Static::Dyn);
    let data = json!([{"k": "a", "v": 1}, {"k": "b", "v": 2}]);
    let value = program.unwrap().evaluate(&|_| Some(Value::typed(&data, Some(&schema))), &Budget::new(OBJECT_COST_MAX));
    assert_eq!(value.unwrap().to_text(), "[1, 3, 4]");
}

#[test]
fn names_are_escaped_and_back() {
    for (plain, escaped) in [
        ("namespace", "__namespace__"),
        ("while", "__while__"),
        ("var", "__var__"),
        ("a.b", "a__dot__b"),
        ("a-b/c", "a__dash__b__slash__c"),
        ("a__b", "a__underscores__b"),
    ] {
        assert_eq!(escape(plain).as_deref(), Some(escaped));
        assert_eq!(unescape(escaped), plain);
    }
    assert_eq!(escape("1a"), None);
}

#[test]
fn what_holds_itself_many_times_costs_as_if_it_were_written_out() {
    let large = json!({"text": "x".repeat(1 << 20)});
    for (levels, first) in [(40, "1"), (8, "object"), (8, "object.text")] {
        let source = (0..levels).rev().fold(format!("v{}", levels - 1), |body, n| match n {
            0 => format!("cel.bind(v0, [{first}, {first}], {body})"),
            n => format!("cel.bind(v{n}, [v{0}, v{0}], {body})", n - 1),
        });
        let variables = [("object", Static::Dyn), ("cel.bind", Static::Extension)];
        let program = Program::compile(&source, &variables, &Static::Dyn).unwrap();
        let value = program.evaluate(&|_| Some(Value::json(&large)), &Budget::new(OBJECT_COST_MAX));
        assert!(matches!(value, Err(EvalError::TooCostly)), "{first}");
    }
}

#[test]
fn objects_are_made_where_there_are_types_to_make() {
    let make = |source: &str| {
        let variables = [("object", Static::Dyn), ("Object", Static::Maker(&[])), ("JSONPatch", Static::Maker(&["op", "path", "value"]))];
        let data = json!({"a": 1});
        let program = Program::compile(source, &variables, &Static::Dyn).map_err(|error| said(&error))?;
        let value = program.evaluate(&|_| Some(Value::json(&data)), &Budget::new(OBJECT_COST_MAX)).map_err(|error| error.to_string())?;
        value.check_made("Object").map(|()| value.to_json())
    };
    for (source, expected) in [
        ("Object{}", json!({})),
        ("Object{spec: Object.spec{n: object.a + 1, __namespace__: 'x',},}", json!({"spec": {"n": 2, "namespace": "x"}})),
        ("Object{?a: object.?a, ?b: object.?b}", json!({"a": 1})),
        ("Object{list: [Object.list{x: 1}, Object.list{x: null}]}", json!({"list": [{"x": 1}, {"x": null}]})),
        ("true ? Object{a: 1} : Object{}", json!({"a": 1})),
        ("Object{a: 1} == Object{a: 1.0} && Object{a: 1} != Object{}", json!(true)),
        ("Object{a: {'k': 1}}.a.k", json!(1)),
        ("jsonpatch.escapeKey('a~/b')", json!("a~0~1b")),
    ] {
        assert_eq!(make(source), Ok(expected), "{source}");
    }
    for (source, expected) in [
        ("Object{a: 1, a: 2}", "Syntax error: the field 'a' is given twice"),
        ("Object{a}", "Syntax error: mismatched input '}' expecting ':'"),
        ("Object", "undeclared reference to 'Object' (in container '')"),
        ("Other{}", "undeclared reference to 'Other' (in container '')"),
        ("JSONPatch.x{}", "undeclared reference to 'JSONPatch.x' (in container '')"),
        ("JSONPatch{from: ''}", "undefined field 'from'"),
        ("Object{?a: 1}", "expected type of field 'a' is 'optional_type' but provided type is 'int'"),
        (
            "Object{a: [Object.b{}]}",
            "unexpected type name \"Object.b\", expected \"Object.a\", which matches field name path from root Object type",
        ),
    ] {
        assert_eq!(make(source), Err(expected.to_owned()), "{source}");
    }
    assert!(make(&format!("{}1{}", "Object{a: ".repeat(100), "}".repeat(100))).unwrap_err().contains("nests deeper"));
    // Without types braces after a name mean nothing.
    check("self{}", "refused: undeclared reference to 'self' (in container '')");
}

#[test]
fn policies_are_checked_against_the_schemas_of_what_they_are_about() {
    let mut kinds = crate::Kinds::builtin();
    let definition = json!({"metadata": {"name": "toys.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "toys", "kind": "Toy"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]}});
    custom_rows(&definition).into_iter().for_each(|kind| drop(kinds.insert(kind)));
    let check = |group: &str, resources: &[&str], expression: &str| {
        let policy = json!({"spec": {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "variables": [{"name": "n", "expression": "1"}],
            "matchConstraints": {"resourceRules": [{"apiGroups": [group], "apiVersions": ["v1"], "resources": resources, "operations": ["*"]}]},
            "validations": [{"expression": "true"}, {"expression": expression}]}});
        let found = policy::warnings(&crate::Object::from_value(policy).unwrap(), &kinds);
        // The place within the expression is another test's.
        let lines = |text: &str| -> String {
            let told = text.lines().filter(|line| !line.starts_with(" | "));
            told.map(|line| match line.split_once("ERROR: <input>:1:") {
                Some((kind, error)) => format!("{kind}{}\n", error.split_once(": ").map_or(error, |(_, error)| error)),
                None => format!("{line}\n"),
            })
            .collect()
        };
        found.into_iter().map(|warning| format!("{}: {}", warning.field, lines(&warning.text))).collect::<String>()
    };
    for fits in [
        "object.spec.replicas > 1 && object.metadata.namespace == 'a' && object.metadata.labels['x'] == 'y'",
        "object.spec.template.spec.containers.all(c, c.image.startsWith('x') && has(c.resources.limits.cpu))",
        "object.metadata.creationTimestamp < timestamp('2026-01-01T00:00:00Z') && object.kind == 'Deployment'",
        "oldObject == null || object.spec.selector.matchLabels == oldObject.spec.selector.matchLabels",
        "params.data.x == 'y' && variables.n == 1 && request.userInfo.username != '' && authorizer.path('/').check('get').allowed()",
        "object.spec.strategy.rollingUpdate.maxSurge == 1 || object.spec.strategy.rollingUpdate.maxSurge == '10%'",
    ] {
        assert_eq!(check("apps", &["deployments"], fits), "", "{fits}");
    }
    let at = "spec.validations[1].expression: apps/v1, Kind=Deployment";
    assert_eq!(check("apps", &["deployments"], "object.spec.foo == 1"), format!("{at}: undefined field 'foo'\n"));
    assert_eq!(
        check("apps", &["deployments", "replicasets", "none", "deployments/scale"], "object.spec.replicas == 'a'"),
        format!(
            "{at}: found no matching overload for '_==_' applied to '(int, string)'\napps/v1, Kind=ReplicaSet: found no matching overload for '_==_' applied to '(int, string)'\n"
        )
    );
    assert_eq!(check("apps", &["deployments"], "params.dota.x == 'y'"), format!("{at}: undefined field 'dota'\n"));
    assert_eq!(
        check("apps", &["deployments"], "variables['n'] == 1"),
        format!("{at}: found no matching overload for '_[_]' applied to '(object, string)'\n"),
        "variables are read by name"
    );
    assert_eq!(check("apps", &["*"], "object.spec.foo == 1"), "", "a wildcard names no kind");
    assert_eq!(check("example.com", &["toys"], "object.spec.size > 1 && object.metadata.name != ''"), "");
    assert_eq!(
        check("example.com", &["toys"], "object.spec.sice > 1"),
        "spec.validations[1].expression: example.com/v1, Kind=Toy: undefined field 'sice'\n"
    );
}

fn custom_rows(definition: &Json) -> Vec<crate::Kind> {
    crate::custom::rows(&crate::Object::from_value(definition.clone()).unwrap(), 1)
}
