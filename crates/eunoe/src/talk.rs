//! A conversation in one sequence: each turn reads only the tokens that are new.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use eunoe_engine::{Answer, Conversation, Engine, Length, Session};
use eunoe_kv::Plan;
use eunoe_model::chat::Message;
use eunoe_server::{Header, Store};

/// A conversation and its memory.
pub struct Talk<'a> {
    /// Who answers.
    pub engine: &'a Engine,
    /// What is remembered.
    pub session: Session,
    conversation: Conversation,
    length: Length,
    /// Tokens in memory when the newest message was heard, and what it added.
    heard: (usize, Vec<u32>),
    kept: Option<Kept>,
}

/// Where a conversation is kept.
pub struct Kept {
    store: Store,
    name: String,
    header: Header,
    plan: Plan,
}

impl Kept {
    /// A session of a file; `None` in place of what is known where it is new.
    ///
    /// # Errors
    /// A name that cannot be, a file that cannot be had, or a session that is damaged.
    pub fn open(file: &Path, name: &str) -> Result<(Store, Option<Header>)> {
        Store::check_name(name)?;
        let store = Store::open(file)?;
        let header = store.header(name)?;
        Ok((store, header))
    }

    /// A session to go on with under its plan.
    pub fn new(store: Store, name: &str, header: Header, plan: Plan) -> Self {
        Self { store, name: name.into(), header, plan }
    }

    fn restore(&self, engine: &Engine) -> Result<Session> {
        Ok(self.store.restore(engine, &self.plan, &self.name, &self.header)?)
    }
}

impl<'a> Talk<'a> {
    /// An empty conversation.
    ///
    /// # Errors
    /// The plan cannot hold it.
    pub fn new(engine: &'a Engine, plan: &Plan, length: Length, system: Option<&str>) -> Result<Self> {
        let session = engine.session(plan, length)?;
        let conversation = Conversation::new(system);
        Ok(Self { engine, session, conversation, length, heard: (0, Vec::new()), kept: None })
    }

    /// A conversation that is kept, as it was left.
    ///
    /// # Errors
    /// Its memory is damaged.
    pub fn go_on(engine: &'a Engine, kept: Kept) -> Result<Self> {
        let (session, length) = (kept.restore(engine)?, kept.header.length());
        let conversation = kept.header.conversation.clone();
        Ok(Self { engine, session, conversation, length, heard: (0, Vec::new()), kept: Some(kept) })
    }

    /// Tokens that the plan holds.
    pub fn longest(&self) -> u32 {
        self.length.longest
    }

    /// Adds a message of the user; gives the tokens to read.
    ///
    /// # Errors
    /// The template's complaint, or that it changes what was already read.
    pub fn hear(&mut self, message: &str) -> Result<Vec<u32>> {
        let new = self.conversation.hear(self.engine, vec![Message::new("user", message)], &[])?;
        self.heard = (self.session.kv.seen() as usize, new.clone());
        Ok(new)
    }

    /// Tokens that an answer may have after `new` tokens are read.
    ///
    /// # Errors
    /// There is none left; the message has the numbers.
    pub fn room(&self, new: usize) -> Result<usize> {
        let (longest, seen) = (self.length.longest as usize, self.session.kv.seen() as usize);
        match longest.checked_sub(seen + new) {
            Some(room) if room > 0 => Ok(room),
            _ => bail!(
                "the conversation is full: the plan holds {longest} tokens, {seen} are read and this message has {new}; \
                 start anew, or give a plan with rank positions, e.g. `--kv 'streaming_llm @ 1024tok'`"
            ),
        }
    }

    /// An answer was made; it is kept.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn said(&mut self, answer: &Answer) -> Result<()> {
        self.conversation.said(self.engine, answer);
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let tokens = &mut kept.header.tokens;
        tokens.extend(self.heard.1.iter().chain(&answer.tokens));
        tokens.truncate(self.session.kv.seen() as usize);
        kept.header.conversation = self.conversation.clone();
        let saved = kept.store.save(&kept.name, &mut kept.header, &self.session);
        saved.context("this turn is not kept")
    }

    /// An answer was stopped after `shown`, whose tokens are all in memory. A conversation that is kept goes back to the turn
    /// before.
    ///
    /// # Errors
    /// That turn cannot be read.
    pub fn stopped_at(&mut self, shown: &str) -> Result<()> {
        self.conversation.stopped_at(shown);
        self.go_back()
    }

    /// Reading the newest message was stopped: the rest is read with the next message, and the answer to this one is empty.
    /// A conversation that is kept goes back to the turn before.
    ///
    /// # Errors
    /// That turn cannot be read.
    pub fn leave_unread(&mut self) -> Result<()> {
        let (before, new) = &self.heard;
        let read = self.session.kv.seen() as usize - before;
        self.conversation.leave_unread(&new[read.min(new.len())..]);
        self.go_back()
    }

    fn go_back(&mut self) -> Result<()> {
        if let Some(kept) = &self.kept {
            self.session = kept.restore(self.engine)?;
            self.conversation = kept.header.conversation.clone();
        }
        Ok(())
    }
}
