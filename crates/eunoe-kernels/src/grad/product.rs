//! Products of the small matrices of a tile, on the calling thread.
//!
//! Each value is one chain of fused multiply-adds in the order of the inner index, from 0 or from what stood there, in
//! every vector form.

use std::ops::Range;

use crate::Isa;

/// A matrix in memory: element (i, j) lies at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(super) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row: usize,
    col: usize,
}

impl<'a> Mat<'a> {
    /// Rows of `cols` values that start `stride` apart.
    #[inline(always)]
    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(
            rows == 0 || cols <= data.len() && (rows - 1) * stride <= data.len() - cols,
            "matrix in its slice"
        );
        Self { data, rows, cols, row: stride, col: 1 }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Some rows.
    #[inline(always)]
    pub(super) fn part(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows of a matrix");
        let at = (rows.start * self.row).min(self.data.len());
        Self { data: &self.data[at..], rows: rows.len(), ..self }
    }

    /// The transposed matrix, same memory.
    #[inline(always)]
    pub(super) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }
}

/// Columns of a block of sums.
const WIDTH: usize = 16;

/// `out = a b`, or `out += a b` with `add`; rows of `out` start `stride` apart, rows of `b` are contiguous.
pub(super) fn product(isa: Isa, a: Mat<'_>, b: Mat<'_>, out: &mut [f32], stride: usize, add: bool) {
    assert!(a.cols == b.rows && b.col == 1, "inner sizes, contiguous rows");
    debug_assert!(a.rows == 0 || b.cols == 0 || out.len() >= (a.rows - 1) * stride + b.cols, "sums fit");
    debug_assert!(b.cols <= stride, "rows of sums are apart");
    match isa {
        // SAFETY: vector variants of `Isa` are only made where the processor has them.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2(a, b, out, stride, add) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512(a, b, out, stride, add) },
        _ => panels::<4, Plain>(a, b, out, stride, add),
    }
}

/// Six rows of two vectors: 12 of 16 registers are sums.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(a: Mat<'_>, b: Mat<'_>, out: &mut [f32], stride: usize, add: bool) {
    panels::<6, Plain>(a, b, out, stride, add);
}

/// Twelve rows of one vector: as many sums as two units keep busy.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn avx512(a: Mat<'_>, b: Mat<'_>, out: &mut [f32], stride: usize, add: bool) {
    panels::<12, Wide>(a, b, out, stride, add);
}

/// `R` rows and 16 columns of sums at `at`.
trait Block {
    fn block<const R: usize>(
        a: Mat<'_>,
        b: Mat<'_>,
        out: &mut [f32],
        stride: usize,
        add: bool,
        at: [usize; 2],
    );
}

/// In loops that the compiler makes vectors of.
struct Plain;

impl Block for Plain {
    #[inline(always)]
    fn block<const R: usize>(
        a: Mat<'_>,
        b: Mat<'_>,
        out: &mut [f32],
        stride: usize,
        add: bool,
        at: [usize; 2],
    ) {
        block::<R>(a, b, out, stride, add, at);
    }
}

/// In intrinsics: twelve rows of plain sums are more than the compiler takes apart, and it computes one by one.
#[cfg(target_arch = "x86_64")]
struct Wide;

#[cfg(target_arch = "x86_64")]
impl Block for Wide {
    #[inline(always)]
    fn block<const R: usize>(
        a: Mat<'_>,
        b: Mat<'_>,
        out: &mut [f32],
        stride: usize,
        add: bool,
        at: [usize; 2],
    ) {
        // SAFETY: `avx512` alone asks for it, where the processor has the instructions.
        unsafe { wide::<R>(a, b, out, stride, add, at) }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn wide<const R: usize>(a: Mat<'_>, b: Mat<'_>, out: &mut [f32], stride: usize, add: bool, at: [usize; 2]) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let [i, j] = at;
    assert!(i + R <= a.rows && j + WIDTH <= b.cols && a.cols <= b.rows, "a block inside");
    let mut sums = [_mm512_setzero_ps(); R];
    if add {
        for r in 0..R {
            // SAFETY: a slice of 16 values.
            sums[r] = unsafe { _mm512_loadu_ps(out[(i + r) * stride + j..][..WIDTH].as_ptr()) };
        }
    }
    for k in 0..a.cols {
        // SAFETY: rows and columns are inside by the assertion, rows of `b` contiguous by that of `product`, and so all
        // in the slices by those of `Mat::new`.
        let row = unsafe { _mm512_loadu_ps(b.data.as_ptr().add(k * b.row + j)) };
        for r in 0..R {
            // SAFETY: as above.
            let factor = unsafe { *a.data.get_unchecked((i + r) * a.row + k * a.col) };
            sums[r] = _mm512_fmadd_ps(_mm512_set1_ps(factor), row, sums[r]);
        }
    }
    for r in 0..R {
        // SAFETY: a slice of 16 values.
        unsafe { _mm512_storeu_ps(out[(i + r) * stride + j..][..WIDTH].as_mut_ptr(), sums[r]) };
    }
}

#[inline(always)]
fn panels<const ROWS: usize, B: Block>(a: Mat<'_>, b: Mat<'_>, out: &mut [f32], stride: usize, add: bool) {
    let mut j = 0;
    while j + WIDTH <= b.cols {
        let mut i = 0;
        while i + ROWS <= a.rows {
            B::block::<ROWS>(a, b, out, stride, add, [i, j]);
            i += ROWS;
        }
        while i + 4 <= a.rows {
            B::block::<4>(a, b, out, stride, add, [i, j]);
            i += 4;
        }
        while i < a.rows {
            B::block::<1>(a, b, out, stride, add, [i, j]);
            i += 1;
        }
        j += WIDTH;
    }
    for j in j..b.cols {
        for i in 0..a.rows {
            let sum = &mut out[i * stride + j];
            let from = if add { *sum } else { 0.0 };
            *sum = (0..a.cols)
                .fold(from, |sum, k| a.data[i * a.row + k * a.col].mul_add(b.data[k * b.row + j], sum));
        }
    }
}

/// `R` rows and 16 columns of sums at `at`.
#[inline(always)]
fn block<const R: usize>(a: Mat<'_>, b: Mat<'_>, out: &mut [f32], stride: usize, add: bool, at: [usize; 2]) {
    let [i, j] = at;
    assert!(i + R <= a.rows && j + WIDTH <= b.cols && a.cols <= b.rows, "a block inside");
    let mut sums = [[0.0f32; WIDTH]; R];
    if add {
        for r in 0..R {
            sums[r].copy_from_slice(&out[(i + r) * stride + j..][..WIDTH]);
        }
    }
    for k in 0..a.cols {
        // SAFETY: rows and columns are inside by the assertion, rows of `b` contiguous by that of `product`, and so all
        // in the slices by those of `Mat::new`.
        let (b, a): (&[f32; WIDTH], [f32; R]) = unsafe {
            let b = b.data.as_ptr().add(k * b.row + j);
            (&*b.cast(), std::array::from_fn(|r| *a.data.get_unchecked((i + r) * a.row + k * a.col)))
        };
        for r in 0..R {
            for c in 0..WIDTH {
                sums[r][c] = a[r].mul_add(b[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        out[(i + r) * stride + j..][..WIDTH].copy_from_slice(&sums[r]);
    }
}

/// The transpose of `x` (rows contiguous) times `scale`: rows of `out` start `stride` apart, values up to it are 0.
pub(super) fn transpose(isa: Isa, x: Mat<'_>, scale: f32, out: &mut [f32], stride: usize) {
    debug_assert!(x.col == 1 && x.rows <= stride && out.len() >= x.cols * stride, "a transpose that fits");
    isa.run(
        #[inline(always)]
        || {
            for (j, out) in out.chunks_exact_mut(stride.max(1)).take(x.cols).enumerate() {
                for (i, out) in out[..x.rows].iter_mut().enumerate() {
                    *out = x.data[i * x.row + j] * scale;
                }
                out[x.rows..].fill(0.0);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near};
    use super::*;

    /// (1 2; 3 4)(5 6; 7 8) = (19 22; 43 50); the first factor transposed: (1 3; 2 4)(5 6; 7 8) = (26 30; 38 44).
    #[test]
    fn a_product_by_hand() {
        for isa in Isa::available() {
            let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
            let (a, b) = (Mat::new(&a, 2, 2, 2), Mat::new(&b, 2, 2, 2));
            let mut out = [f32::NAN; 5];
            product(isa, a, b, &mut out, 3, false);
            assert!(out[..2] == [19.0, 22.0] && out[2].is_nan() && out[3..] == [43.0, 50.0], "{out:?}");
            product(isa, a.t(), b, &mut out, 3, true);
            assert!(out[..2] == [45.0, 52.0] && out[3..] == [81.0, 94.0], "{out:?}");
        }
    }

    #[test]
    fn products_of_all_shapes_agree_with_f64_and_with_each_other() {
        let mut noise = Noise(1);
        for [m, k, n] in
            [[0, 3, 2], [2, 0, 3], [1, 1, 1], [5, 7, 15], [12, 9, 16], [23, 64, 33], [64, 17, 64]]
        {
            for transposed in [false, true] {
                let (a, b) = (noise.vec(m * k), noise.vec(k * (n + 1)));
                let first = if transposed { Mat::new(&a, k, m, m).t() } else { Mat::new(&a, m, k, k) };
                let at = |i: usize, l: usize| f64::from(a[if transposed { l * m + i } else { i * k + l }]);
                let sum = |i: usize, j: usize| {
                    (0..k).map(|l| at(i, l) * f64::from(b[l * (n + 1) + j])).sum::<f64>()
                };
                let want: Vec<f64> = (0..m * n).map(|x| sum(x / n, x % n)).collect();
                let of = |isa: Isa| {
                    let mut out = vec![f32::NAN; m * n];
                    product(isa, first, Mat::new(&b, k, n, n + 1), &mut out, n, false);
                    out
                };
                assert_near(&of(Isa::Scalar), &want, 1e-6, "product");
                for isa in Isa::available() {
                    assert_eq!(of(isa), of(Isa::Scalar), "{isa:?} {m} {k} {n}");
                }
            }
        }
    }

    #[test]
    fn a_transpose_is_scaled_and_padded() {
        let x: Vec<f32> = (0..6).map(|x| x as f32).collect();
        let mut out = [f32::NAN; 8];
        transpose(Isa::detect(), Mat::new(&x, 3, 2, 2), 2.0, &mut out, 4);
        assert_eq!(out, [0.0, 4.0, 8.0, 0.0, 2.0, 6.0, 10.0, 0.0]);
    }
}
