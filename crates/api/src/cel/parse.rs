//! Text to tree: a lexer and a parser by precedence (cel-spec, doc/langdef.md).

use super::KEYWORDS;
use super::ast::{At, Binary, Expr, Fold, Literal, MadeField};
use super::error::Wrong;

/// Levels of nesting: deeper expressions would take the stack of the parser.
const DEPTH_MAX: usize = 64;

/// Levels of the tree. Chains make it higher without nesting, and it is checked and evaluated by recursion on a stack of 2 MiB.
pub const HEIGHT_MAX: usize = 128;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Literal(Literal),
    Ident(String),
    Symbol(&'static str),
    End,
}

/// The symbols, longer ones first.
const SYMBOLS: [&str; 26] = [
    "||", "&&", "==", "!=", "<=", ">=", "[?", ".?", "?", ":", "<", ">", "+", "-", "*", "/", "%", "!", "(", ")", "[", "]", "{", "}", ".",
    ",",
];

/// The tree and its height.
pub(super) fn parse(source: &str) -> Result<(Expr, usize), Wrong> {
    let tokens = tokens(source)?;
    let mut parser = Parser { tokens, at: 0, depth: 0, height: 0, wrong: None };
    let parsed = parser.expr().and_then(|expr| match parser.peek() {
        Token::End => Ok((expr, parser.height)),
        other => Err(format!("Syntax error: extraneous input {} expecting <EOF>", describe(other))),
    });
    // Where it went wrong is where it stopped reading.
    parsed.map_err(|text| Wrong { at: parser.wrong.unwrap_or(parser.place()), text })
}

/// What may begin an expression, as upstream's parser lists it.
const BEGINNINGS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

fn describe(token: &Token) -> String {
    match token {
        Token::Literal(literal) => format!("{literal:?}"),
        Token::Ident(name) => format!("'{name}'"),
        Token::Symbol(symbol) => format!("'{symbol}'"),
        Token::End => "'<EOF>'".to_owned(),
    }
}

fn tokens(source: &str) -> Result<Vec<(Token, usize)>, Wrong> {
    let mut tokens = Vec::new();
    let mut rest = source;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.find('\n').map_or("", |end| &comment[end..]);
            continue;
        }
        let at = source.len() - rest.len();
        let wrong = |text: String| Wrong { at, text };
        let Some(first) = rest.chars().next() else { break };
        let (token, after) = if first.is_ascii_digit() || first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            number(rest).map_err(wrong)?
        } else if let Some(string) = string(rest) {
            string.map_err(wrong)?
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            (word(&rest[..end]), &rest[end..])
        } else {
            let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
            let symbol = symbol.ok_or_else(|| wrong(format!("Syntax error: token recognition error at: '{first}'")))?;
            // `a[?b:c]` is an optional index, never a conditional without its condition.
            (Token::Symbol(symbol), &rest[symbol.len()..])
        };
        tokens.push((token, at));
        rest = after;
    }
    tokens.push((Token::End, source.len()));
    Ok(tokens)
}

fn word(word: &str) -> Token {
    match word {
        "true" => Token::Literal(Literal::Bool(true)),
        "false" => Token::Literal(Literal::Bool(false)),
        "null" => Token::Literal(Literal::Null),
        "in" => Token::Symbol("in"),
        word => Token::Ident(word.to_owned()),
    }
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let wrong = |what: &str| format!("Syntax error: {what} is no number");
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let value = u64::from_str_radix(&hex[..end], 16).map_err(|_| wrong(text))?;
        return Ok(match hex[end..].strip_prefix(['u', 'U']) {
            Some(after) => (Token::Literal(Literal::Uint(value)), after),
            None => (Token::Literal(Literal::Int(i64::try_from(value).map_err(|_| wrong(text))?)), &hex[end..]),
        });
    }
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let mut end = digits(text);
    let mut float = false;
    if text[end..].starts_with('.') && text[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        end += 1 + digits(&text[end + 1..]);
        float = true;
    }
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        let count = digits(&exponent[sign..]);
        if count > 0 {
            end += 1 + sign + count;
            float = true;
        }
    }
    let (number, after) = text.split_at(end);
    if float {
        return number.parse().map(|value| (Token::Literal(Literal::Double(value)), after)).map_err(|_| wrong(number));
    }
    if let Some(after) = after.strip_prefix(['u', 'U']) {
        return number.parse().map(|value| (Token::Literal(Literal::Uint(value)), after)).map_err(|_| wrong(number));
    }
    // One more than fits, for the least integer, whose sign comes before it.
    let value: u64 = number.parse().map_err(|_| wrong(number))?;
    match i64::try_from(value) {
        Ok(value) => Ok((Token::Literal(Literal::Int(value)), after)),
        Err(_) if value == i64::MIN.unsigned_abs() => Ok((Token::Literal(Literal::Int(i64::MIN)), after)),
        Err(_) => Err(wrong(number)),
    }
}

/// A string or bytes, with their prefixes; none if the text begins with something else.
fn string(text: &str) -> Option<Result<(Token, &str), String>> {
    // At most two letters stand before the quote: the rest of the text is not searched for one.
    let prefix = text.bytes().take(3).position(|byte| matches!(byte, b'"' | b'\''))?;
    let letters = text[..prefix].to_ascii_lowercase();
    let (raw, bytes) = match letters.as_str() {
        "" => (false, false),
        "r" => (true, false),
        "b" => (false, true),
        "rb" | "br" => (true, true),
        _ => return None,
    };
    let body = &text[prefix..];
    let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| body.starts_with(quote))?;
    Some(quoted(&body[quote.len()..], quote, raw, bytes))
}

fn quoted<'a>(text: &'a str, quote: &str, raw: bool, is_bytes: bool) -> Result<(Token, &'a str), String> {
    let open = || "Syntax error: a string has no end".to_owned();
    let mut out: Vec<u8> = Vec::new();
    let mut rest = text;
    loop {
        if let Some(after) = rest.strip_prefix(quote) {
            let literal = if is_bytes {
                Literal::Bytes(out)
            } else {
                Literal::String(String::from_utf8(out).map_err(|_| "Syntax error: a string is not UTF-8".to_owned())?)
            };
            return Ok((Token::Literal(literal), after));
        }
        let letter = rest.chars().next().ok_or_else(open)?;
        if quote.len() == 1 && letter == '\n' {
            return Err(open());
        }
        rest = &rest[letter.len_utf8()..];
        if raw || letter != '\\' {
            out.extend(letter.encode_utf8(&mut [0; 4]).bytes());
            continue;
        }
        let escape = rest.chars().next().ok_or_else(open)?;
        rest = &rest[escape.len_utf8()..];
        let mut code = |digits: usize, radix: u32| -> Result<u32, String> {
            let part = rest.get(..digits).ok_or_else(open)?;
            rest = &rest[digits..];
            u32::from_str_radix(part, radix).map_err(|_| format!("Syntax error: unknown escape {part:?}"))
        };
        let (code, byte) = match escape {
            'a' => (7, true),
            'b' => (8, true),
            'f' => (12, true),
            'n' => (10, true),
            'r' => (13, true),
            't' => (9, true),
            'v' => (11, true),
            '\\' | '\'' | '"' | '`' | '?' => (u32::from(escape), true),
            'x' | 'X' => (code(2, 16)?, is_bytes),
            'u' => (code(4, 16)?, false),
            'U' => (code(8, 16)?, false),
            '0'..='3' => (code(2, 8)? + (u32::from(escape) - u32::from('0')) * 64, is_bytes),
            other => return Err(format!("Syntax error: unknown escape '\\{other}'")),
        };
        if byte {
            out.push(u8::try_from(code).map_err(|_| "Syntax error: an escape is no byte".to_owned())?);
        } else {
            let letter = char::from_u32(code).ok_or_else(|| format!("Syntax error: {code:x} is no character"))?;
            out.extend(letter.encode_utf8(&mut [0; 4]).bytes());
        }
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    /// Levels of the expression that was made last.
    height: usize,
    /// Where a macro has a wrong argument, which was read before it was looked at.
    wrong: Option<usize>,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    /// Where the next token stands.
    fn place(&self) -> usize {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].0.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.take(symbol) {
            return Ok(());
        }
        Err(match self.peek() {
            Token::End => format!("Syntax error: missing '{symbol}' at '<EOF>'"),
            other => format!("Syntax error: mismatched input {} expecting '{symbol}'", describe(other)),
        })
    }

    fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("the expression nests deeper than {DEPTH_MAX} levels"));
        }
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// An expression of so many levels is made.
    fn made(&mut self, height: usize) -> Result<(), String> {
        self.height = height;
        if height > HEIGHT_MAX { Err(format!("the expression nests deeper than {HEIGHT_MAX} levels")) } else { Ok(()) }
    }

    fn expr(&mut self) -> Result<Expr, String> {
        self.deeper(|parser| {
            let condition = parser.binary(0)?;
            let at = parser.place();
            if !parser.take("?") {
                return Ok(condition);
            }
            let mut height = parser.height;
            let one = parser.binary(0)?;
            height = height.max(parser.height);
            parser.expect(":")?;
            let two = parser.expr()?;
            parser.made(height.max(parser.height) + 1)?;
            Ok(Expr::Choose(At::new(Box::new(condition), at), Box::new(one), Box::new(two)))
        })
    }

    /// A chain of one logical operator. However it is grouped it means the same, so halves keep the tree low.
    fn logic(&mut self, level: usize, symbol: &str, operator: Binary) -> Result<Expr, String> {
        let mut terms = vec![self.binary(level + 1)?];
        let mut places = Vec::new();
        let mut height = self.height;
        while let (at, true) = (self.place(), self.take(symbol)) {
            places.push(at);
            terms.push(self.binary(level + 1)?);
            height = height.max(self.height);
        }
        self.made(height + terms.len().next_power_of_two().trailing_zeros() as usize)?;
        Ok(halves(operator, terms, &places))
    }

    fn binary(&mut self, level: usize) -> Result<Expr, String> {
        const LEVELS: [&[(&str, Binary)]; 3] = [
            &[
                ("==", Binary::Equal),
                ("!=", Binary::NotEqual),
                ("<=", Binary::LessEqual),
                (">=", Binary::GreaterEqual),
                ("<", Binary::Less),
                (">", Binary::Greater),
                ("in", Binary::In),
            ],
            &[("+", Binary::Add), ("-", Binary::Subtract)],
            &[("*", Binary::Multiply), ("/", Binary::Divide), ("%", Binary::Remainder)],
        ];
        let operators = match level {
            0 => return self.logic(level, "||", Binary::Or),
            1 => return self.logic(level, "&&", Binary::And),
            level => LEVELS.get(level - 2),
        };
        let Some(operators) = operators else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        // A chain of one operator grows to the left, and is walked as deep as it is long.
        let mut length = 0;
        let mut height = self.height;
        'chain: loop {
            for (symbol, operator) in *operators {
                let at = self.place();
                if self.take(symbol) {
                    length += 1;
                    if length > DEPTH_MAX {
                        return Err(format!("more than {DEPTH_MAX} operators in a row"));
                    }
                    left = Expr::Binary(At::new(*operator, at), Box::new(left), Box::new(self.binary(level + 1)?));
                    height = height.max(self.height) + 1;
                    self.made(height)?;
                    continue 'chain;
                }
            }
            return Ok(left);
        }
    }

    fn unary(&mut self) -> Result<Expr, String> {
        let at = self.place();
        if self.take("!") {
            return self.deeper(|parser| {
                let inner = parser.unary()?;
                parser.made(parser.height + 1)?;
                Ok(Expr::Not(At::new(Box::new(inner), at)))
            });
        }
        if self.take("-") {
            return self.deeper(|parser| match parser.peek().clone() {
                Token::Literal(Literal::Int(value)) => {
                    parser.next();
                    parser.made(1)?;
                    parser.members(Expr::Literal(Literal::Int(value.wrapping_neg())))
                }
                Token::Literal(Literal::Double(value)) => {
                    parser.next();
                    parser.made(1)?;
                    parser.members(Expr::Literal(Literal::Double(-value)))
                }
                _ => {
                    let inner = parser.unary()?;
                    parser.made(parser.height + 1)?;
                    Ok(Expr::Negate(At::new(Box::new(inner), at)))
                }
            });
        }
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut on: Expr) -> Result<Expr, String> {
        let mut length = 0;
        let mut height = self.height;
        loop {
            length += 1;
            if length > DEPTH_MAX {
                return Err(format!("more than {DEPTH_MAX} members in a row"));
            }
            self.height = 0;
            let at = self.place();
            if self.take(".?") {
                on = Expr::Select { on: Box::new(on), field: At::new(self.name()?, at), optional: true };
            } else if self.take(".") {
                let name = self.name()?;
                let open = self.place();
                on = if self.take("(") {
                    let args = self.list(")")?;
                    member_call(on, At::new(name, open), args).inspect_err(|_| self.wrong = Some(open + 1))?
                } else {
                    Expr::Select { on: Box::new(on), field: At::new(name, at), optional: false }
                };
            } else if self.take("[?") {
                let index = self.expr()?;
                self.expect("]")?;
                on = Expr::Index { on: Box::new(on), index: At::new(Box::new(index), at), optional: true };
            } else if self.take("[") {
                let index = self.expr()?;
                self.expect("]")?;
                on = Expr::Index { on: Box::new(on), index: At::new(Box::new(index), at), optional: false };
            } else if let (Token::Symbol("{"), Some(ty)) = (self.peek(), type_name(&on)) {
                self.next();
                on = Expr::Make { ty: At::new(ty, at), fields: self.fields()? };
            } else {
                self.height = height;
                return Ok(on);
            }
            height = height.max(self.height) + 1;
            self.made(height)?;
        }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.peek().clone() {
            Token::Ident(name) => {
                self.next();
                Ok(name)
            }
            other => Err(format!("Syntax error: mismatched input {} expecting IDENTIFIER", describe(&other))),
        }
    }

    /// `name: value, ?name: value}`. The height is then that of the highest value.
    fn fields(&mut self) -> Result<Vec<MadeField>, String> {
        let (mut fields, mut height): (Vec<MadeField>, _) = (Vec::new(), 0);
        while !self.take("}") {
            let optional = self.take("?");
            let name = super::unescape(&self.name()?);
            self.expect(":")?;
            let value = self.expr()?;
            height = height.max(self.height);
            if fields.iter().any(|field| field.name == name) {
                return Err(format!("Syntax error: the field '{name}' is given twice"));
            }
            fields.push(MadeField { name, optional, value });
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        self.height = height;
        Ok(fields)
    }

    /// Expressions up to a closing symbol; a comma may stand before it. The height is then that of the highest.
    fn list(&mut self, close: &str) -> Result<Vec<Expr>, String> {
        let (mut items, mut height) = (Vec::new(), 0);
        while !self.take(close) {
            items.push(self.expr()?);
            height = height.max(self.height);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        self.height = height;
        Ok(items)
    }

    fn primary(&mut self) -> Result<Expr, String> {
        self.height = 1;
        let at = self.place();
        match self.next() {
            // Only a sign before it makes this number of the digits.
            Token::Literal(Literal::Int(i64::MIN)) => Err("Syntax error: 9223372036854775808 is no number".to_owned()),
            Token::Literal(literal) => Ok(Expr::Literal(literal)),
            Token::Ident(name) if KEYWORDS.contains(&name.as_str()) => {
                self.at -= 1;
                Err(format!("reserved identifier: {name}"))
            }
            Token::Ident(name) => {
                let open = self.place();
                if !self.take("(") {
                    return Ok(Expr::Ident(At::new(name, at)));
                }
                let args = self.list(")")?;
                self.made(self.height + 1)?;
                global_call(At::new(name, open), args).inspect_err(|_| self.wrong = Some(open + 1))
            }
            Token::Symbol("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => {
                let items = self.list("]")?;
                self.made(self.height + 1)?;
                Ok(Expr::List(items))
            }
            Token::Symbol("{") => {
                let (mut entries, mut height) = (Vec::new(), 0);
                while !self.take("}") {
                    let key = self.expr()?;
                    height = height.max(self.height);
                    self.expect(":")?;
                    entries.push((key, self.expr()?));
                    height = height.max(self.height);
                    if !self.take(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                self.made(height + 1)?;
                Ok(Expr::Map(entries))
            }
            other => {
                self.at -= usize::from(other != Token::End);
                Err(format!("Syntax error: mismatched input {} expecting {BEGINNINGS}", describe(&other)))
            }
        }
    }
}

/// `Object.spec` as the name of a type.
fn type_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Ident(name) => Some(name.to_string()),
        Expr::Select { on, field, optional: false } => Some(format!("{}.{}", type_name(on)?, **field)),
        _ => None,
    }
}

/// `places`: of the operators between the terms.
fn halves(operator: Binary, mut terms: Vec<Expr>, places: &[usize]) -> Expr {
    match terms.len() {
        1 => terms.swap_remove(0),
        count => {
            let right = terms.split_off(count / 2);
            let (before, after) = places.split_at(count / 2 - 1);
            let (left, right) = (halves(operator, terms, before), halves(operator, right, &after[1..]));
            Expr::Binary(At::new(operator, after[0]), Box::new(left), Box::new(right))
        }
    }
}

fn global_call(name: At<String>, mut args: Vec<Expr>) -> Result<Expr, String> {
    if *name == "has" {
        return match (args.len(), args.pop()) {
            (1, Some(Expr::Select { on, field, .. })) => Ok(Expr::Has { on, field }),
            _ => Err("invalid argument to has() macro".to_owned()),
        };
    }
    Ok(Expr::Call { on: None, name, args })
}

fn member_call(on: Expr, name: At<String>, mut args: Vec<Expr>) -> Result<Expr, String> {
    let fold = match (name.as_str(), args.len()) {
        ("all", 2 | 3) => Some(Fold::All),
        ("exists", 2 | 3) => Some(Fold::Exists),
        ("exists_one" | "existsOne", 2 | 3) => Some(Fold::ExistsOne),
        ("filter", 2) => Some(Fold::Filter),
        ("map", 2 | 3) => Some(Fold::Map),
        ("transformList", 3 | 4) => Some(Fold::TransformList),
        ("transformMap", 3 | 4) => Some(Fold::TransformMap),
        ("optMap" | "optFlatMap", 2) => {
            let (Some(body), Some(Expr::Ident(variable))) = (args.pop(), args.pop()) else {
                return Err("argument must be a simple name".to_owned());
            };
            let (variable, flat) = (variable.to_string(), *name == "optFlatMap");
            return Ok(Expr::OptMap { on: Box::new(on), name: variable, body: Box::new(body), flat });
        }
        ("bind", 3) if matches!(&on, Expr::Ident(namespace) if **namespace == "cel") => {
            let (Some(body), Some(value), Some(Expr::Ident(name))) = (args.pop(), args.pop(), args.pop()) else {
                return Err("cel.bind() variable names must be simple identifiers".to_owned());
            };
            return Ok(Expr::Bind { name: name.to_string(), value: Box::new(value), body: Box::new(body) });
        }
        // Names of enum-like namespaces: optional.of, ip.isCanonical, ...
        _ => match &on {
            Expr::Ident(namespace)
                if ["optional", "ip", "format", "semver", "math", "strings", "sets", "base64", "jsonpatch"]
                    .contains(&namespace.as_str()) =>
            {
                let full = format!("{}.{}", **namespace, *name);
                return Ok(Expr::Call { on: None, name: At::new(full, name.at), args });
            }
            _ => return Ok(Expr::Call { on: Some(Box::new(on)), name, args }),
        },
    };
    let Some(fold) = fold else { return Err(format!("{} is no macro", *name)) };
    let Some(body) = args.pop().map(Box::new) else { return Err(format!("{} needs arguments", *name)) };
    let transforms = matches!(fold, Fold::TransformList | Fold::TransformMap);
    let filtered = fold == Fold::Map && args.len() == 2 || transforms && args.len() == 3;
    let filter = if filtered { args.pop().map(Box::new) } else { None };
    let names: Option<Vec<String>> = args
        .into_iter()
        .map(|arg| match arg {
            Expr::Ident(name) => Some(name.to_string()),
            _ => None,
        })
        .collect();
    let names = names.ok_or("argument must be a simple name")?;
    Ok(Expr::Fold { fold: At::new(fold, name.at), on: Box::new(on), names, filter, body })
}
