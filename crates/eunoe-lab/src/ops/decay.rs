//! Linear attention with a decay per head, in chunks: (Q Kᵀ ⊙ M) V inside a chunk, one state across chunks.

use candle_core::{Device, Tensor};

use super::matmul;
use crate::Result;

/// o_t = q_tᵀ S_t with S_t = λ S_{t−1} + k_t v_tᵀ, and the last S.
///
/// `q`, `k` `[b, h, t, n]`, `v` `[b, h, t, d]`, `decay` λ in (0, 1] per head, `start` S_0 `[b, h, n, d]` (zeros where
/// absent) → o `[b, h, t, d]`, S_t `[b, h, n, d]`. Only powers of λ from 0 up are formed, so nothing overflows.
///
/// # Errors
/// Shapes that do not fit.
pub fn decay_attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    decay: &[f64],
    start: Option<Tensor>,
    chunk: usize,
) -> Result<(Tensor, Tensor)> {
    let (b, h, t, n) = q.dims4()?;
    let mut s = match start {
        Some(s) => s,
        None => Tensor::zeros((b, h, n, v.dim(3)?), q.dtype(), q.device())?,
    };
    let mut outputs = Vec::with_capacity(t.div_ceil(chunk));
    for from in (0..t).step_by(chunk) {
        let c = chunk.min(t - from);
        let [q, k, v] = [q, k, v].map(|x| x.narrow(2, from, c));
        let (q, k, v) = (q?, k?, v?);
        // row i, column j, both from 0: λ^(i − j); λ^(i + 1) for what was before; λ^(c − 1 − i) for what is left behind
        let inside = powers(decay, (c, c), &q, |i, j| (j <= i).then(|| i - j))?;
        let before = powers(decay, (c, 1), &q, |i, _| Some(i + 1))?;
        let after = powers(decay, (c, 1), &q, |i, _| Some(c - 1 - i))?;
        let across = powers(decay, (1, 1), &q, |_, _| Some(c))?;
        let own = matmul(&matmul(&q, &k.t()?)?.broadcast_mul(&inside)?, &v)?;
        outputs.push((own + matmul(&q.broadcast_mul(&before)?, &s)?)?);
        s = (s.broadcast_mul(&across)? + matmul(&k.broadcast_mul(&after)?.t()?, &v)?)?;
    }
    Ok((Tensor::cat(&outputs, 2)?, s))
}

/// `[1, h, rows, cols]` of λ^power, 0 where there is no power.
fn powers(
    decay: &[f64],
    (rows, cols): (usize, usize),
    like: &Tensor,
    power: impl Fn(usize, usize) -> Option<usize>,
) -> Result<Tensor> {
    let cell = |n: usize| power(n / cols % rows, n % cols).map(|p| decay[n / (rows * cols)].powi(p as i32));
    let values: Vec<f64> = (0..decay.len() * rows * cols).map(|n| cell(n).unwrap_or(0.0)).collect();
    Tensor::from_vec(values, (1, decay.len(), rows, cols), &Device::Cpu)?
        .to_dtype(like.dtype())?
        .to_device(like.device())
}
