//! Tokens per second of prefill and decode at a depth, beside what the machine can do.

use crate::engine::{Engine, Session};
use crate::layout::Length;
use crate::score::count as tokens;
use eunoe_core::Result;
use eunoe_kernels::limits;
use eunoe_kernels::matmul::Arithmetic;
use eunoe_kv::Plan;
use serde::Serialize;
use std::time::Instant;

/// One measured row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// `prefill` or `decode`.
    pub kind: &'static str,
    /// Tokens read (prefill) or made (decode).
    pub prompt: usize,
    /// Tokens in the sequence before.
    pub depth: usize,
    /// The plan in effect.
    pub plan: String,
    /// Threads.
    pub threads: usize,
    /// Median over repetitions.
    pub tokens_per_s: f64,
    /// Slowest and fastest repetition.
    pub spread: [f64; 2],
    /// Bytes of weights and hot KV memory read per token, times tokens per second (decode).
    pub gb_per_s: Option<f64>,
    /// `gb_per_s` over the machine's read rate (decode).
    pub share_of_read_rate: Option<f64>,
    /// Multiply-adds per second, in billions: those of the weights, and two for each query value and slot that it
    /// sees, counted by the slots that a strip holds at the end (prefill).
    pub gmac_per_s: Option<f64>,
    /// `gmac_per_s` over the machine's peak: of 8-bit integers, or of f32 in exact arithmetic (prefill).
    pub share_of_peak: Option<f64>,
    /// Most hot KV bytes.
    pub peak_bytes: u64,
}

/// What the machine can do, measured in this process on the threads of the rows; each the best seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Plain reads, GB/s.
    pub read_gb_per_s: f64,
    /// Multiply-adds of 8-bit integers, in billions per second.
    pub int8_gmac_per_s: f64,
    /// f32 operations, in billions per second; an FMA is two.
    pub f32_gop_per_s: f64,
    /// Operations of bf16 products, in billions per second; null where the processor has none.
    pub bf16_gop_per_s: Option<f64>,
}

impl Limits {
    /// The better of each.
    #[must_use]
    pub fn or_better(self, other: Self) -> Self {
        Self {
            read_gb_per_s: self.read_gb_per_s.max(other.read_gb_per_s),
            int8_gmac_per_s: self.int8_gmac_per_s.max(other.int8_gmac_per_s),
            f32_gop_per_s: self.f32_gop_per_s.max(other.f32_gop_per_s),
            bf16_gop_per_s: match (self.bf16_gop_per_s, other.bf16_gop_per_s) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            },
        }
    }
}

/// What is measured.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Tokens of prefill rows.
    pub prompts: Vec<usize>,
    /// Depths.
    pub depths: Vec<usize>,
    /// Tokens of decode rows; 0 leaves them out.
    pub gen_tokens: usize,
    /// Repetitions of each row.
    pub repeat: usize,
}

/// What a bench tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A repetition can begin: the depth is filled, and the clock starts when the event was heard.
    Ready(&'a Point),
    /// A repetition took that many seconds.
    Measured(&'a Point, f64),
    /// All repetitions of a row are done.
    Row(Row),
}

/// One repetition of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// `prefill` or `decode`.
    pub kind: &'static str,
    /// Tokens read or made.
    pub prompt: usize,
    /// Tokens in the sequence before.
    pub depth: usize,
    /// The plan as asked for.
    pub plan: String,
    /// From 1.
    pub repetition: usize,
}

impl Point {
    /// Tokens that are in memory when the clock starts: something has to come before what is made.
    fn before(&self) -> usize {
        self.depth.max(usize::from(self.kind == "decode"))
    }
}

/// Hears what happens; an error ends the bench.
pub type Hear<'a> = &'a mut dyn FnMut(Event<'_>) -> Result<()>;

impl Engine {
    /// Measures the limits of this machine.
    pub fn limits(&self) -> Limits {
        let (isa, pool) = (self.model.backend.isa, &self.model.backend.pool);
        Limits {
            read_gb_per_s: limits::read_rate(isa, pool),
            int8_gmac_per_s: limits::int8_peak(isa, pool),
            f32_gop_per_s: limits::f32_peak(isa, pool),
            bf16_gop_per_s: limits::bf16_peak(isa, pool),
        }
    }

    /// Measures every row of a bench under a plan. Where the plan forgets nothing, a depth is filled once.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Limit`] when the plan cannot hold a row, and those of `hear`.
    pub fn bench(&self, plan: &Plan, bench: &Bench, hear: Hear<'_>) -> Result<()> {
        let most = bench.prompts.iter().copied().chain([bench.gen_tokens]).max().unwrap_or(0);
        for &depth in &bench.depths {
            let mut held = None;
            let prefill = bench.prompts.iter().map(|count| ("prefill", *count));
            let decode = (bench.gen_tokens > 0).then_some(("decode", bench.gen_tokens));
            for (kind, prompt) in prefill.chain(decode) {
                let mut point = Point { kind, prompt, depth, plan: plan.text.clone(), repetition: 0 };
                let mut all = Vec::new();
                for repetition in 1..=bench.repeat.max(1) {
                    point.repetition = repetition;
                    let mut session = self.at_depth(held.take(), plan, &point, depth.max(1) + most)?;
                    all.push(self.repetition(&mut session, &point, hear)?);
                    held = Some(session);
                }
                if let Some(session) = &held {
                    hear(Event::Row(self.row(&point, all, session)))?;
                }
            }
        }
        Ok(())
    }

    /// A sequence that has read what comes before a row: the one at hand, taken back, or a new one.
    fn at_depth(&self, held: Option<Session>, plan: &Plan, point: &Point, most: usize) -> Result<Session> {
        let before = tokens(point.before())?;
        let longest = tokens(point.before().saturating_add(point.prompt))?;
        let fits = |s: &mut Session| s.longest() >= longest && s.kv.is_full() && s.rewind(before);
        if let Some(mut session) = held
            && fits(&mut session)
        {
            return Ok(session);
        }
        // decode begins where the prompt ends
        let prompt = if point.kind == "decode" { before } else { longest };
        // speed can be measured at positions that the model was not trained on
        let mut config = self.config().clone();
        config.context = usize::MAX;
        let mut session = self.session_under(&config, plan, Length { prompt, longest })?;
        if session.kv.is_full() {
            session = self.session_under(&config, plan, Length { prompt, longest: tokens(most)? })?;
        }
        if before > 0 {
            let filler: Vec<u32> = (0..point.before()).map(|i| self.any_token(i)).collect();
            self.read(&mut session, &filler, &mut |_| true)?;
        }
        Ok(session)
    }

    /// Seconds of one repetition.
    fn repetition(&self, session: &mut Session, point: &Point, hear: Hear<'_>) -> Result<f64> {
        let new: Vec<u32> = (0..point.prompt).map(|i| self.any_token(point.before() + i)).collect();
        hear(Event::Ready(point))?;
        let start = Instant::now();
        match point.kind {
            "prefill" => self.read(session, &new, &mut |_| true)?,
            _ => new.iter().try_for_each(|t| self.read(session, &[*t], &mut |_| true))?,
        }
        let seconds = start.elapsed().as_secs_f64();
        hear(Event::Measured(point, seconds))?;
        Ok(seconds)
    }

    /// Time does not depend on which tokens they are.
    fn any_token(&self, i: usize) -> u32 {
        (i * 7919 % self.config().vocab) as u32
    }

    fn row(&self, point: &Point, mut seconds: Vec<f64>, session: &Session) -> Row {
        seconds.sort_by(f64::total_cmp);
        let rate = |seconds: f64| point.prompt as f64 / seconds;
        let tokens_per_s = rate(seconds[seconds.len() / 2]);
        let bill = session.bill();
        let decodes = point.kind == "decode";
        let bytes = self.model.bytes_per_token() as u64 + bill.live_bytes;
        let macs = self.prefill_macs(point, session) / point.prompt as f64;
        Row {
            kind: point.kind,
            prompt: point.prompt,
            depth: point.depth,
            plan: bill.plan_used,
            threads: self.options.threads,
            tokens_per_s,
            spread: [rate(seconds[seconds.len() - 1]), rate(seconds[0])],
            gb_per_s: decodes.then(|| bytes as f64 * tokens_per_s / 1e9),
            share_of_read_rate: None,
            gmac_per_s: (!decodes).then(|| macs * tokens_per_s / 1e9),
            share_of_peak: None,
            peak_bytes: bill.peak_bytes,
        }
    }

    /// Multiply-adds of a prefill, as [`Row::gmac_per_s`] counts them.
    fn prefill_macs(&self, point: &Point, session: &Session) -> f64 {
        let c = self.config();
        let [blocks, head] = self.model.macs_per_token();
        let per_slot = (2 * c.head_dim * c.heads / c.kv_heads) as f64;
        let slots: f64 = (session.bill().heads.iter())
            .map(|h| match c.sliding {
                Some(s) if h.sliding => h.kept.min(s.window as u64),
                _ => h.kept,
            })
            .map(|held| slots_seen(point.before() as u64, point.prompt as u64, held))
            .sum();
        blocks as f64 * point.prompt as f64 + head as f64 + per_slot * slots
    }

    /// Fills in a row's share of the limits.
    pub fn judge(&self, row: &mut Row, limits: Limits) {
        let peak = match self.options.arithmetic {
            Arithmetic::Fast => limits.int8_gmac_per_s,
            Arithmetic::Exact => limits.f32_gop_per_s / 2.0,
        };
        row.share_of_read_rate = row.gb_per_s.map(|rate| rate / limits.read_gb_per_s);
        row.share_of_peak = row.gmac_per_s.map(|rate| rate / peak);
    }
}

/// Slots that `count` rows after `before` see in all, where a strip holds at most `held`.
fn slots_seen(before: u64, count: u64, held: u64) -> f64 {
    (before + 1..=before + count).map(|seen| seen.min(held) as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_sees_itself_and_what_is_held_of_the_rows_before() {
        // rows 3, 4, 5 (from 1) see 3 + 4 + 5 slots; 3 + 4 + 4 where 4 are held
        assert_eq!((slots_seen(2, 3, 99), slots_seen(2, 3, 4)), (12.0, 11.0));
    }

    #[test]
    fn the_better_limit_counts() {
        let limits =
            |r, i, b| Limits { read_gb_per_s: r, int8_gmac_per_s: i, f32_gop_per_s: 1.0, bf16_gop_per_s: b };
        let best = limits(3.0, 5.0, None).or_better(limits(2.0, 7.0, Some(4.0)));
        assert_eq!(best, limits(3.0, 7.0, Some(4.0)));
    }
}
