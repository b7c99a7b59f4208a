//! `/v1/embeddings`: the mean over a text's tokens of the stream before the head, scaled to length 1. The models here were
//! trained to write, not to embed: neighbours are near, but a model made for it does better.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use eunoe_kv::Plan;
use serde::Deserialize;
use serde_json::{Value, json};

use super::completions::Prompt;
use super::params::{body, known, read};
use crate::Shared;
use crate::ask::{Ask, all, submit};
use crate::error::ApiError;

pub(crate) const KNOWN: [&str; 4] = ["model", "input", "encoding_format", "user"];

#[derive(Deserialize)]
struct Embed {
    model: Option<String>,
    input: Prompt,
    encoding_format: Option<String>,
}

pub(crate) async fn embed(State(app): State<Shared>, request: Request) -> Result<Json<Value>, ApiError> {
    let json = body(&app, request).await?;
    known(&json, &[&KNOWN])?;
    let asked: Embed = read(&json)?;
    asked.model.as_ref().map_or(Ok(()), |model| super::models::is_served(&app, model))?;
    let as_base64 = match asked.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            let why = format!("`encoding_format` is `{other}`, may be `float` or `base64`");
            return Err(ApiError::param("encoding_format", why));
        }
    };
    let engine = Arc::clone(app.worker.engine()?);
    let inputs = asked.input.tokens(&engine, "input")?;
    let read: usize = inputs.iter().map(Vec::len).sum();
    let plan = Plan::parse("full")?;
    let asks = inputs.into_iter().map(|input| submit(&app, Ask::pooled(plan.clone(), input)));
    let outs = asks.collect::<Result<Vec<_>, _>>().map_err(|e: ApiError| e.about_prompt("input"))?;
    let mut data = Vec::new();
    for outs in outs {
        for whole in all(&app, outs, 1).await? {
            let embedding = match as_base64 {
                true => json!(
                    STANDARD.encode(whole.pooled.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
                ),
                false => json!(whole.pooled),
            };
            data.push(json!({ "object": "embedding", "index": data.len(), "embedding": embedding }));
        }
    }
    Ok(Json(json!({
        "object": "list", "data": data, "model": app.settings.model, "pooling": "mean",
        "usage": { "prompt_tokens": read, "total_tokens": read },
    })))
}
