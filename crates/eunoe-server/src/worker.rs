//! The thread that owns the model: takes tasks, goes on with all of them step by step, and tells how things stand.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use eunoe_core::{Error, Result};
use eunoe_engine::Engine;
use eunoe_engine::schedule::{Limits, Schedule, Standing, Task};

use crate::error::ApiError;

/// Opens the model; runs on the worker's thread.
pub type Open = Box<dyn FnOnce() -> Result<Engine> + Send>;

/// A model that is being loaded or is there, and the way to its worker.
pub(crate) struct Worker {
    engine: Arc<OnceLock<Arc<Engine>>>,
    failure: Arc<Mutex<Option<Error>>>,
    tasks: Mutex<Option<Sender<Task>>>,
    standing: Arc<Mutex<Standing>>,
    /// Tasks that were handed over and have not begun.
    most_waiting: usize,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the thread.
    pub(crate) fn start(open: Open, limits: Limits, most_waiting: usize) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let worker = Self {
            engine: Arc::default(),
            failure: Arc::default(),
            tasks: Mutex::new(Some(sender)),
            standing: Arc::default(),
            most_waiting,
            stop: Arc::default(),
        };
        let (engine, failure) = (Arc::clone(&worker.engine), Arc::clone(&worker.failure));
        let (standing, stop) = (Arc::clone(&worker.standing), Arc::clone(&worker.stop));
        thread::Builder::new().name("model".into()).spawn(move || match open() {
            Err(e) => *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(e),
            Ok(opened) => {
                let opened = Arc::new(opened);
                engine.get_or_init(|| Arc::clone(&opened));
                work(&opened, limits, &receiver, &standing, &stop);
            }
        })?;
        Ok(worker)
    }

    /// The model, once it is there.
    pub(crate) fn engine(&self) -> std::result::Result<&Arc<Engine>, ApiError> {
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
        match tasks.into_iter().all(|task| sender.send(task).is_ok()) {
            true => Ok(()),
            false => Err(ApiError::stopping()),
        }
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

fn work(
    engine: &Engine,
    limits: Limits,
    tasks: &Receiver<Task>,
    standing: &Mutex<Standing>,
    stop: &AtomicBool,
) {
    let mut schedule = Schedule::new(engine, limits);
    while !stop.load(Ordering::Relaxed) {
        if schedule.is_idle() {
            match tasks.recv() {
                Ok(task) => schedule.submit(task),
                Err(_) => return,
            }
        }
        {
            // what is still in the channel counts as waiting too
            let mut standing = standing.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.try_iter().for_each(|task| schedule.submit(task));
            *standing = schedule.standing();
        }
        schedule.step();
        *standing.lock().unwrap_or_else(PoisonError::into_inner) = schedule.standing();
    }
}

/// Where sequences wait that memory has no room for.
pub(crate) fn folder() -> PathBuf {
    std::env::temp_dir()
}
