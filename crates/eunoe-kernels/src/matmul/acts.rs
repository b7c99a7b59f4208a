//! Inputs of a matrix product, interleaved in tiles of 1, 4 or 8 rows so that a kernel reads them in order.

use super::{Arithmetic, BLOCK};
use crate::pool::Shards;
use crate::{Isa, Pool};

/// Inputs `[rows, cols]`, as 8-bit blocks or as floats.
pub struct Acts {
    rows: usize,
    cols: usize,
    width: usize,
    /// `[tile][block][4-byte group 0..8][row of the tile][4]`; empty for floats.
    quants: Vec<i8>,
    /// `[tile][block][row of the tile]`: scale, sum of the first 16 quants, sum of the last 16.
    scales: Vec<Scale>,
    /// `[tile][col][row of the tile]`; empty for quants.
    floats: Vec<f32>,
}

/// What a kernel needs of one block of one row besides its quants.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Scale {
    pub(crate) d: f32,
    pub(crate) sums: [i32; 2],
}

/// One tile of quantised inputs.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    /// `[block][8][width][4]`
    pub(crate) quants: &'a [i8],
    /// `[block][width]`
    pub(crate) scales: &'a [Scale],
}

impl Acts {
    /// Rows of the widest tile.
    pub(crate) const MAX_WIDTH: usize = 8;

    /// Prepares `x` (`[rows, cols]`); `Fast` applies where `quantised_weights` says that the weights are not floats.
    ///
    /// # Panics
    /// When `x` is not whole rows.
    pub fn new(
        isa: Isa,
        pool: &Pool,
        x: &[f32],
        cols: usize,
        arithmetic: Arithmetic,
        quantised_weights: bool,
    ) -> Self {
        assert!(cols > 0 && x.len().is_multiple_of(cols), "{} inputs are not rows of {cols}", x.len());
        let rows = x.len() / cols;
        let width = match rows {
            0 | 1 => 1,
            2..=4 => 4,
            _ => Self::MAX_WIDTH,
        };
        let (tiles, blocks) = (rows.div_ceil(width), cols.div_ceil(BLOCK));
        let mut acts = Self { rows, cols, width, quants: vec![], scales: vec![], floats: vec![] };
        if arithmetic == Arithmetic::Fast && quantised_weights {
            acts.quants = vec![0; tiles * blocks * BLOCK * width];
            acts.scales = vec![Scale::default(); tiles * blocks * width];
            let (quants, scales) = (Shards::new(&mut acts.quants), Shards::new(&mut acts.scales));
            pool.run(tiles, &|tile| {
                let (q, s) = (blocks * BLOCK * width, blocks * width);
                // SAFETY: one task per tile, and tiles are disjoint; both vectors outlive the loop.
                let (q, s) = unsafe { (quants.part(tile * q, q), scales.part(tile * s, s)) };
                let rows = &x[tile * width * cols..x.len().min((tile + 1) * width * cols)];
                isa.run(
                    #[inline(always)]
                    || quantise(rows, cols, width, q, s),
                );
            });
        } else {
            acts.floats = vec![0.0; tiles * cols * width];
            for (r, row) in x.chunks_exact(cols).enumerate() {
                let base = r / width * cols * width + r % width;
                for (k, v) in row.iter().enumerate() {
                    acts.floats[base + k * width] = *v;
                }
            }
        }
        acts
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

    pub(crate) fn is_quantised(&self) -> bool {
        !self.scales.is_empty()
    }

    pub(crate) fn quantised(&self, tile: usize) -> Tile<'_> {
        let per_tile = self.cols.div_ceil(BLOCK) * self.width;
        Tile {
            quants: &self.quants[tile * per_tile * BLOCK..][..per_tile * BLOCK],
            scales: &self.scales[tile * per_tile..][..per_tile],
        }
    }

    /// `[col][width]`
    pub(crate) fn floats(&self, tile: usize) -> &[f32] {
        let per_tile = self.cols * self.width;
        &self.floats[tile * per_tile..][..per_tile]
    }
}

/// Quantises the rows of one tile: per block of 32, `d = max|x| / 127`, `q = round(x / d)`, ties to even.
#[inline(always)]
fn quantise(rows: &[f32], cols: usize, width: usize, quants: &mut [i8], scales: &mut [Scale]) {
    for (t, row) in rows.chunks_exact(cols).enumerate() {
        for (b, values) in row.chunks(BLOCK).enumerate() {
            let mut block = [0.0f32; BLOCK];
            block[..values.len()].copy_from_slice(values);
            let (q, scale) = quantise_block(&block);
            scales[b * width + t] = scale;
            for (g, four) in q.chunks_exact(4).enumerate() {
                quants[((b * 8 + g) * width + t) * 4..][..4].copy_from_slice(four);
            }
        }
    }
}

#[inline(always)]
fn quantise_block(x: &[f32; BLOCK]) -> ([i8; BLOCK], Scale) {
    /// Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let (mut peaks, mut taint) = ([0.0f32; 8], [0.0f32; 8]);
    for (i, v) in x.iter().enumerate() {
        peaks[i % 8] = peaks[i % 8].max(v.abs());
        taint[i % 8] += v * 0.0; // NaN once a value is not finite
    }
    let peak = peaks.iter().fold(0.0f32, |a, b| a.max(*b));
    let taint: f32 = taint.iter().sum();
    // a block too small for its inverse counts as 0
    let inverse = 127.0 / peak;
    let inverse = if taint == 0.0 && inverse.is_finite() { inverse } else { 0.0 };
    let mut q = [0i8; BLOCK];
    let mut sums = [0i32; 2];
    for i in 0..BLOCK {
        let scaled = if taint == 0.0 { x[i] * inverse } else { 0.0 };
        let v = (scaled + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        q[i] = v as i8;
        sums[i / 16] += v;
    }
    // a block that is not finite must not turn into a plausible number
    (q, Scale { d: peak / 127.0 + taint, sums })
}
