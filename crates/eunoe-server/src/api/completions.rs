//! `/v1/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use eunoe_engine::{Engine, TokenLogProb};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::params::{COMMON, Common, body, known, likeliest, read};
use super::stream::{Chunks, Of, memory, piece, reason, sse, usage};
use crate::ask::{After, Ask, Whole, all, submit};
use crate::error::ApiError;
use crate::{Shared, now};

/// Beside those that all completions know.
pub(crate) const OWN: [&str; 3] = ["prompt", "logprobs", "echo"];
/// Most prompts in one request.
const PROMPTS: usize = 256;

#[derive(Deserialize)]
struct Own {
    prompt: Prompt,
    logprobs: Option<usize>,
    echo: Option<bool>,
}

/// Text or tokens, one or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    Lists(Vec<Vec<u32>>),
}

impl Prompt {
    /// The tokens of each.
    ///
    /// # Errors
    /// None, an empty one, too many, or ids that are no tokens.
    pub(super) fn tokens(self, engine: &Engine, name: &str) -> Result<Vec<Vec<u32>>, ApiError> {
        let encode = |text: String| engine.tokenizer.encode_prompt(&text);
        let all = match self {
            Self::Text(text) => vec![encode(text)],
            Self::Tokens(tokens) => vec![tokens],
            Self::Texts(texts) => texts.into_iter().map(encode).collect(),
            Self::Lists(lists) => lists,
        };
        if all.is_empty() || all.iter().any(Vec::is_empty) {
            return Err(ApiError::param(name, format!("`{name}` is empty")));
        }
        if all.len() > PROMPTS {
            return Err(ApiError::param(
                name,
                format!("{} of them: at most {PROMPTS} in one request", all.len()),
            ));
        }
        let vocab = engine.config().vocab;
        match all.iter().flatten().find(|token| **token as usize >= vocab) {
            Some(bad) => Err(ApiError::param(name, format!("token {bad} is not one of the model's {vocab}"))),
            None => Ok(all),
        }
    }
}

pub(crate) async fn complete(State(app): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let json = body(&app, request).await?;
    known(&json, &[&COMMON, &OWN])?;
    let (common, own): (Common, Own) = (read(&json)?, read(&json)?);
    let engine = Arc::clone(app.worker.engine()?);
    common.check(&app)?;
    let log_probs = own.logprobs.map(|count| likeliest("logprobs", count)).transpose()?;
    let echo = own.echo.unwrap_or(false);
    let prompts = own.prompt.tokens(&engine, "prompt")?;
    if common.stream == Some(true) && (prompts.len() > 1 || echo) {
        return Err(ApiError::param("stream", "a stream answers one prompt, without `echo`"));
    }
    let mut text = Text {
        engine: Arc::clone(&engine),
        id: app.id("cmpl"),
        created: now(),
        model: app.settings.model.clone(),
        prompt: prompts[0].clone(),
        echo,
        offset: 0,
    };
    if common.session()?.is_some() {
        return Err(ApiError::param("memory.session", "sessions are for /v1/chat/completions"));
    }
    let asks = prompts.into_iter().map(|prompt| {
        let scored = log_probs.filter(|_| echo);
        common.ask(&app, &engine, prompt, log_probs, scored)
    });
    let asks: Vec<Ask> = asks.collect::<Result<_, _>>()?;
    let of = Of {
        count: asks[0].count,
        prompt_tokens: text.prompt.len(),
        usage: common.usage(),
        patience: app.settings.timeout,
    };
    let look = common.look(&app, &asks[0], || {
        let whole = engine.tokenizer.decode(&text.prompt);
        Ok((whole.clone(), whole))
    })?;
    let prompts: Vec<Vec<u32>> = asks.iter().map(|ask| ask.prompt.clone()).collect();
    let outs = asks.into_iter().map(|ask| submit(&app, ask)).collect::<Result<Vec<_>, _>>();
    let mut outs = outs.map_err(|e| e.about_prompt("prompt"))?;
    if common.stream == Some(true) {
        return Ok(sse(outs.remove(0), of, After { look, turn: None }, text));
    }
    let (mut choices, mut completion, mut read, mut cached) = (Vec::new(), 0, 0, 0);
    let mut first = None;
    for (outs, prompt) in outs.into_iter().zip(prompts) {
        text.prompt = prompt;
        read += text.prompt.len();
        let wholes = all(&app, outs, of.count).await?;
        cached += wholes.first().map_or(0, |whole| whole.cached);
        for whole in wholes {
            completion += whole.tokens.len();
            let choice = text.choice(choices.len(), &whole);
            if first.is_none() {
                let mut memory = choice["memory"].clone();
                if let Some(look) = &look {
                    memory["audit"] = look.at(&whole).await;
                }
                first = Some(memory);
            }
            choices.push(choice);
        }
    }
    let mut answer = text.empty();
    (answer["choices"], answer["usage"], answer["memory"]) =
        (choices.into(), usage(read, completion, cached), first.into());
    Ok(Json(answer).into_response())
}

/// Answers that go on from a text.
struct Text {
    engine: Arc<Engine>,
    id: String,
    created: u64,
    model: String,
    prompt: Vec<u32>,
    /// The prompt comes back before its answer.
    echo: bool,
    /// Characters of a stream so far.
    offset: usize,
}

impl Text {
    fn choice(&self, index: usize, whole: &Whole) -> Value {
        let before = if self.echo { self.engine.tokenizer.decode(&self.prompt) } else { String::new() };
        let mut tokens: Vec<(u32, Option<&TokenLogProb>)> = Vec::new();
        if self.echo && !whole.echo.is_empty() {
            tokens.push((self.prompt[0], None)); // nothing comes before it
            tokens.extend(whole.echo.iter().map(|step| (step.token, Some(step))));
        }
        tokens.extend(whole.log_probs.iter().map(|step| (step.token, Some(step))));
        json!({
            "index": index, "text": before + &whole.text, "finish_reason": reason(whole.finish_reason),
            "logprobs": self.log_probs(&tokens, 0).0, "memory": self.memory(whole),
        })
    }

    /// The form that text completions have, and the characters that it covers.
    fn log_probs(&self, tokens: &[(u32, Option<&TokenLogProb>)], mut offset: usize) -> (Value, usize) {
        if tokens.is_empty() {
            return (Value::Null, offset);
        }
        let (mut texts, mut values, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (token, step) in tokens {
            let text = piece(&self.engine, *token).0;
            offsets.push(offset);
            offset += text.chars().count();
            texts.push(text);
            values.push(step.map(|step| step.logprob));
            tops.push(step.map(|step| {
                let top =
                    step.top.iter().map(|(token, logprob)| (piece(&self.engine, *token).0, json!(logprob)));
                top.collect::<Map<String, Value>>()
            }));
        }
        (
            json!({ "tokens": texts, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets }),
            offset,
        )
    }

    fn chunk(&self, index: usize, text: &str, log_probs: Value, finish_reason: Option<&str>) -> Value {
        let mut chunk = self.empty();
        chunk["choices"] =
            json!([{ "index": index, "text": text, "logprobs": log_probs, "finish_reason": finish_reason }]);
        chunk
    }
}

impl Chunks for Text {
    fn first(&self, _: usize) -> Option<Value> {
        None
    }

    fn text(&mut self, index: usize, text: String, log_probs: &[TokenLogProb]) -> Vec<Value> {
        let tokens: Vec<_> = log_probs.iter().map(|step| (step.token, Some(step))).collect();
        let (log_probs, offset) = self.log_probs(&tokens, self.offset);
        self.offset = offset;
        vec![self.chunk(index, &text, log_probs, None)]
    }

    fn last(&mut self, index: usize, whole: &Whole) -> Vec<Value> {
        vec![self.chunk(index, "", Value::Null, Some(reason(whole.finish_reason)))]
    }

    fn empty(&self) -> Value {
        json!({ "id": self.id, "object": "text_completion", "created": self.created, "model": self.model, "choices": [] })
    }

    fn memory(&self, whole: &Whole) -> Value {
        memory(&self.engine, &self.prompt, whole)
    }
}
