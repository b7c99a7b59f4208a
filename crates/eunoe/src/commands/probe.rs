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
use crate::{models, open, out, profiles, progress};

/// Tokens of the texts where none are asked for.
const LENGTHS: [usize; 3] = [500, 1000, 2000];

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

    /// Tokens of the texts [default: 500,1000,2000, or those of them that the model's context holds]
    #[arg(long, value_name = "N,..", value_delimiter = ',',
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
    let sha256 = open::sha256(&file)?;
    let name = models::name_of(&file, &sha256);
    let engine = open::engine(&args.model.model, false, ctx)?;
    let asked: Vec<usize> = args.lengths.iter().map(|n| *n as usize).collect();
    let (lengths, note) = lengths(asked, engine.config().context);
    if let Some(note) = note {
        eprintln!("note: {note}");
    }
    let settings =
        Settings { text: &text, lengths: &lengths, depths: &args.depths, seeds: args.seeds.into() };
    let bar = progress::bar("reading", settings.texts() as u64, "texts");
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

/// The lengths asked for, or else those of the default that the model's context holds (where it holds none, a text as
/// long as it), and what to say of the others.
fn lengths(asked: Vec<usize>, context: usize) -> (Vec<usize>, Option<String>) {
    if !asked.is_empty() {
        return (asked, None);
    }
    let mut lengths = LENGTHS.to_vec();
    lengths.retain(|n| *n <= context);
    if lengths.len() == LENGTHS.len() {
        return (lengths, None);
    }
    if lengths.is_empty() {
        lengths.push(context);
    }
    let list = |lengths: &[usize]| lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let (read, usual) = (list(&lengths), list(&LENGTHS));
    let note = format!("the model's context is {context} tokens: texts of {read} are read, not of {usual}");
    (lengths, Some(note))
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
         the same heads at other seeds: overlap {}\n",
        c.n,
        interval(&c.whole),
        c.heads,
        interval(&c.without_best),
        c.heads,
        interval(&c.without_random),
        report.stability.map_or("-".into(), |overlap| format!("{overlap:.2}"))
    );
    if let Some(path) = saved {
        text += &format!("saved for `duo_attention` and `razor_attention`: {}\n", path.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use eunoe_engine::probes::retrieval_heads::{Best, Check};
    use eunoe_kv::Profile;

    use super::*;

    fn report(stability: Option<f64>) -> Report {
        let share = |mean| Share { mean, interval: [mean, mean] };
        let (whole, without_best, without_random) = (share(1.0), share(0.25), share(0.9));
        Report {
            profile: Profile {
                model: "small".into(),
                sha256: "0".repeat(64),
                layers: 1,
                heads: 4,
                kv_heads: 2,
                retrieval: vec![0.0, 0.5, 0.0, 0.0],
                induction: vec![0.0, 0.75, 0.1, 0.0],
                echo: vec![0.0; 4],
                sink: vec![0.5, 0.25, 0.0, 0.0],
                streaming: vec![0.9, 0.3, 1.0, 1.0],
                found: [3, 4],
            },
            best: vec![Best { layer: 0, head: 1, retrieval: 0.5, induction: 0.75 }],
            share_retrieving: 0.25,
            share_zero: 0.75,
            stability,
            check: Check { n: 3, heads: 1, whole, without_best, without_random },
        }
    }

    #[test]
    fn what_was_found_is_told() {
        let text = render(&report(Some(0.5)), None);
        let start = "3 of 4 planted sentences repeated; 25 % of 4 heads retrieve (score at least 0.1), 75 % not \
                     at all\n2 heads continue repetitions (induction at least 0.1), 1 put half of their attention \
                     on the first four tokens,\n3 put nine tenths on those and the newest 256\n\n";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("\n0      1     0.50       0.75       0.25\n"), "{text}");
        assert!(text.contains("\n  without these 1             25 % (25 % … 25 %)\n"), "{text}");
        assert!(text.ends_with("\nthe same heads at other seeds: overlap 0.50\n"), "{text}");
    }

    #[test]
    fn one_seed_overlaps_with_none() {
        let report = report(None);
        assert!(render(&report, None).ends_with("at other seeds: overlap -\n"));
        let json = serde_json::to_value(Printed { report: &report, saved: None }).unwrap();
        assert!(json["stability"].is_null());
    }

    #[test]
    fn default_lengths_fit_the_model_and_others_are_as_asked() {
        assert_eq!(lengths(vec![4000], 2048), (vec![4000], None));
        assert_eq!(lengths(vec![], 2000), (vec![500, 1000, 2000], None));
        let (short, note) = lengths(vec![], 1999);
        assert_eq!(short, [500, 1000]);
        let said = "the model's context is 1999 tokens: texts of 500, 1000 are read, not of 500, 1000, 2000";
        assert_eq!(note.as_deref(), Some(said));
        let (shortest, note) = lengths(vec![], 256);
        assert_eq!(shortest, [256]);
        assert!(note.is_some());
    }
}
