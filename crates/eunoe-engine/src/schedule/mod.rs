//! Many answers at a time under one cap of KV bytes: admitted by bytes, read and written in common forward passes, and put
//! outside rather than lost where memory runs out.
//!
//! Whatever the company, a task's tokens are those that it would get alone: rows of a batch do not touch each other, and a
//! sequence that waited outside comes back with the same bits.

mod prefix;
mod swap;
mod task;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use eunoe_core::{Error, Result};
use eunoe_model::probe::NoProbe;

use crate::engine::{Engine, Session};
use crate::generate::Writer;
use crate::layout::{Layout, StateKey};
use prefix::{Found, Prefixes, own_bytes};
use swap::Swapped;
use task::Active;
pub use task::{Done, Hear, Leaving, News, Open, Start, Task};

/// Rows that every sequence should be able to go on by before another one begins: fewer, and they would push each other out.
const AHEAD: usize = 64;
/// Fewest rows of a prompt that are worth a pass.
const FEWEST: usize = 16;
/// Tokens that another sequence has to be ahead by, for a task to wait for what it reads.
const WORTH: usize = 256;
/// What a server's memory is called in errors.
pub const MEMORY: &str = "bytes of KV memory for all answers together";

/// What tasks share.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most KV bytes of all sequences at any moment, and of what is kept of earlier ones.
    pub memory: u64,
    /// Most of them for what is kept of earlier ones, which goes first where memory runs out.
    pub prefixes: u64,
    /// Most sequences in a pass.
    pub running: usize,
    /// Most rows of a pass.
    pub rows: usize,
    /// Where sequences wait that memory has no room for.
    pub folder: PathBuf,
}

/// How things stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// KV bytes of the sequences now, without pages that they share.
    pub live_bytes: u64,
    /// KV bytes that are kept of earlier sequences, and pages that sequences share.
    pub cached_bytes: u64,
    /// Most KV bytes that were allowed to be taken at any moment so far.
    pub peak_bytes: u64,
    /// Sequences in memory.
    pub running: usize,
    /// Sequences that wait outside.
    pub parked: usize,
    /// Tasks that have not begun.
    pub waiting: usize,
    /// Times that a sequence was put outside.
    pub preemptions: u64,
    /// Tokens of prompts that were read, and tokens written.
    pub tokens: [u64; 2],
    /// Tokens of prompts that began, and those of them that earlier sequences had read.
    pub prefixes: [u64; 2],
}

/// Tasks on their way.
pub struct Schedule<'e> {
    engine: &'e Engine,
    limits: Limits,
    waiting: VecDeque<Task>,
    /// Oldest first.
    active: Vec<Active<'e>>,
    /// Bytes that something beside the tasks takes, and those that it waits for.
    aside: u64,
    wanted: u64,
    prefixes: Prefixes,
    /// Bytes of answers whose tasks ended and that somebody still holds.
    leaving: Arc<AtomicU64>,
    rests: bool,
    standing: Standing,
}

impl<'e> Schedule<'e> {
    /// Nothing to do yet.
    pub fn new(engine: &'e Engine, limits: Limits) -> Self {
        let prefixes = Prefixes::new(limits.prefixes);
        Self {
            engine,
            limits,
            waiting: VecDeque::new(),
            active: Vec::new(),
            aside: 0,
            wanted: 0,
            prefixes,
            leaving: Arc::default(),
            rests: false,
            standing: Standing::default(),
        }
    }

    /// Whether a task could be answered if it were alone.
    ///
    /// # Errors
    /// [`Error::Limit`] with both numbers where its plan does not hold its text, or needs more than all memory.
    pub fn check(engine: &Engine, task: &Task, memory: u64) -> Result<()> {
        laid_out(engine, task, memory).map(drop)
    }

    /// Puts a task at the end of the queue.
    pub fn submit(&mut self, task: Task) {
        self.waiting.push_back(task);
    }

    /// Sets bytes aside for something beside the tasks, in place of what was set aside before; `false`, and nothing changes, while
    /// the sequences in memory leave no room for it. No other begins then before there is.
    pub fn set_aside(&mut self, bytes: u64) -> bool {
        self.wanted = bytes;
        let all = self.limits.memory;
        let fits = bytes == 0 || self.frees(|s| s.bytes_after(AHEAD).saturating_add(bytes), all);
        if fits {
            self.aside = bytes;
        }
        fits
    }

    /// Bytes that the tasks may take.
    fn memory(&self) -> u64 {
        self.limits.memory - self.aside
    }

    /// Whether nothing is to be done.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }

    /// How things stand.
    pub fn standing(&self) -> Standing {
        let parked = self.active.iter().filter(|a| a.swapped.is_some()).count();
        let (running, waiting) = (self.active.len() - parked, self.waiting.len());
        let cached_bytes = self.prefixes.bytes();
        let here: u64 = self.here().map(|(_, a)| most_after(&a.session, 0)).sum();
        let live_bytes = here + self.leaving.load(Ordering::Relaxed) + self.aside;
        Standing { live_bytes, cached_bytes, running, parked, waiting, ..self.standing }
    }

    /// Whether all bytes are within `most`, once what is kept of earlier sequences has made room, which it does only where that
    /// is enough.
    fn frees(&mut self, bytes: impl Fn(&Self) -> u64, most: u64) -> bool {
        loop {
            let over = bytes(self).saturating_sub(most);
            if over == 0 {
                return true;
            }
            // at least what one of them shares stays
            let shared = self.here().map(|(_, a)| a.session.shared_bytes()).max();
            if over > self.prefixes.bytes_but(shared.unwrap_or(0)) || !self.prefixes.forget_oldest() {
                return false;
            }
        }
    }

    /// One forward pass over what fits, and those that ended by it: [`Schedule::standing`] counts them no more, and they are to be
    /// told.
    pub fn step(&mut self) -> Vec<Ended<'e>> {
        self.waiting.retain_mut(|task| (task.hear)(News::Waits));
        self.active.retain_mut(|a| a.swapped.is_none() || (a.task.hear)(News::Waits));
        self.return_parked();
        self.admit();
        for a in self.active.iter_mut().filter(|a| a.swapped.is_none() && a.is_ready()) {
            self.standing.book(a.advance(self.engine, 0, &[]), a);
        }
        let mut picks = self.pick();
        if picks.is_empty() && self.free_the_oldest() {
            picks = self.pick();
        }
        self.rests = picks.is_empty();
        if !picks.is_empty() {
            self.pass(&picks);
        }
        let ended: Vec<_> = self.active.extract_if(.., |a| a.is_done()).collect();
        ended.into_iter().map(|a| self.end(a)).collect()
    }

    /// Where nobody has room, all others are outside already, and the oldest has it without pages of others, parts of which it
    /// may hold and not see: it begins again.
    fn free_the_oldest(&mut self) -> bool {
        let is_oldest = |a: &Active<'_>| a.swapped.is_none() && !a.is_done() && a.session.holds_shared();
        let Some(index) = self.active.iter().position(is_oldest).filter(|_| !self.goes_soon()) else {
            return false;
        };
        while self.prefixes.forget_oldest() {}
        self.active[index].restart(self.engine);
        true
    }

    /// Whether the last step could do nothing: all wait for something that goes soon.
    pub fn rests(&self) -> bool {
        self.rests
    }

    /// What an ended task read stays for others.
    fn end(&mut self, mut a: Active<'e>) -> Ended<'e> {
        if a.failure.is_none() && a.swapped.is_none() {
            let room = self.room_beside(own_bytes(&a.session));
            self.prefixes.keep(self.engine, &a.text[..a.read], &mut a.session, room);
        }
        Ended(a, Arc::clone(&self.leaving))
    }

    /// Bytes that the sequences and `more` leave for what is kept of earlier ones.
    fn room_beside(&self, more: u64) -> u64 {
        let here: u64 = self.here().map(|(_, a)| most_after(&a.session, 0)).sum();
        self.memory().saturating_sub(here + self.leaving.load(Ordering::Relaxed) + more)
    }

    /// The sequences in memory.
    fn here(&self) -> impl Iterator<Item = (usize, &Active<'e>)> {
        self.active.iter().enumerate().filter(|(_, a)| a.swapped.is_none())
    }

    /// KV bytes that the sequences in memory can come to hold over `rows` more rows each, and all that is kept of others.
    fn bytes_after(&self, rows: usize) -> u64 {
        self.here().map(|(_, a)| most_after(&a.session, rows)).sum::<u64>() + self.beside()
    }

    /// KV bytes that are not of a sequence.
    fn beside(&self) -> u64 {
        self.prefixes.bytes() + self.leaving.load(Ordering::Relaxed)
    }

    /// Takes sequences back in, oldest first, while they have room to go on.
    fn return_parked(&mut self) {
        for index in 0..self.active.len() {
            if self.active[index].swapped.is_none() {
                continue;
            }
            let needed = self.active[index].session.kv.most_after(AHEAD);
            let fits = self.frees(|s| s.bytes_after(AHEAD) + needed, self.memory());
            if !fits && (self.here().next().is_some() || self.goes_soon()) {
                return;
            }
            let a = &mut self.active[index];
            let back = a.swapped.take().map_or(Ok(()), |swapped| swapped.back(&mut a.session.kv));
            if back.is_err() {
                a.restart(self.engine);
            }
        }
    }

    /// Begins tasks in their order, each only once its whole prompt has room beside the others.
    fn admit(&mut self) {
        while self.active.len() < self.limits.running && self.active.iter().all(|a| a.swapped.is_none()) {
            let Some(task) = self.waiting.pop_front() else { return };
            let layout = match laid_out(self.engine, &task, self.limits.memory) {
                Ok(layout) => layout,
                Err(e) => {
                    fail(task, e);
                    continue;
                }
            };
            let key = layout.key().filter(|_| task.is_cacheable());
            if self.comes_soon(key.as_ref(), &task.prompt) {
                return self.waiting.push_front(task);
            }
            let needed = layout.bytes_after(task.prompt.len() + AHEAD);
            // what evicts writes to shared pages, and has its own then
            let is_plain = key.as_ref().is_some_and(|key| key.holds(task.prompt.len() + AHEAD));
            let find = |s: &Self| s.prefixes.find(key.as_ref(), &task.prompt);
            if let Some(found) = find(self) {
                self.prefixes.touch(found);
            }
            let after = |s: &Self| {
                let shared = find(s).filter(|_| is_plain).map_or(0, |found| found.shared_bytes);
                s.bytes_after(AHEAD) + needed.saturating_sub(shared)
            };
            let fits = self.frees(after, self.limits.memory - self.wanted.min(self.limits.memory));
            if !fits && (!self.active.is_empty() || self.goes_soon()) {
                return self.waiting.push_front(task);
            }
            let found = find(self);
            self.begin(task, key.as_ref(), found);
        }
    }

    /// Whether something beside the sequences has bytes that it will give back.
    fn goes_soon(&self) -> bool {
        self.aside > 0 || self.leaving.load(Ordering::Relaxed) > 0
    }

    /// Whether a sequence is about to have read what a task begins with.
    fn comes_soon(&self, key: Option<&StateKey>, text: &[u32]) -> bool {
        let Some(key) = key.filter(|key| key.is_plain() || self.limits.prefixes > 0) else { return false };
        let known = self.prefixes.find(Some(key), text).map_or(0, |found| found.tokens);
        self.here().filter(|(_, a)| a.is_reading() && a.task.is_cacheable()).any(|(_, a)| {
            let own = a.session.kv.key.as_ref();
            let soon = own.map_or(0, |own| key.reuse(own, !a.session.kv.is_plain(), &a.task.prompt, text));
            soon > a.read && soon >= known + WORTH
        })
    }

    /// Makes a task's sequence, with what others have read of its prompt already.
    fn begin(&mut self, mut task: Task, key: Option<&StateKey>, found: Option<Found>) {
        let guide = task.guide.take();
        let writer = Writer::new(&self.engine.tokenizer, &task.prompt, &task.request, guide);
        let begun = task.session(self.engine).and_then(|session| Ok((session, writer?)));
        let (mut session, writer) = match begun {
            Ok(begun) => begun,
            Err(e) => return fail(task, e),
        };
        let mut cached = found.map_or(task.begins_at(), |found| found.tokens);
        let beside = self.active.iter_mut().filter(|a| a.swapped.is_none() && a.session.kv.is_plain());
        let common = |a: &Active<'_>| {
            let own = a.session.kv.key.as_ref().filter(|_| a.task.is_cacheable());
            key.zip(own).map_or(0, |(key, own)| key.reuse(own, false, &a.text[..a.read], &task.prompt))
        };
        let from = match beside.map(|a| (common(a), a)).max_by_key(|(tokens, _)| *tokens) {
            Some((tokens, a)) if tokens > cached => {
                cached = tokens;
                self.prefixes.begin_beside(&mut a.session, tokens, &mut session)
            }
            _ => found.map_or(Ok(()), |found| self.prefixes.begin(found, &mut session)),
        };
        if from.is_err() {
            cached = task.begins_at();
            match task.session(self.engine) {
                Ok(empty) => session = empty,
                Err(e) => return fail(task, e),
            }
        }
        self.standing.prefixes[0] += task.prompt.len() as u64;
        self.standing.prefixes[1] += cached as u64;
        self.active.push(Active::new(task, session, writer, cached));
    }

    /// Which sequences go on, and by how many rows. The oldest comes first; where memory runs out, the youngest go outside.
    fn pick(&mut self) -> Vec<(usize, usize)> {
        let alone = self.here().find(|(_, a)| a.goes_alone).map(|(index, _)| index);
        let reading = self.here().filter(|(_, a)| a.is_reading()).count();
        let share = (self.limits.rows / reading.max(1)).max(FEWEST);
        let mut picks = Vec::new();
        for index in 0..self.active.len() {
            let a = &self.active[index];
            if a.swapped.is_some() || a.is_done() || alone.is_some_and(|alone| alone != index) {
                continue;
            }
            let most = if a.is_reading() { share } else { 1 };
            let pick = (index, a.rows(most).0.len());
            while !self.frees(|s| s.bytes_of(&picks, pick), self.memory()) && self.park_youngest(index) {}
            if self.bytes_of(&picks, pick) <= self.memory() {
                picks.push(pick);
            }
        }
        picks
    }

    /// Most bytes at any moment of a pass over the rows of these picks.
    fn bytes_of(&self, picks: &[(usize, usize)], more: (usize, usize)) -> u64 {
        let rows = |i: usize| picks.iter().chain([&more]).find(|pick| pick.0 == i).map_or(0, |pick| pick.1);
        self.here().map(|(i, a)| most_after(&a.session, rows(i))).sum::<u64>() + self.beside()
    }

    /// Puts the youngest sequence after `index` outside; `false` if there is none in memory.
    fn park_youngest(&mut self, index: usize) -> bool {
        let younger = self.active[index + 1..].iter_mut();
        let Some(a) = younger.rev().find(|a| a.swapped.is_none() && a.session.kv.seen() > 0) else {
            return false;
        };
        a.parked += 1;
        match Swapped::out(&mut a.session.kv, &self.limits.folder) {
            Ok(swapped) => a.swapped = Some(swapped),
            // no room outside either: it reads its text again later, which gives the same
            Err(_) => a.restart(self.engine),
        }
        self.standing.preemptions += 1;
        true
    }

    /// Reads the rows, and tells. Where the pass fails, each sequence begins again and goes on alone, so that one cannot take
    /// the others with it.
    fn pass(&mut self, picks: &[(usize, usize)]) {
        let bytes = self.bytes_of(picks, (usize::MAX, 0)) + self.aside;
        self.standing.peak_bytes = self.standing.peak_bytes.max(bytes);
        let mut of = picks.iter().peekable();
        let mut parts: Vec<(&mut Active<'e>, Vec<u32>, usize)> = Vec::new();
        for (i, a) in self.active.iter_mut().enumerate() {
            if let Some((_, rows)) = of.next_if(|pick| pick.0 == i) {
                let (rows, count) = a.rows(*rows);
                parts.push((a, rows, count));
            }
        }
        let is_alone = parts.len() == 1;
        let mut sessions: Vec<(&mut Session, &[u32])> =
            parts.iter_mut().map(|(a, rows, _)| (&mut a.session, rows.as_slice())).collect();
        let x = self.engine.step(&mut sessions, &mut NoProbe);
        drop(sessions);
        let (d, mut start) = (self.engine.config().d_model, 0);
        match x {
            Err(e) if is_alone => {
                parts.into_iter().for_each(|(a, _, _)| a.failure = Some(Error::Invalid(e.to_string())))
            }
            Err(_) => parts.into_iter().for_each(|(a, _, _)| {
                a.restart(self.engine);
                a.goes_alone = true;
            }),
            Ok(x) => {
                for (a, rows, count) in parts {
                    let x = &x[start * d..(start + rows.len()) * d];
                    start += rows.len();
                    self.standing.book(a.advance(self.engine, count, x), a);
                }
            }
        }
        self.keep_due(picks);
    }

    /// Keeps states that serve others only from where they stand.
    fn keep_due(&mut self, picks: &[(usize, usize)]) {
        let room = self.room_beside(0);
        for (index, _) in picks {
            let a = &mut self.active[*index];
            if a.failure.is_none() && a.task.is_cacheable() && a.is_due() {
                self.prefixes.keep(self.engine, &a.text[..a.read], &mut a.session, room);
            }
        }
    }
}

impl Standing {
    /// Books what a pass did for a task, and whether it goes on.
    fn book(&mut self, step: Result<task::Step>, a: &mut Active<'_>) {
        match step {
            Ok(step) => {
                a.is_over = !step.goes_on;
                self.tokens[0] += step.read as u64;
                self.tokens[1] += step.written as u64;
            }
            Err(e) => a.failure = Some(e),
        }
    }
}

/// KV bytes beside shared pages that a sequence can come to hold over `rows` more rows; eviction writes, and writing copies.
fn most_after(session: &Session, rows: usize) -> u64 {
    let shared = if session.kv.only_grows(rows) { session.shared_bytes() } else { 0 };
    session.kv.most_after(rows).saturating_sub(shared)
}

/// The layout of a task that fits if it is alone.
fn laid_out(engine: &Engine, task: &Task, memory: u64) -> Result<Layout> {
    let layout = engine.layout(&task.plan, task.length())?;
    let asked = layout.bytes_after(usize::MAX);
    if asked > memory {
        let hint = "a plan with a smaller budget, a shorter text, or fewer tokens to write";
        return Err(Error::Limit { what: MEMORY.into(), asked, have: memory, hint: hint.into() });
    }
    Ok(layout)
}

/// Tells that a task failed before it began.
fn fail(mut task: Task, e: Error) {
    (task.hear)(News::Failed(e));
}

/// A task that ended.
#[must_use = "who waits for it is to be told"]
pub struct Ended<'e>(Active<'e>, Arc<AtomicU64>);

impl Ended<'_> {
    /// Tells how it ended; one that nobody hears any more ends without a word.
    pub fn tell(self) {
        match self.0.outcome(&self.1) {
            (mut hear, Some(Ok(done))) => _ = hear(News::Done(done)),
            (mut hear, Some(Err(e))) => _ = hear(News::Failed(e)),
            (_, None) => {}
        }
    }
}
