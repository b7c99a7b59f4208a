//! `eunoe score`: how well a model predicts a text under a memory plan.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use eunoe_core::Error;
use eunoe_engine::{Engine, Scores, Windows};
use eunoe_kv::{Place, Plan};
use serde::Serialize;

use super::options::{ModelOption, PlanOption};
use super::run::read_text;
use crate::context::Context;
use crate::interrupt::{Interrupt, Interrupted};
use crate::{open, out, progress, units};

/// Perplexity of a text under a memory plan
///
/// With --ctx the text is read in windows of N tokens that start every --stride tokens, each with an empty memory; a
/// token counts once, in the first window that predicts it. Without it the whole text is one window where the plan
/// holds it: it fits the model's trained window, or positions never leave it (ranks; `far=fixed`). Otherwise windows of
/// at most 2048 tokens at half that stride are used, and told.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe score -m smollm2-135m --file novel.txt --limit 4096
  eunoe score -m smollm2-135m --file novel.txt --limit 4096 --kv 'h2o @ 512tok'
  eunoe score -m smollm2-135m --file novel.txt --ctx 2048 --stride 1024 --json")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,
    #[command(flatten)]
    pub(crate) plan: PlanOption,

    /// The text
    #[arg(long, value_name = "F")]
    pub(crate) file: PathBuf,

    /// Tokens per window [default: the whole text where it fits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) ctx: Option<u32>,

    /// Tokens from one window's start to the next [default: --ctx]
    #[arg(long, value_name = "N", requires = "ctx", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) stride: Option<u32>,

    /// Take the first N tokens as a prompt: policies read them as one, and only what follows, read as an answer is
    /// written, is scored
    #[arg(long, value_name = "N", conflicts_with_all = ["ctx", "stride"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt: Option<u32>,

    /// Read only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) limit: Option<u32>,

    /// Write {pos, token, nll} per scored token to this file: JSON lines, or CSV where it ends in `.csv`
    #[arg(long, value_name = "FILE")]
    pub(crate) per_position: Option<PathBuf>,
}

/// What `score --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Mean nats per scored token.
    pub nll: f64,
    /// `exp(nll)`.
    pub ppl: f64,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Tokens of the text.
    pub text_tokens: usize,
    /// The plan in effect.
    pub plan_used: String,
    /// Most KV bytes at any moment.
    pub peak_bytes: u64,
    /// Tokens per window.
    pub ctx: usize,
    /// Tokens from one window's start to the next.
    pub stride: usize,
    /// Share of the text so far that a token's query met, mean; 1 under full memory.
    pub attended: f64,
    /// Seconds that scoring took.
    pub seconds: f64,
}

/// One line of `--per-position`.
#[derive(Debug, Serialize)]
pub struct Position {
    /// Position of the token in the text, from 0.
    pub pos: usize,
    /// Its id.
    pub token: u32,
    /// Nats: `-ln P(token | what the model remembers)`.
    pub nll: f32,
}

/// Runs the command.
///
/// # Errors
/// A text that cannot be read or is too short, a plan that does not hold a window, or an interruption.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let text = read_text(&args.file)?;
    let interrupt = Interrupt::watch()?;
    let engine = open::engine(&args.model.model, args.plan.exact, ctx)?;
    let mut tokens = engine.tokenizer.encode(&text);
    tokens.truncate(args.limit.map_or(usize::MAX, |limit| limit as usize));
    if tokens.len() < 2 {
        bail!("the text has {} tokens; at least 2 are needed to score one", tokens.len());
    }
    let plan = args.plan.asked(&args.model)?.map_or_else(|| Plan::parse("full"), Ok)?;
    let windows = windows(args, &engine, &plan, tokens.len())?;
    let start = Instant::now();
    let scores = score(&engine, &plan, &tokens, windows, &interrupt)?;
    if scores.nll.is_empty() {
        bail!("no token was scored: give larger windows (--ctx)");
    }
    if let Some(path) = &args.per_position {
        write_positions(path, &tokens, &scores)
            .with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    let report = report(&scores, windows, tokens.len(), start.elapsed().as_secs_f64());
    if ctx.json { out::json(&report) } else { out::text(&report.render()) }
}

/// The windows asked for, or the whole text where the plan holds it, or windows that the model holds, with a note.
fn windows(args: &Args, engine: &Engine, plan: &Plan, len: usize) -> Result<Windows> {
    const MOST: usize = 2048;
    if let Some(prompt) = args.prompt {
        return Ok(Windows::Answer { prompt: prompt as usize });
    }
    if let Some(ctx) = args.ctx {
        let stride = args.stride.unwrap_or(ctx);
        if stride > ctx {
            bail!("--stride {stride} skips tokens: give at most --ctx {ctx}");
        }
        return Ok(Windows::Sliding { ctx: ctx as usize, stride: stride as usize });
    }
    let context = engine.config().context;
    let needs = plan.make_policy(u32::MAX)?.needs();
    let is_relative = needs.place == Place::Rank || needs.recall.is_some_and(|sizes| !sizes.own);
    if is_relative || len + usize::from(engine.tokenizer.adds_bos()) <= context {
        return Ok(Windows::Whole);
    }
    let ctx = context.min(MOST);
    let stride = ctx / 2;
    eprintln!(
        "note: {len} tokens exceed the model's window of {context}: scored in windows of {ctx} every {stride} tokens \
         (--ctx, --stride)"
    );
    Ok(Windows::Sliding { ctx, stride })
}

fn score(
    engine: &Engine,
    plan: &Plan,
    tokens: &[u32],
    windows: Windows,
    interrupt: &Interrupt,
) -> Result<Scores> {
    let bar = progress::bar("scoring", tokens.len() as u64, "tokens");
    let mut done = 0;
    let hearing = interrupt.hear();
    let outcome = engine.score(plan, tokens, windows, &mut |read| {
        done = read;
        bar.set_position(read as u64);
        !interrupt.asked()
    });
    drop(hearing);
    bar.finish_and_clear();
    match outcome {
        Err(Error::Interrupted) => {
            Err(Interrupted(format!("while scoring, after {done} of {} tokens", tokens.len())).into())
        }
        outcome => Ok(outcome?),
    }
}

fn report(scores: &Scores, windows: Windows, text_tokens: usize, seconds: f64) -> Report {
    let (ctx, stride) = match windows {
        Windows::Whole | Windows::Answer { .. } => (text_tokens, text_tokens),
        Windows::Sliding { ctx, stride } => (ctx, stride),
    };
    let nll = scores.mean();
    Report {
        nll,
        ppl: nll.exp(),
        tokens: scores.nll.len(),
        text_tokens,
        plan_used: scores.plan_used.clone(),
        peak_bytes: scores.peak_bytes,
        ctx,
        stride,
        attended: scores.attended,
        seconds,
    }
}

fn write_positions(path: &Path, tokens: &[u32], scores: &Scores) -> Result<()> {
    let is_csv = path.extension().is_some_and(|e| e == "csv");
    let mut file = BufWriter::new(File::create(path)?);
    if is_csv {
        writeln!(file, "pos,token,nll")?;
    }
    for &(pos, nll) in &scores.nll {
        let line = Position { pos, token: tokens[pos], nll };
        match is_csv {
            true => writeln!(file, "{},{},{}", line.pos, line.token, line.nll)?,
            false => writeln!(file, "{}", serde_json::to_string(&line)?)?,
        }
    }
    Ok(file.flush()?)
}

impl Report {
    /// The report as text.
    pub fn render(&self) -> String {
        format!(
            "perplexity  {:.4} ({:.5} nats per token)\n\
             scored      {} of {} tokens, windows of {} every {}\n\
             plan        {}; {} of KV memory at most\n\
             time        {:.1} s\n",
            self.ppl,
            self.nll,
            self.tokens,
            self.text_tokens,
            self.ctx,
            self.stride,
            self.plan_used,
            units::bytes(self.peak_bytes),
            self.seconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_written_as_json_lines_or_csv_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let nll = 0.1_f32 + f32::EPSILON;
        let scores = Scores { nll: vec![(1, nll), (2, 3.5)], ..Scores::default() };
        let written = |name: &str| {
            let path = dir.path().join(name);
            write_positions(&path, &[7, 8, 9], &scores).unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        assert_eq!(written("x.csv").lines().last(), Some("2,9,3.5"));
        let lines = written("x.jsonl");
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!((&first["pos"], &first["token"]), (&1.into(), &8.into()));
        assert_eq!(first["nll"].to_string().parse::<f32>().unwrap().to_bits(), nll.to_bits());
    }
}
