//! `/eunoe/sessions`.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::Shared;
use crate::error::ApiError;

pub(crate) async fn list(State(app): State<Shared>) -> Result<Json<Value>, ApiError> {
    beside(move || Ok(json!({ "object": "list", "data": app.sessions()?.list()? }))).await.map(Json)
}

pub(crate) async fn one(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    beside(move || app.sessions()?.one(&name)).await.map(Json)
}

pub(crate) async fn delete(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    beside(move || app.sessions()?.delete(&name)).await.map(|()| StatusCode::NO_CONTENT)
}

/// Work with the file goes on beside other requests.
async fn beside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::stopping())?
}
