//! `eunoe plan`: how many bytes a text takes, and which plans fit.

use serde::Serialize;

use super::options::{MemoryOption, ModelOption};
use crate::{out, units};

/// Bytes of KV memory that a text takes, and the plans that fit
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe plan -m smollm2-135m
  eunoe plan -m smollm2-135m --tokens 8192 --memory 64MiB")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,
    #[command(flatten)]
    pub(crate) memory: MemoryOption,

    /// Tokens of text and answer together [default: the model's window]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens: Option<u32>,
}

/// What `plan --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Tokens that were asked for.
    pub tokens: u32,
    /// The model's trained window.
    pub window: u32,
    /// Bytes that may be used.
    pub memory_bytes: u64,
    /// Bytes of `full` in f16.
    pub full_bytes: u64,
    /// The plans that were tried.
    pub plans: Vec<Row>,
}

/// One plan.
#[derive(Debug, Serialize)]
pub struct Row {
    /// As `--kv` takes it.
    pub plan: String,
    /// Most bytes at any moment; null for a plan that is refused.
    pub bytes: Option<u64>,
    /// Slots per layer and KV head, on average.
    pub slots: Option<u32>,
    /// Whether it holds this text in this memory.
    pub fits: bool,
    /// Why it does not.
    pub reason: Option<String>,
}

impl Report {
    /// The report as text: what all would take, then one plan a line.
    pub fn render(&self) -> String {
        let row = |r: &Row| {
            let number = |n: Option<String>| n.unwrap_or_else(|| "-".into());
            let fits = if r.fits { "fits" } else { "does not fit" };
            let kept = r.slots.map(|slots| units::percent(slots.min(self.tokens).into(), self.tokens.into()));
            [r.plan.clone(), number(r.bytes.map(units::bytes)), number(kept), fits.into()]
        };
        let mut rows = vec![["plan", "bytes", "kept", ""].map(String::from)];
        rows.extend(self.plans.iter().map(row));
        let reasons = self.plans.iter().filter_map(|r| Some(format!("{}: {}\n", r.plan, r.reason.as_ref()?)));
        format!(
            "{} tokens take {} under `full`; {} may be used\n\n{}{}",
            self.tokens,
            units::bytes(self.full_bytes),
            units::bytes(self.memory_bytes),
            out::columns(&rows),
            reasons.collect::<String>()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_what_fits_and_why_not() {
        let plan = |plan: &str, bytes, slots, reason: Option<&str>| Row {
            plan: plan.into(),
            bytes,
            slots,
            fits: reason.is_none(),
            reason: reason.map(String::from),
        };
        let report = Report {
            tokens: 4096,
            window: 8192,
            memory_bytes: 32 << 20,
            full_bytes: 90 << 20,
            plans: vec![
                plan("full", Some(90 << 20), Some(4096), Some("needs 58.0 MiB more")),
                plan("a2sf @ 32MiB", Some(32 << 20), Some(1024), None),
            ],
        };
        let expected = "4096 tokens take 90.0 MiB under `full`; 32.0 MiB may be used\n\n\
                        plan          bytes     kept\n\
                        full          90.0 MiB  100.0 %  does not fit\n\
                        a2sf @ 32MiB  32.0 MiB  25.0 %   fits\n\
                        full: needs 58.0 MiB more\n";
        assert_eq!(report.render(), expected);
    }
}
