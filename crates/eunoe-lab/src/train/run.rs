//! The loop: batches, steps, evaluations, checkpoints.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device};
use eunoe_core::{Error, Result};
use serde::Serialize;

use super::optimizer::Grads;
use super::{AdamW, Checkpoint, RunConfig};
use crate::nets::{Decoder, Params};
use crate::streams::{Batch, Bytes};
use crate::{Ctx, ops};

/// One line of the metrics.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    /// Steps taken.
    pub step: u64,
    /// Mean loss of the step's batches, nats per token.
    pub loss: f64,
    /// Loss on what is held out, where it was measured at this step.
    pub held_out: Option<f64>,
    /// The learning rate.
    pub lr: f64,
    /// Length of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens per second of this step.
    pub tokens_per_s: f64,
}

/// Who is told how a run goes, and may stop it.
pub trait Progress {
    /// A step was taken. `false` stops the run after a checkpoint.
    ///
    /// # Errors
    /// Those of writing the row.
    fn row(&mut self, row: &Row) -> Result<bool>;
}

/// Trains a model as `config` says, from the checkpoint in `folder` where there is one, and leaves one there.
///
/// # Errors
/// [`Error::Invalid`] where the loss or the gradient is no longer a number (the last checkpoint stays), texts shorter than
/// a window, [`Error::Io`] where a checkpoint cannot be written.
pub fn train(
    config: &RunConfig,
    folder: &Path,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<Decoder> {
    config.check()?;
    let t = &config.train;
    let text = Bytes::read(&config.data.files, t.seq_len + 1)?;
    let held_out = match config.data.held_out.as_slice() {
        [] => None,
        files => Some(Bytes::read(files, t.seq_len + 1)?),
    };
    let mut params = Params::new(t.seed, DType::F32, device);
    let model = Decoder::new(&config.model, &mut params)?;
    let mut adam = AdamW::new(&params, t).map_err(invalid)?;
    let path = folder.join("last.safetensors");
    if path.exists() {
        let saved = Checkpoint::load(&path, &params, &mut adam)?;
        if saved.config != *config {
            let why = format!(
                "`{}` is of a run with other settings: resume with those, or use another folder",
                path.display()
            );
            return Err(Error::Invalid(why));
        }
    }
    let save =
        |adam: &AdamW| Checkpoint { step: adam.step, config: config.clone() }.save(&path, &params, adam);
    let due = |every: u64, step: u64| step == t.steps || every > 0 && step.is_multiple_of(every);
    while adam.step < t.steps {
        let start = Instant::now();
        let (loss, grads) = gradients(config, &model, &params, &text, adam.step, device).map_err(invalid)?;
        if !loss.is_finite() {
            let (step, lr) = (adam.step, t.lr_at(adam.step));
            return Err(Error::Invalid(format!(
                "the loss is {loss} at step {step}: lower `lr` ({lr:.2e} there), or raise `warmup`"
            )));
        }
        let lr = t.lr_at(adam.step);
        let clip = adam.step(&params, &grads, t.accumulate).map_err(invalid)?;
        for block in &model.blocks {
            block.mixer().after_step().map_err(invalid)?;
        }
        let tokens_per_s = (t.batch * t.accumulate * t.seq_len) as f64 / start.elapsed().as_secs_f64();
        let held_out = match held_out.as_ref().filter(|_| due(t.evaluate_every, adam.step)) {
            Some(text) => {
                Some(evaluate(&model, text, t.seq_len, t.evaluate_windows, device).map_err(invalid)?)
            }
            None => None,
        };
        let row = Row { step: adam.step, loss, held_out, lr, grad_norm: clip.norm, tokens_per_s };
        let goes_on = progress.row(&row)?;
        if !goes_on || due(t.save_every, adam.step) {
            save(&adam)?;
        }
        if !goes_on {
            return Err(Error::Interrupted);
        }
    }
    Ok(model)
}

fn invalid(error: candle_core::Error) -> Error {
    Error::Invalid(error.to_string())
}

/// The mean loss of a step's passes, and the sum of their gradients.
fn gradients(
    config: &RunConfig,
    model: &Decoder,
    params: &Params,
    text: &Bytes,
    step: u64,
    device: &Device,
) -> crate::Result<(f64, Grads)> {
    let t = &config.train;
    let (mut total, mut grads) = (0.0, Grads::default());
    for pass in 0..t.accumulate {
        let number = step * t.accumulate as u64 + pass as u64;
        let Batch { tokens, targets } = text.batch(t.seed, number, (t.batch, t.seq_len), device)?;
        let mut ctx = Ctx::default();
        let mut loss = model.loss(&tokens, &targets, &mut ctx)?;
        total += loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        for (_, aux) in &ctx.aux {
            loss = (loss + aux)?;
        }
        grads.add(params, loss.backward()?)?;
    }
    Ok((total / t.accumulate as f64, grads))
}

/// Mean loss in nats per byte over the first `most` windows of a text.
///
/// # Errors
/// Those of tensor work.
pub fn evaluate(model: &Decoder, text: &Bytes, t: usize, most: usize, device: &Device) -> crate::Result<f64> {
    let (mut total, mut count, mut windows) = (0.0, 0, text.windows(8, t));
    while let Some(batch) = windows.next_on(device).filter(|_| count < most) {
        let Batch { tokens, targets } = batch?;
        let (logits, _) = model.run(&tokens, Vec::new(), &mut Ctx::default())?;
        let nll = ops::nll(&logits.detach().flatten_to(1)?, &targets.flatten_all()?)?;
        total += nll.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        count += tokens.dim(0)?;
    }
    Ok(total / (count * t) as f64)
}
