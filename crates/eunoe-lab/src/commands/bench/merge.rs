//! `eunoe-lab bench merge`: one grid out of its parts.

use std::path::PathBuf;

use anyhow::Result;
use eunoe_lab::bench::{merge, write};
use serde::Serialize;

use crate::commands::out;

/// Put parts of one grid together that were trained apart, with other mixers but otherwise the same settings
#[derive(Debug, clap::Args)]
#[command(after_help = "A process per card is faster than one for all cards; each has its own mixers:
  eunoe-lab bench books … --device cuda:0 --patterns 'softmax_attention; based' --out a
  eunoe-lab bench books … --device cuda:1 --patterns 'softmax_attention; delta_rule' --out b
  eunoe-lab bench merge a b --out books")]
pub(crate) struct Args {
    /// Folders of the parts
    #[arg(required = true, value_name = "FOLDER")]
    parts: Vec<PathBuf>,
    /// Folder of the whole, which is new
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

#[derive(Serialize)]
struct Done {
    report: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Those of [`merge`] and of [`write`]: the whole is kept where trainings are missing, and its own command goes on with it.
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    merge(&args.parts, &args.out)?;
    let report = write(&args.out)?.into_iter().next().unwrap_or_default();
    if json { out::json(&Done { report }) } else { out::line(&format!("`{}`", report.display())) }
}
