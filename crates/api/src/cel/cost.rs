//! What an expression costs at most, by how large its values can grow (cel-go, checker/cost.go, with the options of apiserver,
//! pkg/cel/environment/base.go).
//!
//! The numbers decide which definitions are accepted, so that they are upstream's to the last one, and so are its oddities: the items of a list that
//! an expression made are taken for as large as `self`, the size of a scalar field for nothing, and that of a text that was made for endless.

mod call;
mod kind;
#[cfg(test)]
mod tests;

use super::ast::{Binary, Expr, Fold, Literal};
use super::extent::{Extent, Form};
use kind::Kind;

/// What a node costs (cel-go, common/cost.go). A literal costs nothing.
const NAME: u64 = 1;
const CALL: u64 = 1;
const LIST: u64 = 10;
const MAP: u64 = 30;
const STRUCT: u64 = 40;

/// What each letter of a text costs, and each of a pattern.
const LETTER: f64 = 0.1;
const PATTERN_LETTER: f64 = 0.25;

/// Letters, items or entries: at least and at most.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Size {
    least: u64,
    most: u64,
}

impl Size {
    const ENDLESS: Size = Size { least: 0, most: u64::MAX };

    fn exactly(size: usize) -> Size {
        Size { least: size as u64, most: size as u64 }
    }

    fn up_to(most: u64) -> Size {
        Size { least: 0, most }
    }

    fn and(self, other: Size) -> Size {
        Size { least: self.least.saturating_add(other.least), most: self.most.saturating_add(other.most) }
    }

    fn or(self, other: Size) -> Size {
        Size { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    fn times(self, other: Size) -> Size {
        Size { least: self.least.saturating_mul(other.least), most: self.most.saturating_mul(other.most) }
    }

    /// What it costs to look at all of it.
    fn cost(self, each: f64) -> u64 {
        by(self.most, each)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "no number is negative, and the largest stand for all beyond")]
fn by(count: u64, factor: f64) -> u64 {
    (count as f64 * factor).ceil() as u64
}

/// Sizes of what is in a list or map that the expression made.
#[derive(Clone, Copy, Debug)]
struct Inside {
    is_list: bool,
    key: Size,
    value: Size,
}

impl Inside {
    fn or(one: Option<Inside>, two: Option<Inside>) -> Option<Inside> {
        let (one, two) = (one?, two?);
        Some(Inside { is_list: one.is_list, key: one.key.or(two.key), value: one.value.or(two.value) })
    }
}

/// Where in the data a value is from.
#[derive(Clone, Copy, Debug)]
enum Place<'e> {
    /// It was made, and steps from it are taken from the root.
    Nowhere,
    At(&'e Extent),
    /// The data have no such place.
    Lost,
}

impl<'e> Place<'e> {
    fn size(self) -> Option<Size> {
        match self {
            Place::At(extent) => Some(Size::up_to(extent.elements)),
            Place::Nowhere | Place::Lost => None,
        }
    }
}

/// What is found out of an expression.
#[derive(Clone, Debug)]
struct Found<'e> {
    cost: u64,
    size: Option<Size>,
    inside: Option<Inside>,
    place: Place<'e>,
    kind: Kind<'e>,
    /// The whole number that it is, where it is written out.
    whole: Option<u64>,
}

impl<'e> Found<'e> {
    /// A value that was made.
    fn made(cost: u64, kind: Kind<'e>) -> Found<'e> {
        Found { cost, size: kind.size(), inside: None, place: Place::Nowhere, kind, whole: None }
    }

    fn sized(self, size: Option<Size>) -> Found<'e> {
        Found { size: size.or(self.size), ..self }
    }

    fn size(&self) -> Size {
        self.size.unwrap_or(Size::ENDLESS)
    }
}

/// Variables of macros, the innermost first.
struct Scope<'s, 'e> {
    name: &'s str,
    value: Found<'e>,
    outer: Option<&'s Scope<'s, 'e>>,
}

type Outer<'s, 'e> = Option<&'s Scope<'s, 'e>>;

/// `optional`: names of variables that are there or not.
pub(super) fn most(expr: &Expr, root: &Extent, optional: &[&str]) -> u64 {
    Costs { root, optional }.expr(expr, None).cost
}

struct Costs<'c, 'e> {
    /// What every variable is: upstream looks at the rest of the path alone.
    root: &'e Extent,
    optional: &'c [&'c str],
}

enum Step<'s> {
    Field(&'s str),
    Item,
    Value,
    Key,
    /// In a list, where it leads nowhere.
    Index,
}

impl<'e> Costs<'_, 'e> {
    fn step(&self, from: Place<'e>, step: &Step<'_>) -> Place<'e> {
        let found = match (from, step) {
            (Place::Nowhere, _) => Some(self.root),
            (Place::Lost, _) => None,
            (Place::At(extent), step) => match (&extent.form, step) {
                (Form::List(inner) | Form::Map(inner), Step::Item | Step::Value) => Some(&**inner),
                // Upstream knows that of attributes alone.
                (Form::Map(inner), Step::Field(_)) if matches!(inner.form, Form::Attribute) => Some(&**inner),
                (Form::Map(_), Step::Key) => Some(Extent::key()),
                (Form::Object(fields), Step::Field(name)) => fields.get(*name).map(|field| &**field),
                _ => None,
            },
        };
        found.map_or(Place::Lost, Place::At)
    }

    /// A value that stands in the data.
    fn stands(&self, cost: u64, place: Place<'e>, kind: Kind<'e>) -> Found<'e> {
        Found { size: place.size().or(kind.size()), place, ..Found::made(cost, kind) }
    }

    fn expr(&self, expr: &Expr, scope: Outer<'_, 'e>) -> Found<'e> {
        match expr {
            Expr::Literal(literal) => self::literal(literal),
            Expr::Ident(name) => self.variable(name, scope),
            Expr::Select { on, field, optional: false } => {
                let on = self.expr(on, scope);
                let place = self.step(on.place, &Step::Field(field));
                self.stands(on.cost.saturating_add(if on.kind.has_fields() { NAME } else { 0 }), place, on.kind.field(field))
            }
            Expr::Select { on, field, optional: true } => {
                let on = self.expr(on, scope);
                Found::made(on.cost.saturating_add(CALL), on.kind.field(field).optional())
            }
            Expr::Has { on, .. } => Found::made(self.expr(on, scope).cost, Kind::Bool),
            Expr::Index { on, index, optional } => {
                let (on, index) = (self.expr(on, scope), self.expr(index, scope));
                self.index(&on, &index, *optional)
            }
            Expr::Call { on: None, name, args } if **name == "dyn" && args.len() == 1 => {
                let inner = self.expr(&args[0], scope);
                Found { cost: inner.cost.saturating_add(CALL), place: Place::Nowhere, kind: Kind::Dyn, ..inner }
            }
            Expr::Call { on, name, args } => {
                let on = on.as_ref().map(|on| self.expr(on, scope));
                let args: Vec<Found<'e>> = args.iter().map(|arg| self.expr(arg, scope)).collect();
                let before = on.iter().chain(&args).fold(0_u64, |sum, part| sum.saturating_add(part.cost));
                let made = self.call(name, on.as_ref(), &args);
                Found { cost: made.cost.saturating_add(before), ..made }
            }
            Expr::Not(inner) => Found::made(self.expr(inner, scope).cost.saturating_add(CALL), Kind::Bool),
            Expr::Negate(inner) => {
                let inner = self.expr(inner, scope);
                Found::made(inner.cost.saturating_add(CALL), inner.kind)
            }
            Expr::Binary(operator, one, two) => self.binary(**operator, &self.expr(one, scope), &self.expr(two, scope)),
            Expr::Choose(condition, one, two) => {
                let condition = self.expr(condition, scope);
                choose(&condition, &self.expr(one, scope), &self.expr(two, scope))
            }
            Expr::List(items) => {
                let items: Vec<Found<'e>> = items.iter().map(|item| self.expr(item, scope)).collect();
                self::list(&items)
            }
            Expr::Map(entries) => {
                let (keys, values): (Vec<_>, Vec<_>) =
                    entries.iter().map(|(key, value)| (self.expr(key, scope), self.expr(value, scope))).unzip();
                let cost = keys.iter().chain(&values).fold(MAP, |sum, part| sum.saturating_add(part.cost));
                let kind = Kind::Map(Box::new(Kind::common(&values)));
                let inside = Inside { is_list: false, key: sizes(&keys), value: sizes(&values) };
                Found { inside: Some(inside), size: Some(Size::exactly(entries.len())), ..Found::made(cost, kind) }
            }
            Expr::Make { fields, .. } => {
                let cost = fields.iter().fold(STRUCT, |sum, field| sum.saturating_add(self.expr(&field.value, scope).cost));
                Found::made(cost, Kind::Unknown)
            }
            Expr::Fold { fold, on, names, filter, body } => self.fold(**fold, &self.expr(on, scope), names, filter.as_deref(), body, scope),
            Expr::Bind { name, value, body } => {
                let value = self.expr(value, scope);
                let cost = LIST.saturating_add(value.cost);
                let body = self.expr(body, Some(&Scope { name, value, outer: scope }));
                Found { cost: cost.saturating_add(body.cost), place: Place::Nowhere, ..body }
            }
            Expr::OptMap { on, name, body, flat } => self.opt_map(&self.expr(on, scope), name, body, *flat, scope),
        }
    }

    fn variable(&self, name: &str, mut scope: Outer<'_, 'e>) -> Found<'e> {
        while let Some(inner) = scope {
            if inner.name == name {
                return Found { cost: NAME, ..inner.value.clone() };
            }
            scope = inner.outer;
        }
        let kind = match name {
            "int" | "uint" | "double" | "bool" | "string" | "bytes" | "list" | "map" | "null_type" | "type" => Kind::Type,
            _ if self.optional.contains(&name) => Kind::of(self.root).optional(),
            _ => Kind::of(self.root),
        };
        self.stands(NAME, Place::At(self.root), kind)
    }

    fn index(&self, on: &Found<'e>, index: &Found<'e>, is_optional: bool) -> Found<'e> {
        let cost = on.cost.saturating_add(index.cost).saturating_add(CALL);
        let (kind, step) = match &on.kind {
            Kind::Optional(inner) => return Found::made(cost, inner.item().optional()),
            Kind::List(item) => ((**item).clone(), Step::Item),
            Kind::Map(value) => ((**value).clone(), Step::Value),
            _ => (Kind::Dyn, Step::Value),
        };
        if is_optional {
            return Found::made(cost, kind.optional());
        }
        self.stands(cost, self.step(on.place, &step), kind).sized(on.inside.map(|inside| inside.value))
    }

    /// `on.hasValue() ? optional.of(body) : optional.none()`, with the name bound to `on.value()`.
    fn opt_map(&self, on: &Found<'e>, name: &str, body: &Expr, flat: bool, scope: Outer<'_, 'e>) -> Found<'e> {
        let inner = match &on.kind {
            Kind::Optional(inner) => (**inner).clone(),
            _ => Kind::Dyn,
        };
        let value = Found::made(NAME, inner);
        let body = self.expr(body, Some(&Scope { name, value, outer: scope }));
        let asked = on.cost.saturating_add(CALL);
        let bound = LIST.saturating_add(on.cost).saturating_add(CALL).saturating_add(body.cost);
        let cost = asked.saturating_add(bound).saturating_add(if flat { 0 } else { CALL });
        let kind = if flat { body.kind.clone() } else { body.kind.clone().optional() };
        let none = kind.size().unwrap_or(Size::ENDLESS);
        let size = if flat { body.size().or(none) } else { none };
        Found::made(cost, kind).sized(Some(size))
    }

    fn fold(&self, fold: Fold, on: &Found<'e>, names: &[String], filter: Option<&Expr>, body: &Expr, scope: Outer<'_, 'e>) -> Found<'e> {
        let is_list = on.inside.map_or(matches!(on.kind, Kind::List(_)), |inside| inside.is_list);
        let variable = |step: Step<'_>, kind: Kind<'e>, size: Option<Size>| {
            let place = self.step(on.place, &step);
            let size = place.size().or(kind.size()).or(size);
            Found { size, place, ..Found::made(NAME, kind) }
        };
        let keys = on.inside.map(|inside| inside.key);
        let values = on.inside.map(|inside| inside.value);
        let key = || if is_list { variable(Step::Index, Kind::Int, keys) } else { variable(Step::Key, on.kind.key(), keys) };
        let value = || variable(if is_list { Step::Item } else { Step::Value }, on.kind.item(), values);
        let first = if is_list && names.len() < 2 { value() } else { key() };
        let item = if is_list { value() } else { key() };
        let outer = Scope { name: &names[0], value: first, outer: scope };
        let inner;
        let scope = match names.get(1) {
            Some(name) => {
                inner = Scope { name, value: value(), outer: Some(&outer) };
                &inner
            }
            None => &outer,
        };
        let filter = filter.map(|filter| self.expr(filter, Some(scope)));
        let body = self.expr(body, Some(scope));
        let count = on.size();
        // What is gathered is named in each round and at the end.
        let (begin, round, end) = match fold {
            Fold::All => (0, (NAME + CALL) + NAME, NAME),
            Fold::Exists => (0, (NAME + CALL + CALL) + NAME, NAME),
            Fold::ExistsOne => (0, NAME + CALL, NAME + CALL),
            Fold::Filter => (LIST, NAME + CALL + item.cost + LIST, NAME),
            Fold::Map | Fold::TransformList => (LIST, NAME + CALL + LIST, NAME),
            Fold::TransformMap => (MAP, NAME + CALL + NAME, NAME),
        };
        let round = round.saturating_add(body.cost).saturating_add(filter.map_or(0, |filter| filter.cost));
        let cost = on.cost.saturating_add(begin + end).saturating_add(count.most.saturating_mul(round));
        let gathered = |value: Size| Some(Inside { is_list: true, key: Size::exactly(1), value: Size::up_to(value.most) });
        match fold {
            Fold::All | Fold::Exists => Found::made(cost, Kind::Bool),
            Fold::ExistsOne => Found::made(cost, Kind::Bool),
            Fold::Filter => {
                Found { size: Some(count), inside: gathered(item.size()), ..Found::made(cost, Kind::List(Box::new(item.kind))) }
            }
            Fold::Map | Fold::TransformList => {
                Found { size: Some(count), inside: gathered(body.size()), ..Found::made(cost, Kind::List(Box::new(body.kind))) }
            }
            Fold::TransformMap => Found { size: Some(count), ..Found::made(cost, Kind::Map(Box::new(body.kind))) },
        }
    }

    fn binary(&self, operator: Binary, one: &Found<'e>, two: &Found<'e>) -> Found<'e> {
        let before = one.cost.saturating_add(two.cost);
        let smaller = || Size::up_to(one.size().most.min(two.size().most)).cost(LETTER);
        let is_text = |found: &Found<'e>| matches!(found.kind, Kind::String | Kind::Bytes);
        let is_dyn = |found: &Found<'e>| matches!(found.kind, Kind::Dyn);
        let made = match operator {
            Binary::And | Binary::Or => Found::made(0, Kind::Bool),
            Binary::Equal => {
                let cost = if one.kind.is_same_opaque(&two.kind) { CALL } else { smaller() };
                Found::made(cost, Kind::Bool)
            }
            Binary::NotEqual => Found::made(smaller(), Kind::Bool),
            Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
                let cost = match (is_text(one), is_text(two)) {
                    _ if is_dyn(one) && is_dyn(two) => smaller().max(CALL),
                    (true, _) | (_, true) => smaller(),
                    (false, false) => CALL,
                };
                Found::made(cost, Kind::Bool)
            }
            Binary::In => {
                let cost = match two.kind {
                    Kind::List(_) => two.size().most,
                    Kind::Dyn => two.size().most.max(CALL),
                    _ => CALL,
                };
                Found::made(cost, Kind::Bool)
            }
            Binary::Add => {
                let both = one.size().and(two.size());
                let kind = if is_dyn(one) { &two.kind } else { &one.kind };
                let inside = Inside::or(one.inside, two.inside);
                match kind {
                    Kind::String | Kind::Bytes => Found::made(both.cost(LETTER), kind.clone()).sized(Some(both)),
                    Kind::List(_) => {
                        let kind = Kind::either(&one.kind, &two.kind);
                        Found { inside, ..Found::made(CALL, kind).sized(Some(both)) }
                    }
                    Kind::Dyn => Found { inside, ..Found::made(both.cost(LETTER).max(CALL), Kind::Dyn).sized(Some(both)) },
                    _ => Found::made(CALL, Kind::sum(&one.kind, &two.kind)),
                }
            }
            Binary::Subtract => Found::made(CALL, Kind::difference(&one.kind, &two.kind)),
            Binary::Multiply | Binary::Divide | Binary::Remainder => Found::made(CALL, Kind::either(&one.kind, &two.kind)),
        };
        Found { cost: made.cost.saturating_add(before), ..made }
    }
}

fn choose<'e>(condition: &Found<'e>, one: &Found<'e>, two: &Found<'e>) -> Found<'e> {
    let cost = condition.cost.saturating_add(one.cost.max(two.cost));
    let size = one.size().or(two.size());
    Found { inside: Inside::or(one.inside, two.inside), ..Found::made(cost, Kind::either(&one.kind, &two.kind)).sized(Some(size)) }
}

fn list<'e>(items: &[Found<'e>]) -> Found<'e> {
    let cost = items.iter().fold(LIST, |sum, item| sum.saturating_add(item.cost));
    let inside = Inside { is_list: true, key: Size::exactly(1), value: sizes(items) };
    let kind = Kind::List(Box::new(Kind::common(items)));
    Found { inside: Some(inside), size: Some(Size::exactly(items.len())), ..Found::made(cost, kind) }
}

/// Of which size any of them can be.
fn sizes(items: &[Found<'_>]) -> Size {
    items.iter().map(Found::size).reduce(Size::or).unwrap_or(Size::exactly(0))
}

fn literal<'e>(literal: &Literal) -> Found<'e> {
    let (kind, size) = match literal {
        Literal::Null => (Kind::Null, 1),
        Literal::Bool(_) => (Kind::Bool, 1),
        Literal::Int(_) => (Kind::Int, 1),
        Literal::Uint(_) => (Kind::Uint, 1),
        Literal::Double(_) => (Kind::Double, 1),
        Literal::String(text) => (Kind::String, text.chars().count()),
        Literal::Bytes(bytes) => (Kind::Bytes, bytes.len()),
    };
    let whole = match literal {
        Literal::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    Found { whole, ..Found::made(0, kind).sized(Some(Size::exactly(size))) }
}
