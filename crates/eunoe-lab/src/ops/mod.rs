//! The operations that training spends its time in. Each has a plain form out of tensor operations, which runs on every
//! device and in every type, and may have a kernel, which computes the same in f32 on the CPU.

mod decay;

pub use decay::decay_attend;

use candle_core::{D, DType, Device, Tensor};

use crate::Result;

/// x Wᵀ: `[…, k]` and `[n, k]` → `[…, n]`.
///
/// # Errors
/// Widths that differ.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (n, k) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == k => *last = n,
        _ => candle_core::bail!("a matrix of [{n}, {k}] on {:?}", x.dims()),
    }
    let rows = x.elem_count() / k.max(1);
    x.reshape((rows, k))?.matmul(&weight.t()?)?.reshape(shape)
}

/// Batched product of the last two axes.
///
/// # Errors
/// Shapes that do not fit.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.matmul(&b.contiguous()?)
}

/// Exchanges axes 1 and 2 of four: `[b, t, h, d]` ↔ `[b, h, t, d]`, in row-major order again.
///
/// # Errors
/// Another number of axes.
pub fn swap(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.contiguous()
}

/// Turns the halves of each head against each other by angles whose cosines and sines are `[t, d / 2]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = cos.dim(1)?;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (a.broadcast_mul(sin)? + b.broadcast_mul(cos)?)?;
    Tensor::cat(&[&first, &second], D::Minus1)
}

/// x / sqrt(mean(x²) + eps) over the last axis, times `weight`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let wide = if dtype == DType::BF16 { x.to_dtype(DType::F32)? } else { x.clone() };
    let square = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?;
    let y = wide.broadcast_div(&square.sqrt()?)?;
    let y = match weight {
        Some(weight) => y.broadcast_mul(&weight.to_dtype(y.dtype())?)?,
        None => y,
    };
    y.to_dtype(dtype)
}

/// silu(gate) ⊙ up.
///
/// # Errors
/// Shapes that differ.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// 1 / (1 + e^−x).
///
/// # Errors
/// Those of tensor work.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    // tanh neither overflows nor loses its gradient where e^x would
    ((x * 0.5)?.tanh()? + 1.0)? * 0.5
}

/// ln(1 + e^x), without overflow.
///
/// # Errors
/// Those of tensor work.
pub fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + (x.abs()?.neg()?.exp()? + 1.0)?.log()?
}

/// Softmax over the last axis.
///
/// # Errors
/// Those of tensor work.
pub fn softmax(scores: &Tensor) -> Result<Tensor> {
    // the maximum cancels, so its gradient is 0
    let max = scores.max_keepdim(D::Minus1)?.detach();
    let e = scores.broadcast_sub(&max)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// Who may look at whom: `[t_q, t_k]`, 1 where key j ≤ i + t_k − t_q, and within `window` of it, else 0.
///
/// # Errors
/// Those of tensor work.
pub fn causal(t_q: usize, t_k: usize, window: Option<usize>, like: &Tensor) -> Result<Tensor> {
    let sees = |i: usize, j: usize| {
        let at = i + t_k - t_q;
        j <= at && window.is_none_or(|w| at - j < w)
    };
    let values: Vec<f32> = (0..t_q * t_k).map(|n| f32::from(u8::from(sees(n / t_k, n % t_k)))).collect();
    Tensor::from_vec(values, (t_q, t_k), &Device::Cpu)?.to_dtype(like.dtype())?.to_device(like.device())
}

/// `scores` where `mask` is 1, and a number that no exponential survives where it is 0.
///
/// # Errors
/// Shapes that do not fit.
pub fn masked(scores: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let low = ((mask - 1.0)? * 1e30)?;
    scores.broadcast_mul(mask)?.broadcast_add(&low)
}

/// `[…, d]` → `[…, d + 1]` with a column of ones behind: what is summed with it counts the weights.
///
/// # Errors
/// Those of tensor work.
pub fn with_ones(v: &Tensor) -> Result<Tensor> {
    let ones = v.narrow(D::Minus1, 0, 1)?.ones_like()?;
    Tensor::cat(&[v, &ones], D::Minus1)
}

/// `[…, d + 1]` → `[…, d]`, divided by the last column, which must be above 0.
///
/// # Errors
/// Those of tensor work.
pub fn ratio(sums: &Tensor) -> Result<Tensor> {
    let d = sums.dim(D::Minus1)? - 1;
    sums.narrow(D::Minus1, 0, d)?.broadcast_div(&sums.narrow(D::Minus1, d, 1)?)
}

/// x / ‖x‖ over the last axis; `eps` is added to the square.
///
/// # Errors
/// Those of tensor work.
pub fn unit(x: &Tensor, eps: f64) -> Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + eps)?.sqrt()?)
}

/// Repeats each of `h_kv` heads `[b, h_kv, t, d]` until there are `heads`.
///
/// # Errors
/// Heads that do not divide.
pub fn repeat_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, kv_heads, t, d) = x.dims4()?;
    if kv_heads == heads {
        return Ok(x.clone());
    }
    let group = heads / kv_heads;
    x.unsqueeze(2)?.broadcast_as((b, kv_heads, group, t, d))?.reshape((b, heads, t, d))
}

/// Attention probabilities `[b, h, t_q, t_k]` of `q` `[b, h, t_q, d]` over `k` `[b, h_kv, t_k, d]`: the last query stands
/// with the last key, no query looks ahead or further back than `window`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attn(q: &Tensor, k: &Tensor, window: Option<usize>) -> Result<Tensor> {
    let (_, heads, t_q, d) = q.dims4()?;
    let k = repeat_heads(k, heads)?;
    let scores = (matmul(q, &k.t()?)? * (d as f64).powf(-0.5))?;
    let mask = causal(t_q, k.dim(2)?, window, &scores)?;
    softmax(&masked(&scores, &mask)?)
}

/// Causal softmax attention, `[b, h, t_q, d]`; as [`attn`], then times `v` `[b, h_kv, t_k, d]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>) -> Result<Tensor> {
    matmul(&attn(q, k, window)?, &repeat_heads(v, q.dim(1)?)?)
}

/// Mean negative log-likelihood in nats of `targets` `[r]` under `logits` `[r, v]`, over the rows whose target is not
/// [`IGNORE`]; 0 where there is none.
///
/// # Errors
/// A target that is no class.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let nll = nll(logits, targets)?;
    let rows = targets.ne(IGNORE)?.to_dtype(nll.dtype())?;
    let count = rows.sum_all()?.maximum(1.0)?;
    (nll * rows)?.sum_all()? / count
}

/// Negative log-likelihood in nats of each row's target, 0 where it is [`IGNORE`].
///
/// # Errors
/// A target that is no class.
pub fn nll(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let logits = if logits.dtype() == DType::BF16 { logits.to_dtype(DType::F32)? } else { logits.clone() };
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let lse = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let counts = targets.ne(IGNORE)?;
    let index = counts.where_cond(targets, &targets.zeros_like()?)?;
    let own = shifted.gather(&index.unsqueeze(1)?, D::Minus1)?;
    (lse - own)?.squeeze(1)? * counts.to_dtype(shifted.dtype())?
}

/// The target of a row that does not count.
pub const IGNORE: u32 = u32::MAX;
