//! The kernels compiled for AVX-512.

use std::arch::x86_64::*;

use crate::math::Lanes;

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
        unsafe {
            let rows: [__m512; 16] = std::mem::transmute(rows);
            let mut pairs = [_mm512_setzero_ps(); 16];
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
            }
            // quads[4 q + c]: columns c, c + 4, c + 8, c + 12 of rows 4 q … 4 q + 3, one per 128 bits.
            let mut quads = [_mm512_setzero_ps(); 16];
            for q in 0..4 {
                for half in 0..2 {
                    let low = _mm512_castps_pd(pairs[4 * q + half]);
                    let high = _mm512_castps_pd(pairs[4 * q + 2 + half]);
                    quads[4 * q + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                    quads[4 * q + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
                }
            }
            let mut columns = [_mm512_setzero_ps(); 16];
            for c in 0..4 {
                let even_low = _mm512_shuffle_f32x4::<0b10_00_10_00>(quads[c], quads[4 + c]);
                let odd_low = _mm512_shuffle_f32x4::<0b11_01_11_01>(quads[c], quads[4 + c]);
                let even_high = _mm512_shuffle_f32x4::<0b10_00_10_00>(quads[8 + c], quads[12 + c]);
                let odd_high = _mm512_shuffle_f32x4::<0b11_01_11_01>(quads[8 + c], quads[12 + c]);
                columns[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(even_low, even_high);
                columns[c + 8] = _mm512_shuffle_f32x4::<0b11_01_11_01>(even_low, even_high);
                columns[c + 4] = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd_low, odd_high);
                columns[c + 12] = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd_low, odd_high);
            }
            std::mem::transmute(columns)
        }
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
