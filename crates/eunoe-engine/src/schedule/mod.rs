//! Many answers at a time under one cap of KV bytes: admitted by bytes, read and written in common forward passes, and put
//! outside rather than lost where memory runs out.
//!
//! Whatever the company, a task's tokens are those that it would get alone: rows of a batch do not touch each other, and a
//! sequence that waited outside comes back with the same bits.

mod swap;
mod task;

use std::collections::VecDeque;
use std::path::PathBuf;

use eunoe_core::{Error, Result};
use eunoe_model::probe::NoProbe;

use crate::engine::{Engine, Session};
use crate::generate::Writer;
use crate::layout::Layout;
use swap::Swapped;
use task::Active;
pub use task::{Done, Hear, News, Task};

/// Rows that every sequence should be able to go on by before another one begins: fewer, and they would push each other out.
const AHEAD: usize = 64;
/// Fewest rows of a prompt that are worth a pass.
const FEWEST: usize = 16;
/// What a server's memory is called in errors.
pub const MEMORY: &str = "bytes of KV memory for all answers together";

/// What tasks share.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most KV bytes of all sequences at any moment.
    pub memory: u64,
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
    /// KV bytes now.
    pub live_bytes: u64,
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
    standing: Standing,
}

impl<'e> Schedule<'e> {
    /// Nothing to do yet.
    pub fn new(engine: &'e Engine, limits: Limits) -> Self {
        Self {
            engine,
            limits,
            waiting: VecDeque::new(),
            active: Vec::new(),
            aside: 0,
            wanted: 0,
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
        let fits = self.bytes_after(AHEAD).saturating_add(bytes) <= self.limits.memory || bytes == 0;
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
        Standing { live_bytes: self.bytes_after(0) + self.aside, running, parked, waiting, ..self.standing }
    }

    /// One forward pass over what fits, and those that ended by it: [`Schedule::standing`] counts them no more, and they are to be
    /// told.
    pub fn step(&mut self) -> Vec<Ended<'e>> {
        self.waiting.retain_mut(|task| (task.hear)(News::Waits));
        self.active.retain_mut(|a| a.swapped.is_none() || (a.task.hear)(News::Waits));
        self.return_parked();
        self.admit();
        let picks = self.pick();
        if !picks.is_empty() {
            self.pass(&picks);
        }
        self.active.extract_if(.., |a| a.is_over || a.failure.is_some()).map(Ended).collect()
    }

    /// The sequences in memory.
    fn here(&self) -> impl Iterator<Item = (usize, &Active<'e>)> {
        self.active.iter().enumerate().filter(|(_, a)| a.swapped.is_none())
    }

    /// KV bytes that the sequences in memory can come to hold over `rows` more rows each.
    fn bytes_after(&self, rows: usize) -> u64 {
        self.here().map(|(_, a)| a.session.kv.most_after(rows)).sum()
    }

    /// Takes sequences back in, oldest first, while they have room to go on.
    fn return_parked(&mut self) {
        for index in 0..self.active.len() {
            if self.active[index].swapped.is_none() {
                continue;
            }
            let needed = self.active[index].session.kv.most_after(AHEAD);
            if self.here().next().is_some() && self.bytes_after(AHEAD) + needed > self.memory() {
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
            let Some(mut task) = self.waiting.pop_front() else { return };
            let layout = match laid_out(self.engine, &task, self.limits.memory) {
                Ok(layout) => layout,
                Err(e) => {
                    fail(task, e);
                    continue;
                }
            };
            let needed = layout.bytes_after(task.prompt.len() + AHEAD);
            let memory = self.limits.memory - self.wanted.min(self.limits.memory);
            if !self.active.is_empty() && self.bytes_after(AHEAD) + needed > memory {
                return self.waiting.push_front(task);
            }
            let guide = task.guide.take();
            let writer = Writer::new(&self.engine.tokenizer, &task.prompt, &task.request, guide);
            match self.engine.session(&task.plan, task.length()).and_then(|session| Ok((session, writer?))) {
                Ok((session, writer)) => self.active.push(Active::new(task, session, writer)),
                Err(e) => fail(task, e),
            }
        }
    }

    /// Which sequences go on, and by how many rows. The oldest comes first; where memory runs out, the youngest go outside.
    fn pick(&mut self) -> Vec<(usize, usize)> {
        let alone = self.here().find(|(_, a)| a.goes_alone).map(|(index, _)| index);
        let reading = self.here().filter(|(_, a)| a.is_reading()).count();
        let share = (self.limits.rows / reading.max(1)).max(FEWEST);
        let mut picks = Vec::new();
        for index in 0..self.active.len() {
            let a = &self.active[index];
            if a.swapped.is_some() || alone.is_some_and(|alone| alone != index) {
                continue;
            }
            let most = if a.is_reading() { share } else { 1 };
            let pick = (index, a.rows(most).0.len());
            while self.bytes_of(&picks, pick) > self.memory() && self.park_youngest(index) {}
            if self.bytes_of(&picks, pick) <= self.memory() {
                picks.push(pick);
            }
        }
        picks
    }

    /// Most bytes at any moment of a pass over the rows of these picks.
    fn bytes_of(&self, picks: &[(usize, usize)], more: (usize, usize)) -> u64 {
        let rows = |i: usize| picks.iter().chain([&more]).find(|pick| pick.0 == i).map_or(0, |pick| pick.1);
        self.here().map(|(i, a)| a.session.kv.most_after(rows(i))).sum()
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
                    match a.advance(self.engine, count, x) {
                        Ok(step) => {
                            a.is_over = !step.goes_on;
                            self.standing.tokens[0] += step.read as u64;
                            self.standing.tokens[1] += step.written as u64;
                        }
                        Err(e) => a.failure = Some(e),
                    }
                }
            }
        }
    }
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
pub struct Ended<'e>(Active<'e>);

impl Ended<'_> {
    /// Tells how it ended; one that nobody hears any more ends without a word.
    pub fn tell(self) {
        match self.0.outcome() {
            (mut hear, Some(Ok(done))) => _ = hear(News::Done(done)),
            (mut hear, Some(Err(e))) => _ = hear(News::Failed(e)),
            (_, None) => {}
        }
    }
}
