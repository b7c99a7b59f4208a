//! Rotary positions (Su 2021, arXiv 2104.09864), halves of a head rotated against each other.

use candle_core::{DType, Device, Tensor};

use crate::{Result, ops};

/// Angles per position: pair i of a head turns by pos · base^(−2i/d).
#[derive(Clone, Debug)]
pub struct Rope {
    base: f64,
    dims: usize,
}

impl Rope {
    /// For heads of `dims` numbers, an even number.
    pub fn new(base: f64, dims: usize) -> Self {
        Self { base, dims }
    }

    /// Rotates `[b, h, t, d]`, whose first row stands at `pos`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn run(&self, x: &Tensor, pos: usize) -> Result<Tensor> {
        let (cos, sin) = self.table(pos, x.dim(2)?, x.dtype(), x.device())?;
        ops::rotate(x, &cos, &sin)
    }

    /// Cosines and sines, each `[t, d / 2]`.
    fn table(&self, pos: usize, t: usize, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        let half = self.dims / 2;
        let angle = |i: usize| (pos + i / half) as f64 * self.base.powf(-((i % half) as f64) / half as f64);
        let angles: Vec<f64> = (0..t * half).map(angle).collect();
        let part = |f: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().map(|a| f(*a)).collect();
            Tensor::from_vec(values, (t, half), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
        };
        Ok((part(f64::cos)?, part(f64::sin)?))
    }
}
