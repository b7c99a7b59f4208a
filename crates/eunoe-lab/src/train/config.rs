//! The file of a run.

use std::path::{Path, PathBuf};

use eunoe_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::difference;
use crate::nets::Config;
use crate::ops::Precision;

/// Tokens of a pass.
const MOST_TOKENS: usize = 1 << 22;

/// Everything that a run depends on, as its TOML file has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// A model to begin with, a GGUF file or a folder: its sizes stand for `model`, and its tokenizer reads the texts.
    pub from: Option<PathBuf>,
    /// The decoder.
    pub model: Config,
    /// What it is trained on.
    pub data: Data,
    /// How it is trained.
    pub train: TrainConfig,
}

/// Files of text, taken as bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Files to learn from.
    pub files: Vec<PathBuf>,
    /// Files that are never learned from, to evaluate on.
    pub held_out: Vec<PathBuf>,
}

/// Steps, sizes of batches, and the optimiser's numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Steps of the optimiser.
    pub steps: u64,
    /// Sequences per step and pass.
    pub batch: usize,
    /// Passes whose gradients are added up before a step.
    pub accumulate: usize,
    /// Tokens per sequence.
    pub seq_len: usize,
    /// The highest learning rate.
    pub lr: f64,
    /// Share of the steps over which it rises from 0.
    pub warmup: f64,
    /// What is left of it at the end, as a share; the way down is half a cosine.
    pub decay_to: f64,
    /// First and second momentum.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Pull to 0, of matrices alone.
    pub weight_decay: f64,
    /// The longest gradient that is followed as it is; 0 for any.
    pub clip: f64,
    /// Of products with weights: `f32` or `bf16`. Parameters, moments, states and sums stay f32.
    pub precision: Precision,
    /// Seed of the first weights and of the batches.
    pub seed: u64,
    /// Steps between two evaluations on what is held out; 0 for one at the end.
    pub evaluate_every: u64,
    /// Windows of an evaluation, at most.
    pub evaluate_windows: usize,
    /// Steps between two checkpoints, which are what a run goes on from after a kill; 0 for one at the end.
    pub save_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 16,
            accumulate: 1,
            seq_len: 256,
            lr: 1e-3,
            warmup: 0.05,
            decay_to: 0.1,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            precision: Precision::F32,
            seed: 0,
            evaluate_every: 0,
            evaluate_windows: 256,
            save_every: 200,
        }
    }
}

impl RunConfig {
    /// What keeps this run from going on with `there`: the first setting that parameters depend on and that is not the same.
    /// More steps are none, the rate goes on by their schedule, nor is where the texts lie.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that cannot be written down.
    pub(super) fn difference(&self, there: &Self) -> Result<Option<String>> {
        let TrainConfig { evaluate_every, evaluate_windows, save_every, .. } = self.train;
        let [there, here] = [there, self].map(|config| {
            let steps = config.train.steps.max(self.train.steps);
            let train =
                TrainConfig { steps, evaluate_every, evaluate_windows, save_every, ..config.train.clone() };
            serde_json::to_value(Self { train, data: Data::default(), ..config.clone() })
                .map_err(|error| Error::Invalid(error.to_string()))
        });
        Ok(difference("run", &there?, &here?))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Format`] where it is not TOML or names what is not there, [`Error::Invalid`] for numbers
    /// that cannot be.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        let name = format!("`{}`", path.display());
        let text = String::from_utf8(text)
            .map_err(|error| Error::format(&name, error.utf8_error().valid_up_to() as u64, "not UTF-8"))?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start as u64);
            Error::format(&name, offset, error.message().to_owned())
        })?;
        if config.from.is_some() && config.model != Config::default() {
            let why = format!("{name}: leave out `[model]`: the sizes are those of the model in `from`");
            return Err(Error::Invalid(why));
        }
        config.check()?;
        Ok(config)
    }

    /// Refuses numbers that cannot be.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names them.
    pub fn check(&self) -> Result<()> {
        self.model.check()?;
        let t = &self.train;
        let wrong = |why: String| Err(Error::Invalid(why));
        if self.model.vocab < 256 {
            return wrong(format!("`vocab` is {}; texts are bytes and need 256", self.model.vocab));
        }
        let counts = [
            ("batch", t.batch),
            ("accumulate", t.accumulate),
            ("seq_len", t.seq_len),
            ("evaluate_windows", t.evaluate_windows),
        ];
        for (name, value) in counts {
            if value == 0 || value > 1 << 24 {
                return wrong(format!("`{name}` is {value}; expected 1 to {}", 1 << 24));
            }
        }
        if t.steps == 0 {
            return wrong("`steps` is 0; expected 1 at least".into());
        }
        if t.batch * t.seq_len > MOST_TOKENS {
            let tokens = t.batch * t.seq_len;
            return wrong(format!(
                "a pass of {tokens} tokens; expected {MOST_TOKENS} at most: lower `batch` or `seq_len`"
            ));
        }
        // at 1 the moments never come to stand for anything, and without eps a gradient that never was is 0 / 0
        if t.betas.contains(&1.0) || t.eps == 0.0 {
            return wrong("`betas` must be below 1, `eps` above 0".into());
        }
        let shares =
            [("warmup", t.warmup), ("decay_to", t.decay_to), ("betas", t.betas[0]), ("betas", t.betas[1])];
        if let Some((name, value)) = shares.iter().find(|(_, v)| !(0.0..=1.0).contains(v)) {
            return wrong(format!("`{name}` is {value}; expected 0 to 1"));
        }
        let sizes = [("lr", t.lr), ("eps", t.eps), ("weight_decay", t.weight_decay), ("clip", t.clip)];
        if let Some((name, value)) = sizes.iter().find(|(_, v)| !(v.is_finite() && *v >= 0.0)) {
            return wrong(format!("`{name}` is {value}; expected a number from 0 up"));
        }
        if t.lr == 0.0 {
            return wrong("`lr` is 0: nothing would be learned".into());
        }
        Ok(())
    }
}

impl TrainConfig {
    /// The learning rate of a step, counted from 0.
    pub fn lr_at(&self, step: u64) -> f64 {
        let (at, steps) = ((step + 1) as f64, self.steps.max(1) as f64);
        let rise = self.warmup * steps;
        if at < rise {
            return self.lr * at / rise;
        }
        let done = ((at - rise) / (steps - rise).max(1.0)).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.lr * (self.decay_to + (1.0 - self.decay_to) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls_as_it_says() {
        let config =
            TrainConfig { steps: 100, lr: 2.0, warmup: 0.1, decay_to: 0.1, ..TrainConfig::default() };
        // a tenth of the way up; the top; half way down: 2 (0.1 + 0.9 / 2); the end: a tenth
        for (step, lr) in [(0, 0.2), (9, 2.0), (54, 1.1), (99, 0.2)] {
            assert!((config.lr_at(step) - lr).abs() < 1e-12, "{step}: {}", config.lr_at(step));
        }
    }

    #[test]
    fn a_file_that_cannot_be_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        for (text, why) in [
            ("[model]\nheads = 3\n", "`heads` 3 does not divide `d_model` 256"),
            ("[model]\nheads = 4\nkv_heads = 3\n", "`kv_heads` 3 does not divide `heads` 4"),
            ("[model]\nmixers = []\n", "`mixers` is empty"),
            (
                "[model]\nlayers = 1\nmixers = [\"aaren\", \"based\"]\n",
                "`mixers` names 2, the model has `layers` 1",
            ),
            ("[model]\nvocab = 64\n", "texts are bytes and need 256"),
            ("[model]\nlayers = 1000000\n", "`layers` is 1000000; expected 1024 at most"),
            ("[model]\nd_ff = 99999999999\n", "`d_ff` is 99999999999"),
            ("[train]\nlr = -1.0\n", "`lr` is -1; expected a number from 0 up"),
            ("[train]\nwarmup = 2.0\n", "`warmup` is 2; expected 0 to 1"),
            ("[train]\nbatch = 0\n", "`batch` is 0; expected 1"),
            ("[train]\nstep = 3\n", "unknown field `step`"),
            ("[train]\nsteps = 0\n", "`steps` is 0"),
            ("[train]\nbetas = [1.0, 0.95]\n", "`betas` must be below 1"),
            ("[train]\neps = 0.0\n", "`eps` above 0"),
            ("from = \"x.gguf\"\n[model]\nlayers = 3\n", "leave out `[model]`"),
            ("[train]\nevaluate_windows = 0\n", "`evaluate_windows` is 0"),
            ("[train]\nbatch = 16777216\n", "a pass of 4294967296 tokens"),
            ("[model\n", "at byte"),
            ("[train]\nlr = 0.0\n", "`lr` is 0: nothing would be learned"),
            ("[train]\nlr = nan\n", "`lr` is NaN"),
        ] {
            let path = folder.path().join("run.toml");
            std::fs::write(&path, text).unwrap();
            let error = RunConfig::read(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        std::fs::write(folder.path().join("bad"), [b'a', 0xff]).unwrap();
        let error = RunConfig::read(&folder.path().join("bad")).unwrap_err().to_string();
        assert!(error.contains("not UTF-8 (at byte 1)"), "{error}");
    }
}
