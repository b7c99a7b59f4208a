//! A matrix of fast weights that is corrected, not added to: each key's old value is taken out before the new one goes in.
//!
//! * Paper:    Schlag, 2021, arXiv 2102.11174, equation 24; chunks as in Yang, 2024, arXiv 2406.06484, section 3
//! * Equation: S\[t\] = S\[t−1\] + β\[t\] (v\[t\] − S\[t−1\] k\[t\]) k\[t\]ᵀ, o\[t\] = S\[t\] q\[t\], β = σ(w·x);
//!   q, k = unit(silu(conv(W x))), v = silu(conv(W x)); y = W_o RMSNorm(o)
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state s \[b, h, d, d\] (values by keys) and the tails of three convolutions
//! * Cost:     3 d² multiply-adds per head and token, the same at every length; constant state
//! * Differs:  a control on this shelf, so no gate; one norm over the whole width
//! * Oracle:   the recurrence in f64

use candle_core::Tensor;
use eunoe_core::{Arg, Card, Kind, Shelf};

use super::{MixerEntry, Spec};
use crate::nets::{self, Init, Linear, RmsNorm, ShortConv};
use crate::ops::matmul;
use crate::{Cost, Ctx, Mixer, Result, State, ops};

/// Tokens that the convolutions see.
const KERNEL: usize = 4;

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "delta_rule",
        shelf: Shelf::Mixer,
        name: "Delta rule",
        paper: "Schlag 2021, arXiv 2102.11174",
        idea: "corrects one matrix: what a key held goes out before the new value comes in",
        args: &[Arg {
            name: "chunk",
            kind: Kind::Int { min: 1, max: 64 },
            default: "16",
            help: "tokens that are computed at a time; changes nothing but speed",
        }],
    },
    make: |args, spec, init| Ok(Box::new(DeltaRule::new(spec, args.int("chunk") as usize, init)?)),
};

/// See the module.
pub struct DeltaRule {
    qkv: [(Linear, ShortConv); 3],
    beta: Linear,
    norm: RmsNorm,
    out: Linear,
    spec: Spec,
    chunk: usize,
}

impl DeltaRule {
    fn new(spec: &Spec, chunk: usize, init: &mut Init<'_>) -> Result<Self> {
        let m = spec.d_model;
        let mut mixed = |name| -> Result<(Linear, ShortConv)> {
            let mut init = init.at(name);
            let linear = Linear::new(&mut init, m, m, spec.std)?;
            Ok((linear, ShortConv::new(&mut init.at("conv"), m, KERNEL, false)?))
        };
        let qkv = [mixed("q")?, mixed("k")?, mixed("v")?];
        let mut at = init.at("beta");
        let beta = Linear::new(&mut at, m, spec.heads, spec.std)?.with_bias(&mut at, 0.0)?;
        let norm = RmsNorm::new(&mut init.at("norm"), m, spec.norm_eps)?;
        let out = Linear::new(&mut init.at("out"), m, m, spec.out_std)?;
        Ok(Self { qkv, beta, norm, out, spec: *spec, chunk })
    }
}

/// (I + A)⁻¹ for A `[n, c, c]` that is 0 on and above the diagonal, by halves: with blocks P, R on the diagonal and C below,
/// [[P, 0], [C, R]]⁻¹ = [[P⁻¹, 0], [−R⁻¹ C P⁻¹, R⁻¹]], where both blocks are inverted as one batch. A sum of powers of A
/// would be shorter, but its terms grow like binomials where keys repeat, and cancel.
fn unit_lower_inverse(a: &Tensor) -> Result<Tensor> {
    let (n, c, _) = a.dims3()?;
    if c <= 2 {
        return Tensor::eye(c, a.dtype(), a.device())?.broadcast_sub(a);
    }
    if !c.is_multiple_of(2) {
        // a row and a column of zeros stay by themselves
        let even = a.pad_with_zeros(1, 0, 1)?.pad_with_zeros(2, 0, 1)?;
        return unit_lower_inverse(&even)?.narrow(1, 0, c)?.narrow(2, 0, c);
    }
    let half = c / 2;
    let (upper, lower) = (a.narrow(1, 0, half)?, a.narrow(1, half, half)?);
    let blocks = Tensor::cat(&[upper.narrow(2, 0, half)?, lower.narrow(2, half, half)?], 0)?;
    let inverse = unit_lower_inverse(&blocks)?;
    let (p, r) = (inverse.narrow(0, 0, n)?, inverse.narrow(0, n, n)?);
    let below = matmul(&r, &matmul(&lower.narrow(2, 0, half)?, &p)?)?.neg()?;
    let upper = p.pad_with_zeros(2, 0, half)?;
    Tensor::cat(&[upper, Tensor::cat(&[&below, &r], 2)?], 1)
}

/// o and the last S for q, k, v `[b, h, t, d]` and β `[b, h, t, 1]` from S `[b, h, d, d]`.
///
/// In a chunk, with A = tril(diag(β) K Kᵀ, −1) and X = (I + A)⁻¹ diag(β): what is written at each token is
/// U = X V − X K Sᵀ, and so O = Q Sᵀ + tril(Q Kᵀ) U, S ← S + Uᵀ K. All but U and S is known of all chunks at once.
fn scan(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    beta: &Tensor,
    s: Tensor,
    chunk: usize,
) -> Result<(Tensor, Tensor)> {
    let (b, h, t, d) = q.dims4()?;
    let c = chunk.min(t);
    let count = t.div_ceil(c);
    // tokens of zeros at the end write nothing
    let batched = |x: &Tensor| -> Result<Tensor> {
        let width = x.dim(3)?;
        x.pad_with_zeros(2, 0, count * c - t)?.reshape((b * h * count, c, width))
    };
    let (q, k, v, beta) = (batched(q)?, batched(k)?, batched(v)?, batched(beta)?);
    let upto = ops::causal(c, c, None, &q)?;
    let below = (&upto - Tensor::eye(c, q.dtype(), q.device())?)?;
    let kt = k.t()?;
    let a = matmul(&k, &kt)?.broadcast_mul(&below)?.broadcast_mul(&beta)?;
    let x = unit_lower_inverse(&a)?.broadcast_mul(&beta.t()?)?;
    let each = |x: &Tensor| ops::chunks(&x.reshape((b * h, count, c, d))?, 1, 1, 0);
    let (xk, xv, keys) = (each(&matmul(&x, &k)?)?, each(&matmul(&x, &v)?)?, each(&k)?);
    let mut s = s.reshape((b * h, 1, d, d))?;
    let (mut starts, mut written) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for ((xk, xv), k) in xk.iter().zip(xv).zip(keys) {
        let u = (xv - matmul(xk, &s.t()?)?)?;
        let next = (&s + matmul(&u.t()?, &k)?)?;
        starts.push(std::mem::replace(&mut s, next));
        written.push(u);
    }
    let all = |x: Vec<Tensor>, rows| Tensor::cat(&x, 1)?.reshape((b * h * count, rows, d));
    let (starts, u) = (all(starts, d)?, all(written, c)?);
    let own = matmul(&matmul(&q, &kt)?.broadcast_mul(&upto)?, &u)?;
    let o = (matmul(&q, &starts.t()?)? + own)?;
    Ok((o.reshape((b, h, count * c, d))?.narrow(2, 0, t)?, s.reshape((b, h, d, d))?))
}

impl Mixer for DeltaRule {
    fn run(&self, x: &Tensor, mut state: State, _: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let mut mixed = |i: usize, name| -> Result<Tensor> {
            let (linear, conv) = &self.qkv[i];
            nets::split(&ops::silu(&conv.run(&linear.run(x)?, &mut state, name)?)?, self.spec.heads)
        };
        let (q, k, v) = (mixed(0, "q_tail")?, mixed(1, "k_tail")?, mixed(2, "v_tail")?);
        let beta = ops::sigmoid(&nets::split(&self.beta.run(x)?, self.spec.heads)?)?;
        let (b, h, _, d) = q.dims4()?;
        let s = match state.take("s") {
            Some(s) => s,
            None => Tensor::zeros((b, h, d, d), q.dtype(), q.device())?,
        };
        let (o, s) = scan(&ops::unit(&q, 1e-6)?, &ops::unit(&k, 1e-6)?, &v, &beta, s, self.chunk)?;
        state.put("s", s);
        state.pos += x.dim(1)?;
        Ok((self.out.run(&self.norm.run(&nets::join(&o)?)?)?, state))
    }

    fn cost(&self, _: usize) -> Cost {
        let (m, d, heads) = (self.spec.d_model, self.spec.head_dim(), self.spec.heads);
        let macs = 4 * m * m + m * heads + 3 * KERNEL * m + 3 * m * d;
        Cost { macs, state: m * d + 3 * ShortConv::state(KERNEL, m) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::Device;

    use super::*;
    use crate::laws::{Lab, close};

    /// The recurrence for one head: rows of q, k, v and β → rows of o.
    pub(crate) fn recurrence(q: &[Vec<f64>], k: &[Vec<f64>], v: &[Vec<f64>], beta: &[f64]) -> Vec<Vec<f64>> {
        let d = q[0].len();
        let mut s = vec![vec![0.0; d]; d];
        let step = |t: usize| {
            for (row, want) in s.iter_mut().zip(&v[t]) {
                let held: f64 = row.iter().zip(&k[t]).map(|(s, k)| s * k).sum();
                for (s, k) in row.iter_mut().zip(&k[t]) {
                    *s += beta[t] * (want - held) * k;
                }
            }
            s.iter().map(|row| row.iter().zip(&q[t]).map(|(s, q)| s * q).sum()).collect()
        };
        (0..q.len()).map(step).collect()
    }

    #[test]
    fn a_key_gives_back_its_last_value() {
        // k = (1, 0) holds 3, then 5 with β = 1: all of 3 goes out. k = (0, 1) with β = 1/2 holds half of 4.
        let k = [vec![1.0, 0.0], vec![1.0, 0.0], vec![0.0, 1.0]];
        let v = [vec![3.0, 0.0], vec![5.0, 0.0], vec![4.0, 0.0]];
        let q = [vec![1.0, 0.0], vec![1.0, 0.0], vec![1.0, 1.0]];
        let want = [vec![3.0, 0.0], vec![5.0, 0.0], vec![7.0, 0.0]];
        close(&recurrence(&q, &k, &v, &[1.0, 1.0, 0.5]), &want, 1e-15);
    }

    #[test]
    fn chunks_are_the_recurrence_also_where_keys_repeat() {
        let lab = Lab::f64(6, 1, 1);
        let draw = |from: usize, t: usize| lab.input(3, 40).get(from).unwrap().narrow(0, 0, t).unwrap();
        for (t, chunk, repeats) in
            [(1, 4, false), (13, 4, false), (40, 16, true), (33, 64, true), (7, 1, false), (40, 11, true)]
        {
            let (q, v) = (draw(0, t), draw(1, t));
            let k = ops::unit(&draw(2, t), 0.0).unwrap();
            let k = if repeats { k.narrow(0, 0, 1).unwrap().repeat((t, 1)).unwrap() } else { k };
            let beta = Tensor::full(0.9f64, (1, 1, t, 1), &Device::Cpu).unwrap();
            let heads = |x: &Tensor| x.unsqueeze(0).unwrap().unsqueeze(0).unwrap();
            let s = Tensor::zeros((1, 1, 6, 6), q.dtype(), &Device::Cpu).unwrap();
            let (o, _) = scan(&heads(&q), &heads(&k), &heads(&v), &beta, s, chunk).unwrap();
            let [q, k, v] = [q, k, v].map(|x| x.to_vec2::<f64>().unwrap());
            let want = recurrence(&q, &k, &v, &vec![0.9; t]);
            close(&o.squeeze(0).unwrap().squeeze(0).unwrap().to_vec2().unwrap(), &want, 1e-11);
        }
    }

    #[test]
    fn an_inverse_times_its_matrix_is_one() {
        for c in [1, 2, 3, 7, 8, 33] {
            let lab = Lab::f64(c, 1, 1);
            let below = (ops::causal(c, c, None, &lab.input(1, 1)).unwrap()
                - Tensor::eye(c, candle_core::DType::F64, &Device::Cpu).unwrap())
            .unwrap();
            // entries like those of unit keys, so that the inverse stays small
            let a = (lab.input(3, c).broadcast_mul(&below).unwrap() * (c as f64).powf(-0.5)).unwrap();
            let one = Tensor::eye(c, a.dtype(), a.device()).unwrap();
            let got = unit_lower_inverse(&a).unwrap().matmul(&a.broadcast_add(&one).unwrap()).unwrap();
            for n in 0..3 {
                close(&got.get(n).unwrap().to_vec2().unwrap(), &one.to_vec2().unwrap(), 1e-12);
            }
        }
    }

    #[test]
    fn it_is_the_recurrence_between_its_maps() {
        let mut lab = Lab::f64(8, 2, 2);
        let mixer = DeltaRule::new(&lab.spec, 4, &mut lab.params.init()).unwrap();
        let x = lab.input(1, 11);
        let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
        let rows: Vec<Vec<f64>> = x.get(0).unwrap().to_vec2().unwrap();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mixed = |i: usize| -> Vec<Vec<f64>> {
            let (linear, conv) = &mixer.qkv[i];
            let (u, filter) = (Lab::rows(linear, &rows), conv.weight().to_vec2::<f64>().unwrap());
            let cell = |t: usize, c: usize| {
                let seen = (0..KERNEL).filter(|j| t + j + 1 >= KERNEL);
                let a: f64 = seen.map(|j| filter[j][c] * u[t + j + 1 - KERNEL][c]).sum();
                a * sigmoid(a)
            };
            (0..11).map(|t| (0..8).map(|c| cell(t, c)).collect()).collect()
        };
        let ([q, k, v], beta) = ([mixed(0), mixed(1), mixed(2)], Lab::rows(&mixer.beta, &rows));
        let head = |rows: &[Vec<f64>], h: usize, unit: bool| -> Vec<Vec<f64>> {
            let part = |r: &Vec<f64>| {
                let r = r[4 * h..4 * h + 4].to_vec();
                let norm = (r.iter().map(|v| v * v).sum::<f64>() + 1e-6).sqrt();
                r.into_iter().map(|v| if unit { v / norm } else { v }).collect()
            };
            rows.iter().map(part).collect()
        };
        let each = [0, 1].map(|h| {
            let beta: Vec<f64> = beta.iter().map(|row| sigmoid(row[h])).collect();
            recurrence(&head(&q, h, true), &head(&k, h, true), &head(&v, h, false), &beta)
        });
        let normed = (0..11).map(|t| {
            let o = [each[0][t].clone(), each[1][t].clone()].concat();
            let rms = (o.iter().map(|v| v * v).sum::<f64>() / 8.0 + lab.spec.norm_eps).sqrt();
            o.into_iter().map(|v| v / rms).collect()
        });
        let want = Lab::rows(&mixer.out, &normed.collect::<Vec<_>>());
        close(&y.get(0).unwrap().to_vec2().unwrap(), &want, 1e-11);
    }
}
