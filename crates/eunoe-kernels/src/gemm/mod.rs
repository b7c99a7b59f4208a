//! Dense products of floats, for training: `out[i, j] = sum_k a[i, k] b[k, j]`, over views with any strides.
//!
//! Operands are packed to panels, a few rows of `a` or columns of `b` side by side, and every panel of the one meets
//! every panel of the other in registers. What a value is does not depend on how: `k` is cut at places that follow from
//! its length alone, each part is one chain of fused steps from 0 in ascending `k` (in bf16 the odd value of each pair
//! before the even one, as the instruction does it), and parts are added in order. So strides, threads, products beside
//! it and instruction sets leave every bit as it is; the one exception is that AVX-512 BF16 takes subnormal numbers for 0.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod batch;
mod blocks;
mod kernel;
mod pack;
mod scalar;
mod side;
mod view;

pub use batch::Level;
pub use pack::Element;
pub use view::{Mat, Out};

use crate::{Isa, Pool};
use blocks::Product;
use eunoe_core::Result;

/// One product, by all threads of the pool. `out` is as high as `a` and as wide as `b`.
///
/// # Errors
/// [`eunoe_core::Error::Shape`] when sizes disagree or `out` is too small.
pub fn gemm<T: Element>(isa: Isa, pool: &Pool, a: Mat<'_, T>, b: Mat<'_, T>, out: Out<'_>) -> Result<()> {
    Product::new(isa, a, b, out, &[])?.run(Some(pool));
    Ok(())
}

/// Many products of the same sizes: `a`, `b` and `out` are those of the first, and every level repeats what is below it
/// at a distance of its own; as [`gemm`] says each of them alone.
///
/// # Errors
/// As [`gemm`], and when a product lies outside its data or two outputs overlap.
pub fn gemm_batch<T: Element>(
    isa: Isa,
    pool: &Pool,
    levels: &[Level],
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    out: Out<'_>,
) -> Result<()> {
    batch::run(pool, levels, Product::new(isa, a, b, out, levels)?);
    Ok(())
}

#[cfg(test)]
mod tests;
