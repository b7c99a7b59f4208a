//! `eunoe demo`: one text, one question, several memories, one table.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use eunoe_engine::{Engine, Length, Request};
use eunoe_kv::Plan;
use serde::Serialize;

use crate::answer;
use crate::bill::Bill;
use crate::context::Context;
use crate::home::Home;
use crate::interrupt::Interrupt;
use crate::{models, open, out, profiles, pull, units};

const MODEL: &str = "smollm2-135m";
/// The first paragraph says what it is, the rest is read.
pub(crate) const TEXT: &str = include_str!("../../assets/a-scandal-in-bohemia.txt");
/// Put between two paragraphs in the middle.
const PLANTED: &str = "The special magic number for the locker is 7403926.";
const NUMBER: &str = "7403926";
const QUESTION: &str =
    "What is the special magic number for the locker mentioned in the text? Answer with the number.";
/// Most tokens of an answer.
const ANSWER: u32 = 24;
/// In the order in which they are tried; those for which no time is left are named.
const PLANS: [&str; 12] = [
    "full",
    "streaming_llm @ 12.5%",
    "duo_attention",
    "a2sf @ 12.5%",
    "em_llm",
    "full | q4",
    "a2sf @ 3.125%",
    "snapkv @ 12.5%",
    "streaming_llm @ 3.125%",
    "h2o @ 12.5%",
    "sirllm @ 12.5%",
    "random @ 12.5%",
];
/// No run is begun that would end later, going by those before it.
const LIMIT: f64 = 100.0;
/// Tokens by which the machine's speed is measured.
const TRIAL: usize = 512;
/// What `full` and the three plans after it cost, in readings of the whole text at the trial's speed: attention makes
/// `full` three times as dear at this length, the others half as dear again.
const READINGS: f64 = 8.0;

/// The main job on real input: one text read under full memory and under less, and what the forgetting cost
///
/// A story that just fits the model's window is read, with one sentence planted in its middle, and the model is asked
/// about that sentence: with full memory, then with less under several
/// methods. Fetches
/// `smollm2-135m` if it is missing. Takes less than two minutes: methods for which no time is left are named.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe demo
  eunoe demo --all --json")]
pub struct Args {
    /// Run every method, however long it takes
    #[arg(long)]
    all: bool,
}

/// What `demo --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    model: &'static str,
    text: &'static str,
    /// Share of the text that was read; below 1 where the machine is too slow for all of it.
    text_share: f64,
    prompt_tokens: u32,
    planted: &'static str,
    question: &'static str,
    rows: Vec<Row>,
    /// Plans for which no time was left.
    left_out: Vec<&'static str>,
    seconds: f64,
}

/// One memory.
#[derive(Debug, Serialize)]
struct Row {
    plan: &'static str,
    answer: String,
    /// The answer has the planted number.
    right: bool,
    /// The answer is that of full memory, letter by letter.
    as_full: bool,
    prefill_s: f64,
    decode_s: f64,
    memory: Bill,
}

/// Runs the command.
///
/// # Errors
/// The model cannot be had, or an interruption.
pub fn run(args: &Args, ctx: &Context, home: &Home) -> Result<()> {
    fetch(ctx, home)?;
    let start = Instant::now();
    let interrupt = Interrupt::watch()?;
    let engine = open::engine(Path::new(MODEL), false, ctx)?;
    let (title, story) = TEXT.split_once("\n\n").context("the text has no first line")?;
    let share = if args.all { 1.0 } else { affordable(&engine, story, &interrupt)? };
    let prompt = prompt(&engine, story, share)?;
    let length = Length { prompt: u32::try_from(prompt.len())?, longest: prompt.len() as u32 + ANSWER };
    let mut report = Report {
        model: MODEL,
        text: title,
        prompt_tokens: length.prompt,
        planted: PLANTED,
        question: QUESTION,
        rows: Vec::new(),
        left_out: Vec::new(),
        text_share: share,
        seconds: 0.0,
    };
    let show = |text: String| if ctx.json { Ok(()) } else { out::text(&text) };
    show(report.introduction())?;
    let mut longest = 0.0f64;
    for plan in PLANS {
        if !args.all && start.elapsed().as_secs_f64() + longest > LIMIT {
            report.left_out.push(plan);
            continue;
        }
        let begun = Instant::now();
        let row = ask(&engine, plan, &prompt, length, report.rows.first(), &interrupt)?;
        if plan != "full" {
            longest = longest.max(begun.elapsed().as_secs_f64());
        }
        show(row.line())?;
        report.rows.push(row);
    }
    report.seconds = start.elapsed().as_secs_f64();
    if ctx.json { out::json(&report) } else { out::text(&report.conclusion()) }
}

fn fetch(ctx: &Context, home: &Home) -> Result<()> {
    if home.model(MODEL).is_file() {
        return Ok(());
    }
    let model = models::known(MODEL)?;
    if ctx.offline {
        anyhow::bail!(
            "`{MODEL}` is not on this machine and --offline was given; run `eunoe pull {MODEL}` first"
        );
    }
    let size = units::bytes(model.download);
    eprintln!("fetching {MODEL} ({size}) into `{}`", home.model(MODEL).display());
    pull::pull(model, home)
}

/// The share of the story, from its start, for which there is time on this machine.
fn affordable(engine: &Engine, story: &str, interrupt: &Interrupt) -> Result<f64> {
    let tokens = engine.tokenizer.encode(story);
    let trial = &tokens[..TRIAL.min(tokens.len())];
    let length = Length { prompt: trial.len() as u32, longest: trial.len() as u32 };
    let seconds =
        answer::read(engine, &mut engine.session(&Plan::parse("full")?, length)?, trial, interrupt)?;
    let whole = seconds * READINGS * tokens.len() as f64 / trial.len() as f64;
    Ok((LIMIT / whole).min(1.0))
}

/// Tokens of the story, or of a share of it, and the question.
fn prompt(engine: &Engine, story: &str, share: f64) -> Result<Vec<u32>> {
    let end = before(story, (story.len() as f64 * share) as usize);
    let text = format!("{}\n\n{QUESTION}", planted(story[..end].trim_end()));
    answer::prompt_tokens(engine, None, &text, false)
}

/// The last place up to `at` where a character ends.
fn before(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rfind(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The story with the planted sentence as a paragraph of its own, at the first break after the middle.
fn planted(story: &str) -> String {
    let middle = before(story, story.len() / 2);
    let at = story[middle..].find("\n\n").map_or(story.len(), |i| middle + i);
    format!("{}\n\n{PLANTED}{}", &story[..at], &story[at..])
}

fn ask(
    engine: &Engine,
    plan: &'static str,
    prompt: &[u32],
    length: Length,
    full: Option<&Row>,
    interrupt: &Interrupt,
) -> Result<Row> {
    let asked = profiles::attach(Plan::parse(plan)?, Path::new(MODEL))?;
    let mut session = engine.session(&asked, length)?;
    let prefill_s = answer::read(engine, &mut session, prompt, interrupt)?;
    let request = Request { max_tokens: ANSWER as usize, ..Request::default() };
    let (answer, decode_s) =
        answer::write(engine, &mut session, prompt, &request, interrupt, &mut |_| Ok(()))?;
    Ok(Row {
        plan,
        right: answer.text.contains(NUMBER),
        as_full: full.is_none_or(|full| full.answer == answer.text),
        answer: answer.text,
        prefill_s,
        decode_s,
        memory: session.bill(),
    })
}

/// A line of the table; the widths hold every plan of [`PLANS`].
fn line([plan, allowed, peak, kept, seconds, right, answer]: [&str; 7]) -> String {
    let line = format!("{plan:<22} {allowed:>9} {peak:>9} {kept:>8} {seconds:>7}   {right:<5} {answer}");
    format!("{}\n", line.trim_end())
}

impl Row {
    fn line(&self) -> String {
        let bill = &self.memory;
        let seconds = format!("{:.1}", self.prefill_s + self.decode_s);
        let answer: String = self.answer.split_whitespace().collect::<Vec<_>>().join(" ");
        line([
            self.plan,
            &bill.budget_bytes.map_or_else(|| "-".into(), units::bytes),
            &units::bytes(bill.peak_bytes),
            &units::percent(bill.kept, bill.seen),
            &seconds,
            if self.right { "✓" } else { "✗" },
            &answer,
        ])
    }
}

impl Report {
    fn introduction(&self) -> String {
        let part = match self.text_share < 1.0 {
            true => format!(" Only {:.0} % of it: this machine is slow or busy.", 100.0 * self.text_share),
            false => String::new(),
        };
        let head = line(["plan", "allowed", "KV peak", "kept", "seconds", "found", "answer"]);
        format!(
            "{} reads {} tokens: {}{part}\nplanted in the middle: {}\nasked at the end:      {}\n\n{head}",
            self.model,
            self.prompt_tokens,
            self.text.trim_end_matches(" This line is not read."),
            self.planted,
            self.question
        )
    }

    /// Two sentences: what came out, and what to try next.
    fn conclusion(&self) -> String {
        let (full, less) = self.rows.split_at(1.min(self.rows.len()));
        let found: Vec<&str> = less.iter().filter(|row| row.right).map(|row| row.plan).collect();
        let full = if full.iter().any(|row| row.right) { "found" } else { "did not find" };
        let found = match found.len() {
            0 => "none of the smaller ones kept it".into(),
            n => format!("{n} of the {} smaller ones still did ({})", less.len(), found.join(", ")),
        };
        let left_out = match self.left_out.is_empty() {
            true => String::new(),
            false => {
                format!("\nNo time was left for {}; `eunoe demo --all` runs all.", self.left_out.join(", "))
            }
        };
        format!(
            "\nFull memory {full} the planted number and {found}: a method chooses what to forget before it sees the \
             question,\nand the table shows what each choice cost on this one text. Next, see what fits your own with \
             `eunoe plan -m {}`,\nand run it with `eunoe run -m {} --kv 'a2sf @ 25%' --file TEXT 'QUESTION'`.{left_out}\n",
            self.model, self.model
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_stands_between_two_paragraphs_in_the_middle() {
        assert_eq!(planted("aaaa\n\nbb\n\ncccc"), format!("aaaa\n\nbb\n\n{PLANTED}\n\ncccc"));
        assert_eq!(planted("ä"), format!("ä\n\n{PLANTED}"));
    }

    #[test]
    fn every_plan_can_be_read_and_the_text_names_its_source() {
        assert!(PLANS.iter().all(|plan| Plan::parse(plan).is_ok()));
        assert!(PLANTED.contains(NUMBER) && !TEXT.contains(NUMBER));
        let title = TEXT.lines().next().unwrap();
        assert!(["Arthur Conan Doyle", "1891", "public domain"].iter().all(|part| title.contains(part)));
    }
}
