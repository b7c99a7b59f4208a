//! Inputs of a matrix product, interleaved in tiles of 1, 4 or 8 rows so that a kernel reads them in order.

use super::panel::BIAS;
use super::{BLOCK, Inputs, LANES};
use crate::float16::{flush, nearest_bf16};
use crate::pool::Shards;
use crate::{Isa, Pool};
use std::cell::RefCell;

/// Sums of a widest tile, 16 weight rows each.
pub(super) type Sums = [[f32; LANES]; Acts::MAX_WIDTH];

/// 2^-54, as for weights in bf16 (`pack`).
const LEAST_PAIRED: f32 = f32::from_bits((127 - 54) << 23);

/// Inputs `[rows, cols]`, prepared.
pub struct Acts {
    rows: usize,
    cols: usize,
    width: usize,
    inputs: Inputs,
    memory: Memory,
}

/// Kept from one matrix product to the next: fresh memory would cost a page fault per 4 KiB.
#[derive(Default)]
struct Memory {
    /// `[tile][block][4-byte group 0..8][row of the tile][4]`
    quants: Vec<i8>,
    /// `[tile][block][d, d * sum of the quants][row of the tile]`
    scales: Vec<f32>,
    /// `[tile][block][half block][row of the tile]`: sums of the quants, times -`BIAS`.
    starts: Vec<i32>,
    /// `[tile][col][row of the tile]`
    floats: Vec<f32>,
    /// `[tile][pair of cols][row of the tile]`
    pairs: Vec<u32>,
}

thread_local! {
    static SPARE: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Acts {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        // a thread that is ending keeps nothing
        let _ = SPARE.try_with(|spare| spare.borrow_mut().push(memory));
    }
}

/// Makes `x` at least `len` long, keeping what it holds.
fn grow<T: Clone + Default>(x: &mut Vec<T>, len: usize) -> &mut [T] {
    if x.len() < len {
        x.resize(len, T::default());
    }
    &mut x[..len]
}

/// Blocks of one tile of quantised inputs.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    width: usize,
    /// `[block][8][width][4]`
    pub(crate) quants: &'a [i8],
    /// `[block][2][width]`
    pub(crate) scales: &'a [f32],
    /// `[block][2][width]`
    pub(crate) starts: &'a [i32],
}

impl Tile<'_> {
    /// `count` blocks from `first` on.
    #[inline(always)]
    pub(super) fn from(self, first: usize, count: usize) -> Self {
        let width = self.width;
        Self {
            width,
            quants: &self.quants[first * BLOCK * width..][..count * BLOCK * width],
            scales: &self.scales[first * 2 * width..][..count * 2 * width],
            starts: &self.starts[first * 2 * width..][..count * 2 * width],
        }
    }
}

impl Acts {
    /// Rows of the widest tile.
    pub(crate) const MAX_WIDTH: usize = 8;

    /// Prepares `x` (`[rows, cols]`).
    ///
    /// # Panics
    /// When `x` is not whole rows.
    pub fn new(isa: Isa, pool: &Pool, x: &[f32], cols: usize, inputs: Inputs) -> Self {
        assert!(cols > 0 && x.len().is_multiple_of(cols), "{} inputs are not rows of {cols}", x.len());
        let rows = x.len() / cols;
        let width = match rows {
            0 | 1 => 1,
            2..=4 => 4,
            _ => Self::MAX_WIDTH,
        };
        let memory = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        let mut acts = Self { rows, cols, width, inputs, memory };
        match inputs {
            Inputs::Blocks => acts.fill_quants(isa, pool, x),
            Inputs::Pairs => acts.fill_pairs(pool, x),
            Inputs::Floats => acts.fill_floats(pool, x),
        }
        acts
    }

    fn fill_quants(&mut self, isa: Isa, pool: &Pool, x: &[f32]) {
        let (width, cols, tiles, blocks) = (self.width, self.cols, self.tiles(), self.blocks());
        let (q, s) = (blocks * BLOCK * width, blocks * 2 * width);
        let quants = Shards::new(grow(&mut self.memory.quants, tiles * q));
        let scales = Shards::new(grow(&mut self.memory.scales, tiles * s));
        let starts = Shards::new(grow(&mut self.memory.starts, tiles * s));
        pool.run(tiles, &|tile| {
            // SAFETY: one task per tile, and tiles are disjoint; the vectors outlive the loop.
            let (quants, scales, starts) =
                unsafe { (quants.part(tile * q, q), scales.part(tile * s, s), starts.part(tile * s, s)) };
            let rows = &x[tile * width * cols..x.len().min((tile + 1) * width * cols)];
            isa.run(
                #[inline(always)]
                || quantise(rows, cols, width, quants, scales, starts),
            );
        });
    }

    fn fill_floats(&mut self, pool: &Pool, x: &[f32]) {
        let (width, cols) = (self.width, self.cols);
        let tiles = self.tiles();
        let floats = Shards::new(grow(&mut self.memory.floats, tiles * cols * width));
        pool.run(tiles, &|tile| {
            // SAFETY: one task per tile, and tiles are disjoint; the vector outlives the loop.
            let floats = unsafe { floats.part(tile * cols * width, cols * width) };
            let rows = &x[tile * width * cols..x.len().min((tile + 1) * width * cols)];
            for (t, row) in rows.chunks_exact(cols).enumerate() {
                for (k, v) in row.iter().enumerate() {
                    floats[k * width + t] = *v;
                }
            }
        });
    }

    fn fill_pairs(&mut self, pool: &Pool, x: &[f32]) {
        let (width, cols, tiles) = (self.width, self.cols, self.tiles());
        let size = cols.div_ceil(2) * width;
        let pairs = Shards::new(grow(&mut self.memory.pairs, tiles * size));
        let near = |x: f32| nearest_bf16(flush(x, LEAST_PAIRED));
        pool.run(tiles, &|tile| {
            // SAFETY: one task per tile, and tiles are disjoint; the vector outlives the loop.
            let pairs = unsafe { pairs.part(tile * size, size) };
            let rows = &x[tile * width * cols..x.len().min((tile + 1) * width * cols)];
            for (t, row) in rows.chunks_exact(cols).enumerate() {
                for (k, two) in row.chunks(2).enumerate() {
                    pairs[k * width + t] = near(two[0]) | two.get(1).map_or(0, |x| near(*x)) << 16;
                }
            }
        });
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.width)
    }

    /// Blocks of a row.
    pub(crate) fn blocks(&self) -> usize {
        self.cols.div_ceil(BLOCK)
    }

    pub(crate) fn inputs(&self) -> Inputs {
        self.inputs
    }

    pub(crate) fn quantised(&self, tile: usize) -> Tile<'_> {
        let (width, blocks, memory) = (self.width, self.blocks(), &self.memory);
        Tile {
            width,
            quants: &memory.quants[tile * blocks * BLOCK * width..][..blocks * BLOCK * width],
            scales: &memory.scales[tile * blocks * 2 * width..][..blocks * 2 * width],
            starts: &memory.starts[tile * blocks * 2 * width..][..blocks * 2 * width],
        }
    }

    /// `[pair][width]`
    pub(crate) fn pairs(&self, tile: usize) -> &[u32] {
        let per_tile = self.cols.div_ceil(2) * self.width;
        &self.memory.pairs[tile * per_tile..][..per_tile]
    }

    /// `[col][width]`
    pub(crate) fn floats(&self, tile: usize) -> &[f32] {
        let per_tile = self.cols * self.width;
        &self.memory.floats[tile * per_tile..][..per_tile]
    }
}

/// Quantises the rows of one tile: per block of 32, `d = max|x| / 127`, `q = round(x / d)`, ties to even.
#[inline(always)]
fn quantise(
    rows: &[f32],
    cols: usize,
    width: usize,
    quants: &mut [i8],
    scales: &mut [f32],
    starts: &mut [i32],
) {
    for (t, row) in rows.chunks_exact(cols).enumerate() {
        for (b, block) in row.as_chunks().0.iter().enumerate() {
            let (q, d, sums) = quantise_block(block);
            scales[2 * b * width + t] = d;
            scales[(2 * b + 1) * width + t] = d * (sums[0] + sums[1]) as f32;
            starts[2 * b * width + t] = -BIAS * sums[0];
            starts[(2 * b + 1) * width + t] = -BIAS * sums[1];
            let fours = &mut quants.as_chunks_mut::<4>().0[b * 8 * width..][..8 * width];
            for (four, out) in q.as_chunks::<4>().0.iter().zip(fours[t..].iter_mut().step_by(width)) {
                *out = *four;
            }
        }
    }
}

/// Quants, scale and the sums of the half blocks.
#[inline(always)]
fn quantise_block(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32, [i32; 2]) {
    /// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // magnitudes compare as their bits do
    let mut peak = 0;
    for v in x {
        peak = peak.max(v.abs().to_bits());
    }
    let peak = f32::from_bits(peak);
    if !peak.is_finite() {
        // must not turn into a plausible number
        return ([0; BLOCK], f32::NAN, [0; 2]);
    }
    // a block too small for its inverse counts as 0
    let inverse = 127.0 / peak;
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let mut q = [0i32; BLOCK];
    for i in 0..BLOCK {
        q[i] = (x[i] * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    }
    let mut bytes = [0i8; BLOCK];
    for i in 0..BLOCK {
        bytes[i] = q[i] as i8;
    }
    let mut sums = [0; 2];
    for (sum, half) in sums.iter_mut().zip(q.as_chunks::<16>().0) {
        for v in half {
            *sum += v;
        }
    }
    (bytes, peak / 127.0, sums)
}
