//! How a grid goes: a bar of all trainings and one per worker, or a line per training where standard error is no terminal.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use eunoe_lab::bench::{Cell, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::out;

/// See the module.
pub(super) struct Bars {
    all: MultiProgress,
    grid: ProgressBar,
    workers: Vec<ProgressBar>,
    steps: u64,
    trainings: usize,
    done: AtomicUsize,
    stop: Arc<AtomicBool>,
}

impl Bars {
    /// For `trainings` of at most `steps` steps.
    pub(super) fn new(trainings: usize, steps: u64, workers: usize) -> Result<Self> {
        let all = MultiProgress::new();
        let bar = |len, style| -> Result<ProgressBar> {
            Ok(all.add(ProgressBar::new(len).with_style(ProgressStyle::with_template(style)?)))
        };
        let grid = bar(trainings as u64 * steps, "{bar:30} {percent} % {msg}, {eta} left")?;
        let own = |_| bar(steps, "{bar:30} {pos}/{len} {prefix}{msg}");
        let workers = (0..workers).map(own).collect::<Result<_>>()?;
        let (done, stop) = (AtomicUsize::new(0), super::stop_asked()?);
        Ok(Self { all, grid, workers, steps, trainings, done, stop })
    }

    /// Takes them off the screen.
    pub(super) fn clear(&self) -> Result<()> {
        self.all.clear().context("standard error failed")
    }

    fn stop_if_asked(&self) {
        if self.stop.load(Ordering::Relaxed) {
            let _ = self.clear();
            let (done, all) = (self.done.load(Ordering::Relaxed), self.trainings);
            out::note(&format!(
                "stopped: {done} of {all} trainings are kept; the same command goes on with the others"
            ));
            std::process::exit(130);
        }
    }
}

impl Progress for Bars {
    fn resumed(&self, trainings: usize) {
        self.done.store(trainings, Ordering::Relaxed);
        self.grid.set_position(trainings as u64 * self.steps);
        // so that the time left counts none of what was there
        self.grid.reset_eta();
    }

    fn begins(&self, worker: usize, cell: &Cell) {
        let bar = &self.workers[worker];
        bar.reset();
        bar.set_prefix(format!("{}, rate {}, seed {}", cell.mixer, cell.lr, cell.seed));
        bar.set_message("");
    }

    fn step(&self, worker: usize, step: u64, loss: f64) {
        self.workers[worker].set_position(step);
        self.workers[worker].set_message(format!(": loss {loss:.3}"));
        self.grid.inc(1);
        self.stop_if_asked();
    }

    fn measures(&self) {
        self.stop_if_asked();
    }

    fn valid(&self, worker: usize, what: &'static str, value: f64) {
        self.grid.set_message(format!("last measured {what} {value:.3} (worker {})", worker + 1));
    }

    fn ends(&self, worker: usize, steps: u64) {
        // what an early stop has spared
        self.grid.inc(self.steps.saturating_sub(steps));
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if !std::io::stderr().is_terminal() {
            let bar = &self.workers[worker];
            let (all, training, loss) = (self.trainings, bar.prefix(), bar.message());
            out::note(&format!("{done} of {all} trainings: {training}{loss} after {steps} steps"));
        }
    }
}
