//! The kernels compiled for AVX2, FMA and F16C.

use std::arch::x86_64::*;

use crate::math::Lanes;
use crate::transpose::transpose8;

use super::dots::{self, Search};
use super::form::Form;
use super::slots::{Buffers, TILE};
use super::tile::{self, Block, Partial, Peak, Update};

/// Made only inside functions that enable AVX2 and F16C.
#[derive(Clone, Copy)]
struct Avx2(());

impl Form for Avx2 {
    #[inline(always)]
    fn halves(self, halves: &[u8; 32]) -> Lanes {
        // SAFETY: 32 bytes are readable by the reference; `self` proves F16C; two vectors are 16 floats.
        unsafe {
            let at = halves.as_ptr().cast::<__m128i>();
            let low = _mm256_cvtph_ps(_mm_loadu_si128(at));
            let high = _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)));
            std::mem::transmute([low, high])
        }
    }

    #[inline(always)]
    fn bytes(self, bytes: &[i8; 16]) -> Lanes {
        // SAFETY: 16 bytes are readable by the reference; `self` proves AVX2; two vectors are 16 floats.
        unsafe {
            let all = _mm_loadu_si128(bytes.as_ptr().cast());
            let low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all));
            let high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(all)));
            std::mem::transmute([low, high])
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [Lanes; 16]) -> [Lanes; 16] {
        // SAFETY: `self` proves AVX; two vectors are 16 floats.
        unsafe {
            let rows: [[__m256; 2]; 16] = std::mem::transmute(rows);
            let mut columns = [[_mm256_setzero_ps(); 2]; 16];
            for (down, right) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let mut square = [_mm256_setzero_ps(); 8];
                for i in 0..8 {
                    square[i] = rows[8 * down + i][right];
                }
                let square = transpose8(square);
                for i in 0..8 {
                    columns[8 * right + i][down] = square[i];
                }
            }
            std::mem::transmute(columns)
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn partition(block: &Block<'_>, part: usize, buffers: &mut Buffers<'_>, out: &mut Partial<'_>) {
    tile::partition::<_, 1, 1>(Avx2(()), block, part, buffers, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn columns(
    block: &Block<'_>,
    first: usize,
    update: Update<'_>,
    buffers: &mut Buffers<'_>,
    columns: &mut [f32; TILE],
) {
    tile::columns::<_, 1, 1>(Avx2(()), block, first, update, buffers, columns);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn peaks(block: &Block<'_>, first: usize, buffers: &mut Buffers<'_>, best: &mut [Peak]) {
    tile::peaks::<_, 1, 1>(Avx2(()), block, first, buffers, best);
}

/// # Safety
/// As `dots::products`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dots(search: &Search<'_>, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { dots::products(Avx2(()), search, out) }
}
