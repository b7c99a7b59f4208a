//! Causal attention for training, in tiles whose scores are computed again in the backward pass.
//!
//! * Paper:    Dao, 2023, arXiv 2307.08691 (FlashAttention-2), algorithms 1 and 2
//! * Equation: out = attn v, attn = softmax(scale · q kᵀ + mask) or sigmoid(scale · q kᵀ), 0 where masked
//! * Shapes:   q [b, h, t_q, d], k [b, h_kv, t_k, d], v [b, h_kv, t_k, d_v] → out [b, h, t_q, d_v], lse [b, h, t_q]
//! * Cost:     7 products of d multiply-adds per visible pair, memory of one tile per thread
//! * Differs:  tiles hold keys as rows and queries as columns, so that a row's maximum and sum are lanes of a vector
//! * Oracle:   the equation in f64, and its central differences
//!
//! Row i sees the keys j ≤ i + t_k - t_q, with a window of w only the last w of them. A row that sees no key gives 0,
//! and -∞ as its `lse`.

mod backward;
mod forward;
#[cfg(test)]
mod tests;

use std::ops::Range;

use eunoe_core::{Error, Result};

use super::parts::{check, size};
use super::product::Mat;

/// Queries of a tile: its columns.
const QUERIES: usize = 64;
/// Keys of a tile: its rows. Tiles lie on a grid, so that sums over keys have one order.
const KEYS: usize = 64;
/// Lanes of a vector: the columns of a tile are whole vectors.
const LANES: usize = 16;

/// What becomes of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// e^score over the sum of all that the row sees.
    Softmax,
    /// 1 / (1 + e^-score): no row sum, no sink.
    Sigmoid,
}

/// Sizes and rules of one attention.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// b
    pub batch: usize,
    /// h: a multiple of `kv_heads`; query head i reads key head i / (h / h_kv).
    pub heads: usize,
    /// h_kv
    pub kv_heads: usize,
    /// t_q
    pub t_q: usize,
    /// t_k
    pub t_k: usize,
    /// d of queries and keys.
    pub head_dim: usize,
    /// d of values and outputs.
    pub value_dim: usize,
    /// Factor on scores.
    pub scale: f32,
    /// A row sees itself and the `window - 1` keys before; `None`: all before.
    pub window: Option<usize>,
    /// What becomes of a score.
    pub weights: Weights,
}

/// Queries, keys and values, contiguous.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[b, h, t_q, d]`
    pub q: &'a [f32],
    /// `[b, h_kv, t_k, d]`
    pub k: &'a [f32],
    /// `[b, h_kv, t_k, d_v]`
    pub v: &'a [f32],
}

/// What the forward pass gave and the gradient of its output.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// `[b, h, t_q, d_v]`
    pub out: &'a [f32],
    /// `[b, h, t_q]`; empty with [`Weights::Sigmoid`].
    pub lse: &'a [f32],
    /// `[b, h, t_q, d_v]`
    pub dout: &'a [f32],
}

/// Gradients of the inputs, shaped like them.
pub struct Grads<'a> {
    /// `[b, h, t_q, d]`
    pub dq: &'a mut [f32],
    /// `[b, h_kv, t_k, d]`
    pub dk: &'a mut [f32],
    /// `[b, h_kv, t_k, d_v]`
    pub dv: &'a mut [f32],
}

impl Attention {
    /// Length of `lse`: `[b, h, t_q]`, or 0 with [`Weights::Sigmoid`].
    pub fn lse_len(&self) -> usize {
        match self.weights {
            Weights::Softmax => size([self.batch, self.heads, self.t_q]),
            Weights::Sigmoid => 0,
        }
    }

    fn q_len(&self) -> usize {
        size([self.batch, self.heads, self.t_q, self.head_dim])
    }

    fn k_len(&self) -> usize {
        size([self.batch, self.kv_heads, self.t_k, self.head_dim])
    }

    fn v_len(&self) -> usize {
        size([self.batch, self.kv_heads, self.t_k, self.value_dim])
    }

    fn out_len(&self) -> usize {
        size([self.batch, self.heads, self.t_q, self.value_dim])
    }

    fn check(&self, inputs: &Inputs<'_>) -> Result<()> {
        if self.heads.checked_rem(self.kv_heads).is_none_or(|rest| rest != 0) {
            return Err(Error::shape("query heads", format!("a multiple of {}", self.kv_heads), self.heads));
        }
        check("q", self.q_len(), inputs.q.len())?;
        check("k", self.k_len(), inputs.k.len())?;
        check("v", self.v_len(), inputs.v.len())
    }

    /// Query heads of one key head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The rows of one query block.
    fn rows(&self, block: usize) -> Range<usize> {
        block * QUERIES..self.t_q.min((block + 1) * QUERIES)
    }

    /// The keys that row `i` sees.
    fn sight(&self, i: usize) -> Range<usize> {
        let end = (i + 1 + self.t_k).saturating_sub(self.t_q);
        let start = self.window.map_or(0, |window| end.saturating_sub(window));
        start..end
    }

    /// The keys of block `block` that some of `rows` see.
    fn keys(&self, rows: &Range<usize>, block: usize) -> Range<usize> {
        let start = self.sight(rows.start).start.max(block * KEYS);
        let end = self.sight(rows.end - 1).end.min((block + 1) * KEYS);
        start..end.max(start)
    }

    fn sees_all(&self, rows: &Range<usize>, keys: &Range<usize>) -> bool {
        self.sight(rows.start).end >= keys.end && self.sight(rows.end - 1).start <= keys.start
    }

    /// The parts of a tile that are not wholly masked, queries ascending: all of it, or one per vector of queries.
    fn pieces(&self, rows: &Range<usize>, keys: &Range<usize>) -> impl Iterator<Item = Piece> {
        let width = if self.sees_all(rows, keys) { QUERIES } else { LANES };
        rows.clone().step_by(width).filter_map(move |first| {
            let last = rows.end.min(first + width) - 1;
            let start = self.sight(first).start.max(keys.start);
            let end = self.sight(last).end.min(keys.end);
            let queries = first - rows.start..last + 1 - rows.start;
            (start < end).then(|| Piece { queries, keys: start - keys.start..end - keys.start })
        })
    }

    /// Sets what `rows` do not see of `keys` to `value`; `tile` has a row per key and a column per query.
    fn mask(&self, rows: &Range<usize>, keys: &Range<usize>, tile: &mut [f32], value: f32) {
        if self.sees_all(rows, keys) {
            return;
        }
        for (key, line) in keys.clone().zip(tile.chunks_exact_mut(QUERIES)) {
            // row i sees key j from i = j + t_q - t_k on, as many rows as the window is wide
            let from = (key + self.t_q).saturating_sub(self.t_k);
            let until =
                self.window.map_or(rows.end, |w| (key + self.t_q).saturating_add(w).saturating_sub(self.t_k));
            let [from, until] = [from, until].map(|i| i.clamp(rows.start, rows.end) - rows.start);
            line[..from].fill(value);
            line[until.max(from)..rows.len()].fill(value);
        }
    }

    /// Factor on scores so that they are powers of 2.
    fn scale_of_powers(&self) -> f32 {
        self.scale * std::f32::consts::LOG2_E
    }
}

/// A part of a tile; indices count from the tile's first.
struct Piece {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Piece {
    /// Where it starts in a tile.
    fn at(&self) -> usize {
        self.keys.start * QUERIES + self.queries.start
    }

    /// It, in a tile.
    fn of<'a>(&self, tile: &'a [f32]) -> Mat<'a> {
        Mat::new(&tile[self.at()..], self.keys.len(), self.queries.len(), QUERIES)
    }

    /// Its queries of a tile's `[dim, QUERIES]`: whole vectors.
    fn columns<'a>(&self, turned: &'a [f32], dim: usize) -> Mat<'a> {
        let at = self.queries.start.min(turned.len());
        Mat::new(&turned[at..], dim, self.queries.len().next_multiple_of(LANES), QUERIES)
    }

    /// Its queries of a tile's rows.
    fn rows<'a>(&self, rows: &'a [f32], dim: usize) -> Mat<'a> {
        Mat::new(&rows[self.queries.start * dim..], self.queries.len(), dim, dim)
    }

    /// Its keys of a tile's keys or values.
    fn keys<'a>(&self, keys: &'a [f32], dim: usize) -> Mat<'a> {
        Mat::new(&keys[self.keys.start * dim..], self.keys.len(), dim, dim)
    }
}

/// 1 / (1 + 2^-score).
#[inline(always)]
fn sigmoid(score: f32) -> f32 {
    /// 2^126 and above: `exp2` ends there, and the result is as good as 0.
    const MOST: f32 = 126.0;
    let power = if -score > MOST { MOST } else { -score };
    1.0 / (1.0 + crate::math::exp2(power))
}
