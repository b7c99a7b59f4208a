//! `eunoe-lab bench all`: every benchmark in turn, and one page.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Arg;
use eunoe_lab::bench::texts::Settings as Models;
use eunoe_lab::bench::{self, Folder, Manifest, Workers};
use eunoe_lab::device::Devices;
use eunoe_lab::train::write_whole;
use serde::Serialize;

use super::texts::{Files, pieces};
use super::{mqar, texts, throughput};
use crate::commands::out;

/// Run every benchmark in turn, each into a folder of its own, and write one page of all; the same command goes on after a stop
#[derive(Debug, clap::Args)]
#[command(
    mut_arg("train", |files| optional(files, ["valid", "test"])),
    mut_arg("valid", |files| optional(files, ["train", "test"])),
    mut_arg("test", |files| optional(files, ["train", "valid"])),
    mut_arg("bos", |byte| byte.requires("train")),
    after_help = "Without texts books and sinks are left out, without `--chorales` chorales.

Examples:
  eunoe-lab bench all --quick --out lab
  eunoe-lab bench all --train a.txt b.txt --valid c.txt --test d.txt --chorales jsb-chorales-16th.json --out lab"
)]
pub(crate) struct Args {
    /// Folder of their folders and of the page
    #[arg(long)]
    out: PathBuf,
    /// Each in its smallest form: minutes instead of days
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    files: Option<Files>,
    /// The file of `bench chorales`
    #[arg(long, value_name = "FILE")]
    chorales: Option<PathBuf>,
    /// Trainings at a time, by default one per device; changes no result
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
}

/// Texts that may be left out, all together.
fn optional(files: Arg, others: [&'static str; 2]) -> Arg {
    files.required(false).requires_all(others)
}

#[derive(Serialize)]
struct Done {
    report: PathBuf,
    reports: Vec<PathBuf>,
}

/// A benchmark: its name, which is that of its folder, and how it is run into that; none where texts are wanting.
type Part<'a> = (&'static str, Option<Box<dyn Fn(&Path) -> Result<()> + 'a>>);

/// Runs the command.
///
/// # Errors
/// Those of the benchmarks: what was done before is kept, and the page is of those that ended.
pub(crate) fn run(args: &Args, devices: &Devices, json: bool) -> Result<()> {
    let files = args.files.as_ref().map(Files::read).transpose()?;
    let chorales = args.chorales.as_deref().map(pieces).transpose()?;
    let workers = Workers::new(args.workers, devices);
    let models = |name, settings: Models, texts: Option<_>| -> Part<'_> {
        let settings = if args.quick { settings.quick() } else { settings };
        let run = move |texts| {
            let run = move |dir: &Path| texts::grid(&settings, texts, dir, workers).map(drop);
            Box::new(run) as Box<dyn Fn(&Path) -> Result<()>>
        };
        (name, texts.map(run))
    };
    let parts: [Part<'_>; 5] = [
        (
            "throughput",
            Some(Box::new(|dir| {
                throughput::grid(&throughput::preset(args.quick), Some(dir), devices).map(drop)
            })),
        ),
        ("mqar", Some(Box::new(|dir| mqar::grid(&mqar::preset(args.quick), dir, workers).map(drop)))),
        models("books", Models::books(), files.as_ref()),
        models("sinks", Models::sinks(), files.as_ref()),
        models("chorales", Models::chorales(), chorales.as_ref()),
    ];
    let settings = bench::All { quick: args.quick };
    let (folder, _, mut ended) =
        Folder::open::<_, String>(&args.out, Manifest::here(bench::ALL, settings, workers))?;
    for (name, run) in &parts {
        let Some(run) = run else {
            out::note(&format!("{name}: left out, no texts were named"));
            continue;
        };
        out::note(&format!("{name}:"));
        run(&args.out.join(name))?;
        if !ended.iter().any(|part| part == name) {
            folder.add(&[name])?;
            ended.push((*name).to_owned());
        }
    }
    let mut reports = Vec::new();
    bench::open(&args.out, &mut |dir, page| {
        reports.push(page.write(dir)?);
        Ok(())
    })?;
    let report = args.out.join("report.html");
    write_whole(&report, bench::together("The lab", std::slice::from_ref(&args.out))?.as_bytes())?;
    if json {
        return out::json(&Done { report, reports });
    }
    reports.iter().chain([&report]).try_for_each(|path| out::line(&format!("`{}`", path.display())))
}
