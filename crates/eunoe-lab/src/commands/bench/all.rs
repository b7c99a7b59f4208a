//! `eunoe-lab bench all`: every benchmark in turn, and one page.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use clap::Arg;
use eunoe_lab::bench::texts::{self, Settings, Texts};
use eunoe_lab::bench::{self, ALL, AllSettings, Folder, Manifest, NAMES, Workers, mqar, throughput};
use eunoe_lab::device::Devices;
use serde::Serialize;

use super::AtATime;
use super::texts::{Files, pieces};
use crate::commands::{self, out};

/// Run every benchmark that has what it needs, each into a folder of its own, and write one page; the same command goes on after a stop
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("train", |files| optional(files, ["valid", "test"])),
    mut_arg("valid", |files| optional(files, ["train", "test"])),
    mut_arg("test", |files| optional(files, ["train", "valid"])),
    mut_arg("bos", |byte| byte.requires("train")),
    after_help = "Recall (mqar) and throughput need no files. Books and sinks are left out where no texts are named, and chorales without
their file; named later, they are done then.

Examples:
  eunoe-lab bench all --quick --out lab                  recall and throughput alone
  eunoe-lab bench all --train a.txt b.txt --valid c.txt --test d.txt --chorales jsb-chorales-16th.json --out lab"
)]
pub(crate) struct Args {
    /// Folder of the page, and of a folder per benchmark
    #[arg(long)]
    out: PathBuf,
    /// Each in its smallest form: minutes
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    files: Option<Files>,
    /// The file of `bench chorales`
    #[arg(long, value_name = "FILE")]
    chorales: Option<PathBuf>,
    #[command(flatten)]
    at_a_time: AtATime,
}

/// Texts that may be left out, all together.
fn optional(files: Arg, others: [&'static str; 2]) -> Arg {
    files.required(false).requires_all(others)
}

#[derive(Serialize)]
struct Done {
    page: PathBuf,
    reports: Vec<PathBuf>,
}

/// What the benchmarks are run with.
struct Work<'a> {
    quick: bool,
    workers: Workers<'a>,
    files: Option<Texts>,
    chorales: Option<Texts>,
}

impl Work<'_> {
    /// Language models: of what sizes, and of which texts, if those were named.
    fn models(&self, name: &str) -> Option<(Settings, &Texts)> {
        let (settings, texts) = match name {
            "chorales" => (Settings::chorales(), self.chorales.as_ref()?),
            "sinks" => (Settings::sinks(), self.files.as_ref()?),
            "books" => (Settings::books(), self.files.as_ref()?),
            _ => return None,
        };
        Some((if self.quick { settings.quick() } else { settings }, texts))
    }

    /// What it needs and nobody named.
    fn lacks(&self, name: &str) -> Option<&'static str> {
        match name {
            "books" | "sinks" if self.files.is_none() => Some("`--train`, `--valid` and `--test`"),
            "chorales" if self.chorales.is_none() => Some("`--chorales`"),
            _ => None,
        }
    }

    /// Runs one that lacks nothing.
    fn run(&self, name: &str, dir: &Path) -> Result<()> {
        if let Some((settings, texts)) = self.models(name) {
            super::texts::grid(&settings, texts, dir, self.workers)?;
        } else if name == "mqar" {
            super::mqar::grid(&mqar::Settings::preset(self.quick), dir, self.workers)?;
        } else {
            let (settings, device) = (throughput::Settings::preset(self.quick), self.workers.devices.first());
            super::throughput::grid(&settings, Some(dir), &device)?;
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// Those of the benchmarks: what was done before is kept, and stands on the page.
pub(crate) fn run(args: &Args, devices: &Devices, json: bool) -> Result<()> {
    let work = Work {
        quick: args.quick,
        workers: args.at_a_time.on(devices),
        files: args.files.as_ref().map(Files::read).transpose()?,
        chorales: args.chorales.as_deref().map(pieces).transpose()?,
    };
    for (name, (settings, texts)) in NAMES.iter().filter_map(|name| Some((name, work.models(name)?))) {
        texts::check(&settings, texts).context(*name)?;
    }
    let manifest = Manifest::here(ALL, AllSettings { quick: args.quick }, work.workers);
    let (folder, _, mut ended) = Folder::open::<_, String>(&args.out, manifest)?;
    let mut reports = Vec::new();
    for name in NAMES {
        let is_there = ended.iter().any(|line| line == name);
        if let Some(files) = work.lacks(name) {
            if !is_there {
                out::note(&format!("{name} is left out: it needs {files}"));
            }
            continue;
        }
        out::note(&format!("{name}:"));
        work.run(name, &args.out.join(name)).context(name)?;
        if !is_there {
            folder.add(&[name])?;
            ended.push(name.to_owned());
        }
        reports = bench::write(&args.out)?;
        if commands::stop_asked()?.load(Ordering::Relaxed) {
            out::note(&format!("stopped behind {name}: the same command goes on"));
            std::process::exit(130);
        }
    }
    if json {
        let page = reports.pop().unwrap_or_default();
        return out::json(&Done { page, reports });
    }
    reports.iter().try_for_each(|path| out::line(&format!("`{}`", path.display())))
}
