//! `eunoe run`: one prompt, one answer, one bill.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use eunoe_engine::{FinishReason, Length, Request};

use super::options::{MemoryOption, ModelOption, PlanOption, SamplingOptions};
use crate::answer::{self, Report, Timing};
use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::{bill, memory, open, out};

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

/// Runs the command.
///
/// # Errors
/// No text, a model that cannot be opened, a plan that does not hold the text, or an interruption.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    if args.logprobs.is_some() && !ctx.json {
        bail!("--logprobs is printed as JSON only: add --json");
    }
    let text = gather(&args.file, &args.prompt)?;
    let interrupt = Interrupt::watch()?;
    let engine = open::engine(&args.model.model, args.plan.exact, ctx)?;
    if engine.template.is_none() && !args.raw {
        if args.system.is_some() {
            bail!("this model has no chat template, and so no place for --system; put it into the prompt");
        }
        eprintln!("note: this model has no chat template; the text is read as it is");
    }
    let prompt = answer::prompt_tokens(&engine, args.system.as_deref(), &text, args.raw)?;
    let length = length(prompt.len(), args.tokens)?;
    let plan = memory::choose(
        &engine,
        &args.model.model,
        args.plan.asked(&args.model)?.as_ref(),
        length,
        args.memory.memory,
    )?;
    let mut session = engine.session(&plan, length)?;
    let request = Request {
        max_tokens: args.tokens as usize,
        sampling: args.sampling.rule(),
        stop: args.stop.clone(),
        log_probs: args.logprobs.map(|k| k as usize),
    };
    request.sampling.check()?;
    let prefill_s = answer::read(&engine, &mut session, &prompt, &interrupt)?;
    let mut stream = Stream { json: ctx.json, open: false };
    let written =
        answer::write(&engine, &mut session, &prompt, &request, &interrupt, &mut |piece| stream.piece(piece));
    if stream.open {
        out::text("\n")?;
    }
    let (answer, decode_s) = written?;
    let report = Report::new(&engine, &session, answer, prompt.len(), Timing { prefill_s, decode_s });
    if ctx.json {
        return out::json(&report);
    }
    eprint!("\n{}{}", bill::render(&report.memory), pace(&report));
    Ok(())
}

/// Room for a prompt and an answer.
fn length(prompt: usize, answer: u32) -> Result<Length> {
    let prompt = u32::try_from(prompt).context("the prompt has more tokens than can be counted")?;
    if prompt == 0 {
        bail!("the prompt has no tokens");
    }
    Ok(Length { prompt, longest: prompt.saturating_add(answer) })
}

/// Text on its way to standard output.
struct Stream {
    json: bool,
    /// The last line has no end yet.
    open: bool,
}

impl Stream {
    fn piece(&mut self, piece: &str) -> Result<()> {
        if self.json || piece.is_empty() {
            return Ok(());
        }
        self.open = !piece.ends_with('\n');
        out::text(piece)
    }
}

/// Tokens and seconds, one line.
fn pace(report: &Report) -> String {
    let phase = |tokens: usize, seconds: f64| format!("{tokens} tokens in {seconds:.1} s");
    let (usage, timing) = (&report.usage, &report.timing);
    let ended = match report.finish_reason {
        FinishReason::Stop => "",
        FinishReason::Length => ", cut at the most tokens asked for (-n)",
    };
    format!(
        "time     read {}, wrote {}{ended}\n",
        phase(usage.prompt_tokens, timing.prefill_s),
        phase(usage.completion_tokens, timing.decode_s)
    )
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
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    utf8(bytes, &format!("`{}`", path.display()))
}

/// Standard input to its end.
///
/// # Errors
/// As [`read_text`].
pub fn read_stdin() -> Result<String> {
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
