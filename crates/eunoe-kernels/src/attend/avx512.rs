//! The kernels compiled for AVX-512.

use std::arch::x86_64::*;

use crate::math::Lanes;
use crate::transpose::transpose16;

use super::bf16::Pairs;
use super::dots::{self, Search};
use super::form::Form;
use super::slots::{Buffers, TILE};
use super::tile::{self, Block, Partial, Peak, Update};

/// Made only inside functions that enable AVX-512.
#[derive(Clone, Copy)]
pub(super) struct Avx512(pub(super) ());

impl Form for Avx512 {
    #[inline(always)]
    fn halves(self, halves: &[u8; 32]) -> Lanes {
        // SAFETY: 32 bytes are readable by the reference; `self` proves AVX-512 F; a vector is 16 floats.
        unsafe { std::mem::transmute(_mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn bytes(self, bytes: &[i8; 16]) -> Lanes {
        // SAFETY: 16 bytes are readable by the reference; `self` proves AVX-512 F; a vector is 16 floats.
        unsafe {
            let wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            std::mem::transmute(_mm512_cvtepi32_ps(wide))
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [Lanes; 16]) -> [Lanes; 16] {
        // SAFETY: `self` proves AVX-512 F; a vector is 16 floats.
        unsafe { std::mem::transmute(transpose16(std::mem::transmute::<[Lanes; 16], [__m512; 16]>(rows))) }
    }

    #[inline(always)]
    fn interleave(self, low: Pairs, high: Pairs) -> [Pairs; 2] {
        const FIRST: [u16; 32] = alternate(0);
        const LAST: [u16; 32] = alternate(16);
        // SAFETY: `self` proves AVX-512 BW; a vector is 16 words or 32 half words.
        unsafe {
            let low = std::mem::transmute::<Pairs, __m512i>(low);
            let high = std::mem::transmute::<Pairs, __m512i>(high);
            let first = std::mem::transmute::<[u16; 32], __m512i>(FIRST);
            let last = std::mem::transmute::<[u16; 32], __m512i>(LAST);
            let first = _mm512_permutex2var_epi16(low, first, high);
            std::mem::transmute([first, _mm512_permutex2var_epi16(low, last, high)])
        }
    }
}

/// Half words `from`, `from` + 1, … of two vectors in turn.
const fn alternate(from: u16) -> [u16; 32] {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 16 {
        order[2 * i] = from + i as u16;
        order[2 * i + 1] = 32 + from + i as u16;
        i += 1;
    }
    order
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn partition(block: &Block<'_>, part: usize, buffers: &mut Buffers<'_>, out: &mut Partial<'_>) {
    tile::partition::<_, 4, 2>(Avx512(()), block, part, buffers, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn columns(
    block: &Block<'_>,
    first: usize,
    update: Update<'_>,
    buffers: &mut Buffers<'_>,
    columns: &mut [f32; TILE],
) {
    tile::columns::<_, 4, 2>(Avx512(()), block, first, update, buffers, columns);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) fn peaks(block: &Block<'_>, first: usize, buffers: &mut Buffers<'_>, best: &mut [Peak]) {
    tile::peaks::<_, 4, 2>(Avx512(()), block, first, buffers, best);
}

/// # Safety
/// As `dots::products`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
pub(super) unsafe fn dots(search: &Search<'_>, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { dots::products(Avx512(()), search, out) }
}
