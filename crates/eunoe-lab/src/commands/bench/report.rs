//! `eunoe-lab bench report`: one page of several benchmarks.

use std::path::PathBuf;

use anyhow::Result;
use eunoe_lab::bench::together;
use eunoe_lab::train::write_whole;
use serde::Serialize;

use crate::commands::out;

/// One page of the benchmarks in several folders
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folders of finished benchmarks
    #[arg(required = true, value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What stands above it
    #[arg(long, default_value = "The lab")]
    title: String,
}

#[derive(Serialize)]
struct Done<'a> {
    report: &'a std::path::Path,
}

/// Runs the command.
///
/// # Errors
/// Those of [`together`], and a page that cannot be written.
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    write_whole(&args.out, together(&args.title, &args.folders)?.as_bytes())?;
    match json {
        true => out::json(&Done { report: &args.out }),
        false => out::line(&format!("`{}`", args.out.display())),
    }
}
