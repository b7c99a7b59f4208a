//! The few things that plain loops over arrays do not express well, per instruction set, and the product kernel
//! that they do: `c += a · b`, each element one chain of fused steps in ascending k, whatever the block shape.

use crate::float16::f16_to_f32;
use crate::math::Lanes;

use super::bf16::{self, Pairs};

/// An instruction set; a value of it is proof that the processor has it.
pub(super) trait Form: Copy {
    /// Sixteen IEEE halves.
    fn halves(self, halves: &[u8; 32]) -> Lanes;
    /// Sixteen signed bytes.
    fn bytes(self, bytes: &[i8; 16]) -> Lanes;
    /// Rows become columns.
    fn transpose(self, rows: [Lanes; 16]) -> [Lanes; 16];

    /// 32 values in pairs, each rounded to the nearest bf16.
    #[inline(always)]
    fn round(self, low: Lanes, high: Lanes) -> Pairs {
        let mut halves = [0; 32];
        for i in 0..16 {
            halves[i] = bf16::nearest(low[i]) as u16;
            halves[16 + i] = bf16::nearest(high[i]) as u16;
        }
        let mut pairs = [0; 16];
        for i in 0..16 {
            pairs[i] = u32::from(halves[2 * i]) | u32::from(halves[2 * i + 1]) << 16;
        }
        pairs
    }

    /// Pairs of one vector's values become pairs of two vectors: of values 0 … 15, and of values 16 … 31.
    #[inline(always)]
    fn interleave(self, low: Pairs, high: Pairs) -> [Pairs; 2] {
        let half = |x: &Pairs, i: usize| x[i / 2] >> (16 * (i % 2)) & 0xFFFF;
        let mut both = [[0; 16]; 2];
        for i in 0..32 {
            both[i / 16][i % 16] = half(&low, i) | half(&high, i) << 16;
        }
        both
    }

    /// `acc + a · b`: first the odd values of the pairs, then the even ones, each a fused step.
    #[inline(always)]
    fn dot2(self, mut acc: Lanes, a: Pairs, b: Pairs) -> Lanes {
        for i in 0..16 {
            acc[i] = bf16::odd(a[i]).mul_add(bf16::odd(b[i]), acc[i]);
            acc[i] = bf16::even(a[i]).mul_add(bf16::even(b[i]), acc[i]);
        }
        acc
    }
}

/// Plain Rust: the reference.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Form for Scalar {
    #[inline(always)]
    fn halves(self, halves: &[u8; 32]) -> Lanes {
        let halves = halves.as_chunks().0;
        std::array::from_fn(|i| f16_to_f32(u16::from_ne_bytes(halves[i])))
    }

    #[inline(always)]
    fn bytes(self, bytes: &[i8; 16]) -> Lanes {
        bytes.map(f32::from)
    }

    #[inline(always)]
    fn transpose(self, rows: [Lanes; 16]) -> [Lanes; 16] {
        std::array::from_fn(|j| std::array::from_fn(|i| rows[i][j]))
    }
}

/// Rows of `a` that one register block of `product` takes.
pub(super) const MOST_ROWS: usize = 6;

/// A matrix in row-major order whose rows start `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

/// `c[m, cols] = (c or 0) + a[m, k] · b[k, cols]`; `cols` is a multiple of 16, `m` at most `MOST_ROWS`.
/// `W` is how many lanes-wide columns a register block holds.
#[inline(always)]
pub(super) fn product<const W: usize, const ADD: bool>(
    m: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    k: usize,
    c: &mut [f32],
    cols: usize,
) {
    match m {
        1 => rows::<1, W, ADD>(a, b, k, c, cols),
        2 => rows::<2, W, ADD>(a, b, k, c, cols),
        3 => rows::<3, W, ADD>(a, b, k, c, cols),
        4 => rows::<4, W, ADD>(a, b, k, c, cols),
        5 => rows::<5, W, ADD>(a, b, k, c, cols),
        6 => rows::<6, W, ADD>(a, b, k, c, cols),
        _ => unreachable!("at most {MOST_ROWS} rows, got {m}"),
    }
}

#[inline(always)]
fn rows<const M: usize, const W: usize, const ADD: bool>(
    a: Matrix<'_>,
    b: Matrix<'_>,
    k: usize,
    c: &mut [f32],
    cols: usize,
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
        unsafe { block::<M, W, ADD>(a, b, k, c, cols, col) };
        col += 16 * W;
    }
    while col < cols {
        // SAFETY: as above; `cols` is a multiple of 16.
        unsafe { block::<M, 1, ADD>(a, b, k, c, cols, col) };
        col += 16;
    }
}

/// # Safety
/// `a` holds M rows of k, `b` k rows of col + 16 W, `c` M rows of `cols` ≥ col + 16 W.
#[inline(always)]
unsafe fn block<const M: usize, const W: usize, const ADD: bool>(
    a: Matrix<'_>,
    b: Matrix<'_>,
    k: usize,
    c: &mut [f32],
    cols: usize,
    col: usize,
) {
    // SAFETY: all offsets are inside by the caller's promise; arrays of f32 have no alignment beyond f32's, and
    // reads and writes are the unaligned ones.
    unsafe {
        let (a_at, b_at, c_at) = (a.data.as_ptr(), b.data.as_ptr().add(col), c.as_mut_ptr().add(col));
        let mut sums = [[[0.0; 16]; W]; M];
        if ADD {
            for m in 0..M {
                for w in 0..W {
                    sums[m][w] = c_at.add(m * cols + 16 * w).cast::<Lanes>().read_unaligned();
                }
            }
        }
        for j in 0..k {
            let mut right = [[0.0; 16]; W];
            for w in 0..W {
                right[w] = b_at.add(j * b.stride + 16 * w).cast::<Lanes>().read_unaligned();
            }
            for m in 0..M {
                let left = *a_at.add(m * a.stride + j);
                for w in 0..W {
                    for i in 0..16 {
                        sums[m][w][i] = right[w][i].mul_add(left, sums[m][w][i]);
                    }
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
