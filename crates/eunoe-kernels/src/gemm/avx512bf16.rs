//! AVX-512 BF16: as AVX-512, two values in each word.

use super::avx512::{self, LANES, Step};
use super::kernel::Tile;
use super::pack::{self, Order, Packer, Panels, Source};
use crate::transpose::transpose16;
use half::bf16;
use std::arch::x86_64::*;

/// Made only inside functions that enable AVX-512 and BF16.
#[derive(Clone, Copy)]
struct Pairs(());

impl Step for Pairs {
    #[inline(always)]
    fn step(self, left: __m512, right: __m512, sum: __m512) -> __m512 {
        // SAFETY: `self` proves BF16; a vector is 16 floats or 16 pairs.
        unsafe {
            let left = std::mem::transmute::<__m512, __m512bh>(left);
            let right = std::mem::transmute::<__m512, __m512bh>(right);
            _mm512_dpbf16_ps(sum, left, right)
        }
    }
}

/// As `kernel::Kernel` says.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn tile(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { avx512::tile_of(Pairs(()), t) }
}

impl Packer<bf16> for Pairs {
    const LANES: usize = LANES;
    const STEPS: usize = 2 * LANES;
    const ORDER: Order = Order::Pairs;

    #[inline(always)]
    unsafe fn row(self, from: *const bf16, step: usize, word: usize, out: *mut f32) {
        // SAFETY: the caller's promise; `self` proves AVX-512 F.
        unsafe {
            let even = _mm512_srli_epi32::<16>(avx512::high(from.add(2 * word * step)));
            let odd = avx512::high(from.add((2 * word + 1) * step));
            _mm512_storeu_ps(out, _mm512_castsi512_ps(_mm512_or_si512(even, odd)));
        }
    }

    #[inline(always)]
    unsafe fn square(self, from: *const bf16, lane: usize, lanes: usize, out: *mut f32, width: usize) {
        // SAFETY: as above; any bits are 16 floats, which are only moved.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); LANES];
            for i in 0..LANES {
                rows[i] = _mm512_loadu_ps(from.add(i.min(lanes - 1) * lane).cast());
            }
            let columns = transpose16(rows);
            for k in 0..LANES {
                _mm512_storeu_ps(out.add(k * width), columns[k]);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
pub(super) fn pack_pairs(from: Source<'_, bf16>, to: Panels, out: &mut [f32]) {
    pack::panels(Pairs(()), from, to, out);
}
