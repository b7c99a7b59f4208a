//! A model that is ready to run, and the sequences that it reads.

use crate::batch::{Batch, Part};
use crate::bill::Bill;
use crate::layout::{Layout, Length};
use crate::store::{Kv, On};
use eunoe_core::{Codec, Error, Result};
use eunoe_kernels::Pool;
use eunoe_kernels::matmul::Arithmetic;
use eunoe_kv::{Column, Plan};
use eunoe_model::chat::ChatTemplate;
use eunoe_model::gguf;
use eunoe_model::probe::{NoProbe, Probe};
use eunoe_model::tokenizer::Tokenizer;
use eunoe_model::{Buffer, Config, Cpu, Model};
use std::path::Path;

/// How a model is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads; where it is 0, as many as bring something by measurement ([`Pool::measured`]).
    pub threads: usize,
    /// Exact or fast products, and with them f32 or f16 as the default codec.
    pub arithmetic: Arithmetic,
    /// Rows of a prefill chunk.
    pub chunk: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 0, arithmetic: Arithmetic::Fast, chunk: 512 }
    }
}

/// A model with its tokenizer.
pub struct Engine {
    /// The forward pass.
    pub model: Model<Cpu>,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// The chat template, where the file has one.
    pub template: Option<ChatTemplate>,
    /// How it was opened.
    pub options: Options,
}

/// One sequence: what it remembers, and what comes next.
pub struct Session {
    /// Its memory.
    pub kv: Kv,
    pub(crate) plan: Plan,
    pub(crate) length: Length,
    /// Logits after the newest row `[vocab]`; empty before the first.
    pub(crate) logits: Buffer,
    pub(crate) prompt_ended: bool,
    /// A forward pass broke off: some strips hold rows that others lack.
    pub(crate) is_broken: bool,
}

impl Session {
    /// Logits after the newest row `[vocab]`; empty before the first.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Forgets every row from position `to` on, as if it had never come; the logits of the row before are gone too.
    /// `false`, and nothing happens, where that cannot be: rows were evicted or left a window, or later rows left a mark
    /// on what stays.
    pub fn rewind(&mut self, to: u32) -> bool {
        if self.is_broken || !self.kv.rewind(to) {
            return false;
        }
        self.logits.clear();
        self.prompt_ended = to >= self.length.prompt;
        true
    }

    /// Share of the strips a policy acts on that still hold each of the first `tokens` positions; empty where positions do not
    /// tell (landmarks stand between the tokens).
    pub fn held_shares(&self, tokens: usize) -> Vec<f32> {
        let Ok(strips) = self.held(tokens) else { return Vec::new() };
        let count = strips.len().max(1) as f32;
        let share = |pos: usize| strips.iter().filter(|strip| strip[pos]).count() as f32 / count;
        (0..tokens).map(share).collect()
    }

    /// At most `most` rows to be read next, and how many of `tokens` they are: where the model was trained with landmark
    /// tokens, those stand between them at their positions.
    fn placed(&self, tokens: &[u32], most: usize) -> (Vec<u32>, usize) {
        let Some(sizes) = self.kv.needs().recall.filter(|sizes| sizes.landmark().is_some()) else {
            let count = tokens.len().min(most);
            return (tokens[..count].to_vec(), count);
        };
        let (mut rows, mut count) = (Vec::new(), 0);
        while rows.len() < most && count < tokens.len() {
            let landmark = sizes.landmark_at(self.kv.next + rows.len() as u32);
            rows.push(landmark.unwrap_or(tokens[count]));
            count += usize::from(landmark.is_none());
        }
        (rows, count)
    }

    /// As [`Session::placed`], and no more rows than one pass may read; where passes are whole, as many as one is.
    pub(crate) fn next_rows(&self, tokens: &[u32], most: usize) -> (Vec<u32>, usize) {
        let most = if self.whole_pass() { usize::MAX } else { most };
        self.placed(tokens, most.min(most_rows(self).0))
    }

    /// The next rows must be read as one pass: their policy recalls blocks for all of them at once.
    fn whole_pass(&self) -> bool {
        self.kv.needs().recall.is_some() && self.kv.next < self.length.prompt
    }

    /// Most tokens that it can come to hold.
    pub fn longest(&self) -> u32 {
        self.length.longest
    }

    /// What it remembers and what it forgot.
    pub fn bill(&self) -> Bill {
        self.kv.bill()
    }
}

/// Asked between chunks whether to go on: `false` interrupts.
pub type GoOn<'a> = &'a mut dyn FnMut(usize) -> bool;

impl Engine {
    /// Opens a model file; `progress` gets the share loaded, 0 to 1.
    ///
    /// # Errors
    /// Those of the file, its tokenizer and its weights.
    pub fn open(path: &Path, options: Options, progress: &mut dyn FnMut(f32)) -> Result<Self> {
        let gguf = gguf::open(path)?;
        let threads = if options.threads == 0 { Pool::measured() } else { options.threads };
        let cpu = Cpu::new(threads, options.arithmetic);
        let threads = cpu.pool.threads();
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = ChatTemplate::from_gguf(&gguf)?;
        let model = Model::load(&gguf, cpu, progress)?;
        if tokenizer.vocab_len() > model.config.vocab {
            return Err(Error::shape("tokens of the tokenizer", model.config.vocab, tokenizer.vocab_len()));
        }
        Ok(Self { model, tokenizer, template, options: Options { threads, ..options } })
    }

    /// Sizes and constants of the model.
    pub fn config(&self) -> &Config {
        &self.model.config
    }

    /// The codec of plans that name none: f32 in exact arithmetic, else f16.
    pub fn default_codec(&self) -> Codec {
        match self.options.arithmetic {
            Arithmetic::Exact => Codec::F32,
            Arithmetic::Fast => Codec::F16,
        }
    }

    /// What a plan means for this model and a text of this length.
    ///
    /// # Errors
    /// [`Error::Limit`] when the plan cannot hold it.
    pub fn layout(&self, plan: &Plan, length: Length) -> Result<Layout> {
        Layout::new(self.config(), plan, length, self.default_codec())
    }

    /// An empty sequence under a plan.
    ///
    /// # Errors
    /// [`Error::Limit`] when the plan cannot hold it.
    pub fn session(&self, plan: &Plan, length: Length) -> Result<Session> {
        self.session_under(self.config(), plan, length)
    }

    /// A sequence of this model, laid out under a configuration that may allow more positions.
    pub(crate) fn session_under(&self, config: &Config, plan: &Plan, length: Length) -> Result<Session> {
        let layout = Layout::new(config, plan, length, self.default_codec())?;
        let length = layout.length();
        let kv = Kv::new(config, plan, layout)?;
        let plan = plan.clone();
        Ok(Session { kv, plan, length, logits: Buffer::default(), prompt_ended: false, is_broken: false })
    }

    /// Reads tokens of one sequence, chunk by chunk. `go_on` is asked with the tokens read so far.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a token that is not the model's, [`Error::Limit`] for more tokens than the sequence was
    /// made for, [`Error::Interrupted`].
    pub fn read(&self, session: &mut Session, tokens: &[u32], go_on: GoOn<'_>) -> Result<()> {
        self.read_each(session, tokens, go_on, &mut |_, _| {})
    }

    /// As [`Engine::read`]; `each` gets, for every row, its index in `tokens` and its logits.
    ///
    /// # Errors
    /// Those of [`Engine::read`].
    pub fn read_rows(
        &self,
        session: &mut Session,
        tokens: &[u32],
        go_on: GoOn<'_>,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let d = self.config().d_model;
        self.read_each(session, tokens, go_on, &mut |first, x| {
            for (i, x) in x.chunks(ROWS * d).enumerate() {
                for (j, logits) in self.model.logits(x).chunks_exact(self.config().vocab).enumerate() {
                    each(first + i * ROWS + j, logits);
                }
            }
        })
    }

    /// As [`Engine::read`]; gives the normalised stream of the rows at these ascending indices of `tokens`
    /// `[rows, d_model]`, of which [`Model::logits`] makes logits.
    ///
    /// # Errors
    /// Those of [`Engine::read`].
    pub fn read_streams(
        &self,
        session: &mut Session,
        tokens: &[u32],
        rows: &[usize],
        go_on: GoOn<'_>,
    ) -> Result<Vec<f32>> {
        let d = self.config().d_model;
        let mut streams = Vec::with_capacity(rows.len() * d);
        self.read_each(session, tokens, go_on, &mut |first, x| {
            let end = first + x.len() / d;
            for row in rows.iter().filter(|row| (first..end).contains(*row)) {
                streams.extend_from_slice(&x[(row - first) * d..][..d]);
            }
        })?;
        Ok(streams)
    }

    fn read_each(
        &self,
        session: &mut Session,
        tokens: &[u32],
        go_on: GoOn<'_>,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let mut at = 0;
        while at < tokens.len() {
            if !go_on(at) {
                return Err(Error::Interrupted);
            }
            let (new, count) = session.next_rows(&tokens[at..], self.options.chunk.max(1));
            at += count;
            let x = self.pass(&mut [(session, &new)], &mut NoProbe, at == tokens.len())?;
            each(at - count, &x[..count * self.config().d_model]);
        }
        Ok(())
    }

    /// One forward pass over rows of several sequences; each gets the logits after its last row. Gives the normalised
    /// stream of all rows `[rows, d_model]`.
    ///
    /// # Errors
    /// Those of [`Engine::read`]; the sequences of a failed pass cannot go on.
    pub fn step<P: Probe>(&self, rows: &mut [(&mut Session, &[u32])], probe: &mut P) -> Result<Buffer> {
        self.pass(rows, probe, true)
    }

    /// As [`Engine::step`]; where `is_last` does not hold, logits are computed only if the next pass needs them.
    fn pass<P: Probe>(
        &self,
        rows: &mut [(&mut Session, &[u32])],
        probe: &mut P,
        is_last: bool,
    ) -> Result<Buffer> {
        let c = self.config();
        if rows.is_empty() {
            return Ok(Buffer::default());
        }
        rows.iter().try_for_each(|(session, new)| self.check(session, new))?;
        let (mut tokens, mut pos, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for (session, new) in rows.iter_mut() {
            session.is_broken = true;
            let (start, next) = (tokens.len(), session.kv.next);
            tokens.extend_from_slice(new);
            pos.extend(next..next + new.len() as u32);
            parts.push(Part { kv: &mut session.kv, rows: start..tokens.len() });
        }
        let mut batch = Batch { parts, config: c, on: self.on(), lse: vec![0.0; tokens.len() * c.heads] };
        let x = self.model.forward(&tokens, &pos, &mut batch, probe)?;
        let mut logits = if is_last { self.last_logits(rows, &x) } else { Vec::new() }.into_iter();
        let mut start = 0;
        for (session, new) in rows.iter_mut() {
            let x = &x[start * c.d_model..][..new.len() * c.d_model];
            start += new.len();
            self.after(session, new, x, logits.next())?;
            session.is_broken = false;
        }
        Ok(x)
    }

    /// Logits after the last row of each sequence; the head's weights are read once for all.
    fn last_logits(&self, rows: &[(&mut Session, &[u32])], x: &[f32]) -> Vec<Buffer> {
        let (d, mut end, mut last) = (self.config().d_model, 0, Vec::new());
        for (_, new) in rows {
            end += new.len();
            last.extend_from_slice(&x[(end - 1) * d..end * d]);
        }
        let logits = self.model.logits(&last);
        if rows.len() == 1 {
            return vec![logits];
        }
        logits.chunks_exact(self.config().vocab).map(|logits| logits.to_vec().into()).collect()
    }

    /// What attention runs on.
    fn on(&self) -> On<'_> {
        let cpu = &self.model.backend;
        On { isa: cpu.isa, pool: &cpu.pool, rope: &self.model.rope, scale: self.config().attn_scale }
    }

    fn check(&self, session: &Session, tokens: &[u32]) -> Result<()> {
        let vocab = self.config().vocab;
        if let Some(bad) = tokens.iter().find(|t| **t as usize >= vocab) {
            return Err(Error::Invalid(format!("token {bad} is not one of the model's {vocab}")));
        }
        if session.is_broken {
            return Err(Error::Invalid("this sequence broke off earlier: start a new one".into()));
        }
        if tokens.is_empty() {
            return Err(Error::Invalid("there are no tokens to read".into()));
        }
        let count = tokens.len() as u64;
        let (asked, have) = (u64::from(session.kv.next) + count, u64::from(session.length.longest));
        let limit = |what: &str, asked, have, hint: &str| {
            Err(Error::Limit { what: what.into(), asked, have, hint: hint.into() })
        };
        if asked > have {
            let hint = "make it with room for the whole text and its answer";
            return limit("tokens of a sequence", asked, have, hint);
        }
        let (most, what) = most_rows(session);
        let most = most as u64;
        if count > most {
            return limit(what, count, most, "read in smaller pieces");
        }
        if count < most && session.whole_pass() {
            return limit(what, count, most, "read the prompt in whole passes");
        }
        Ok(())
    }

    /// Books the rows that a forward pass has stored.
    fn after(&self, session: &mut Session, tokens: &[u32], x: &[f32], logits: Option<Buffer>) -> Result<()> {
        let d = self.config().d_model;
        let first = session.kv.next;
        session.kv.next += tokens.len() as u32;
        let needs = session.kv.needs();
        let is_surprised =
            needs.column == Column::Surprisal || needs.recall.is_some_and(|sizes| sizes.surprisal);
        if is_surprised {
            self.surprise(session, first, tokens, x);
        }
        session.logits.clear();
        match logits {
            Some(logits) => session.logits = logits,
            None if is_surprised => session.logits = self.model.logits(&x[x.len() - d..]),
            None => {}
        }
        if let Some(bad) = session.logits.iter().position(|l| !l.is_finite()) {
            let why =
                format!("logit {bad} is not a number: the weights are broken, or overflow this arithmetic");
            return Err(Error::format("model", 0, why));
        }
        let landmark = needs.recall.and_then(|sizes| sizes.landmark());
        if let Some(logit) = landmark.and_then(|token| session.logits.get_mut(token as usize)) {
            *logit = f32::NEG_INFINITY; // it is put there, never written
        }
        if !session.prompt_ended && session.kv.next >= session.length.prompt {
            session.prompt_ended = true;
            session.kv.end_prompt(&self.on())?;
        }
        Ok(())
    }

    /// Surprisal of each row, from the logits of the row before; the first token of a text, which nothing predicts,
    /// counts as the most surprising.
    fn surprise(&self, session: &mut Session, first: u32, tokens: &[u32], x: &[f32]) {
        let (d, vocab) = (self.config().d_model, self.config().vocab);
        let mut surprisal = Vec::with_capacity(tokens.len());
        surprisal.push(match session.logits.is_empty() {
            true => f32::INFINITY,
            false => -log_prob(&session.logits, tokens[0]),
        });
        for (x, tokens) in x[..x.len() - d].chunks(ROWS * d).zip(tokens[1..].chunks(ROWS)) {
            let before = self.model.logits(x);
            let rows = before.chunks_exact(vocab).zip(tokens);
            surprisal.extend(rows.map(|(logits, token)| -log_prob(logits, *token)));
        }
        match session.kv.needs().recall {
            Some(_) => session.kv.surprised(&self.model.rope, first, &surprisal),
            None => session.kv.set_surprisal(first, &surprisal),
        }
    }
}

/// Rows whose logits are held at once.
const ROWS: usize = 16;
const PASS: &str = "rows at once under a policy that recalls blocks: as many, no fewer";

/// Most rows that one pass may read of a sequence, and what they are. Surprisal is known only after a pass, so a policy
/// that ranks by it reads no more rows than are protected anyway; the published mode trims where the prompt ends.
fn most_rows(session: &Session) -> (usize, &'static str) {
    let needs = session.kv.needs();
    let left = session.length.prompt.saturating_sub(session.kv.next) as usize;
    if let Some(sizes) = needs.recall {
        let pass = (sizes.pass - session.kv.next % sizes.pass) as usize;
        return (if left > 0 { left.min(pass) } else { 1 }, PASS);
    }
    match (needs.column, needs.keep) {
        (Column::Surprisal, _) => {
            (needs.recent.max(1) as usize, "rows at once under a policy that ranks by surprisal")
        }
        (_, Some(_)) if left > 0 => (left, "rows at once up to the end of the prompt"),
        _ => (usize::MAX, "rows at once"),
    }
}

/// The likeliest token; of equals the first.
pub fn likeliest(logits: &[f32]) -> Option<usize> {
    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
}

/// `ln P(token)` under `logits`.
pub fn log_prob(logits: &[f32], token: u32) -> f32 {
    (f64::from(logits[token as usize]) - log_sum_exp(logits)) as f32
}

/// `ln sum exp(logits)`, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from((l - top).exp())).sum();
    f64::from(top) + sum.ln()
}
