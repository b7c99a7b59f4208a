//! `eunoe-lab bench throughput`: what a token costs at which length.

use anyhow::Result;
use candle_core::Device;
use eunoe_lab::bench::throughput::{self, Row, Settings};
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
pub(crate) fn run(args: &Args, device: &Device, json: bool) -> Result<()> {
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
    let rows = throughput::measure(&settings, device, &mut |row| {
        bar.inc(1);
        bar.set_message(format!("{}, {} at {}", row.mixer, row.kind, row.at));
    });
    bar.finish_and_clear();
    let rows = rows?;
    let slopes = settings.mixers.iter().map(|mixer| (mixer.as_str(), throughput::slope(&rows, mixer)));
    let slopes: Vec<_> = slopes.collect();
    if json {
        return out::json(&Document { settings: &settings, rows: &rows, slopes });
    }
    table(&settings, &rows, &slopes)
}

/// Mixers down; tokens per second at each length and position, the slope, and the state.
fn table(settings: &Settings, rows: &[Row], slopes: &[(&str, Option<f64>)]) -> Result<()> {
    let names =
        |word: &str, list: &[usize]| list.iter().map(|n| format!(" {word} {n} |")).collect::<String>();
    let (lengths, positions) = (names("T", &settings.lengths), names("at", &settings.positions));
    out::line(&format!("| mixer |{lengths} slope |{positions} state, bytes |"))?;
    out::line(&format!("|{}", "---|".repeat(3 + settings.lengths.len() + settings.positions.len())))?;
    for (mixer, slope) in slopes {
        let of = |kind| rows.iter().filter(move |row| row.mixer == **mixer && row.kind == kind);
        let speeds = |kind| of(kind).map(|row| format!(" {:.0} |", row.tokens_per_s)).collect::<String>();
        let slope = slope.map_or("-".into(), |slope| format!("{slope:.2}"));
        let bytes: Vec<String> = of("decode").map(|row| row.state_bytes.to_string()).collect();
        let (training, decode) = (speeds("training"), speeds("decode"));
        out::line(&format!("| `{mixer}` |{training} {slope} |{decode} {} |", bytes.join(", ")))?;
    }
    Ok(())
}
