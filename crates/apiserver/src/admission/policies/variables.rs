//! The variables of a policy: expressions that others name.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};

use knarr_api::cel::{Budget, CompileError, EvalError, HEIGHT_MAX, Program, Value as Cel};
use serde_json::Value;

use super::{Named, Subject};

/// Variables in the order in which they are declared: each can name only those before it.
pub(super) struct Declared {
    all: Vec<Named>,
    places: HashMap<String, usize>,
}

impl Declared {
    pub(super) fn new(all: Vec<Named>) -> Declared {
        let places = all.iter().enumerate().rev().map(|(place, one)| (one.name.clone(), place)).collect();
        Declared { all, places }
    }

    /// The variables before `end` that the program names.
    fn named_by(&self, program: &Program, end: usize) -> impl Iterator<Item = usize> {
        program.fields_of(VARIABLES).into_iter().filter_map(move |name| self.place(&name, end))
    }

    fn place(&self, name: &str, end: usize) -> Option<usize> {
        self.places.get(name).copied().filter(|place| *place < end)
    }
}

const VARIABLES: &str = "variables";

/// Levels of the stack that a variable takes besides those of its expression.
const OWN_LEVELS: usize = 4;

/// The variables of a policy, each evaluated when an expression first reads it, and once. One that fails is a value that fails whoever reads it, so
/// that `object.kind != 'Pod' || variables.x` holds where the left side decides, and nobody pays for `x` (apiserver, pkg/cel/lazy).
///
/// A variable is evaluated within the expression that reads it, as long as both together are no higher than one expression may be: a chain of
/// variables may be longer than any stack is deep. One that lies deeper breaks off all that wait for it; it is evaluated by itself, and they
/// begin again, and pay again.
pub(super) struct Variables<'v> {
    declared: &'v Declared,
    subject: &'v Subject,
    params: &'v Value,
    budget: &'v Budget,
    /// By their places.
    known: RefCell<BTreeMap<usize, Cel<'v>>>,
    /// The one for which an evaluation was broken off.
    missing: Cell<Option<usize>>,
}

impl<'v> Variables<'v> {
    pub(super) fn new(declared: &'v Declared, subject: &'v Subject, params: &'v Value, budget: &'v Budget) -> Self {
        Variables { declared, subject, params, budget, known: RefCell::default(), missing: Cell::new(None) }
    }

    pub(super) fn evaluate(&self, program: &Program) -> Result<Cel<'v>, EvalError> {
        // Those that others wait for, each named by the one before it and so declared before it.
        let mut open: Vec<usize> = Vec::new();
        loop {
            let outcome = match open.last() {
                None => self.run(program, self.declared.all.len(), HEIGHT_MAX),
                Some(place) => Ok(self.value(*place, HEIGHT_MAX)),
            };
            match (self.missing.take(), open.pop(), outcome) {
                (Some(missing), last, _) => {
                    open.extend(last);
                    open.push(missing);
                }
                (None, Some(place), Ok(value)) => drop(self.known.borrow_mut().insert(place, value)),
                (None, _, outcome) => return outcome,
            }
        }
    }

    /// Evaluates a program that can name the variables before `end`, on a stack with `room` for so many levels.
    fn run(&self, program: &Program, end: usize, room: usize) -> Result<Cel<'v>, EvalError> {
        let room = room.saturating_sub(program.height() + OWN_LEVELS);
        let names = OnceCell::new();
        let named = || self.declared.named_by(program, end).map(|place| (self.declared.all[place].name.clone(), Cel::Null));
        let lookup = |name: &str| match name {
            "params" => Some(Cel::json(self.params)),
            // For `has(variables.x)`, which is about the name alone.
            VARIABLES => Some(names.get_or_init(|| Cel::of_fields(named().collect())).clone()),
            name => match name.strip_prefix("variables.") {
                Some(field) => Some(self.read(self.declared.place(field, end)?, room)),
                None => self.subject.variable(name),
            },
        };
        program.evaluate(&lookup, self.budget)
    }

    fn read(&self, place: usize, room: usize) -> Cel<'v> {
        if let Some(value) = self.known.borrow().get(&place) {
            return value.clone();
        }
        let height = self.declared.all[place].program.as_ref().map_or(0, Program::height);
        if height + OWN_LEVELS > room {
            self.missing.set(Some(place));
        }
        // Whoever reads on after something is missing reads in vain.
        if self.missing.get().is_some() {
            return Cel::Failed(EvalError::BudgetSpent);
        }
        let value = self.value(place, room);
        if self.missing.get().is_none() {
            self.known.borrow_mut().insert(place, value.clone());
        }
        value
    }

    fn value(&self, place: usize, room: usize) -> Cel<'v> {
        let Named { name, program } = &self.declared.all[place];
        let outcome = match program {
            Ok(program) => self.run(program, place, room),
            Err(error) => Err(EvalError::Failed(format!("composited variable {name:?} fails to compile: {error}"))),
        };
        outcome.unwrap_or_else(|error| match error {
            // Nothing more can be evaluated, whatever does without the variable.
            EvalError::BudgetSpent => Cel::Failed(error),
            error => Cel::Failed(EvalError::Failed(format!("composited variable {name:?} fails to evaluate: {error}"))),
        })
    }

    /// The same in upstream's words, for people.
    pub(super) fn evaluate_source(&self, program: &Result<Program, CompileError>, source: &str) -> Result<Cel<'v>, String> {
        let outcome = match program {
            Ok(program) => self.evaluate(program),
            Err(error) => Err(EvalError::Failed(format!("compilation error: {error}"))),
        };
        outcome.map_err(|error| format!("expression '{source}' resulted in error: {error}"))
    }
}
