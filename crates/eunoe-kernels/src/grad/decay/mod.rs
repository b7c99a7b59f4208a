//! Linear attention with a decay per head, in chunks.
//!
//! * Paper:    Qin et al., 2024, arXiv 2405.17381 (Lightning attention), equations 4 to 11
//! * Equation: KV_t = λ KV_{t-1} + k_t v_tᵀ, o_t = KV_tᵀ q_t. In a chunk of m steps, i from 1, M_ij = λ^(i-j) for i ≥ j:
//!   O = ((Q Kᵀ) ⊙ M) V + λ^i Q KV, KV ← λ^m KV + (λ^(m-i) K)ᵀ V. Backward, chunks from the last:
//!   dQ = ((dO Vᵀ) ⊙ M) K + λ^i dO KVᵀ, dK = ((dO Vᵀ) ⊙ M)ᵀ Q + λ^(m-i) V dKVᵀ,
//!   dV = ((Q Kᵀ) ⊙ M)ᵀ dO + λ^(m-i) K dKV, dKV ← λ^m dKV + (λ^i Q)ᵀ dO
//! * Shapes:   q, k [b, h, t, n], v, out [b, h, t, d], start, end [b, h, n, d], λ [h]
//! * Cost:     t (64 + n) (n + d) multiply-adds per head; a head is a task, backward two
//! * Differs:  nothing; λ = 1 is plain causal linear attention. No power of λ above 1 is ever taken
//! * Oracle:   the recurrence in f64, and its central differences

use std::ops::Range;

use eunoe_core::{Error, Result};

use crate::pool::Shards;
use crate::{Isa, Pool};

use super::parts::{check, size};
use super::product::{Mat, product, transpose};
use super::scratch;

/// Steps of a chunk.
const CHUNK: usize = 64;
/// Lanes of a vector: the columns of a tile are whole vectors.
const LANES: usize = 16;

/// Sizes and decays.
#[derive(Clone, Copy, Debug)]
pub struct Lightning<'a> {
    /// b
    pub batch: usize,
    /// h
    pub heads: usize,
    /// t
    pub t: usize,
    /// n: values of a query or key.
    pub key_dim: usize,
    /// d: values of a value.
    pub value_dim: usize,
    /// λ of each head, above 0, at most 1.
    pub decay: &'a [f32],
}

/// Queries, keys, values, and the state before the first step.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[b, h, t, n]`
    pub q: &'a [f32],
    /// `[b, h, t, n]`
    pub k: &'a [f32],
    /// `[b, h, t, d]`
    pub v: &'a [f32],
    /// `[b, h, n, d]`; 0 where there is none.
    pub start: Option<&'a [f32]>,
}

/// Gradients of what the forward pass gave.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// `[b, h, t, d]`
    pub dout: &'a [f32],
    /// `[b, h, n, d]`; 0 where there is none.
    pub dend: Option<&'a [f32]>,
}

/// Gradients of the inputs; that of the start where it is wanted.
pub struct Grads<'a> {
    /// `[b, h, t, n]`
    pub dq: &'a mut [f32],
    /// `[b, h, t, n]`
    pub dk: &'a mut [f32],
    /// `[b, h, t, d]`
    pub dv: &'a mut [f32],
    /// `[b, h, n, d]`
    pub dstart: Option<&'a mut [f32]>,
}

/// One head of a call: its rows of the inputs, and the powers of its λ.
struct Head<'a> {
    isa: Isa,
    /// n, d.
    dims: [usize; 2],
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    start: Option<&'a [f32]>,
    powers: [f32; CHUNK + 1],
}

impl Lightning<'_> {
    /// Outputs of all steps, and the state after the last.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree, [`Error::Invalid`] for a λ that is no decay.
    pub fn forward(
        &self,
        isa: Isa,
        pool: &Pool,
        inputs: Inputs<'_>,
        out: &mut [f32],
        end: &mut [f32],
    ) -> Result<()> {
        self.check(&inputs)?;
        check("out", self.rows(self.value_dim), out.len())?;
        check("end", self.states(), end.len())?;
        let (values, state) = (self.t * self.value_dim, self.key_dim * self.value_dim);
        let (out, end) = (Shards::new(out), Shards::new(end));
        pool.run(self.batch * self.heads, &|i| {
            // SAFETY: tasks are different heads; the buffers outlive the loop.
            let (out, end) = unsafe { (out.part(i * values, values), end.part(i * state, state)) };
            self.head(isa, inputs, i).forward(self.t, out, end);
        });
        Ok(())
    }

    /// Gradients of queries, keys, values and the start.
    ///
    /// # Errors
    /// As [`Lightning::forward`].
    pub fn backward(
        &self,
        isa: Isa,
        pool: &Pool,
        inputs: Inputs<'_>,
        outputs: Outputs<'_>,
        grads: Grads<'_>,
    ) -> Result<()> {
        self.check(&inputs)?;
        let (states, [n, d]) = (self.states(), [self.key_dim, self.value_dim]);
        check("dout", self.rows(d), outputs.dout.len())?;
        check("dend", states, outputs.dend.map_or(states, <[f32]>::len))?;
        check("dq", self.rows(n), grads.dq.len())?;
        check("dk", self.rows(n), grads.dk.len())?;
        check("dv", self.rows(d), grads.dv.len())?;
        check("dstart", states, grads.dstart.as_ref().map_or(states, |dstart| dstart.len()))?;
        let (heads, keys, values) = (self.batch * self.heads, self.t * n, self.t * d);
        let [dq, dk, dv] = [grads.dq, grads.dk, grads.dv].map(Shards::new);
        let dstart = grads.dstart.map(Shards::new);
        // queries from the first chunk on, keys and values from the last one back
        pool.run(2 * heads, &|task| {
            let i = task % heads;
            let head = self.head(isa, inputs, i);
            let dout = &outputs.dout[i * values..][..values];
            // SAFETY: tasks are different heads or write different buffers; all outlive the loop.
            unsafe {
                if task < heads {
                    head.queries(self.t, dout, dq.part(i * keys, keys));
                } else {
                    let dend = outputs.dend.map(|dend| &dend[i * n * d..][..n * d]);
                    let dstart = dstart.map(|dstart| dstart.part(i * n * d, n * d));
                    let (dk, dv) = (dk.part(i * keys, keys), dv.part(i * values, values));
                    head.keys(self.t, Outputs { dout, dend }, dk, dv, dstart);
                }
            }
        });
        Ok(())
    }

    fn rows(&self, dim: usize) -> usize {
        size([self.batch, self.heads, self.t, dim])
    }

    fn states(&self) -> usize {
        size([self.batch, self.heads, self.key_dim, self.value_dim])
    }

    fn check(&self, inputs: &Inputs<'_>) -> Result<()> {
        check("decays", self.heads, self.decay.len())?;
        if let Some(decay) = self.decay.iter().find(|decay| !(**decay > 0.0 && **decay <= 1.0)) {
            return Err(Error::Invalid(format!("a decay is above 0 and at most 1, not `{decay}`")));
        }
        check("q", self.rows(self.key_dim), inputs.q.len())?;
        check("k", self.rows(self.key_dim), inputs.k.len())?;
        check("v", self.rows(self.value_dim), inputs.v.len())?;
        check("start", self.states(), inputs.start.map_or(self.states(), <[f32]>::len))
    }

    /// Head `i` of all, `[b, h]`.
    fn head<'a>(&self, isa: Isa, inputs: Inputs<'a>, i: usize) -> Head<'a> {
        let dims @ [n, d] = [self.key_dim, self.value_dim];
        let part = |x: &'a [f32], len: usize| &x[i * len..][..len];
        let decay = f64::from(self.decay[i % self.heads]);
        Head {
            isa,
            dims,
            q: part(inputs.q, self.t * n),
            k: part(inputs.k, self.t * n),
            v: part(inputs.v, self.t * d),
            start: inputs.start.map(|start| part(start, n * d)),
            powers: std::array::from_fn(|i| decay.powi(i as i32) as f32),
        }
    }
}

/// The steps of each chunk, in order.
fn chunks(t: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..t.div_ceil(CHUNK)).map(move |i| i * CHUNK..t.min((i + 1) * CHUNK))
}

/// Vectors of queries of a chunk of `m`: a query sees the keys up to the end of its vector, or fewer.
fn pieces(m: usize) -> impl Iterator<Item = Range<usize>> {
    (0..m).step_by(LANES).map(move |start| start..m.min(start + LANES))
}

fn rows<'a>(x: &'a [f32], chunk: &Range<usize>, dim: usize) -> Mat<'a> {
    Mat::new(&x[chunk.start * dim..chunk.end * dim], chunk.len(), dim, dim)
}

impl Head<'_> {
    fn forward(&self, t: usize, out: &mut [f32], state: &mut [f32]) {
        let (isa, [n, d]) = (self.isa, self.dims);
        match self.start {
            Some(start) => state.copy_from_slice(start),
            None => state.fill(0.0),
        }
        scratch::with([n * CHUNK, CHUNK * CHUNK, CHUNK * n], |[turned, tile, scaled]| {
            for chunk in chunks(t) {
                let (m, v) = (chunk.len(), rows(self.v, &chunk, d));
                let out = &mut out[chunk.start * d..chunk.end * d];
                let scaled_q = self.fade_in(self.q, &chunk, n, scaled);
                product(isa, scaled_q, Mat::new(state, n, d, d), out, d, false);
                self.tile(rows(self.k, &chunk, n), rows(self.q, &chunk, n), turned, tile);
                self.add_queries(tile, v, out);
                let scaled_k = self.fade_out(self.k, &chunk, n, scaled);
                self.carry(state, m);
                product(isa, scaled_k.t(), v, state, d, true);
            }
        });
    }

    fn queries(&self, t: usize, dout: &[f32], dq: &mut [f32]) {
        let (isa, [n, d]) = (self.isa, self.dims);
        let sizes = [d * CHUNK, CHUNK * CHUNK, CHUNK * n.max(d), d * n];
        // the state is [d, n] here
        scratch::with(sizes, |[turned, tile, scaled, state]| {
            match self.start {
                Some(start) => transpose(isa, Mat::new(start, n, d, d), 1.0, state, n),
                None => state.fill(0.0),
            }
            for chunk in chunks(t) {
                let (m, v) = (chunk.len(), rows(self.v, &chunk, d));
                let dq = &mut dq[chunk.start * n..chunk.end * n];
                let scaled_dout = self.fade_in(dout, &chunk, d, scaled);
                product(isa, scaled_dout, Mat::new(state, d, n, n), dq, n, false);
                self.tile(v, rows(dout, &chunk, d), turned, tile);
                self.add_queries(tile, rows(self.k, &chunk, n), dq);
                let scaled_k = self.fade_out(self.k, &chunk, n, scaled);
                self.carry(state, m);
                product(isa, v.t(), scaled_k, state, n, true);
            }
        });
    }

    fn keys(
        &self,
        t: usize,
        outputs: Outputs<'_>,
        dk: &mut [f32],
        dv: &mut [f32],
        dstart: Option<&mut [f32]>,
    ) {
        let (isa, [n, d]) = (self.isa, self.dims);
        let wide = n.max(d);
        let sizes = [wide * CHUNK, CHUNK * CHUNK, CHUNK * wide, n * d, d * n];
        scratch::with(sizes, |[turned, tile, scaled, dstate, dstate_turned]| {
            match outputs.dend {
                Some(dend) => dstate.copy_from_slice(dend),
                None => dstate.fill(0.0),
            }
            for chunk in chunks(t).rev() {
                let (m, q) = (chunk.len(), rows(self.q, &chunk, n));
                let (k, v) = (rows(self.k, &chunk, n), rows(self.v, &chunk, d));
                let dout = rows(outputs.dout, &chunk, d);
                let (dk, dv) =
                    (&mut dk[chunk.start * n..chunk.end * n], &mut dv[chunk.start * d..chunk.end * d]);
                transpose(isa, Mat::new(dstate, n, d, d), 1.0, dstate_turned, n);
                let scaled_v = self.fade_out(self.v, &chunk, d, scaled);
                product(isa, scaled_v, Mat::new(dstate_turned, d, n, n), dk, n, false);
                self.tile(v, dout, turned, tile);
                self.add_keys(tile, q, dk);
                let scaled_k = self.fade_out(self.k, &chunk, n, scaled);
                product(isa, scaled_k, Mat::new(dstate, n, d, d), dv, d, false);
                self.tile(k, q, turned, tile);
                self.add_keys(tile, dout, dv);
                let scaled_q = self.fade_in(self.q, &chunk, n, scaled);
                self.carry(dstate, m);
                product(isa, scaled_q.t(), dout, dstate, d, true);
            }
            if let Some(dstart) = dstart {
                dstart.copy_from_slice(dstate);
            }
        });
    }

    /// `tile[j, i] = λ^(i - j) keys_j · queries_i` for i ≥ j, else 0.
    fn tile(&self, keys: Mat<'_>, queries: Mat<'_>, turned: &mut [f32], tile: &mut [f32]) {
        let (m, dim) = (keys.rows(), keys.cols());
        transpose(self.isa, queries, 1.0, turned, CHUNK);
        for piece in pieces(m) {
            let at = piece.start.min(turned.len());
            let queries = Mat::new(&turned[at..], dim, LANES, CHUNK);
            product(self.isa, keys.part(0..piece.end), queries, &mut tile[piece.start..], CHUNK, false);
        }
        self.isa.run(
            #[inline(always)]
            || {
                for (j, line) in tile.chunks_exact_mut(CHUNK).take(m).enumerate() {
                    line[..j].fill(0.0);
                    for (x, power) in line[j..m].iter_mut().zip(&self.powers) {
                        *x *= power;
                    }
                }
            },
        );
    }

    /// `out += tileᵀ keys`, the rows of queries.
    fn add_queries(&self, tile: &[f32], keys: Mat<'_>, out: &mut [f32]) {
        let dim = keys.cols();
        for piece in pieces(keys.rows()) {
            let weights = Mat::new(&tile[piece.start..], piece.end, piece.len(), CHUNK).t();
            product(self.isa, weights, keys.part(0..piece.end), &mut out[piece.start * dim..], dim, true);
        }
    }

    /// `out += tile queries`, the rows of keys.
    fn add_keys(&self, tile: &[f32], queries: Mat<'_>, out: &mut [f32]) {
        for piece in pieces(queries.rows()) {
            let weights = Mat::new(&tile[piece.start..], piece.end, piece.len(), CHUNK);
            product(self.isa, weights, queries.part(piece), out, queries.cols(), true);
        }
    }

    /// Rows of a chunk, the i-th (from 1) times λ^i: what the state before it is worth.
    fn fade_in<'s>(&self, x: &[f32], chunk: &Range<usize>, dim: usize, out: &'s mut [f32]) -> Mat<'s> {
        self.scaled(x, chunk, dim, out, |i| self.powers[i + 1])
    }

    /// Rows of a chunk, the i-th (from 1) times λ^(m - i): what it is worth to the state after it.
    fn fade_out<'s>(&self, x: &[f32], chunk: &Range<usize>, dim: usize, out: &'s mut [f32]) -> Mat<'s> {
        self.scaled(x, chunk, dim, out, |i| self.powers[chunk.len() - 1 - i])
    }

    fn scaled<'s>(
        &self,
        x: &[f32],
        chunk: &Range<usize>,
        dim: usize,
        out: &'s mut [f32],
        factor: impl Fn(usize) -> f32,
    ) -> Mat<'s> {
        let x = &x[chunk.start * dim..chunk.end * dim];
        self.isa.run(
            #[inline(always)]
            || {
                let pairs = x.chunks_exact(dim.max(1)).zip(out.chunks_exact_mut(dim.max(1)));
                for (i, (x, out)) in pairs.enumerate() {
                    let factor = factor(i);
                    for (out, x) in out.iter_mut().zip(x) {
                        *out = x * factor;
                    }
                }
            },
        );
        Mat::new(out, chunk.len(), dim, dim)
    }

    /// What is left of a state after `m` steps.
    fn carry(&self, state: &mut [f32], m: usize) {
        let left = self.powers[m];
        self.isa.run(
            #[inline(always)]
            || {
                for x in state {
                    *x *= left;
                }
            },
        );
    }
}

#[cfg(test)]
mod tests;
