//! `eunoe-lab bench throughput`: what a token costs at which length.

use std::path::PathBuf;

use anyhow::Result;
use eunoe_lab::bench::throughput::{self, Report, Row, Settings};
use eunoe_lab::bench::{Manifest, Page as _, Workers};
use eunoe_lab::device::Devices;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::commands::out;

/// Measure what a token costs a mixer against the length of the text, in training and in decode
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Phrases of mixers, `;` between them
    #[arg(
        long,
        value_delimiter = ';',
        value_name = "PHRASES",
        default_value = "softmax_attention;lightning_attention;aaren;linear_attention;based;delta_rule;titans(wiring=memory)"
    )]
    mixers: Vec<String>,
    /// Width of the stream
    #[arg(long, default_value_t = 256)]
    d_model: usize,
    /// Heads
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// Lengths of texts in training
    #[arg(long, value_delimiter = ',', default_value = "512,1024,2048,4096,8192,16384")]
    lengths: Vec<usize>,
    /// Tokens of a batch in training
    #[arg(long, default_value_t = 16384)]
    tokens: usize,
    /// Positions that decode continues from
    #[arg(long, value_delimiter = ',', default_value = "1024,4096,16384")]
    positions: Vec<usize>,
    /// Measurements of each; the median counts
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Folder of the results and the report; without one the report is printed
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document<'a> {
    settings: &'a Settings,
    rows: &'a [Row],
    slopes: Vec<(&'a str, Option<f64>)>,
}

/// Runs the command.
///
/// # Errors
/// Those of the measurement.
pub(crate) fn run(args: &Args, devices: &Devices, json: bool) -> Result<()> {
    let settings = Settings {
        mixers: args.mixers.iter().map(|phrase| phrase.trim().to_owned()).collect(),
        d_model: args.d_model,
        heads: args.heads,
        lengths: args.lengths.clone(),
        tokens: args.tokens,
        positions: args.positions.clone(),
        turns: args.turns,
    };
    let count = settings.mixers.len() * (settings.lengths.len() + settings.positions.len());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?;
    let bar = ProgressBar::new(count as u64).with_style(style);
    let mut told = |row: &Row| {
        bar.inc(1);
        bar.set_message(format!("{}, {:?} at {}", row.mixer, row.kind, row.at).to_lowercase());
    };
    let workers = Workers { count: 1, devices };
    let (manifest, rows) = match &args.out {
        Some(dir) => throughput::run(&settings, dir, workers, &mut told)?,
        None => {
            let rows = throughput::measure(&settings, &devices.one()?, &mut told)?;
            (Manifest::here("throughput", settings, workers), rows)
        }
    };
    bar.finish_and_clear();
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
