//! `eunoe report`: one page from the folder of an evaluation.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::context::Context;
use crate::eval::replace;
use crate::out;

/// Make one self-contained HTML page of an evaluation
///
/// Reads `manifest.json` and `items.jsonl` of a folder that `eunoe eval --out` wrote, finished or not, and writes
/// `report.html` beside them: quality against bytes and seconds, what survives at which depth and distance, which heads
/// keep what, every figure with its interval, and the command that makes it all again. The page needs no network.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe report results
  eunoe report results --markdown > table.md")]
pub struct Args {
    /// Folder of an evaluation
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// Print a table for a Markdown page instead of writing the HTML page
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// What `report --json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    path: &'a PathBuf,
    rows: Vec<eunoe_report::Row>,
}

/// Runs the command.
///
/// # Errors
/// A folder that holds no evaluation, or a page that cannot be written.
pub fn run(args: &Args, ctx: &Context) -> Result<()> {
    let (manifest, lines) = eunoe_report::load(&args.dir).with_context(|| {
        format!("`{}` holds no evaluation of `eunoe eval --out` that can be read", args.dir.display())
    })?;
    let rows = eunoe_report::rows(&manifest, &lines);
    if args.markdown {
        return out::text(&eunoe_report::markdown(&manifest, &rows));
    }
    let path = args.dir.join("report.html");
    replace(&path, &eunoe_report::page(&manifest, &rows, &lines, &eunoe_report::Extra::default())?)?;
    match ctx.json {
        true => out::json(&Printed { path: &path, rows }),
        false => out::line(&format!("wrote `{}`: open it in a browser", path.display())),
    }
}
