//! Matrix products `out[t, r] = sum_k x[t, k] * w[r, k]` over weights that stay quantised.
//!
//! Weights are repacked at load into groups of 16 rows, so that one vector holds the same inputs of 16 rows and each
//! lane sums its own row in input order: GEMV and GEMM, one thread and many, give a row the same bits, and so do all
//! instruction sets. `Fast` inputs are blocks of 32 signed bytes with an f32 scale (integer dot products, exact);
//! `Exact` inputs stay f32 and meet weights that are dequantised block by block.

mod acts;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
mod scalar;

pub use acts::Acts;
pub use pack::Packed;

use crate::pool::Shards;
use crate::{Isa, Pool};
use eunoe_core::Dtype;

/// Rows of one group: the lanes of a 512-bit vector.
pub(crate) const LANES: usize = 16;
/// Inputs of one block.
pub(crate) const BLOCK: usize = 32;

/// How inputs enter a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 inputs, weights dequantised: the reference.
    Exact,
    /// Inputs as 8-bit blocks of 32 (f32 where the weights are floats).
    Fast,
}

/// Computes several products of the same inputs in one parallel loop; `outs[i]` is `[rows of x, rows of weights[i]]`.
///
/// # Panics
/// When shapes disagree.
pub fn matmul(isa: Isa, pool: &Pool, weights: &[&Packed], x: &Acts, outs: &mut [&mut [f32]]) {
    assert_eq!(weights.len(), outs.len(), "one output per weight");
    if x.rows() == 0 {
        return;
    }
    let mut chunks = Vec::new(); // (weight, first group, groups)
    for (i, w) in weights.iter().enumerate() {
        assert_eq!(w.cols(), x.cols(), "inputs of {w:?}");
        assert!(!x.is_quantised() || w.is_quantised(), "{w:?} takes float inputs");
        assert_eq!(outs[i].len(), x.rows() * w.rows(), "outputs of {w:?}");
        let step = w.groups().div_ceil(4 * pool.threads()).clamp(1, 8);
        chunks.extend((0..w.groups()).step_by(step).map(|g| (i, g, step.min(w.groups() - g))));
    }
    let shared: Vec<Shards<f32>> = outs.iter_mut().map(|o| Shards::new(o)).collect();
    pool.run(chunks.len(), &|task| {
        let (i, first, count) = chunks[task];
        let (w, groups) = (weights[i], first..first + count);
        if x.is_quantised() {
            for tile in 0..x.tiles() {
                for g in groups.clone() {
                    let sums = quantised_sums(isa, w, g, x, tile);
                    store(w, g, x, tile, &sums, &shared[i]);
                }
            }
        } else {
            let mut floats = vec![[0.0f32; LANES]; w.cols()];
            for g in groups {
                isa.run(
                    #[inline(always)]
                    || w.dequantise_group(g, &mut floats),
                );
                for tile in 0..x.tiles() {
                    let sums = float_sums(isa, &floats, x, tile);
                    store(w, g, x, tile, &sums, &shared[i]);
                }
            }
        }
    });
}

/// Sums of up to `MAX_WIDTH` rows of a tile, 16 weight rows each.
type Sums = [[f32; LANES]; Acts::MAX_WIDTH];

/// Writes the sums of one group of weight rows and one tile of input rows.
fn store(w: &Packed, group: usize, x: &Acts, tile: usize, sums: &Sums, out: &Shards<f32>) {
    let (row, width) = (group * LANES, LANES.min(w.rows() - group * LANES));
    let first = tile * x.width();
    for (t, sum) in sums.iter().enumerate().take(x.width().min(x.rows() - first)) {
        // SAFETY: tasks own disjoint groups of weight rows, so these parts never overlap; `outs` outlives the loop.
        let part = unsafe { out.part((first + t) * w.rows() + row, width) };
        part.copy_from_slice(&sum[..width]);
    }
}

fn float_sums(isa: Isa, w: &[[f32; LANES]], x: &Acts, tile: usize) -> Sums {
    fn of<const T: usize>(isa: Isa, w: &[[f32; LANES]], x: &[f32], sums: &mut Sums) {
        let sums: &mut [[f32; LANES]; T] =
            sums.first_chunk_mut().expect("a tile is at most MAX_WIDTH rows wide");
        match isa {
            // SAFETY: AVX-512 variants are only made where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512::float_sums::<T>(w, x, sums) },
            // SAFETY: as above for AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::float_sums::<T>(w, x, sums) },
            _ => scalar::float_sums::<T>(w, x, sums),
        }
    }
    let mut sums = Sums::default();
    match x.width() {
        1 => of::<1>(isa, w, x.floats(tile), &mut sums),
        4 => of::<4>(isa, w, x.floats(tile), &mut sums),
        _ => of::<8>(isa, w, x.floats(tile), &mut sums),
    }
    sums
}

fn quantised_sums(isa: Isa, w: &Packed, group: usize, x: &Acts, tile: usize) -> Sums {
    fn of<const T: usize>(isa: Isa, dtype: Dtype, g: pack::Group<'_>, x: acts::Tile<'_>, sums: &mut Sums) {
        let sums: &mut [[f32; LANES]; T] =
            sums.first_chunk_mut().expect("a tile is at most MAX_WIDTH rows wide");
        match dtype {
            Dtype::Q4_0 => int_sums::<4, { scale::PLAIN }, T>(isa, g, x, sums),
            Dtype::Q4_1 => int_sums::<4, { scale::AFFINE }, T>(isa, g, x, sums),
            Dtype::Q5_0 => int_sums::<5, { scale::PLAIN }, T>(isa, g, x, sums),
            Dtype::Q5_1 => int_sums::<5, { scale::AFFINE }, T>(isa, g, x, sums),
            Dtype::Q8_0 => int_sums::<8, { scale::PLAIN }, T>(isa, g, x, sums),
            Dtype::Q4_K => int_sums::<4, { scale::SUPER }, T>(isa, g, x, sums),
            Dtype::Q5_K => int_sums::<5, { scale::SUPER }, T>(isa, g, x, sums),
            Dtype::Q6_K => int_sums::<6, { scale::HALVES }, T>(isa, g, x, sums),
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => unreachable!("float weights take float inputs"),
        }
    }
    let mut sums = Sums::default();
    let (g, tile) = (w.group(group), x.quantised(tile));
    match x.width() {
        1 => of::<1>(isa, w.dtype(), g, tile, &mut sums),
        4 => of::<4>(isa, w.dtype(), g, tile, &mut sums),
        _ => of::<8>(isa, w.dtype(), g, tile, &mut sums),
    }
    sums
}

fn int_sums<const BITS: usize, const SCALE: u8, const T: usize>(
    isa: Isa,
    g: pack::Group<'_>,
    q: acts::Tile<'_>,
    sums: &mut [[f32; LANES]; T],
) {
    match isa {
        // SAFETY: AVX-512 variants are only made where the processor has it; `Group` and `Tile` hold whole blocks.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512::int_sums::<BITS, SCALE, T>(g, q, sums) },
        // SAFETY: as above for AVX2.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::int_sums::<BITS, SCALE, T>(g, q, sums) },
        _ => scalar::int_sums::<BITS, SCALE, T>(g, q, sums),
    }
}

/// The four ways in which a block of 32 quants gets its scale (`u8` constants, as const generics want).
pub(crate) mod scale {
    /// `w = d * (q - offset)`, one f16 `d` per block.
    pub(crate) const PLAIN: u8 = 0;
    /// `w = d * q + m`, f16 `d` and `m` per block.
    pub(crate) const AFFINE: u8 = 1;
    /// `w = d * sc * q - dmin * mn`, f16 `d` and `dmin` per 256, bytes `sc` and `mn` per block.
    pub(crate) const SUPER: u8 = 2;
    /// `w = d * sc * (q - 32)`, f16 `d` per 256, a signed byte `sc` per half block.
    pub(crate) const HALVES: u8 = 3;
}

/// What is subtracted from an unsigned quant.
pub(crate) const fn offset(bits: usize, scale: u8) -> i32 {
    match scale {
        scale::PLAIN | scale::HALVES => 1 << (bits - 1),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
