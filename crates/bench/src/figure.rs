//! A measured number beside its budget, and the table of them.

use std::{
    fmt::{self, Display},
    fs,
    path::Path,
};

use crate::{Outcome, fault};

/// What DESIGN promises.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Budget {
    AtMost(f64),
    AtLeast(f64),
    /// Told for comparison.
    None,
}

pub(crate) struct Figure {
    name: String,
    budget: Budget,
    measured: f64,
    unit: &'static str,
    /// Range, or what else belongs to it.
    note: String,
}

impl Figure {
    pub(crate) fn new(name: &str, budget: Budget, measured: f64, unit: &'static str) -> Self {
        Self { name: name.to_owned(), budget, measured, unit, note: String::new() }
    }

    /// The median of several, with their range.
    pub(crate) fn median(name: &str, budget: Budget, values: Vec<f64>, unit: &'static str) -> Self {
        let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
        let figure = Self::new(name, budget, crate::median(values), unit);
        figure.note(format!("{}–{}", number(least), number(most)))
    }

    pub(crate) fn note(mut self, note: String) -> Self {
        self.note = note;
        self
    }

    fn budget(&self) -> String {
        match self.budget {
            Budget::AtMost(limit) => format!("≤ {} {}", number(limit), self.unit),
            Budget::AtLeast(limit) => format!("≥ {} {}", number(limit), self.unit),
            Budget::None => "–".to_owned(),
        }
    }

    fn verdict(&self) -> String {
        let over = match self.budget {
            Budget::AtMost(limit) => self.measured / limit,
            Budget::AtLeast(limit) => limit / self.measured,
            Budget::None => return "–".to_owned(),
        };
        if over <= 1.0 { "held".to_owned() } else { format!("missed: {over:.1} times the budget") }
    }

    fn measured(&self) -> String {
        let note = if self.note.is_empty() { String::new() } else { format!(" ({})", self.note) };
        format!("{} {}{note}", number(self.measured), self.unit)
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {:<48} {:>14}   {:<40} {}", self.name, self.budget(), self.measured(), self.verdict())
    }
}

/// Three significant digits, thousands apart.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

/// Lines of a Markdown file between which the table stands.
const BEGIN: &str = "<!-- written by ./x bench --write -->";
const END: &str = "<!-- end of what ./x bench wrote -->";

/// The whole table, as Markdown.
pub(crate) struct Report {
    machine: String,
    methods: Vec<String>,
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn new(machine: String) -> Self {
        Self { machine, methods: Vec::new(), figures: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &str, how: &str, figures: Vec<Figure>) {
        self.methods.push(format!("- `{name}`: {how}."));
        self.figures.extend(figures);
    }

    /// Puts the table in its place in `file`.
    pub(crate) fn write(&self, file: &Path) -> Outcome<()> {
        let text = fs::read_to_string(file).map_err(fault("read", file))?;
        let text =
            between(&text, &self.to_string()).ok_or_else(|| format!("{}: the lines {BEGIN:?} and {END:?} are missing", file.display()))?;
        fs::write(file, text).map_err(fault("write", file))
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n| | budget | measured | verdict |\n|---|---|---|---|", self.machine)?;
        for figure in &self.figures {
            writeln!(f, "| {} | {} | {} | {} |", figure.name, figure.budget(), figure.measured(), figure.verdict())?;
        }
        writeln!(f, "\nHow it is measured:\n\n{}", self.methods.join("\n"))
    }
}

fn between(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let cases = [(0.0, "0"), (0.1234, "0.123"), (2.0, "2"), (2.345, "2.35"), (39.96, "40"), (581.0, "581"), (31_234.5, "31,234")];
        for (value, shown) in cases {
            assert_eq!(number(value), shown);
        }
    }

    #[test]
    fn a_missed_budget_says_by_how_much() {
        let verdict = |budget, measured| Figure::new("x", budget, measured, "ms").verdict();
        assert_eq!(verdict(Budget::AtMost(60.0), 60.0), "held");
        assert_eq!(verdict(Budget::AtMost(60.0), 90.0), "missed: 1.5 times the budget");
        assert_eq!(verdict(Budget::AtLeast(6_000.0), 3_000.0), "missed: 2.0 times the budget");
    }

    #[test]
    fn the_table_replaces_the_last_one_and_nothing_else() {
        let file = format!("# Head\n{BEGIN}\nold\n{END}\ntail\n");
        assert_eq!(between(&file, "new\n").unwrap(), format!("# Head\n{BEGIN}\nnew\n{END}\ntail\n"));
        assert_eq!(between("# Head\n", "new\n"), None);
    }
}
