//! `eunoe-lab bench throughput`: what a token costs at which length.

use std::path::{Path, PathBuf};

use anyhow::Result;
use eunoe_lab::bench::throughput::{self, Report, Row, Settings};
use eunoe_lab::bench::{Manifest, Page as _, Workers};
use eunoe_lab::device::Devices;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::commands::out;

/// Measure what a token costs a mixer against the length of the text, in training and in decode; with `--out` the same command
/// goes on after a stop
#[derive(Debug, clap::Args)]
#[command(after_help = format!(
    "Without options:\n{}\nWith --quick:\n{}", told(&Settings::default()), told(&Settings::quick())
))]
pub(crate) struct Args {
    /// A minute instead of a quarter of an hour; options below change either
    #[arg(long)]
    quick: bool,
    /// Phrases of mixers, `;` between them
    #[arg(long, value_delimiter = ';', value_name = "PHRASES")]
    mixers: Option<Vec<String>>,
    /// Width of the stream
    #[arg(long)]
    d_model: Option<usize>,
    /// Heads
    #[arg(long)]
    heads: Option<usize>,
    /// Lengths of texts in training
    #[arg(long, value_delimiter = ',')]
    lengths: Option<Vec<usize>>,
    /// Tokens of a batch in training
    #[arg(long)]
    tokens: Option<usize>,
    /// Positions that decode continues from
    #[arg(long, value_delimiter = ',')]
    positions: Option<Vec<usize>>,
    /// Measurements of each; the median counts
    #[arg(long)]
    turns: Option<usize>,
    /// Folder of the results and the report; without one the report is printed
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Settings as options.
fn told(settings: &Settings) -> String {
    let Settings { mixers, d_model, heads, lengths, tokens, positions, turns } = settings;
    format!(
        "  --mixers '{}'
  --d-model {d_model} --heads {heads} --lengths {} --tokens {tokens} --positions {} --turns {turns}",
        mixers.join("; "),
        super::joined(lengths),
        super::joined(positions),
    )
}

impl Args {
    fn settings(&self) -> Settings {
        let base = Settings::preset(self.quick);
        Settings {
            mixers: super::phrases(self.mixers.as_deref()).unwrap_or(base.mixers),
            d_model: self.d_model.unwrap_or(base.d_model),
            heads: self.heads.unwrap_or(base.heads),
            lengths: self.lengths.clone().unwrap_or(base.lengths),
            tokens: self.tokens.unwrap_or(base.tokens),
            positions: self.positions.clone().unwrap_or(base.positions),
            turns: self.turns.unwrap_or(base.turns),
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    settings: &'a Settings,
    rows: &'a [Row],
    slopes: Vec<(&'a str, Option<f64>)>,
}

/// Measures, with a bar: what is not yet in a folder, or all of it.
///
/// # Errors
/// Those of [`throughput::run`] and [`throughput::measure`].
pub(super) fn grid(
    settings: &Settings,
    dir: Option<&Path>,
    devices: &Devices,
) -> Result<(Manifest<Settings>, Vec<Row>)> {
    let count = settings.mixers.len() * (settings.lengths.len() + settings.positions.len());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?;
    let bar = ProgressBar::new(count as u64).with_style(style);
    let mut told = |row: &Row| {
        bar.inc(1);
        bar.set_message(format!("{}, {:?} at {}", row.mixer, row.kind, row.at).to_lowercase());
    };
    let workers = Workers { count: 1, devices };
    let measured = match dir {
        Some(dir) => throughput::run(settings, dir, workers, &mut told)?,
        None => {
            let rows = throughput::measure(settings, &devices.one()?, &mut told)?;
            (Manifest::here("throughput", settings.clone(), workers), rows)
        }
    };
    bar.finish_and_clear();
    Ok(measured)
}

/// Runs the command.
///
/// # Errors
/// Those of the measurement.
pub(crate) fn run(args: &Args, devices: &Devices, json: bool) -> Result<()> {
    let (manifest, rows) = grid(&args.settings(), args.out.as_deref(), devices)?;
    let report = Report::new(&manifest, &rows)?;
    let path = args.out.as_ref().map(|dir| report.write(dir)).transpose()?;
    if json {
        let settings = &manifest.settings;
        let slopes = settings.mixers.iter().map(|mixer| (mixer.as_str(), throughput::slope(&rows, mixer)));
        return out::json(&Document { settings, rows: &rows, slopes: slopes.collect() });
    }
    match path {
        Some(path) => out::line(&format!("`{}`", path.display())),
        None => out::line(report.markdown().trim_end()),
    }
}
