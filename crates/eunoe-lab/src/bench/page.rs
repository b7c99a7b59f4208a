//! Pages of finished benchmarks: one in the folder of each, and one of several folders together.

use std::fs;
use std::path::{Path, PathBuf};

use eunoe_core::{Error, Result};
use eunoe_report::parts::Section;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ITEMS, MANIFEST, Manifest, mqar, texts, throughput};
use crate::train::write_whole;

/// What stands above a page.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// What was measured.
    pub title: &'a str,
    /// What that is about, in a line.
    pub lead: &'a str,
    /// Of the program that measured it.
    pub version: &'a str,
}

/// A finished benchmark, made for readers.
pub trait Page {
    /// What stands above it.
    fn head(&self) -> Head<'_>;

    /// Files of charts beside the page for docs: name and SVG.
    fn charts(&self) -> Vec<(String, String)>;

    /// The page for docs; it shows the charts.
    fn markdown(&self) -> String;

    /// The parts of the page by itself.
    ///
    /// # Errors
    /// A page that cannot be written.
    fn sections(&self) -> Result<Vec<Section>>;

    /// The page by itself.
    ///
    /// # Errors
    /// A page that cannot be written.
    fn html(&self) -> Result<String> {
        let Head { title, lead, version } = self.head();
        eunoe_report::document(title, lead, version, &self.sections()?)
    }

    /// Writes all of them into a folder; the path of the page for docs.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn write(&self, dir: &Path) -> Result<PathBuf> {
        for (name, svg) in self.charts() {
            write_whole(&dir.join(name), svg.as_bytes())?;
        }
        write_whole(&dir.join("report.html"), self.html()?.as_bytes())?;
        let path = dir.join("report.md");
        write_whole(&path, self.markdown().as_bytes())?;
        Ok(path)
    }
}

/// One page of the benchmarks in several folders.
///
/// # Errors
/// [`Error::Invalid`] for a folder without a finished benchmark.
pub fn together(title: &str, dirs: &[PathBuf]) -> Result<String> {
    let mut sections = Vec::new();
    for (at, dir) in dirs.iter().enumerate() {
        open(dir, &mut |page| {
            let name = page.head().title;
            sections.extend(page.sections()?.into_iter().map(|part| Section {
                id: format!("{}-{}", at + 1, part.id).into(),
                title: format!("{name}: {}", part.title).into(),
                body: part.body,
            }));
            Ok(())
        })?;
    }
    eunoe_report::document(title, "Sequence mixers side by side", env!("CARGO_PKG_VERSION"), &sections)
}

/// Opens the finished benchmark in a folder, wherever it was run.
///
/// # Errors
/// [`Error::Invalid`] for a folder without one, and those of `then`.
pub fn open(dir: &Path, then: &mut dyn FnMut(&dyn Page) -> Result<()>) -> Result<()> {
    let path = dir.join(MANIFEST);
    let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
    let wrong = |why: String| Error::Invalid(format!("`{}`: {why}", path.display()));
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    match value["benchmark"].as_str() {
        Some("mqar") => {
            let (manifest, lines) = read(dir, value)?;
            then(&mqar::Report::new(&manifest, &lines)?)
        }
        Some("texts") => {
            let (manifest, lines) = read(dir, value)?;
            then(&texts::Report::new(&manifest, &lines)?)
        }
        Some("throughput") => {
            let (manifest, rows) = read(dir, value)?;
            then(&throughput::Report::new(&manifest, &rows)?)
        }
        other => Err(wrong(format!("not a benchmark of the lab ({})", other.unwrap_or("it has no name")))),
    }
}

fn read<S: DeserializeOwned, L: DeserializeOwned>(
    dir: &Path,
    manifest: Value,
) -> Result<(Manifest<S>, Vec<L>)> {
    let path = dir.join(ITEMS);
    let invalid = |error: serde_json::Error| Error::Invalid(format!("`{}`: {error}", dir.display()));
    let manifest = serde_json::from_value(manifest).map_err(invalid)?;
    let text = fs::read(&path).map_err(|error| Error::io(&path, error))?;
    Ok((manifest, super::folder::read(&text, &path)?))
}
