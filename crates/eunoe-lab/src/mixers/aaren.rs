//! Softmax attention with one learned query per layer: a running average of values that needs no memory of the text.
//!
//! * Paper:    Feng, 2024, arXiv 2405.13956, section 3
//! * Equation: o\[t\] = Σ_{i ≤ t} e^{s\[i\]} v\[i\] / Σ_{i ≤ t} e^{s\[i\]}, s\[i\] = q·k\[i\] / √d, q = W_q (learned token)
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state m, u \[b, h, 1, 1\] (maximum, denominator), w \[b, h, 1, d\] (numerator)
//! * Cost:     2 d multiply-adds per head and token, the same at every length; constant state of m + 2 h numbers
//! * Differs:  no positions are added; the token's own residual stream is the decoder's. Inside a chunk weights are
//!   e^{s\[i\] − max_{j ≤ t} s\[j\]}, row by row: a shift for the whole chunk underflows where late scores are high
//! * Oracle:   softmax over each prefix in f64

use candle_core::{D, Tensor};
use eunoe_core::{Card, Shelf};

use super::{CHUNK, MixerEntry, Spec};
use crate::nets::{self, Init, Linear};
use crate::ops::matmul;
use crate::{Cost, Ctx, Mixer, Result, State, ops};

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "aaren",
        shelf: Shelf::Mixer,
        name: "Aaren",
        paper: "Feng 2024, arXiv 2405.13956",
        idea: "attends with one learned query per layer: a running average",
        args: &[CHUNK],
    },
    make: |args, spec, init| Ok(Box::new(Aaren::new(spec, args.int("chunk") as usize, init)?)),
};

/// See the module.
pub struct Aaren {
    token: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    spec: Spec,
    chunk: usize,
}

impl Aaren {
    fn new(spec: &Spec, chunk: usize, init: &mut Init<'_>) -> Result<Self> {
        let m = spec.d_model;
        let token = init.normal("token", &[1, 1, m], 1.0)?;
        let mut linear = |name, std| Linear::new(&mut init.at(name), m, m, std);
        let (q, k) = (linear("q", spec.std)?, linear("k", spec.std)?);
        Ok(Self {
            token,
            q,
            k,
            v: linear("v", spec.std)?,
            out: linear("out", spec.out_std)?,
            spec: *spec,
            chunk,
        })
    }
}

/// The three running quantities of all heads.
struct Running {
    max: Tensor,
    total: Tensor,
    sum: Tensor,
}

impl Running {
    /// Takes scores `[b, h, c, 1]` and values `[b, h, c, d]` in; their outputs `[b, h, c, d]`.
    fn take(before: Option<Self>, s: &Tensor, v: &Tensor) -> Result<(Tensor, Self)> {
        let (b, h, c, _) = s.dims4()?;
        let upto = ops::causal(c, c, None, s)?;
        let rows = ops::masked(&s.t()?.broadcast_as((b, h, c, c))?, &upto)?;
        let mut max = rows.max_keepdim(D::Minus1)?;
        if let Some(before) = &before {
            max = max.broadcast_maximum(&before.max)?;
        }
        // the maximum cancels, so it needs no gradient
        let max = max.detach();
        let weights = rows.broadcast_sub(&max)?.exp()?;
        let (mut total, mut sum) = (weights.sum_keepdim(D::Minus1)?, matmul(&weights, v)?);
        if let Some(before) = before {
            let left = before.max.broadcast_sub(&max)?.exp()?;
            total = (total + left.broadcast_mul(&before.total)?)?;
            sum = (sum + left.broadcast_mul(&before.sum)?)?;
        }
        let last = |x: &Tensor| x.narrow(2, c - 1, 1);
        let after = Self { max: last(&max)?, total: last(&total)?, sum: last(&sum)? };
        Ok((sum.broadcast_div(&total)?, after))
    }
}

impl Mixer for Aaren {
    fn run(&self, x: &Tensor, mut state: State, _: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let heads = |linear: &Linear, x: &Tensor| nets::split(&linear.run(x)?, self.spec.heads);
        let q = heads(&self.q, &self.token.to_dtype(x.dtype())?)?;
        let (k, v) = (heads(&self.k, x)?, heads(&self.v, x)?);
        let s = (k.broadcast_mul(&q)?.sum_keepdim(D::Minus1)? * (self.spec.head_dim() as f64).powf(-0.5))?;
        let mut running = match (state.take("max"), state.take("total"), state.take("sum")) {
            (Some(max), Some(total), Some(sum)) => Some(Running { max, total, sum }),
            _ => None,
        };
        let (t, mut outputs) = (x.dim(1)?, Vec::new());
        for from in (0..t).step_by(self.chunk) {
            let c = self.chunk.min(t - from);
            let (o, after) = Running::take(running, &s.narrow(2, from, c)?, &v.narrow(2, from, c)?)?;
            running = Some(after);
            outputs.push(o);
        }
        if let Some(Running { max, total, sum }) = running {
            state.put("max", max);
            state.put("total", total);
            state.put("sum", sum);
        }
        state.pos += t;
        Ok((self.out.run(&nets::join(&Tensor::cat(&outputs, 2)?)?)?, state))
    }

    fn cost(&self, _: usize) -> Cost {
        let m = self.spec.d_model;
        Cost { macs: 3 * m * m + 2 * m, state: m + 2 * self.spec.heads }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::laws::{Lab, close};

    fn slow(mixer: &Aaren, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let d = mixer.spec.head_dim();
        let token: Vec<f64> = mixer.token.flatten_all().unwrap().to_vec1().unwrap();
        let q = Lab::rows(&mixer.q, &[token]).remove(0);
        let (k, v) = (Lab::rows(&mixer.k, x), Lab::rows(&mixer.v, x));
        let cell = |t: usize, c: usize| {
            let at = c / d * d;
            let weight =
                |i: usize| ((at..at + d).map(|n| q[n] * k[i][n]).sum::<f64>() / (d as f64).sqrt()).exp();
            (0..=t).map(|i| weight(i) * v[i][c]).sum::<f64>() / (0..=t).map(weight).sum::<f64>()
        };
        let row = |t| (0..mixer.spec.d_model).map(|c| cell(t, c)).collect();
        Lab::rows(&mixer.out, &(0..x.len()).map(row).collect::<Vec<Vec<f64>>>())
    }

    #[test]
    fn it_is_softmax_over_each_prefix() {
        for (chunk, t) in [(64, 1), (4, 13), (1, 5), (5, 15)] {
            let mut lab = Lab::f64(8, 2, 2);
            let mixer = Aaren::new(&lab.spec, chunk, &mut lab.params.init()).unwrap();
            let x = lab.input(1, t);
            let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
            let want = slow(&mixer, &x.get(0).unwrap().to_vec2().unwrap());
            close(&y.get(0).unwrap().to_vec2().unwrap(), &want, 1e-12);
        }
    }

    #[test]
    fn scores_far_apart_neither_overflow_nor_vanish() {
        // In f32 e^200 is infinite and e^-200 is 0; the first output is the first value whatever comes after it.
        let s: Vec<f32> = (0..32).map(|i| -100.0 + 200.0 * (i as f32) / 31.0).collect();
        let v: Vec<f32> = (0..32).map(|i| i as f32).collect();
        let of = |x: Vec<f32>| Tensor::from_vec(x, (1, 1, 32, 1), &Device::Cpu).unwrap();
        let (o, _) = Running::take(None, &of(s.clone()), &of(v.clone())).unwrap();
        let got: Vec<f32> = o.flatten_all().unwrap().to_vec1().unwrap();
        for t in 0..32 {
            let weight = |i: usize| f64::from(s[i] - s[t]).exp();
            let want = (0..=t).map(|i| weight(i) * i as f64).sum::<f64>() / (0..=t).map(weight).sum::<f64>();
            assert!((f64::from(got[t]) - want).abs() < 1e-4 * (1.0 + want), "{t}: {} for {want}", got[t]);
        }
    }
}
