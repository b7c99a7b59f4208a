//! Language models of bytes: what each pattern of mixers loses per symbol of texts it never saw, at equal parameters, steps
//! and search.
//!
//! A pattern is a phrase per layer with `+` between them, repeated until there are enough. Its MLPs are made as wide as it
//! takes to have as many parameters as the first pattern. Every pattern is trained at each rate with seed 0; with the rate
//! that loses least on validation texts it is trained again per seed, and all of these are measured on test texts.

mod cell;
mod measure;
mod report;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device};
use eunoe_core::{Error, Result};
use serde::{Deserialize, Serialize};

pub use report::Report;

use super::grid::{Cell, Ended, Progress, Told, Workers};
use super::{Folder, Manifest};
use crate::nets::{Config, Decoder, Params};
use crate::streams::Text;
use crate::train::{RunConfig, TrainConfig};

/// What losses are told in; they are kept in nats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Logarithms to base 2, as is usual for bytes.
    Bits,
    /// Natural logarithms, as is usual for notes.
    Nats,
}

impl Unit {
    /// A loss in nats, told.
    pub fn of(self, nats: f64) -> f64 {
        match self {
            Self::Bits => nats / std::f64::consts::LN_2,
            Self::Nats => nats,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bits => "bits",
            Self::Nats => "nats",
        }
    }
}

/// What texts are for, and what is told of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Title of the report.
    pub title: String,
    /// What one symbol is called.
    pub symbol: String,
    /// What losses are told in.
    pub unit: Unit,
    /// Patterns of mixers; the first is the reference.
    pub patterns: Vec<String>,
    /// The decoder, but for its mixers and the width of its MLPs, which is that of the reference.
    pub model: Config,
    /// How each is trained, but for rate and seed.
    pub train: TrainConfig,
    /// Learning rates.
    pub lrs: Vec<f64>,
    /// Trainings at the best rate.
    pub seeds: u64,
    /// How often validation texts are measured during a training.
    pub points: u64,
    /// Windows of validation texts that are measured each time.
    pub windows: usize,
    /// Texts are read on to this many windows from one start.
    pub beyond: usize,
}

impl Settings {
    /// Books on a card: minutes a training.
    pub fn books() -> Self {
        let hybrid = |last: &str| format!("gated_conv + softmax_attention(window=64) + {last}");
        let patterns = [
            "softmax_attention".into(),
            "softmax_attention(window=64)".into(),
            "music_transformer".into(),
            "based".into(),
            hybrid("based"),
            hybrid("gated_conv"),
            "lightning_attention".into(),
            "titans(wiring=mag)".into(),
            "delta_rule".into(),
            "linear_attention".into(),
        ];
        let model = Config { d_model: 192, layers: 6, heads: 4, d_ff: 512, ..Config::default() };
        let train = TrainConfig { steps: 800, batch: 32, seq_len: 512, ..TrainConfig::default() };
        Self {
            title: "Books, byte by byte".into(),
            symbol: "byte".into(),
            unit: Unit::Bits,
            patterns: patterns.to_vec(),
            model,
            train,
            lrs: vec![1e-3, 3e-3, 1e-2],
            seeds: 3,
            points: 20,
            windows: 64,
            beyond: 8,
        }
    }

    /// When sinks emerge: forms of attention by the share of heads that look at the first token.
    pub fn sinks() -> Self {
        let form = |form: &str| format!("sink_attention(form={form})");
        let forms = ["off_by_one", "k_bias", "sigmoid", "sigmoid_norm"].map(form);
        let patterns = [vec!["softmax_attention".to_owned()], forms.to_vec()].concat();
        let books = Self::books();
        let model = Config { d_model: 256, heads: 8, d_ff: 704, ..books.model };
        Self {
            title: "Attention sinks over training".into(),
            patterns,
            model,
            lrs: vec![1e-3],
            seeds: 2,
            ..books
        }
    }

    /// Chorales of Bach, a token per voice and sixteenth note.
    pub fn chorales() -> Self {
        let patterns =
            ["music_transformer", "softmax_attention", "softmax_attention(window=64)", "lightning_attention"];
        let books = Self::books();
        let model = Config { d_model: 128, layers: 4, d_ff: 344, ..books.model };
        let train = TrainConfig { steps: 1000, batch: 16, ..books.train };
        Self {
            title: "Chorales, voice by voice".into(),
            symbol: "note".into(),
            unit: Unit::Nats,
            beyond: 4,
            patterns: patterns.map(String::from).to_vec(),
            model,
            train,
            ..books
        }
    }

    /// The same of small models and few steps, which take less time than measuring long texts. It shows that all works, and
    /// ranks nobody.
    pub fn quick(self) -> Self {
        let model = Config { d_model: 64, layers: 3, heads: 2, d_ff: 176, ..self.model };
        let train = TrainConfig { steps: 60, batch: 4, seq_len: 64, ..self.train };
        let title = format!("{}, in small", self.title);
        Self { title, model, train, lrs: vec![3e-3], seeds: 1, points: 3, windows: 16, beyond: 4, ..self }
    }

    /// Refuses what cannot be run, before anything is trained.
    ///
    /// # Errors
    /// [`Error::Plan`] for a mixer that is none, [`Error::Invalid`] that names what cannot be.
    pub fn check(&self) -> Result<()> {
        let wrong = |why: String| Err(Error::Invalid(why));
        if self.patterns.is_empty() || self.lrs.is_empty() {
            return wrong("a pattern of mixers and a rate are needed".into());
        }
        if self.seeds == 0 || self.seeds > 1 << 16 {
            return wrong(format!("`seeds` is {}; expected 1 to {}", self.seeds, 1 << 16));
        }
        if self.windows == 0 || self.points == 0 || !(1..=1 << 10).contains(&self.beyond) {
            return wrong("`points` and `windows` must be above 0, `beyond` from 1 to 1024".into());
        }
        let mut seen = HashSet::new();
        let keys = self.lrs.iter().map(f64::to_string).chain(self.patterns.iter().cloned());
        if let Some(twice) = keys.into_iter().find(|key| !seen.insert(key.clone())) {
            return wrong(format!("`{twice}` is there twice"));
        }
        for lr in &self.lrs {
            let train = TrainConfig { lr: *lr, ..self.train.clone() };
            RunConfig { model: self.model.clone(), train, ..RunConfig::default() }.check()?;
        }
        self.patterns.iter().try_for_each(|pattern| self.model_of(pattern).map(|_| ()))
    }

    /// The decoder of a pattern: as many parameters as the reference, by the width of its MLPs.
    ///
    /// # Errors
    /// Those of [`Decoder::new`], and a pattern that is too large without MLPs.
    pub fn model_of(&self, pattern: &str) -> Result<Config> {
        let with = |pattern: &str, d_ff| {
            let mixers = pattern.split('+').map(|phrase| phrase.trim().to_owned()).collect();
            Config { mixers, d_ff, ..self.model.clone() }
        };
        let count = |config: &Config| -> Result<usize> {
            let mut params = Params::zeros(DType::F32, &Device::Cpu);
            Decoder::new(config, &mut params).map(|_| params.count())
        };
        let want = count(&with(&self.patterns[0], self.model.d_ff))?;
        let one = count(&with(pattern, 1))?;
        let each = count(&with(pattern, 2))? - one;
        if one > want {
            let why = format!(
                "`{pattern}` has {one} parameters without MLPs, the first pattern {want} with them: raise `d_ff`"
            );
            return Err(Error::Invalid(why));
        }
        Ok(with(pattern, 1 + (want - one + each / 2) / each))
    }

    fn train_of(&self, cell: &Cell) -> TrainConfig {
        TrainConfig { lr: cell.lr, seed: cell.seed, ..self.train.clone() }
    }

    /// How many trainings there are.
    pub fn trainings(&self) -> usize {
        self.patterns.len() * (self.lrs.len() + self.seeds as usize - 1)
    }

    /// The trainings that search for the best rate.
    fn search(&self) -> Vec<Cell> {
        let cell = |mixer: &String, lr: &f64| Cell { mixer: mixer.clone(), lr: *lr, seed: 0 };
        self.patterns.iter().flat_map(|mixer| self.lrs.iter().map(move |lr| cell(mixer, lr))).collect()
    }
}

/// What is learned from, what rates are chosen by, what is tested.
#[derive(Clone, Debug)]
pub struct Texts {
    /// Learned from.
    pub train: Text,
    /// Rates are chosen by these.
    pub valid: Text,
    /// Measured on.
    pub test: Text,
    /// What they are, for the manifest: names, sizes and checksums.
    pub sources: Vec<String>,
}

impl Texts {
    /// Of what is learned from, what rates are chosen by, and what is tested, each with its name.
    pub fn new([(train, a), (valid, b), (test, c)]: [(Text, String); 3]) -> Self {
        let told = |what: &str, text: &Text, name: &str| format!("{what} {name} ({})", text.fingerprint());
        let sources = vec![
            told("learned from:", &train, &a),
            told("rates chosen by:", &valid, &b),
            told("measured on:", &test, &c),
        ];
        Self { train, valid, test, sources }
    }
}

/// Everything that results depend on, as the manifest has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The grid.
    pub grid: Settings,
    /// The texts.
    pub texts: Vec<String>,
}

/// Validation during a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps taken.
    pub step: u64,
    /// Nats per symbol of validation texts; none where that is no number any more.
    pub valid: Option<f64>,
    /// Share of heads whose mean weight on the first of 64 tokens is above 0.3; none where no layer has weights.
    pub sink: Option<f64>,
    /// Mean weight of all heads on it.
    #[serde(default)]
    pub first: Option<f64>,
    /// The same of the weights as values are multiplied by them, which need not sum to one.
    #[serde(default)]
    pub applied: Option<f64>,
}

/// What one training gave: a line of the results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The pattern.
    pub mixer: String,
    /// The highest learning rate.
    pub lr: f64,
    /// Seed of first weights and batches.
    pub seed: u64,
    /// Nats per symbol of validation texts at the end; none where training diverged.
    pub valid: Option<f64>,
    /// Nats per symbol of test texts, each window from an empty state.
    pub test: Option<f64>,
    /// The same by position: from where, up to where, nats; none where they are no number. The windows are longer: the
    /// state is carried on.
    pub positions: Vec<(usize, usize, Option<f64>)>,
    /// Validation during the training.
    pub curve: Vec<Point>,
    /// Why training ended.
    pub ended: Ended,
    /// Steps taken.
    pub steps: u64,
    /// Width of the MLPs.
    pub d_ff: usize,
    /// Numbers that were trained.
    pub params: usize,
    /// Bytes that all layers keep of one sequence, at the length of training and of the longest window.
    pub state_bytes: [usize; 2],
    /// Symbols per second of training, measurements left out.
    pub tokens_per_s: f64,
    /// Seconds of the whole training, measurements included.
    pub seconds: f64,
}

/// Refuses what cannot be run of these texts, before anything is trained.
///
/// # Errors
/// Those of [`Settings::check`], and texts shorter than their windows.
pub fn check(settings: &Settings, texts: &Texts) -> Result<()> {
    settings.check()?;
    let Texts { train, valid, test, .. } = texts;
    if train == valid || valid == test || test == train {
        let why =
            "two of `train`, `valid` and `test` are the same text: what is learned from measures nothing";
        return Err(Error::Invalid(why.into()));
    }
    let t = settings.train.seq_len;
    for (name, text, t) in [("train", train, t), ("valid", valid, t), ("test", test, t * settings.beyond)] {
        let (have, need) = (text.len(), text.needed(t));
        if have < need {
            let symbol = &settings.symbol;
            return Err(Error::Invalid(format!(
                "the texts of `{name}` have {have} {symbol}s; a window needs {need}: name more, or lower `seq_len` or `beyond`"
            )));
        }
    }
    Ok(())
}

/// Runs what is not yet done of a grid, and gives all of its lines.
///
/// # Errors
/// Those of [`check`] and of [`Folder::open`], before anything is trained; those of tensor work, and a folder that cannot be
/// written.
pub fn run(
    settings: &Settings,
    texts: &Texts,
    dir: &Path,
    workers: Workers<'_>,
    progress: &dyn Progress,
) -> Result<(Manifest<Record>, Vec<Line>)> {
    check(settings, texts)?;
    let record = Record { grid: settings.clone(), texts: texts.sources.clone() };
    let (folder, manifest, lines) = Folder::open::<_, Line>(dir, Manifest::here("texts", record, workers))?;
    let all = Mutex::new(lines);
    let lines = || all.lock().unwrap_or_else(PoisonError::into_inner);
    progress.resumed(lines().len());
    let train = |cells: Vec<Cell>| {
        let is_new = |cell: &Cell| !lines().iter().any(|line| line.is_of(cell));
        let todo: Vec<Cell> = cells.into_iter().filter(is_new).collect();
        workers.share(&todo, &|worker, device, cell| {
            progress.begins(worker, cell);
            let line = cell::train(settings, texts, cell, device, Told { worker, progress })?;
            folder.add(std::slice::from_ref(&line))?;
            progress.ends(worker, line.steps);
            lines().push(line);
            Ok(())
        })
    };
    train(settings.search())?;
    let best = settings.patterns.iter().map(|pattern| best_rate(settings, pattern, &lines()));
    let best = best.collect::<Result<Vec<f64>>>()?;
    let again = settings.patterns.iter().zip(best).flat_map(|(pattern, lr)| {
        (1..settings.seeds).map(move |seed| Cell { mixer: pattern.clone(), lr, seed })
    });
    train(again.collect())?;
    let lines = lines().clone();
    Ok((manifest, lines))
}

impl Line {
    fn is_of(&self, cell: &Cell) -> bool {
        self.mixer == cell.mixer && self.lr == cell.lr && self.seed == cell.seed
    }
}

/// The rate at which seed 0 loses least on validation texts; of equal ones the lowest.
fn best_rate(settings: &Settings, pattern: &str, lines: &[Line]) -> Result<f64> {
    let loss = |lr: f64| -> Result<f64> {
        let cell = Cell { mixer: pattern.into(), lr, seed: 0 };
        let line = lines.iter().find(|line| line.is_of(&cell));
        let line = line.ok_or_else(|| {
            Error::Invalid(format!(
                "the grid is not complete: `{pattern}` at rate {lr}, seed 0; the command that began it goes on"
            ))
        })?;
        Ok(line.valid.unwrap_or(f64::INFINITY))
    };
    let mut rates = settings.lrs.iter().map(|lr| Ok((loss(*lr)?, *lr))).collect::<Result<Vec<_>>>()?;
    rates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    Ok(rates[0].1)
}

#[cfg(test)]
mod tests;
