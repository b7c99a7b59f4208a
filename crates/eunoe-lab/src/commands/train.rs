//! `eunoe-lab train`: one run, from its file.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
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
    /// Of the last step; `None` where all were taken before.
    loss: Option<f64>,
    held_out: Option<f64>,
    checkpoint: String,
}

/// Runs the command.
///
/// # Errors
/// Those of [`train::train`], and an output folder that cannot be written.
pub(crate) fn run(args: &Args, device: &Device, json: bool) -> Result<()> {
    let config = RunConfig::read(&args.config)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make `{}`", args.out.display()))?;
    let lock = File::open(&args.out)?;
    if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
        bail!("`{}` is being written to by another run", args.out.display());
    }
    let mut told = Told::new(&config, &args.out)?;
    let trained = train::train(&config, &args.out, device, &mut told);
    told.bar.finish_and_clear();
    if matches!(trained, Err(eunoe_core::Error::Interrupted)) {
        told.page(&config)?;
        let step = told.last.map_or(0, |row| row.step);
        out::note(&format!("stopped after step {step}, which is saved: the same command goes on"));
        std::process::exit(130);
    }
    trained?;
    told.page(&config)?;
    let done = Done {
        steps: config.train.steps,
        loss: told.last.map(|row| row.loss),
        held_out: told.last.and_then(|row| row.held_out),
        checkpoint: args.out.join(train::CHECKPOINT).display().to_string(),
    };
    if json {
        return out::json(&done);
    }
    let steps = match done.loss {
        Some(loss) => format!("{} steps: {loss:.4} nats per token", done.steps),
        None => format!("all {} steps were taken before", done.steps),
    };
    let held_out = done.held_out.map_or(String::new(), |loss| format!(", {loss:.4} on what was held out"));
    out::line(&format!("{steps}{held_out}; `{}`", done.checkpoint))
}

const HEADER: &str = "step,loss,held_out,lr,grad_norm,tokens_per_s\n";

/// A bar on standard error, and a line of `metrics.csv` per step.
struct Told {
    bar: ProgressBar,
    path: PathBuf,
    file: Option<File>,
    last: Option<Row>,
    stop: Arc<AtomicBool>,
}

impl Told {
    fn new(config: &RunConfig, folder: &Path) -> Result<Self> {
        let style = "{bar:30} {pos}/{len} {msg}, {eta} left";
        let bar = ProgressBar::new(config.train.steps).with_style(ProgressStyle::with_template(style)?);
        let stop = super::stop_asked()?;
        Ok(Self { bar, path: folder.join("metrics.csv"), file: None, last: None, stop })
    }
}

/// The header and the rows up to `step`: what a kill left behind the last checkpoint, a torn line too, is taken again.
fn upto(step: u64, old: &str) -> String {
    let is_kept = |line: &&str| {
        let number = line.split(',').next().and_then(|number| number.parse::<u64>().ok());
        line.ends_with('\n') && number.is_some_and(|number| number <= step)
    };
    HEADER.chars().chain(old.split_inclusive('\n').filter(is_kept).flat_map(str::chars)).collect()
}

impl Told {
    /// Writes the page of all rows that the file has; none where somebody took them away.
    fn page(&self, config: &RunConfig) -> Result<()> {
        let text =
            std::fs::read_to_string(&self.path).with_context(|| format!("`{}`", self.path.display()))?;
        let rows = rows(&text).with_context(|| format!("`{}`", self.path.display()))?;
        if rows.is_empty() {
            return Ok(());
        }
        let page = train::page(config, &rows)?;
        Ok(train::write_whole(&self.path.with_file_name("report.html"), page.as_bytes())?)
    }
}

/// The rows of a file.
fn rows(text: &str) -> Result<Vec<Row>> {
    let row = |(at, line): (usize, &str)| {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok());
        let row = (|| {
            Some(Row {
                step: fields.first()?.parse().ok()?,
                loss: number(1)?,
                held_out: number(2),
                lr: number(3)?,
                grad_norm: number(4)?,
                tokens_per_s: number(5)?,
            })
        })();
        row.with_context(|| format!("line {}: expected {}", at + 1, HEADER.trim()))
    };
    text.lines().enumerate().skip(1).map(row).collect()
}

impl Progress for Told {
    fn start(&mut self, step: u64) -> eunoe_core::Result<()> {
        let fail = |error| eunoe_core::Error::io(&self.path, error);
        let old = match std::fs::read_to_string(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            old => old.map_err(fail)?,
        };
        if !old.is_empty() && !old.starts_with(HEADER) {
            let path = self.path.display();
            let why = format!("`{path}` holds something else: give another folder");
            return Err(eunoe_core::Error::Invalid(why));
        }
        train::write_whole(&self.path, upto(step, &old).as_bytes())?;
        self.file = Some(File::options().append(true).open(&self.path).map_err(fail)?);
        self.bar.set_position(step);
        Ok(())
    }

    fn row(&mut self, row: &Row) -> eunoe_core::Result<bool> {
        let Row { step, loss, held_out, lr, grad_norm, tokens_per_s } = row;
        if let Some(file) = &mut self.file {
            let held_out = held_out.map_or(String::new(), |loss| loss.to_string());
            writeln!(file, "{step},{loss},{held_out},{lr},{grad_norm},{tokens_per_s:.0}")
                .map_err(|error| eunoe_core::Error::io(&self.path, error))?;
        }
        self.bar.set_position(*step);
        self.bar.set_message(format!("loss {loss:.4}, {tokens_per_s:.0} tokens/s"));
        let is_told =
            held_out.is_some() || step.is_multiple_of(self.bar.length().unwrap_or(0).div_ceil(20).max(1));
        if is_told && !std::io::stderr().is_terminal() {
            let held_out = held_out.map_or(String::new(), |loss| format!(", {loss:.4} on what was held out"));
            let all = self.bar.length().unwrap_or(0);
            out::note(&format!("step {step} of {all}: loss {loss:.4}{held_out}, {tokens_per_s:.0} tokens/s"));
        }
        self.last = Some(*row);
        Ok(!self.stop.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_others_are_told() {
        let text = format!("{HEADER}1,3.5,,0.1,1,9\n2,3.25,3.5,0.1,1,9\n");
        let rows = rows(&text).unwrap();
        assert_eq!(
            (rows[1].step, rows[1].loss, rows[0].held_out, rows[1].held_out),
            (2, 3.25, None, Some(3.5))
        );
        let error = super::rows(&format!("{text}3,x\n")).unwrap_err().to_string();
        assert!(error.starts_with("line 4: expected step,loss"), "{error}");
    }

    #[test]
    fn rows_behind_the_checkpoint_and_torn_ones_go() {
        let old = format!("{HEADER}1,3.5,,0.1,1,9\n2,3.25,,0.1,1,9\n3,3,,0.1,1,9\n4,2.");
        assert_eq!(upto(2, &old), format!("{HEADER}1,3.5,,0.1,1,9\n2,3.25,,0.1,1,9\n"));
        assert_eq!(upto(9, &old), format!("{HEADER}1,3.5,,0.1,1,9\n2,3.25,,0.1,1,9\n3,3,,0.1,1,9\n"));
        assert_eq!((upto(0, &old), upto(5, "")), (HEADER.to_owned(), HEADER.to_owned()));
    }
}
