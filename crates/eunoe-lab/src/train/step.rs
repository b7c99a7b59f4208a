//! A model in training, and its step: passes, gradients, the optimiser. Where batches come from is the caller's.

use candle_core::{DType, Device};
use eunoe_core::Result;

use super::optimizer::Grads;
use super::{AdamW, TrainConfig};
use crate::nets::{Config, Decoder, Params};
use crate::streams::Batch;
use crate::{Ctx, invalid};

/// A model, its parameters and their moments.
pub struct Trainee {
    /// The model.
    pub model: Decoder,
    /// Its parameters.
    pub params: Params,
    /// The optimiser, which counts the steps.
    pub adam: AdamW,
    config: TrainConfig,
}

/// What a step met.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Mean loss of the passes, nats per token.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// Length of the gradient before clipping; no number where the loss is none.
    pub grad_norm: f64,
}

impl Step {
    /// Why no step was taken, where loss or gradient are no numbers.
    pub fn diverged(&self) -> Option<String> {
        let (what, value) = match () {
            () if !self.loss.is_finite() => ("loss", self.loss),
            () if !self.grad_norm.is_finite() => ("gradient", self.grad_norm),
            () => return None,
        };
        Some(format!("the {what} is {value}: lower `lr` ({:.2e} there), or raise `warmup`", self.lr))
    }
}

impl Trainee {
    /// A model with its first weights.
    ///
    /// # Errors
    /// Those of [`Decoder::new`].
    pub fn new(model: &Config, config: &TrainConfig, device: &Device) -> Result<Self> {
        let mut params = Params::new(config.seed, DType::F32, device);
        params.precision = config.precision;
        let model = Decoder::new(model, &mut params)?;
        Self::of(model, params, config)
    }

    /// A model that is there already, with its parameters.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn of(model: Decoder, params: Params, config: &TrainConfig) -> Result<Self> {
        let adam = AdamW::new(&params, config).map_err(invalid)?;
        Ok(Self { model, params, adam, config: config.clone() })
    }

    /// One step along the mean gradient of the passes of `config.accumulate` batches; `batch` gives the one of a number,
    /// counted over the run. Where the step has diverged nothing has changed.
    ///
    /// # Errors
    /// Those of `batch` and of tensor work.
    pub fn step(&mut self, batch: impl FnMut(u64) -> crate::Result<Batch>) -> Result<Step> {
        self.try_step(batch).map_err(invalid)
    }

    fn try_step(&mut self, mut batch: impl FnMut(u64) -> crate::Result<Batch>) -> crate::Result<Step> {
        let (passes, lr) = (self.config.accumulate, self.config.lr_at(self.adam.step));
        let (mut loss, mut grads) = (0.0, Grads::default());
        for pass in 0..passes {
            let batch = batch(self.adam.step * passes as u64 + pass as u64)?;
            loss += self.pass(&batch, &mut grads)? / passes as f64;
        }
        let mut step = Step { loss, lr, grad_norm: f64::NAN };
        if loss.is_finite() {
            step.grad_norm = self.adam.step(&self.params, &grads, passes)?.norm;
        }
        if step.diverged().is_none() {
            self.model.blocks.iter().try_for_each(|block| block.mixer().after_step())?;
        }
        Ok(step)
    }

    fn pass(&self, batch: &Batch, grads: &mut Grads) -> crate::Result<f64> {
        let mut ctx = Ctx::default();
        let own = self.model.loss(batch, &mut ctx)?;
        let loss = ctx.aux.iter().try_fold(own.clone(), |sum, (_, aux)| sum + aux)?;
        grads.add(&self.params, loss.backward()?)?;
        own.to_dtype(DType::F64)?.to_scalar::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::Text;

    fn trainee(accumulate: usize) -> Trainee {
        let model = Config { d_model: 8, layers: 1, heads: 2, d_ff: 8, ..Config::default() };
        let config = TrainConfig { accumulate, lr: 1e-2, warmup: 0.0, ..TrainConfig::default() };
        Trainee::new(&model, &config, &Device::Cpu).unwrap()
    }

    #[test]
    fn passes_are_numbered_over_the_run() {
        let text = Text::new((0..200).collect(), 0).unwrap();
        let (mut trainee, mut seen) = (trainee(2), Vec::new());
        for _ in 0..3 {
            let step = trainee.step(|n| {
                seen.push(n);
                text.batch(1, n, (2, 5), &Device::Cpu)
            });
            assert!(step.unwrap().diverged().is_none());
        }
        assert_eq!((seen, trainee.adam.step), (vec![0, 1, 2, 3, 4, 5], 3));
    }

    #[test]
    fn what_has_diverged_takes_no_step() {
        let mut trainee = trainee(1);
        let (_, param) = trainee.params.iter().next().unwrap();
        param.var.set(&(param.var.as_tensor() * f64::NAN).unwrap()).unwrap();
        let text = Text::new((0..200).collect(), 0).unwrap();
        let step = trainee.step(|n| text.batch(1, n, (2, 5), &Device::Cpu)).unwrap();
        let why = step.diverged().unwrap();
        assert!(why.contains("the loss is NaN: lower `lr` (1.00e-2 there)"), "{why}");
        assert_eq!(trainee.adam.step, 0);
    }
}
