//! Workers that answer items side by side.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use eunoe_core::Error;
use eunoe_engine::{Bill, Engine};
use eunoe_kv::Plan;
use eunoe_report::Line;
use eunoe_tasks::{Given, Item, Task};
use indicatif::ProgressBar;

use super::local::Local;
use super::prompt::Prompt;
use super::{Asked, Endpoint, Folder};
use crate::interrupt::{Interrupt, Interrupted};
use crate::progress;

/// Time between two lines of progress where there is no terminal.
const TELL: Duration = Duration::from_secs(60);

/// Who answers.
pub(crate) enum Answers<'a> {
    /// Models on this machine, one per worker.
    Engines(&'a [Engine]),
    /// A server.
    Endpoint(&'a Endpoint),
}

/// What is to be done.
pub(crate) struct Work<'a> {
    pub(crate) asked: &'a Asked<'a>,
    /// Plans as asked for, and what they mean; of an endpoint its label alone.
    pub(crate) plans: &'a [(String, Option<Plan>)],
    pub(crate) folder: &'a Folder,
    pub(crate) interrupt: &'a Interrupt,
}

/// One item of one task.
#[derive(Clone, Copy)]
struct Unit {
    task: &'static dyn Task,
    length: usize,
    sample: usize,
}

/// What workers share.
struct Shared<'a> {
    units: Vec<Unit>,
    next: AtomicUsize,
    stop: AtomicBool,
    failure: Mutex<Option<anyhow::Error>>,
    progress: Progress,
    work: &'a Work<'a>,
}

impl Work<'_> {
    /// Answers what was not answered before. Items go sample by sample over all tasks, so that what is there when a run
    /// ends early is balanced.
    ///
    /// # Errors
    /// The first failure of a worker, or [`Interrupted`].
    pub(crate) fn run(&self, answers: &Answers<'_>) -> Result<()> {
        let units = self.units();
        let tokens: u64 = units.iter().map(|u| (u.length * self.plans.len()) as u64).sum();
        let items = units.len() * self.plans.len();
        let shared = Shared {
            units,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            progress: Progress::new(tokens, items),
            work: self,
        };
        let hearing = self.interrupt.hear();
        thread::scope(|scope| match answers {
            Answers::Endpoint(endpoint) => {
                scope.spawn(|| shared.worker(&|unit, _, prompts| self.ask_endpoint(endpoint, unit, prompts)));
            }
            Answers::Engines(engines) => {
                for engine in *engines {
                    let shared = &shared;
                    scope.spawn(move || {
                        shared.worker(&|unit, plan, prompts| {
                            self.ask_engine(shared, engine, unit, plan, prompts)
                        });
                    });
                }
            }
        });
        drop(hearing);
        shared.progress.bar.finish_and_clear();
        let failure = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(()), Err)
    }

    fn units(&self) -> Vec<Unit> {
        let mut units = Vec::new();
        for sample in 0..self.asked.grid.samples {
            for (task, length) in self
                .asked
                .grid
                .tasks
                .iter()
                .flat_map(|t| self.asked.grid.lengths.iter().map(move |l| (*t, *l)))
            {
                units.push(Unit { task, length, sample });
            }
        }
        units
    }

    fn ask_engine(
        &self,
        shared: &Shared<'_>,
        engine: &Engine,
        unit: Unit,
        plan: &(String, Option<Plan>),
        prompts: &[Prompt],
    ) -> Result<Answer> {
        let go_on = || !shared.stop.load(Ordering::Relaxed) && !self.interrupt.asked();
        let Some(meant) = &plan.1 else { anyhow::bail!("`{}` is no plan", plan.0) };
        let seed =
            || eunoe_tasks::seed(self.asked.grid.seed, unit.task.card().id, unit.length, unit.sample as u64);
        let audit = (self.asked.grid.audit && plan.0 != eunoe_report::FULL).then(seed);
        let outcome = Local { engine, plan: meant, go_on: &go_on, audit }.answer(prompts)?;
        Ok(Answer {
            given: outcome.given,
            prompt_tokens: prompts.iter().map(|p| p.tokens.len()).max().unwrap_or(0),
            peak_bytes: outcome.peak_bytes,
            bill: Some(outcome.bill),
            seconds: [outcome.prefill_s, outcome.decode_s],
            audit: outcome.audit,
        })
    }

    fn ask_endpoint(&self, endpoint: &Endpoint, unit: Unit, prompts: &[Prompt]) -> Result<Answer> {
        let answered = endpoint.answer(unit.task.card().id, prompts, &self.asked.writer.bos())?;
        Ok(Answer {
            given: answered.given,
            prompt_tokens: answered.prompt_tokens,
            peak_bytes: answered.bytes,
            bill: None,
            seconds: [answered.seconds, 0.0],
            audit: None,
        })
    }
}

/// What came of one item under one plan.
struct Answer {
    given: Vec<Given>,
    prompt_tokens: usize,
    peak_bytes: u64,
    bill: Option<Bill>,
    seconds: [f64; 2],
    audit: Option<serde_json::Value>,
}

type Ask<'a> = dyn Fn(Unit, &(String, Option<Plan>), &[Prompt]) -> Result<Answer> + 'a;

impl Shared<'_> {
    fn worker(&self, ask: &Ask<'_>) {
        while let Some(unit) = self.units.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(e) = self.unit(*unit, ask) {
                // the others break off because of it, and have nothing to add
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(self.told(e));
                self.stop.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    fn told(&self, e: anyhow::Error) -> anyhow::Error {
        match e.downcast_ref::<Error>() {
            Some(Error::Interrupted) => {
                let done = self.progress.items.load(Ordering::Relaxed);
                let hint = match self.work.folder.is_kept() {
                    true => "they are kept: run the same command to go on",
                    false => "nothing is kept without --out",
                };
                Interrupted(format!("after {done} of {} answers; {hint}", self.progress.all)).into()
            }
            _ => e,
        }
    }

    /// One item under every plan that has not answered it yet.
    fn unit(&self, unit: Unit, ask: &Ask<'_>) -> Result<()> {
        let Unit { task, length, sample } = unit;
        let id = task.card().id;
        let is_done = |plan: &str| self.work.folder.has(&(plan.to_owned(), id.to_owned(), length, sample));
        let mut drawn = None;
        for plan in self.work.plans {
            if !is_done(&plan.0) {
                if self.work.interrupt.asked() {
                    return Err(Error::Interrupted.into());
                }
                let (item, prompts) = match &drawn {
                    Some(drawn) => drawn,
                    None => drawn.insert(self.work.asked.item(task, length, sample)?),
                };
                let answer = ask(unit, plan, prompts)?;
                self.work.folder.add(line(unit, &plan.0, item, answer))?;
                self.progress.add(length as u64);
            } else {
                self.progress.skip(length as u64);
            }
        }
        Ok(())
    }
}

/// The record of one answer.
fn line(unit: Unit, plan: &str, item: &Item, answer: Answer) -> Line {
    let Unit { task, length, sample } = unit;
    let mark = task.mark(item, &answer.given);
    let bill = answer.bill.as_ref();
    let strips = bill.map_or(&[][..], |bill| &bill.heads);
    let kept = |kept: u64, seen: u64| (1000 * kept / seen.max(1)) as u16;
    Line {
        plan: plan.into(),
        task: task.card().id.into(),
        length,
        sample,
        score: mark.score,
        chance: task.chance(item),
        details: mark.details.into_iter().filter(|(_, x)| x.is_finite()).collect::<BTreeMap<_, _>>(),
        given: answer.given.iter().map(told).collect(),
        gold: item.asks.iter().map(|ask| ask.gold.clone()).collect(),
        depths: item.depths.clone(),
        prompt_tokens: answer.prompt_tokens,
        budget_bytes: bill.and_then(|bill| bill.budget_bytes),
        peak_bytes: answer.peak_bytes,
        hot_bytes: bill.map_or(0, |bill| bill.live_bytes),
        cold_bytes: bill.map_or(0, |bill| bill.cold_bytes),
        attended_tokens: bill.map_or(0.0, |bill| bill.attended_tokens),
        attended: bill.map_or(0.0, |bill| bill.attended),
        kept: strips.iter().filter(|head| !head.sliding).map(|head| kept(head.kept, head.seen)).collect(),
        prefill_s: answer.seconds[0],
        decode_s: answer.seconds[1],
        audit: answer.audit,
    }
}

/// What was given, as text; numbers read back to the same bits.
fn told(given: &Given) -> String {
    let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(" ");
    match given {
        Given::Text(text) => text.clone(),
        Given::Options(values) => list(&mut values.iter().map(f64::to_string)),
        Given::Nats { nats, .. } => list(&mut nats.iter().map(f32::to_string)),
        Given::Share(share) => share.to_string(),
    }
}

/// How far it is: a bar on a terminal, a line a minute elsewhere.
struct Progress {
    bar: ProgressBar,
    all: usize,
    items: AtomicUsize,
    tokens: u64,
    /// Tokens of answers that were there already.
    skipped: AtomicU64,
    start: Instant,
    told: Mutex<Instant>,
}

impl Progress {
    fn new(tokens: u64, all: usize) -> Self {
        let now = Instant::now();
        Self {
            bar: progress::bar("answering", tokens, "tokens"),
            all,
            items: AtomicUsize::new(0),
            tokens,
            skipped: AtomicU64::new(0),
            start: now,
            told: Mutex::new(now),
        }
    }

    fn skip(&self, tokens: u64) {
        self.skipped.fetch_add(tokens, Ordering::Relaxed);
        self.items.fetch_add(1, Ordering::Relaxed);
        self.bar.inc(tokens);
        self.bar.reset_eta();
    }

    fn add(&self, tokens: u64) {
        self.bar.inc(tokens);
        let items = self.items.fetch_add(1, Ordering::Relaxed) + 1;
        if std::io::stderr().is_terminal() {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= TELL {
            *told = Instant::now();
            let at = self.bar.position();
            let done = at.saturating_sub(self.skipped.load(Ordering::Relaxed)).max(1);
            let left =
                self.start.elapsed().as_secs_f64() * self.tokens.saturating_sub(at) as f64 / done as f64;
            eprintln!("{items} of {} answers, about {:.0} min left", self.all, (left / 60.0).ceil());
        }
    }
}
