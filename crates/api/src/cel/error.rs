//! Why an expression is refused when it is written, in the form of upstream's (cel-go, common/error.go).

/// A fault, and the byte of the source where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) text: String,
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// It is wrong in itself; with the place, and the line that it is in.
    #[error("{0}")]
    Wrong(String),
    /// It yields something else than what it is for.
    #[error("must evaluate to {wanted} but got {found}")]
    Yields { wanted: String, found: String },
}

impl CompileError {
    /// As it is told of the field that the expression stands in.
    pub fn detail(&self) -> String {
        match self {
            CompileError::Wrong(issues) => format!("compilation failed: {issues}"),
            CompileError::Yields { .. } => self.to_string(),
        }
    }
}

impl Wrong {
    pub(super) fn in_source(&self, source: &str) -> CompileError {
        let before = source.get(..self.at).unwrap_or(source);
        let line = before.bytes().filter(|byte| *byte == b'\n').count();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        let shown = source.split('\n').nth(line).unwrap_or_default().replace('\t', " ");
        let mut text = format!("ERROR: <input>:{}:{}: {}\n | {shown}\n | ", line + 1, column + 1, self.text);
        for letter in shown.chars().take(column) {
            text.push(if letter.is_ascii() { '.' } else { '．' });
        }
        let is_wide = shown.chars().nth(column).is_some_and(|letter| !letter.is_ascii());
        text.push(if is_wide { '＾' } else { '^' });
        CompileError::Wrong(text)
    }
}
