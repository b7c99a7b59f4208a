//! An OpenAI-compatible server whose memory is bounded and visible.
//!
//! All requests share one cap of KV bytes. What does not fit is refused with both numbers before an answer begins; what fits is
//! answered whole, with the record of what was kept and forgotten.

mod api;
mod ask;
mod error;
mod guide;
mod http;
mod metrics;
mod openapi;
mod page;
mod routes;
mod sessions;
mod settings;
mod socket;
mod tools;
mod worker;

pub use http::{REFUSED, run, serve};
pub use openapi::document;
pub use sessions::{Header, Store};
pub use settings::{Attach, Settings};
pub use worker::Open;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use api::body::Room;
use error::ApiError;
use guide::Guides;
use metrics::Metrics;
use sessions::Sessions;
use worker::Worker;

/// What handlers share.
pub(crate) struct App {
    settings: Settings,
    worker: Worker,
    metrics: Metrics,
    /// Where the server was started with a file of them.
    sessions: Option<Arc<Sessions>>,
    /// For bodies.
    room: Room,
    /// Made when they are first asked for.
    guides: Mutex<Option<Arc<Guides>>>,
    /// Of the process's start, in seconds since 1970.
    since: u64,
    /// Numbers of requests.
    next: AtomicU64,
}

pub(crate) type Shared = Arc<App>;

impl App {
    fn new(mut settings: Settings, worker: Worker) -> Self {
        let (metrics, guides, room) = (Metrics::new(), Mutex::default(), Room::new(settings.max_body));
        let sessions = settings.sessions.take().map(|(store, model)| Arc::new(Sessions::new(store, model)));
        Self { settings, worker, metrics, sessions, room, guides, since: now(), next: AtomicU64::new(0) }
    }

    /// What holds answers to a grammar.
    fn guides(&self) -> Result<Arc<Guides>, ApiError> {
        let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
        if guides.is_none() {
            *guides = Some(Arc::new(Guides::new(&self.worker.engine()?.tokenizer)?));
        }
        guides.clone().ok_or_else(ApiError::loading)
    }

    /// The sessions.
    fn sessions(&self) -> Result<&Arc<Sessions>, ApiError> {
        self.sessions.as_ref().ok_or_else(ApiError::no_sessions)
    }

    /// An id that no other answer of this process has.
    fn id(&self, kind: &str) -> String {
        format!("{kind}-{:x}-{:x}", self.since, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
