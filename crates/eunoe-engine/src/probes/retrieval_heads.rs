//! Which heads copy from far back, which repeat, which look at the first tokens: measured, and checked by taking the
//! chosen heads away.
//!
//! * Paper:    Wu et al., 2024, arXiv 2404.15574 (retrieval); Tang et al., 2024, arXiv 2407.15891 (induction, echo)
//! * Equation: retrieval = share of a planted sentence's tokens w whose row has arg max attn on a planted key k with
//!   token\[k\] = w; induction, echo = Σ attn\[i, j + 1\], Σ attn\[i, j\] over earlier copies j of token i
//! * Shapes:   queries and keys of one pass \[rows, heads, d\] → one score per layer and query head
//! * Cost:     one reading of each text, and n² / 2 dot products per head of the repeated tokens
//! * Differs:  the answer is given, not generated (a text counts where the model would have written at least half of its
//!   tokens), so that one reading shows every step; removed heads give 0 (authors' code: the mean value)
//! * Oracle:   each score on attention written down; in `tests/probes.rs` a model whose heads look a fixed distance
//!   back, so that the scores of each, and what is left without the copying one, are known

use crate::dense::attend;
use crate::engine::{Engine, GoOn};
use crate::layout::Length;
use eunoe_core::{Card, Error, Result, Shelf};
use eunoe_kernels::Pool;
use eunoe_kv::{Plan, Profile};
use eunoe_model::Config;
use eunoe_model::probe::{Point, Probe, Site};
use serde::Serialize;
use std::ops::Range;
use std::sync::Mutex;

mod causal;
mod plant;
#[cfg(test)]
mod tests;

pub use causal::{Check, Share};
use plant::{Planted, plant};

/// The probe's entry.
pub static CARD: Card = Card {
    id: "retrieval_heads",
    shelf: Shelf::Probe,
    name: "Retrieval heads",
    paper: "Wu 2024, arXiv 2404.15574",
    idea: "finds the heads that copy from far back, that repeat, and that look at the first tokens",
    args: &[],
};

/// Copies of the repeated block.
const COPIES: usize = 4;
/// First tokens that count as sinks.
const SINKS: usize = 4;
/// Newest tokens that a streaming head sees.
const RECENT: usize = 256;
/// Rows of real text whose attention is looked at.
const TEXT_ROWS: usize = 128;
/// Share of heads that the check takes away, and for which stability is told.
const TOP: f64 = 0.05;

/// What is read.
pub struct Settings<'a> {
    /// Text in which sentences are planted.
    pub text: &'a str,
    /// Tokens of the texts, each at most the model's context.
    pub lengths: &'a [usize],
    /// Where sentences are planted, from 0 (begin) to 1.
    pub depths: &'a [f64],
    /// Repetitions with other sentences, words and places.
    pub seeds: u64,
}

/// What was found, beside the profile.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Scores of every head.
    pub profile: Profile,
    /// Heads of the highest retrieval score, best first.
    pub best: Vec<Best>,
    /// Share of heads with a retrieval score of at least 0.1, and of exactly 0.
    pub share_retrieving: f64,
    /// See above.
    pub share_zero: f64,
    /// Overlap (Jaccard) of the best twentieth between every two seeds that found any, mean; none of one seed.
    pub stability: Option<f64>,
    /// What taking heads away does to the planted sentences.
    pub check: Check,
}

/// One head.
#[derive(Clone, Debug, Serialize)]
pub struct Best {
    /// Layer among those that a policy acts on.
    pub layer: usize,
    /// Query head.
    pub head: usize,
    /// Retrieval score.
    pub retrieval: f32,
    /// Induction score.
    pub induction: f32,
}

impl Settings<'_> {
    /// Texts that are read at most, those of the check included: what `go_on` of [`detect`] counts up to.
    pub fn texts(&self) -> usize {
        let samples = (self.lengths.len() * self.depths.len()).saturating_mul(self.seeds as usize);
        samples.saturating_add(Check::texts(samples))
    }

    /// What can be read with these settings and a model whose layers `global` see the whole text.
    fn check(&self, c: &Config, global: &[usize]) -> Result<()> {
        /// Random tokens are drawn from the middle six of eight parts of the vocabulary.
        const LEAST: usize = 8;
        if self.lengths.is_empty() || self.depths.is_empty() || self.seeds == 0 {
            return Err(Error::Invalid("nothing to read: give a length, a depth and a seed at least".into()));
        }
        if let Some(bad) = self.depths.iter().find(|depth| !(0.0..=1.0).contains(*depth)) {
            return Err(Error::Invalid(format!("a depth of `{bad}` is not from 0 to 1")));
        }
        if c.vocab < LEAST {
            let vocab = c.vocab;
            return Err(Error::Unsupported(format!(
                "a model of {vocab} tokens cannot be probed with random ones: at least {LEAST} are needed"
            )));
        }
        if global.is_empty() {
            let why = "every layer of this model sees a window only: no head can copy from far back";
            return Err(Error::Unsupported(why.into()));
        }
        match self.lengths.iter().max() {
            Some(longest) if *longest > c.context => Err(Error::Limit {
                what: "tokens of a text with a planted sentence, within the model's context".into(),
                asked: *longest as u64,
                have: c.context as u64,
                hint: "give shorter lengths".into(),
            }),
            _ => Ok(()),
        }
    }
}

/// Finds what the heads of a model do. `go_on` is asked with the texts read so far, of at most [`Settings::texts`].
///
/// # Errors
/// Those of reading; [`Error::Limit`] for lengths above the model's context, [`Error::Unsupported`] for a model of
/// fewer than 8 tokens or without a layer that sees the whole text, [`Error::Invalid`] where the model repeats no
/// planted sentence, or the text is too short.
pub fn detect(
    engine: &Engine,
    name: &str,
    sha256: &str,
    settings: &Settings<'_>,
    go_on: GoOn<'_>,
) -> Result<Report> {
    let c = engine.config();
    let global: Vec<usize> = (0..c.layers).filter(|l| !c.is_sliding(*l)).collect();
    settings.check(c, &global)?;
    let none = vec![0.0; global.len() * c.heads];
    let (mut repeats, mut by_seed, mut found, mut tried) =
        (vec![[0.0; 2]; none.len()], Vec::new(), Vec::new(), 0);
    for seed in 0..settings.seeds {
        let mut random = fastrand::Rng::with_seed(seed);
        let share = 1.0 / settings.seeds as f32;
        for (sum, [induction, echo]) in repeats.iter_mut().zip(repeated(engine, &global, &mut random)?) {
            *sum = [sum[0] + induction * share, sum[1] + echo * share];
        }
        let mut retrieval = none.clone();
        for (length, depth) in
            settings.lengths.iter().flat_map(|l| settings.depths.iter().map(move |d| (l, d)))
        {
            go_on(tried).then_some(()).ok_or(Error::Interrupted)?;
            tried += 1;
            let planted = plant(&engine.tokenizer, settings.text, *length, *depth, &mut random)?;
            let (copied, written) = copies(engine, &global, &planted)?;
            if 2 * written >= planted.rows.len() {
                retrieval.iter_mut().zip(copied).for_each(|(sum, copied)| *sum += copied);
                found.push(planted);
            }
        }
        by_seed.push(retrieval);
    }
    if found.is_empty() {
        return Err(Error::Invalid(format!(
            "the model repeats none of {tried} planted sentences: shorter texts may help"
        )));
    }
    let text = real_text(engine, &global, settings)?;
    let of = |scores: &[[f32; 2]], i: usize| scores.iter().map(|s| s[i].clamp(0.0, 1.0)).collect();
    let retrieval = (0..none.len()).map(|h| by_seed.iter().map(|s| s[h]).sum::<f32>() / found.len() as f32);
    let profile = Profile {
        model: name.into(),
        sha256: sha256.into(),
        layers: global.len(),
        heads: c.heads,
        kv_heads: c.kv_heads,
        retrieval: retrieval.map(|r| r.clamp(0.0, 1.0)).collect(),
        induction: of(&repeats, 0),
        echo: of(&repeats, 1),
        sink: of(&text, 0),
        streaming: of(&text, 1),
        found: [found.len() as u32, tried as u32],
    };
    let check = Check::run(engine, &global, &profile, &found, &mut |read| go_on(tried + read))?;
    Ok(report(profile, &by_seed, check))
}

/// Reads tokens with a probe; how many of `rows` write the token after theirs.
fn read<P: Probe>(engine: &Engine, tokens: &[u32], rows: &Range<usize>, probe: &mut P) -> Result<usize> {
    let length = Length { prompt: tokens.len() as u32, longest: tokens.len() as u32 };
    let mut session = engine.session(&Plan::parse("full | f32")?, length)?;
    let x = engine.step(&mut [(&mut session, tokens)], probe)?;
    let (d, vocab) = (engine.config().d_model, engine.config().vocab);
    let logits = engine.model.logits(&x[rows.start * d..rows.end * d]);
    let writes = |logits: &[f32], token: u32| {
        (0..vocab).max_by(|a, b| logits[*a].total_cmp(&logits[*b])) == Some(token as usize)
    };
    Ok(logits.chunks_exact(vocab).zip(&tokens[rows.start + 1..]).filter(|(l, t)| writes(l, **t)).count())
}

/// Queries and keys of one layer, and what to do once its last row came.
struct Layers<'a, F> {
    global: &'a [usize],
    /// Rows of the pass.
    count: usize,
    /// Rows whose queries are wanted.
    rows: Range<usize>,
    q: Vec<f32>,
    k: Vec<f32>,
    /// Gets the layer's queries and keys.
    done: F,
}

impl<F: FnMut(&[f32], &[f32])> Probe for Layers<'_, F> {
    const ACTIVE: bool = true;

    fn wants(&self, point: Point, layer: usize) -> bool {
        matches!(point, Point::QRot | Point::KRot) && self.global.contains(&layer)
    }

    fn visit(&mut self, site: Site, x: &mut [f32]) {
        if site.point == Point::QRot {
            if self.rows.contains(&site.row) {
                self.q.extend_from_slice(x);
            }
            return;
        }
        self.k.extend_from_slice(x);
        if site.row + 1 == self.count {
            (self.done)(&self.q, &self.k);
            self.q.clear();
            self.k.clear();
        }
    }
}

/// Reads tokens; sums of `each(row, attention)` over `rows`, per layer and head, and how many of `rows` write the token
/// after theirs.
fn look<const N: usize>(
    engine: &Engine,
    global: &[usize],
    tokens: &[u32],
    rows: &Range<usize>,
    each: impl Fn(usize, &[f32]) -> [f32; N] + Sync,
) -> Result<(Vec<[f32; N]>, usize)> {
    let (c, pool) = (engine.config(), &engine.model.backend.pool);
    let mut sums = Vec::with_capacity(global.len() * c.heads);
    let done = |q: &[f32], k: &[f32]| sums.extend(heads(pool, c, rows.clone(), q, k, &each));
    let (count, q, k) = (tokens.len(), Vec::new(), Vec::new());
    let written = read(engine, tokens, rows, &mut Layers { global, count, rows: rows.clone(), q, k, done })?;
    Ok((sums, written))
}

/// Calls `each(row, attention)` for every head and wanted row, heads side by side; adds up what it gives per head.
fn heads<const N: usize>(
    pool: &Pool,
    c: &Config,
    rows: Range<usize>,
    q: &[f32],
    k: &[f32],
    each: &(impl Fn(usize, &[f32]) -> [f32; N] + Sync),
) -> Vec<[f32; N]> {
    let sums: Vec<Mutex<[f32; N]>> = (0..c.heads).map(|_| Mutex::new([0.0; N])).collect();
    let width = c.heads * c.head_dim;
    pool.run(c.heads, &|head| {
        let (mut attn, mut sum) = (vec![0.0; rows.end], [0.0; N]);
        for (n, row) in rows.clone().enumerate() {
            attend(c, head, &q[n * width..][..width], k, &mut attn[..=row]);
            let add = each(row, &attn[..=row]);
            sum.iter_mut().zip(add).for_each(|(s, a)| *s += a);
        }
        if let Ok(mut all) = sums[head].lock() {
            *all = sum;
        }
    });
    sums.into_iter().map(|s| s.into_inner().unwrap_or([0.0; N])).collect()
}

/// Induction and echo: attention to earlier copies in random tokens repeated.
fn repeated(engine: &Engine, global: &[usize], random: &mut fastrand::Rng) -> Result<Vec<[f32; 2]>> {
    let c = engine.config();
    let block = (c.context / (2 * COPIES)).clamp(8, 256);
    let vocab = c.vocab as u32;
    let once: Vec<u32> = (0..block).map(|_| random.u32(vocab / 8..vocab / 8 * 7)).collect();
    let tokens: Vec<u32> = (0..COPIES * block).map(|i| once[i % block]).collect();
    let rows = block..tokens.len() - 1;
    let (sums, _) = look(engine, global, &tokens, &rows, |i, attn| to_copies(block, i, attn))?;
    Ok(sums.into_iter().map(|s| s.map(|sum| sum / rows.len() as f32)).collect())
}

/// Where blocks repeat: attention of row `i` to the tokens after earlier copies of its own, and to these copies.
fn to_copies(block: usize, i: usize, attn: &[f32]) -> [f32; 2] {
    let copies = (1..=i / block).map(|n| i - n * block);
    copies.fold([0.0; 2], |[induction, echo], j| [induction + attn[j + 1], echo + attn[j]])
}

/// Sinks, and sinks with the newest tokens: attention of the last rows of real text.
fn real_text(engine: &Engine, global: &[usize], settings: &Settings<'_>) -> Result<Vec<[f32; 2]>> {
    let mut tokens = engine.tokenizer.encode_prompt(settings.text);
    tokens.truncate(settings.lengths.iter().copied().max().unwrap_or(0));
    let rows = tokens.len().saturating_sub(TEXT_ROWS)..tokens.len() - 1;
    let (sums, _) = look(engine, global, &tokens, &rows, |_, attn| to_ends(attn))?;
    Ok(sums.into_iter().map(|s| s.map(|sum| sum / rows.len() as f32)).collect())
}

/// Attention to the sinks, and to the sinks and the newest tokens, the row's own included.
fn to_ends(attn: &[f32]) -> [f32; 2] {
    let sinks = SINKS.min(attn.len());
    let sink: f32 = attn[..sinks].iter().sum();
    let recent: f32 = attn[attn.len().saturating_sub(RECENT).max(sinks)..].iter().sum();
    [sink, sink + recent]
}

/// The share of the planted sentence that each head copies, and how many of its tokens the model writes.
fn copies(engine: &Engine, global: &[usize], planted: &Planted) -> Result<(Vec<f32>, usize)> {
    let Planted { tokens, rows, .. } = planted;
    let (sums, written) =
        look(engine, global, tokens, rows, |row, attn| [f32::from(u8::from(is_copied(planted, row, attn)))])?;
    Ok((sums.into_iter().map(|[copied]| copied / rows.len() as f32).collect(), written))
}

/// Whether the most attended key of a row, of equals the first, is planted, and the token after the row's own.
fn is_copied(Planted { tokens, needle, .. }: &Planted, row: usize, attn: &[f32]) -> bool {
    let best = (0..attn.len()).fold(0, |best, j| if attn[j] > attn[best] { j } else { best });
    needle.contains(&best) && tokens[best] == tokens[row + 1]
}

/// Indices by score, highest first; of equals the lower.
fn ranked(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    order
}

/// [`Report::stability`] of scores by seed; heads that copy nothing are not among the best `count`.
fn stability(by_seed: &[Vec<f32>], count: usize) -> Option<f64> {
    let top = |scores: &Vec<f32>| -> Vec<usize> {
        ranked(scores).into_iter().take(count).filter(|h| scores[*h] > 0.0).collect()
    };
    let tops: Vec<Vec<usize>> = by_seed.iter().map(top).filter(|top| !top.is_empty()).collect();
    let mut overlaps = Vec::new();
    for (i, a) in tops.iter().enumerate() {
        for b in &tops[i + 1..] {
            let both = a.iter().filter(|h| b.contains(h)).count();
            overlaps.push(both as f64 / (a.len() + b.len() - both) as f64);
        }
    }
    (!overlaps.is_empty()).then(|| overlaps.iter().sum::<f64>() / overlaps.len() as f64)
}

fn report(profile: Profile, by_seed: &[Vec<f32>], check: Check) -> Report {
    let n = profile.retrieval.len() as f64;
    let share = |of: fn(&f32) -> bool| profile.retrieval.iter().filter(|s| of(s)).count() as f64 / n;
    let best = ranked(&profile.retrieval).into_iter().take(check.heads).map(|i| Best {
        layer: i / profile.heads,
        head: i % profile.heads,
        retrieval: profile.retrieval[i],
        induction: profile.induction[i],
    });
    Report {
        best: best.collect(),
        share_retrieving: share(|s| *s >= 0.1),
        share_zero: share(|s| *s == 0.0),
        stability: stability(by_seed, check.heads),
        check,
        profile,
    }
}
