//! AVX-512 VNNI: 16 rows in 16 lanes, four inputs at a time.

use super::acts::Tile;
use super::pack::{Group, header_bytes};
use super::{LANES, offset, scale};
use std::arch::x86_64::*;

/// As `scalar::int_sums`.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn int_sums<const BITS: usize, const SCALE: u8, const T: usize>(
    g: Group<'_>,
    x: Tile<'_>,
    sums: &mut [[f32; LANES]; T],
) {
    assert!(g.quants.len() == g.blocks * BITS * 64 && x.quants.len() == g.blocks * 32 * T);
    assert!(x.scales.len() == g.blocks * T);
    let mut acc = [_mm512_setzero_ps(); T];
    for b in 0..g.blocks {
        // SAFETY: block `b` of the quants, scales and inputs is inside the slices, by the assertions above and by
        // `group_bytes`, which sizes the scales.
        unsafe {
            let quants = g.quants.as_ptr().add(b * BITS * 64);
            let input = x.quants.as_ptr().add(b * 32 * T);
            let input_scales = x.scales.as_ptr().add(b * T);
            let s = Scales::load::<SCALE>(g, b);
            let mut int = [_mm512_setzero_si512(); T];
            for h in 0..2 {
                let mut dot = int;
                for t in 0..T {
                    let start = _mm512_set1_epi32(-offset(BITS, SCALE) * (*input_scales.add(t)).sums[h]);
                    dot[t] = if SCALE == scale::HALVES { start } else { _mm512_add_epi32(dot[t], start) };
                }
                for k in h * 4..h * 4 + 4 {
                    let w = unpack::<BITS>(quants, k);
                    for t in 0..T {
                        let four = input.add((k * T + t) * 4).cast::<i32>().read_unaligned();
                        dot[t] = _mm512_dpbusd_epi32(dot[t], w, _mm512_set1_epi32(four));
                    }
                }
                for t in 0..T {
                    int[t] = match SCALE {
                        scale::HALVES => _mm512_add_epi32(int[t], _mm512_mullo_epi32(dot[t], s.halves[h])),
                        _ => dot[t],
                    };
                }
            }
            for t in 0..T {
                let input = &*input_scales.add(t);
                let weight = _mm512_mul_ps(s.weight, _mm512_set1_ps(input.d));
                acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(int[t]), weight, acc[t]);
                if matches!(SCALE, scale::AFFINE | scale::SUPER) {
                    let sum = input.d * (input.sums[0] + input.sums[1]) as f32;
                    acc[t] = _mm512_fmadd_ps(s.min, _mm512_set1_ps(sum), acc[t]);
                }
            }
        }
    }
    for t in 0..T {
        // SAFETY: a row of sums is 16 floats.
        unsafe { _mm512_storeu_ps(sums[t].as_mut_ptr(), acc[t]) };
    }
}

/// The scales of one block, 16 rows wide.
struct Scales {
    weight: __m512,
    min: __m512,
    halves: [__m512i; 2],
}

impl Scales {
    /// # Safety
    /// `b` is a block of `g`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn load<const SCALE: u8>(g: Group<'_>, b: usize) -> Self {
        let zero = _mm512_setzero_ps();
        let mut s = Self { weight: zero, min: zero, halves: [_mm512_setzero_si512(); 2] };
        // SAFETY: the caller's promise; `group_bytes` sizes the region that these offsets address.
        unsafe {
            let p = g.scales.as_ptr();
            let half = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(p.add(at).cast()));
            match SCALE {
                scale::PLAIN => s.weight = half(b * 32),
                scale::AFFINE => (s.weight, s.min) = (half(b * 64), half(b * 64 + 32)),
                _ => {
                    let header = header_bytes(SCALE);
                    let sc = p.add(header * g.blocks.div_ceil(8) + b * 32);
                    let bytes = [_mm_loadu_si128(sc.cast()), _mm_loadu_si128(sc.add(16).cast())];
                    s.weight = half(b / 8 * header);
                    if SCALE == scale::SUPER {
                        let float = |v: __m128i| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v));
                        s.weight = _mm512_mul_ps(s.weight, float(bytes[0]));
                        let min = _mm512_mul_ps(half(b / 8 * header + 32), float(bytes[1]));
                        s.min = _mm512_xor_ps(min, _mm512_set1_ps(-0.0));
                    } else {
                        s.halves = [_mm512_cvtepi8_epi32(bytes[0]), _mm512_cvtepi8_epi32(bytes[1])];
                    }
                }
            }
        }
        s
    }
}

/// As `scalar::float_sums`.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn float_sums<const T: usize>(w: &[[f32; LANES]], x: &[f32], sums: &mut [[f32; LANES]; T]) {
    let mut acc = [_mm512_setzero_ps(); T];
    for (w, x) in w.iter().zip(x.as_chunks::<T>().0) {
        // SAFETY: `w` is 16 floats.
        let w = unsafe { _mm512_loadu_ps(w.as_ptr()) };
        for t in 0..T {
            acc[t] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[t]), acc[t]);
        }
    }
    for t in 0..T {
        // SAFETY: a row of sums is 16 floats.
        unsafe { _mm512_storeu_ps(sums[t].as_mut_ptr(), acc[t]) };
    }
}

/// Unsigned quants of the 4-byte group `g` of a packed block (layout: `pack`).
///
/// # Safety
/// `quants` points to a packed block and `g < 8`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn unpack<const BITS: usize>(quants: *const u8, g: usize) -> __m512i {
    // SAFETY: the caller's promise; a packed block is `BITS` vectors of 64 bytes.
    let load = |v: usize| unsafe { _mm512_loadu_si512(quants.add(v * 64).cast()) };
    if BITS == 8 {
        return load(g);
    }
    let pair = load(g / 2);
    let pair = if g.is_multiple_of(2) { pair } else { _mm512_srli_epi16::<4>(pair) };
    let low = _mm512_and_si512(pair, _mm512_set1_epi8(15));
    let (high, mask) = match BITS {
        5 => (shift_to_4(load(4), g), 0x10),
        6 => (shift_to_4(load(4 + g / 4), g % 4 * 2), 0x30),
        _ => return low,
    };
    _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(mask)))
}

/// Moves bit `from` of each byte to bit 4; bits that cross into the neighbour byte are masked off by the caller.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn shift_to_4(v: __m512i, from: usize) -> __m512i {
    if from <= 4 {
        _mm512_sll_epi16(v, _mm_cvtsi32_si128(4 - from as i32))
    } else {
        _mm512_srl_epi16(v, _mm_cvtsi32_si128(from as i32 - 4))
    }
}
