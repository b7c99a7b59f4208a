//! AVX-512 VNNI: 16 rows in 16 lanes, four inputs at a time.

use super::acts::{Sums, Tile};
use super::pack::{Chunk, Group, chunk_bytes, header_bytes};
use super::panel::{PanelBlock, is_biased};
use super::{LANES, Task, first_rows, float, offset, scale};
use std::arch::x86_64::*;

/// Bytes from what a product of one row reads to what it asks the memory for.
pub(super) const AHEAD: usize = 6144;

/// As `scalar::direct`.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn direct<const BITS: usize, const SCALE: u8, const T: usize>(
    task: &Task<'_>,
    sums: &mut [Sums],
) {
    for (group, tile, sums) in task.cells(sums) {
        // SAFETY: the caller's promise.
        unsafe { int_sums::<BITS, SCALE, T>(task.w.group(group), task.x.quantised(tile), first_rows(sums)) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn int_sums<const BITS: usize, const SCALE: u8, const T: usize>(
    g: Group<'_>,
    x: Tile<'_>,
    sums: &mut [[f32; LANES]; T],
) {
    assert!(x.quants.len() == g.blocks * 32 * T);
    assert!(x.scales.len() == g.blocks * 2 * T && x.starts.len() == g.blocks * 2 * T);
    let mut acc = [_mm512_setzero_ps(); T];
    let (mut input, mut scales, mut starts) = (x.quants.as_ptr(), x.scales.as_ptr(), x.starts.as_ptr());
    for c in 0..g.chunks() {
        let chunk = g.chunk(BITS, SCALE, c);
        for b in 0..chunk.blocks {
            // SAFETY: `Group::chunk` sized quants and scales for its blocks; the inputs hold as many blocks as the
            // group, by the assertions above.
            unsafe {
                let quants = chunk.quants.as_ptr().add(b * BITS * 64);
                if T == 1 {
                    let ahead =
                        chunk.scales.as_ptr().wrapping_add(AHEAD + b * chunk_bytes(BITS, SCALE, 8) / 8);
                    for line in 0..=BITS {
                        _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * 64).cast());
                    }
                }
                let s = Scales::load::<SCALE>(chunk, b);
                let mut int = [_mm512_setzero_si512(); T];
                for h in 0..2 {
                    let mut dot = int;
                    for t in 0..T {
                        let start = _mm512_set1_epi32(start(offset(BITS, SCALE), *starts.add(h * T + t)));
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
                            scale::HALVES => {
                                _mm512_add_epi32(int[t], _mm512_mullo_epi32(dot[t], s.halves[h]))
                            }
                            _ => dot[t],
                        };
                    }
                }
                for t in 0..T {
                    let weight = _mm512_mul_ps(s.weight, _mm512_set1_ps(*scales.add(t)));
                    acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(int[t]), weight, acc[t]);
                    if matches!(SCALE, scale::AFFINE | scale::SUPER) {
                        acc[t] = _mm512_fmadd_ps(s.min, _mm512_set1_ps(*scales.add(T + t)), acc[t]);
                    }
                }
                (input, scales, starts) = (input.add(32 * T), scales.add(2 * T), starts.add(2 * T));
            }
        }
    }
    for t in 0..T {
        // SAFETY: a row of sums is 16 floats.
        unsafe { _mm512_storeu_ps(sums[t].as_mut_ptr(), acc[t]) };
    }
}

/// The integer that takes `offset` off every quant, from the one that takes `BIAS`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
fn start(offset: i32, biased: i32) -> i32 {
    match offset {
        0 => 0,
        _ => biased / (super::panel::BIAS / offset),
    }
}

/// As `scalar::panel_sums`.
///
/// # Safety
/// The processor has AVX-512 F, BW, VL, DQ and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn panel_sums<const SCALE: u8>(panel: &[PanelBlock], x: Tile<'_>, sums: &mut Sums) {
    const T: usize = 8;
    assert!(x.quants.len() == panel.len() * 32 * T);
    assert!(x.scales.len() == panel.len() * 2 * T && x.starts.len() == panel.len() * 2 * T);
    let (mut input, mut scales, mut starts) = (x.quants.as_ptr(), x.scales.as_ptr(), x.starts.as_ptr());
    // SAFETY: a row of sums is 16 floats, as are the scales of a panel; the inputs hold as many blocks as the panel,
    // by the assertions above.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); T];
        for t in 0..T {
            acc[t] = _mm512_loadu_ps(sums[t].as_ptr());
        }
        for w in panel {
            let weight = _mm512_load_ps(w.scales.weight.as_ptr());
            let min = _mm512_load_ps(w.scales.min.as_ptr());
            let mut int = [_mm512_setzero_si512(); T];
            for h in 0..2 {
                let mut dot = int;
                if is_biased(SCALE) {
                    for t in 0..T {
                        let start = _mm512_set1_epi32(*starts.add(h * T + t));
                        dot[t] = if SCALE == scale::HALVES { start } else { _mm512_add_epi32(dot[t], start) };
                    }
                }
                for k in h * 4..h * 4 + 4 {
                    let quants = _mm512_load_si512(w.quants[k].as_ptr().cast());
                    for t in 0..T {
                        let four = input.add((k * T + t) * 4).cast::<i32>().read_unaligned();
                        dot[t] = _mm512_dpbusd_epi32(dot[t], quants, _mm512_set1_epi32(four));
                    }
                }
                let half = _mm512_load_si512(w.scales.halves[h].as_ptr().cast());
                for t in 0..T {
                    int[t] = match SCALE {
                        scale::HALVES => _mm512_add_epi32(int[t], _mm512_mullo_epi32(dot[t], half)),
                        _ => dot[t],
                    };
                }
            }
            for t in 0..T {
                let weight = _mm512_mul_ps(weight, _mm512_set1_ps(*scales.add(t)));
                acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(int[t]), weight, acc[t]);
                if !is_biased(SCALE) {
                    acc[t] = _mm512_fmadd_ps(min, _mm512_set1_ps(*scales.add(T + t)), acc[t]);
                }
            }
            (input, scales, starts) = (input.add(32 * T), scales.add(2 * T), starts.add(2 * T));
        }
        for t in 0..T {
            _mm512_storeu_ps(sums[t].as_mut_ptr(), acc[t]);
        }
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
    /// `b` is a block of `chunk`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    unsafe fn load<const SCALE: u8>(chunk: Chunk<'_>, b: usize) -> Self {
        let zero = _mm512_setzero_ps();
        let mut s = Self { weight: zero, min: zero, halves: [_mm512_setzero_si512(); 2] };
        // SAFETY: the caller's promise; `pack::scale_bytes` sizes the region that these offsets address.
        unsafe {
            let p = chunk.scales.as_ptr();
            let half = |at: usize| _mm512_cvtph_ps(_mm256_loadu_si256(p.add(at).cast()));
            match SCALE {
                scale::PLAIN => s.weight = half(b * 32),
                scale::AFFINE => (s.weight, s.min) = (half(b * 64), half(b * 64 + 32)),
                _ => {
                    let sc = p.add(header_bytes(SCALE) + b * 32);
                    let bytes = [_mm_loadu_si128(sc.cast()), _mm_loadu_si128(sc.add(16).cast())];
                    s.weight = half(0);
                    if SCALE == scale::SUPER {
                        let float = |v: __m128i| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(v));
                        s.weight = _mm512_mul_ps(s.weight, float(bytes[0]));
                        let min = _mm512_mul_ps(half(32), float(bytes[1]));
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
pub(super) unsafe fn float_sums<const KIND: u8, const T: usize>(
    w: &[u8],
    x: &[f32],
    sums: &mut [[f32; LANES]; T],
) {
    let mut acc = [_mm512_setzero_ps(); T];
    for (w, x) in w.chunks_exact(LANES * float::bytes(KIND)).zip(x.as_chunks::<T>().0) {
        // SAFETY: `w` is 16 floats of this kind; prefetching reads nothing that the program sees.
        let w = unsafe {
            if T == 1 {
                _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(AHEAD).cast());
            }
            match KIND {
                float::F32 => _mm512_loadu_ps(w.as_ptr().cast()),
                _ => _mm512_cvtph_ps(_mm256_loadu_si256(w.as_ptr().cast())),
            }
        };
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
