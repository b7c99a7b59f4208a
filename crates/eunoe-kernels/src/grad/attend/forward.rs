//! The forward pass: a task is one block of queries of one head.

use std::ops::Range;

use eunoe_core::Result;

use crate::math::{exp2, max};
use crate::pool::Shards;
use crate::{Isa, Pool};

use super::super::parts::check;
use super::super::product::{Mat, product, transpose};
use super::super::scratch;
use super::{Attention, Inputs, KEYS, LANES, QUERIES, Weights, sigmoid};

/// What a task knows of its rows so far; scores are powers of 2.
struct Rows<'a> {
    /// `[d, QUERIES]`, scaled.
    q: &'a [f32],
    /// `[KEYS, QUERIES]`: scores, then weights.
    tile: &'a mut [f32],
    /// Largest score.
    top: &'a mut [f32],
    /// Sum of weights.
    sum: &'a mut [f32],
    /// What outputs so far are worth after the last tile.
    worth: &'a mut [f32],
}

impl Attention {
    /// Attention of every row: `out` `[b, h, t_q, d_v]`, and the logarithm of each row's sum of weights, `lse`.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn forward(
        &self,
        isa: Isa,
        pool: &Pool,
        inputs: Inputs<'_>,
        out: &mut [f32],
        lse: &mut [f32],
    ) -> Result<()> {
        self.check(&inputs)?;
        check("out", self.out_len(), out.len())?;
        check("lse", self.lse_len(), lse.len())?;
        let blocks = self.t_q.div_ceil(QUERIES);
        let (out, lse) = (Shards::new(out), Shards::new(lse));
        pool.run(self.batch * self.heads * blocks, &|i| {
            // later rows see more keys: they come first
            let (head, block) = (i / blocks, blocks - 1 - i % blocks);
            let rows = self.rows(block);
            let first = head * self.t_q + rows.start;
            let lse_rows = if self.weights == Weights::Softmax { rows.len() } else { 0 };
            // SAFETY: tasks are different rows of different heads; both buffers outlive the loop.
            let (out, lse) = unsafe {
                (
                    out.part(first * self.value_dim, rows.len() * self.value_dim),
                    lse.part(if lse_rows == 0 { 0 } else { first }, lse_rows),
                )
            };
            self.forward_rows(isa, inputs, head, &rows, out, lse);
        });
        Ok(())
    }

    fn forward_rows(
        &self,
        isa: Isa,
        inputs: Inputs<'_>,
        head: usize,
        rows: &Range<usize>,
        out: &mut [f32],
        lse: &mut [f32],
    ) {
        let (d, d_v) = (self.head_dim, self.value_dim);
        let kv_head = head / self.group();
        let (k, v) = (&inputs.k[kv_head * self.t_k * d..], &inputs.v[kv_head * self.t_k * d_v..]);
        let sizes = [d * QUERIES, KEYS * QUERIES, QUERIES, QUERIES, QUERIES];
        scratch::with(sizes, |[q, tile, top, sum, worth]| {
            let queries = Mat::new(&inputs.q[(head * self.t_q + rows.start) * d..], rows.len(), d, d);
            transpose(isa, queries, self.scale_of_powers(), q, QUERIES);
            top.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            out.fill(0.0);
            let mut state = Rows { q, tile, top, sum, worth };
            for block in 0..self.t_k.div_ceil(KEYS) {
                let keys = self.keys(rows, block);
                if keys.is_empty() {
                    continue;
                }
                self.weigh(isa, &mut state, &k[keys.start * d..], rows, &keys);
                if self.weights == Weights::Softmax {
                    scale_rows(isa, out, d_v, state.worth);
                }
                for piece in self.pieces(rows, &keys) {
                    let (weights, values) =
                        (piece.of(state.tile).t(), piece.keys(&v[keys.start * d_v..], d_v));
                    product(isa, weights, values, &mut out[piece.queries.start * d_v..], d_v, true);
                }
            }
            if self.weights == Weights::Softmax {
                finish(isa, &mut state, d_v, out, lse);
            }
        });
    }

    /// Fills the tile with the weights of `keys`.
    fn weigh(&self, isa: Isa, state: &mut Rows<'_>, k: &[f32], rows: &Range<usize>, keys: &Range<usize>) {
        let columns = rows.len().next_multiple_of(LANES);
        let tile = &mut state.tile[..keys.len() * QUERIES];
        for piece in self.pieces(rows, keys) {
            let (k, q) = (piece.keys(k, self.head_dim), piece.columns(state.q, self.head_dim));
            product(isa, k, q, &mut tile[piece.at()..], QUERIES, false);
        }
        match self.weights {
            Weights::Softmax => {
                self.mask(rows, keys, tile, f32::NEG_INFINITY);
                isa.run(
                    #[inline(always)]
                    || {
                        let Rows { top, sum, worth, .. } = state;
                        soften(tile, &mut top[..columns], &mut sum[..columns], &mut worth[..columns]);
                    },
                );
            }
            Weights::Sigmoid => {
                isa.run(
                    #[inline(always)]
                    || {
                        for score in tile.iter_mut() {
                            *score = sigmoid(*score);
                        }
                    },
                );
                self.mask(rows, keys, tile, 0.0);
            }
        }
    }
}

/// Scores become powers of 2 below the largest so far of their column. Loops are over slices of any length, which
/// compile to vectors; fixed lanes would be unrolled and then not.
#[inline(always)]
fn soften(tile: &mut [f32], top: &mut [f32], sum: &mut [f32], worth: &mut [f32]) {
    let columns = top.len();
    worth.copy_from_slice(top);
    for line in tile.chunks_exact(QUERIES) {
        for (top, score) in top.iter_mut().zip(line) {
            *top = max(*score, *top);
        }
    }
    for ((worth, sum), top) in worth.iter_mut().zip(sum.iter_mut()).zip(top.iter()) {
        *worth = exp2(*worth - base(*top));
        *sum *= *worth;
    }
    for line in tile.chunks_exact_mut(QUERIES) {
        let line = line[..columns].iter_mut();
        for ((score, sum), top) in line.zip(sum.iter_mut()).zip(top.iter()) {
            *score = exp2(*score - base(*top));
            *sum += *score;
        }
    }
}

/// A row that has seen no key has no largest score: its weights are 2^-∞ all the same.
#[inline(always)]
fn base(top: f32) -> f32 {
    if top == f32::NEG_INFINITY { 0.0 } else { top }
}

fn scale_rows(isa: Isa, out: &mut [f32], width: usize, factors: &[f32]) {
    isa.run(
        #[inline(always)]
        || {
            for (row, factor) in out.chunks_exact_mut(width.max(1)).zip(factors) {
                for out in row {
                    *out *= factor;
                }
            }
        },
    );
}

/// Divides by the sums of weights.
fn finish(isa: Isa, state: &mut Rows<'_>, width: usize, out: &mut [f32], lse: &mut [f32]) {
    for (i, lse) in lse.iter_mut().enumerate() {
        let (sum, top) = (state.sum[i], state.top[i]);
        let seen = top > f32::NEG_INFINITY || sum.is_nan();
        state.worth[i] = if seen { 1.0 / sum } else { 0.0 };
        *lse = if seen { top * std::f32::consts::LN_2 + sum.ln() } else { f32::NEG_INFINITY };
    }
    scale_rows(isa, out, width, state.worth);
}
