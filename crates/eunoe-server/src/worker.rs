//! The thread that owns the model: takes tasks, goes on with all of them step by step, and tells how things stand.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use eunoe_core::{Error, Result};
use eunoe_engine::schedule::{Ended, Limits, Schedule, Standing, Task};
use eunoe_engine::{Audit, AuditSettings, Engine, Length, Subject};
use eunoe_kv::Plan;
use tokio::sync::oneshot;

use crate::error::ApiError;

/// Time after which the worker looks again, where nothing can go on.
const MOMENT: Duration = Duration::from_millis(2);

/// Opens the model; runs on the worker's thread.
pub type Open = Box<dyn FnOnce() -> Result<Engine> + Send>;

/// A model that is being loaded or is there, and the way to its worker.
pub(crate) struct Worker {
    engine: Arc<OnceLock<Arc<Engine>>>,
    failure: Arc<Mutex<Option<Error>>>,
    tasks: Mutex<Option<Sender<Job>>>,
    standing: Arc<Mutex<Standing>>,
    /// Tasks that were handed over and have not begun.
    most_waiting: usize,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(open: Open, limits: Limits, most_waiting: usize) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let (engine, failure) =
            (Arc::<OnceLock<Arc<Engine>>>::default(), Arc::<Mutex<Option<Error>>>::default());
        let (standing, stop) = (Arc::<Mutex<Standing>>::default(), Arc::<AtomicBool>::default());
        let tasks = Mutex::new(Some(sender));
        let shared = (Arc::clone(&engine), Arc::clone(&failure), Arc::clone(&standing), Arc::clone(&stop));
        let thread = thread::Builder::new().name("model".into()).spawn(move || match (open(), shared) {
            (Err(e), (_, failure, ..)) => {
                *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e);
            }
            (Ok(opened), (engine, _, standing, stop)) => {
                let opened = engine.get_or_init(|| Arc::new(opened));
                let memory = limits.memory;
                let schedule = Schedule::new(opened, limits);
                let (jobs, standing, stop) = (&receiver, &*standing, &*stop);
                let audits = VecDeque::new();
                Desk { engine: opened, memory, schedule, audits, jobs, standing, stop }.work();
            }
        })?;
        Ok(Self { engine, failure, tasks, standing, most_waiting, stop, thread })
    }

    /// The model, once it is there and while it answers.
    pub(crate) fn engine(&self) -> std::result::Result<&Arc<Engine>, ApiError> {
        if self.thread.is_finished() {
            return Err(ApiError::stopping());
        }
        self.engine.get().ok_or_else(ApiError::loading)
    }

    /// Why the model could not be opened.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How things stand.
    pub(crate) fn standing(&self) -> Standing {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands tasks over, all or none.
    pub(crate) fn submit(&self, tasks: Vec<Task>) -> std::result::Result<(), ApiError> {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if standing.waiting + tasks.len() > self.most_waiting {
            return Err(ApiError::queue_full(standing.waiting));
        }
        standing.waiting += tasks.len();
        let sender = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = sender.as_ref().ok_or_else(ApiError::stopping)?;
        match tasks.into_iter().all(|task| sender.send(Job::Answer(Box::new(task))).is_ok()) {
            true => Ok(()),
            false => Err(ApiError::stopping()),
        }
    }

    /// Hands an audit over; it waits for its room.
    pub(crate) fn audit(&self, audit: Audited) -> std::result::Result<(), ApiError> {
        let sender = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = sender.as_ref().ok_or_else(ApiError::stopping)?;
        sender.send(Job::Audit(Box::new(audit))).map_err(|_| ApiError::stopping())
    }

    /// Takes no more tasks; those that are there go on.
    pub(crate) fn close(&self) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Gives up what is still going on.
    pub(crate) fn abandon(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What the worker is given to do.
enum Job {
    Answer(Box<Task>),
    Audit(Box<Audited>),
}

/// An answer whose forgetting is to be measured.
pub(crate) struct Audited {
    pub(crate) plan: Plan,
    /// The prompt as text, and where in it the user's own stands.
    pub(crate) text: String,
    pub(crate) content: Range<usize>,
    pub(crate) prompt: Vec<u32>,
    pub(crate) answer: Vec<u32>,
    pub(crate) length: Length,
    pub(crate) reply: oneshot::Sender<Result<Audit>>,
}

impl Audited {
    fn with<T>(&self, of: impl FnOnce(&Subject<'_>) -> T) -> T {
        let (content, length) = (self.content.clone(), self.length);
        of(&Subject { prompt: &self.text, content, tokens: &self.prompt, answer: &self.answer, length })
    }
}

/// The worker's side.
struct Desk<'a> {
    engine: &'a Engine,
    memory: u64,
    schedule: Schedule<'a>,
    audits: VecDeque<Audited>,
    jobs: &'a Receiver<Job>,
    standing: &'a Mutex<Standing>,
    stop: &'a AtomicBool,
}

impl Desk<'_> {
    /// Works until nobody can hand over more, or it is told to stop.
    fn work(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            if self.schedule.is_idle() && self.audits.is_empty() {
                match self.jobs.recv() {
                    Ok(job) => self.take(job),
                    Err(_) => return,
                }
            }
            self.step();
            self.audit();
            if self.schedule.rests() {
                // what all wait for takes a moment
                match self.jobs.recv_timeout(MOMENT) {
                    Ok(job) => self.take(job),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => thread::sleep(MOMENT),
                }
            }
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Answer(task) => self.schedule.submit(*task),
            Job::Audit(audit) => self.audits.push_back(*audit),
        }
    }

    /// Takes what has come, and goes on with all answers by a pass.
    fn step(&mut self) {
        {
            // what is still in the channel counts as waiting too
            let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
            while let Ok(job) = self.jobs.try_recv() {
                self.take(job);
            }
            *standing = self.schedule.standing();
        }
        let ended = self.schedule.step();
        // who is told of an answer finds it counted and its memory given back
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = self.schedule.standing();
        ended.into_iter().for_each(Ended::tell);
    }

    /// The oldest audit, once both of its memories have room beside the answers, which go on between its passes.
    fn audit(&mut self) {
        let Some(audit) = self.audits.front() else { return };
        let needed =
            audit.with(|subject| self.engine.audit_bytes(&audit.plan, subject, &AuditSettings::default()));
        let needed = needed.and_then(|asked| match asked <= self.memory {
            true => Ok(asked),
            false => {
                let what = "bytes of KV memory: an audit reads the text under full memory too".into();
                let hint = "ask without the audit, or a server with more --memory".into();
                Err(Error::Limit { what, asked, have: self.memory, hint })
            }
        });
        let outcome = match needed {
            Ok(bytes) if !self.schedule.set_aside(bytes) => return,
            Ok(_) => {
                let Some(audit) = self.audits.pop_front() else { return };
                let outcome = self.look(&audit);
                self.schedule.set_aside(0);
                return drop(audit.reply.send(outcome));
            }
            Err(e) => Err(e),
        };
        if let Some(audit) = self.audits.pop_front() {
            audit.reply.send(outcome).ok();
        }
    }

    fn look(&mut self, audit: &Audited) -> Result<Audit> {
        let engine = self.engine;
        audit.with(|subject| {
            engine.audit(&audit.plan, subject, &AuditSettings::default(), &mut |_| {
                self.step();
                !audit.reply.is_closed() && !self.stop.load(Ordering::Relaxed)
            })
        })
    }
}

/// Where sequences wait that memory has no room for.
pub(crate) fn folder() -> PathBuf {
    std::env::temp_dir()
}
