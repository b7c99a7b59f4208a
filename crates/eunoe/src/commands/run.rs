//! `eunoe run`: one prompt, one answer, one bill.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;

use super::options::{MemoryOption, ModelOption, PlanOption, SamplingOptions};
use crate::bill::Bill;

/// Answer a prompt inside a memory plan, and print what was forgotten
///
/// Files come before the prompt, in order. A model without a chat template reads the text as it is and says so. A
/// prompt that does not fit is an error with both numbers, never a cut.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe run -m smollm2-135m 'Why is the sky blue?'
  eunoe run -m smollm2-135m --kv 'a2sf @ 1024tok' --file report.txt 'What was decided?'
  cat report.txt | eunoe run -m smollm2-135m --kv 'snapkv @ 25%' --json -")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,
    #[command(flatten)]
    pub(crate) plan: PlanOption,
    #[command(flatten)]
    pub(crate) memory: MemoryOption,

    /// Text file to put before the prompt; may be repeated
    #[arg(long, value_name = "F")]
    pub(crate) file: Vec<PathBuf>,

    /// Most tokens to generate
    #[arg(short = 'n', value_name = "TOKENS", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens: u32,

    #[command(flatten)]
    pub(crate) sampling: SamplingOptions,

    /// Stop before this text; may be repeated
    #[arg(long, value_name = "S", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,

    /// Report the K likeliest tokens of each step (with --json)
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) logprobs: Option<u32>,

    /// System message
    #[arg(long, value_name = "S", conflicts_with = "raw")]
    pub(crate) system: Option<String>,

    /// Read the text as it is, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,

    /// The prompt; `-` reads standard input
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: String,
}

/// What `run --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The answer.
    pub text: String,
    /// `stop` or `length`.
    pub finish_reason: String,
    /// Tokens read and made.
    pub usage: Usage,
    /// Seconds.
    pub timing: Timing,
    /// What was kept and what was forgotten.
    pub memory: Bill,
}

/// Tokens read and made; the stop token counts if one was made.
#[derive(Debug, Serialize)]
pub struct Usage {
    /// Tokens of the prompt, template included.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
}

/// Seconds of the two phases.
#[derive(Debug, Serialize)]
pub struct Timing {
    /// Reading the prompt.
    pub prefill_s: f64,
    /// Making the answer.
    pub decode_s: f64,
}

/// Files in order, then the prompt, with a blank line between each.
///
/// # Errors
/// A file or standard input cannot be read or is not UTF-8, or there is no text at all.
pub fn gather(files: &[PathBuf], prompt: &str) -> Result<String> {
    let mut texts = files.iter().map(read_text).collect::<Result<Vec<_>>>()?;
    texts.push(if prompt == "-" { read_stdin()? } else { prompt.to_owned() });
    texts.retain(|text| !text.is_empty());
    if texts.is_empty() {
        bail!("the prompt is empty");
    }
    Ok(texts.join("\n\n"))
}

/// A UTF-8 text file.
///
/// # Errors
/// It cannot be read, or the first byte that is not UTF-8.
pub fn read_text(path: &PathBuf) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    utf8(bytes, &format!("`{}`", path.display()))
}

fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    utf8(bytes, "standard input")
}

fn utf8(bytes: Vec<u8>, what: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow!("{what} is not UTF-8 text (byte {at}); convert it first")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_before_the_prompt_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["b", "a"].map(|name| {
            let path = dir.path().join(name);
            fs::write(&path, name.repeat(2)).unwrap();
            path
        });
        assert_eq!(gather(&files, "why?").unwrap(), "bb\n\naa\n\nwhy?");
        assert_eq!(gather(&[], "").unwrap_err().to_string(), "the prompt is empty");
        fs::write(&files[0], b"ab\xff").unwrap();
        assert!(
            gather(&files, "x")
                .unwrap_err()
                .to_string()
                .ends_with("not UTF-8 text (byte 2); convert it first")
        );
    }
}
