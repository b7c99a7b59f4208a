//! `eunoe bench`: tokens per second of reading and writing, at several depths and under several plans.

use eunoe_kv::Plan;
use serde::Serialize;

use super::options::ModelOption;

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
}

/// What `bench --json` prints.
#[derive(Debug, Serialize)]
pub struct Report<L> {
    /// One per kind, prompt, depth and plan.
    pub rows: Vec<Row>,
    /// What the machine could do at best.
    pub limits: L,
}

/// One measurement.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Reading or writing.
    pub kind: Phase,
    /// Tokens read in one go.
    pub prompt: u32,
    /// Tokens already in memory.
    pub depth: u32,
    /// The plan in effect.
    pub plan: String,
    /// Threads that computed.
    pub threads: usize,
    /// Tokens per second.
    pub tokens_per_s: f64,
    /// Most KV bytes at any moment.
    pub peak_bytes: u64,
}

/// The two phases of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Many tokens at once.
    Prefill,
    /// One token after the other.
    Decode,
}

/// The rows as text, one a line.
pub fn render(rows: &[Row]) -> String {
    let head = ["kind", "prompt", "depth", "tokens/s", "peak KV", "plan"].map(String::from);
    let line = |r: &Row| {
        let kind = if r.kind == Phase::Prefill { "prefill" } else { "decode" };
        let rate = format!("{:.1}", r.tokens_per_s);
        let peak = crate::units::bytes(r.peak_bytes);
        [kind.into(), r.prompt.to_string(), r.depth.to_string(), rate, peak, r.plan.clone()]
    };
    crate::out::columns(&std::iter::once(head).chain(rows.iter().map(line)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_table_with_a_head() {
        let row = Row {
            kind: Phase::Decode,
            prompt: 512,
            depth: 0,
            plan: "full".into(),
            threads: 1,
            tokens_per_s: 12.34,
            peak_bytes: 1 << 20,
        };
        let table = "kind    prompt  depth  tokens/s  peak KV  plan\ndecode  512     0      12.3      1.0 MiB  full\n";
        assert_eq!(render(&[row]), table);
    }
}
