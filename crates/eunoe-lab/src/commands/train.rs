//! `eunoe-lab train`: one run, from its file.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use candle_core::Device;
use eunoe_lab::train::{self, Progress, Row, RunConfig};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::out;

/// Train a model; the same command goes on after a stop
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run's file: [model], [data], [train]
    config: PathBuf,
    /// Folder of the checkpoint and the metrics
    #[arg(long)]
    out: PathBuf,
}

#[derive(Serialize)]
struct Done {
    steps: u64,
    loss: f64,
    held_out: Option<f64>,
    checkpoint: String,
}

/// Runs the command.
///
/// # Errors
/// Those of [`train::train`], and an output folder that cannot be written.
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let config = RunConfig::read(&args.config)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    let mut told = Told::new(&config, &args.out)?;
    train::train(&config, &args.out, &Device::Cpu, &mut told)?;
    told.bar.finish_and_clear();
    let last = told.last;
    let done = Done {
        steps: config.train.steps,
        loss: last.map_or(f64::NAN, |row| row.loss),
        held_out: last.and_then(|row| row.held_out),
        checkpoint: args.out.join("last.safetensors").display().to_string(),
    };
    if json {
        return out::json(&done);
    }
    let held_out = done.held_out.map_or(String::new(), |loss| format!(", {loss:.4} on what was held out"));
    out::line(&format!(
        "{} steps: {:.4} nats per token{held_out}; `{}`",
        done.steps, done.loss, done.checkpoint
    ))
}

/// A bar on standard error, and a line of `metrics.csv` per step.
struct Told {
    bar: ProgressBar,
    file: File,
    path: PathBuf,
    last: Option<Row>,
}

impl Told {
    fn new(config: &RunConfig, folder: &Path) -> Result<Self> {
        let path = folder.join("metrics.csv");
        let is_new = !path.exists();
        let mut file = File::options().create(true).append(true).open(&path)?;
        if is_new {
            writeln!(file, "step,loss,held_out,lr,grad_norm,tokens_per_s")?;
        }
        let style = "{bar:30} {pos}/{len} {msg}, {eta} left";
        let bar = ProgressBar::new(config.train.steps).with_style(ProgressStyle::with_template(style)?);
        Ok(Self { bar, file, path, last: None })
    }
}

impl Progress for Told {
    fn row(&mut self, row: &Row) -> eunoe_core::Result<bool> {
        let held_out = row.held_out.map_or(String::new(), |loss| loss.to_string());
        let Row { step, loss, lr, grad_norm, tokens_per_s, .. } = row;
        writeln!(self.file, "{step},{loss},{held_out},{lr},{grad_norm},{tokens_per_s:.0}")
            .map_err(|error| eunoe_core::Error::io(&self.path, error))?;
        self.bar.set_position(*step);
        self.bar.set_message(format!("loss {loss:.4}, {tokens_per_s:.0} tokens/s"));
        self.last = Some(*row);
        Ok(true)
    }
}
