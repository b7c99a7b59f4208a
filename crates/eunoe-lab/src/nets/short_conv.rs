//! A causal convolution of each channel with its last few inputs.

use candle_core::Tensor;

use super::Init;
use crate::{Result, State, ops};

/// y_t = Σ_j w_j ⊙ x_{t − (kernel − 1) + j} (+ b).
#[derive(Clone, Debug)]
pub struct ShortConv {
    /// `[kernel, width]`, the newest input last.
    weight: Tensor,
    bias: Option<Tensor>,
}

impl ShortConv {
    /// Begins as a moving average of random weights around 1 / `kernel`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn new(init: &mut Init<'_>, width: usize, kernel: usize, with_bias: bool) -> Result<Self> {
        let weight = init.normal("weight", &[kernel, width], 1.0 / (kernel as f64).sqrt())?;
        let bias = with_bias.then(|| init.constant("bias", &[width], 0.0)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// `[b, t, width]` → the same; the last `kernel − 1` inputs stay in `state` under `name`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn run(&self, x: &Tensor, state: &mut State, name: &'static str) -> Result<Tensor> {
        let (kernel, width) = self.weight.dims2()?;
        let b = x.dim(0)?;
        let before = match state.take(name) {
            Some(rows) => rows,
            None => Tensor::zeros((b, kernel - 1, width), x.dtype(), x.device())?,
        };
        let rows = Tensor::cat(&[&before, x], 1)?;
        let y = ops::short_conv(&rows, &self.weight.to_dtype(x.dtype())?)?;
        state.keep_last(name, &rows, 1, kernel - 1)?;
        match &self.bias {
            Some(bias) => ops::add_bias(&y, &bias.to_dtype(x.dtype())?),
            None => Ok(y),
        }
    }

    /// `[kernel, width]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Numbers that stay in the state of one sequence.
    pub fn state(kernel: usize, width: usize) -> usize {
        (kernel - 1) * width
    }
}
