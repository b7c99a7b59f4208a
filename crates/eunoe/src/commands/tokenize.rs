//! `eunoe tokenize`: text to token ids.

use std::path::PathBuf;

use serde::Serialize;

use super::options::ModelOption;

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

impl Report {
    /// The ids on one line, as `eunoe logits --tokens` reads them.
    pub fn render(&self) -> String {
        self.tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}
