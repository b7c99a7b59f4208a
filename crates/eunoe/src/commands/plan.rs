//! `eunoe plan`: how many bytes a text takes, and which plans fit.

use std::cell::LazyCell;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use eunoe_core::Codec;
use eunoe_engine::{Layout, Length, full_bytes};
use eunoe_kv::{Budget, Claim, Plan, policies};
use eunoe_model::Config;
use serde::Serialize;

use super::options::{MemoryOption, ModelOption};
use crate::context::Context;
use crate::{memory, open, out, profiles, units};

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
    /// Slots of the smallest and the largest strip (layer and KV head) that the policy acts on.
    pub slots: Option<[u32; 2]>,
    /// Share of the text that a decoded token attends to at the end, mean over the strips.
    pub attended: Option<f64>,
    /// KV bytes that a decoded token reads at the end: what a step costs beside the weights.
    pub read_bytes_per_token: Option<u64>,
    /// Whether it holds this text in this memory.
    pub fits: bool,
    /// Why it does not.
    pub reason: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A model that cannot be read.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let config = Config::from_gguf(&open::header(&args.model.model)?)?;
    let window = u32::try_from(config.context)?;
    let tokens = args.tokens.unwrap_or(window);
    let memory_bytes = memory::allowed(args.memory.memory)?;
    let given = args.memory.memory;
    let plans = rows(&config, &args.model.model, tokens, given, memory_bytes, Codec::F16)?;
    let report = Report { tokens, window, memory_bytes, full_bytes: full_bytes(&config, tokens), plans };
    if ctx.json { out::json(&report) } else { out::text(&report.render()) }
}

/// The plans that are tried for a text: everything kept, then every policy at the memory given or at fractions of what
/// `full` takes.
pub(crate) fn rows(
    config: &Config,
    model: &Path,
    tokens: u32,
    given: Option<u64>,
    allowed: u64,
    codec: Codec,
) -> Result<Vec<Row>> {
    let full = full_bytes(config, tokens);
    let budgets = match given.filter(|bytes| *bytes < full) {
        Some(bytes) => vec![Budget::Bytes(bytes).to_string()],
        None => ["50%", "25%", "12.5%"].map(String::from).to_vec(),
    };
    let mut plans = vec!["full".to_owned(), "full | q8".to_owned()];
    for entry in policies::LIST.iter().filter(|entry| entry.card.id != "full") {
        let policy = Plan::parse(entry.card.id)?.make_policy(u32::MAX)?;
        if policy.claim(0, 0, u32::MAX) != Claim::Share {
            plans.push(entry.card.id.into()); // strips size themselves
            continue;
        }
        // Beyond the trained window only ranks are positions that the model knows.
        let has_rank = entry.card.args.iter().any(|arg| arg.name == "pos");
        let rank = if has_rank && tokens as usize > config.context { "(pos=rank)" } else { "" };
        plans.extend(budgets.iter().map(|budget| format!("{}{rank} @ {budget}", entry.card.id)));
    }
    let profile = LazyCell::new(|| profiles::find(model).map(|found| found.map(Arc::new)));
    plans
        .iter()
        .map(|text| {
            let mut plan = Plan::parse(text)?;
            let mut broken = None;
            if plan.make_policy(u32::MAX)?.needs().profile {
                match &*profile {
                    Ok(found) => plan.profile.clone_from(found),
                    Err(why) => broken = Some(format!("{why:#}")),
                }
            }
            Ok(row(config, &plan, tokens, allowed, codec, broken))
        })
        .collect()
}

/// `broken` says what is wrong with the head profile that the plan needs.
fn row(config: &Config, plan: &Plan, tokens: u32, allowed: u64, codec: Codec, broken: Option<String>) -> Row {
    let length = Length { prompt: tokens, longest: tokens };
    let layout = Layout::new(config, plan, length, codec).ok();
    let unfit = || memory::fits(config, plan, length, codec, allowed).err().map(|e| format!("{e:#}"));
    let reason = broken.or_else(unfit);
    let slots = layout.as_ref().map(|layout| [layout.slots().0, layout.slots().1]);
    let bytes = layout.as_ref().map(Layout::most_bytes);
    let attended = layout.as_ref().map(Layout::attended);
    Row {
        plan: plan.text.clone(),
        bytes,
        slots,
        attended: attended.map(|slots| slots / f64::from(tokens)),
        read_bytes_per_token: layout.as_ref().zip(attended).map(|(l, slots)| l.bytes_of(slots)),
        fits: reason.is_none(),
        reason,
    }
}

impl Report {
    /// The report as text: what all would take, then one plan a line.
    pub fn render(&self) -> String {
        let dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".into());
        let row = |r: &Row| {
            let slots = r.slots.map(|[least, most]| match least == most {
                true => most.to_string(),
                false => format!("{least} to {most}"),
            });
            let attended = r.attended.map(|share| format!("{:.1} %", 100.0 * share));
            let fits = r.reason.as_ref().map_or("fits".into(), |reason| format!("no: {reason}"));
            [r.plan.clone(), dash(r.bytes.map(units::bytes)), dash(slots), dash(attended), fits]
        };
        let mut rows = vec![["plan", "KV bytes", "slots", "attended", ""].map(String::from)];
        rows.extend(self.plans.iter().map(row));
        format!(
            "{} tokens take {} under `full`; {} may be used; the model was trained on {} tokens\n\n{}\n\
             KV bytes: most at any moment\n\
             slots:    tokens held in each layer and KV head\n\
             attended: share of the text that each decoded token reads at the end, mean over heads\n",
            self.tokens,
            units::bytes(self.full_bytes),
            units::bytes(self.memory_bytes),
            self.window,
            out::columns(&rows),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_what_fits_and_why_not() {
        let plan = |plan: &str, bytes, slots: [u32; 2], reason: Option<&str>| Row {
            plan: plan.into(),
            bytes: Some(bytes),
            slots: Some(slots),
            attended: Some(f64::from(slots[1]) / 4096.0),
            read_bytes_per_token: Some(bytes),
            fits: reason.is_none(),
            reason: reason.map(String::from),
        };
        let report = Report {
            tokens: 4096,
            window: 8192,
            memory_bytes: 32 << 20,
            full_bytes: 90 << 20,
            plans: vec![
                plan("full", 90 << 20, [4096; 2], Some("needs 90.0 MiB")),
                plan("a2sf @ 32MiB", 32 << 20, [1023, 1024], None),
            ],
        };
        let expected = "\
4096 tokens take 90.0 MiB under `full`; 32.0 MiB may be used; the model was trained on 8192 tokens

plan          KV bytes  slots         attended
full          90.0 MiB  4096          100.0 %   no: needs 90.0 MiB
a2sf @ 32MiB  32.0 MiB  1023 to 1024  25.0 %    fits

KV bytes: most at any moment
slots:    tokens held in each layer and KV head
attended: share of the text that each decoded token reads at the end, mean over heads
";
        assert_eq!(report.render(), expected);
    }
}
