//! The model that is served.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::{App, Shared};

pub(crate) async fn list(State(app): State<Shared>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [entry(&app)] }))
}

pub(crate) async fn one(
    State(app): State<Shared>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(id) = id.map_err(|e| ApiError::invalid(e.body_text()))?;
    is_served(&app, &id)?;
    Ok(Json(entry(&app)))
}

/// # Errors
/// 404 for another model than the one that is served.
pub(crate) fn is_served(app: &App, model: &str) -> Result<(), ApiError> {
    let served = &app.settings.model;
    match model == served {
        true => Ok(()),
        false => Err(ApiError::not_found(
            format!("no model is called `{model}`: `{served}` is served"),
            "model_not_found",
        )),
    }
}

fn entry(app: &App) -> Value {
    let context = app.worker.engine().ok().map(|engine| engine.config().context);
    json!({
        "id": app.settings.model, "object": "model", "created": app.since, "owned_by": "eunoe", "max_model_len": context,
    })
}
