//! Bars of a grid: one of all trainings, and one per worker.

use anyhow::{Context as _, Result};
use eunoe_lab::bench::{Cell, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// See the module.
pub(super) struct Bars {
    all: MultiProgress,
    grid: ProgressBar,
    workers: Vec<ProgressBar>,
    steps: u64,
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
        Ok(Self { all, grid, workers, steps })
    }

    /// Takes them off the screen.
    pub(super) fn clear(&self) -> Result<()> {
        self.all.clear().context("standard error failed")
    }
}

impl Progress for Bars {
    fn resumed(&self, trainings: usize) {
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
    }

    fn valid(&self, worker: usize, what: &'static str, value: f64) {
        self.grid.set_message(format!("last measured {what} {value:.3} (worker {})", worker + 1));
    }

    fn ends(&self, _: usize, steps: u64) {
        // what an early stop has spared
        self.grid.inc(self.steps.saturating_sub(steps));
    }
}
