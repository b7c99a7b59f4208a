//! The width of a model as heads.

use candle_core::Tensor;

use crate::{Result, ops};

/// `[b, t, h * d]` → `[b, h, t, d]`.
///
/// # Errors
/// A width that `heads` does not divide.
pub fn split(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (b, t, m) = x.dims3()?;
    ops::swap(&x.reshape((b, t, heads, m / heads))?)
}

/// `[b, h, t, d]` → `[b, t, h * d]`.
///
/// # Errors
/// Another number of axes.
pub fn join(x: &Tensor) -> Result<Tensor> {
    let (b, h, t, d) = x.dims4()?;
    ops::swap(x)?.reshape((b, t, h * d))
}
