//! Text to tokens and back. A prompt has the tokens that `/v1/completions` reads, names of control tokens included.

use axum::Json;
use axum::extract::{Request, State};
use eunoe_model::chat::ChatTemplate;
use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{ChatMessage, body, conversation, read};
use super::stream::piece;
use crate::Shared;
use crate::error::ApiError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tokenize {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    add_special_tokens: Option<bool>,
    add_generation_prompt: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detokenize {
    model: Option<String>,
    tokens: Vec<u32>,
}

pub(crate) async fn tokenize(State(app): State<Shared>, request: Request) -> Result<Json<Value>, ApiError> {
    let asked: Tokenize = read(&body(&app, request).await?)?;
    asked.model.map_or(Ok(()), |model| super::models::is_served(&app, &model))?;
    let engine = app.worker.engine()?;
    let tokenizer = &engine.tokenizer;
    let tokens = match (asked.prompt, asked.messages) {
        (Some(text), None) if asked.add_special_tokens.unwrap_or(true) => tokenizer.encode_prompt(&text),
        (Some(text), None) => tokenizer.encode_special(&text),
        (None, Some(messages)) => {
            let open = asked.add_generation_prompt.unwrap_or(true);
            let (template, messages) = conversation(engine, messages, &[])?;
            template.encode(tokenizer, &messages, &[], open)?
        }
        _ => return Err(ApiError::param("prompt", "give either `prompt` or `messages`")),
    };
    Ok(Json(json!({ "count": tokens.len(), "max_model_len": engine.config().context, "tokens": tokens })))
}

pub(crate) async fn detokenize(State(app): State<Shared>, request: Request) -> Result<Json<Value>, ApiError> {
    let asked: Detokenize = read(&body(&app, request).await?)?;
    asked.model.map_or(Ok(()), |model| super::models::is_served(&app, &model))?;
    let engine = app.worker.engine()?;
    let vocab = engine.tokenizer.vocab_len();
    if let Some(bad) = asked.tokens.iter().find(|token| **token as usize >= vocab) {
        return Err(ApiError::param("tokens", format!("token {bad} is not one of the model's {vocab}")));
    }
    Ok(Json(json!({ "prompt": engine.tokenizer.decode(&asked.tokens) })))
}

/// What clients that count tokens themselves ask for, under the names of a Hugging Face tokenizer's configuration.
pub(crate) async fn info(State(app): State<Shared>) -> Result<Json<Value>, ApiError> {
    let engine = app.worker.engine()?;
    let tokenizer = &engine.tokenizer;
    let name = |id: Option<u32>| id.map(|id| piece(engine, id).0);
    let template = engine.template.as_ref().map(ChatTemplate::source).transpose()?;
    Ok(Json(json!({
        "bos_token": name(tokenizer.bos()), "eos_token": name(tokenizer.eos()), "add_bos_token": tokenizer.adds_bos(),
        "model_max_length": engine.config().context, "chat_template": template,
    })))
}
