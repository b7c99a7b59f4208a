//! A matrix, with or without a bias.

use candle_core::Tensor;

use super::Init;
use crate::Result;
use crate::ops::{self, Precision};

/// y = x Wᵀ + b.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Option<Tensor>,
    /// Of the product.
    pub precision: Precision,
}

impl Linear {
    /// Without a bias, from N(0, std²).
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn new(init: &mut Init<'_>, inputs: usize, outputs: usize, std: f64) -> Result<Self> {
        let weight = init.normal("weight", &[outputs, inputs], std)?;
        Ok(Self { weight, bias: None, precision: init.precision() })
    }

    /// With a bias that begins as `value`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn with_bias(self, init: &mut Init<'_>, value: f64) -> Result<Self> {
        let bias = init.constant("bias", &[self.weight.dim(0)?], value)?;
        Ok(Self { bias: Some(bias), ..self })
    }

    /// `[…, inputs]` → `[…, outputs]`, in the type of `x`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn run(&self, x: &Tensor) -> Result<Tensor> {
        let y = ops::linear(x, &self.weight.to_dtype(x.dtype())?, self.precision)?;
        match &self.bias {
            Some(bias) => ops::add_bias(&y, &bias.to_dtype(x.dtype())?),
            None => Ok(y),
        }
    }
}
