//! What can be known of an expression before there is data: names, functions and their arguments, fields of the schema, types that cannot meet.
//!
//! Types are followed as far as schemas and literals tell; the rest is dynamic, and checked as it is evaluated.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::ast::{At, Binary, Expr, Fold, Literal, MadeField};
use super::error::Wrong;
use super::{functions, kubernetes, unescape};
use crate::custom::schema::{Additional, Structural, Type};
use crate::kind::Kind;
use crate::schema::{Field, Label, MessageId, Schema, Type as Scalar};

/// The metadata of every object.
const METADATA: &str = "k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What is known of a value.
#[derive(Clone, Debug)]
pub enum Static<'a> {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Static<'a>>),
    Map(Box<Static<'a>>),
    /// A value of a schema; its fields are those of the schema.
    Schema(&'a Structural),
    /// A whole custom resource: its schema, and what every object has.
    Resource(&'a Structural),
    /// A message of the API.
    Message(MessageId),
    /// A whole object of a built-in kind.
    Kind(MessageId),
    /// An optional value.
    Optional(Box<Static<'a>>),
    /// A value of a library of Kubernetes, by the name of its type.
    Opaque(&'static str),
    /// An object of a type of this name, of exactly these fields.
    Record(&'static str, &'a [(&'a str, Static<'a>)]),
    /// An object of exactly these fields.
    Fields(&'a [&'a str]),
    /// The same of fields that may be many.
    Names(&'a BTreeSet<&'a str>),
    /// The name of a type whose values expressions make: with these fields, or if there are none with any.
    Maker(&'a [&'a str]),
    /// A value of such a type, by the type's name.
    Made(String),
    /// No value: a function or macro of this name that others do not have.
    Extension,
}

impl<'a> Static<'a> {
    pub(crate) fn of_schema(schema: &'a Structural) -> Static<'a> {
        match (schema.ty, schema.checks.format.as_str()) {
            (Type::Boolean, _) => Static::Bool,
            (Type::Integer, _) => Static::Int,
            (Type::Number, _) => Static::Double,
            (Type::String, "date-time" | "date") => Static::Timestamp,
            (Type::String, "duration") => Static::Duration,
            (Type::String, "byte") => Static::Bytes,
            (Type::String, _) => Static::String,
            (Type::Array, _) => Static::List(Box::new(schema.items.as_deref().map_or(Static::Dyn, Static::of_schema))),
            (Type::Object, _) if !schema.properties.is_empty() || schema.embedded => Static::Schema(schema),
            (Type::Object, _) => match &schema.additional {
                Additional::Schema(inner) => Static::Map(Box::new(Static::of_schema(inner))),
                Additional::Any | Additional::Unsaid => Static::Dyn,
            },
            (Type::Any, _) => Static::Dyn,
        }
        .nullable(schema.nullable)
    }

    /// An object of a kind.
    pub fn of_kind(kind: &'a Kind) -> Static<'a> {
        match (kind.message, &kind.custom) {
            (Some(id), _) => Static::Kind(id),
            (None, Some(custom)) => Static::Resource(&custom.schema),
            (None, None) => Static::Dyn,
        }
    }

    fn of_field(field: &Field) -> Static<'a> {
        let one = match field.ty {
            Scalar::Bool => Static::Bool,
            Scalar::Int32 | Scalar::Int64 => Static::Int,
            Scalar::Double => Static::Double,
            Scalar::String | Scalar::Quantity | Scalar::Duration => Static::String,
            Scalar::Bytes => Static::Bytes,
            Scalar::Time | Scalar::MicroTime => Static::Timestamp,
            Scalar::Strings(_) => Static::List(Box::new(Static::String)),
            Scalar::Message(id) => Static::Message(id),
            Scalar::IntOrString | Scalar::RawExtension | Scalar::FieldsV1 | Scalar::Any | Scalar::Union(_) => Static::Dyn,
        };
        match field.label {
            Label::Optional => one,
            Label::Repeated => Static::List(Box::new(one)),
            Label::Map => Static::Map(Box::new(one)),
        }
    }

    /// What may be null is known only when it is there.
    fn nullable(self, nullable: bool) -> Static<'a> {
        if nullable { Static::Dyn } else { self }
    }

    fn name(&self) -> &'static str {
        match self {
            Static::Dyn => "dyn",
            Static::Null => "null",
            Static::Bool => "bool",
            Static::Int => "int",
            Static::Uint => "uint",
            Static::Double => "double",
            Static::String => "string",
            Static::Bytes => "bytes",
            Static::Timestamp => "timestamp",
            Static::Duration => "duration",
            Static::List(_) => "list",
            Static::Map(_) => "map",
            Static::Schema(_) | Static::Resource(_) | Static::Message(_) | Static::Kind(_) | Static::Fields(_) | Static::Names(_) => {
                "object"
            }
            Static::Optional(_) => "optional_type",
            Static::Maker(_) | Static::Extension => "type",
            Static::Made(_) => "made object",
            Static::Opaque(name) | Static::Record(name, _) => name,
        }
    }

    /// The name with that of what is in it, as upstream prints types.
    pub(super) fn words(&self) -> String {
        match self {
            Static::List(item) => format!("list({})", item.words()),
            Static::Map(value) => format!("map(string, {})", value.words()),
            Static::Optional(inner) => format!("optional_type({})", inner.words()),
            Static::Made(name) => name.clone(),
            other => other.name().to_owned(),
        }
    }

    /// Whether a value of one type can be where the other is wanted.
    pub(super) fn meets(&self, other: &Static<'_>) -> bool {
        match (self, other) {
            (Static::Dyn, _) | (_, Static::Dyn) => true,
            (Static::List(one), Static::List(two)) => one.meets(two),
            (Static::Made(one), Static::Made(two)) => one == two,
            (Static::Map(_), other) | (other, Static::Map(_)) if other.name() == "object" => true,
            (Static::Map(_), Static::Map(_)) => true,
            (one, two) => one.name() == two.name(),
        }
    }
}

struct Scope<'s, 'a> {
    name: &'s str,
    ty: Static<'a>,
    outer: Option<&'s Scope<'s, 'a>>,
}

struct Checker<'c, 'a> {
    variables: &'c [(&'c str, Static<'a>)],
    /// Where in the source the node stands that is looked at, once its parts were.
    at: Cell<usize>,
}

type Result<'a> = std::result::Result<Static<'a>, String>;

/// What the expression yields.
pub(super) fn check<'a>(expr: &Expr, variables: &[(&str, Static<'a>)]) -> std::result::Result<Static<'a>, Wrong> {
    let checker = Checker { variables, at: Cell::new(0) };
    checker.expr(expr, None).map_err(|text| Wrong { at: checker.at.get(), text })
}

impl<'a> Checker<'_, 'a> {
    fn expr(&self, expr: &Expr, scope: Option<&Scope<'_, 'a>>) -> Result<'a> {
        Ok(match expr {
            Expr::Literal(literal) => match literal {
                Literal::Null => Static::Null,
                Literal::Bool(_) => Static::Bool,
                Literal::Int(_) => Static::Int,
                Literal::Uint(_) => Static::Uint,
                Literal::Double(_) => Static::Double,
                Literal::String(_) => Static::String,
                Literal::Bytes(_) => Static::Bytes,
            },
            Expr::Ident(name) => {
                self.at.set(name.at);
                self.variable(name, scope)?
            }
            Expr::Select { on, field, optional } => {
                let on = self.expr(on, scope)?;
                let is_optional = *optional || matches!(on, Static::Optional(_));
                self.at.set(field.at);
                let found = self.field(&on, field)?;
                if is_optional { Static::Optional(Box::new(found)) } else { found }
            }
            Expr::Has { on, field } => {
                let on = self.expr(on, scope)?;
                self.at.set(field.at);
                self.field(&on, field)?;
                Static::Bool
            }
            Expr::Index { on, index, optional } => {
                let at = index.at;
                let (on, index) = (self.expr(on, scope)?, self.expr(index, scope)?);
                self.at.set(at);
                let found = match &on {
                    Static::List(_) if !index.meets(&Static::Int) => return Err(no_overload("_[_]", &[&on, &index])),
                    Static::List(inner) | Static::Map(inner) => (**inner).clone(),
                    // Names are not values: which of them is meant must be known before anything is evaluated.
                    Static::Bool
                    | Static::Int
                    | Static::Double
                    | Static::String
                    | Static::Names(_)
                    | Static::Opaque(_)
                    | Static::Record(..) => {
                        return Err(no_overload("_[_]", &[&on, &index]));
                    }
                    _ => Static::Dyn,
                };
                if *optional { Static::Optional(Box::new(found)) } else { found }
            }
            Expr::Call { on, name, args } => {
                let on = on.as_ref().map(|on| self.expr(on, scope)).transpose()?;
                let args = args.iter().map(|arg| self.expr(arg, scope)).collect::<std::result::Result<Vec<_>, _>>()?;
                self.at.set(name.at);
                if kubernetes::EXTENSIONS.contains(&name.as_str()) && !self.extends(name) {
                    return Err(format!("undeclared reference to '{}' (in container '')", **name));
                }
                call(name, on.as_ref(), &args)?
            }
            Expr::Not(inner) => {
                let ty = self.expr(inner, scope)?;
                self.at.set(inner.at);
                if !ty.meets(&Static::Bool) {
                    return Err(no_overload("!_", &[&ty]));
                }
                Static::Bool
            }
            Expr::Negate(inner) => self.expr(inner, scope)?,
            Expr::Binary(operator, one, two) => {
                let (one, two) = (self.expr(one, scope)?, self.expr(two, scope)?);
                self.at.set(operator.at);
                binary(**operator, one, two)?
            }
            Expr::Choose(condition, one, two) => {
                let at = condition.at;
                let condition = self.expr(condition, scope)?;
                let (one, two) = (self.expr(one, scope)?, self.expr(two, scope)?);
                self.at.set(at);
                if !condition.meets(&Static::Bool) || !one.meets(&two) {
                    return Err(no_overload("_?_:_", &[&condition, &one, &two]));
                }
                if matches!(one, Static::Dyn) { two } else { one }
            }
            Expr::List(items) => {
                let types = items.iter().map(|item| self.expr(item, scope)).collect::<std::result::Result<Vec<_>, _>>()?;
                let same = types.windows(2).all(|pair| pair[0].words() == pair[1].words());
                Static::List(Box::new(types.into_iter().next().filter(|_| same).unwrap_or(Static::Dyn)))
            }
            Expr::Map(entries) => {
                for (key, value) in entries {
                    self.expr(key, scope)?;
                    self.expr(value, scope)?;
                }
                Static::Map(Box::new(Static::Dyn))
            }
            Expr::Make { ty, fields } => self.make(ty, fields, scope)?,
            Expr::Fold { fold, on, names, filter, body } => {
                let on = self.expr(on, scope)?;
                self.fold(fold, on, names, filter.as_deref(), body, scope)?
            }
            Expr::Bind { name, value, body } => {
                if !self.extends("cel.bind") {
                    return Err("undeclared reference to 'cel' (in container '')".to_owned());
                }
                let ty = self.expr(value, scope)?;
                self.expr(body, Some(&Scope { name, ty, outer: scope }))?
            }
            Expr::OptMap { on, name, body, flat } => {
                let inner = match self.expr(on, scope)? {
                    Static::Optional(inner) => *inner,
                    Static::Dyn => Static::Dyn,
                    other => return Err(no_overload("optMap", &[&other])),
                };
                let body = self.expr(body, Some(&Scope { name, ty: inner, outer: scope }))?;
                if *flat { body } else { Static::Optional(Box::new(body)) }
            }
        })
    }

    fn extends(&self, name: &str) -> bool {
        self.variables.iter().any(|(known, ty)| *known == name && matches!(ty, Static::Extension))
    }

    fn make(&self, ty: &str, fields: &[MadeField], scope: Option<&Scope<'_, 'a>>) -> Result<'a> {
        let root = ty.split('.').next().unwrap_or_default();
        let known = match self.variables.iter().find(|(name, _)| *name == root) {
            // A type whose fields are known has no other types below it.
            Some((_, Static::Maker(known))) if known.is_empty() || ty == root => *known,
            _ => return Err(format!("undeclared reference to '{ty}' (in container '')")),
        };
        for MadeField { name, optional, value } in fields {
            let given = self.expr(value, scope)?;
            let wanted = match (known.contains(&name.as_str()), optional) {
                (false, _) if !known.is_empty() => return Err(format!("undefined field '{name}'")),
                (_, true) => Static::Optional(Box::new(Static::Dyn)),
                (true, false) if name != "value" => Static::String,
                _ => Static::Dyn,
            };
            if !given.meets(&wanted) {
                let (wanted, given) = (wanted.name(), given.words());
                return Err(format!("expected type of field '{name}' is '{wanted}' but provided type is '{given}'"));
            }
        }
        Ok(Static::Made(ty.to_owned()))
    }

    fn variable(&self, name: &str, mut scope: Option<&Scope<'_, 'a>>) -> Result<'a> {
        while let Some(inner) = scope {
            if inner.name == name {
                return Ok(inner.ty.clone());
            }
            scope = inner.outer;
        }
        if let Some((_, ty)) =
            self.variables.iter().find(|(known, ty)| *known == name && !matches!(ty, Static::Maker(_) | Static::Extension))
        {
            return Ok(ty.clone());
        }
        match name {
            "int" | "uint" | "double" | "bool" | "string" | "bytes" | "list" | "map" | "null_type" | "type" => Ok(Static::Dyn),
            _ => Err(format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn field(&self, on: &Static<'a>, field: &str) -> Result<'a> {
        match on {
            Static::Schema(schema) => {
                let name = unescape(field);
                if let Some(inner) = schema.member(&name) {
                    return Ok(Static::of_schema(inner));
                }
                match name.as_str() {
                    "apiVersion" | "kind" if schema.embedded => Ok(Static::String),
                    "metadata" if schema.embedded => Ok(Static::Fields(&["name", "generateName"])),
                    _ => Err(format!("undefined field '{field}'")),
                }
            }
            Static::Resource(schema) => match field {
                "apiVersion" | "kind" => Ok(Static::String),
                "metadata" => Ok(Schema::get().id(METADATA).map_or(Static::Dyn, Static::Message)),
                _ => self.field(&Static::Schema(schema), field),
            },
            Static::Kind(_) if matches!(field, "apiVersion" | "kind") => Ok(Static::String),
            Static::Kind(id) | Static::Message(id) => {
                let message = Schema::get().by_id(*id);
                let found = message.field(field).or_else(|| message.field(&unescape(field)));
                found.map(Static::of_field).ok_or_else(|| format!("undefined field '{field}'"))
            }
            Static::Fields(fields) if fields.contains(&field) => Ok(Static::Dyn),
            Static::Names(fields) if fields.contains(field) => Ok(Static::Dyn),
            Static::Record(_, fields) => {
                let found = fields.iter().find(|(name, _)| *name == field);
                found.map(|(_, ty)| ty.clone()).ok_or_else(|| format!("undefined field '{field}'"))
            }
            Static::Fields(_) | Static::Names(_) => Err(format!("undefined field '{field}'")),
            Static::Map(value) => Ok((**value).clone()),
            Static::Optional(inner) => self.field(inner, field),
            Static::Dyn | Static::Made(_) => Ok(Static::Dyn),
            other => Err(format!("type '{}' does not support field selection", other.words())),
        }
    }

    fn fold(
        &self,
        fold: &At<Fold>,
        on: Static<'a>,
        names: &[String],
        filter: Option<&Expr>,
        body: &Expr,
        scope: Option<&Scope<'_, 'a>>,
    ) -> Result<'a> {
        let (key, value) = match on {
            Static::List(item) => (Static::Int, *item),
            Static::Map(value) => (Static::String, *value),
            Static::Schema(_) | Static::Dyn | Static::Fields(_) | Static::Names(_) | Static::Made(_) => (Static::Dyn, Static::Dyn),
            other => {
                return Err(format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    other.words()
                ));
            }
        };
        let is_map = matches!(key, Static::String);
        let item = if is_map { key.clone() } else { value.clone() };
        let first = Scope { name: &names[0], ty: if names.len() > 1 { key } else { item.clone() }, outer: scope };
        let second;
        let scope = match names.get(1) {
            Some(name) => {
                second = Scope { name, ty: value, outer: Some(&first) };
                &second
            }
            None => &first,
        };
        if let Some(filter) = filter
            && !self.expr(filter, Some(scope))?.meets(&Static::Bool)
        {
            return Err("the filter of a macro must be a bool".to_owned());
        }
        let body = self.expr(body, Some(scope))?;
        self.at.set(fold.at);
        let decides = matches!(**fold, Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter);
        if decides && !body.meets(&Static::Bool) {
            return Err(no_overload("_&&_", &[&Static::Bool, &body]));
        }
        Ok(match **fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Static::Bool,
            Fold::Filter => Static::List(Box::new(item)),
            Fold::Map | Fold::TransformList => Static::List(Box::new(body)),
            Fold::TransformMap => Static::Map(Box::new(body)),
        })
    }
}

fn no_overload(name: &str, types: &[&Static<'_>]) -> String {
    let types: Vec<String> = types.iter().map(|ty| ty.words()).collect();
    format!("found no matching overload for '{name}' applied to '({})'", types.join(", "))
}

/// The same of a function: what it is called on stands before the dot.
fn no_call(name: &str, on: Option<&Static<'_>>, args: &[Static<'_>]) -> String {
    let on = on.map(|on| format!("{}.", on.words())).unwrap_or_default();
    let args: Vec<String> = args.iter().map(Static::words).collect();
    format!("found no matching overload for '{name}' applied to '{on}({})'", args.join(", "))
}

fn binary<'a>(operator: Binary, one: Static<'a>, two: Static<'a>) -> Result<'a> {
    let name = format!("_{}_", operator.symbol());
    let wrong = || Err(no_overload(&name, &[&one, &two]));
    match operator {
        Binary::And | Binary::Or => {
            if !one.meets(&Static::Bool) || !two.meets(&Static::Bool) {
                return wrong();
            }
            Ok(Static::Bool)
        }
        Binary::In => match &two {
            Static::List(item) if !one.meets(item) => wrong(),
            Static::List(_) | Static::Map(_) | Static::Schema(_) | Static::Dyn | Static::Fields(_) | Static::Names(_) => Ok(Static::Bool),
            _ => wrong(),
        },
        Binary::Equal | Binary::NotEqual => {
            let null = |ty: &Static<'_>| matches!(ty, Static::Null);
            if one.meets(&two) || null(&one) || null(&two) { Ok(Static::Bool) } else { wrong() }
        }
        Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
            let number = |ty: &Static<'_>| matches!(ty, Static::Int | Static::Uint | Static::Double);
            let has_order = |ty: &Static<'_>| !matches!(ty, Static::Opaque(_) | Static::Record(..));
            if one.meets(&two) && has_order(&one) && has_order(&two) || number(&one) && number(&two) { Ok(Static::Bool) } else { wrong() }
        }
        _ => match (&one, &two) {
            (Static::Timestamp, Static::Timestamp) => Ok(Static::Duration),
            (Static::Timestamp, Static::Duration) | (Static::Duration, Static::Timestamp) => Ok(Static::Timestamp),
            (Static::Bool | Static::Null | Static::Opaque(_) | Static::Record(..), _) => wrong(),
            (_, Static::Opaque(_) | Static::Record(..)) => wrong(),
            _ if one.meets(&two) => Ok(if matches!(one, Static::Dyn) { two } else { one }),
            _ => wrong(),
        },
    }
}

const QUANTITY: &str = "kubernetes.Quantity";
const SEMVER: &str = "kubernetes.Semver";

impl Static<'_> {
    pub(super) const QUANTITY: Static<'static> = Static::Opaque(QUANTITY);
}

/// Functions of the values of a type, and whether they take another such value (pkg/cel/library/quantity.go and semverlib.go).
const METHODS: [(&str, &[(&str, bool)]); 2] = [
    (
        QUANTITY,
        &[
            ("isInteger", false),
            ("asInteger", false),
            ("asApproximateFloat", false),
            ("sign", false),
            ("add", true),
            ("sub", true),
            ("isGreaterThan", true),
            ("isLessThan", true),
            ("compareTo", true),
        ],
    ),
    (SEMVER, &[("major", false), ("minor", false), ("patch", false), ("isGreaterThan", true), ("isLessThan", true), ("compareTo", true)]),
];

/// Whether a function that the types above have is called on a value of them, and of what else has it on all others.
fn has_method(on: &Static<'_>, name: &str, args: &[Static<'_>]) -> bool {
    let own = |ty: &str| METHODS.iter().find(|(known, _)| *known == ty).and_then(|(_, all)| all.iter().find(|(known, _)| *known == name));
    match on {
        Static::Dyn | Static::Optional(_) => true,
        Static::Opaque(ty) => own(ty).is_some_and(|(_, takes)| {
            let fits = |arg: &Static<'_>| arg.meets(on) || *ty == QUANTITY && matches!((name, arg), ("add" | "sub", Static::Int));
            !takes || args.iter().all(fits)
        }),
        _ => METHODS.iter().all(|(ty, _)| own(ty).is_none()),
    }
}

fn call<'a>(name: &str, on: Option<&Static<'a>>, args: &[Static<'a>]) -> Result<'a> {
    let known = || functions::FUNCTIONS.iter().chain(kubernetes::FUNCTIONS).filter(|(known, ..)| *known == name);
    let constant = name.starts_with("format.") && args.is_empty();
    if known().next().is_none() && !constant {
        return Err(format!("undeclared reference to '{name}' (in container '')"));
    }
    let fits = |(_, member, least, most): &(&str, bool, usize, usize)| *member == on.is_some() && (*least..=*most).contains(&args.len());
    if !known().any(fits) && !constant || on.is_some_and(|on| !has_method(on, name, args)) {
        return Err(no_call(name, on, args));
    }
    Ok(match name {
        "size" | "int" | "indexOf" | "lastIndexOf" | "asInteger" | "sign" | "compareTo" | "family" | "prefixLength" | "major" | "minor" => {
            Static::Int
        }
        "matches" | "contains" | "startsWith" | "endsWith" => {
            let subject = on.or(args.first());
            if subject.into_iter().chain(args).any(|text| !text.meets(&Static::String)) {
                return Err(no_call(name, on, args));
            }
            Static::Bool
        }
        "bool" | "isSorted" | "isURL" | "isQuantity" | "isInteger" | "isIP" | "isCIDR" | "containsIP" | "containsCIDR" | "includes"
        | "isGreaterThan" | "isLessThan" | "hasValue" | "sets.contains" | "sets.equivalent" | "sets.intersects" | "allowed" | "errored"
        | "isSemver" => Static::Bool,
        "jsonpatch.escapeKey" => Static::String,
        "string" | "lowerAscii" | "upperAscii" | "replace" | "substring" | "trim" | "join" | "charAt" | "find" | "reason"
        | "getHostname" => Static::String,
        "double" | "asApproximateFloat" => Static::Double,
        "timestamp" => Static::Timestamp,
        "duration" => Static::Duration,
        "quantity" | "add" | "sub" => Static::Opaque(QUANTITY),
        "semver" => Static::Opaque(SEMVER),
        "split" | "findAll" => Static::List(Box::new(Static::String)),
        "value" => match on {
            Some(Static::Optional(inner)) => (**inner).clone(),
            _ => Static::Dyn,
        },
        "orValue" => match (on, args) {
            (Some(Static::Optional(inner)), [other]) if !inner.meets(other) => {
                return Err(no_call(name, on, std::slice::from_ref(other)));
            }
            (Some(Static::Optional(inner)), _) => (**inner).clone(),
            _ => Static::Dyn,
        },
        _ => Static::Dyn,
    })
}
