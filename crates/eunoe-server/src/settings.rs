//! What a server is started with.

use std::time::Duration;

use eunoe_kv::Plan;

use crate::sessions::Store;

/// Attaches the profile of the model's heads to a plan whose policy splits them.
pub type Attach = Box<dyn Fn(Plan) -> std::result::Result<Plan, String> + Send + Sync>;

/// How a server behaves.
pub struct Settings {
    /// The model's name in answers, and what requests may call it.
    pub model: String,
    /// Plan of requests that name none.
    pub plan: Plan,
    /// Completes a plan for this model.
    pub attach: Attach,
    /// Most KV bytes of all requests at any moment.
    pub memory: u64,
    /// Most of them for what is kept of earlier requests, so that a text that begins as theirs is not read again.
    pub prefixes: u64,
    /// Most tokens of answers that name no number.
    pub max_tokens: usize,
    /// Most requests that are answered at a time.
    pub running: usize,
    /// Most requests that wait.
    pub waiting: usize,
    /// Most rows of a forward pass.
    pub rows: usize,
    /// Most bytes of a request's body.
    pub max_body: usize,
    /// Most connections at a time.
    pub connections: usize,
    /// Time for a request to arrive.
    pub arrival: Duration,
    /// Time for an answer, from its request on.
    pub timeout: Duration,
    /// The file of sessions, and the name of the model in it: one for each file and arithmetic.
    pub sessions: Option<(Store, String)>,
    /// Keys, one of which must be sent; none asks for none.
    pub keys: Vec<String>,
}
