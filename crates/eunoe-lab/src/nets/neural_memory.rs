//! A memory whose weights are trained by gradient descent on the tokens that pass (Titans, arXiv 2501.00663, section 3).
//!
//! Per head M is a matrix, or W₂ silu(W₁ ·). Each token writes S ← η S − θ ∇‖M(k) − v‖², M ← (1 − α) M + S, with the
//! gradient at the weights of its chunk's start; then M(q) is read. That is a linear recurrence, so a chunk needs no loop:
//! with β, ε the running products of 1 − α and η inside the chunk, D\[t, s\] = β_t / β_s and E\[s, i\] = ε_s / ε_i,
//!
//! M_t = β_t M + (D ε)_t S − Σ_i (D E)\[t, i\] θ_i δ_i a_iᵀ, S_t = ε_t S − Σ_i E\[t, i\] θ_i δ_i a_iᵀ,
//!
//! where δ_i is the gradient at a layer's output and a_i its input. With two layers a token's gradient is scaled down to the
//! length `clip`: it grows with the weights that it makes grow, and no θ keeps that from diverging. All inner gradients are
//! written out as tensors, so the tape of the outer training passes through them.

use candle_core::{D, Tensor};

use super::{Init, Linear, ShortConv, split};
use crate::mixers::Spec;
use crate::ops::{self, matmul};
use crate::{Result, State};

/// Tokens that the convolutions see.
const KERNEL: usize = 4;
/// The largest share of a surprise that is carried on. As η comes near 1 the step of a lasting surprise, θ / (1 − η),
/// would leave the range in which descent converges.
const MOST_MOMENTUM: f64 = 0.9;

/// See the module.
pub struct NeuralMemory {
    qkv: [(Linear, ShortConv); 3],
    /// α, η, θ, each one number per head.
    gates: [Linear; 3],
    /// Weights at the start of a text, `[h, outputs, inputs]` per layer.
    first: Vec<Tensor>,
    step: f64,
    clip: f64,
    chunk: usize,
    heads: usize,
}

/// What tokens of an open chunk have written with, per head: rows `[b, h, c, ·]`.
struct Written {
    k: Tensor,
    v: Tensor,
    /// ln(1 − α), ln η, θ.
    gates: Tensor,
}

/// Weights and momenta per layer, `[b, h, outputs, inputs]`.
struct Weights {
    now: Vec<Tensor>,
    momentum: Vec<Tensor>,
}

const NAMES: [[&str; 2]; 2] = [["w1", "s1"], ["w2", "s2"]];

impl NeuralMemory {
    /// With `layers` (1 or 2) layers `expand` heads wide inside, chunks of `chunk`, and steps of at most `step` along gradients
    /// that are, with two layers, no longer than `clip`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn new(
        spec: &Spec,
        (layers, expand): (usize, usize),
        chunk: usize,
        (step, clip): (f64, f64),
        init: &mut Init<'_>,
    ) -> Result<Self> {
        let (m, d, heads) = (spec.d_model, spec.head_dim(), spec.heads);
        let mut mixed = |name| -> Result<(Linear, ShortConv)> {
            let mut init = init.at(name);
            let linear = Linear::new(&mut init, m, m, spec.std)?;
            Ok((linear, ShortConv::new(&mut init.at("conv"), m, KERNEL, false)?))
        };
        let qkv = [mixed("q")?, mixed("k")?, mixed("v")?];
        let mut gate = |name, bias| -> Result<Linear> {
            let mut init = init.at(name);
            Linear::new(&mut init, m, heads, spec.std)?.with_bias(&mut init, bias)
        };
        let gates = [gate("forget", -4.0)?, gate("momentum", 0.0)?, gate("step", -1.0)?];
        let widths = if layers == 1 { vec![d, d] } else { vec![d, expand * d, d] };
        let layer = |l: usize, init: &mut Init<'_>| {
            let (inputs, outputs) = (widths[l], widths[l + 1]);
            let std = (2.0 / (inputs + outputs) as f64).sqrt();
            init.normal(NAMES[l][0], &[heads, outputs, inputs], std)
        };
        let first = (0..layers).map(|l| layer(l, init)).collect::<Result<_>>()?;
        Ok(Self { qkv, gates, first, step, clip, chunk, heads })
    }

    /// Writes each of the tokens `[b, t, m]` and reads after it: `[b, t, m]`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn run(&self, x: &Tensor, state: &mut State) -> Result<Tensor> {
        let [q, k, v] = self.projected(x, state)?;
        let gates = self.gates_of(x)?;
        let mut weights = self.weights(state, x)?;
        let open = state.pos % self.chunk;
        let [q, k, v, gates] = [q, k, v, gates].map(|x| ops::chunks(&x, 2, self.chunk, open));
        let mut outputs = Vec::new();
        for (((q, k), v), gates) in q?.iter().zip(k?).zip(v?).zip(gates?) {
            let written = Written {
                k: state.append("k", &k, 2)?,
                v: state.append("v", &v, 2)?,
                gates: state.append("gates", &gates, 2)?,
            };
            let (y, after) = self.chunk(q, &written, &weights)?;
            outputs.push(y);
            if written.k.dim(2)? == self.chunk {
                weights = after;
            } else {
                state.put("k", written.k);
                state.put("v", written.v);
                state.put("gates", written.gates);
            }
        }
        for ((names, w), s) in NAMES.iter().zip(weights.now).zip(weights.momentum) {
            state.put(names[0], w);
            state.put(names[1], s);
        }
        state.pos += x.dim(1)?;
        super::join(&Tensor::cat(&outputs, 2)?)
    }

    /// Reads for the tokens `[b, t, m]` from the memory as it stands at the start of the open chunk, and writes nothing.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn recall(&self, x: &Tensor, state: &State) -> Result<Tensor> {
        let q = ops::unit(&split(&ops::silu(&self.qkv[0].0.run(x)?)?, self.heads)?, 1e-6)?;
        let weights = self.weights(&mut state.clone(), x)?;
        let mut y = matmul(&q, &weights.now[0].t()?)?;
        if let Some(second) = weights.now.get(1) {
            y = matmul(&ops::silu(&y)?, &second.t()?)?;
        }
        super::join(&y)
    }

    /// Numbers that stay in the state of one sequence after `t` tokens; before the first there is none.
    pub fn state(&self, t: usize) -> usize {
        if t == 0 {
            return 0;
        }
        let weights: usize = self.first.iter().map(Tensor::elem_count).sum();
        let width = self.qkv[0].0.weight.dims()[0];
        2 * weights + 3 * ShortConv::state(KERNEL, width) + t % self.chunk * (2 * width + 3 * self.heads)
    }

    /// Multiply-adds per token: projections, and three passes over the weights (prediction, gradient, read).
    pub fn macs(&self) -> usize {
        let weights: usize = self.first.iter().map(Tensor::elem_count).sum();
        let width = self.qkv[0].0.weight.dims()[0];
        3 * width * (width + self.heads + KERNEL) + 4 * weights
    }

    fn projected(&self, x: &Tensor, state: &mut State) -> Result<[Tensor; 3]> {
        let mut mixed = |i: usize, name| -> Result<Tensor> {
            let (linear, conv) = &self.qkv[i];
            split(&ops::silu(&conv.run(&linear.run(x)?, state, name)?)?, self.heads)
        };
        let (q, k, v) = (mixed(0, "q_tail")?, mixed(1, "k_tail")?, mixed(2, "v_tail")?);
        Ok([ops::unit(&q, 1e-6)?, ops::unit(&k, 1e-6)?, v])
    }

    /// ln(1 − α), ln η, θ: `[b, h, t, 3]`.
    fn gates_of(&self, x: &Tensor) -> Result<Tensor> {
        let [forget, momentum, step] = &self.gates;
        let heads = |linear: &Linear| split(&linear.run(x)?, self.heads);
        let kept = ops::softplus(&heads(forget)?)?.neg()?;
        let carried = (ops::softplus(&heads(momentum)?.neg()?)?.neg()? + MOST_MOMENTUM.ln())?;
        Tensor::cat(&[kept, carried, (ops::sigmoid(&heads(step)?)? * self.step)?], D::Minus1)
    }

    fn weights(&self, state: &mut State, x: &Tensor) -> Result<Weights> {
        let b = x.dim(0)?;
        let mut weights = Weights { now: Vec::new(), momentum: Vec::new() };
        for (names, first) in NAMES.iter().zip(&self.first) {
            let (h, outputs, inputs) = first.dims3()?;
            weights.now.push(match state.take(names[0]) {
                Some(w) => w,
                None => first.to_dtype(x.dtype())?.broadcast_as((b, h, outputs, inputs))?.contiguous()?,
            });
            weights.momentum.push(match state.take(names[1]) {
                Some(s) => s,
                None => Tensor::zeros((b, h, outputs, inputs), x.dtype(), x.device())?,
            });
        }
        Ok(weights)
    }

    /// Reads for the queries `[b, h, r, d]`, which stand at the chunk's last r tokens, and the weights behind the chunk.
    fn chunk(&self, q: &Tensor, written: &Written, weights: &Weights) -> Result<(Tensor, Weights)> {
        let Written { k, v, gates } = written;
        let (c, r) = (k.dim(2)?, q.dim(2)?);
        let upto = ops::causal(c, c, None, k)?;
        // running sums of ln(1 − α) and ln η, each [b, h, c, 1]
        let sums = matmul(&upto.broadcast_as((k.dim(0)?, k.dim(1)?, c, c))?, &gates.narrow(3, 0, 2)?)?;
        let (beta, eps) = (sums.narrow(3, 0, 1)?, sums.narrow(3, 1, 1)?);
        let ratios = |sum: &Tensor| ops::masked(&sum.broadcast_sub(&sum.t()?)?, &upto)?.exp();
        let (d, e) = (ratios(&beta)?, ratios(&eps)?);
        let mix = Mix {
            carried: matmul(&d, &eps.exp()?)?,
            kept: beta.exp()?,
            momentum: eps.exp()?,
            reads: matmul(&d, &e)?,
            writes: e,
            step: gates.narrow(3, 2, 1)?,
        };
        let deltas = self.deltas(k, v, weights)?;
        let mut y = q.clone();
        let mut after = Weights { now: Vec::new(), momentum: Vec::new() };
        for (l, (inputs, delta)) in deltas.iter().enumerate() {
            let (w, s) = (&weights.now[l], &weights.momentum[l]);
            let y_in = if l == 0 { y } else { ops::silu(&y)? };
            y = mix.read(&y_in, inputs, delta, w, s, c - r)?;
            let (w, s) = mix.end(inputs, delta, w, s)?;
            after.now.push(w);
            after.momentum.push(s);
        }
        Ok((y, after))
    }

    /// Per layer its inputs `[b, h, c, ·]` and the gradient of ‖M(k) − v‖² at its outputs, clipped.
    fn deltas(&self, k: &Tensor, v: &Tensor, weights: &Weights) -> Result<Vec<(Tensor, Tensor)>> {
        let z = matmul(k, &weights.now[0].t()?)?;
        let Some(second) = weights.now.get(1) else {
            return Ok(vec![(k.clone(), ((z - v)? * 2.0)?)]);
        };
        let (gate, a) = (ops::sigmoid(&z)?, ops::silu(&z)?);
        let outer = ((matmul(&a, &second.t()?)? - v)? * 2.0)?;
        // silu' = σ (1 + z (1 − σ))
        let slope = (&gate * ((z * gate.affine(-1.0, 1.0)?)? + 1.0)?)?;
        let inner = (matmul(&outer, second)? * slope)?;
        let squares = |x: &Tensor| x.sqr()?.sum_keepdim(D::Minus1);
        // of an outer product the squared length is that of its factors
        let square = ((squares(&inner)? * squares(k)?)? + (squares(&outer)? * squares(&a)?)?)?;
        let share = (square.maximum(self.clip * self.clip)?.sqrt()?.recip()? * self.clip)?;
        Ok(vec![(k.clone(), inner.broadcast_mul(&share)?), (a, outer.broadcast_mul(&share)?)])
    }
}

/// How the tokens of a chunk weigh in each other's memory.
struct Mix {
    /// β_t and (D ε)_t, ε_t: `[b, h, c, 1]`.
    kept: Tensor,
    carried: Tensor,
    momentum: Tensor,
    /// D E and E: `[b, h, c, c]`.
    reads: Tensor,
    writes: Tensor,
    /// θ.
    step: Tensor,
}

impl Mix {
    /// M_t z_t for the tokens from `first` on.
    fn read(
        &self,
        z: &Tensor,
        inputs: &Tensor,
        delta: &Tensor,
        w: &Tensor,
        s: &Tensor,
        first: usize,
    ) -> Result<Tensor> {
        let r = z.dim(2)?;
        let rows = |x: &Tensor| x.narrow(2, first, r);
        let old = matmul(z, &w.t()?)?.broadcast_mul(&rows(&self.kept)?)?;
        let moving = matmul(z, &s.t()?)?.broadcast_mul(&rows(&self.carried)?)?;
        let attn = (matmul(z, &inputs.t()?)? * rows(&self.reads)?)?;
        (old + moving)? - matmul(&attn, &delta.broadcast_mul(&self.step)?)?
    }

    /// M and S behind the chunk.
    fn end(&self, inputs: &Tensor, delta: &Tensor, w: &Tensor, s: &Tensor) -> Result<(Tensor, Tensor)> {
        let last = inputs.dim(2)? - 1;
        let row = |x: &Tensor| x.narrow(2, last, 1);
        let written = |mix: &Tensor| -> Result<Tensor> {
            let weight = (row(mix)?.t()? * &self.step)?;
            matmul(&delta.broadcast_mul(&weight)?.t()?, inputs)
        };
        let now = (w.broadcast_mul(&row(&self.kept)?)? + s.broadcast_mul(&row(&self.carried)?)?)?;
        let momentum = s.broadcast_mul(&row(&self.momentum)?)?;
        Ok(((now - written(&self.reads)?)?, (momentum - written(&self.writes)?)?))
    }
}

#[cfg(test)]
pub(crate) mod tests;
