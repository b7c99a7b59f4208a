//! Answers as server-sent events, and what all answers carry.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use eunoe_engine::{Engine, FinishReason, TokenLogProb};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

use crate::ask::{After, Out, Outs, Whole};
use crate::error::ApiError;

/// Time after which an empty comment keeps a silent stream open.
const SILENCE: Duration = Duration::from_secs(15);

/// Events that wait for a client to take them.
const AHEAD: usize = 64;

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
    let (sender, receiver) = channel(AHEAD);
    tokio::spawn(send(outs, of, after, chunks, Events(sender)));
    let events = ReceiverStream::new(receiver);
    Sse::new(events).keep_alive(KeepAlive::new().interval(SILENCE)).into_response()
}

struct Events(Sender<Result<Event, Infallible>>);

impl Events {
    /// Once the client has taken enough of those before; false where it is gone.
    async fn say(&self, value: Value) -> bool {
        self.0.send(Ok(Event::default().data(value.to_string()))).await.is_ok()
    }

    async fn say_all(&self, values: impl IntoIterator<Item = Value>) -> bool {
        for value in values {
            if !self.say(value).await {
                return false;
            }
        }
        true
    }
}

async fn send(mut outs: Outs, of: Of, mut after: After, mut chunks: impl Chunks, events: Events) {
    let told = tokio::select! {
        () = events.0.closed() => return, // the client is gone: dropping `outs` gives the memory back
        () = tokio::time::sleep(of.patience) => Err(ApiError::late(of.patience)),
        told = tell(&mut outs, of, &mut chunks, &events) => told,
    };
    drop(outs);
    let wholes = match told {
        Ok(Some(wholes)) => wholes,
        Ok(None) => return,
        Err(e) => {
            events.say(e.body()).await;
            return;
        }
    };
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
            () = events.0.closed(), if !is_turn => return,
            () = added => {}
        }
    }
    if events.say(chunk).await {
        events.0.send(Ok(Event::default().data("[DONE]"))).await.ok();
    }
}

/// Tells of all answers as they come; none where the client is gone.
///
/// # Errors
/// Where an answer cannot go on.
async fn tell(
    outs: &mut Outs,
    of: Of,
    chunks: &mut impl Chunks,
    events: &Events,
) -> Result<Option<Vec<Box<Whole>>>, ApiError> {
    let mut begun = vec![false; of.count];
    let mut wholes: Vec<Box<Whole>> = Vec::new();
    while wholes.len() < of.count {
        let (index, out) = outs.recv().await.ok_or_else(ApiError::stopping)?;
        let mut say = Vec::new();
        if matches!(out, Out::Text(..) | Out::Done(_)) && !std::mem::replace(&mut begun[index], true) {
            say.extend(chunks.first(index));
        }
        match out {
            Out::Failed(e) => return Err(e.into()),
            Out::Live(live) => {
                let mut chunk = chunks.empty();
                chunk["memory"] = json!({ "live": live });
                say.push(chunk);
            }
            Out::Text(text, log_probs) if text.is_empty() && log_probs.is_empty() => {}
            Out::Text(text, log_probs) => say.extend(chunks.text(index, text, &log_probs)),
            Out::Done(whole) => {
                say.extend(chunks.last(index, &whole));
                wholes.push(whole);
            }
        }
        if !events.say_all(say).await {
            return Ok(None);
        }
    }
    Ok(Some(wholes))
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
