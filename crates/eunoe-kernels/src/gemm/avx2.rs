//! AVX2 and FMA: tiles of 6 rows by two vectors.

use super::kernel::{Shape, Tile};
use super::pack::{self, Order, Packer, Panels, Source};
use crate::transpose::transpose8;
use half::bf16;
use std::arch::x86_64::*;

const LANES: usize = 8;
pub(super) const SHAPE: Shape = Shape { rows: 6, lanes: LANES, cols: 2 * LANES };
/// Steps between two looks at the end of a loop.
const UNROLLED: usize = 4;

/// As `kernel::Kernel` says.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile(t: &Tile) {
    let is_packed = t.is_packed(LANES);
    // SAFETY: the caller's promise.
    unsafe {
        match (t.cols > LANES, is_packed) {
            (false, false) => by_rows::<1, false>(t),
            (false, true) => by_rows::<1, true>(t),
            (true, false) => by_rows::<2, false>(t),
            (true, true) => by_rows::<2, true>(t),
        }
    }
}

/// # Safety
/// As `tile`.
#[inline(always)]
unsafe fn by_rows<const W: usize, const PACKED: bool>(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match t.rows {
            1 => sums::<1, W, PACKED>(t),
            2 => sums::<2, W, PACKED>(t),
            3 => sums::<3, W, PACKED>(t),
            4 => sums::<4, W, PACKED>(t),
            5 => sums::<5, W, PACKED>(t),
            6 => sums::<6, W, PACKED>(t),
            rows => unreachable!("at most 6 rows, got {rows}"),
        }
    }
}

/// M rows by W vectors; `PACKED` where lanes lie side by side and steps follow each other.
///
/// # Safety
/// As `tile`.
#[inline(always)]
unsafe fn sums<const M: usize, const W: usize, const PACKED: bool>(t: &Tile) {
    let (a_row, a_step) = if PACKED { (1, M) } else { (t.a_row, t.a_step) };
    let b_step = if PACKED { W * LANES } else { t.b_step };
    // SAFETY: the caller's promise; prefetches read nothing that the program sees.
    unsafe {
        for i in 0..M {
            _mm_prefetch::<_MM_HINT_T0>(t.c.add(i * t.c_row).cast());
            _mm_prefetch::<_MM_HINT_T0>(t.c.add(i * t.c_row + t.cols - 1).cast());
        }
        let mut sums = [[_mm256_setzero_ps(); W]; M];
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.depth / UNROLLED {
            for _ in 0..UNROLLED {
                step(&mut sums, a, a_row, b);
                (a, b) = (a.wrapping_add(a_step), b.wrapping_add(b_step));
            }
        }
        for _ in 0..t.depth % UNROLLED {
            step(&mut sums, a, a_row, b);
            (a, b) = (a.wrapping_add(a_step), b.wrapping_add(b_step));
        }
        store(t, sums);
    }
}

/// # Safety
/// The processor has AVX2 and FMA; M values of `a` and W vectors of `b` are there.
#[inline(always)]
unsafe fn step<const M: usize, const W: usize>(
    sums: &mut [[__m256; W]; M],
    a: *const f32,
    a_row: usize,
    b: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut right = [_mm256_setzero_ps(); W];
        for w in 0..W {
            right[w] = _mm256_loadu_ps(b.add(w * LANES));
        }
        for i in 0..M {
            let left = _mm256_broadcast_ss(&*a.add(i * a_row));
            for w in 0..W {
                sums[i][w] = _mm256_fmadd_ps(left, right[w], sums[i][w]);
            }
        }
    }
}

/// # Safety
/// As `tile`.
#[inline(always)]
unsafe fn store<const M: usize, const W: usize>(t: &Tile, sums: [[__m256; W]; M]) {
    // SAFETY: the caller's promise; lanes past the last column are neither read nor written.
    unsafe {
        let whole = if t.cols == W * LANES { W } else { W - 1 };
        let mask = first_lanes(t.cols - (W - 1) * LANES);
        for i in 0..M {
            for w in 0..W {
                let at = t.c.add(i * t.c_row + w * LANES);
                match (w < whole, t.add) {
                    (true, false) => _mm256_storeu_ps(at, sums[i][w]),
                    (true, true) => _mm256_storeu_ps(at, _mm256_add_ps(_mm256_loadu_ps(at), sums[i][w])),
                    (false, false) => _mm256_maskstore_ps(at, mask, sums[i][w]),
                    (false, true) => {
                        let old = _mm256_maskload_ps(at, mask);
                        _mm256_maskstore_ps(at, mask, _mm256_add_ps(old, sums[i][w]));
                    }
                }
            }
        }
    }
}

/// All bits of the first `lanes` lanes, of at most eight.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn first_lanes(lanes: usize) -> __m256i {
    const ONES: [i32; 2 * LANES] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: eight words from place 8 - lanes on are inside.
    unsafe { _mm256_loadu_si256(ONES[LANES - lanes.min(LANES)..].as_ptr().cast()) }
}

/// Made only inside functions that enable AVX2.
#[derive(Clone, Copy)]
struct Floats(());

impl Packer<f32> for Floats {
    const LANES: usize = LANES;
    const STEPS: usize = LANES;
    const ORDER: Order = Order::Plain;

    #[inline(always)]
    unsafe fn row(self, from: *const f32, step: usize, word: usize, out: *mut f32) {
        // SAFETY: the caller's promise; `self` proves AVX.
        unsafe { _mm256_storeu_ps(out, _mm256_loadu_ps(from.add(word * step))) }
    }

    #[inline(always)]
    unsafe fn square(self, from: *const f32, lane: usize, lanes: usize, out: *mut f32, width: usize) {
        // SAFETY: as above.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); LANES];
            for i in 0..LANES {
                rows[i] = _mm256_loadu_ps(from.add(i.min(lanes - 1) * lane));
            }
            let columns = transpose8(rows);
            for k in 0..LANES {
                _mm256_storeu_ps(out.add(k * width), columns[k]);
            }
        }
    }
}

/// Made only inside functions that enable AVX2.
#[derive(Clone, Copy)]
struct Halves(());

impl Packer<bf16> for Halves {
    const LANES: usize = LANES;
    const STEPS: usize = LANES;
    const ORDER: Order = Order::Swapped;

    #[inline(always)]
    unsafe fn row(self, from: *const bf16, step: usize, word: usize, out: *mut f32) {
        // SAFETY: the caller's promise; `self` proves AVX2.
        unsafe { _mm256_storeu_ps(out, widened(from.add((word ^ 1) * step))) }
    }

    #[inline(always)]
    unsafe fn square(self, from: *const bf16, lane: usize, lanes: usize, out: *mut f32, width: usize) {
        // SAFETY: as above.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); LANES];
            for i in 0..LANES {
                rows[i] = widened(from.add(i.min(lanes - 1) * lane));
            }
            let columns = transpose8(rows);
            for k in 0..LANES {
                _mm256_storeu_ps(out.add(k * width), columns[k ^ 1]);
            }
        }
    }
}

/// # Safety
/// The processor has AVX2, and eight values are there.
#[inline(always)]
unsafe fn widened(from: *const bf16) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pack_floats(from: Source<'_, f32>, to: Panels, out: &mut [f32]) {
    pack::panels(Floats(()), from, to, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pack_halves(from: Source<'_, bf16>, to: Panels, out: &mut [f32]) {
    pack::panels(Halves(()), from, to, out);
}
