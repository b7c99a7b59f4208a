//! `eunoe tokenize`: text to token ids.

use std::path::PathBuf;

use anyhow::Result;
use eunoe_model::tokenizer::Tokenizer;
use serde::Serialize;

use super::options::ModelOption;
use super::run::{read_stdin, read_text};
use crate::context::Context;
use crate::{open, out};

/// Token ids of a text: no BOS, special tokens are read as plain text
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe tokenize -m smollm2-135m 'The quality of mercy'
  eunoe tokenize -m smollm2-135m --file novel.txt --json")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,

    /// The text; `-` reads standard input
    #[arg(value_name = "TEXT", required_unless_present = "file")]
    pub(crate) text: Option<String>,

    /// Read the text from a file
    #[arg(long, value_name = "F", conflicts_with = "text")]
    pub(crate) file: Option<PathBuf>,
}

/// What `tokenize --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Token ids, in order.
    pub tokens: Vec<u32>,
}

/// Runs the command.
///
/// # Errors
/// A text that cannot be read or is not UTF-8, or a model without a tokenizer that is known.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let text = match (&args.file, args.text.as_deref()) {
        (Some(file), _) => read_text(file)?,
        (None, Some("-")) => read_stdin()?,
        (None, text) => text.unwrap_or_default().to_owned(),
    };
    let tokenizer = Tokenizer::from_gguf(&open::header(&args.model.model)?)?;
    let report = Report { tokens: tokenizer.encode(&text) };
    if ctx.json { out::json(&report) } else { out::line(&report.render()) }
}

impl Report {
    /// The ids on one line, as `eunoe logits --tokens` reads them.
    pub fn render(&self) -> String {
        self.tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}
