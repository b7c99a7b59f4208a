//! Multi-query associative recall: how much of a context a mixer can find again, against the bytes it keeps.
//!
//! Two blocks without MLPs: a short gated convolution for all, so that no mixer wins by having one, then the mixer under
//! test. Each learning rate and seed is a cell of the grid: a model is trained on a mix of all shapes, stops early once it
//! solves them, and is measured on each. The rate is chosen on examples that are neither trained nor tested on.

mod cell;
mod data;
mod report;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::Device;
use eunoe_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub use report::{Best, Report};

use super::grid::{Cell, Ended, Progress, Told, Workers};
use super::{Folder, Manifest};
use crate::nets::{Config, Decoder, Params};
use crate::streams::{Mqar, MqarShape};
use crate::train::TrainConfig;

/// The mixer of the first block.
pub const FIRST: &str = "gated_conv";

/// The mixers of the grid, where none are named: the slowest first, so that no long training begins last.
pub const MIXERS: &[&str] = &[
    "titans(wiring=mag, layers=1, step=0.1)",
    "titans(wiring=memory, layers=1, step=0.1)",
    "delta_rule",
    "based(features=16)",
    "based(features=8)",
    "based(features=4)",
    "linear_attention",
    "lightning_attention",
    "aaren",
    "music_transformer",
    "sink_attention(form=sigmoid)",
    "softmax_attention",
    "softmax_attention(window=32)",
];

/// The sizes of a grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Phrases of the mixers under test.
    pub mixers: Vec<String>,
    /// Tokens.
    pub vocab: usize,
    /// Lengths and pairs, each trained on and tested.
    pub shapes: Vec<MqarShape>,
    /// Width.
    pub d_model: usize,
    /// Heads of a mixer that has heads.
    pub heads: usize,
    /// Sequences to learn from, as many of each shape.
    pub examples: usize,
    /// Sequences of each shape on which the rate is chosen and training is stopped.
    pub valid: usize,
    /// Sequences of each shape that accuracy is measured on.
    pub test: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Passes over the examples, at most.
    pub epochs: usize,
    /// Training stops after the pass in which every shape's accuracy on `valid` comes up to this.
    pub stop_at: f64,
    /// Learning rates.
    pub lrs: Vec<f64>,
    /// Trainings per rate.
    pub seeds: u64,
}

impl Default for Settings {
    /// Grid S: ten core-hours.
    fn default() -> Self {
        let shape = |(t, pairs)| MqarShape { t, pairs };
        Self {
            mixers: MIXERS.iter().map(ToString::to_string).collect(),
            vocab: 512,
            shapes: [(64, 4), (64, 8), (128, 16), (256, 32)].map(shape).to_vec(),
            d_model: 64,
            heads: 1,
            examples: 20_000,
            valid: 256,
            test: 1000,
            batch: 16,
            epochs: 5,
            stop_at: 0.99,
            lrs: vec![1e-3, 3e-3, 1e-2],
            seeds: 2,
        }
    }
}

impl Settings {
    /// In full, or in its smallest form.
    pub fn preset(quick: bool) -> Self {
        if quick { Self::quick() } else { Self::default() }
    }

    /// A grid of minutes: fewer keys, shorter texts, one rate, one seed. It shows that all works and who finds again what
    /// stands far away; it ranks nobody.
    pub fn quick() -> Self {
        let shape = |(t, pairs)| MqarShape { t, pairs };
        // a window as long as the texts would control nothing
        let mixers = MIXERS.iter().map(|mixer| mixer.replace("window=32", "window=8"));
        Self {
            mixers: mixers.collect(),
            vocab: 64,
            shapes: [(16, 4), (32, 8)].map(shape).to_vec(),
            d_model: 32,
            examples: 8192,
            valid: 128,
            test: 500,
            batch: 32,
            epochs: 5,
            lrs: vec![1e-2],
            seeds: 1,
            ..Self::default()
        }
    }

    /// Refuses a grid that cannot be run, before anything is trained.
    ///
    /// # Errors
    /// [`Error::Plan`] for a mixer that is none, [`Error::Invalid`] that names what cannot be.
    pub fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::Invalid(why));
        let sizes = [
            ("examples", self.examples),
            ("valid", self.valid),
            ("test", self.test),
            ("batch", self.batch),
            ("epochs", self.epochs),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| !(1..1 << 24).contains(size)) {
            return wrong(format!("`{name}` must be from 1 to {}", (1 << 24) - 1));
        }
        let lists = [("mixers", self.mixers.len()), ("shapes", self.shapes.len()), ("lrs", self.lrs.len())];
        if let Some((name, _)) = lists.iter().find(|(_, len)| *len == 0) {
            return wrong(format!("`{name}` is empty"));
        }
        if self.seeds == 0 || self.seeds > 1 << 16 {
            return wrong(format!("`seeds` is {}; expected 1 to {}", self.seeds, 1 << 16));
        }
        if let Some(lr) = self.lrs.iter().find(|lr| !(lr.is_finite() && **lr > 0.0)) {
            return wrong(format!("a rate of {lr}; expected numbers above 0"));
        }
        if !self.stop_at.is_finite() {
            return wrong(format!("`stop_at` is {}; expected a number", self.stop_at));
        }
        let keys = self.lrs.iter().map(|lr| lr.to_string());
        let shapes = self.shapes.iter().map(|shape| format!("{}:{}", shape.t, shape.pairs));
        let mut seen = HashSet::new();
        if let Some(twice) =
            self.mixers.iter().cloned().chain(keys).chain(shapes).find(|k| !seen.insert(k.clone()))
        {
            return wrong(format!("`{twice}` is there twice"));
        }
        Mqar::new(self.vocab, &self.shapes)?;
        if let Some(shape) = self.shapes.iter().find(|shape| shape.t >= data::MOST_TOKENS) {
            return wrong(format!("texts of {} tokens; expected fewer than {}", shape.t, data::MOST_TOKENS));
        }
        if self.examples / self.shapes.len() < self.batch {
            let (all, shapes, batch) = (self.examples, self.shapes.len(), self.batch);
            return wrong(format!("{all} examples of {shapes} shapes fill no batch of {batch} for each"));
        }
        self.mixers.iter().try_for_each(|mixer| {
            Decoder::new(&self.model(mixer), &mut Params::new(0, candle_core::DType::F32, &Device::Cpu))
                .map(|_| ())
        })
    }

    /// The shape that rates are chosen on: the longest, of these the one with the most pairs.
    pub fn largest(&self) -> MqarShape {
        let largest = self.shapes.iter().max_by_key(|shape| (shape.t, shape.pairs));
        largest.copied().unwrap_or(MqarShape { t: 0, pairs: 0 })
    }

    /// The trainings, mixer by mixer.
    pub fn cells(&self) -> Vec<Cell> {
        let of = |mixer: &String| {
            let rates = self.lrs.iter().flat_map(|lr| (0..self.seeds).map(|seed| (*lr, seed)));
            let cell = |(lr, seed)| Cell { mixer: mixer.clone(), lr, seed };
            rates.map(cell).collect::<Vec<_>>()
        };
        self.mixers.iter().flat_map(of).collect()
    }

    /// Steps of a training that is not stopped early.
    pub fn steps(&self) -> u64 {
        (self.epochs * self.batches()) as u64
    }

    /// Batches of a pass: whole ones, as many of each shape.
    fn batches(&self) -> usize {
        self.examples / self.shapes.len() / self.batch * self.shapes.len()
    }

    fn model(&self, mixer: &str) -> Config {
        Config {
            vocab: self.vocab,
            d_model: self.d_model,
            layers: 2,
            heads: self.heads,
            d_ff: 0,
            mixers: vec![FIRST.into(), mixer.into()],
            ..Config::default()
        }
    }

    fn train(&self, cell: &Cell) -> TrainConfig {
        TrainConfig {
            steps: self.steps(),
            batch: self.batch,
            seq_len: self.largest().t,
            lr: cell.lr,
            decay_to: 0.0,
            seed: cell.seed,
            // the grid has its own, and new defaults make no other run of it
            evaluate_every: 0,
            evaluate_windows: 256,
            save_every: 0,
            ..TrainConfig::default()
        }
    }
}

/// What one training gave on one shape: a line of the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Phrase of the mixer under test.
    pub mixer: String,
    /// The highest learning rate.
    pub lr: f64,
    /// Seed of first weights and examples.
    pub seed: u64,
    /// Tokens of a sequence.
    pub t: usize,
    /// Pairs of a key and a value.
    pub pairs: usize,
    /// Share of a sequence's questions whose value is the likeliest of all tokens; mean of the test's sequences.
    pub accuracy: f64,
    /// The same on what the rate is chosen by.
    pub valid: f64,
    /// Why training ended.
    pub ended: Ended,
    /// Steps taken.
    pub steps: u64,
    /// Loss of the last step, nats per question; none where it was no number.
    pub loss: Option<f64>,
    /// Numbers that were trained.
    pub params: usize,
    /// Bytes that the mixer under test keeps of one sequence of this length.
    pub state_bytes: usize,
    /// Seconds of the whole training.
    pub seconds: f64,
}

impl Line {
    fn is_of(&self, cell: &Cell, shape: MqarShape) -> bool {
        let of_cell = self.mixer == cell.mixer && self.lr == cell.lr && self.seed == cell.seed;
        of_cell && (self.t, self.pairs) == (shape.t, shape.pairs)
    }
}

/// Everything that results depend on, as the manifest has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The grid.
    pub grid: Settings,
    /// The model of the first training; others differ in the mixer of the second block.
    pub model: Config,
    /// How the first training goes; others differ in rate and seed.
    pub train: TrainConfig,
}

/// Runs what is not yet done of a grid, and gives all of its lines in the order of the grid. On one kind of device results
/// depend on neither the workers nor on how often the grid was stopped.
///
/// # Errors
/// Those of [`Settings::check`] and of [`Folder::open`], before anything is trained; those of tensor work, and a folder
/// that cannot be written.
pub fn run(
    settings: &Settings,
    dir: &Path,
    workers: Workers<'_>,
    progress: &dyn Progress,
) -> Result<(Manifest<Record>, Vec<Line>)> {
    settings.check()?;
    let cells = settings.cells();
    let first = &cells[0];
    let record =
        Record { grid: settings.clone(), model: settings.model(&first.mixer), train: settings.train(first) };
    let manifest = Manifest::here("mqar", record, workers);
    let (folder, manifest, lines) = Folder::open::<_, Line>(dir, manifest)?;
    let todo = |cell: &Cell| -> Vec<MqarShape> {
        let is_missing = |shape: &MqarShape| !lines.iter().any(|line| line.is_of(cell, *shape));
        settings.shapes.iter().copied().filter(is_missing).collect()
    };
    let left: Vec<(&Cell, Vec<MqarShape>)> =
        cells.iter().map(|cell| (cell, todo(cell))).filter(|(_, shapes)| !shapes.is_empty()).collect();
    progress.resumed(cells.len() - left.len());
    let all = Mutex::new(lines);
    workers.share(&left, &|worker, device, (cell, shapes)| {
        progress.begins(worker, cell);
        let done = cell::train(settings, cell, shapes, device, Told { worker, progress })?;
        folder.add(&done)?;
        progress.ends(worker, done.first().map_or(0, |line| line.steps));
        all.lock().unwrap_or_else(PoisonError::into_inner).extend(done);
        Ok(())
    })?;
    let lines = all.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((manifest, in_order(settings, lines)))
}

/// Lines in the order of the grid.
fn in_order(settings: &Settings, lines: Vec<Line>) -> Vec<Line> {
    let key = |mixer: &str, lr: f64, seed, t, pairs| (mixer.to_owned(), lr.to_bits(), seed, t, pairs);
    let mut by_key: HashMap<_, Line> =
        lines.into_iter().map(|l| (key(&l.mixer, l.lr, l.seed, l.t, l.pairs), l)).collect();
    let cells = settings.cells();
    let places = cells.iter().flat_map(|cell| settings.shapes.iter().map(move |shape| (cell, shape)));
    places.filter_map(|(c, s)| by_key.remove(&key(&c.mixer, c.lr, c.seed, s.t, s.pairs))).collect()
}

#[cfg(test)]
mod tests;
