//! `eunoe run`: one prompt, one answer, one bill.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use eunoe_engine::{
    Answer, AuditSettings, Bill, Engine, FinishReason, Length, Request, Rung, Subject, Verdict, full_bytes,
};
use eunoe_kv::Plan;

use super::audit;
use super::options::{MemoryOption, ModelOption, PlanOption, SamplingOptions};
use crate::answer::{self, Report, Timing};
use crate::context::Context;
use crate::interrupt::{Interrupt, Interrupted};
use crate::{bill, memory, open, out};

/// Answer a prompt inside a memory plan, and print what was forgotten
///
/// Files come before the prompt, in order. A model without a chat template reads the text as it is and says so. A
/// prompt that does not fit is an error with both numbers, never a cut.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe run -m smollm2-135m 'Why is the sky blue?'
  eunoe run -m smollm2-135m --kv 'a2sf @ 1024tok' --file report.txt 'What was decided?'
  eunoe run -m smollm2-135m --kv 'a2sf @ 12.5%' --escalate --file report.txt 'What was decided?'
  cat report.txt | eunoe run -m smollm2-135m --kv 'snapkv @ 25%' --json -")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,
    #[command(flatten)]
    pub(crate) plan: PlanOption,
    #[command(flatten)]
    pub(crate) memory: MemoryOption,

    /// Text file to put before the prompt; may be repeated
    #[arg(long, value_name = "F")]
    pub(crate) file: Vec<PathBuf>,

    /// Most tokens to generate
    #[arg(short = 'n', value_name = "TOKENS", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens: u32,

    #[command(flatten)]
    pub(crate) sampling: SamplingOptions,

    /// Stop before this text; may be repeated
    #[arg(long, value_name = "S", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,

    /// Report the K likeliest tokens of each step (with --json)
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) logprobs: Option<u32>,

    /// System message
    #[arg(long, value_name = "S", conflicts_with = "raw")]
    pub(crate) system: Option<String>,

    /// Read the text as it is, without the chat template
    #[arg(long)]
    pub(crate) raw: bool,

    /// Read the text under full memory too, and tell what the forgetting cost
    #[arg(long)]
    pub(crate) audit: bool,

    /// Where the answer is not to be trusted, answer again with twice the memory, up to all (within --memory)
    ///
    /// Trust comes from the answer's own probabilities and from sentences planted in a copy of the prompt: full memory is
    /// not read for it. The answer is printed once it is final, and the bill has what was tried before.
    #[arg(long)]
    pub(crate) escalate: bool,

    /// The prompt; `-` reads standard input
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: String,
}

impl Args {
    fn audit_settings(&self) -> AuditSettings {
        AuditSettings { seed: self.sampling.seed, ..AuditSettings::default() }
    }
}

/// Runs the command.
///
/// # Errors
/// No text, a model that cannot be opened, a plan that does not hold the text, or an interruption.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    if args.escalate && args.plan.kv.is_none() {
        bail!("--escalate begins with a plan: give one with --kv, e.g. `--kv 'a2sf @ 12.5%'`");
    }
    if args.audit && args.plan.kv.is_none() {
        bail!("an audit compares a plan with full memory: give one with --kv, e.g. `--kv 'a2sf @ 25%'`");
    }
    if args.logprobs.is_some() && !ctx.json {
        bail!("--logprobs is printed as JSON only: add --json");
    }
    let text = gather(&args.file, &args.prompt)?;
    let interrupt = Interrupt::watch()?;
    let engine = open::engine(&args.model.model, args.plan.exact, ctx)?;
    if engine.template.is_none() && !args.raw {
        if args.system.is_some() {
            bail!("this model has no chat template, and so no place for --system; put it into the prompt");
        }
        eprintln!("note: this model has no chat template; the text is read as it is");
    }
    let prompt = answer::prompt_text(&engine, args.system.as_deref(), &text, args.raw)?;
    let tokens = answer::prompt_tokens(&engine, args.system.as_deref(), &text, args.raw)?;
    let length = length(tokens.len(), args.tokens)?;
    let asked = args.plan.asked(&args.model)?;
    let plan = memory::choose(&engine, &args.model.model, asked.as_ref(), length, args.memory.memory)?;
    let request = Request {
        max_tokens: args.tokens as usize,
        sampling: args.sampling.rule(),
        stop: args.stop.clone(),
        log_probs: args.logprobs.map(|k| k as usize).or(args.escalate.then_some(0)),
    };
    request.sampling.check()?;
    let content = answer::content_in(&prompt, &text);
    let subject = Subject { prompt: &prompt, content, tokens: &tokens, answer: &[], length };
    if args.audit {
        audit::holds_both(&engine, &plan, &subject, &args.audit_settings(), args.memory.memory)?;
    }
    let run = Run { engine: &engine, args, ctx, subject, request, interrupt: &interrupt };
    let report = run.report(plan)?;
    if ctx.json {
        return out::json(&report);
    }
    let audited = report.audit.as_ref().map_or_else(String::new, audit::render);
    eprint!("\n{}{}{audited}", bill::render(&report.memory), pace(&report));
    Ok(())
}

/// One request.
struct Run<'a> {
    engine: &'a Engine,
    args: &'a Args,
    ctx: &'a Context,
    /// What is read; its answer is yet to come.
    subject: Subject<'a>,
    request: Request,
    interrupt: &'a Interrupt,
}

/// An answer under one plan; its memory is given back.
struct Answered {
    plan: Plan,
    answer: Answer,
    bill: Bill,
    timing: Timing,
}

impl Run<'_> {
    /// Answers, audits if asked, and says all that is to be told.
    fn report(&self, plan: Plan) -> Result<Report> {
        let Answered { plan, mut answer, bill, timing } =
            if self.args.escalate { self.escalate(plan)? } else { self.once(plan)? };
        if self.args.logprobs.is_none() {
            answer.log_probs.clear();
        }
        let subject = Subject { answer: &answer.tokens.clone(), ..self.subject.clone() };
        let mut report = Report::new(self.engine, bill, answer, subject.tokens.len(), timing);
        if self.args.audit {
            let settings = self.args.audit_settings();
            audit::holds_both(self.engine, &plan, &subject, &settings, self.args.memory.memory)?;
            report.audit = Some(audit::look(self.engine, &plan, &subject, &settings, self.interrupt)?);
        }
        Ok(report)
    }

    /// Under one plan, printed as it comes.
    fn once(&self, plan: Plan) -> Result<Answered> {
        let mut stream = Stream { json: self.ctx.json, open: false };
        let answered = self.answer(plan, &mut stream);
        if stream.open {
            out::text("\n")?;
        }
        answered
    }

    /// Under one plan after the other, each with twice the memory, until an answer is trusted or no more may be used.
    fn escalate(&self, plan: Plan) -> Result<Answered> {
        let (config, length) = (self.engine.config(), self.subject.length);
        let allowed = memory::allowed(self.args.memory.memory)?;
        let codec = self.engine.default_codec();
        let (asked, mut before) = (plan.text.clone(), Vec::<Rung>::new());
        let (mut plan, mut spent) = (plan, Timing { prefill_s: 0.0, decode_s: 0.0 });
        let mut answered = loop {
            let answered = self.answer(plan, &mut Stream { json: true, open: false })?;
            let start = Instant::now();
            let risk = self.risk(&answered)?;
            spent.prefill_s += answered.timing.prefill_s + start.elapsed().as_secs_f64();
            spent.decode_s += answered.timing.decode_s;
            if Verdict::of(risk) == Verdict::Harmless {
                break answered;
            }
            let larger = answered.plan.grown(length.longest, full_bytes(config, length.longest))?;
            match larger.filter(|plan| memory::fits(config, plan, length, codec, allowed).is_ok()) {
                Some(larger) => plan = larger,
                None => {
                    eprintln!(
                        "note: the answer is still not to be trusted (risk {:.0} %), and no more memory may be used \
                         (--memory)",
                        100.0 * risk
                    );
                    break answered;
                }
            }
            let Bill { plan_used, peak_bytes, .. } = answered.bill;
            before.push(Rung { plan: plan_used, peak_bytes, risk });
        };
        answered.timing = spent;
        let peaks = before.iter().map(|rung| rung.peak_bytes);
        answered.bill.peak_bytes = peaks.fold(answered.bill.peak_bytes, u64::max);
        (answered.bill.escalated, answered.bill.plan_asked) = (before, asked);
        if !self.ctx.json {
            out::line(&answered.answer.text)?;
        }
        Ok(answered)
    }

    fn answer(&self, plan: Plan, stream: &mut Stream) -> Result<Answered> {
        let Subject { tokens, length, .. } = self.subject;
        let mut session = self.engine.session(&plan, length)?;
        let prefill_s = answer::read(self.engine, &mut session, tokens, self.interrupt)?;
        let on_text = &mut |piece: &str| stream.piece(piece);
        let written =
            answer::write(self.engine, &mut session, tokens, &self.request, self.interrupt, on_text);
        let (answer, decode_s) = written?;
        Ok(Answered { plan, answer, bill: session.bill(), timing: Timing { prefill_s, decode_s } })
    }

    /// Chance that full memory would have answered right where this did not.
    fn risk(&self, answered: &Answered) -> Result<f64> {
        let Answered { plan, answer, bill, .. } = answered;
        let log_probs: Vec<f64> = answer.log_probs.iter().map(|step| f64::from(step.logprob)).collect();
        let hearing = self.interrupt.hear();
        let asked = &mut |_: usize| !self.interrupt.asked();
        let outlook = self.engine.outlook(plan, bill, &self.subject, &log_probs, asked);
        drop(hearing);
        match outlook {
            Err(eunoe_core::Error::Interrupted) => Err(Interrupted("while escalating".into()).into()),
            outlook => Ok(outlook?.risk),
        }
    }
}

/// Room for a prompt and an answer.
pub(crate) fn length(prompt: usize, answer: u32) -> Result<Length> {
    let prompt = u32::try_from(prompt).context("the prompt has more tokens than can be counted")?;
    if prompt == 0 {
        bail!("the prompt has no tokens");
    }
    Ok(Length { prompt, longest: prompt.saturating_add(answer) })
}

/// Text on its way to standard output.
struct Stream {
    json: bool,
    /// The last line has no end yet.
    open: bool,
}

impl Stream {
    fn piece(&mut self, piece: &str) -> Result<()> {
        if self.json || piece.is_empty() {
            return Ok(());
        }
        self.open = !piece.ends_with('\n');
        out::text(piece)
    }
}

/// Tokens and seconds, one line.
fn pace(report: &Report) -> String {
    let phase = |tokens: usize, seconds: f64| format!("{tokens} tokens in {seconds:.1} s");
    let (usage, timing) = (&report.usage, &report.timing);
    let ended = match report.finish_reason {
        FinishReason::Stop => "",
        FinishReason::Length => ", cut at the most tokens asked for (-n)",
    };
    format!(
        "time     read {}, wrote {}{ended}\n",
        phase(usage.prompt_tokens, timing.prefill_s),
        phase(usage.completion_tokens, timing.decode_s)
    )
}

/// Files in order, then the prompt, with a blank line between each.
///
/// # Errors
/// A file or standard input cannot be read or is not UTF-8, or there is no text at all.
pub fn gather(files: &[PathBuf], prompt: &str) -> Result<String> {
    let mut texts = files.iter().map(read_text).collect::<Result<Vec<_>>>()?;
    texts.push(if prompt == "-" { read_stdin()? } else { prompt.to_owned() });
    texts.retain(|text| !text.is_empty());
    if texts.is_empty() {
        bail!("the prompt is empty");
    }
    Ok(texts.join("\n\n"))
}

/// A UTF-8 text file.
///
/// # Errors
/// It cannot be read, or the first byte that is not UTF-8.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    utf8(bytes, &format!("`{}`", path.display()))
}

/// Standard input to its end.
///
/// # Errors
/// As [`read_text`].
pub fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    utf8(bytes, "standard input")
}

fn utf8(bytes: Vec<u8>, what: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow!("{what} is not UTF-8 text (byte {at}); convert it first")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_before_the_prompt_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["b", "a"].map(|name| {
            let path = dir.path().join(name);
            fs::write(&path, name.repeat(2)).unwrap();
            path
        });
        assert_eq!(gather(&files, "why?").unwrap(), "bb\n\naa\n\nwhy?");
        assert_eq!(gather(&[], "").unwrap_err().to_string(), "the prompt is empty");
        fs::write(&files[0], b"ab\xff").unwrap();
        assert!(
            gather(&files, "x")
                .unwrap_err()
                .to_string()
                .ends_with("not UTF-8 text (byte 2); convert it first")
        );
    }
}
