//! What pages are made of: sections, figures, tables, and the templates that write them.

use std::borrow::Cow;
use std::sync::OnceLock;

use eunoe_core::{Error, Result};
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use crate::markdown::escape;

/// The templates; their names end in `.html`, so that all they are given is escaped.
const TEMPLATES: [(&str, &str); 6] = [
    ("layout.html", include_str!("../page/layout.html")),
    ("headline.html", include_str!("../page/headline.html")),
    ("how.html", include_str!("../page/how.html")),
    ("groups.html", include_str!("../page/groups.html")),
    ("prompts.html", include_str!("../page/prompts.html")),
    ("manifest.html", include_str!("../page/manifest.html")),
];

/// A part of the page with a title; the body is HTML.
#[derive(Serialize)]
pub struct Section {
    /// Its place in addresses.
    pub id: Cow<'static, str>,
    /// In the contents and above it.
    pub title: Cow<'static, str>,
    /// HTML.
    pub body: String,
}

/// A cell of a table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// Smaller, after the text.
    pub sub: String,
    /// A picture of ours before the text.
    pub svg: String,
    /// Digits of equal width.
    pub num: bool,
    /// Names its line.
    pub head: bool,
    /// A class of the style sheet.
    pub class: &'static str,
}

impl Cell {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A number.
    pub fn num(text: impl Into<String>) -> Self {
        Self { num: true, ..Self::text(text) }
    }

    /// A name of a line, behind a picture.
    pub fn head(text: impl Into<String>, svg: String) -> Self {
        Self { head: true, svg, ..Self::text(text) }
    }

    /// With smaller text behind.
    pub fn small(self, sub: impl Into<String>) -> Self {
        Self { sub: sub.into(), ..self }
    }

    /// In a class of the style sheet.
    pub fn class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }

    /// A number that may be missing.
    pub fn maybe(value: Option<f64>, text: fn(f64) -> String) -> Self {
        Self::num(value.map_or("–".to_string(), text))
    }
}

/// A table; the first cell of a line names it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Table {
    /// What it shows, for those who cannot see it.
    pub caption: String,
    /// Names of columns.
    pub columns: Vec<String>,
    /// Lines of cells, one per column.
    pub lines: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without lines.
    pub fn new(caption: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(ToString::to_string).collect();
        Self { caption: caption.into(), columns, lines: Vec::new() }
    }

    /// The table for docs, without pictures.
    pub fn markdown(&self) -> String {
        let mut out = format!("| {} |\n|{}\n", self.columns.join(" | "), "---|".repeat(self.columns.len()));
        for line in &self.lines {
            let cell = |cell: &Cell| match cell.sub.as_str() {
                "" => escape(&cell.text),
                sub => format!("{} {}", escape(&cell.text), escape(sub)),
            };
            out.push_str(&format!("| {} |\n", line.iter().map(cell).collect::<Vec<_>>().join(" | ")));
        }
        out
    }
}

/// A chart of ours and its numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figure {
    /// Above it.
    pub title: String,
    /// After the title.
    pub sub: String,
    /// A marker before the title.
    pub key: String,
    /// A picture.
    pub svg: String,
    /// A table.
    pub table: Option<Table>,
}

/// Figures and a table under one title.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Group {
    /// Above it.
    pub title: String,
    /// Below the title.
    pub note: String,
    /// May be folded away; opened at first if `open`.
    pub folds: bool,
    /// Whether it is unfolded at first.
    pub open: bool,
    /// What marks stand for.
    pub legend: Vec<Key>,
    /// What the colours mean, a picture of ours.
    pub scale: String,
    /// Width of its figures: `small`, `medium`, or none for wide ones.
    pub size: &'static str,
    /// Charts.
    pub figures: Vec<Figure>,
    /// A table.
    pub table: Option<Table>,
}

/// A line of a legend.
#[derive(Clone, Debug, Serialize)]
pub struct Key {
    /// A picture.
    pub svg: String,
    /// What it stands for.
    pub name: String,
}

/// Writes a section of paragraphs and groups.
///
/// # Errors
/// A page that cannot be written.
pub fn groups(
    id: &'static str,
    title: &'static str,
    intro: &[String],
    groups: &[Group],
) -> Result<Option<Section>> {
    #[derive(Serialize)]
    struct Groups<'a> {
        intro: &'a [String],
        groups: &'a [Group],
    }
    let body = render("groups.html", &Groups { intro, groups })?;
    Ok(Some(Section { id: id.into(), title: title.into(), body }))
}

/// Fills a template.
pub(super) fn render(name: &str, context: &impl Serialize) -> Result<String> {
    static PAGES: OnceLock<Environment<'static>> = OnceLock::new();
    let pages = PAGES.get_or_init(|| {
        let mut pages = Environment::new();
        // Lines that hold only a tag of the template leave nothing; without this there are blank lines, no
        // more.
        if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
            pages.set_syntax(syntax);
        }
        pages.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        for (name, text) in TEMPLATES {
            // A template of ours that does not parse is missing below, and told there.
            let _ = pages.add_template(name, text);
        }
        pages
    });
    let page = pages.get_template(name).and_then(|template| template.render(Value::from(Serde(context))));
    page.map_err(|why| Error::Invalid(format!("the page cannot be written: {why:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_templates_parse() {
        for (name, text) in TEMPLATES {
            Environment::new().add_template(name, text).unwrap();
        }
    }

    #[test]
    fn a_table_for_docs_by_hand() {
        let mut table = Table::new("c", &["mixer", "score"]);
        table.lines.push(vec![Cell::head("a_b", "<svg></svg>".into()), Cell::num("0.5").small("± 0.1")]);
        assert_eq!(table.markdown(), "| mixer | score |\n|---|---|\n| a\\_b | 0.5 ± 0.1 |\n");
    }

    #[test]
    fn cells_are_escaped_and_pictures_are_not() {
        let mut table = Table::new("<c>", &["<h>"]);
        table.lines.push(vec![Cell::head("<i>", "<svg></svg>".into()).small("<s>")]);
        let group = Group { title: "<t>".into(), note: "<n>".into(), table: Some(table), ..Group::default() };
        let body = groups("i", "t", &["<p>".into()], &[group]).unwrap().unwrap().body;
        for text in ["c", "h", "i", "s", "t", "n", "p"] {
            assert!(body.contains(&format!("&lt;{text}&gt;")), "{text}: {body}");
        }
        assert!(body.contains("<svg></svg>"));
    }
}
