//! Matrix products `out[t, r] = sum_k x[t, k] * w[r, k]` over weights that stay quantised.
//!
//! Weights are repacked at load into groups of 16 rows, so that one vector holds the same inputs of 16 rows and each
//! lane sums its own row in input order: GEMV and GEMM, one thread and many, give a row the same bits, and so do all
//! instruction sets. `Fast` inputs are blocks of 32 signed bytes with an f32 scale (integer dot products, exact), or bf16
//! where the weights are; `Exact` inputs stay f32 and meet weights that are dequantised block by block.

mod acts;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod block;
mod pack;
mod panel;
mod scalar;

pub use acts::Acts;
pub use pack::Packed;

use crate::pool::Shards;
use crate::{Isa, Pool};
use acts::Sums;
use eunoe_core::Dtype;
use std::cell::RefCell;
use std::ops::Range;

/// Rows of one group: the lanes of a 512-bit vector.
pub(crate) const LANES: usize = 16;
/// Inputs of one block.
pub(crate) const BLOCK: usize = 32;

/// How inputs enter a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 inputs, weights dequantised: the reference.
    Exact,
    /// Inputs as 8-bit blocks of 32; bf16 where the weights are, f32 where they are other floats.
    Fast,
}

/// What inputs are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// f32, for any weights.
    Floats,
    /// bf16 in pairs, for weights in bf16. Nonzero inputs below 2^-54 count as 0, as such weights do.
    Pairs,
    /// Blocks of 32 signed bytes with an f32 scale, for quantised weights.
    Blocks,
}

impl Arithmetic {
    /// How inputs of `weights` are prepared.
    pub fn inputs(self, weights: &Packed) -> Inputs {
        if self == Self::Exact { Inputs::Floats } else { weights.fast_inputs() }
    }
}

/// Most groups of one task: their rows share the inputs in the second-level cache.
const MOST_GROUPS: usize = 8;
/// Tiles from which unpacking weights to panels pays.
const PANEL_TILES: usize = 3;

/// Computes several products of the same inputs in one parallel loop; `outs[i]` is `[rows of x, rows of weights[i]]`.
///
/// # Panics
/// When shapes disagree.
pub fn matmul(isa: Isa, pool: &Pool, weights: &[&Packed], x: &Acts, outs: &mut [&mut [f32]]) {
    assert_eq!(weights.len(), outs.len(), "one output per weight");
    if x.rows() == 0 {
        return;
    }
    let groups: usize = weights.iter().map(|w| w.groups()).sum();
    let step = groups.div_ceil(8 * pool.threads()).clamp(1, MOST_GROUPS);
    let mut tasks = Vec::new();
    for (i, w) in weights.iter().enumerate() {
        assert_eq!(w.cols(), x.cols(), "inputs of {w:?}");
        let takes = [Inputs::Floats, w.fast_inputs()];
        assert!(takes.contains(&x.inputs()), "{w:?} takes {takes:?}, not {:?}", x.inputs());
        assert_eq!(outs[i].len(), x.rows() * w.rows(), "outputs of {w:?}");
        tasks.extend((0..w.groups()).step_by(step).map(|g| (i, g..w.groups().min(g + step))));
    }
    let shared: Vec<Shards<f32>> = outs.iter_mut().map(|o| Shards::new(o)).collect();
    pool.run(tasks.len(), &|task| {
        let (i, groups) = tasks[task].clone();
        let task = Task { isa, w: weights[i], groups, x };
        with_sums(task.groups.len() * x.tiles(), |sums| {
            match x.inputs() {
                Inputs::Blocks => by_form(weights[i].dtype(), &task, sums),
                Inputs::Pairs => task.pair_sums(sums),
                Inputs::Floats => task.float_sums(sums),
            }
            task.store(sums, &shared[i]);
        });
    });
}

/// Calls `work` with this thread's memory for `len` tiles of sums; what they hold is left over.
fn with_sums(len: usize, work: impl FnOnce(&mut [Sums])) {
    thread_local! {
        static SUMS: RefCell<Vec<Sums>> = const { RefCell::new(Vec::new()) };
    }
    SUMS.with_borrow_mut(|sums| {
        if sums.len() < len {
            sums.resize(len, Sums::default());
        }
        work(&mut sums[..len]);
    });
}

/// Some groups of one weight with all inputs; sums are `[group][tile]`.
struct Task<'a> {
    isa: Isa,
    w: &'a Packed,
    groups: Range<usize>,
    x: &'a Acts,
}

/// Calls `Task::int_sums` for the bits and scales of a type.
fn by_form(dtype: Dtype, task: &Task<'_>, sums: &mut [Sums]) {
    match dtype {
        Dtype::Q4_0 => task.int_sums::<4, { scale::PLAIN }>(sums),
        Dtype::Q4_1 => task.int_sums::<4, { scale::AFFINE }>(sums),
        Dtype::Q5_0 => task.int_sums::<5, { scale::PLAIN }>(sums),
        Dtype::Q5_1 => task.int_sums::<5, { scale::AFFINE }>(sums),
        Dtype::Q8_0 => task.int_sums::<8, { scale::PLAIN }>(sums),
        Dtype::Q4_K => task.int_sums::<4, { scale::SUPER }>(sums),
        Dtype::Q5_K => task.int_sums::<5, { scale::SUPER }>(sums),
        Dtype::Q6_K => task.int_sums::<6, { scale::HALVES }>(sums),
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => unreachable!("float weights take float inputs"),
    }
}

impl Task<'_> {
    fn int_sums<const BITS: usize, const SCALE: u8>(&self, sums: &mut [Sums]) {
        match self.x.width() {
            1 => self.direct::<BITS, SCALE, 1>(sums),
            4 => self.direct::<BITS, SCALE, 4>(sums),
            _ if self.x.tiles() < PANEL_TILES => self.direct::<BITS, SCALE, 8>(sums),
            _ => panel::sums::<BITS, SCALE>(self, sums),
        }
    }

    /// Without panels: weights are unpacked in registers, for each tile anew.
    fn direct<const BITS: usize, const SCALE: u8, const T: usize>(&self, sums: &mut [Sums]) {
        match self.isa {
            // SAFETY: AVX-512 variants are only made where the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512::direct::<BITS, SCALE, T>(self, sums) },
            // SAFETY: as above for AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::direct::<BITS, SCALE, T>(self, sums) },
            // SAFETY: as above for AVX2 and AVX-VNNI.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { avx2::direct_vnni::<BITS, SCALE, T>(self, sums) },
            _ => scalar::direct::<BITS, SCALE, T>(self, sums),
        }
    }

    fn pair_sums(&self, sums: &mut [Sums]) {
        for (group, tile, sums) in self.cells(sums) {
            let (w, x) = (self.w.group(group).bytes, self.x.pairs(tile));
            match self.x.width() {
                1 => pair_tile::<1>(self.isa, w, x, sums),
                4 => pair_tile::<4>(self.isa, w, x, sums),
                _ => pair_tile::<8>(self.isa, w, x, sums),
            }
        }
    }

    /// Weights in f32 and f16 as they are, others dequantised group by group.
    fn float_sums(&self, sums: &mut [Sums]) {
        match self.w.dtype() {
            Dtype::F32 => self.float_groups::<{ float::F32 }>(sums, |g| self.w.group(g).bytes),
            Dtype::F16 => self.float_groups::<{ float::F16 }>(sums, |g| self.w.group(g).bytes),
            _ => {
                let mut floats = vec![[0.0f32; LANES]; self.w.cols()];
                for (g, sums) in self.groups.clone().zip(sums.chunks_exact_mut(self.x.tiles())) {
                    self.isa.run(
                        #[inline(always)]
                        || self.w.dequantise_group(g, &mut floats),
                    );
                    self.float_tiles::<{ float::F32 }>(as_bytes(&floats), sums);
                }
            }
        }
    }

    fn float_groups<'w, const KIND: u8>(&self, sums: &mut [Sums], bytes: impl Fn(usize) -> &'w [u8]) {
        for (g, sums) in self.groups.clone().zip(sums.chunks_exact_mut(self.x.tiles())) {
            self.float_tiles::<KIND>(bytes(g), sums);
        }
    }

    fn float_tiles<const KIND: u8>(&self, w: &[u8], sums: &mut [Sums]) {
        for (tile, sums) in sums.iter_mut().enumerate() {
            let x = self.x.floats(tile);
            match self.x.width() {
                1 => float_tile::<KIND, 1>(self.isa, w, x, sums),
                4 => float_tile::<KIND, 4>(self.isa, w, x, sums),
                _ => float_tile::<KIND, 8>(self.isa, w, x, sums),
            }
        }
    }

    /// The groups and tiles of this task's sums, one after the other.
    #[inline(always)]
    fn cells<'s>(&self, sums: &'s mut [Sums]) -> impl Iterator<Item = (usize, usize, &'s mut Sums)> {
        let (first, tiles) = (self.groups.start, self.x.tiles());
        sums.iter_mut().enumerate().map(move |(i, sums)| (first + i / tiles, i % tiles, sums))
    }

    /// Writes the sums to the rows of `out`, row by row.
    fn store(&self, sums: &[Sums], out: &Shards<f32>) {
        let (w, x, first) = (self.w, self.x, self.groups.start * LANES);
        let len = (self.groups.end * LANES).min(w.rows()) - first;
        for row in 0..x.rows() {
            // SAFETY: tasks own disjoint groups of weight rows, so these parts never overlap; `outs` outlives the loop.
            let part = unsafe { out.part(row * w.rows() + first, len) };
            let (whole, rest) = part.as_chunks_mut();
            let mut groups = sums[row / x.width()..].iter().step_by(x.tiles()).map(|s| &s[row % x.width()]);
            for (part, sum) in whole.iter_mut().zip(&mut groups) {
                *part = *sum;
            }
            if let (false, Some(sum)) = (rest.is_empty(), groups.next()) {
                rest.copy_from_slice(&sum[..rest.len()]);
            }
        }
    }
}

fn float_tile<const KIND: u8, const T: usize>(isa: Isa, w: &[u8], x: &[f32], sums: &mut Sums) {
    let sums: &mut [[f32; LANES]; T] = first_rows(sums);
    match isa {
        // SAFETY: AVX-512 variants are only made where the processor has the features.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512::float_sums::<KIND, T>(w, x, sums) },
        // SAFETY: as above for AVX2.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::float_sums::<KIND, T>(w, x, sums) },
        _ => scalar::float_sums::<KIND, T>(w, x, sums),
    }
}

fn pair_tile<const T: usize>(isa: Isa, w: &[u8], x: &[u32], sums: &mut Sums) {
    let sums: &mut [[f32; LANES]; T] = first_rows(sums);
    match isa {
        // SAFETY: this variant is only made where the processor has BF16.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { avx512bf16::pair_sums::<T>(w, x, sums) },
        _ => isa.run(
            #[inline(always)]
            || scalar::pair_sums::<T>(w, x, sums),
        ),
    }
}

fn as_bytes(floats: &[[f32; LANES]]) -> &[u8] {
    // SAFETY: floats are plain bytes without padding.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), size_of_val(floats)) }
}

#[inline(always)]
fn first_rows<const T: usize>(sums: &mut Sums) -> &mut [[f32; LANES]; T] {
    sums.first_chunk_mut().expect("a tile is at most MAX_WIDTH rows wide")
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

/// Kinds of float weights (`u8` constants, as const generics want).
pub(crate) mod float {
    pub(crate) const F32: u8 = 0;
    pub(crate) const F16: u8 = 1;

    pub(crate) const fn bytes(kind: u8) -> usize {
        if kind == F32 { 4 } else { 2 }
    }

    /// The float that `bytes` hold.
    #[inline(always)]
    pub(crate) fn read(kind: u8, bytes: &[u8]) -> f32 {
        match (kind, bytes) {
            (F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (_, &[a, b]) => crate::float16::f16_to_f32(u16::from_le_bytes([a, b])),
            _ => unreachable!("bytes of one float"),
        }
    }
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
