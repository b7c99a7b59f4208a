//! `eunoe chat`: a conversation inside one memory plan.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::{Context as _, Result, anyhow, bail};
use eunoe_engine::{Engine, FinishReason, Length, Request};
use eunoe_kv::{Place, Plan};

use super::options::{MemoryOption, ModelOption, PlanOption, SamplingOptions};
use crate::answer::{self, Report, Timing};
use crate::bill::{self, Bill};
use crate::context::Context;
use crate::interrupt::{Interrupt, Interrupted};
use crate::talk::Talk;
use crate::{memory, open, out, units};

/// Talk with a model inside a memory plan
///
/// The whole conversation shares one memory: only what is new is read at each turn, and what is forgotten stays
/// forgotten. Messages are lines of standard input. `/bill` prints the bill, `/quit` or Ctrl-D leaves; Ctrl-C stops an
/// answer, and leaves when nothing is being answered. With --json each answer is one document on one line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  eunoe chat -m smollm2-135m --kv 'streaming_llm @ 512tok'")]
pub struct Args {
    #[command(flatten)]
    pub(crate) model: ModelOption,
    #[command(flatten)]
    pub(crate) plan: PlanOption,
    #[command(flatten)]
    pub(crate) memory: MemoryOption,

    /// Most tokens of one answer
    #[arg(short = 'n', value_name = "TOKENS", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tokens: u32,

    #[command(flatten)]
    pub(crate) sampling: SamplingOptions,

    /// System message
    #[arg(long, value_name = "S")]
    pub(crate) system: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A plan that does not hold a conversation, one that has grown beyond its plan, or an interruption at the prompt.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let engine = open::engine(&args.model.model, args.plan.exact, ctx)?;
    if engine.template.is_none() {
        if args.system.is_some() {
            bail!("this model has no chat template, and so no place for --system");
        }
        eprintln!("note: this model has no chat template; messages are read as they are, one line each");
    }
    let (plan, length) = room(&engine, args.plan.asked(&args.model)?.as_ref(), args.memory.memory)?;
    let mut talk = Talk::new(&engine, &plan, length, args.system.as_deref())?;
    let at_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if at_terminal {
        eprintln!("{plan}, up to {} tokens; /bill, /quit; Ctrl-C stops an answer", length.longest);
    }
    loop {
        if at_terminal {
            eprint!("> ");
        }
        let Some(line) = read_line()? else { break };
        match line.trim() {
            "" => {}
            "/quit" => break,
            "/bill" => eprint!("{}", bill::render(&talk.session.bill())),
            command if command.starts_with('/') => eprintln!("`{command}` is no command: /bill, /quit"),
            message => turn(&mut talk, message, args, ctx, &interrupt)?,
        }
    }
    if at_terminal {
        eprintln!();
    }
    Ok(())
}

/// One line of standard input without its end; `None` at its end.
fn read_line() -> Result<Option<String>> {
    let mut line = Vec::new();
    let read = std::io::stdin().lock().read_until(b'\n', &mut line).context("cannot read standard input")?;
    let text =
        String::from_utf8(line).map_err(|_| anyhow!("standard input is not UTF-8 text; convert it first"))?;
    Ok((read > 0).then_some(text))
}

/// The plan, and the longest conversation that it holds.
fn room(engine: &Engine, asked: Option<&Plan>, given: Option<u64>) -> Result<(Plan, Length)> {
    /// Beyond what anyone types; positions that are ranks set no end of their own.
    const LONGEST: u32 = 1 << 20;
    let plan = asked.cloned().map_or_else(|| Plan::parse("full"), Ok)?;
    let context = u32::try_from(engine.config().context)?;
    let needs = plan.make_policy(u32::MAX)?.needs();
    if needs.keep.is_some() {
        bail!(
            "`prefill=dense` forgets once, where a prompt ends, and a conversation goes on: chat with the streaming mode"
        );
    }
    if needs.recall.is_some() || needs.view.is_some_and(|rows| rows.prompt != rows.answer) {
        bail!(
            "`{}` tells a prompt from its answer, and a conversation has many of both: use it with `eunoe run`",
            plan.policy.card.id
        );
    }
    let by_rank = needs.place == Place::Rank && plan.budget.is_some();
    let most = if by_rank { LONGEST } else { context };
    let allowed = memory::allowed(given)?;
    let fits = |longest: u32| {
        let length = Length { prompt: context, longest };
        memory::fits(engine.config(), &plan, length, engine.default_codec(), allowed).map(|_| length)
    };
    if let Ok(length) = fits(most) {
        return Ok((plan, length));
    }
    let (mut least, mut above) = (0, most);
    while above - least > 1 {
        let middle = least + (above - least) / 2;
        match fits(middle) {
            Ok(_) => least = middle,
            Err(_) => above = middle,
        }
    }
    match least {
        0 => Err(fits(most).err().unwrap_or_else(|| anyhow!("the plan holds no text"))),
        longest => fits(longest).map(|length| (plan.clone(), length)),
    }
}

/// Reads a message, answers it, and tells what that took.
fn turn(talk: &mut Talk<'_>, message: &str, args: &Args, ctx: &Context, interrupt: &Interrupt) -> Result<()> {
    let new = talk.hear(message)?;
    let room = talk.room(new.len())?;
    let request = Request {
        max_tokens: room.min(args.tokens as usize),
        sampling: args.sampling.rule(),
        ..Request::default()
    };
    let prefill_s = match answer::read(talk.engine, &mut talk.session, &new, interrupt) {
        Err(e) if e.is::<Interrupted>() => {
            talk.leave_unread(&new);
            return stopped(&e);
        }
        outcome => outcome?,
    };
    let mut shown = String::new();
    let written = answer::write(talk.engine, &mut talk.session, &new, &request, interrupt, &mut |piece| {
        shown.push_str(piece);
        if ctx.json { Ok(()) } else { out::text(piece) }
    });
    if !ctx.json && !shown.ends_with('\n') {
        out::text("\n")?;
    }
    match written {
        Ok((answer, decode_s)) => {
            talk.said(&answer);
            let cut = answer.finish_reason == FinishReason::Length && request.max_tokens == room;
            let timing = Timing { prefill_s, decode_s };
            let report = Report::new(talk.engine, talk.session.bill(), answer, new.len(), timing);
            if ctx.json {
                out::json(&report)?;
            } else {
                eprintln!("{}", brief(&report.memory));
            }
            if cut {
                eprintln!("note: the answer was cut: the plan holds {} tokens", talk.longest());
            }
            Ok(())
        }
        Err(e) if e.is::<Interrupted>() => {
            talk.stopped_at(&shown);
            stopped(&e)
        }
        Err(e) => Err(e),
    }
}

/// A turn ended early: said, and the conversation goes on.
fn stopped(why: &anyhow::Error) -> Result<()> {
    eprintln!("({why})");
    Ok(())
}

/// The bill in one line.
fn brief(bill: &Bill) -> String {
    let of = bill.budget_bytes.map_or_else(String::new, |budget| format!(" of {}", units::bytes(budget)));
    let forgot = match bill.evicted {
        0 => "nothing forgotten".into(),
        _ => format!("{} forgotten", units::percent(bill.evicted, bill.seen)),
    };
    format!("({} of KV memory{of}, {forgot})", units::bytes(bill.live_bytes))
}
