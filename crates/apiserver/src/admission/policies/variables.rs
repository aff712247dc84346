//! The variables of a policy: expressions that others name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use knarr_api::cel::{Budget, EvalError, Program, Value as Cel};
use serde_json::Value;

use super::{Named, Subject};

/// Variables in the order in which they are declared, which is that in which they are evaluated: each can name only those before it.
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
        program.fields_of("variables").into_iter().filter_map(move |name| self.places.get(&name).copied()).filter(move |place| *place < end)
    }
}

/// The variables of a policy, each evaluated when an expression first names it. One that fails is a value that fails whoever reads it, so that
/// `object.kind != 'Pod' || variables.x` holds where the left side decides (apiserver, pkg/cel/lazy).
pub(super) struct Variables<'v> {
    declared: &'v Declared,
    subject: &'v Subject,
    params: &'v Value,
    budget: &'v Budget,
    /// By their places.
    known: BTreeMap<usize, Cel<'v>>,
}

impl<'v> Variables<'v> {
    pub(super) fn new(declared: &'v Declared, subject: &'v Subject, params: &'v Value, budget: &'v Budget) -> Self {
        Variables { declared, subject, params, budget, known: BTreeMap::new() }
    }

    pub(super) fn evaluate(&mut self, program: &Program) -> Result<Cel<'v>, EvalError> {
        for place in self.needed(program) {
            let Named { name, program } = &self.declared.all[place];
            let outcome = match program {
                Ok(program) => self.run(program, place),
                Err(error) => Err(EvalError::Failed(format!("composited variable {name:?} fails to compile: {error}"))),
            };
            let value = outcome.unwrap_or_else(|error| match error {
                // Nothing more can be evaluated, whatever does without the variable.
                EvalError::BudgetSpent => Cel::Failed(error),
                error => Cel::Failed(EvalError::Failed(format!("composited variable {name:?} fails to evaluate: {error}"))),
            });
            self.known.insert(place, value);
        }
        self.run(program, self.declared.all.len())
    }

    /// The places of the variables that are to be evaluated before the program. A chain of variables may be longer than any stack is deep.
    fn needed(&self, program: &Program) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open: Vec<usize> = self.declared.named_by(program, self.declared.all.len()).collect();
        while let Some(place) = open.pop() {
            if self.known.contains_key(&place) || !found.insert(place) {
                continue;
            }
            if let Ok(program) = &self.declared.all[place].program {
                open.extend(self.declared.named_by(program, place));
            }
        }
        found
    }

    /// Evaluates a program that can name the variables before `end`.
    fn run(&self, program: &Program, end: usize) -> Result<Cel<'v>, EvalError> {
        let named = self.declared.named_by(program, end);
        let named = named.filter_map(|place| Some((self.declared.all[place].name.clone(), self.known.get(&place)?.clone())));
        let map = Cel::of_fields(named.collect());
        let (subject, params) = (self.subject, self.params);
        let lookup = |name: &str| match name {
            "params" => Some(Cel::json(params)),
            "variables" => Some(map.clone()),
            name => subject.variable(name),
        };
        program.evaluate(&lookup, self.budget)
    }

    /// The same in upstream's words, for people.
    pub(super) fn evaluate_source(&mut self, program: &Result<Program, String>, source: &str) -> Result<Cel<'v>, String> {
        let outcome = match program {
            Ok(program) => self.evaluate(program),
            Err(error) => Err(EvalError::Failed(format!("compilation error: {error}"))),
        };
        outcome.map_err(|error| format!("expression '{source}' resulted in error: {error}"))
    }
}
