//! `eunoe rm`: remove a model.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::context::Context;
use crate::home::Home;
use crate::{models, out, pull};

/// Remove a model and whatever an unfinished pull left; asks nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  eunoe rm smollm2-135m")]
pub struct Args {
    /// A name from `eunoe list`
    #[arg(value_name = "MODEL")]
    model: String,
}

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    removed: bool,
}

/// Runs the command.
///
/// # Errors
/// An unknown name, nothing to remove, or those of [`pull::remove`].
pub fn run(args: &Args, ctx: &Context, home: &Home) -> Result<()> {
    let name = models::known(&args.model)?.name;
    if !pull::remove(name, home)? {
        bail!("nothing of `{name}` is on this machine; expected at `{}`", home.model(name).display());
    }
    if ctx.json { out::json(&Report { name, removed: true }) } else { out::line(&format!("removed {name}")) }
}
