//! What pages are made of: sections, figures, tables, and the templates that write them.

use std::sync::OnceLock;

use eunoe_core::{Error, Result};
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use serde::Serialize;

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
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) body: String,
}

/// A cell of a table.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Cell {
    pub(super) text: String,
    /// Smaller, after the text.
    pub(super) sub: String,
    /// A picture of ours before the text.
    pub(super) svg: String,
    /// Digits of equal width.
    pub(super) num: bool,
    /// Names its line.
    pub(super) head: bool,
    pub(super) class: &'static str,
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub(super) fn num(text: impl Into<String>) -> Self {
        Self { num: true, ..Self::text(text) }
    }

    pub(super) fn head(text: impl Into<String>, svg: String) -> Self {
        Self { head: true, svg, ..Self::text(text) }
    }

    pub(super) fn sub(self, sub: impl Into<String>) -> Self {
        Self { sub: sub.into(), ..self }
    }

    pub(super) fn class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }

    /// A number that may be missing.
    pub(super) fn maybe(value: Option<f64>, text: fn(f64) -> String) -> Self {
        Self::num(value.map_or("–".to_string(), text))
    }
}

/// A table; the first cell of a line names it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Table {
    pub(super) caption: String,
    pub(super) columns: Vec<String>,
    pub(super) lines: Vec<Vec<Cell>>,
}

impl Table {
    pub(super) fn new(caption: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(ToString::to_string).collect();
        Self { caption: caption.into(), columns, lines: Vec::new() }
    }
}

/// A chart of ours and its numbers.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Figure {
    pub(super) title: String,
    /// After the title.
    pub(super) sub: String,
    /// A marker before the title.
    pub(super) key: String,
    pub(super) svg: String,
    pub(super) table: Option<Table>,
}

/// Figures and a table under one title.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Group {
    pub(super) title: String,
    pub(super) note: String,
    /// May be folded away; opened at first if `open`.
    pub(super) folds: bool,
    pub(super) open: bool,
    pub(super) legend: Vec<Key>,
    /// What the colours mean, a picture of ours.
    pub(super) scale: String,
    /// Width of its figures: `small`, `medium`, or none for wide ones.
    pub(super) size: &'static str,
    pub(super) figures: Vec<Figure>,
    pub(super) table: Option<Table>,
}

/// A line of a legend.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Key {
    pub(super) svg: String,
    pub(super) name: String,
}

/// Writes a section of paragraphs and groups.
pub(super) fn groups(
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
    Ok(Some(Section { id, title, body }))
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
    fn cells_are_escaped_and_pictures_are_not() {
        let mut table = Table::new("<c>", &["<h>"]);
        table.lines.push(vec![Cell::head("<i>", "<svg></svg>".into()).sub("<s>")]);
        let group = Group { title: "<t>".into(), note: "<n>".into(), table: Some(table), ..Group::default() };
        let body = groups("i", "t", &["<p>".into()], &[group]).unwrap().unwrap().body;
        for text in ["c", "h", "i", "s", "t", "n", "p"] {
            assert!(body.contains(&format!("&lt;{text}&gt;")), "{text}: {body}");
        }
        assert!(body.contains("<svg></svg>"));
    }
}
