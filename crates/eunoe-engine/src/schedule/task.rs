//! One request on its way: waiting, read, written, done.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eunoe_core::{Error, Result};
use eunoe_kv::Plan;

use super::prefix::{STRIDE, own_bytes};
use super::swap::Swapped;
use crate::engine::{Engine, Session};
use crate::generate::{Answer, Guide, Request, TokenLogProb, Writer, token_log_prob};
use crate::layout::Length;

/// Hears what happens and says whether to go on.
pub type Hear = Box<dyn FnMut(News<'_, '_>) -> bool + Send>;

/// What is to be answered, and who hears of it.
pub struct Task {
    /// How its text is remembered.
    pub plan: Plan,
    /// What is read; not empty. What it starts from comes first.
    pub prompt: Vec<u32>,
    /// A sequence that has read the beginning of the prompt already.
    pub start: Option<Start>,
    /// How the answer is made.
    pub request: Request,
    /// What may come next, where the answer follows a grammar.
    pub guide: Option<Box<dyn Guide>>,
    /// Probabilities of the prompt's own tokens, with so many likeliest beside each.
    pub echo: Option<usize>,
    /// The mean of the streams of the prompt's tokens is asked for.
    pub pool: bool,
    /// Who hears of it; a task that nobody hears any more gives its memory back.
    pub hear: Hear,
}

/// Makes a sequence.
pub type Open = Box<dyn Fn(&Engine) -> Result<Session> + Send>;

/// Where a task goes on.
pub struct Start {
    /// Tokens of the prompt that were read, one at least fewer than all.
    pub read: usize,
    /// How long its sequence can get.
    pub length: Length,
    /// Makes the sequence, each time with the same bits.
    pub open: Open,
}

impl Task {
    /// Whether what others have read serves it: nothing is asked of each token of its prompt.
    pub(super) fn is_cacheable(&self) -> bool {
        self.echo.is_none() && !self.pool && self.start.as_ref().is_none_or(|start| start.read == 0)
    }

    /// Its sequence before anything of it was read here.
    ///
    /// # Errors
    /// Those of [`Engine::session`], and of what it starts from.
    pub(super) fn session(&self, engine: &Engine) -> Result<Session> {
        match &self.start {
            Some(start) => (start.open)(engine),
            None => engine.session(&self.plan, self.length()),
        }
    }

    /// Tokens of the prompt that its sequence begins with.
    pub(super) fn begins_at(&self) -> usize {
        self.start.as_ref().map_or(0, |start| start.read)
    }

    /// How long its sequence can get.
    pub fn length(&self) -> Length {
        if let Some(start) = &self.start {
            return start.length;
        }
        let prompt = self.prompt.len() as u32;
        Length { prompt, longest: prompt.saturating_add(self.request.max_tokens.max(1) as u32) }
    }
}

/// What happens to a task.
pub enum News<'n, 'e> {
    /// It waits for memory, for the first time or again; asked at every step.
    Waits,
    /// So many tokens of its prompt were read.
    Read(usize, &'n Session),
    /// A token was written; [`Writer::release`] has the new text.
    Wrote(&'n mut Writer<'e>, &'n Session),
    /// It is answered; nothing follows.
    Done(Box<Done>),
    /// It cannot be answered; nothing follows.
    Failed(Error),
}

/// A task that was answered.
pub struct Done {
    /// The answer.
    pub answer: Answer,
    /// What it remembers; its memory counts until this is dropped.
    pub session: Leaving,
    /// Per token of the prompt from the second on, where asked for.
    pub echo: Vec<TokenLogProb>,
    /// Mean of the normalised streams of the prompt's tokens `[d_model]`, where asked for.
    pub pooled: Vec<f32>,
    /// Times that it had to wait outside.
    pub parked: u32,
    /// Tokens of the prompt that another sequence had read.
    pub cached: usize,
}

/// What an answer remembers, after its task ended; its memory counts until it is dropped.
pub struct Leaving {
    session: Session,
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Leaving {
    fn new(session: Session, all: &Arc<AtomicU64>) -> Self {
        let bytes = own_bytes(&session);
        all.fetch_add(bytes, Ordering::Relaxed);
        Self { session, bytes, all: Arc::clone(all) }
    }
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaving").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Deref for Leaving {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What came of a pass for one task.
pub(super) struct Step {
    /// Something is left to be read or written, and somebody hears it.
    pub(super) goes_on: bool,
    /// Tokens of the prompt that were read.
    pub(super) read: usize,
    /// Tokens that were written.
    pub(super) written: usize,
}

/// A task with a sequence.
pub(super) struct Active<'e> {
    pub(super) task: Task,
    pub(super) session: Session,
    pub(super) writer: Writer<'e>,
    /// Prompt and what was written so far.
    pub(super) text: Vec<u32>,
    /// Tokens of it that were read.
    pub(super) read: usize,
    /// Tokens of it that another sequence had read.
    pub(super) cached: usize,
    /// Tokens that were read when its state was kept for others.
    kept: usize,
    echo: Vec<TokenLogProb>,
    /// Sum of the streams of the prompt's rows.
    pooled: Vec<f32>,
    pub(super) swapped: Option<Swapped>,
    /// Times that it was put outside.
    pub(super) parked: u32,
    /// A pass in company failed: it goes on without.
    pub(super) goes_alone: bool,
    /// Nothing is left to be written, or nobody hears it.
    pub(super) is_over: bool,
    pub(super) failure: Option<Error>,
}

impl<'e> Active<'e> {
    /// `cached` tokens of its prompt are in the session already.
    pub(super) fn new(task: Task, session: Session, writer: Writer<'e>, cached: usize) -> Self {
        let text = task.prompt.clone();
        Self {
            task,
            session,
            writer,
            text,
            read: cached,
            cached,
            kept: cached,
            echo: Vec::new(),
            pooled: Vec::new(),
            swapped: None,
            parked: 0,
            goes_alone: false,
            is_over: false,
            failure: None,
        }
    }

    /// Begins again from its first token, with what was written so far: the same rows give the same bits.
    pub(super) fn restart(&mut self, engine: &Engine) {
        (self.read, self.cached, self.swapped) = (self.task.begins_at(), self.task.begins_at(), None);
        self.echo.clear();
        self.pooled.clear();
        match self.task.session(engine) {
            Ok(session) => self.session = session,
            Err(e) => self.failure = Some(e),
        }
    }

    /// Whether its prompt is still being read.
    pub(super) fn is_reading(&self) -> bool {
        self.read + 1 < self.text.len()
    }

    /// Whether all is read, and the first token is to be written.
    pub(super) fn is_ready(&self) -> bool {
        self.read == self.text.len() && !self.is_done()
    }

    /// Whether it ended, one way or the other.
    pub(super) fn is_done(&self) -> bool {
        self.is_over || self.failure.is_some()
    }

    /// Whether its state should be kept for others now: what is marked or evicted serves only from where it was kept.
    pub(super) fn is_due(&mut self) -> bool {
        let (read, prompt) = (self.read, self.task.prompt.len());
        let is_due = !self.session.kv.is_plain()
            && read > self.kept
            && (read == prompt || read < prompt && read - self.kept >= STRIDE);
        if is_due {
            self.kept = read;
        }
        is_due
    }

    /// At most `most` rows that come next, and the tokens of the text that they are.
    pub(super) fn rows(&self, most: usize) -> (Vec<u32>, usize) {
        self.session.next_rows(&self.text[self.read..], most)
    }

    /// Books `count` tokens that were read; `x` are the normalised streams of their rows `[rows, d_model]`.
    pub(super) fn advance(&mut self, engine: &Engine, count: usize, x: &[f32]) -> Result<Step> {
        self.score_prompt(engine, count, x)?;
        self.pool_prompt(engine.config().d_model, x);
        let read = self.task.prompt.len().saturating_sub(self.read).min(count);
        self.read += count;
        if self.read < self.text.len() {
            let goes_on = (self.task.hear)(News::Read(self.read, &self.session));
            return Ok(Step { goes_on, read, written: 0 });
        }
        let before = self.writer.tokens().len();
        let next = self.writer.write(self.session.logits())?;
        self.text.extend(next);
        let goes_on = (self.task.hear)(News::Wrote(&mut self.writer, &self.session)) && next.is_some();
        Ok(Step { goes_on, read, written: self.writer.tokens().len() - before })
    }

    fn score_prompt(&mut self, engine: &Engine, count: usize, x: &[f32]) -> Result<()> {
        let (Some(top), d) = (self.task.echo, engine.config().d_model) else { return Ok(()) };
        if x.len() != count * d {
            return Err(Error::Unsupported("a prompt with landmark tokens in it is not scored".into()));
        }
        // a token is told by the row before it
        let known = self.task.prompt.len().saturating_sub(self.read + 1).min(count);
        for (i, x) in x.chunks_exact(d).take(known).enumerate() {
            let logits = engine.model.logits(x);
            self.echo.push(token_log_prob(&logits, self.text[self.read + i + 1], top));
        }
        Ok(())
    }

    /// Adds up streams row by row, so that the sum does not depend on the chunks.
    fn pool_prompt(&mut self, d: usize, x: &[f32]) {
        if !self.task.pool || self.read >= self.task.prompt.len() {
            return;
        }
        self.pooled.resize(d, 0.0);
        for row in x.chunks_exact(d) {
            self.pooled.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    }

    /// Who hears how it ended, and how; nothing where nobody did to the end.
    pub(super) fn outcome(self, leaving: &Arc<AtomicU64>) -> (Hear, Option<Result<Box<Done>>>) {
        let Self { task, session, writer, echo, mut pooled, parked, cached, failure, .. } = self;
        let rows = task.prompt.len() as f32;
        pooled.iter_mut().for_each(|sum| *sum /= rows);
        let outcome = match failure {
            Some(e) => Some(Err(e)),
            None if writer.finish_reason().is_none() => None,
            None => {
                let session = Leaving::new(session, leaving);
                Some(Ok(Box::new(Done { answer: writer.finish(), session, echo, pooled, parked, cached })))
            }
        };
        (task.hear, outcome)
    }
}
