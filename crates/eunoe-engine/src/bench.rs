//! Tokens per second of prefill and decode at a depth, beside what the machine can do.

use crate::engine::Engine;
use crate::layout::Length;
use crate::score::count as tokens;
use eunoe_core::Result;
use eunoe_kernels::limits;
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
    /// Most hot KV bytes.
    pub peak_bytes: u64,
}

/// What the machine can do, measured in this process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Plain reads, GB/s, on the threads of the rows.
    pub read_gb_per_s: f64,
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

impl Engine {
    /// Measures the limits of this machine.
    pub fn limits(&self) -> Limits {
        let cpu = &self.model.backend;
        Limits { read_gb_per_s: limits::read_rate(cpu.isa, &cpu.pool) }
    }

    /// Measures every row of a bench under a plan; `each` gets a row when it is done.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Limit`] when the plan cannot hold a row.
    pub fn bench(&self, plan: &Plan, bench: &Bench, limits: Limits, each: &mut dyn FnMut(Row)) -> Result<()> {
        for &depth in &bench.depths {
            for &prompt in &bench.prompts {
                each(self.bench_row(plan, "prefill", prompt, depth, bench.repeat, limits)?);
            }
            if bench.gen_tokens > 0 {
                each(self.bench_row(plan, "decode", bench.gen_tokens, depth, bench.repeat, limits)?);
            }
        }
        Ok(())
    }

    fn bench_row(
        &self,
        plan: &Plan,
        kind: &'static str,
        count: usize,
        depth: usize,
        repeat: usize,
        limits: Limits,
    ) -> Result<Row> {
        let mut rates = Vec::new();
        let (mut peak_bytes, mut live_bytes, mut plan_used) = (0, 0, String::new());
        for _ in 0..repeat.max(1) {
            let before = depth.max(usize::from(kind == "decode"));
            let longest = tokens(before.saturating_add(count))?;
            // decode begins where the prompt ends
            let prompt = if kind == "decode" { tokens(before)? } else { longest };
            let mut session = self.session(plan, Length { prompt, longest })?;
            // any tokens do: time does not depend on them
            let token = |i: usize| (i * 7919 % self.config().vocab) as u32;
            let filler: Vec<u32> = (0..before).map(token).collect();
            if !filler.is_empty() {
                self.read(&mut session, &filler, &mut |_| true)?;
            }
            let new: Vec<u32> = (0..count).map(|i| token(depth + i)).collect();
            let start = Instant::now();
            match kind {
                "prefill" => self.read(&mut session, &new, &mut |_| true)?,
                _ => new.iter().try_for_each(|t| self.read(&mut session, &[*t], &mut |_| true))?,
            }
            rates.push(count as f64 / start.elapsed().as_secs_f64());
            let bill = session.bill();
            (peak_bytes, live_bytes, plan_used) = (bill.peak_bytes, bill.live_bytes, bill.plan_used);
        }
        rates.sort_by(f64::total_cmp);
        let tokens_per_s = rates[rates.len() / 2];
        let bytes = (self.model.bytes_per_token() as u64 + live_bytes) as f64;
        let gb_per_s = (kind == "decode").then(|| bytes * tokens_per_s / 1e9);
        Ok(Row {
            kind,
            prompt: count,
            depth,
            plan: plan_used,
            threads: self.options.threads,
            tokens_per_s,
            spread: [rates[0], rates[rates.len() - 1]],
            gb_per_s,
            share_of_read_rate: gb_per_s.map(|g| g / limits.read_gb_per_s),
            peak_bytes,
        })
    }
}
