//! What the commands print.

use std::io::Write as _;

use anyhow::{Context as _, Result};

/// A line on standard output.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("standard output failed")
}

/// One JSON document on standard output.
///
/// # Errors
/// As [`line`].
pub(crate) fn json(value: &impl serde::Serialize) -> Result<()> {
    line(&serde_json::to_string(value)?)
}

/// A line on standard error for people; that nobody reads it is no failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The one line of a failure.
pub(crate) fn error(error: &anyhow::Error) {
    note(&format!("error: {error:#}"));
}
