//! AVX2: two halves of 8 rows, four inputs at a time. Integer kernels are written once and compiled twice, the second
//! time with AVX-VNNI's dot product of four bytes.

use super::acts::{Sums, Tile};
use super::pack::{CHUNK, Chunk, Group, header_bytes};
use super::panel::{BIAS, PanelBlock, is_biased};
use super::{LANES, Task, first_rows, float, offset, scale};
use std::arch::x86_64::*;

/// As `scalar::direct`.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn direct<const BITS: usize, const SCALE: u8, const T: usize>(
    task: &Task<'_>,
    sums: &mut [Sums],
) {
    for (group, tile, sums) in task.cells(sums) {
        let (group, tile) = (task.w.group(group), task.x.quantised(tile));
        // SAFETY: the caller's promise.
        unsafe { int_sums::<false, BITS, SCALE, T>(group, tile, first_rows(sums)) };
    }
}

/// As `direct`.
///
/// # Safety
/// The processor has AVX2, FMA, F16C and AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn direct_vnni<const BITS: usize, const SCALE: u8, const T: usize>(
    task: &Task<'_>,
    sums: &mut [Sums],
) {
    for (group, tile, sums) in task.cells(sums) {
        let (group, tile) = (task.w.group(group), task.x.quantised(tile));
        // SAFETY: the caller's promise.
        unsafe { int_sums::<true, BITS, SCALE, T>(group, tile, first_rows(sums)) };
    }
}

/// # Safety
/// The processor has AVX2, FMA and F16C, and AVX-VNNI where `VNNI` says so.
#[inline(always)]
unsafe fn int_sums<const VNNI: bool, const BITS: usize, const SCALE: u8, const T: usize>(
    g: Group<'_>,
    x: Tile<'_>,
    sums: &mut [[f32; LANES]; T],
) {
    assert!(x.quants.len() == g.blocks * 32 * T);
    assert!(x.scales.len() == g.blocks * 2 * T && x.starts.len() == g.blocks * 2 * T);
    for side in 0..2 {
        // SAFETY: the caller's promise for all of it; `Group::chunk` sized quants and scales for its blocks, of which
        // `side * 32` is the second half of each vector; the inputs hold as many blocks as the group, by the
        // assertions above; a row of sums is 16 floats, 8 a side.
        unsafe {
            let mut acc = [_mm256_setzero_ps(); T];
            for b in 0..g.blocks {
                let chunk = g.chunk(BITS, SCALE, b / CHUNK);
                let quants = chunk.quants.as_ptr().add(b % CHUNK * BITS * 64 + side * 32);
                let s = Scales::load::<SCALE>(chunk, b % CHUNK, side);
                let mut dot = [[_mm256_setzero_si256(); 2]; T];
                for k in 0..8 {
                    let w = unpack::<BITS>(quants, k);
                    for t in 0..T {
                        let four = x.quants.as_ptr().add((b * 8 + k) * T * 4 + t * 4);
                        let four = _mm256_set1_epi32(four.cast::<i32>().read_unaligned());
                        dot[t][k / 4] = dot4::<VNNI>(dot[t][k / 4], w, four, BITS == 8);
                    }
                }
                for t in 0..T {
                    for h in 0..2 {
                        // without VNNI 8-bit weights are read as signed bytes: their offset is gone already
                        if (VNNI || BITS < 8) && offset(BITS, SCALE) > 0 {
                            let start = x.starts[(2 * b + h) * T + t] / (BIAS / offset(BITS, SCALE));
                            dot[t][h] = _mm256_add_epi32(dot[t][h], _mm256_set1_epi32(start));
                        }
                    }
                    let scales = [x.scales[2 * b * T + t], x.scales[(2 * b + 1) * T + t]];
                    acc[t] = s.add::<SCALE>(dot[t], scales, acc[t]);
                }
            }
            for t in 0..T {
                _mm256_storeu_ps(sums[t].as_mut_ptr().add(side * 8), acc[t]);
            }
        }
    }
}

/// As `scalar::panel_sums`.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn panel_sums<const SCALE: u8>(panel: &[PanelBlock], x: Tile<'_>, sums: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe { panel_sums_of::<false, SCALE>(panel, x, sums) }
}

/// As `panel_sums`.
///
/// # Safety
/// The processor has AVX2, FMA, F16C and AVX-VNNI.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(super) unsafe fn panel_sums_vnni<const SCALE: u8>(panel: &[PanelBlock], x: Tile<'_>, sums: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe { panel_sums_of::<true, SCALE>(panel, x, sums) }
}

/// # Safety
/// The processor has AVX2, FMA and F16C, and AVX-VNNI where `VNNI` says so.
#[inline(always)]
unsafe fn panel_sums_of<const VNNI: bool, const SCALE: u8>(
    panel: &[PanelBlock],
    x: Tile<'_>,
    sums: &mut Sums,
) {
    const WIDTH: usize = 8;
    /// Rows whose sums stay in registers.
    const T: usize = 4;
    assert!(x.quants.len() == panel.len() * 32 * WIDTH && x.scales.len() == panel.len() * 2 * WIDTH);
    for (side, first) in [(0, 0), (0, T), (1, 0), (1, T)] {
        // SAFETY: the caller's promise for all of it; a row of sums is 16 floats, 8 a side, as are the scales of a
        // panel; the inputs hold as many blocks as the panel, by the assertions above.
        unsafe {
            let mut acc = [_mm256_setzero_ps(); T];
            for t in 0..T {
                acc[t] = _mm256_loadu_ps(sums[first + t].as_ptr().add(side * 8));
            }
            for (b, w) in panel.iter().enumerate() {
                let s = Scales::of_panel(w, side);
                let mut dot = [[_mm256_setzero_si256(); 2]; T];
                for k in 0..8 {
                    let quants = _mm256_load_si256(w.quants[k].as_ptr().add(side * 32).cast());
                    for t in 0..T {
                        let four = x.quants.as_ptr().add(((b * 8 + k) * WIDTH + first + t) * 4);
                        let four = _mm256_set1_epi32(four.cast::<i32>().read_unaligned());
                        dot[t][k / 4] = dot4::<VNNI>(dot[t][k / 4], quants, four, is_biased(SCALE));
                    }
                }
                for t in 0..T {
                    let at = 2 * b * WIDTH + first + t;
                    if VNNI && is_biased(SCALE) {
                        for h in 0..2 {
                            let start = _mm256_set1_epi32(x.starts[at + h * WIDTH]);
                            dot[t][h] = _mm256_add_epi32(dot[t][h], start);
                        }
                    }
                    acc[t] = s.add::<SCALE>(dot[t], [x.scales[at], x.scales[at + WIDTH]], acc[t]);
                }
            }
            for t in 0..T {
                _mm256_storeu_ps(sums[first + t].as_mut_ptr().add(side * 8), acc[t]);
            }
        }
    }
}

/// The scales of one block, 8 rows wide.
struct Scales {
    weight: __m256,
    min: __m256,
    halves: [__m256i; 2],
}

impl Scales {
    /// `acc` after one block: its integer sums by halves, the inputs' scale, and that times the sum of their quants.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn add<const SCALE: u8>(&self, dot: [__m256i; 2], [d, d_sum]: [f32; 2], acc: __m256) -> __m256 {
        let int = if SCALE == scale::HALVES {
            let low = _mm256_mullo_epi32(dot[0], self.halves[0]);
            _mm256_add_epi32(low, _mm256_mullo_epi32(dot[1], self.halves[1]))
        } else {
            _mm256_add_epi32(dot[0], dot[1])
        };
        let weight = _mm256_mul_ps(self.weight, _mm256_set1_ps(d));
        let acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(int), weight, acc);
        if is_biased(SCALE) { acc } else { _mm256_fmadd_ps(self.min, _mm256_set1_ps(d_sum), acc) }
    }

    /// # Safety
    /// `side` is 0 or 1.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn of_panel(w: &PanelBlock, side: usize) -> Self {
        // SAFETY: each of these arrays is 16 wide, 8 a side, and a panel's blocks are aligned.
        unsafe {
            let float = |x: &[f32; LANES]| _mm256_load_ps(x.as_ptr().add(side * 8));
            let half = |x: &[i32; LANES]| _mm256_load_si256(x.as_ptr().add(side * 8).cast());
            Self {
                weight: float(&w.scales.weight),
                min: float(&w.scales.min),
                halves: [half(&w.scales.halves[0]), half(&w.scales.halves[1])],
            }
        }
    }

    /// # Safety
    /// `b` is a block of `chunk`, `side` is 0 or 1.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load<const SCALE: u8>(chunk: Chunk<'_>, b: usize, side: usize) -> Self {
        let zero = _mm256_setzero_ps();
        let mut s = Self { weight: zero, min: zero, halves: [_mm256_setzero_si256(); 2] };
        // SAFETY: the caller's promise; `pack::scale_bytes` sizes the region that these offsets address.
        unsafe {
            let p = chunk.scales.as_ptr();
            let half = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(p.add(at + side * 16).cast()));
            match SCALE {
                scale::PLAIN => s.weight = half(b * 32),
                scale::AFFINE => (s.weight, s.min) = (half(b * 64), half(b * 64 + 32)),
                _ => {
                    let sc = p.add(header_bytes(SCALE) + b * 32 + side * 8);
                    let bytes = [_mm_loadl_epi64(sc.cast()), _mm_loadl_epi64(sc.add(16).cast())];
                    s.weight = half(0);
                    if SCALE == scale::SUPER {
                        let float = |v: __m128i| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v));
                        s.weight = _mm256_mul_ps(s.weight, float(bytes[0]));
                        let min = _mm256_mul_ps(half(32), float(bytes[1]));
                        s.min = _mm256_xor_ps(min, _mm256_set1_ps(-0.0));
                    } else {
                        s.halves = [_mm256_cvtepi8_epi32(bytes[0]), _mm256_cvtepi8_epi32(bytes[1])];
                    }
                }
            }
        }
        s
    }
}

/// `dot` plus four products in each of 8 lanes. Without VNNI, weights that `may_pass_127` are read as `w - 128`.
///
/// # Safety
/// The processor has AVX2, and AVX-VNNI where `VNNI` says so.
#[inline(always)]
unsafe fn dot4<const VNNI: bool>(dot: __m256i, w: __m256i, x: __m256i, may_pass_127: bool) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if VNNI {
            return _mm256_dpbusd_avx_epi32(dot, w, x);
        }
        // pairs of products stay below 2^15: at most 2 * 128 * 127 here, 2 * 63 * 127 for fewer bits
        let pairs = if may_pass_127 {
            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        } else {
            _mm256_maddubs_epi16(w, x)
        };
        _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// As `scalar::float_sums`.
///
/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn float_sums<const KIND: u8, const T: usize>(
    w: &[u8],
    x: &[f32],
    sums: &mut [[f32; LANES]; T],
) {
    let size = float::bytes(KIND);
    for side in 0..2 {
        let mut acc = [_mm256_setzero_ps(); T];
        for (w, x) in w.chunks_exact(LANES * size).zip(x.as_chunks::<T>().0) {
            // SAFETY: `w` is 16 floats of this kind, 8 a side.
            let w = unsafe {
                let w = w.as_ptr().add(side * 8 * size);
                match KIND {
                    float::F32 => _mm256_loadu_ps(w.cast()),
                    _ => _mm256_cvtph_ps(_mm_loadu_si128(w.cast())),
                }
            };
            for t in 0..T {
                acc[t] = _mm256_fmadd_ps(w, _mm256_set1_ps(x[t]), acc[t]);
            }
        }
        for t in 0..T {
            // SAFETY: a row of sums is 16 floats, 8 a side.
            unsafe { _mm256_storeu_ps(sums[t].as_mut_ptr().add(side * 8), acc[t]) };
        }
    }
}

/// Unsigned quants of the 4-byte group `g` of one side of a packed block (layout: `pack`).
///
/// # Safety
/// `quants` points to one side of a packed block and `g < 8`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<const BITS: usize>(quants: *const u8, g: usize) -> __m256i {
    // SAFETY: the caller's promise; a packed block is `BITS` vectors of 64 bytes, a side is half of each.
    let load = |v: usize| unsafe { _mm256_loadu_si256(quants.add(v * 64).cast()) };
    if BITS == 8 {
        return load(g);
    }
    let pair = load(g / 2);
    let pair = if g.is_multiple_of(2) { pair } else { _mm256_srli_epi16::<4>(pair) };
    let low = _mm256_and_si256(pair, _mm256_set1_epi8(15));
    let (high, mask) = match BITS {
        5 => (shift_to_4(load(4), g), 0x10),
        6 => (shift_to_4(load(4 + g / 4), g % 4 * 2), 0x30),
        _ => return low,
    };
    _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(mask)))
}

/// Moves bit `from` of each byte to bit 4; bits that cross into the neighbour byte are masked off by the caller.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn shift_to_4(v: __m256i, from: usize) -> __m256i {
    if from <= 4 {
        _mm256_sll_epi16(v, _mm_cvtsi32_si128(4 - from as i32))
    } else {
        _mm256_srl_epi16(v, _mm_cvtsi32_si128(from as i32 - 4))
    }
}
