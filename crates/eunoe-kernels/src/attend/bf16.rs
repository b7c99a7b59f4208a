//! Arithmetic in bf16: operands of eight significant bits, in pairs, and sums in f32.
//!
//! A step of a chain takes two products: `acc = fma(odd, odd, acc)`, then `acc = fma(even, even, acc)`, as the
//! instruction does. It takes subnormal numbers for 0 where plain arithmetic does not, so none may occur: nonzero keys
//! and values are at least [`LEAST_STORED`], nonzero queries and weights at least [`LEAST_LINE`]. Products are then
//! multiples of 2^-102 (2^-24 · 2^-64, each with seven more bits), and so are sums, rounded or not. What is left of an
//! output that was rescaled is at least [`LEAST_SUM`] or 0, a multiple of 2^-123: no sum falls below 2^-126.

pub(super) use crate::float16::{even, flush, nearest_bf16 as nearest, odd};
use crate::math::Lanes;

use super::form::Form;

/// Sixteen pairs: value 2 i in the low half of word i, value 2 i + 1 in the high half.
pub(super) type Pairs = [u32; 16];

/// 2^-24, the least f16 above 0.
pub(super) const LEAST_STORED: f32 = f32::from_bits((127 - 24) << 23);
/// 2^-64, the least weight that `math::exp2` gives.
pub(super) const LEAST_LINE: f32 = f32::from_bits((127 - 64) << 23);
/// 2^-100.
pub(super) const LEAST_SUM: f32 = f32::from_bits((127 - 100) << 23);

/// Words in row-major order, rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) data: &'a [u32],
    pub(super) stride: usize,
}

/// `c[m, cols] = (c or 0) + a[m, 2 k] · b[2 k, cols]`: words of `a` hold two values of a row, words of `b` two of a
/// column. `cols` is a multiple of 16, `m` at most `MOST_ROWS`; `W` is how many lanes-wide columns a block holds.
#[inline(always)]
pub(super) fn product<F: Form, const W: usize, const ADD: bool>(
    form: F,
    m: usize,
    a: Words<'_>,
    b: Words<'_>,
    k: usize,
    c: &mut [f32],
    cols: usize,
) {
    match m {
        1 => rows::<F, 1, W, ADD, false>(form, a, b, k, c, cols, 0),
        2 => rows::<F, 2, W, ADD, false>(form, a, b, k, c, cols, 0),
        3 => rows::<F, 3, W, ADD, false>(form, a, b, k, c, cols, 0),
        4 => rows::<F, 4, W, ADD, false>(form, a, b, k, c, cols, 0),
        5 => rows::<F, 5, W, ADD, false>(form, a, b, k, c, cols, 0),
        6 => rows::<F, 6, W, ADD, false>(form, a, b, k, c, cols, 0),
        _ => unreachable!("at most {} rows, got {m}", super::form::MOST_ROWS),
    }
}

/// One row and one pair of `product`, of whose values only the bits in `keep` are there.
#[inline(always)]
pub(super) fn half_step<F: Form, const W: usize>(
    form: F,
    a: Words<'_>,
    b: Words<'_>,
    c: &mut [f32],
    cols: usize,
    keep: u32,
) {
    rows::<F, 1, W, true, true>(form, a, b, 1, c, cols, keep);
}

#[allow(clippy::too_many_arguments, reason = "a kernel's operands and sizes")]
#[inline(always)]
fn rows<F: Form, const M: usize, const W: usize, const ADD: bool, const HALF: bool>(
    form: F,
    a: Words<'_>,
    b: Words<'_>,
    k: usize,
    c: &mut [f32],
    cols: usize,
    keep: u32,
) {
    if k == 0 {
        return;
    }
    assert!(a.data.len() >= (M - 1) * a.stride + k, "rows of a");
    assert!(b.data.len() >= (k - 1) * b.stride + cols, "rows of b");
    assert!(c.len() >= M * cols && cols.is_multiple_of(16), "rows of c");
    let mut col = 0;
    while col + 16 * W <= cols {
        // SAFETY: the assertions above hold for every column block below `cols`.
        unsafe { block::<F, M, W, ADD, HALF>(form, a, b, k, &mut c[col..], cols, col, keep) };
        col += 16 * W;
    }
    while col < cols {
        // SAFETY: as above; `cols` is a multiple of 16.
        unsafe { block::<F, M, 1, ADD, HALF>(form, a, b, k, &mut c[col..], cols, col, keep) };
        col += 16;
    }
}

/// # Safety
/// `a` holds M rows of k words, `b` k rows of col + 16 W, `c` M rows `cols` apart of 16 W.
#[allow(clippy::too_many_arguments, reason = "a kernel's operands and sizes")]
#[inline(always)]
unsafe fn block<F: Form, const M: usize, const W: usize, const ADD: bool, const HALF: bool>(
    form: F,
    a: Words<'_>,
    b: Words<'_>,
    k: usize,
    c: &mut [f32],
    cols: usize,
    col: usize,
    keep: u32,
) {
    // SAFETY: all offsets are inside by the caller's promise; reads and writes are the unaligned ones.
    unsafe {
        let (a_at, b_at, c_at) = (a.data.as_ptr(), b.data.as_ptr().add(col), c.as_mut_ptr());
        let mut sums = [[[0.0; 16]; W]; M];
        if ADD {
            for m in 0..M {
                for w in 0..W {
                    sums[m][w] = c_at.add(m * cols + 16 * w).cast::<Lanes>().read_unaligned();
                }
            }
        }
        for j in 0..k {
            let mut right = [[0; 16]; W];
            for w in 0..W {
                right[w] = b_at.add(j * b.stride + 16 * w).cast::<Pairs>().read_unaligned();
                if HALF {
                    for i in 0..16 {
                        right[w][i] &= keep;
                    }
                }
            }
            for m in 0..M {
                let left = [*a_at.add(m * a.stride + j); 16];
                for w in 0..W {
                    sums[m][w] = form.dot2(sums[m][w], left, right[w]);
                }
            }
        }
        for m in 0..M {
            for w in 0..W {
                c_at.add(m * cols + 16 * w).cast::<Lanes>().write_unaligned(sums[m][w]);
            }
        }
    }
}
