//! The web page and what it asks for.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::Shared;
use crate::error::ApiError;

/// Nothing but our own files is loaded, and no other site may frame the page.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// Plans that the page offers, and what each does.
const PLANS: [(&str, &str); 7] = [
    ("full", "keeps everything"),
    ("full | q8", "keeps everything in 8 bits: about half of the bytes"),
    ("a2sf @ 25%", "keeps what drew attention, old attention counting less"),
    ("streaming_llm @ 25%", "keeps the first and the newest tokens"),
    ("snapkv @ 25%", "keeps what the newest tokens look at"),
    ("duo_attention", "keeps everything in the heads that retrieve"),
    ("em_llm", "lets old events wait outside, and similar ones come back"),
];

pub(crate) async fn html() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(crate) async fn css() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("page/page.css"))
}

pub(crate) async fn js() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("page/page.js"))
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text)
}

/// The model and the plans to choose from.
pub(crate) async fn plans(State(app): State<Shared>) -> Result<Json<Value>, ApiError> {
    let engine = app.worker.engine()?;
    let config = engine.config();
    let shape = eunoe_engine::policy_shape(config);
    let plans: Vec<Value> =
        PLANS.iter().map(|(plan, about)| json!({ "plan": plan, "about": about })).collect();
    Ok(Json(json!({
        "model": {
            "name": app.settings.model, "layers": shape.layers, "kv_heads": shape.kv_heads, "context": config.context,
            "token_bytes": eunoe_engine::full_bytes(config, 1),
        },
        "default_plan": app.settings.plan.to_string(),
        "memory_bytes": app.settings.memory,
        "plans": plans,
    })))
}

/// How the memory of all requests stands.
pub(crate) async fn memory(State(app): State<Shared>) -> Json<Value> {
    let standing = app.worker.standing();
    Json(json!({
        "cap_bytes": app.settings.memory, "live_bytes": standing.live_bytes,
        "cached_bytes": standing.cached_bytes, "peak_bytes": standing.peak_bytes,
        "running": standing.running, "waiting": standing.waiting, "parked": standing.parked,
    }))
}
