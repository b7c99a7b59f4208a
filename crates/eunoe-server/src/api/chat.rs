//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use eunoe_engine::{Engine, TokenLogProb};
use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{COMMON, ChatMessage, Common, body, conversation, known, likeliest, read};
use super::stream::{Chunks, Of, memory, piece, reason, sse, usage};
use crate::ask::{After, Form, Whole, all, submit};
use crate::error::ApiError;
use crate::tools::{Call, Choice, Part, Splitter, Tool};
use crate::{Shared, now};

/// Beside those that all completions know.
pub(crate) const OWN: [&str; 8] = [
    "messages",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
];

/// Why an answer with calls of tools ended.
const CALLS: &str = "tool_calls";

#[derive(Deserialize)]
struct Own {
    messages: Vec<ChatMessage>,
    max_completion_tokens: Option<usize>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    response_format: Option<ResponseFormat>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum ResponseFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: JsonSchema },
}

#[derive(Deserialize)]
struct JsonSchema {
    schema: Value,
}

impl Own {
    /// What the answer has to follow, and the tools that the template is shown.
    fn form(&mut self) -> Result<(Form, Vec<Value>), ApiError> {
        let named = |name: &'static str| move |e: eunoe_core::Error| ApiError::param(name, e.to_string());
        let shown = self.tools.take().unwrap_or_default();
        let tools = shown.iter().map(Tool::read).collect::<Result<Vec<_>, _>>().map_err(named("tools"))?;
        let choice = Choice::read(self.tool_choice.as_ref(), &tools).map_err(named("tool_choice"))?;
        if self.parallel_tool_calls == Some(false) && choice == Choice::Auto {
            let why = "an answer that is not held to one call may have several: leave it out";
            return Err(ApiError::param("parallel_tool_calls", why));
        }
        let has_form = !matches!(self.response_format, None | Some(ResponseFormat::Text));
        if has_form && matches!(choice, Choice::Required | Choice::Named(_)) {
            return Err(ApiError::param("response_format", "an answer is either a call or of a format"));
        }
        let form = match self.response_format.take() {
            Some(ResponseFormat::JsonObject) => Form::Object,
            Some(ResponseFormat::JsonSchema { json_schema }) => Form::Schema(json_schema.schema),
            None | Some(ResponseFormat::Text) => match tools.is_empty() {
                true => Form::Text,
                false => Form::Calls(tools, choice),
            },
        };
        Ok((form, shown))
    }
}

pub(crate) async fn complete(State(app): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let json = body(&app, request).await?;
    known(&json, &[&COMMON, &OWN])?;
    let (mut common, mut own): (Common, Own) = (read(&json)?, read(&json)?);
    let engine = Arc::clone(app.worker.engine()?);
    common.check(&app)?;
    common.max_tokens = own.max_completion_tokens.or(common.max_tokens);
    let log_probs = match (own.logprobs.unwrap_or(false), own.top_logprobs) {
        (true, top) => Some(likeliest("top_logprobs", top.unwrap_or(0))?),
        (false, None | Some(0)) => None,
        (false, _) => return Err(ApiError::param("top_logprobs", "`top_logprobs` needs `logprobs: true`")),
    };
    let (form, tools) = own.form()?;
    let (template, messages) = conversation(&engine, own.messages, &tools)?;
    let turn = match common.session()? {
        Some(name) => Some(common.turn(&app, name, messages.clone(), tools.clone()).await?),
        None => None,
    };
    let prompt = match &turn {
        Some(turn) => turn.tokens.clone(),
        // names of control tokens in messages are text
        None => template.encode(&engine.tokenizer, &messages, &tools, true)?,
    };
    let mut ask = common.ask(&app, &engine, prompt, log_probs, None)?;
    ask.form = form;
    if let Some(turn) = &turn {
        turn.join(&mut ask, common.max_tokens, app.settings.max_tokens)?;
    }
    let look = common.look(&app, &ask, || {
        let said = messages.iter().rfind(|message| message.role == "user").and_then(|m| m.content.clone());
        Ok((template.render_with(&messages, &tools, true)?, said.unwrap_or_default()))
    })?;
    let of = Of {
        count: ask.count,
        prompt_tokens: ask.prompt.len(),
        usage: common.usage(),
        patience: app.settings.timeout,
    };
    let chunks = Chat {
        engine: Arc::clone(&engine),
        id: app.id("chatcmpl"),
        created: now(),
        model: app.settings.model.clone(),
        prompt: ask.prompt.clone(),
        has_calls: ask.form.has_calls(),
        open: (0..ask.count).map(|_| Open::default()).collect(),
    };
    let outs = submit(&app, ask)?;
    if common.stream == Some(true) {
        return Ok(sse(outs, of, After { look, turn }, chunks));
    }
    let wholes = all(&app, outs, of.count).await?;
    let mut answer = chunks.whole(&wholes);
    if let Some(whole) = wholes.into_iter().next() {
        After { look, turn }.add_to(&mut answer["memory"], whole).await;
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
    /// Whether calls of tools are looked for.
    has_calls: bool,
    /// Answers as they are streamed.
    open: Vec<Open>,
}

/// What is known of an answer so far, where calls are looked for.
#[derive(Default)]
struct Open {
    splitter: Splitter,
    calls: usize,
}

impl Chat {
    fn whole(&self, wholes: &[Whole]) -> Value {
        let choice = |(index, whole): (usize, &Whole)| {
            let (content, calls) = self.parts(&whole.text, index);
            let finish_reason = if calls.is_empty() { reason(whole.finish_reason) } else { CALLS };
            let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
            if !calls.is_empty() {
                message["tool_calls"] = calls.into();
            }
            json!({
                "index": index, "message": message,
                "logprobs": self.log_probs(&whole.log_probs), "finish_reason": finish_reason,
                "memory": memory(&self.engine, &self.prompt, whole),
            })
        };
        let completion = wholes.iter().map(|whole| whole.tokens.len()).sum();
        let choices: Vec<Value> = wholes.iter().enumerate().map(choice).collect();
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": self.model,
            "usage": usage(self.prompt.len(), completion, wholes.first().map_or(0, |whole| whole.cached)),
            "memory": choices.first().map(|choice| &choice["memory"]),
            "choices": choices,
        })
    }

    /// Text and calls of a whole answer.
    fn parts(&self, text: &str, index: usize) -> (Option<String>, Vec<Value>) {
        if !self.has_calls {
            return (Some(text.to_owned()), Vec::new());
        }
        let mut splitter = Splitter::default();
        let mut parts = splitter.push(text);
        parts.extend(splitter.finish());
        let (mut content, mut calls) = (String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Text(text) => content += &text,
                Part::Call(call) => calls.push(self.call(index, calls.len(), call, false)),
            }
        }
        let content = Some(content.trim().to_owned()).filter(|text| calls.is_empty() || !text.is_empty());
        (content, calls)
    }

    fn call(&self, index: usize, number: usize, call: Call, is_streamed: bool) -> Value {
        let id = self.id.strip_prefix("chatcmpl-").unwrap_or_default();
        let mut value = json!({
            "id": format!("call_{id}-{index}-{number}"), "type": "function",
            "function": { "name": call.name, "arguments": call.arguments },
        });
        if is_streamed {
            value["index"] = number.into();
        }
        value
    }

    /// Chunks of parts of an answer.
    fn part_chunks(&mut self, index: usize, parts: Vec<Part>) -> Vec<Value> {
        let mut chunks = Vec::new();
        for part in parts {
            let delta = match part {
                Part::Text(text) => json!({ "content": text }),
                Part::Call(call) => {
                    let number = self.open[index].calls;
                    self.open[index].calls += 1;
                    json!({ "tool_calls": [self.call(index, number, call, true)] })
                }
            };
            chunks.push(self.chunk(index, delta, Value::Null, None));
        }
        chunks
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

    fn text(&mut self, index: usize, text: String, log_probs: &[TokenLogProb]) -> Vec<Value> {
        if !self.has_calls {
            return vec![self.chunk(index, json!({ "content": text }), self.log_probs(log_probs), None)];
        }
        let parts = self.open[index].splitter.push(&text);
        let mut chunks = self.part_chunks(index, parts);
        if !log_probs.is_empty() {
            chunks.push(self.chunk(index, json!({ "content": "" }), self.log_probs(log_probs), None));
        }
        chunks
    }

    fn last(&mut self, index: usize, whole: &Whole) -> Vec<Value> {
        let rest = std::mem::take(&mut self.open[index].splitter).finish();
        let mut chunks = self.part_chunks(index, rest);
        let finish_reason = if self.open[index].calls > 0 { CALLS } else { reason(whole.finish_reason) };
        chunks.push(self.chunk(index, json!({}), Value::Null, Some(finish_reason)));
        chunks
    }

    fn empty(&self) -> Value {
        json!({ "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model, "choices": [] })
    }

    fn memory(&self, whole: &Whole) -> Value {
        memory(&self.engine, &self.prompt, whole)
    }
}
