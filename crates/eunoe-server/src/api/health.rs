//! Whether the server can answer, and its numbers.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::Shared;
use crate::error::ApiError;

/// 200 once a token can be made, 503 before.
pub(crate) async fn health(State(app): State<Shared>) -> Result<Json<Value>, ApiError> {
    app.worker.engine()?;
    Ok(Json(json!({ "status": "ok" })))
}

/// For Prometheus.
pub(crate) async fn metrics(State(app): State<Shared>) -> impl IntoResponse {
    let text = app.metrics.render(&app.worker.standing(), app.settings.memory);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
