//! Errors in the form that OpenAI's clients read.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use eunoe_core::Error;
use eunoe_engine::POSITIONS;
use serde_json::{Value, json};

/// Of an answer that does not fit the model's window.
const CONTEXT: &str = "context_length_exceeded";

/// What is answered instead.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into() }
    }

    /// A request that cannot be meant.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A parameter that cannot be meant, or is not known here.
    pub(crate) fn param(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::invalid(message) }
    }

    /// The model is still being read.
    pub(crate) fn loading() -> Self {
        let code = Some("loading");
        Self {
            code,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "the model is still being loaded")
        }
    }

    /// The server stops, or its worker is gone.
    pub(crate) fn stopping() -> Self {
        let code = Some("stopping");
        Self { code, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "the server is stopping") }
    }

    /// More waits than may wait.
    pub(crate) fn queue_full(waiting: usize) -> Self {
        let message = format!("{waiting} requests wait already: try again later");
        let code = Some("queue_full");
        Self { code, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message) }
    }

    /// More connections than there may be.
    pub(crate) fn crowded(connections: usize) -> Self {
        Self::busy(format!("{connections} connections are open already (--connections): try again later"))
    }

    /// More of bodies than there is room for.
    pub(crate) fn bodies(room: usize) -> Self {
        Self::busy(format!("requests that wait or run take {room} bytes already: try again later"))
    }

    fn busy(message: String) -> Self {
        let code = Some("busy");
        Self { code, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message) }
    }

    /// No such thing.
    pub(crate) fn not_found(message: impl Into<String>, code: &'static str) -> Self {
        Self { code: Some(code), ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message) }
    }

    /// Another method than the one that the path takes.
    pub(crate) fn method(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", message)
    }

    /// No key, or a wrong one.
    pub(crate) fn key() -> Self {
        let message = "this server asks for an API key: send `Authorization: Bearer KEY`";
        let code = Some("invalid_api_key");
        Self { code, ..Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message) }
    }

    /// A page of another site.
    pub(crate) fn origin() -> Self {
        let message = "requests of pages of other sites are not answered";
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message)
    }

    /// A body beyond the limit.
    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {limit} bytes (--max-body)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// A body with more values than ever have room.
    pub(crate) fn values(most: usize) -> Self {
        let message = format!("the body has more values than there is room for: about {most}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// An answer that is not there in time.
    pub(crate) fn late(patience: Duration) -> Self {
        Self::timeout(format!("no answer within {} s (--timeout)", patience.as_secs()))
    }

    /// It took too long.
    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self { code: Some("timeout"), ..Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", message) }
    }

    /// Another request has the session.
    pub(crate) fn session_busy(name: &str) -> Self {
        let message = format!("session `{name}` is being answered: wait for it");
        let code = Some("session_busy");
        Self { code, ..Self::new(StatusCode::CONFLICT, "invalid_request_error", message) }
    }

    /// A session that has no room left.
    pub(crate) fn full(name: &str, asked: usize, have: usize) -> Self {
        let message = format!(
            "session `{name}` holds {have} tokens, this message and its answer make {asked}: begin another, or use a plan with rank \
             positions, e.g. `streaming_llm @ 1024tok`"
        );
        Self { code: Some("context_length_exceeded"), ..Self::param("messages", message) }
    }

    /// There is no file of sessions.
    pub(crate) fn no_sessions() -> Self {
        let message = "this server holds no sessions: start it with `--sessions FILE`";
        Self { status: StatusCode::NOT_FOUND, ..Self::param("memory.session", message) }
    }

    /// Of the parameter of this name, where it is about a prompt.
    pub(crate) fn about_prompt(self, name: &str) -> Self {
        match self.code {
            Some(CONTEXT) => Self { param: Some(name.into()), ..self },
            _ => self,
        }
    }

    /// The whole answer, for a connection that nothing else answers.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let body = self.body().to_string();
        let (status, length) = (self.status, body.len());
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nretry-after: 1\r\n\
             connection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// The `error` object.
    pub(crate) fn body(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind, "param": self.param, "code": self.code } })
    }
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        let message = e.to_string();
        match e {
            Error::Plan { .. } => Self::param("memory.plan", message),
            Error::Limit { what, .. } if what == POSITIONS => {
                Self { code: Some(CONTEXT), ..Self::param("messages", message) }
            }
            Error::Limit { .. } => {
                Self { code: Some("memory_budget_exceeded"), ..Self::param("memory.plan", message) }
            }
            Error::Invalid(_) | Error::Unsupported(_) => Self::invalid(message),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let retry = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&self.status);
        if retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
