//! One self-contained page for people who were not there: no network, readable without scripts, light, dark
//! and on paper.

mod audit;
mod data;
mod headline;
mod heads;
mod needle;
mod pareto;
pub mod parts;

mod ranking;
mod retention;
mod source;
mod speed;
mod standing;
mod tasks;

use eunoe_core::{Error, Result};
use serde::Serialize;

use crate::load::check;
use crate::{Line, Manifest, Row};
use data::Data;
use parts::{Section, render};

/// What the page says beyond the records.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    /// Title of the page; the model's name without one.
    pub title: Option<String>,
    /// The command that was run; without one it is made from the manifest.
    pub command: Option<String>,
    /// Paragraphs after the headline.
    pub notes: Vec<String>,
}

#[derive(Serialize)]
struct Layout<'a> {
    title: &'a str,
    lead: &'a str,
    version: &'a str,
    css: &'static str,
    js: &'static str,
    sections: &'a [Section],
}

/// The page; `rows` as [`rows`](crate::rows()) gives them for the same manifest and lines.
///
/// # Errors
/// [`Error::Invalid`] for a line that [`load`](crate::load()) would refuse.
pub fn page(manifest: &Manifest, rows: &[Row], lines: &[Line], extra: &Extra) -> Result<String> {
    for (at, line) in lines.iter().enumerate() {
        check(line).map_err(|why| Error::Invalid(format!("line {} of the results: {why}", at + 1)))?;
    }
    let data = Data::new(manifest, rows, lines);
    let standings = standing::all(&data);
    let mut sections = vec![headline::section(&data, &standings, extra)?, headline::how(&data)?];
    let made = [
        ranking::section(&data, &standings)?,
        pareto::section(&data, &standings)?,
        tasks::section(&data)?,
        needle::section(&data)?,
        retention::section(&data)?,
        speed::section(&data)?,
        heads::section(&data)?,
        audit::section(&data)?,
        source::prompts(&data)?,
        source::manifest(&data, extra)?,
    ];
    sections.extend(made.into_iter().flatten());
    let title = extra.title.as_deref().unwrap_or(&manifest.model.name);
    document(title, "What forgetting cost", &manifest.eunoe, &sections)
}

/// A page of sections under a title and a line that says what it is about; the first section has the findings.
///
/// # Errors
/// A page that cannot be written.
pub fn document(title: &str, lead: &str, version: &str, sections: &[Section]) -> Result<String> {
    let layout = Layout {
        title,
        lead,
        version,
        css: include_str!("page/style.css"),
        js: include_str!("page/script.js"),
        sections,
    };
    render("layout.html", &layout)
}

#[cfg(test)]
mod tests;
