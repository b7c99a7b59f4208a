//! Squares of floats whose rows become columns, in registers.

use std::arch::x86_64::*;

/// # Safety
/// The processor has AVX.
#[inline(always)]
pub(crate) unsafe fn transpose8(rows: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: register shuffles; the caller guarantees AVX.
    unsafe {
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        // quads[4 q + c]: columns c and c + 4 of rows 4 q … 4 q + 3, one per 128 bits.
        let mut quads = rows;
        for q in 0..2 {
            for half in 0..2 {
                let (low, high) = (pairs[4 * q + half], pairs[4 * q + 2 + half]);
                quads[4 * q + 2 * half] = _mm256_shuffle_ps::<0b01_00_01_00>(low, high);
                quads[4 * q + 2 * half + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(low, high);
            }
        }
        let mut columns = rows;
        for c in 0..4 {
            columns[c] = _mm256_permute2f128_ps::<0x20>(quads[c], quads[4 + c]);
            columns[c + 4] = _mm256_permute2f128_ps::<0x31>(quads[c], quads[4 + c]);
        }
        columns
    }
}

/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
pub(crate) unsafe fn transpose16(rows: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: register shuffles; the caller guarantees AVX-512 F.
    unsafe {
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
        columns
    }
}
