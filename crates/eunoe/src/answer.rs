//! Reading a prompt and writing an answer, as `run`, `chat` and `demo` share it.

use std::ops::Range;
use std::time::Instant;

use anyhow::Result;
use eunoe_core::Error;
use eunoe_engine::{Answer, Audit, Engine, FinishReason, Request, Session};
use eunoe_model::chat::Message;
use serde::Serialize;

use crate::bill::Bill;
use crate::interrupt::{Interrupt, Interrupted};
use crate::progress;

/// What `run --json` prints.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The answer.
    pub text: String,
    /// `stop` or `length`.
    pub finish_reason: FinishReason,
    /// Tokens read and made.
    pub usage: Usage,
    /// Seconds.
    pub timing: Timing,
    /// What was kept and what was forgotten.
    pub memory: Bill,
    /// What forgetting cost, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// One entry per token, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<Step>>,
}

/// Tokens read and made; the stop token counts if one was made.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Usage {
    /// Tokens of the prompt, template included.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub completion_tokens: usize,
}

/// Seconds of the two phases.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timing {
    /// Reading the prompt.
    pub prefill_s: f64,
    /// Making the answer.
    pub decode_s: f64,
}

/// One token of an answer and what might have come instead.
#[derive(Debug, Serialize)]
pub struct Step {
    /// The token that was taken.
    #[serde(flatten)]
    pub taken: Candidate,
    /// The likeliest, best first.
    pub top: Vec<Candidate>,
}

/// A token that may come next.
#[derive(Debug, Serialize)]
pub struct Candidate {
    /// Its id.
    pub token: u32,
    /// Its text; bytes that are not UTF-8 by themselves are shown as U+FFFD.
    pub text: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

impl Candidate {
    /// A token with its text.
    pub fn new(engine: &Engine, (token, logprob): (u32, f32)) -> Self {
        let text = String::from_utf8_lossy(engine.tokenizer.piece_or_name(token)).into_owned();
        Self { token, text, logprob }
    }
}

impl Report {
    /// Of an answer that is done.
    pub fn new(engine: &Engine, memory: Bill, answer: Answer, prompt_tokens: usize, timing: Timing) -> Self {
        let step = |step: &eunoe_engine::TokenLogProb| Step {
            taken: Candidate::new(engine, (step.token, step.logprob)),
            top: step.top.iter().map(|top| Candidate::new(engine, *top)).collect(),
        };
        let asked = !answer.log_probs.is_empty();
        Self {
            logprobs: asked.then(|| answer.log_probs.iter().map(step).collect()),
            text: answer.text,
            finish_reason: answer.finish_reason,
            usage: Usage { prompt_tokens, completion_tokens: answer.tokens.len() },
            timing,
            memory,
            audit: None,
        }
    }
}

/// Tokens of one user's message in the model's template, where names of control tokens in the message are text; or of the
/// text alone, where they are not.
///
/// # Errors
/// The template's own complaint.
pub fn prompt_tokens(engine: &Engine, system: Option<&str>, text: &str, raw: bool) -> Result<Vec<u32>> {
    Ok(match engine.template.as_ref().filter(|_| !raw) {
        Some(template) => template.encode(&engine.tokenizer, &messages(system, text), &[], true)?,
        None => engine.tokenizer.encode_prompt(text),
    })
}

/// One user's message in the model's template, or the text alone.
///
/// # Errors
/// The template's own complaint.
pub fn prompt_text(engine: &Engine, system: Option<&str>, text: &str, raw: bool) -> Result<String> {
    Ok(match engine.template.as_ref().filter(|_| !raw) {
        Some(template) => template.render(&messages(system, text), true)?,
        None => text.to_owned(),
    })
}

fn messages(system: Option<&str>, text: &str) -> Vec<Message> {
    let system = system.map(|system| Message::new("system", system));
    system.into_iter().chain([Message::new("user", text)]).collect()
}

/// Where the user's own text stands in a rendered prompt; all of it where the template changed the text.
pub fn content_in(prompt: &str, text: &str) -> Range<usize> {
    let text = text.trim();
    prompt.find(text).map_or(0..prompt.len(), |start| start..start + text.len())
}

/// Reads tokens with a bar; gives the seconds it took.
///
/// # Errors
/// [`Interrupted`], or those of the engine.
pub fn read(engine: &Engine, session: &mut Session, tokens: &[u32], interrupt: &Interrupt) -> Result<f64> {
    let start = Instant::now();
    let bar = progress::bar("reading", tokens.len() as u64, "tokens");
    let mut done = 0;
    let hearing = interrupt.hear();
    let outcome = engine.read(session, tokens, &mut |read| {
        done = read;
        bar.set_position(read as u64);
        !interrupt.asked()
    });
    drop(hearing);
    bar.finish_and_clear();
    match outcome {
        Ok(()) => Ok(start.elapsed().as_secs_f64()),
        Err(Error::Interrupted) => {
            let why = format!("while reading the prompt, after {done} of {} tokens", tokens.len());
            Err(Interrupted(why).into())
        }
        Err(e) => Err(e.into()),
    }
}

/// Writes an answer; `on_text` gets it piece by piece. Gives the seconds it took.
///
/// # Errors
/// [`Interrupted`], those of `on_text`, or those of the engine.
pub fn write(
    engine: &Engine,
    session: &mut Session,
    prompt: &[u32],
    request: &Request,
    interrupt: &Interrupt,
    on_text: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<(Answer, f64)> {
    let start = Instant::now();
    let mut failure = None;
    let hearing = interrupt.hear();
    let outcome = engine.generate(session, prompt, request, &mut |piece| {
        if failure.is_none() && !interrupt.asked() {
            failure = on_text(piece).err();
            return failure.is_none();
        }
        false
    });
    drop(hearing);
    match (outcome, failure) {
        (_, Some(e)) => Err(e),
        (Err(Error::Interrupted), None) => Err(Interrupted("while answering".into()).into()),
        (outcome, None) => Ok((outcome?, start.elapsed().as_secs_f64())),
    }
}
