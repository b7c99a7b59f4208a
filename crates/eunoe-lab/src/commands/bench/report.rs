//! `eunoe-lab bench report`: one page of several benchmarks.

use std::path::PathBuf;

use anyhow::{Result, bail};
use eunoe_lab::bench::{self, TITLE, together};
use eunoe_lab::train::write_whole;
use serde::Serialize;

use crate::commands::out;

/// Write the reports of finished benchmarks anew, wherever they were run, or one page of several
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders of finished benchmarks
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// One page of all of them, instead of a report in each folder
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// What stands above it
    #[arg(long, default_value = TITLE)]
    title: String,
}

#[derive(Serialize)]
struct Done {
    reports: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Those of [`together`] and [`bench::write`], and a page that cannot be written.
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let mut reports = Vec::new();
    match &args.out {
        Some(out) => {
            // nothing else is written over
            if std::fs::read(out).is_ok_and(|there| !there.starts_with(b"<!doctype html>")) {
                bail!("`{}` is there and is no page: name another file", out.display());
            }
            write_whole(out, together(&args.title, &args.folders)?.as_bytes())?;
            reports.push(out.clone());
        }
        None => {
            for dir in &args.folders {
                reports.extend(bench::write(dir)?);
            }
        }
    }
    if json {
        return out::json(&Done { reports });
    }
    reports.iter().try_for_each(|path| out::line(&format!("`{}`", path.display())))
}
