//! `eunoe-lab export`: a trained model for the engine.

use std::path::PathBuf;

use anyhow::Result;
use eunoe_lab::bridge;
use eunoe_lab::train::CHECKPOINT;
use serde::Serialize;

use super::out;

/// Write a trained model as a folder that `eunoe` runs
///
/// The folder has `config.json`, `tokenizer.json` and `model.safetensors`, as Hugging Face's libraries write them. The
/// model's mixers must be `softmax_attention` without a window, its heads a multiple of 32 wide, its tokens bytes or those of
/// the folder that the run began with.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of a run
    run: PathBuf,
    /// The folder to write; it is whole or not there
    #[arg(long)]
    out: PathBuf,
    /// Replace an export that is there
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Done<'a> {
    folder: &'a PathBuf,
}

/// Runs the command.
///
/// # Errors
/// Those of [`bridge::export`].
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    bridge::export(&args.run.join(CHECKPOINT), &args.out, args.force)?;
    match json {
        true => out::json(&Done { folder: &args.out }),
        false => {
            out::line(&format!("`{0}`: run it with `eunoe run -m {0} -n 64 PROMPT`", args.out.display()))
        }
    }
}
