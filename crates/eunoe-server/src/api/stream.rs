//! Answers as server-sent events, and what all answers carry.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use eunoe_engine::{Engine, FinishReason, TokenLogProb};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::ask::{After, Out, Outs, Whole};
use crate::error::ApiError;

/// Time after which an empty comment keeps a silent stream open.
const SILENCE: Duration = Duration::from_secs(15);

/// How a kind of completion writes its chunks.
pub(super) trait Chunks: Send + 'static {
    /// What comes before the first token of each answer.
    fn first(&self, index: usize) -> Option<Value>;
    /// New text of an answer, and the probabilities of its tokens.
    fn text(&mut self, index: usize, text: String, log_probs: &[TokenLogProb]) -> Vec<Value>;
    /// How an answer ended.
    fn last(&mut self, index: usize, whole: &Whole) -> Vec<Value>;
    /// A chunk without an answer, for usage and memory.
    fn empty(&self) -> Value;
    /// The record of a whole answer's memory.
    fn memory(&self, whole: &Whole) -> Value;
}

/// What a stream is of.
#[derive(Clone, Copy)]
pub(super) struct Of {
    /// Answers.
    pub(super) count: usize,
    pub(super) prompt_tokens: usize,
    /// Whether the usage comes at the end.
    pub(super) usage: bool,
    /// Time for all of it.
    pub(super) patience: Duration,
}

/// Sends chunks as they come; at the end the memory, with the usage where asked for.
pub(super) fn sse(outs: Outs, of: Of, after: After, chunks: impl Chunks) -> Response {
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(send(outs, of, after, chunks, sender));
    let events = UnboundedReceiverStream::new(receiver);
    Sse::new(events).keep_alive(KeepAlive::new().interval(SILENCE)).into_response()
}

type Events = UnboundedSender<Result<Event, Infallible>>;

async fn send(mut outs: Outs, of: Of, mut after: After, mut chunks: impl Chunks, sender: Events) {
    let say = |value: Value| sender.send(Ok(Event::default().data(value.to_string()))).is_ok();
    let late = tokio::time::sleep(of.patience);
    tokio::pin!(late);
    let mut begun = vec![false; of.count];
    let mut wholes: Vec<Box<Whole>> = Vec::new();
    while wholes.len() < of.count {
        let out = tokio::select! {
            () = sender.closed() => return, // the client is gone: dropping `outs` gives the memory back
            () = &mut late => {
                say(ApiError::late(of.patience).body());
                return;
            }
            out = outs.recv() => out,
        };
        let goes_on = match out {
            None => {
                say(ApiError::stopping().body());
                return;
            }
            Some((_, Out::Failed(e))) => {
                say(ApiError::from(e).body());
                return;
            }
            Some((_, Out::Live(live))) => {
                let mut chunk = chunks.empty();
                chunk["memory"] = json!({ "live": live });
                say(chunk)
            }
            Some((index, Out::Text(text, log_probs))) => {
                let opens = !std::mem::replace(&mut begun[index], true);
                opens.then(|| chunks.first(index)).flatten().is_none_or(&say)
                    && ((text.is_empty() && log_probs.is_empty())
                        || chunks.text(index, text, &log_probs).into_iter().all(&say))
            }
            Some((index, Out::Done(whole))) => {
                let opens = !std::mem::replace(&mut begun[index], true);
                let goes_on = opens.then(|| chunks.first(index)).flatten().is_none_or(&say)
                    && chunks.last(index, &whole).into_iter().all(&say);
                wholes.push(whole);
                goes_on
            }
        };
        if !goes_on {
            return;
        }
    }
    let mut chunk = chunks.empty();
    let completion = wholes.iter().map(|whole| whole.tokens.len()).sum();
    if of.usage {
        chunk["usage"] = usage(of.prompt_tokens, completion, wholes.first().map_or(0, |whole| whole.cached));
    }
    if let Some(whole) = wholes.into_iter().next() {
        chunk["memory"] = chunks.memory(&whole);
        // what follows of a turn that is whole is written even if nobody hears of it
        let is_turn = after.turn.is_some();
        let added = after.add_to(&mut chunk["memory"], *whole);
        tokio::select! {
            () = sender.closed(), if !is_turn => return,
            () = added => {}
        }
    }
    say(chunk);
    sender.send(Ok(Event::default().data("[DONE]"))).ok();
}

/// Tokens read and written, and those of the prompt that an earlier request had read.
pub(super) fn usage(prompt: usize, completion: usize, cached: usize) -> Value {
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}

/// The memory of an answer as `eunoe run --json` prints it, with the share that is held of each token of the prompt where
/// the live memory was asked for.
pub(super) fn memory(engine: &Engine, prompt: &[u32], whole: &Whole) -> Value {
    let mut memory = serde_json::to_value(&whole.bill).unwrap_or_default();
    if !whole.held.is_empty() {
        let mut decoder = engine.tokenizer.decoder();
        let token = |(token, kept): (&u32, &f32)| {
            // bytes of a character that more tokens share come with the last of them
            let text = match engine.tokenizer.piece(*token).is_empty() {
                true => String::from_utf8_lossy(engine.tokenizer.piece_or_name(*token)).into_owned(),
                false => decoder.push(*token),
            };
            json!({ "text": text, "kept": kept })
        };
        memory["tokens"] = prompt.iter().zip(&whole.held).map(token).collect();
    }
    memory
}

pub(super) fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// A token's text and bytes.
pub(super) fn piece(engine: &Engine, token: u32) -> (String, Vec<u8>) {
    let bytes = engine.tokenizer.piece_or_name(token);
    (String::from_utf8_lossy(bytes).into_owned(), bytes.to_vec())
}
