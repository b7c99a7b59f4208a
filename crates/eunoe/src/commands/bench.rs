//! `eunoe bench`: tokens per second of reading and writing, at several depths and under several plans.

use anyhow::Result;
use eunoe_engine::{Bench, Limits, Row};
use eunoe_kv::Plan;
use serde::Serialize;

use super::options::ModelOption;
use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::{open, out, progress, units};

/// Measure tokens per second: reading a prompt and writing an answer, at several depths, under several plans
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe bench -m smollm2-135m
  eunoe bench -m smollm2-135m --prompt 512 --depth 0,4096 --gen 64 --kv full --kv 'a2sf @ 1024tok' --threads 1")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,

    /// Tokens read in one go, separated by commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "512",
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt: Vec<u32>,

    /// Tokens already in memory before measuring starts, separated by commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "0")]
    pub(crate) depth: Vec<u32>,

    /// Tokens written; 0 measures reading only
    #[arg(long = "gen", value_name = "N", default_value = "64")]
    pub(crate) generate: u32,

    /// Memory plan; may be repeated [default: full]
    #[arg(long, value_name = "PLAN")]
    pub(crate) kv: Vec<Plan>,

    /// Times that each row is measured; the median is told
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,

    /// Compute exactly, with f32 keys and values unless the plan names a codec
    #[arg(long)]
    pub(crate) exact: bool,
}

/// What `bench --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// One per kind, prompt, depth and plan.
    pub rows: Vec<Row>,
    /// What the machine could do at best.
    pub limits: Limits,
}

/// Runs the command.
///
/// # Errors
/// A plan that cannot hold a row.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    // A row cannot be asked to stop: Ctrl-C ends the process, and the bar's line is cleared.
    let _watched = Interrupt::watch()?;
    let engine = open::engine(&args.model.model, args.exact, ctx)?;
    let limits = engine.limits();
    let plans = if args.kv.is_empty() { vec![Plan::parse("full")?] } else { args.kv.clone() };
    let whole = |sizes: &[u32]| sizes.iter().map(|n| *n as usize).collect::<Vec<_>>();
    let bench = Bench {
        prompts: whole(&args.prompt),
        depths: whole(&args.depth),
        gen_tokens: args.generate as usize,
        repeat: args.repeat as usize,
    };
    let per_depth = bench.prompts.len() + usize::from(bench.gen_tokens > 0);
    let bar = progress::bar("measuring", (plans.len() * bench.depths.len() * per_depth) as u64, "rows");
    bar.tick();
    let mut rows = Vec::new();
    for plan in &plans {
        engine.bench(plan, &bench, limits, &mut |row| {
            rows.push(row);
            bar.inc(1);
        })?;
    }
    bar.finish_and_clear();
    if ctx.json {
        return out::json(&Report { rows, limits });
    }
    out::text(&format!("{}\nplain reads of this machine: {:.1} GB/s\n", render(&rows), limits.read_gb_per_s))
}

/// The rows as text, one a line.
pub fn render(rows: &[Row]) -> String {
    let head =
        ["kind", "tokens", "depth", "tokens/s", "slowest to fastest", "of read rate", "peak KV", "plan"];
    let line = |r: &Row| {
        let rate = format!("{:.1}", r.tokens_per_s);
        let spread = format!("{:.1} to {:.1}", r.spread[0], r.spread[1]);
        let share = r.share_of_read_rate.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
        let sizes = [r.prompt.to_string(), r.depth.to_string()];
        let [prompt, depth] = sizes;
        [r.kind.into(), prompt, depth, rate, spread, share, units::bytes(r.peak_bytes), r.plan.clone()]
    };
    out::columns(&std::iter::once(head.map(String::from)).chain(rows.iter().map(line)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_table_with_a_head() {
        let row = Row {
            kind: "decode",
            prompt: 64,
            depth: 0,
            plan: "full | f16".into(),
            threads: 1,
            tokens_per_s: 12.34,
            spread: [12.0, 13.0],
            gb_per_s: Some(1.0),
            share_of_read_rate: Some(0.5),
            peak_bytes: 1 << 20,
        };
        let table = "\
kind    tokens  depth  tokens/s  slowest to fastest  of read rate  peak KV  plan
decode  64      0      12.3      12.0 to 13.0        50 %          1.0 MiB  full | f16
";
        assert_eq!(render(&[row]), table);
    }
}
