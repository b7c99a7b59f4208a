//! RMS norm, with or without a gain.

use candle_core::Tensor;

use super::Init;
use crate::{Result, ops};

/// x / sqrt(mean(x²) + eps), times the gain.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[width]`.
    pub weight: Option<Tensor>,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// With a gain that begins as 1.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn new(init: &mut Init<'_>, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: Some(init.constant("weight", &[width], 1.0)?), eps })
    }

    /// Without a gain (SRMSNorm).
    pub fn plain(eps: f64) -> Self {
        Self { weight: None, eps }
    }

    /// Normalises the last axis.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn run(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, self.weight.as_ref(), self.eps)
    }
}
