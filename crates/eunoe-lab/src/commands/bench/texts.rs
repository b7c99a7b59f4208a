//! `eunoe-lab bench books`, `sinks`, `chorales`: language models of bytes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use eunoe_lab::bench::texts::{self, Line, Record, Report, Settings, Texts};
use eunoe_lab::bench::{Manifest, Page as _, Workers};
use eunoe_lab::device::Devices;
use eunoe_lab::streams::{self, Text};
use serde::Serialize;

use super::AtATime;
use crate::commands::bars::Bars;
use crate::commands::out;

/// Language models of books, byte by byte: what each pattern of mixers loses at equal parameters, steps and search
#[derive(Debug, clap::Args)]
#[command(after_help = presets(&Settings::books()) + "
Examples:
  eunoe-lab bench books --train a.txt b.txt --valid c.txt --test d.txt --out books --device cuda
  eunoe-lab bench books --train a.txt --valid b.txt --test c.txt --out small --steps 300 --batch 8 --seq-len 256 \\
      --patterns 'softmax_attention; gated_conv + based'")]
pub(crate) struct Books {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    options: Options,
}

/// When attention sinks emerge: the share of heads that attend to the first token, over training
#[derive(Debug, clap::Args)]
#[command(after_help = presets(&Settings::sinks()))]
pub(crate) struct Sinks {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    options: Options,
}

/// Chorales for four voices, note by note: relative positions beside rotary ones
#[derive(Debug, clap::Args)]
#[command(after_help = presets(&Settings::chorales()))]
pub(crate) struct Chorales {
    /// JSON with `train`, `valid`, `test`: lists of pieces, a piece a list of frames, a frame up to four MIDI pitches
    #[arg(long)]
    file: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// A preset in both forms.
fn presets(settings: &Settings) -> String {
    format!("Without options:\n{}\nWith --quick:\n{}", told(settings), told(&settings.clone().quick()))
}

/// A preset as options.
fn told(settings: &Settings) -> String {
    let Settings { model, train, seeds, points, beyond, .. } = settings;
    format!(
        "  --patterns '{}'
  --d-model {} --layers {} --heads {} --d-ff {} --steps {} --batch {} --seq-len {}
  --lrs {} --weight-decay {} --seeds {seeds} --points {points} --beyond {beyond}
",
        settings.patterns.join("; "),
        model.d_model,
        model.layers,
        model.heads,
        model.d_ff,
        train.steps,
        train.batch,
        train.seq_len,
        super::joined(&settings.lrs),
        train.weight_decay,
    )
}

#[derive(Debug, clap::Args)]
pub(super) struct Files {
    /// Texts to learn from
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    train: Vec<PathBuf>,
    /// Texts to choose the rate by, never learned from
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    valid: Vec<PathBuf>,
    /// Texts to measure on, never learned from nor chosen by
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    test: Vec<PathBuf>,
    /// Put this byte, 2 say, before every window, as models put a token of their own before every text
    #[arg(long, value_name = "BYTE")]
    bos: Option<u8>,
}

/// What changes a preset.
#[derive(Debug, clap::Args)]
struct Options {
    /// Folder of the results and the report
    #[arg(long)]
    out: PathBuf,
    /// Small models and few steps; what takes time is to measure long texts. Options below change either
    #[arg(long)]
    quick: bool,
    /// Patterns of mixers, `;` between them: a phrase per layer with `+` between, repeated; the first is the reference
    #[arg(long, value_delimiter = ';')]
    patterns: Option<Vec<String>>,
    /// Width of the models
    #[arg(long)]
    d_model: Option<usize>,
    /// Layers
    #[arg(long)]
    layers: Option<usize>,
    /// Heads of mixers that have heads
    #[arg(long)]
    heads: Option<usize>,
    /// Width of the reference's MLPs; those of the others follow from its parameters
    #[arg(long)]
    d_ff: Option<usize>,
    /// Steps of each training
    #[arg(long)]
    steps: Option<u64>,
    /// Windows per step
    #[arg(long)]
    batch: Option<usize>,
    /// Symbols per window
    #[arg(long)]
    seq_len: Option<usize>,
    /// Learning rates to choose from
    #[arg(long, value_delimiter = ',')]
    lrs: Option<Vec<f64>>,
    /// Pull of weights to 0
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Trainings at the best rate
    #[arg(long)]
    seeds: Option<u64>,
    /// Measurements during each training
    #[arg(long)]
    points: Option<u64>,
    /// Test texts are read on to this many windows from one start
    #[arg(long)]
    beyond: Option<usize>,
    #[command(flatten)]
    at_a_time: AtATime,
}

impl Options {
    fn on(&self, base: Settings) -> Settings {
        let base = if self.quick { base.quick() } else { base };
        let mut settings = Settings {
            patterns: super::phrases(self.patterns.as_deref()).unwrap_or(base.patterns),
            lrs: self.lrs.clone().unwrap_or(base.lrs),
            seeds: self.seeds.unwrap_or(base.seeds),
            points: self.points.unwrap_or(base.points),
            beyond: self.beyond.unwrap_or(base.beyond),
            ..base
        };
        let (model, train) = (&mut settings.model, &mut settings.train);
        let sizes = [
            (&mut model.d_model, self.d_model),
            (&mut model.layers, self.layers),
            (&mut model.heads, self.heads),
            (&mut model.d_ff, self.d_ff),
            (&mut train.batch, self.batch),
            (&mut train.seq_len, self.seq_len),
        ];
        for (size, given) in sizes {
            *size = given.unwrap_or(*size);
        }
        train.steps = self.steps.unwrap_or(train.steps);
        train.weight_decay = self.weight_decay.unwrap_or(train.weight_decay);
        settings
    }

    /// Runs a grid and writes its report.
    fn run(&self, base: Settings, texts: &Texts, devices: &Devices, json: bool) -> Result<()> {
        let settings = self.on(base);
        let (manifest, lines) = grid(&settings, texts, &self.out, self.at_a_time.on(devices))?;
        let report = Report::new(&manifest, &lines)?;
        let path = report.write(&self.out)?;
        if json {
            return out::json(&Done { report: path.display().to_string(), lines });
        }
        for best in &report.best {
            let (mean, sd) = best.test();
            let sd = sd.map_or(String::new(), |sd| format!(" ± {sd:.3}"));
            let told = match mean.is_finite() {
                true => format!("{mean:.3}{sd} {} per {}", settings.unit.name(), settings.symbol),
                false => "diverged".into(),
            };
            out::line(&format!("{:56} {told}", best.pattern))?;
        }
        out::line(&format!("`{}`", path.display()))
    }
}

/// Trains what is not yet there, with bars.
///
/// # Errors
/// Those of [`texts::run`].
pub(super) fn grid(
    settings: &Settings,
    texts: &Texts,
    dir: &Path,
    workers: Workers<'_>,
) -> Result<(Manifest<Record>, Vec<Line>)> {
    settings.check()?;
    let bars = Bars::new(settings.trainings(), settings.train.steps, workers.count)?;
    let done = texts::run(settings, texts, dir, workers, &bars)?;
    bars.clear()?;
    Ok(done)
}

#[derive(Serialize)]
struct Done {
    report: String,
    lines: Vec<Line>,
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// A file in two lists, and one that cannot be read.
    pub(super) fn read(&self) -> Result<Texts> {
        streams::apart(&[("--train", &self.train), ("--valid", &self.valid), ("--test", &self.test)])?;
        let read = |files: &[PathBuf]| -> Result<(Text, String)> {
            let name = |file: &PathBuf| file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = Text::read(files, None, 0)?.with_bos(self.bos.map(u32::from));
            Ok((text, files.iter().map(name).collect::<Vec<_>>().join(", ")))
        };
        Ok(Texts::new([read(&self.train)?, read(&self.valid)?, read(&self.test)?]))
    }
}

/// Runs the command.
///
/// # Errors
/// Those of [`texts::run`], and a report that cannot be written.
pub(crate) fn books(args: &Books, devices: &Devices, json: bool) -> Result<()> {
    args.options.run(Settings::books(), &args.files.read()?, devices, json)
}

/// Runs the command.
///
/// # Errors
/// Those of [`texts::run`], and a report that cannot be written.
pub(crate) fn sinks(args: &Sinks, devices: &Devices, json: bool) -> Result<()> {
    args.options.run(Settings::sinks(), &args.files.read()?, devices, json)
}

/// Runs the command.
///
/// # Errors
/// Those of [`texts::run`] and of [`streams::Chorales::read`], and a report that cannot be written.
pub(crate) fn chorales(args: &Chorales, devices: &Devices, json: bool) -> Result<()> {
    args.options.run(Settings::chorales(), &pieces(&args.file)?, devices, json)
}

/// Chorales as texts.
///
/// # Errors
/// Those of [`streams::Chorales::read`].
pub(super) fn pieces(file: &Path) -> Result<Texts> {
    let all = streams::Chorales::read(file)?;
    let part = |pieces: &[Vec<u8>]| -> Result<(Text, String)> {
        Ok((Text::new(pieces.concat(), 0)?, format!("{} pieces", pieces.len())))
    };
    Ok(Texts::new([part(&all.train)?, part(&all.valid)?, part(&all.test)?]))
}
