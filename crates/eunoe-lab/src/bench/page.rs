//! Pages of finished benchmarks: one in the folder of each, and one of several folders together.

use std::fs;
use std::path::{Path, PathBuf};

use eunoe_core::{Error, Result};
use eunoe_report::parts::{self, Cell, Figure, Group, Section, Table};
use eunoe_report::svg::Plot;
use eunoe_report::{ITEMS, MANIFEST};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::all::{self, ALL, AllSettings};
use super::{Manifest, mqar, texts, throughput};
use crate::train::write_whole;

/// The page of a folder.
const PAGE: &str = "report.html";
/// What stands above a page of several benchmarks, where nothing else is asked for.
pub const TITLE: &str = "The lab";

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

/// One finding.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// What was found.
    pub title: &'static str,
    /// How to read it; may be empty.
    pub note: String,
    /// In numbers.
    pub table: Option<Table>,
    /// In pictures.
    pub charts: Vec<Chart>,
}

/// A picture.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Its file beside the page for docs.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// The picture.
    pub plot: Plot,
}

/// A finished benchmark, made for readers.
pub trait Page {
    /// What stands above it.
    fn head(&self) -> Head<'_>;

    /// How it was measured, in paragraphs.
    fn how(&self) -> Vec<String>;

    /// What was found.
    fn parts(&self) -> Vec<Part>;

    /// The page for docs; it shows the charts as files.
    fn markdown(&self) -> String {
        let Head { title, lead, .. } = self.head();
        let mut out = format!("# {title}\n\n{lead}.\n\n{}\n", self.how().join("\n\n"));
        for Part { title, note, table, charts } in self.parts() {
            let charts = charts.iter().map(|chart| format!("![{}]({})\n", chart.title, chart.file));
            let parts = [(!note.is_empty()).then(|| note + "\n"), table.map(|table| table.markdown())];
            let parts =
                [format!("## {title}\n")].into_iter().chain(parts.into_iter().flatten()).chain(charts);
            parts.for_each(|part| out += &format!("\n{part}"));
        }
        out
    }

    /// The parts of the page by itself.
    ///
    /// # Errors
    /// A page that cannot be written.
    fn sections(&self) -> Result<Vec<Section>> {
        let figure =
            |Chart { title, plot, .. }: Chart| Figure { title, svg: plot.svg(), ..Figure::default() };
        let section = |Part { title, note, table, charts }: Part| {
            let figures = charts.into_iter().map(figure).collect();
            let group = Group { note, table, figures, ..Group::default() };
            let id = title.to_lowercase().replace(' ', "-");
            Ok(parts::groups("", title, &[], &[group])?.map(|section| Section { id: id.into(), ..section }))
        };
        let how = parts::groups("how", "How it was measured", &self.how(), &[]);
        let sections = self.parts().into_iter().map(section).chain([how]);
        Ok(sections.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The page by itself.
    ///
    /// # Errors
    /// A page that cannot be written.
    fn html(&self) -> Result<String> {
        let Head { title, lead, version } = self.head();
        eunoe_report::document(title, lead, version, &self.sections()?)
    }

    /// Writes both, and the charts, into a folder; the path of the page for docs.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn write(&self, dir: &Path) -> Result<PathBuf> {
        for chart in self.parts().into_iter().flat_map(|part| part.charts) {
            write_whole(&dir.join(chart.file), chart.plot.file().as_bytes())?;
        }
        write_whole(&dir.join(PAGE), self.html()?.as_bytes())?;
        let path = dir.join("report.md");
        write_whole(&path, self.markdown().as_bytes())?;
        Ok(path)
    }
}

/// A mean and its standard deviation; a dash for what is no number.
pub(super) fn spread((mean, sd): (f64, Option<f64>)) -> Cell {
    match mean.is_finite() {
        true => Cell::num(format!("{mean:.3}")).small(sd.map_or(String::new(), |sd| format!("± {sd:.3}"))),
        false => Cell::num("–"),
    }
}

/// One page of the benchmarks in several folders.
///
/// # Errors
/// [`Error::Invalid`] for a folder without a finished benchmark.
pub fn together(title: &str, dirs: &[PathBuf]) -> Result<String> {
    let (mut sections, mut at) = (Vec::new(), 0);
    for dir in dirs {
        open(dir, &mut |_, page| {
            at += 1;
            let name = page.head().title;
            sections.extend(page.sections()?.into_iter().map(|part| Section {
                id: format!("{at}-{}", part.id).into(),
                title: format!("{name}: {}", part.title).into(),
                body: part.body,
            }));
            Ok(())
        })?;
    }
    eunoe_report::document(title, "Sequence mixers side by side", env!("CARGO_PKG_VERSION"), &sections)
}

/// Opens the finished benchmark in a folder, or one after the other those in its folders, wherever they were run.
///
/// # Errors
/// [`Error::Invalid`] for a folder without one, and those of `then`.
pub fn open(dir: &Path, then: &mut dyn FnMut(&Path, &dyn Page) -> Result<()>) -> Result<()> {
    let value = manifest(dir)?;
    match value["benchmark"].as_str() {
        Some("mqar") => {
            let (manifest, lines) = read(dir, value)?;
            then(dir, &mqar::Report::new(&manifest, &lines)?)
        }
        Some("texts") => {
            let (manifest, lines) = read(dir, value)?;
            then(dir, &texts::Report::new(&manifest, &lines)?)
        }
        Some("throughput") => {
            let (manifest, rows) = read(dir, value)?;
            then(dir, &throughput::Report::new(&manifest, &rows)?)
        }
        Some(ALL) => {
            let (_, names): (Manifest<AllSettings>, Vec<String>) = read(dir, value)?;
            all::ordered(dir, &names)?.into_iter().try_for_each(|name| open(&dir.join(name), then))
        }
        other => {
            let name = other.unwrap_or("it has no name");
            Err(Error::Invalid(format!(
                "`{}`: not a benchmark of the lab ({name})",
                dir.join(MANIFEST).display()
            )))
        }
    }
}

fn manifest(dir: &Path) -> Result<Value> {
    let path = dir.join(MANIFEST);
    let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Invalid(format!("`{}`: {error}", path.display())))
}

/// Writes the report of the benchmark in a folder, or those of its folders and the page of all; the paths of what was written,
/// the page last.
///
/// # Errors
/// Those of [`open`], and files that cannot be written.
pub fn write(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    open(dir, &mut |here, page| {
        paths.push(page.write(here)?);
        Ok(())
    })?;
    if manifest(dir)?["benchmark"] == ALL {
        let page = dir.join(PAGE);
        write_whole(&page, together(TITLE, &[dir.to_owned()])?.as_bytes())?;
        paths.push(page);
    }
    Ok(paths)
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
