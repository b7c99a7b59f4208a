//! `eunoe-lab bench mqar`: recall against bytes of state.

use std::path::{Path, PathBuf};

use anyhow::Result;
use eunoe_lab::bench::mqar::{self, Line, Record, Report, Settings};
use eunoe_lab::bench::{Manifest, Page as _, Workers};
use eunoe_lab::device::Devices;
use eunoe_lab::streams::MqarShape;
use serde::Serialize;

use super::AtATime;
use crate::commands::bars::Bars;
use crate::commands::out;

/// Measure how much of a context mixers find again, against the bytes they keep; the same command goes on after a stop
#[derive(Debug, clap::Args)]
#[command(after_help = format!(
    "Without options:\n{}\nWith --quick:\n{}", told(&Settings::default()), told(&Settings::quick())
))]
pub(crate) struct Args {
    /// Folder of the results and the report
    #[arg(long)]
    out: PathBuf,
    /// Phrases of mixers, `;` between them
    #[arg(long, value_delimiter = ';', value_name = "PHRASES")]
    mixers: Option<Vec<String>>,
    /// A grid of minutes instead of hours; options below change either
    #[arg(long)]
    quick: bool,
    /// Tokens of the vocabulary
    #[arg(long)]
    vocab: Option<usize>,
    /// Tokens and pairs of the texts, e.g. `64:4,128:16`
    #[arg(long, value_delimiter = ',', value_parser = shape, value_name = "T:N")]
    shapes: Option<Vec<MqarShape>>,
    /// Width of the models
    #[arg(long)]
    d_model: Option<usize>,
    /// Heads of mixers that have heads
    #[arg(long)]
    heads: Option<usize>,
    /// Sequences to learn from, as many of each shape
    #[arg(long)]
    examples: Option<usize>,
    /// Sequences per shape to choose the rate by and to stop by
    #[arg(long)]
    valid: Option<usize>,
    /// Sequences per shape to measure on
    #[arg(long)]
    test: Option<usize>,
    /// Sequences per step
    #[arg(long)]
    batch: Option<usize>,
    /// Passes over the sequences, at most
    #[arg(long)]
    epochs: Option<usize>,
    /// Accuracy of every shape at which training stops
    #[arg(long)]
    stop_at: Option<f64>,
    /// Learning rates to choose from
    #[arg(long, value_delimiter = ',')]
    lrs: Option<Vec<f64>>,
    /// Trainings per rate
    #[arg(long)]
    seeds: Option<u64>,
    #[command(flatten)]
    at_a_time: AtATime,
}

/// Settings as options.
fn told(settings: &Settings) -> String {
    let Settings { vocab, d_model, heads, examples, valid, test, batch, epochs, stop_at, seeds, .. } =
        settings;
    let shapes: Vec<String> = settings.shapes.iter().map(|s| format!("{}:{}", s.t, s.pairs)).collect();
    format!(
        "  --mixers '{}'
  --vocab {vocab} --shapes {} --d-model {d_model} --heads {heads} --examples {examples} --valid {valid} --test {test}
  --batch {batch} --epochs {epochs} --stop-at {stop_at} --lrs {} --seeds {seeds}",
        settings.mixers.join("; "),
        shapes.join(","),
        super::joined(&settings.lrs),
    )
}

fn shape(text: &str) -> Result<MqarShape, String> {
    let parsed = text.split_once(':').and_then(|(t, pairs)| Some((t.parse().ok()?, pairs.parse().ok()?)));
    let (t, pairs) =
        parsed.ok_or_else(|| format!("expected tokens and pairs such as `64:4`, got `{text}`"))?;
    Ok(MqarShape { t, pairs })
}

impl Args {
    fn settings(&self) -> Settings {
        let base = Settings::preset(self.quick);
        Settings {
            mixers: super::phrases(self.mixers.as_deref()).unwrap_or(base.mixers),
            vocab: self.vocab.unwrap_or(base.vocab),
            shapes: self.shapes.clone().unwrap_or(base.shapes),
            d_model: self.d_model.unwrap_or(base.d_model),
            heads: self.heads.unwrap_or(base.heads),
            examples: self.examples.unwrap_or(base.examples),
            valid: self.valid.unwrap_or(base.valid),
            test: self.test.unwrap_or(base.test),
            batch: self.batch.unwrap_or(base.batch),
            epochs: self.epochs.unwrap_or(base.epochs),
            stop_at: self.stop_at.unwrap_or(base.stop_at),
            lrs: self.lrs.clone().unwrap_or(base.lrs),
            seeds: self.seeds.unwrap_or(base.seeds),
        }
    }
}

#[derive(Serialize)]
struct Done {
    report: String,
    lines: Vec<Line>,
}

/// Trains what is not yet there, with bars.
///
/// # Errors
/// Those of [`mqar::run`].
pub(super) fn grid(
    settings: &Settings,
    dir: &Path,
    workers: Workers<'_>,
) -> Result<(Manifest<Record>, Vec<Line>)> {
    settings.check()?;
    let bars = Bars::new(settings.cells().len(), settings.steps(), workers.count)?;
    let done = mqar::run(settings, dir, workers, &bars)?;
    bars.clear()?;
    Ok(done)
}

/// Runs the command.
///
/// # Errors
/// Those of [`mqar::run`], and a report that cannot be written.
pub(crate) fn run(args: &Args, devices: &Devices, json: bool) -> Result<()> {
    let settings = args.settings();
    let (manifest, lines) = grid(&settings, &args.out, args.at_a_time.on(devices))?;
    let report = Report::new(&manifest, &lines)?;
    let path = report.write(&args.out)?;
    if json {
        return out::json(&Done { report: path.display().to_string(), lines });
    }
    for best in &report.best {
        let scores = (0..settings.shapes.len()).map(|at| format!("{:.3}", best.accuracy(at).0));
        let scores = scores.collect::<Vec<_>>().join("  ");
        out::line(&format!("{:32} {scores}", best.mixer))?;
    }
    out::line(&format!("`{}`", path.display()))
}
