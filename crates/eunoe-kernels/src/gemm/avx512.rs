//! AVX-512: tiles of 14 rows by two vectors.

use super::kernel::{Shape, Tile};
use super::pack::{self, Order, Packer, Panels, Source};
use crate::transpose::transpose16;
use half::bf16;
use std::arch::x86_64::*;

pub(super) const LANES: usize = 16;
pub(super) const SHAPE: Shape = Shape { rows: 14, lanes: LANES, cols: 2 * LANES };

/// What a word of both operands adds to a sum; a value of it is proof that the processor has it.
pub(super) trait Step: Copy {
    /// `sum + left · right`, lane by lane.
    fn step(self, left: __m512, right: __m512, sum: __m512) -> __m512;
}

/// Made only inside functions that enable AVX-512.
#[derive(Clone, Copy)]
struct Floats(());

impl Step for Floats {
    #[inline(always)]
    fn step(self, left: __m512, right: __m512, sum: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_fmadd_ps(left, right, sum) }
    }
}

/// As `kernel::Kernel` says.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn tile(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { tile_of(Floats(()), t) }
}

/// # Safety
/// As `tile`.
#[inline(always)]
pub(super) unsafe fn tile_of<S: Step>(step: S, t: &Tile) {
    let is_packed = t.is_packed(LANES);
    // SAFETY: the caller's promise.
    unsafe {
        match (t.cols > LANES, is_packed) {
            (false, false) => by_rows::<S, 1, false>(step, t),
            (false, true) => by_rows::<S, 1, true>(step, t),
            (true, false) => by_rows::<S, 2, false>(step, t),
            (true, true) => by_rows::<S, 2, true>(step, t),
        }
    }
}

/// # Safety
/// As `tile`.
#[inline(always)]
unsafe fn by_rows<S: Step, const W: usize, const PACKED: bool>(step: S, t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match t.rows {
            1 => sums::<S, 1, W, PACKED>(step, t),
            2 => sums::<S, 2, W, PACKED>(step, t),
            3 => sums::<S, 3, W, PACKED>(step, t),
            4 => sums::<S, 4, W, PACKED>(step, t),
            5 => sums::<S, 5, W, PACKED>(step, t),
            6 => sums::<S, 6, W, PACKED>(step, t),
            7 => sums::<S, 7, W, PACKED>(step, t),
            8 => sums::<S, 8, W, PACKED>(step, t),
            9 => sums::<S, 9, W, PACKED>(step, t),
            10 => sums::<S, 10, W, PACKED>(step, t),
            11 => sums::<S, 11, W, PACKED>(step, t),
            12 => sums::<S, 12, W, PACKED>(step, t),
            13 => sums::<S, 13, W, PACKED>(step, t),
            14 => sums::<S, 14, W, PACKED>(step, t),
            rows => unreachable!("at most 14 rows, got {rows}"),
        }
    }
}

/// M rows by W vectors; `PACKED` where lanes lie side by side and steps follow each other.
///
/// # Safety
/// As `tile`.
#[inline(always)]
unsafe fn sums<S: Step, const M: usize, const W: usize, const PACKED: bool>(step: S, t: &Tile) {
    let (a_row, a_step) = if PACKED { (1, M) } else { (t.a_row, t.a_step) };
    let b_step = if PACKED { W * LANES } else { t.b_step };
    // SAFETY: the caller's promise; prefetches read nothing that the program sees.
    unsafe {
        for i in 0..M {
            for w in 0..W {
                _mm_prefetch::<_MM_HINT_T0>(t.c.add(i * t.c_row).wrapping_add(w * LANES).cast());
            }
        }
        let mut sums = [[_mm512_setzero_ps(); W]; M];
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.depth {
            let mut right = [_mm512_setzero_ps(); W];
            for w in 0..W {
                right[w] = _mm512_loadu_ps(b.add(w * LANES));
            }
            for i in 0..M {
                let left = _mm512_set1_ps(*a.add(i * a_row));
                for w in 0..W {
                    sums[i][w] = step.step(left, right[w], sums[i][w]);
                }
            }
            (a, b) = (a.wrapping_add(a_step), b.wrapping_add(b_step));
        }
        for w in 0..W {
            let lanes = (t.cols - w * LANES).min(LANES);
            let mask = (u16::MAX) >> (LANES - lanes);
            for i in 0..M {
                let at = t.c.add(i * t.c_row + w * LANES);
                let mut out = sums[i][w];
                if t.add {
                    out = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), out);
                }
                _mm512_mask_storeu_ps(at, mask, out);
            }
        }
    }
}

impl Packer<f32> for Floats {
    const LANES: usize = LANES;
    const STEPS: usize = LANES;
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn row(self, from: *const f32, step: usize, word: usize, out: *mut f32) {
        // SAFETY: the caller's promise; `self` proves AVX-512 F.
        unsafe { _mm512_storeu_ps(out, _mm512_loadu_ps(from.add(word * step))) }
    }

    #[inline(always)]
    unsafe fn square(self, from: *const f32, lane: usize, lanes: usize, out: *mut f32, width: usize) {
        // SAFETY: as above.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); LANES];
            for i in 0..LANES {
                rows[i] = _mm512_loadu_ps(from.add(i.min(lanes - 1) * lane));
            }
            let columns = transpose16(rows);
            for k in 0..LANES {
                _mm512_storeu_ps(out.add(k * width), columns[k]);
            }
        }
    }
}

/// Made only inside functions that enable AVX-512.
#[derive(Clone, Copy)]
struct Halves(());

impl Packer<bf16> for Halves {
    const LANES: usize = LANES;
    const STEPS: usize = LANES;
    const ORDER: Order = Order::Swapped;

    #[inline(always)]
    unsafe fn row(self, from: *const bf16, step: usize, word: usize, out: *mut f32) {
        // SAFETY: the caller's promise; `self` proves AVX-512 F.
        unsafe { _mm512_storeu_ps(out, _mm512_castsi512_ps(high(from.add((word ^ 1) * step)))) }
    }

    #[inline(always)]
    unsafe fn square(self, from: *const bf16, lane: usize, lanes: usize, out: *mut f32, width: usize) {
        // SAFETY: as above.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); LANES];
            for i in 0..LANES {
                rows[i] = _mm512_castsi512_ps(high(from.add(i.min(lanes - 1) * lane)));
            }
            let columns = transpose16(rows);
            for k in 0..LANES {
                _mm512_storeu_ps(out.add(k * width), columns[k ^ 1]);
            }
        }
    }
}

/// Sixteen values in the high halves of words.
///
/// # Safety
/// The processor has AVX-512 F, and sixteen values are there.
#[inline(always)]
pub(super) unsafe fn high(from: *const bf16) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn pack_floats(from: Source<'_, f32>, to: Panels, out: &mut [f32]) {
    pack::panels(Floats(()), from, to, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn pack_halves(from: Source<'_, bf16>, to: Panels, out: &mut [f32]) {
    pack::panels(Halves(()), from, to, out);
}
