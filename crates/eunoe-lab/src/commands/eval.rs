//! `eunoe-lab eval`: the loss of a trained model on a text.

use std::path::PathBuf;

use anyhow::Result;
use candle_core::{DType, Device};
use eunoe_lab::nets::{Decoder, Params};
use eunoe_lab::streams::Text;
use eunoe_lab::train;
use eunoe_model::gguf;
use eunoe_model::tokenizer::Tokenizer;
use serde::Serialize;

use super::out;

/// Measure a trained model's loss on a text
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of a run
    run: PathBuf,
    /// Texts, as bytes or in the tokens of the model that the run began with
    #[arg(long = "file", required = true)]
    files: Vec<PathBuf>,
    /// Tokens per window; by default those of training
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    ctx: Option<u32>,
    /// Windows at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    windows: Option<u32>,
}

#[derive(Serialize)]
struct Loss {
    nll: f64,
    bits_per_token: f64,
    ctx: usize,
}

/// Runs the command.
///
/// # Errors
/// A folder that is no run, a text shorter than a window.
pub(crate) fn run(args: &Args, device: &Device, json: bool) -> Result<()> {
    let path = args.run.join(train::CHECKPOINT);
    let config = train::read_header(&path)?.config;
    let mut params = Params::new(0, DType::F32, device);
    let model = Decoder::new(&config.model, &mut params)?;
    train::load_params(&path, &params)?;
    let ctx = args.ctx.map_or(config.train.seq_len, |ctx| ctx as usize);
    let windows = args.windows.map_or(usize::MAX, |windows| windows as usize);
    let tokenizer = config.from.as_ref().map(|base| Tokenizer::from_gguf(&gguf::open(base)?)).transpose()?;
    let text = Text::read(&args.files, tokenizer.as_ref(), ctx + 1)?;
    let nll = train::evaluate(&model, &text, ctx, windows, device)?;
    let loss = Loss { nll, bits_per_token: nll / std::f64::consts::LN_2, ctx };
    match json {
        true => out::json(&loss),
        false => {
            let token = if config.from.is_some() { "token" } else { "byte" };
            out::line(&format!(
                "{nll:.4} nats, {:.4} bits per {token} in windows of {ctx}",
                loss.bits_per_token
            ))
        }
    }
}
