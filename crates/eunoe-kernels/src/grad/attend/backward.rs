//! The backward pass. Where there are as many key heads as threads, a task is one of them and computes each tile once;
//! else gradients of queries and of keys are two loops over more tasks. The order of sums is the same in both.

use std::ops::Range;

use eunoe_core::Result;

use crate::math::exp2;
use crate::pool::Shards;
use crate::{Isa, Pool};

use super::super::parts::{check, sum};
use super::super::product::{Mat, product, transpose};
use super::super::scratch;
use super::{Attention, Grads, Inputs, KEYS, LANES, Outputs, QUERIES, Weights, sigmoid};

/// What the tiles of one block of queries have in common.
struct Rows<'a> {
    head: usize,
    rows: Range<usize>,
    /// `[d, QUERIES]`, scaled so that scores are powers of 2.
    q: &'a mut [f32],
    /// `[d_v, QUERIES]`
    dout: &'a mut [f32],
    /// The logarithm to base 2 of the sum of weights.
    lse: &'a mut [f32],
    /// Σ out · dout: what the softmax takes from the gradient of a weight.
    delta: &'a mut [f32],
}

/// `[KEYS, QUERIES]` each.
struct Tile<'a> {
    attn: &'a mut [f32],
    /// Gradient of the scores, times the scale.
    dscores: &'a mut [f32],
}

/// One call.
struct Call<'a> {
    attention: &'a Attention,
    isa: Isa,
    inputs: Inputs<'a>,
    outputs: Outputs<'a>,
}

impl Attention {
    /// Gradients of queries, keys and values.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn backward(
        &self,
        isa: Isa,
        pool: &Pool,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        grads: Grads<'_>,
    ) -> Result<()> {
        self.check(&inputs)?;
        check("out", self.out_len(), outputs.out.len())?;
        check("dout", self.out_len(), outputs.dout.len())?;
        check("lse", self.lse_len(), outputs.lse.len())?;
        check("dq", self.q_len(), grads.dq.len())?;
        check("dk", self.k_len(), grads.dk.len())?;
        check("dv", self.v_len(), grads.dv.len())?;
        let call = Call { attention: self, isa, inputs, outputs };
        if self.batch * self.kv_heads >= pool.threads() {
            call.by_heads(pool, grads);
        } else {
            call.by_queries(pool, grads.dq);
            call.by_keys(pool, grads.dk, grads.dv);
        }
        Ok(())
    }
}

impl Call<'_> {
    fn by_heads(&self, pool: &Pool, grads: Grads<'_>) {
        let a = self.attention;
        let (d, d_v, group) = (a.head_dim, a.value_dim, a.group());
        let (dq, dk, dv) = (Shards::new(grads.dq), Shards::new(grads.dk), Shards::new(grads.dv));
        pool.run(a.batch * a.kv_heads, &|kv_head| {
            let queries = group * a.t_q * d;
            // SAFETY: tasks are different heads; the buffers outlive the loop.
            let (dq, dk, dv) = unsafe {
                (
                    dq.part(kv_head * queries, queries),
                    dk.part(kv_head * a.t_k * d, a.t_k * d),
                    dv.part(kv_head * a.t_k * d_v, a.t_k * d_v),
                )
            };
            dq.fill(0.0);
            dk.fill(0.0);
            dv.fill(0.0);
            self.each_block(kv_head, 0..a.t_k.div_ceil(KEYS), |rows, keys, tile| {
                let first = (rows.head - kv_head * group) * a.t_q + rows.rows.start;
                self.add_queries(rows, keys, tile, &mut dq[first * d..]);
                self.add_keys(rows, keys, tile, &mut dk[keys.start * d..], &mut dv[keys.start * d_v..]);
            });
        });
    }

    fn by_queries(&self, pool: &Pool, dq: &mut [f32]) {
        let a = self.attention;
        let (blocks, dq) = (a.t_q.div_ceil(QUERIES), Shards::new(dq));
        pool.run(a.batch * a.heads * blocks, &|i| {
            let (head, rows) = (i / blocks, a.rows(blocks - 1 - i % blocks));
            let (first, len) = ((head * a.t_q + rows.start) * a.head_dim, rows.len() * a.head_dim);
            // SAFETY: tasks are different rows of different heads; the buffer outlives the loop.
            let dq = unsafe { dq.part(first, len) };
            dq.fill(0.0);
            self.with_memory(|rows_of, tile| {
                self.prepare(rows_of, head, rows.clone());
                for block in 0..a.t_k.div_ceil(KEYS) {
                    if let Some(keys) = self.fill(rows_of, block, tile) {
                        self.add_queries(rows_of, &keys, tile, dq);
                    }
                }
            });
        });
    }

    fn by_keys(&self, pool: &Pool, dk: &mut [f32], dv: &mut [f32]) {
        let a = self.attention;
        let (d, d_v, blocks) = (a.head_dim, a.value_dim, a.t_k.div_ceil(KEYS));
        let (dk, dv) = (Shards::new(dk), Shards::new(dv));
        pool.run(a.batch * a.kv_heads * blocks, &|i| {
            let (kv_head, block) = (i / blocks, i % blocks);
            let start = block * KEYS;
            let (first, len) = (kv_head * a.t_k + start, KEYS.min(a.t_k - start));
            // SAFETY: tasks are different keys of different heads; the buffers outlive the loop.
            let (dk, dv) = unsafe { (dk.part(first * d, len * d), dv.part(first * d_v, len * d_v)) };
            dk.fill(0.0);
            dv.fill(0.0);
            self.each_block(kv_head, block..block + 1, |rows, keys, tile| {
                let at = keys.start - start;
                self.add_keys(rows, keys, tile, &mut dk[at * d..], &mut dv[at * d_v..]);
            });
        });
    }

    /// Calls `work` for every tile of a key head that is not wholly masked: query heads, blocks of queries, then
    /// blocks of keys, each ascending.
    fn each_block(
        &self,
        kv_head: usize,
        blocks: Range<usize>,
        mut work: impl FnMut(&Rows<'_>, &Range<usize>, &Tile<'_>),
    ) {
        let a = self.attention;
        self.with_memory(|rows_of, tile| {
            for head in kv_head * a.group()..(kv_head + 1) * a.group() {
                for rows in (0..a.t_q.div_ceil(QUERIES)).map(|block| a.rows(block)) {
                    if blocks.clone().all(|block| a.keys(&rows, block).is_empty()) {
                        continue;
                    }
                    self.prepare(rows_of, head, rows);
                    for block in blocks.clone() {
                        if let Some(keys) = self.fill(rows_of, block, tile) {
                            work(rows_of, &keys, tile);
                        }
                    }
                }
            }
        });
    }

    fn with_memory(&self, work: impl FnOnce(&mut Rows<'_>, &mut Tile<'_>)) {
        let (d, d_v) = (self.attention.head_dim, self.attention.value_dim);
        let tile = KEYS * QUERIES;
        scratch::with([d * QUERIES, d_v * QUERIES, QUERIES, QUERIES, tile, tile], |parts| {
            let [q, dout, lse, delta, attn, dscores] = parts;
            work(&mut Rows { head: 0, rows: 0..0, q, dout, lse, delta }, &mut Tile { attn, dscores });
        });
    }

    fn prepare(&self, of: &mut Rows<'_>, head: usize, rows: Range<usize>) {
        let (a, isa, outputs) = (self.attention, self.isa, &self.outputs);
        let (d, d_v, first) = (a.head_dim, a.value_dim, head * a.t_q + rows.start);
        let q = Mat::new(&self.inputs.q[first * d..], rows.len(), d, d);
        transpose(isa, q, a.scale_of_powers(), of.q, QUERIES);
        let dout = &outputs.dout[first * d_v..][..rows.len() * d_v];
        transpose(isa, Mat::new(dout, rows.len(), d_v, d_v), 1.0, of.dout, QUERIES);
        of.lse.fill(0.0);
        of.delta.fill(0.0);
        if a.weights == Weights::Softmax {
            let lse = &outputs.lse[first..][..rows.len()];
            let out = &outputs.out[first * d_v..][..rows.len() * d_v];
            isa.run(
                #[inline(always)]
                || {
                    for i in 0..rows.len() {
                        of.lse[i] = lse[i] * std::f32::consts::LOG2_E;
                        let row = i * d_v..(i + 1) * d_v;
                        of.delta[i] = sum([&out[row.clone()], &dout[row]], |[out, dout]| out * dout);
                    }
                },
            );
        }
        (of.head, of.rows) = (head, rows);
    }

    /// Computes a tile; `None` where it is wholly masked.
    fn fill(&self, of: &Rows<'_>, block: usize, tile: &mut Tile<'_>) -> Option<Range<usize>> {
        let (a, isa) = (self.attention, self.isa);
        let (d, d_v, kv_head) = (a.head_dim, a.value_dim, of.head / a.group());
        let keys = Some(a.keys(&of.rows, block)).filter(|keys| !keys.is_empty())?;
        let columns = of.rows.len().next_multiple_of(LANES);
        let first = kv_head * a.t_k + keys.start;
        let attn = &mut tile.attn[..keys.len() * QUERIES];
        let dscores = &mut tile.dscores[..keys.len() * QUERIES];
        for piece in a.pieces(&of.rows, &keys) {
            let (k, v) = (&self.inputs.k[first * d..], &self.inputs.v[first * d_v..]);
            product(isa, piece.keys(k, d), piece.columns(of.q, d), &mut attn[piece.at()..], QUERIES, false);
            let (values, dout) = (piece.keys(v, d_v), piece.columns(of.dout, d_v));
            product(isa, values, dout, &mut dscores[piece.at()..], QUERIES, false);
        }
        isa.run(
            #[inline(always)]
            || {
                for (attn, dscores) in attn.chunks_exact_mut(QUERIES).zip(dscores.chunks_exact_mut(QUERIES)) {
                    a.line(of, &mut attn[..columns], &mut dscores[..columns]);
                }
            },
        );
        a.mask(&of.rows, &keys, attn, 0.0);
        a.mask(&of.rows, &keys, dscores, 0.0);
        Some(keys)
    }

    fn add_queries(&self, of: &Rows<'_>, keys: &Range<usize>, tile: &Tile<'_>, dq: &mut [f32]) {
        let (a, d) = (self.attention, self.attention.head_dim);
        let k = &self.inputs.k[(of.head / a.group() * a.t_k + keys.start) * d..];
        for piece in a.pieces(&of.rows, keys) {
            let dq = &mut dq[piece.queries.start * d..];
            product(self.isa, piece.of(tile.dscores).t(), piece.keys(k, d), dq, d, true);
        }
    }

    fn add_keys(&self, of: &Rows<'_>, keys: &Range<usize>, tile: &Tile<'_>, dk: &mut [f32], dv: &mut [f32]) {
        let (a, isa) = (self.attention, self.isa);
        let (d, d_v, first) = (a.head_dim, a.value_dim, of.head * a.t_q + of.rows.start);
        let (q, dout) = (&self.inputs.q[first * d..], &self.outputs.dout[first * d_v..]);
        for piece in a.pieces(&of.rows, keys) {
            let (dk, dv) = (&mut dk[piece.keys.start * d..], &mut dv[piece.keys.start * d_v..]);
            product(isa, piece.of(tile.dscores), piece.rows(q, d), dk, d, true);
            product(isa, piece.of(tile.attn), piece.rows(dout, d_v), dv, d_v, true);
        }
    }
}

impl Attention {
    /// Scores of one key become weights, gradients of weights those of scores.
    #[inline(always)]
    fn line(&self, of: &Rows<'_>, attn: &mut [f32], dscores: &mut [f32]) {
        let (lse, delta) = (&of.lse[..attn.len()], &of.delta[..attn.len()]);
        match self.weights {
            Weights::Softmax => {
                for i in 0..attn.len() {
                    attn[i] = exp2(attn[i] - lse[i]);
                    dscores[i] = attn[i] * (dscores[i] - delta[i]) * self.scale;
                }
            }
            Weights::Sigmoid => {
                for i in 0..attn.len() {
                    attn[i] = sigmoid(attn[i]);
                    dscores[i] = attn[i] * (1.0 - attn[i]) * dscores[i] * self.scale;
                }
            }
        }
    }
}
