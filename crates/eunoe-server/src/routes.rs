//! Paths, and what stands before each of them.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};

use crate::api::body::Load;
use crate::error::ApiError;
use crate::{Shared, api, openapi, page};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A path, what it takes, and what answers.
type Route = (&'static str, &'static str, MethodRouter<Shared>);

/// Paths for those who have a key.
fn guarded() -> Vec<Route> {
    vec![
        ("get", "/v1/models", get(api::models::list)),
        ("get", "/v1/models/{id}", get(api::models::one)),
        ("post", "/v1/chat/completions", post(api::chat::complete)),
        ("post", "/v1/completions", post(api::completions::complete)),
        ("post", "/v1/embeddings", post(api::embeddings::embed)),
        ("post", "/tokenize", post(api::tokens::tokenize)),
        ("post", "/detokenize", post(api::tokens::detokenize)),
        ("get", "/tokenizer_info", get(api::tokens::info)),
        ("get", "/metrics", get(api::health::metrics)),
        ("get", "/eunoe/plans", get(page::plans)),
        ("get", "/eunoe/memory", get(page::memory)),
        ("get", "/eunoe/sessions", get(api::sessions::list)),
        ("get", "/eunoe/sessions/{name}", get(api::sessions::one)),
        ("delete", "/eunoe/sessions/{name}", delete(api::sessions::delete)),
    ]
}

/// Paths for everybody.
fn open() -> Vec<Route> {
    vec![
        ("get", "/", get(page::html)),
        ("get", "/page.css", get(page::css)),
        ("get", "/page.js", get(page::js)),
        ("get", "/favicon.ico", get(|| async { StatusCode::NO_CONTENT })),
        ("get", "/health", get(api::health::health)),
        ("get", "/openapi.json", get(openapi::serve)),
    ]
}

/// Method and path of each, for the tests.
#[cfg(test)]
pub(crate) fn names() -> Vec<String> {
    let all = guarded().into_iter().chain(open());
    all.map(|(method, path, _)| format!("{method} {path}")).collect()
}

pub(crate) fn router(app: &Shared) -> Router {
    let all = |routes: Vec<Route>| {
        routes.into_iter().fold(Router::new(), |router, (_, path, answer)| router.route(path, answer))
    };
    let guarded = all(guarded())
        .layer(middleware::from_fn(aside))
        .layer(middleware::from_fn_with_state(Arc::clone(app), key));
    all(open())
        .merge(guarded)
        .fallback(|| async {
            ApiError::not_found(
                "no such path: /v1/chat/completions, /v1/completions, /v1/models …; /openapi.json has all",
                "unknown_url",
            )
        })
        .method_not_allowed_fallback(|| async { ApiError::method("this path takes another method") })
        .layer(middleware::from_fn_with_state(Arc::clone(app), name))
        .with_state(Arc::clone(app))
}

/// Reading a long text or compiling a schema takes up to seconds: the thread is told, so that others carry connections on.
/// What the body takes is given back once there is an answer.
async fn aside(mut request: Request, next: Next) -> Response {
    let load = Load::default();
    request.extensions_mut().insert(load.clone());
    let mut answer = pin!(next.run(request));
    poll_fn(|cx| tokio::task::block_in_place(|| answer.as_mut().poll(cx))).await // `load` lives until then
}

/// Lets in who has a key, where keys are asked for, and no page of another site: a browser sends its requests unasked.
async fn key(State(app): State<Shared>, request: Request, next: Next) -> Response {
    if is_foreign(request.headers()) {
        return ApiError::origin().into_response();
    }
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let given = given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
    match app.settings.keys.is_empty() || app.settings.keys.iter().any(|key| is_same(key.as_bytes(), given)) {
        true => next.run(request).await,
        false => ApiError::key().into_response(),
    }
}

/// Whether a page of another site asks.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let of = |origin: &str| origin.split_once("://").map(|(_, host)| host.to_owned());
    headers.contains_key(header::ORIGIN) && text(header::ORIGIN).and_then(of).as_deref() != text(header::HOST)
}

/// In a time that does not tell where two keys part.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Gives each answer the request's id, or one of ours.
async fn name(State(app): State<Shared>, request: Request<Body>, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).filter(|id| id.len() <= 128).cloned();
    let mut response = next.run(request).await;
    let id = given.or_else(|| HeaderValue::from_str(&app.id("req")).ok());
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_only_as_a_whole() {
        assert!(is_same(b"abc", b"abc") && is_same(b"", b""));
        assert!(!is_same(b"abc", b"abd") && !is_same(b"abc", b"ab") && !is_same(b"", b"a"));
    }
}
