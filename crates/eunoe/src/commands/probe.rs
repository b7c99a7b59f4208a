//! `eunoe probe`: what goes on inside a model.

use std::path::PathBuf;

use anyhow::Result;
use eunoe_engine::probes::retrieval_heads::{Report, Settings, Share, detect};
use serde::Serialize;

use super::demo;
use super::options::ModelOption;
use super::run::read_text;
use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::{models, open, out, profiles, progress, pull};

/// Look into a model while it reads
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    probe: Probe,
}

#[derive(Debug, clap::Subcommand)]
enum Probe {
    #[command(name = "retrieval_heads")]
    RetrievalHeads(RetrievalHeads),
}

/// Find the heads that copy from far back, and save what `duo_attention` and `razor_attention` need
///
/// Sentences are planted in a text, and each head is scored by how much of them it copies when they are asked for;
/// random tokens are repeated to find heads that continue repetitions. Then the best twentieth of the heads is taken
/// away, and as many others: the first should hurt far more. Takes minutes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe probe retrieval_heads -m smollm2-135m
  eunoe probe retrieval_heads -m model.gguf --file novel.txt --lengths 1000,4000 --json")]
pub struct RetrievalHeads {
    #[command(flatten)]
    model: ModelOption,

    /// Text in which sentences are planted [default: a story of 11,000 tokens]
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,

    /// Tokens of the texts
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "500,1000,2000",
          value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    lengths: Vec<u32>,

    /// Where sentences are planted, from 0 (begin) to 1
    #[arg(long, value_name = "X,..", value_delimiter = ',', default_value = "0.1,0.3,0.5,0.7,0.9",
          value_parser = share)]
    depths: Vec<f64>,

    /// Repetitions with other sentences and places
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=100))]
    seeds: u8,

    /// Only print; leave the saved profile as it is
    #[arg(long)]
    dry_run: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(x) if (0.0..=1.0).contains(&x) => Ok(x),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

/// What `probe retrieval_heads --json` prints.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    #[serde(flatten)]
    report: &'a Report,
    saved: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A model or text that cannot be read, no sentence that the model repeats, or a profile that cannot be written.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let Probe::RetrievalHeads(args) = &args.probe;
    let interrupt = Interrupt::watch()?;
    let text = args.file.as_deref().map_or_else(|| Ok(demo::TEXT.to_owned()), read_text)?;
    let file = open::file(&args.model.model)?;
    let sha256 = pull::sha256(&file)?;
    let known = models::MODELS.iter().find(|m| m.sha256 == sha256).map(|m| m.name.to_owned());
    let name = known.unwrap_or_else(|| file.file_stem().unwrap_or_default().to_string_lossy().into_owned());
    let engine = open::engine(&args.model.model, false, ctx)?;
    let lengths: Vec<usize> = args.lengths.iter().map(|n| *n as usize).collect();
    let samples = lengths.len() * args.depths.len() * usize::from(args.seeds);
    let bar = progress::bar("reading", samples as u64, "texts");
    let settings =
        Settings { text: &text, lengths: &lengths, depths: &args.depths, seeds: args.seeds.into() };
    let report = detect(&engine, &name, &sha256, &settings, &mut |read| {
        bar.set_position(read as u64);
        !interrupt.asked()
    })?;
    bar.finish_and_clear();
    let saved = if args.dry_run { None } else { Some(profiles::save(&report.profile)?) };
    if ctx.json {
        out::json(&Printed { report: &report, saved })
    } else {
        out::text(&render(&report, saved.as_ref()))
    }
}

fn render(report: &Report, saved: Option<&PathBuf>) -> String {
    let (p, c) = (&report.profile, &report.check);
    let count = |scores: &[f32], least: f32| scores.iter().filter(|s| **s >= least).count();
    let percent = |x: f64| format!("{:.0} %", 100.0 * x);
    let mut text = format!(
        "{} of {} planted sentences repeated; {} of {} heads retrieve (score at least 0.1), {} not at all\n\
         {} heads continue repetitions (induction at least 0.1), {} put half of their attention on the first four \
         tokens,\n{} put nine tenths on those and the newest 256\n\n",
        p.found[0],
        p.found[1],
        percent(report.share_retrieving),
        p.retrieval.len(),
        percent(report.share_zero),
        count(&p.induction, 0.1),
        count(&p.sink, 0.5),
        count(&p.streaming, 0.9),
    );
    let mut rows = vec![["layer", "head", "retrieval", "induction", "sink"].map(String::from)];
    let score = |x: f32| format!("{x:.2}");
    rows.extend(report.best.iter().map(|b| {
        let sink = p.sink[b.layer * p.heads + b.head];
        [b.layer.to_string(), b.head.to_string(), score(b.retrieval), score(b.induction), score(sink)]
    }));
    text += &out::columns(&rows);
    let interval =
        |s: &Share| format!("{} ({} … {})", percent(s.mean), percent(s.interval[0]), percent(s.interval[1]));
    text += &format!(
        "\nof the planted words the model writes (mean of {} texts, 95 % interval)\n  \
         with all heads              {}\n  without these {:<3}           {}\n  without {:<3} others, random  {}\n\
         the same heads at other seeds: overlap {:.2}\n",
        c.n,
        interval(&c.whole),
        c.heads,
        interval(&c.without_best),
        c.heads,
        interval(&c.without_random),
        report.stability
    );
    if let Some(path) = saved {
        text += &format!("saved for `duo_attention` and `razor_attention`: {}\n", path.display());
    }
    text
}
