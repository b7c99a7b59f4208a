//! Connections: how many, how long they may take to say what they want, and how the server ends.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use crate::error::ApiError;
use crate::worker::{Open, Worker, folder};
use crate::{App, Settings, Shared, api, page};

/// Bytes of headers, and of a body that wait to be read.
const BUFFER: usize = 64 << 10;
/// How long running answers may go on once the server is asked to stop.
const GRACE: Duration = Duration::from_secs(30);
/// Time before connections are taken again where one could not be.
const PAUSE: Duration = Duration::from_millis(50);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// As [`serve`], on a runtime of its own, until Ctrl-C or a request of the system to end.
///
/// # Errors
/// Those of [`serve`].
pub fn run(
    listener: std::net::TcpListener,
    settings: Settings,
    open: Open,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async move {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        };
        serve(TcpListener::from_std(listener)?, settings, open, stop).await
    });
    runtime.shutdown_background();
    outcome
}

/// Serves until `stop` is done; then takes no new requests, and ends once the running ones are answered.
///
/// # Errors
/// The model cannot be opened, or the system has no thread for it.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    open: Open,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let limits = eunoe_engine::schedule::Limits {
        memory: settings.memory,
        running: settings.running,
        rows: settings.rows,
        folder: folder(),
    };
    let worker = Worker::start(open, limits, settings.waiting)?;
    let places = Arc::new(Semaphore::new(settings.connections));
    let all = settings.connections as u32;
    let app: Shared = Arc::new(App::new(settings, worker));
    let router = router(&app);
    let (ending, ended) = watch::channel(false);
    tokio::pin!(stop);
    let mut look = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = look.tick() => if let Some(e) = app.worker.take_failure() { return Err(e.into()) },
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    // it broke before it began, or there are no more file handles: soon there may be
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let (router, ended, arrival) = (router.clone(), ended.clone(), app.settings.arrival);
                tokio::spawn(async move {
                    connection(stream, router, ended, arrival).await;
                    drop(place);
                });
            }
        }
    }
    app.worker.close();
    ending.send(true).ok();
    tokio::time::timeout(GRACE, places.acquire_many(all)).await.ok().and_then(Result::ok);
    app.worker.abandon();
    Ok(())
}

/// Answers what comes over one connection.
async fn connection(
    stream: tokio::net::TcpStream,
    router: Router,
    mut ended: watch::Receiver<bool>,
    arrival: Duration,
) {
    stream.set_nodelay(true).ok();
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(arrival).max_buf_size(BUFFER);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ended.wait_for(|ended| *ended) => connection.as_mut().graceful_shutdown(),
    }
    connection.await.ok();
}

fn router(app: &Shared) -> Router {
    let guarded = Router::new()
        .route("/v1/models", get(api::models::list))
        .route("/v1/models/{id}", get(api::models::one))
        .route("/v1/chat/completions", post(api::chat::complete))
        .route("/v1/completions", post(api::completions::complete))
        .route("/v1/embeddings", post(api::embeddings::embed))
        .route("/tokenize", post(api::tokens::tokenize))
        .route("/detokenize", post(api::tokens::detokenize))
        .route("/tokenizer_info", get(api::tokens::info))
        .route("/metrics", get(api::health::metrics))
        .route("/eunoe/plans", get(page::plans))
        .route("/eunoe/memory", get(page::memory))
        .layer(middleware::from_fn_with_state(Arc::clone(app), key));
    Router::new()
        .route("/", get(page::html))
        .route("/page.css", get(page::css))
        .route("/page.js", get(page::js))
        .route("/favicon.ico", get(|| async { axum::http::StatusCode::NO_CONTENT }))
        .route("/health", get(api::health::health))
        .merge(guarded)
        .fallback(|| async {
            ApiError::not_found(
                "no such path: /v1/chat/completions, /v1/completions, /v1/models …",
                "unknown_url",
            )
        })
        .method_not_allowed_fallback(|| async { ApiError::method("this path takes another method") })
        .layer(middleware::from_fn_with_state(Arc::clone(app), name))
        .with_state(Arc::clone(app))
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
