//! Standard output that may be closed early, as `| head` does.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

/// The reader of standard output went away: nothing is wrong, and nothing is left to say.
#[derive(Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for Closed {}

/// Writes text and flushes it, so that streamed tokens appear at once.
///
/// # Errors
/// [`Closed`] when the reader is gone; otherwise the system's reason.
pub fn text(text: &str) -> anyhow::Result<()> {
    write_to(&mut io::stdout().lock(), text)
}

/// Writes one line.
///
/// # Errors
/// As [`text`].
pub fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Writes one JSON document on one line.
///
/// # Errors
/// As [`text`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?)
}

fn write_to(out: &mut impl Write, text: &str) -> anyhow::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        Err(e) => Err(anyhow::Error::new(e).context("cannot write to standard output")),
    }
}

/// Lines of cells as text: columns are as wide as their widest cell, two spaces apart.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width: [usize; N] =
        std::array::from_fn(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(width).map(|(cell, w)| format!("{cell:<w$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_told_apart_from_a_full_disk() {
        let closed = write_to(&mut Fails(io::ErrorKind::BrokenPipe), "x").unwrap_err();
        assert!(closed.is::<Closed>());
        let full = write_to(&mut Fails(io::ErrorKind::StorageFull), "x").unwrap_err();
        assert!(!full.is::<Closed>());
        assert_eq!(full.to_string(), "cannot write to standard output");
    }

    #[test]
    fn columns_align_and_lines_end_without_spaces() {
        let rows = [["a".into(), "bb".into()], ["ccc".into(), String::new()]];
        assert_eq!(columns(&rows), "a    bb\nccc\n");
    }
}
