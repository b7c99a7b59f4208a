//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use eunoe_engine::{Engine, TokenLogProb};
use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{COMMON, ChatMessage, Common, body, known, last_of_user, likeliest, read, rendered};
use super::stream::{Chunks, Of, memory, piece, reason, sse, usage};
use crate::ask::{Whole, all, submit};
use crate::error::ApiError;
use crate::{Shared, now};

/// Beside those that all completions know.
const OWN: [&str; 4] = ["messages", "max_completion_tokens", "logprobs", "top_logprobs"];

#[derive(Deserialize)]
struct Own {
    messages: Vec<ChatMessage>,
    max_completion_tokens: Option<usize>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
}

pub(crate) async fn complete(State(app): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let json = body(&app, request).await?;
    known(&json, &[&COMMON, &OWN])?;
    let (mut common, own): (Common, Own) = (read(&json)?, read(&json)?);
    let engine = Arc::clone(app.worker.engine()?);
    common.check(&app)?;
    common.max_tokens = own.max_completion_tokens.or(common.max_tokens);
    let log_probs = match (own.logprobs.unwrap_or(false), own.top_logprobs) {
        (true, top) => Some(likeliest("top_logprobs", top.unwrap_or(0))?),
        (false, None | Some(0)) => None,
        (false, _) => return Err(ApiError::param("top_logprobs", "`top_logprobs` needs `logprobs: true`")),
    };
    let said = last_of_user(&own.messages);
    let text = rendered(&engine, own.messages, true)?;
    let ask = common.ask(&app, &engine, engine.tokenizer.encode_prompt(&text), log_probs, None)?;
    let look = common.look(&app, &ask, text, &said);
    let of = Of { count: ask.count, prompt_tokens: ask.prompt.len(), usage: common.usage() };
    let chunks = Chat {
        engine,
        id: app.id("chatcmpl"),
        created: now(),
        model: app.settings.model.clone(),
        prompt: ask.prompt.clone(),
    };
    let outs = submit(&app, ask)?;
    if common.stream == Some(true) {
        return Ok(sse(outs, of, look, chunks));
    }
    let wholes = all(&app, outs, of.count).await?;
    let mut answer = chunks.whole(&wholes);
    if let (Some(look), Some(whole)) = (look, wholes.first()) {
        answer["memory"]["audit"] = look.at(whole).await;
    }
    Ok(Json(answer).into_response())
}

/// One answer, or several to the same messages.
struct Chat {
    engine: Arc<Engine>,
    id: String,
    created: u64,
    model: String,
    prompt: Vec<u32>,
}

impl Chat {
    fn whole(&self, wholes: &[Whole]) -> Value {
        let choice = |(index, whole): (usize, &Whole)| {
            json!({
                "index": index, "message": { "role": "assistant", "content": whole.text, "refusal": null },
                "logprobs": self.log_probs(&whole.log_probs), "finish_reason": reason(whole.finish_reason),
                "memory": memory(&self.engine, &self.prompt, whole),
            })
        };
        let completion = wholes.iter().map(|whole| whole.tokens.len()).sum();
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": wholes.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": usage(self.prompt.len(), completion),
            "memory": wholes.first().map(|whole| memory(&self.engine, &self.prompt, whole)),
        })
    }

    fn log_probs(&self, log_probs: &[TokenLogProb]) -> Value {
        if log_probs.is_empty() {
            return Value::Null;
        }
        let one = |token: u32, logprob: f32| {
            let (text, bytes) = piece(&self.engine, token);
            json!({ "token": text, "logprob": logprob, "bytes": bytes })
        };
        let step = |step: &TokenLogProb| {
            let mut entry = one(step.token, step.logprob);
            entry["top_logprobs"] = step.top.iter().map(|(token, logprob)| one(*token, *logprob)).collect();
            entry
        };
        json!({ "content": log_probs.iter().map(step).collect::<Vec<_>>(), "refusal": null })
    }

    fn chunk(&self, index: usize, delta: Value, log_probs: Value, finish_reason: Option<&str>) -> Value {
        let mut chunk = self.empty();
        chunk["choices"] = json!([{ "index": index, "delta": delta, "logprobs": log_probs, "finish_reason": finish_reason }]);
        chunk
    }
}

impl Chunks for Chat {
    fn first(&self, index: usize) -> Option<Value> {
        Some(self.chunk(index, json!({ "role": "assistant", "content": "" }), Value::Null, None))
    }

    fn text(&mut self, index: usize, text: String, log_probs: &[TokenLogProb]) -> Value {
        self.chunk(index, json!({ "content": text }), self.log_probs(log_probs), None)
    }

    fn last(&mut self, index: usize, whole: &Whole) -> Value {
        self.chunk(index, json!({}), Value::Null, Some(reason(whole.finish_reason)))
    }

    fn empty(&self) -> Value {
        json!({ "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model, "choices": [] })
    }

    fn memory(&self, whole: &Whole) -> Value {
        memory(&self.engine, &self.prompt, whole)
    }
}
