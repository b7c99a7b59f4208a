//! Text to tokens and back.

use axum::Json;
use axum::extract::{Request, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{ChatMessage, body, conversation, read};
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
        (Some(text), None) => tokenizer.encode(&text),
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
