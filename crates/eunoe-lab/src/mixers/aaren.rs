//! Softmax attention with one learned query per layer: a running average of values that needs no memory of the text.
//!
//! * Paper:    Feng, 2024, arXiv 2405.13956, section 3
//! * Equation: o\[t\] = Σ_{i ≤ t} e^{s\[i\]} v\[i\] / Σ_{i ≤ t} e^{s\[i\]}, s\[i\] = q·k\[i\] / √d, q = W_q (learned token)
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state m \[b, h, 1, 1\] (maximum) and w, u \[b, h, 1, d + 1\]
//!   (numerator, denominator)
//! * Cost:     2 d multiply-adds per head and token, the same at every length; constant state of m + 2 h numbers
//! * Differs:  no positions are added; the token's own residual stream is the decoder's. Weights of a row t are
//!   e^{s\[i\] − max_{j ≤ t} s\[j\]}: a shift for a whole chunk underflows where late scores are high
//! * Oracle:   softmax over each prefix in f64

use candle_core::Tensor;
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

impl Mixer for Aaren {
    fn run(&self, x: &Tensor, mut state: State, _: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let heads = |linear: &Linear, x: &Tensor| nets::split(&linear.run(x)?, self.spec.heads);
        let q = heads(&self.q, &self.token.to_dtype(x.dtype())?)?;
        let (k, v) = (heads(&self.k, x)?, heads(&self.v, x)?);
        let (b, h, t, d) = k.dims4()?;
        let s = (matmul(&k, &q.broadcast_as((b, h, 1, d))?.t()?)? * (d as f64).powf(-0.5))?;
        let v = ops::with_ones(&v)?;
        // what was before is one token: its score the maximum, its value the sums
        let before = state.take("max").zip(state.take("sums"));
        let (s, v) = match &before {
            Some((max, sums)) => (Tensor::cat(&[max, &s], 2)?, Tensor::cat(&[sums, &v], 2)?),
            None => (s, v),
        };
        let y = ops::prefix_softmax(&s, &v, self.chunk)?;
        let rows = y.dim(2)?;
        // the maximum cancels, so it needs no gradient
        state.put("max", s.max_keepdim(2)?.detach());
        state.put("sums", y.narrow(2, rows - 1, 1)?);
        state.pos += t;
        let o = ops::ratio(&y.narrow(2, rows - t, t)?)?;
        Ok((self.out.run(&nets::join(&o)?)?, state))
    }

    fn cost(&self, _: usize) -> Cost {
        let m = self.spec.d_model;
        Cost { macs: 3 * m * m + 2 * m, state: m + 2 * self.spec.heads }
    }
}

#[cfg(test)]
mod tests {
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
}
