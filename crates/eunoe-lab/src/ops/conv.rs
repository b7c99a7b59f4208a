//! Short causal convolutions of each channel.

use candle_core::{Shape, Tensor};
use eunoe_kernels::grad::conv::{Conv, Grads};

use super::kernels::{Op, apply2, backend, fits, told};
use crate::Result;

/// y_i = Σ_j w_j ⊙ x_{i + j} for `x` `[b, kernel − 1 + t, width]`, whose first rows stand before, and `weight`
/// `[kernel, width]`: `[b, t, width]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn short_conv(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((seqs, rows, width), (kernel, _)) = (x.dims3()?, weight.dims2()?);
    let Some(t) = (rows + 1).checked_sub(kernel).filter(|_| kernel > 0) else {
        candle_core::bail!("a filter of {kernel} rows on {rows}");
    };
    if fits(&[x, weight]) {
        return apply2(ShortConv(Conv { seqs, t, width, kernel }), [x, weight]);
    }
    let tap = |j: usize| x.narrow(1, j, t)?.broadcast_mul(&weight.get(j)?);
    (0..kernel - 1).try_fold(tap(kernel - 1)?, |sum, j| sum + tap(j)?)
}

struct ShortConv(Conv);

impl Op for ShortConv {
    const NAME: &'static str = "short_conv";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let Conv { seqs, t, width, .. } = self.0;
        let mut y = vec![0.0; seqs * t * width];
        self.0.forward(isa, pool, inputs[0], inputs[1], &mut y).map_err(told)?;
        Ok((y, Shape::from((seqs, t, width))))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], dy: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let [mut dx, mut dweight] = [0, 1].map(|i| vec![0.0; inputs[i].len()]);
        let grads = Grads { dx: &mut dx, dweight: &mut dweight };
        self.0.backward(isa, pool, [inputs[0], inputs[1], dy], grads).map_err(told)?;
        Ok(vec![dx, dweight])
    }
}
