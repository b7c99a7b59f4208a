//! `eunoe audit`: what forgetting cost on one input.

use std::path::PathBuf;

use anyhow::{Result, bail};
use eunoe_engine::{Answer, Audit, AuditSettings, Engine, FinishReason, Request, Subject};
use eunoe_kv::Plan;
use serde::Serialize;

use super::options::{MemoryOption, ModelOption, PlanOption};
use super::run::gather;
use crate::answer::{self, Timing, Usage};
use crate::bill::{self, Bill};
use crate::context::Context;
use crate::interrupt::{Interrupt, Interrupted};
use crate::{memory, open, out, progress, units};

/// Tell what a plan's forgetting cost on one input
///
/// The prompt is answered under the plan, then the same tokens are read under the plan and under full memory: how far the
/// predictions are apart (KL divergence and top-1 agreement, from sampled rows of the prompt and all rows of the answer,
/// with 95 % intervals), which forgotten passages the answer would have looked at, whether sentences planted in the middle
/// survive, and a verdict in words. Needs the memory and the time of full memory; `docs/audit.md` says how far to trust it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe audit -m smollm2-135m --kv 'a2sf @ 25%' --file report.txt 'What was decided?'
  eunoe audit -m smollm2-135m --kv 'streaming_llm @ 512tok' --file report.txt 'Who was there?' --json
  eunoe run   -m smollm2-135m --kv 'a2sf @ 25%' --file report.txt --audit 'What was decided?'")]
pub struct Args {
    #[command(flatten)]
    model: ModelOption,
    #[command(flatten)]
    plan: PlanOption,
    #[command(flatten)]
    memory: MemoryOption,

    /// Text file to put before the prompt; may be repeated
    #[arg(long, value_name = "F")]
    file: Vec<PathBuf>,

    /// Most tokens of the answer
    #[arg(short = 'n', value_name = "TOKENS", default_value = "64", value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,

    /// Rows of the prompt that are compared
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(2..))]
    samples: u32,

    /// Seed of the sampled rows and the planted sentences
    #[arg(long, value_name = "S", default_value = "0")]
    seed: u64,

    /// Read the text as it is, without the chat template
    #[arg(long)]
    raw: bool,

    /// The prompt; `-` reads standard input
    #[arg(value_name = "PROMPT")]
    prompt: String,
}

/// What `audit --json` prints.
#[derive(Serialize)]
struct Printed {
    #[serde(flatten)]
    audit: Audit,
    /// The answer under the plan.
    text: String,
    finish_reason: FinishReason,
    usage: Usage,
    timing: Timing,
    memory: Bill,
}

/// Runs the command.
///
/// # Errors
/// No plan, those of `run`, or full memory does not hold the text.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let Some(plan) = args.plan.asked(&args.model)? else {
        bail!("an audit compares a plan with full memory: give one with --kv, e.g. `--kv 'a2sf @ 25%'`");
    };
    let text = gather(&args.file, &args.prompt)?;
    let interrupt = Interrupt::watch()?;
    let engine = open::engine(&args.model.model, args.plan.exact, ctx)?;
    let prompt = answer::prompt_text(&engine, None, &text, args.raw)?;
    let tokens = answer::prompt_tokens(&engine, None, &text, args.raw)?;
    let length = super::run::length(tokens.len(), args.tokens)?;
    let settings =
        AuditSettings { samples: args.samples as usize, seed: args.seed, ..AuditSettings::default() };
    let content = answer::content_in(&prompt, &text);
    let subject = Subject { prompt: &prompt, content, tokens: &tokens, answer: &[], length };
    holds_both(&engine, &plan, &subject, &settings, args.memory.memory)?;
    let mut session = engine.session(&plan, length)?;
    let request = Request { max_tokens: args.tokens as usize, ..Request::default() };
    let prefill_s = answer::read(&engine, &mut session, &tokens, &interrupt)?;
    let (answer, decode_s) =
        answer::write(&engine, &mut session, &tokens, &request, &interrupt, &mut |_| Ok(()))?;
    let memory = session.bill();
    drop(session);
    let subject = Subject { answer: &answer.tokens, ..subject };
    let audit = look(&engine, &plan, &subject, &settings, &interrupt)?;
    if !ctx.json {
        out::text(&format!("{}\n\n", answer.text.trim_end()))?;
        return out::text(&format!("{}{}", bill::render(&memory), render(&audit)));
    }
    let usage = Usage { prompt_tokens: tokens.len(), completion_tokens: answer.tokens.len() };
    let Answer { text, finish_reason, .. } = answer;
    out::json(&Printed { audit, text, finish_reason, usage, timing: Timing { prefill_s, decode_s }, memory })
}

/// Both memories of an audit have room in the memory given.
///
/// # Errors
/// Why they have not.
pub(crate) fn holds_both(
    engine: &Engine,
    plan: &Plan,
    subject: &Subject<'_>,
    settings: &AuditSettings,
    given: Option<u64>,
) -> Result<()> {
    let (needed, allowed) = (engine.audit_bytes(plan, subject, settings)?, memory::allowed(given)?);
    if needed > allowed {
        let (needed, allowed) = (units::bytes(needed), units::bytes(allowed));
        bail!(
            "an audit reads the text under full memory too, beside the plan: needs {needed} of KV memory, {allowed} may be \
             used (--memory)"
        );
    }
    Ok(())
}

/// Audits with a bar.
///
/// # Errors
/// [`Interrupted`], or those of the engine.
pub(crate) fn look(
    engine: &Engine,
    plan: &Plan,
    subject: &Subject<'_>,
    settings: &AuditSettings,
    interrupt: &Interrupt,
) -> Result<Audit> {
    let bar = progress::bar("auditing", subject.work() as u64, "tokens");
    let hearing = interrupt.hear();
    let audit = engine.audit(plan, subject, settings, &mut |read| {
        bar.set_position(read as u64);
        !interrupt.asked()
    });
    drop(hearing);
    bar.finish_and_clear();
    match audit {
        Err(eunoe_core::Error::Interrupted) => Err(Interrupted("while auditing".into()).into()),
        audit => Ok(audit?),
    }
}

/// The audit as text, one subject a line.
pub(crate) fn render(audit: &Audit) -> String {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let range = |[lo, hi]: [f64; 2]| format!("{} … {}", percent(lo), percent(hi));
    let (whole, answer) = (&audit.whole, &audit.answer);
    let [lo, hi] = whole.kl_ci;
    let mut lines = vec![
        format!("verdict  {}", audit.words),
        format!(
            "apart    {:.4} nats a token from full memory (KL, 95 %: {lo:.4} … {hi:.4}; {} of {} rows); same likeliest token \
             in {} ({})",
            whole.kl_mean,
            whole.sampled,
            whole.rows,
            percent(whole.top1_agreement),
            range(whole.top1_ci)
        ),
        format!(
            "answer   {:.4} nats a token apart; same likeliest token in {}",
            answer.kl_mean,
            percent(answer.top1_agreement)
        ),
        match (&audit.canaries, &audit.canaries_note) {
            (Some(c), _) => format!(
                "planted  {} of {} sentences planted in the middle survive, {} under full memory",
                c.plan, c.planted, c.full
            ),
            (None, Some(why)) => format!("planted  none: {why}"),
            (None, None) => "planted  none".into(),
        },
        format!(
            "missed   {} of the answer's attention under full memory was on tokens that hot memory did not hold",
            percent(audit.forgotten_mass)
        ),
    ];
    for passage in &audit.passages {
        let text: String = passage.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let share = percent(passage.mass);
        lines.push(format!("         {share:>6}  tokens {} to {}: {text}", passage.from, passage.to));
    }
    let bytes = (units::bytes(audit.peak_bytes), units::bytes(audit.full_peak_bytes));
    lines.push(format!("bytes    {} at most, full memory {}", bytes.0, bytes.1));
    lines.join("\n") + "\n"
}
