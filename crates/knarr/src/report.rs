//! How a command ends: its exit code, and what is said of a failure.

use std::{error::Error, fmt, process::ExitCode};

/// Why a command failed, in classes that a script can tell apart. The codes are documented in `knarr --help`.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It failed while running.
    Failed(Box<dyn Error + Send + Sync>),
    /// The command line or the configuration is wrong.
    Usage(String),
    /// This machine cannot do it.
    Machine(String),
    /// A running Knarr has the data directory.
    InUse(String),
    /// The API server refused, or is not there.
    Api(String),
    /// The command that ran in a container ended with this code.
    Exit(u8),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Machine(_) => 3,
            Self::InUse(_) => 4,
            Self::Api(_) => 5,
            Self::Exit(code) => *code,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => f.write_str(&chain(error.as_ref())),
            Self::Usage(message) | Self::Machine(message) | Self::InUse(message) | Self::Api(message) => f.write_str(message),
            Self::Exit(code) => write!(f, "the command ended with exit code {code}"),
        }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// An error with everything behind it on one line: each step says what it did, the last says why it failed.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        // Some libraries repeat the source in their own message.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}

pub(crate) fn exit(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Exit(code)) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("knarr: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
