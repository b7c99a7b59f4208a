//! The operations that training spends its time in. Each has a plain form out of tensor operations, which runs on every
//! device and in every type, and may have a kernel, which computes the same in f32 on the CPU.

mod attend;
mod conv;
mod decay;
mod kernels;
mod prefix;
mod product;
mod rotate;
mod rows;
#[cfg(test)]
mod tests;

pub use attend::{Weights, attend, attn};
pub use conv::short_conv;
pub use decay::decay_attend;
pub(crate) use kernels::{backend, fits, sum_squares};
pub use kernels::{set_plain, set_threads, threads};
pub use prefix::prefix_softmax;
pub use product::{Precision, linear, matmul};
pub use rotate::rotate;
pub use rows::{IGNORE, add_bias, cross_entropy, nll, rms_norm, sigmoid, silu, silu_mul};

use candle_core::{D, Tensor};

use crate::Result;

/// Exchanges axes 1 and 2 of four: `[b, t, h, d]` ↔ `[b, h, t, d]`, in row-major order again.
///
/// # Errors
/// Another number of axes.
pub fn swap(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.contiguous()
}

/// Cuts axis `dim` into pieces of `chunk`, the first of them shorter by `open`, which must be less.
///
/// The axis is halved until pieces are left: the gradient of a part is as large as the whole, so that to take every chunk
/// from the whole would cost the square of the length.
///
/// # Errors
/// An axis that is not there.
pub fn chunks(x: &Tensor, dim: usize, chunk: usize, open: usize) -> Result<Vec<Tensor>> {
    let t = x.dim(dim)?;
    let count = (open + t).div_ceil(chunk);
    if count <= 1 {
        return Ok(vec![x.clone()]);
    }
    let first = count / 2 * chunk - open;
    let mut parts = chunks(&x.narrow(dim, 0, first)?, dim, chunk, open)?;
    parts.extend(chunks(&x.narrow(dim, first, t - first)?, dim, chunk, 0)?);
    Ok(parts)
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
    let (first, last) = (t_k as i64 - t_q as i64, t_k as i64);
    let column = |back: i64| Tensor::arange(first - back, last - back, like.device())?.unsqueeze(1);
    let keys = Tensor::arange(0, last, like.device())?.unsqueeze(0)?;
    let sees = column(0)?.broadcast_ge(&keys)?.to_dtype(like.dtype())?;
    match window.and_then(|window| i64::try_from(window).ok()) {
        Some(window) => sees * column(window)?.broadcast_lt(&keys)?.to_dtype(like.dtype())?,
        None => Ok(sees),
    }
}

/// Rows of `table` `[n, d]`: `[r, d]`.
///
/// # Errors
/// An index that is no row, where the device tells.
pub fn embed(table: &Tensor, index: &Tensor) -> Result<Tensor> {
    // The gradient of a lookup is a loop over all tokens on a card: 5 ms for 16K of them, where a product takes 0.5.
    const FEW: usize = 1 << 11;
    match table.device().is_cpu() || table.dim(0)? > FEW {
        true => table.index_select(index, 0),
        false => picked(table, index),
    }
}

/// [`embed`] as a product with rows of one 1.
fn picked(table: &Tensor, index: &Tensor) -> Result<Tensor> {
    let numbers = Tensor::arange(0, table.dim(0)? as u32, table.device())?.unsqueeze(0)?;
    index.unsqueeze(1)?.broadcast_eq(&numbers)?.to_dtype(table.dtype())?.matmul(table)
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
