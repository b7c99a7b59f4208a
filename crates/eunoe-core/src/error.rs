//! The one error type of the library crates; variants say whose fault it is.

use std::path::PathBuf;

/// What went wrong, what was expected, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or text is not what it claims to be.
    #[error("{what}: {why} (at byte {offset})")]
    Format {
        /// The thing that was read.
        what: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What was expected and what came.
        why: String,
    },
    /// Two sizes disagree.
    #[error("{what}: expected {want}, got {got}")]
    Shape {
        /// The thing whose shape is wrong.
        what: String,
        /// The shape that was expected.
        want: String,
        /// The shape that came.
        got: String,
    },
    /// A plan, or another phrase, cannot be read; `column` counts characters from 1.
    #[error("{what} `{plan}`, character {column}: {why}")]
    Plan {
        /// What the phrase is: `plan`, `mixer`.
        what: &'static str,
        /// The whole phrase.
        plan: String,
        /// The character at fault, from 1.
        column: usize,
        /// What is wrong and the nearest right thing.
        why: String,
    },
    /// Well formed, but not something Eunoe does.
    #[error("{0}")]
    Unsupported(String),
    /// More was asked than there is.
    #[error("{what}: {asked} asked, {have} available; {hint}")]
    Limit {
        /// The thing that ran out, with its unit.
        what: String,
        /// How much was asked.
        asked: u64,
        /// How much there is.
        have: u64,
        /// The way out.
        hint: String,
    },
    /// A request that cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// Work was stopped on request.
    #[error("interrupted")]
    Interrupted,
    /// The operating system said no.
    #[error("`{}`: {why}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason: part of the message, and so not its source, which would print it twice.
        why: std::io::Error,
    },
}

/// A result with Eunoe's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::Format`] without the ceremony.
    pub fn format(what: impl Into<String>, offset: u64, why: impl Into<String>) -> Self {
        Self::Format { what: what.into(), offset, why: why.into() }
    }

    /// A [`Error::Io`] for a path.
    pub fn io(path: impl Into<PathBuf>, why: std::io::Error) -> Self {
        Self::Io { path: path.into(), why }
    }

    /// A [`Error::Shape`] from anything printable.
    pub fn shape(what: impl Into<String>, want: impl std::fmt::Debug, got: impl std::fmt::Debug) -> Self {
        Self::Shape { what: what.into(), want: format!("{want:?}"), got: format!("{got:?}") }
    }
}
