//! Conversations that a name holds together: each request brings what is new, and goes on from what is remembered.

mod store;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use eunoe_core::Error;
use eunoe_engine::schedule::{Leaving, Start};
use eunoe_engine::{Answer, Conversation, Engine};
use eunoe_kv::Plan;
use eunoe_model::chat::Message;
use serde_json::{Value, json};

use crate::App;
use crate::ask::{Ask, Whole};
use crate::error::ApiError;
pub use store::{Header, Store};

/// The file of sessions, and those that are being answered.
pub(crate) struct Sessions {
    store: Arc<Store>,
    /// Which model this is, and how it computes.
    model: String,
    busy: Mutex<HashSet<String>>,
}

/// A session that no other request has meanwhile.
struct Held {
    sessions: Arc<Sessions>,
    name: String,
}

/// A session that is being answered.
pub(crate) struct Turn {
    engine: Arc<Engine>,
    held: Held,
    header: Header,
    plan: Plan,
    /// What is read of it, what is new included.
    pub(crate) tokens: Vec<u32>,
    /// Tokens of them that are in memory.
    read: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.sessions.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl Sessions {
    pub(crate) fn new(store: Store, model: String) -> Self {
        Self { store: Arc::new(store), model, busy: Mutex::default() }
    }

    /// Begins a turn with new messages, under the plan that the request asks for, or that the session has.
    ///
    /// # Errors
    /// A name that cannot be, a session that is being answered, of another model or another plan, or whose file cannot be read;
    /// those of the template.
    pub(crate) fn begin(
        self: &Arc<Self>,
        app: &App,
        name: &str,
        plan: Option<&Plan>,
        (messages, tools): (Vec<Message>, &[Value]),
    ) -> Result<Turn, ApiError> {
        let engine = app.worker.engine()?;
        Store::check_name(name).map_err(|e| named(&e))?;
        let held = self.hold(name)?;
        let fresh = || -> Result<Header, Error> {
            let plan = plan.unwrap_or(&app.settings.plan);
            let length = engine.conversation(plan, app.settings.memory)?;
            engine.check_saveable(plan, length)?;
            Ok(Header::new(&self.model, plan, length, Conversation::default()))
        };
        let header = self.store.header(name)?.map_or_else(fresh, Ok)?;
        let remembers = Plan::parse(&header.plan)?;
        let plan_differs = plan.is_some_and(|plan| plan.to_string() != remembers.to_string());
        let mut turn =
            Turn { engine: Arc::clone(engine), held, header, plan: remembers, tokens: Vec::new(), read: 0 };
        turn.header.check_model(name, &self.model).map_err(|e| named(&e))?;
        if plan_differs {
            let why = format!("session `{name}` remembers by `{}`: leave the plan out", turn.header.plan);
            return Err(ApiError::param("memory.plan", why));
        }
        turn.plan =
            (app.settings.attach)(turn.plan.clone()).map_err(|why| ApiError::param("memory.session", why))?;
        let new = turn.header.conversation.hear(engine, messages, tools)?;
        turn.read = turn.header.tokens.len();
        turn.tokens = [&turn.header.tokens[..], &new].concat();
        Ok(turn)
    }

    /// All sessions.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<Value>, ApiError> {
        let of = |(name, header): (String, Result<Header, Error>)| match header {
            Ok(header) => self.told(&name, &header),
            Err(e) => json!({ "name": name, "error": e.to_string() }),
        };
        Ok(self.store.list()?.into_iter().map(of).collect())
    }

    /// One session, with what was said.
    ///
    /// # Errors
    /// There is none, it is damaged, or the file cannot be read.
    pub(crate) fn one(&self, name: &str) -> Result<Value, ApiError> {
        let header = self.store.header(name)?.ok_or_else(|| missing(name))?;
        let mut told = self.told(name, &header);
        told["messages"] = serde_json::to_value(header.conversation.messages()).unwrap_or_default();
        Ok(told)
    }

    /// Removes one.
    ///
    /// # Errors
    /// There is none, it is being answered, or the file cannot be written.
    pub(crate) fn delete(self: &Arc<Self>, name: &str) -> Result<(), ApiError> {
        let _held = self.hold(name)?;
        match self.store.delete(name)? {
            true => Ok(()),
            false => Err(missing(name)),
        }
    }

    fn hold(self: &Arc<Self>, name: &str) -> Result<Held, ApiError> {
        match self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into()) {
            true => Ok(Held { sessions: Arc::clone(self), name: name.into() }),
            false => Err(ApiError::session_busy(name)),
        }
    }

    fn told(&self, name: &str, header: &Header) -> Value {
        json!({
            "name": name, "plan": header.plan, "turns": header.turns, "tokens": header.tokens.len(),
            "longest": header.longest, "bytes": header.bytes, "created": header.created, "updated": header.updated,
            "usable": header.model == self.model,
        })
    }
}

impl Turn {
    /// Makes the answer one of this session. Where the request names no number of tokens, it has what is usual here, or what the
    /// session has room for.
    ///
    /// # Errors
    /// There is no room for it, with both numbers.
    pub(crate) fn join(&self, ask: &mut Ask, asked: Option<usize>, usual: usize) -> Result<(), ApiError> {
        let (longest, read) = (self.header.longest as usize, self.tokens.len());
        let room = longest.saturating_sub(read);
        let tokens = asked.unwrap_or_else(|| usual.min(room).max(1));
        if tokens > room {
            return Err(ApiError::full(&self.held.name, read.saturating_add(tokens), longest));
        }
        (ask.request.max_tokens, ask.plan) = (tokens, self.plan.clone());
        ask.start = Some(self.start());
        Ok(())
    }

    /// Where its task goes on.
    fn start(&self) -> Start {
        let (store, name, header) =
            (Arc::clone(&self.held.sessions.store), self.held.name.clone(), self.header.clone());
        let (plan, length) = (self.plan.clone(), self.header.length());
        let open = Box::new(move |engine: &Engine| store.restore(engine, &plan, &name, &header));
        Start { read: self.read, length, open }
    }

    /// Writes the turn; gives what the answer tells of it.
    pub(crate) fn save(mut self, whole: &Whole, session: &Leaving) -> Value {
        let read = session.kv.seen() as usize;
        self.tokens.extend(&whole.tokens);
        self.tokens.truncate(read);
        self.header.tokens = std::mem::take(&mut self.tokens);
        let (text, tokens, finish_reason) = (whole.text.clone(), whole.tokens.clone(), whole.finish_reason);
        self.header
            .conversation
            .said(&self.engine, &Answer { text, tokens, finish_reason, log_probs: Vec::new() });
        let Held { sessions, name } = &self.held;
        let saved = sessions.store.save(name, &mut self.header, session);
        let mut told =
            json!({ "name": name, "saved": saved.is_ok(), "turns": self.header.turns, "tokens": read });
        if let Err(e) = saved {
            told["note"] = format!("this turn is lost when the next one comes: {e}").into();
        }
        told
    }
}

fn missing(name: &str) -> ApiError {
    ApiError::not_found(format!("there is no session `{name}`"), "session_not_found")
}

fn named(e: &Error) -> ApiError {
    ApiError::param("memory.session", e.to_string())
}
