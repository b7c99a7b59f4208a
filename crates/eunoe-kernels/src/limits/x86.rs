//! The loops of `limits` in AVX2 and AVX-512.

use std::arch::asm;
use std::arch::x86_64::*;

use super::CHAINS;

/// Bytes ahead that are asked for; past the window in which the processor finds misses by itself.
const AHEAD: usize = 2048;

/// The wrapping sum of the 64-bit words of `bytes`, whole groups of 512 bytes.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn sum_512(bytes: &[u8]) -> u64 {
    let mut sums = [_mm512_setzero_si512(); 8];
    for group in bytes.as_chunks::<512>().0 {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: line `i` of the eight of a group; a prefetch may point anywhere.
            unsafe {
                let line = group.as_ptr().add(i * 64);
                _mm_prefetch::<_MM_HINT_NTA>(line.wrapping_add(AHEAD).cast());
                *sum = _mm512_add_epi64(*sum, _mm512_loadu_si512(line.cast()));
            }
        }
    }
    sums.into_iter().fold(0, |a, sum| a.wrapping_add(_mm512_reduce_add_epi64(sum) as u64))
}

/// As [`sum_512`].
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn sum_256(bytes: &[u8]) -> u64 {
    let mut sums = [_mm256_setzero_si256(); 8];
    for group in bytes.as_chunks::<256>().0 {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: half line `i` of the eight of a group; a prefetch may point anywhere.
            unsafe {
                let line = group.as_ptr().add(i * 32);
                if i % 2 == 0 {
                    _mm_prefetch::<_MM_HINT_NTA>(line.wrapping_add(AHEAD).cast());
                }
                *sum = _mm256_add_epi64(*sum, _mm256_loadu_si256(line.cast()));
            }
        }
    }
    let words = sums.into_iter().fold(_mm256_setzero_si256(), |a, sum| _mm256_add_epi64(a, sum));
    // SAFETY: both are 32 plain bytes.
    let words: [u64; 4] = unsafe { std::mem::transmute(words) };
    words.into_iter().fold(0, u64::wrapping_add)
}

/// `rounds` of 12 chains of `vpdpbusd`: four products a lane.
///
/// # Safety
/// The processor has AVX-512 F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn int8_512(rounds: u32) -> u64 {
    let mut sums = [_mm512_setzero_si512(); CHAINS];
    let mut ones = _mm512_set1_epi8(1);
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: no instruction; the compiler forgets what it knows of the value, and merges no chains.
            unsafe { asm!("/* {0} */", inout(zmm_reg) ones, options(nomem, nostack, preserves_flags)) };
            *sum = _mm512_dpbusd_epi32(*sum, ones, ones);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_epi32(sum) as u64).sum()
}

/// As [`int8_512`] with the three instructions that AVX2 needs.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn int8_256(rounds: u32) -> u64 {
    let mut sums = [_mm256_setzero_si256(); CHAINS];
    let (mut ones, pairs) = (_mm256_set1_epi8(1), _mm256_set1_epi16(1));
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: as in `int8_512`.
            unsafe { asm!("/* {0} */", inout(ymm_reg) ones, options(nomem, nostack, preserves_flags)) };
            let four = _mm256_madd_epi16(_mm256_maddubs_epi16(ones, ones), pairs);
            *sum = _mm256_add_epi32(*sum, four);
        }
    }
    sums.into_iter().flat_map(|sum| lanes(sum)).map(|lane| lane as u64).sum()
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes(sum: __m256i) -> [i32; 8] {
    // SAFETY: both are 32 plain bytes.
    unsafe { std::mem::transmute(sum) }
}

/// `rounds` of 12 chains of FMA.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn f32_512(rounds: u32) -> u64 {
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    let mut ones = _mm512_set1_ps(1.0);
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: as in `int8_512`.
            unsafe { asm!("/* {0} */", inout(zmm_reg) ones, options(nomem, nostack, preserves_flags)) };
            *sum = _mm512_fmadd_ps(ones, ones, *sum);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_epi64(exact(sum)) as u64).sum()
}

/// `rounds` of 12 chains of FMA.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn f32_256(rounds: u32) -> u64 {
    let mut sums = [_mm256_setzero_ps(); CHAINS];
    let mut ones = _mm256_set1_ps(1.0);
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: as in `int8_512`.
            unsafe { asm!("/* {0} */", inout(ymm_reg) ones, options(nomem, nostack, preserves_flags)) };
            *sum = _mm256_fmadd_ps(ones, ones, *sum);
        }
    }
    sums.into_iter().flat_map(|sum| lanes(_mm256_cvtps_epi32(sum))).map(|lane| lane as u64).sum()
}

/// `rounds` of 12 chains of `vdpbf16ps`: two products a lane.
///
/// # Safety
/// The processor has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn bf16_512(rounds: u32) -> u64 {
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    let mut ones = _mm512_set1_epi16(0x3f80);
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: as in `int8_512`; any bits are 32 bf16 values.
            let pairs: __m512bh = unsafe {
                asm!("/* {0} */", inout(zmm_reg) ones, options(nomem, nostack, preserves_flags));
                std::mem::transmute(ones)
            };
            *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
        }
    }
    sums.into_iter().map(|sum| _mm512_reduce_add_epi64(exact(sum)) as u64).sum()
}

/// Lanes that hold whole numbers, added in pairs to 64 bits.
#[inline]
#[target_feature(enable = "avx512f")]
fn exact(sum: __m512) -> __m512i {
    let lanes = _mm512_cvtps_epi32(sum);
    let odd = _mm512_srli_epi64::<32>(lanes);
    let even = _mm512_and_si512(lanes, _mm512_set1_epi64(0xffff_ffff));
    _mm512_add_epi64(odd, even)
}
