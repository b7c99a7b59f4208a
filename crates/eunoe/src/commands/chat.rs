//! `eunoe chat`: a conversation inside one memory plan.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::builder::NonEmptyStringValueParser;
use eunoe_engine::{Conversation, Engine, FinishReason, Length, Request};
use eunoe_kv::Plan;
use eunoe_server::Header;

use super::options::{MemoryOption, ModelOption, PlanOption, SamplingOptions};
use crate::answer::{self, Report, Timing};
use crate::bill::{self, Bill};
use crate::context::Context;
use crate::interrupt::{Interrupt, Interrupted};
use crate::talk::{Kept, Talk};
use crate::{memory, open, out, profiles, units};

/// Talk with a model inside a memory plan
///
/// The whole conversation shares one memory: only what is new is read at each turn, and what is forgotten stays
/// forgotten. Messages are lines of standard input. `/bill` prints the bill, `/quit` or Ctrl-D leaves; Ctrl-C stops an
/// answer, and leaves when nothing is being answered. With --json each answer is one document on one line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  eunoe chat -m smollm2-135m --kv 'streaming_llm @ 512tok'
  eunoe chat -m smollm2-135m --session talks.redb --name alice")]
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

    /// Keep the conversation in FILE, made where it is missing, and go on with it next time with the same bits; `eunoe serve
    /// --sessions FILE` reads the same file. A turn that was stopped is left out
    #[arg(long, value_name = "FILE")]
    pub(crate) session: Option<PathBuf>,

    /// The conversation's name in FILE
    #[arg(long, value_name = "NAME", default_value = "chat", requires = "session", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,

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
    let mut talk = begin(&engine, args)?;
    let at_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if at_terminal {
        let plan = talk.session.bill().plan_used;
        eprintln!("{plan}, up to {} tokens; /bill, /quit; Ctrl-C stops an answer", talk.longest());
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

/// The conversation: a kept one as it was left, or a new one.
fn begin<'a>(engine: &'a Engine, args: &Args) -> Result<Talk<'a>> {
    let asked = args.plan.asked(&args.model)?;
    let allowed = memory::allowed(args.memory.memory)?;
    let fresh = || -> Result<(Plan, Length)> {
        let plan = asked.clone().map_or_else(|| Plan::parse("full"), Ok)?;
        let length = engine.conversation(&plan, allowed)?;
        Ok((plan, length))
    };
    let Some(file) = &args.session else {
        let (plan, length) = fresh()?;
        return Talk::new(engine, &plan, length, args.system.as_deref());
    };
    let model = open::identity(&open::file(&args.model.model)?, args.plan.exact)?;
    let (store, found) = Kept::open(file, &args.name)?;
    let (header, plan) = match found {
        None => {
            let (plan, length) = fresh()?;
            engine.check_saveable(&plan, length)?;
            (Header::new(&model, &plan, length, Conversation::new(args.system.as_deref())), plan)
        }
        Some(header) => {
            header.check_model(&args.name, &model)?;
            if let Some(asked) = asked.filter(|asked| {
                Plan::parse(&header.plan).map_or(true, |plan| plan.to_string() != asked.to_string())
            }) {
                bail!(
                    "session `{}` remembers by `{}`, not by `{}`: leave --kv out",
                    args.name,
                    header.plan,
                    asked.text
                );
            }
            if args.system.is_some() {
                bail!(
                    "session `{}` has begun: a system message comes first, so leave --system out",
                    args.name
                );
            }
            let plan = profiles::attach(Plan::parse(&header.plan)?, &args.model.model)?;
            memory::fits(engine.config(), &plan, header.length(), engine.default_codec(), allowed)?;
            (header, plan)
        }
    };
    if header.turns > 0 {
        eprintln!(
            "session `{}` goes on after {} turns, {} tokens",
            args.name,
            header.turns,
            header.tokens.len()
        );
    }
    Talk::go_on(engine, Kept::new(store, &args.name, header, plan))
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
            talk.leave_unread()?;
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
            let kept = talk.said(&answer);
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
            kept
        }
        Err(e) if e.is::<Interrupted>() => {
            talk.stopped_at(&shown)?;
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
