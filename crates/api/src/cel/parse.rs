//! Text to tree: a lexer and a parser by precedence (cel-spec, doc/langdef.md).

use super::ast::{Binary, Expr, Fold, Literal};

/// Levels of nesting: deeper expressions would take the stack of whoever walks them.
const DEPTH_MAX: usize = 64;

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

/// Words that are no names.
const RESERVED: [&str; 16] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "void",
    "while",
];

pub(super) fn parse(source: &str) -> Result<Expr, String> {
    let tokens = tokens(source)?;
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        other => Err(format!("Syntax error: unexpected {}", describe(other))),
    }
}

fn describe(token: &Token) -> String {
    match token {
        Token::Literal(literal) => format!("{literal:?}"),
        Token::Ident(name) => format!("'{name}'"),
        Token::Symbol(symbol) => format!("'{symbol}'"),
        Token::End => "end of the expression".to_owned(),
    }
}

fn tokens(source: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    loop {
        rest = rest.trim_start();
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.find('\n').map_or("", |end| &comment[end..]);
            continue;
        }
        let Some(first) = rest.chars().next() else { break };
        let (token, after) = if first.is_ascii_digit() || first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            number(rest)?
        } else if let Some(string) = string(rest) {
            string?
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            (word(&rest[..end]), &rest[end..])
        } else {
            let symbol = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol));
            let symbol = symbol.ok_or_else(|| format!("Syntax error: token recognition error at: {first:?}"))?;
            // `a[?b:c]` is an optional index, never a conditional without its condition.
            (Token::Symbol(symbol), &rest[symbol.len()..])
        };
        tokens.push(token);
        rest = after;
    }
    tokens.push(Token::End);
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
    let prefix = text.find(['"', '\'']).filter(|at| *at <= 2)?;
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
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at]
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
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
        if self.take(symbol) { Ok(()) } else { Err(format!("Syntax error: expected '{symbol}' and found {}", describe(self.peek()))) }
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

    fn expr(&mut self) -> Result<Expr, String> {
        self.deeper(|parser| {
            let condition = parser.binary(0)?;
            if !parser.take("?") {
                return Ok(condition);
            }
            let one = parser.binary(0)?;
            parser.expect(":")?;
            Ok(Expr::Choose(Box::new(condition), Box::new(one), Box::new(parser.expr()?)))
        })
    }

    fn binary(&mut self, level: usize) -> Result<Expr, String> {
        const LEVELS: [&[(&str, Binary)]; 5] = [
            &[("||", Binary::Or)],
            &[("&&", Binary::And)],
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
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        // A chain of one operator grows to the left, and is walked as deep as it is long.
        let mut length = 0;
        'chain: loop {
            for (symbol, operator) in *operators {
                if self.take(symbol) {
                    length += 1;
                    if length > DEPTH_MAX {
                        return Err(format!("more than {DEPTH_MAX} operators in a row"));
                    }
                    left = Expr::Binary(*operator, Box::new(left), Box::new(self.binary(level + 1)?));
                    continue 'chain;
                }
            }
            return Ok(left);
        }
    }

    fn unary(&mut self) -> Result<Expr, String> {
        if self.take("!") {
            return self.deeper(|parser| Ok(Expr::Not(Box::new(parser.unary()?))));
        }
        if self.take("-") {
            return self.deeper(|parser| match parser.peek().clone() {
                Token::Literal(Literal::Int(value)) => {
                    parser.next();
                    parser.members(Expr::Literal(Literal::Int(value.wrapping_neg())))
                }
                Token::Literal(Literal::Double(value)) => {
                    parser.next();
                    parser.members(Expr::Literal(Literal::Double(-value)))
                }
                _ => Ok(Expr::Negate(Box::new(parser.unary()?))),
            });
        }
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut on: Expr) -> Result<Expr, String> {
        let mut length = 0;
        loop {
            length += 1;
            if length > DEPTH_MAX {
                return Err(format!("more than {DEPTH_MAX} members in a row"));
            }
            if self.take(".?") {
                on = Expr::Select { on: Box::new(on), field: self.name()?, optional: true };
            } else if self.take(".") {
                let name = self.name()?;
                on = if self.take("(") {
                    let args = self.list(")")?;
                    member_call(on, name, args)?
                } else {
                    Expr::Select { on: Box::new(on), field: name, optional: false }
                };
            } else if self.take("[?") {
                let index = self.expr()?;
                self.expect("]")?;
                on = Expr::Index { on: Box::new(on), index: Box::new(index), optional: true };
            } else if self.take("[") {
                let index = self.expr()?;
                self.expect("]")?;
                on = Expr::Index { on: Box::new(on), index: Box::new(index), optional: false };
            } else {
                return Ok(on);
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        match self.next() {
            Token::Ident(name) => Ok(name),
            other => Err(format!("Syntax error: expected a name and found {}", describe(&other))),
        }
    }

    /// Expressions up to a closing symbol; a comma may stand before it.
    fn list(&mut self, close: &str) -> Result<Vec<Expr>, String> {
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.expr()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(items)
    }

    fn primary(&mut self) -> Result<Expr, String> {
        match self.next() {
            Token::Literal(literal) => Ok(Expr::Literal(literal)),
            Token::Ident(name) if RESERVED.contains(&name.as_str()) => Err(format!("Syntax error: reserved identifier: {name}")),
            Token::Ident(name) if self.take("(") => {
                let args = self.list(")")?;
                global_call(name, args)
            }
            Token::Ident(name) => Ok(Expr::Ident(name)),
            Token::Symbol("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Symbol("[") => Ok(Expr::List(self.list("]")?)),
            Token::Symbol("{") => {
                let mut entries = Vec::new();
                while !self.take("}") {
                    let key = self.expr()?;
                    self.expect(":")?;
                    entries.push((key, self.expr()?));
                    if !self.take(",") {
                        self.expect("}")?;
                        break;
                    }
                }
                Ok(Expr::Map(entries))
            }
            other => Err(format!("Syntax error: unexpected {}", describe(&other))),
        }
    }
}

fn global_call(name: String, mut args: Vec<Expr>) -> Result<Expr, String> {
    if name == "has" {
        return match (args.len(), args.pop()) {
            (1, Some(Expr::Select { on, field, .. })) => Ok(Expr::Has { on, field }),
            _ => Err("invalid argument to has() macro".to_owned()),
        };
    }
    Ok(Expr::Call { on: None, name, args })
}

fn member_call(on: Expr, name: String, mut args: Vec<Expr>) -> Result<Expr, String> {
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
            return Ok(Expr::OptMap { on: Box::new(on), name: variable, body: Box::new(body), flat: name == "optFlatMap" });
        }
        // Names of enum-like namespaces: optional.of, ip.isCanonical, ...
        _ => match &on {
            Expr::Ident(namespace)
                if ["optional", "ip", "format", "semver", "math", "strings", "sets", "base64"].contains(&namespace.as_str()) =>
            {
                return Ok(Expr::Call { on: None, name: format!("{namespace}.{name}"), args });
            }
            _ => return Ok(Expr::Call { on: Some(Box::new(on)), name, args }),
        },
    };
    let Some(fold) = fold else { return Err(format!("{name} is no macro")) };
    let Some(body) = args.pop().map(Box::new) else { return Err(format!("{name} needs arguments")) };
    let transforms = matches!(fold, Fold::TransformList | Fold::TransformMap);
    let filtered = fold == Fold::Map && args.len() == 2 || transforms && args.len() == 3;
    let filter = if filtered { args.pop().map(Box::new) } else { None };
    let names: Option<Vec<String>> = args
        .into_iter()
        .map(|arg| match arg {
            Expr::Ident(name) => Some(name),
            _ => None,
        })
        .collect();
    let names = names.ok_or("argument must be a simple name")?;
    Ok(Expr::Fold { fold, on: Box::new(on), names, filter, body })
}
