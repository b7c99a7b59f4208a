//! Sums over every prefix with weights e^score.

use candle_core::{D, Shape, Tensor};
use eunoe_kernels::grad::prefix::{Grads, Inputs, Prefixes};

use super::kernels::{Op, apply2, backend, fits, told};
use super::{causal, masked, matmul};
use crate::Result;

/// y_t = Σ_{i ≤ t} e^{s_i − m_t} x_i with m_t = max_{i ≤ t} s_i, for `s` `[b, h, t, 1]` and `x`, y `[b, h, t, d]`.
///
/// Gradients hold m constant: divide a column by another, and it cancels.
///
/// # Errors
/// Shapes that do not fit.
pub fn prefix_softmax(s: &Tensor, x: &Tensor, chunk: usize) -> Result<Tensor> {
    let (b, h, t, d) = x.dims4()?;
    if fits(&[s, x]) {
        return apply2(Prefix { of: Prefixes { rows: b * h, t, cols: d }, shape: x.shape().clone() }, [s, x]);
    }
    let (_, y) = plain(&s.reshape((b * h, t, 1))?, &x.reshape((b * h, t, d))?, chunk.max(2))?;
    y.reshape((b, h, t, d))
}

/// m and y of `s` `[r, t, 1]` and `x` `[r, t, d]`. Chunks alone first, then what stands before each, which is the same
/// question about the ends of the chunks: a few operations however long the text is.
fn plain(s: &Tensor, x: &Tensor, chunk: usize) -> Result<(Tensor, Tensor)> {
    let (r, t, d) = x.dims3()?;
    if t <= chunk {
        let scores = masked(&s.t()?.broadcast_as((r, t, t))?, &causal(t, t, None, s)?)?;
        let m = scores.max_keepdim(D::Minus1)?.detach();
        let y = matmul(&scores.broadcast_sub(&m)?.exp()?, x)?;
        return Ok((m, y));
    }
    let count = t.div_ceil(chunk);
    // what fills the last chunk stands behind everything
    let whole = |x: &Tensor| x.pad_with_zeros(1, 0, count * chunk - t);
    let own = |x: Tensor, cols| x.reshape((r * count, chunk, cols));
    let (m, y) = plain(&own(whole(s)?, 1)?, &own(whole(x)?, d)?, chunk)?;
    let (m, y) = (m.reshape((r, count, chunk, 1))?, y.reshape((r, count, chunk, d))?);
    let ends = |x: &Tensor| x.narrow(1, 0, count - 1)?.narrow(2, chunk - 1, 1)?.squeeze(2);
    let (m_ends, y_ends) = plain(&ends(&m)?, &ends(&y)?, chunk)?;
    // nothing stands before the first: a score that no exponential survives
    let low = (m_ends.narrow(1, 0, 1)?.zeros_like()? - 1e30)?;
    let m_before = Tensor::cat(&[&low, &m_ends], 1)?.unsqueeze(2)?;
    let y_before = y_ends.pad_with_zeros(1, 1, 0)?.unsqueeze(2)?;
    let top = m.broadcast_maximum(&m_before)?.detach();
    let y = y.broadcast_mul(&(m - &top)?.exp()?)?;
    let before = m_before.broadcast_sub(&top)?.exp()?.broadcast_mul(&y_before)?;
    let all = |x: Tensor, cols| x.reshape((r, count * chunk, cols))?.narrow(1, 0, t);
    Ok((all(top, 1)?, all((y + before)?, d)?))
}

struct Prefix {
    of: Prefixes,
    shape: Shape,
}

impl Op for Prefix {
    const NAME: &'static str = "prefix_softmax";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let mut y = vec![0.0; inputs[1].len()];
        self.of.forward(isa, pool, Inputs { s: inputs[0], x: inputs[1] }, &mut y).map_err(told)?;
        Ok((y, self.shape.clone()))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], dy: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let [mut ds, mut dx] = [0, 1].map(|i| vec![0.0; inputs[i].len()]);
        let grads = Grads { ds: &mut ds, dx: &mut dx };
        self.of.backward(isa, pool, Inputs { s: inputs[0], x: inputs[1] }, dy, grads).map_err(told)?;
        Ok(vec![ds, dx])
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn scores_far_apart_neither_overflow_nor_vanish() {
        // In f32 e^200 is infinite and e^-200 is 0; the first output is the first value whatever comes after it.
        let s: Vec<f32> = (0..32).map(|i| -100.0 + 200.0 * (i as f32) / 31.0).collect();
        let x: Vec<f32> = (0..32).flat_map(|i| [i as f32, 1.0]).collect();
        let [s_t, x_t] = [(&s, 1), (&x, 2)]
            .map(|(v, cols)| Tensor::from_vec(v.clone(), (1, 1, 32, cols), &Device::Cpu).unwrap());
        let of = |x: &Tensor| x.squeeze(0).unwrap();
        for y in [
            prefix_softmax(&s_t, &x_t, 5).unwrap(),
            plain(&of(&s_t), &of(&x_t), 64).unwrap().1,
            plain(&of(&s_t), &of(&x_t), 3).unwrap().1,
        ] {
            let y: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
            for t in 0..32 {
                let weight = |i: usize| f64::from(s[i] - s[t]).exp();
                let want =
                    (0..=t).map(|i| weight(i) * i as f64).sum::<f64>() / (0..=t).map(weight).sum::<f64>();
                let got = f64::from(y[2 * t] / y[2 * t + 1]);
                assert!((got - want).abs() < 1e-4 * (1.0 + want), "{t}: {got} for {want}");
            }
        }
    }
}
