//! Which plan holds a text: the one asked for, or `full`; nothing else is chosen.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use eunoe_core::Codec;
use eunoe_engine::{Engine, Layout, Length};
use eunoe_kv::Plan;
use eunoe_model::Config;

use crate::commands::plan;
use crate::units;

/// Bytes that may be used: what was given, else half of what is free.
///
/// # Errors
/// What is free is not known here.
pub fn allowed(given: Option<u64>) -> Result<u64> {
    match given {
        Some(bytes) => Ok(bytes),
        None => Ok(available().context("how much memory is free is not known; give --memory")? / 2),
    }
}

/// What the system can give without swapping.
fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The plan for a text that `model`, a name or a file, reads: `asked`, or `full`.
///
/// # Errors
/// It does not fit the model's window, its own budget or the memory; without a plan asked for, the message has those
/// that fit.
pub fn choose(
    engine: &Engine,
    model: &Path,
    asked: Option<&Plan>,
    length: Length,
    memory: Option<u64>,
) -> Result<Plan> {
    let plan = match asked {
        Some(plan) => plan.clone(),
        None => Plan::parse("full")?,
    };
    let allowed = allowed(memory)?;
    let codec = engine.default_codec();
    match fits(engine.config(), &plan, length, codec, allowed) {
        Ok(_) => Ok(plan),
        Err(e) if asked.is_some() => Err(e),
        Err(e) => {
            let tokens = length.longest;
            let plans = plan::rows(engine.config(), model, tokens, memory, allowed, codec)?;
            let names: Vec<String> =
                plans.iter().filter(|row| row.fits).map(|row| format!("`{}`", row.plan)).collect();
            let ways = match names.is_empty() {
                true => "no plan that `eunoe plan` tries fits".into(),
                false => format!("with `--kv` these fit: {}", names.join(", ")),
            };
            bail!("`full`, the plan when none is given, does not hold {tokens} tokens: {e:#}; {ways}")
        }
    }
}

/// The layout of a plan that holds a text in so many bytes.
///
/// # Errors
/// Why it does not, with both numbers.
pub(crate) fn fits(
    config: &Config,
    plan: &Plan,
    length: Length,
    codec: Codec,
    allowed: u64,
) -> Result<Layout> {
    let layout = Layout::new(config, plan, length, codec)?;
    let needed = taken(&layout);
    if needed > allowed {
        let (needed, allowed) = (units::bytes(needed), units::bytes(allowed));
        return Err(anyhow!("needs {needed} of KV memory, {allowed} may be used (--memory)"));
    }
    Ok(layout)
}

/// Most bytes of this machine's memory that a layout takes.
pub(crate) fn taken(layout: &Layout) -> u64 {
    layout.bytes_after(usize::MAX)
}
