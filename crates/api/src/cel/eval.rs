//! Evaluation. Every node costs one, what is copied its length, and functions what they look at, so that the budget bounds time and memory.
//! Lists and maps are shared, so that a short expression makes one that is larger than any memory once it is walked: whoever walks pays first.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Value as Json;

use super::ast::{Binary, Expr, Fold, Literal};
use super::value::{Key, Value, compare_numbers, equal, failed, no_overload};
use super::{Budget, EvalError, functions};
use crate::custom::schema::Items;

/// What a string or list operation costs for each byte or item (cel-go: a tenth).
pub(super) const PER_COST: usize = 10;

/// The map whose fields are evaluated when they are read (apiserver, pkg/cel/lazy).
const LAZY: &str = "variables";

pub(super) struct Eval<'e, 'a> {
    pub(super) lookup: &'e dyn Fn(&str) -> Option<Value<'a>>,
    pub(super) budget: &'e Budget,
}

/// Variables of macros, the innermost first.
pub(super) struct Scope<'s, 'a> {
    name: &'s str,
    value: Value<'a>,
    outer: Option<&'s Scope<'s, 'a>>,
}

type Result<T> = std::result::Result<T, EvalError>;
type Outer<'s, 'a> = Option<&'s Scope<'s, 'a>>;

impl<'a> Eval<'_, 'a> {
    pub(super) fn expr(&self, expr: &Expr, scope: Outer<'_, 'a>) -> Result<Value<'a>> {
        self.budget.spend(1)?;
        match self.node(expr, scope)? {
            Value::Failed(error) => Err(error),
            value => {
                self.copied(&value)?;
                Ok(value)
            }
        }
    }

    /// Pays for text that was copied: that of the data is only pointed at.
    fn copied(&self, value: &Value<'_>) -> Result<()> {
        let bytes = match value {
            Value::String(Cow::Owned(text)) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        self.budget.spend((bytes / PER_COST) as u64)
    }

    fn node(&self, expr: &Expr, scope: Outer<'_, 'a>) -> Result<Value<'a>> {
        match expr {
            Expr::Literal(literal) => Ok(self::literal(literal)),
            Expr::Ident(name) => self.variable(name, scope),
            Expr::Select { on, field, optional } => {
                if let Some(value) = self.lazy(on, field, scope)? {
                    return Ok(if *optional { Value::some(value) } else { value });
                }
                let on = self.expr(on, scope)?;
                let is_optional = *optional || matches!(on, Value::Optional(_));
                match (on.field(field)?, is_optional) {
                    (Some(value), true) => Ok(Value::some(value)),
                    (None, true) => Ok(Value::Optional(None)),
                    (Some(value), false) => Ok(value),
                    (None, false) => failed(format!("no such key: {}", **field)),
                }
            }
            Expr::Has { on, field } => Ok(Value::Bool(self.expr(on, scope)?.field(field)?.is_some())),
            Expr::Index { on, index, optional } => {
                let (on, index) = (self.expr(on, scope)?, self.expr(index, scope)?);
                self.look(&index)?;
                let is_optional = *optional || matches!(on, Value::Optional(_));
                match (on.at(&index)?, is_optional) {
                    (Some(value), true) => Ok(Value::some(value)),
                    (None, true) => Ok(Value::Optional(None)),
                    (Some(value), false) => Ok(value),
                    (None, false) if on.items().is_some() => failed(format!("index out of bounds: {}", index.to_text())),
                    (None, false) => failed(format!("no such key: {}", index.to_text())),
                }
            }
            Expr::Call { on, name, args } => {
                let on = on.as_ref().map(|on| self.expr(on, scope)).transpose()?;
                let args = args.iter().map(|arg| self.expr(arg, scope)).collect::<Result<Vec<_>>>()?;
                functions::call(self, name, on, args)
            }
            Expr::Not(inner) => match self.expr(inner, scope)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                _ => no_overload(""),
            },
            Expr::Negate(inner) => match self.expr(inner, scope)? {
                Value::Int(value) => value.checked_neg().map(Value::Int).map_or_else(|| failed("integer overflow"), Ok),
                Value::Double(value) => Ok(Value::Double(-value)),
                Value::Duration(value) => functions::short(value.checked_neg()),
                _ => no_overload("-_"),
            },
            Expr::Binary(operator, one, two) => self.binary(**operator, one, two, scope),
            Expr::Choose(condition, one, two) => match self.expr(condition, scope)? {
                Value::Bool(true) => self.expr(one, scope),
                Value::Bool(false) => self.expr(two, scope),
                _ => no_overload(""),
            },
            Expr::List(items) => Ok(Value::list(items.iter().map(|item| self.expr(item, scope)).collect::<Result<_>>()?)),
            Expr::Map(entries) => {
                let entry = |(key, value): &(Expr, Expr)| {
                    let key = self.expr(key, scope)?;
                    let key = Key::of(&key).map_or_else(|| failed("unsupported key type"), Ok)?;
                    Ok((key, self.expr(value, scope)?))
                };
                Ok(Value::Map(Arc::new(entries.iter().map(entry).collect::<Result<_>>()?)))
            }
            Expr::Make { ty, fields } => {
                let mut made = std::collections::BTreeMap::new();
                for field in fields {
                    let value = match (self.expr(&field.value, scope)?, field.optional) {
                        (Value::Optional(None), true) => continue,
                        (Value::Optional(Some(value)), true) => (*value).clone(),
                        (_, true) => return no_overload(""),
                        (value, false) => value,
                    };
                    made.insert(Key::String(field.name.clone()), value);
                }
                Ok(Value::Made(ty.as_str().into(), Arc::new(made)))
            }
            Expr::Fold { fold, on, names, filter, body } => {
                self.fold(**fold, &self.expr(on, scope)?, names, filter.as_deref(), body, scope)
            }
            Expr::Bind { name, value, body } => {
                let value = self.expr(value, scope)?;
                self.copied(&value)?;
                self.expr(body, Some(&Scope { name, value, outer: scope }))
            }
            Expr::OptMap { on, name, body, flat } => match self.expr(on, scope)? {
                Value::Optional(None) => Ok(Value::Optional(None)),
                Value::Optional(Some(value)) => {
                    self.copied(&value)?;
                    let inner = Scope { name, value: (*value).clone(), outer: scope };
                    let result = self.expr(body, Some(&inner))?;
                    Ok(if *flat { result } else { Value::some(result) })
                }
                _ => no_overload(""),
            },
        }
    }

    /// A field of what is looked up field by field.
    fn lazy(&self, on: &Expr, field: &str, mut scope: Outer<'_, 'a>) -> Result<Option<Value<'a>>> {
        let Expr::Ident(name) = on else { return Ok(None) };
        let name = name.as_str();
        if name != LAZY {
            return Ok(None);
        }
        while let Some(inner) = scope {
            if inner.name == name {
                return Ok(None);
            }
            scope = inner.outer;
        }
        match (self.lookup)(&format!("{LAZY}.{field}")) {
            Some(Value::Failed(error)) => Err(error),
            value => Ok(value),
        }
    }

    fn variable(&self, name: &str, mut scope: Outer<'_, 'a>) -> Result<Value<'a>> {
        while let Some(inner) = scope {
            if inner.name == name {
                return Ok(inner.value.clone());
            }
            scope = inner.outer;
        }
        if let Some(value) = (self.lookup)(name) {
            return Ok(value);
        }
        match ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"]
            .into_iter()
            .find(|known| *known == name)
        {
            Some(ty) => Ok(Value::Type(ty)),
            None => failed(format!("no such attribute(s): {name}")),
        }
    }

    fn binary(&self, operator: Binary, one: &Expr, two: &Expr, scope: Outer<'_, 'a>) -> Result<Value<'a>> {
        if let Binary::And | Binary::Or = operator {
            return self.logic(operator == Binary::Or, one, two, scope);
        }
        let (one, two) = (self.expr(one, scope)?, self.expr(two, scope)?);
        match operator {
            Binary::Equal | Binary::NotEqual => {
                self.look_through(&one)?;
                self.look_through(&two)?;
                Ok(Value::Bool(equal(&one, &two) == (operator == Binary::Equal)))
            }
            Binary::In => {
                self.look_for(&one, &two)?;
                match (&two, two.items()) {
                    (_, Some(items)) => Ok(Value::Bool(items.iter().any(|item| equal(item, &one)))),
                    (Value::Object(..) | Value::Map(_), None) => Ok(Value::Bool(two.at(&one)?.is_some())),
                    _ => no_overload(""),
                }
            }
            Binary::Less | Binary::LessEqual | Binary::Greater | Binary::GreaterEqual => {
                self.look(&one)?;
                let order = self::order(&one, &two).map_err(|error| match has_order(&one) {
                    true => error,
                    false => EvalError::NoOverload(format!("_{}_", operator.symbol())),
                })?;
                Ok(Value::Bool(match operator {
                    Binary::Less => order == Some(Ordering::Less),
                    Binary::LessEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                    Binary::Greater => order == Some(Ordering::Greater),
                    _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                }))
            }
            _ => {
                self.look(&one)?;
                self.look(&two)?;
                if let Value::Array(list, Some(schema)) = &one
                    && schema.list != Items::Atomic
                {
                    // Each item of two is looked for in one, and in what was added before it.
                    let more = two.size().unwrap_or(0);
                    self.budget.spend((list.len() + more).saturating_mul(more) as u64)?;
                }
                functions::arithmetic(operator, one, two)
            }
        }
    }

    /// Either side may decide, even if the other fails.
    fn logic(&self, decides: bool, one: &Expr, two: &Expr, scope: Outer<'_, 'a>) -> Result<Value<'a>> {
        let side = |expr: &Expr| match self.expr(expr, scope) {
            Ok(Value::Bool(value)) => Ok(value),
            Ok(_) => no_overload(""),
            Err(error) => Err(error),
        };
        match side(one) {
            Ok(value) if value == decides => Ok(Value::Bool(decides)),
            Err(error @ (EvalError::BudgetSpent | EvalError::TooCostly)) => Err(error),
            Ok(_) => side(two).map(Value::Bool),
            Err(error) => match side(two) {
                Ok(value) if value == decides => Ok(Value::Bool(decides)),
                _ => Err(error),
            },
        }
    }

    /// Pays for looking at a value: at the outside of data, at all of what the expression made.
    pub(super) fn look(&self, value: &Value<'_>) -> Result<()> {
        match value {
            Value::String(text) => self.budget.spend(text.len().div_ceil(PER_COST) as u64),
            Value::List(_) | Value::Map(_) | Value::Made(..) | Value::Optional(_) => self.look_through(value).map(drop),
            other => self.budget.spend(other.size().unwrap_or(0) as u64),
        }
    }

    /// Pays for looking at a value and all that is in it, and tells how much that was. What is in it twice counts twice.
    pub(super) fn look_through(&self, value: &Value<'_>) -> Result<u64> {
        let pay = |cost: usize| self.budget.spend(cost as u64).map(|()| cost as u64);
        match value {
            Value::List(list) => list.iter().try_fold(pay(list.len())?, |sum, item| Ok(sum + self.look_through(item)?)),
            Value::Map(map) | Value::Made(_, map) => map.iter().try_fold(pay(map.len())?, |sum, (key, item)| {
                let key = match key {
                    Key::String(text) => pay(text.len() / PER_COST)?,
                    Key::Bool(_) | Key::Int(_) => 0,
                };
                Ok(sum + key + self.look_through(item)?)
            }),
            Value::Optional(Some(inner)) => self.look_through(inner),
            Value::Array(list, _) => list.iter().try_fold(pay(list.len())?, |sum, item| Ok(sum + self.look_through_json(item)?)),
            Value::Object(map, _) => self.look_through_map(map),
            Value::String(text) => pay(text.len().div_ceil(PER_COST)),
            other => pay(other.size().unwrap_or(0)),
        }
    }

    fn look_through_json(&self, value: &Json) -> Result<u64> {
        let cost = match value {
            Json::Array(list) => list.len(),
            Json::Object(map) => return self.look_through_map(map),
            Json::String(text) => text.len() / PER_COST,
            Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        } as u64;
        self.budget.spend(cost)?;
        match value {
            Json::Array(list) => list.iter().try_fold(cost, |sum, item| Ok(sum + self.look_through_json(item)?)),
            _ => Ok(cost),
        }
    }

    fn look_through_map(&self, map: &serde_json::Map<String, Json>) -> Result<u64> {
        let cost = map.iter().map(|(key, _)| 1 + key.len() / PER_COST).sum::<usize>() as u64;
        self.budget.spend(cost)?;
        map.values().try_fold(cost, |sum, item| Ok(sum + self.look_through_json(item)?))
    }

    /// Pays for comparing one value with each item of another.
    pub(super) fn look_for(&self, one: &Value<'_>, all: &Value<'_>) -> Result<()> {
        self.look_through(all)?;
        let each = self.look_through(one)?;
        self.budget.spend(each.saturating_mul(all.size().unwrap_or(0) as u64))
    }

    fn fold(
        &self,
        fold: Fold,
        on: &Value<'a>,
        names: &[String],
        filter: Option<&Expr>,
        body: &Expr,
        scope: Outer<'_, 'a>,
    ) -> Result<Value<'a>> {
        let entries: Vec<(Value<'a>, Value<'a>)> = match (on.items(), on.entries()) {
            (Some(items), _) => (0..).map(Value::Int).zip(items).collect(),
            (None, Some(entries)) => entries,
            (None, None) => return no_overload(""),
        };
        let is_list = matches!(on, Value::List(_) | Value::Array(..));
        let (mut kept, mut made, mut count) = (Vec::new(), std::collections::BTreeMap::new(), 0);
        let mut failure = None;
        for (key, value) in entries {
            self.budget.spend(1)?;
            self.copied(&key)?;
            self.copied(&value)?;
            let item = if is_list { value.clone() } else { key.clone() };
            let first = if names.len() > 1 { key.clone() } else { item.clone() };
            let outer = Scope { name: &names[0], value: first, outer: scope };
            let inner;
            let scope = match names.get(1) {
                Some(name) => {
                    inner = Scope { name, value: value.clone(), outer: Some(&outer) };
                    &inner
                }
                None => &outer,
            };
            if let Some(filter) = filter
                && !truth(self.expr(filter, Some(scope))?)?
            {
                continue;
            }
            match (fold, self.expr(body, Some(scope))) {
                (_, Err(error @ (EvalError::BudgetSpent | EvalError::TooCostly))) => return Err(error),
                // One item may decide, whatever the others fail at.
                (Fold::All | Fold::Exists, Err(error)) => drop(failure.get_or_insert(error)),
                (_, Err(error)) => return Err(error),
                (Fold::All, Ok(value)) if !truth(value.clone())? => return Ok(Value::Bool(false)),
                (Fold::Exists, Ok(value)) if truth(value.clone())? => return Ok(Value::Bool(true)),
                (Fold::All | Fold::Exists, Ok(_)) => {}
                (Fold::ExistsOne, Ok(value)) => count += usize::from(truth(value)?),
                (Fold::Filter, Ok(value)) => {
                    if truth(value)? {
                        kept.push(item);
                    }
                }
                (Fold::Map | Fold::TransformList, Ok(value)) => kept.push(value),
                (Fold::TransformMap, Ok(value)) => {
                    made.insert(Key::of(&key).map_or_else(|| failed("unsupported key type"), Ok)?, value);
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        Ok(match fold {
            Fold::All => Value::Bool(true),
            Fold::Exists => Value::Bool(false),
            Fold::ExistsOne => Value::Bool(count == 1),
            Fold::Filter | Fold::Map | Fold::TransformList => Value::list(kept),
            Fold::TransformMap => Value::Map(Arc::new(made)),
        })
    }
}

fn truth(value: Value<'_>) -> Result<bool> {
    match value {
        Value::Bool(value) => Ok(value),
        _ => no_overload(""),
    }
}

fn literal<'a>(literal: &Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::string(text.clone()),
        Literal::Bytes(bytes) => Value::Bytes(bytes.as_slice().into()),
    }
}

fn has_order(value: &Value<'_>) -> bool {
    self::order(value, value).is_ok()
}

/// None for numbers that are none.
pub(super) fn order(one: &Value<'_>, two: &Value<'_>) -> Result<Option<Ordering>> {
    Ok(match (one, two) {
        (Value::String(one), Value::String(two)) => Some(one.cmp(two)),
        (Value::Bytes(one), Value::Bytes(two)) => Some(one.cmp(two)),
        (Value::Bool(one), Value::Bool(two)) => Some(one.cmp(two)),
        (Value::Timestamp(one), Value::Timestamp(two)) => Some(one.cmp(two)),
        (Value::Duration(one), Value::Duration(two)) => Some(one.cmp(two)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => compare_numbers(one, two),
        _ => return no_overload(""),
    })
}
