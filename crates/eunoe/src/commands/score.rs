//! `eunoe score`: how well a model predicts a text under a memory plan.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;

use super::options::{ModelOption, PlanOption};

/// Perplexity of a text under a memory plan
///
/// With --ctx the text is read in windows of N tokens that start every --stride tokens; in each only the tokens that
/// no window before it scored are counted. Without it the whole text is one window.
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

    /// Tokens per window [default: the whole text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) ctx: Option<u32>,

    /// Tokens from one window's start to the next [default: --ctx]
    #[arg(long, value_name = "N", requires = "ctx", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) stride: Option<u32>,

    /// Read only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) limit: Option<u32>,

    /// Write one JSON line per scored token to this file: {pos, token, nll}
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
    pub tokens: u64,
    /// The plan in effect.
    pub plan_used: String,
    /// Most KV bytes at any moment.
    pub peak_bytes: u64,
}

/// One line of `--per-position`.
#[derive(Debug, Serialize)]
pub struct Position {
    /// Position of the token in the text, from 0.
    pub pos: u64,
    /// Its id.
    pub token: u32,
    /// Nats: `-ln P(token | what the model remembers)`.
    pub nll: f64,
}

/// A window of a text: read tokens `start..end`, count those from `score_from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First token read.
    pub start: usize,
    /// First token that counts; the first token of a text has no prediction.
    pub score_from: usize,
    /// One past the last token.
    pub end: usize,
}

/// The windows of a text of `len` tokens; every token but the first counts exactly once.
///
/// # Errors
/// A text of fewer than two tokens, or a stride that leaves gaps.
pub fn windows(len: usize, ctx: Option<usize>, stride: Option<usize>) -> Result<Vec<Window>> {
    let ctx = ctx.unwrap_or(len);
    let stride = stride.unwrap_or(ctx);
    if len < 2 {
        bail!("the text has {len} tokens; at least 2 are needed to score one");
    }
    if stride > ctx {
        bail!("--stride {stride} skips tokens: give at most --ctx {ctx}");
    }
    let mut windows = Vec::new();
    let (mut start, mut scored) = (0, 1);
    while scored < len {
        let end = len.min(start + ctx);
        windows.push(Window { start, score_from: scored, end });
        scored = end;
        // Windows overlap by one token at least: a window's first token has no past in it to be predicted from.
        start += stride.min(ctx - 1);
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_counts_once_and_has_a_past() {
        for len in [2, 3, 7, 8, 9, 40] {
            for ctx in 2..10 {
                for stride in 1..=ctx {
                    let mut next = 1;
                    for w in windows(len, Some(ctx), Some(stride)).unwrap() {
                        assert!(
                            w.start < w.score_from && w.end - w.start <= ctx,
                            "{len} {ctx} {stride} {w:?}"
                        );
                        assert_eq!(w.score_from, next);
                        next = w.end;
                    }
                    assert_eq!(next, len);
                }
            }
        }
    }

    #[test]
    fn windows_by_hand() {
        // 10 tokens, windows of 4 every 2: 0..4 scores 1 2 3, 2..6 scores 4 5, 4..8 scores 6 7, 6..10 scores 8 9.
        let all = windows(10, Some(4), Some(2)).unwrap();
        let plain: Vec<_> = all.iter().map(|w| (w.start, w.score_from, w.end)).collect();
        assert_eq!(plain, [(0, 1, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]);
        assert_eq!(windows(5, None, None).unwrap(), [Window { start: 0, score_from: 1, end: 5 }]);
        assert!(windows(1, None, None).is_err());
        assert!(windows(9, Some(4), Some(5)).is_err());
    }
}
