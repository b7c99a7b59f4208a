//! Linear attention whose features are the first terms of the exponential: close to softmax, with a state of fixed size.
//!
//! * Paper:    Arora, 2024, arXiv 2402.18668, section 4
//! * Equation: o\[i\] = Σ_{j ≤ i} a\[i, j\] v\[j\] / Σ_{j ≤ i} a\[i, j\], a = 1 + s + s² / 2 = φ(q)·φ(k), s = q·k / √n
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state kv \[b, h, f, d + 1\] with f = 1 + n + n (n + 1) / 2
//! * Cost:     2 f (d + 1) multiply-adds per head and token, the same at every length; constant state, whose size
//!   `features` = n sets
//! * Differs:  φ keeps each product of two entries once (the authors' code keeps x_i x_j and x_j x_i); the hybrid with
//!   `softmax_attention(window=64)` and `gated_conv` is a pattern of layers, not a mixer
//! * Oracle:   the double loop in f64, with the polynomial

use candle_core::Tensor;
use eunoe_core::{Arg, Card, Kind, Shelf};

use super::{CHUNK, MixerEntry, Spec};
use crate::nets::{self, Init, Linear};
use crate::{Cost, Ctx, Mixer, Result, State, ops};

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "based",
        shelf: Shelf::Mixer,
        name: "BASED (Taylor linear attention)",
        paper: "Arora 2024, arXiv 2402.18668",
        idea: "linear attention whose features are the first terms of the exponential",
        args: &[
            Arg {
                name: "features",
                kind: Kind::Int { min: 1, max: 64 },
                default: "16",
                help: "numbers per query and key: the size of the state grows with their square",
            },
            CHUNK,
        ],
    },
    make: |args, spec, init| {
        Ok(Box::new(Based::new(spec, args.int("features") as usize, args.int("chunk") as usize, init)?))
    },
};

/// See the module.
pub struct Based {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    /// Both indices of each product that φ keeps, and its factor `[pairs]`.
    pairs: [Tensor; 2],
    factor: Tensor,
    spec: Spec,
    features: usize,
    chunk: usize,
}

impl Based {
    fn new(spec: &Spec, features: usize, chunk: usize, init: &mut Init<'_>) -> Result<Self> {
        let m = spec.d_model;
        let mut linear = |name, outputs, std| Linear::new(&mut init.at(name), m, outputs, std);
        let (q, k) =
            (linear("q", spec.heads * features, spec.std)?, linear("k", spec.heads * features, spec.std)?);
        let (v, out) = (linear("v", m, spec.std)?, linear("out", m, spec.out_std)?);
        let pairs: Vec<(usize, usize)> =
            (0..features).flat_map(|i| (i..features).map(move |j| (i, j))).collect();
        // x_i x_j stands for two products where i ≠ j
        let scale =
            |(i, j): &(usize, usize)| if i == j { 0.5f64.sqrt() } else { 1.0 } / (features as f64).sqrt();
        let factor = Tensor::new(pairs.iter().map(scale).collect::<Vec<f64>>(), &init.device())?;
        let index = |part: fn(&(usize, usize)) -> usize| -> Result<Tensor> {
            Tensor::new(pairs.iter().map(|p| part(p) as u32).collect::<Vec<u32>>(), &init.device())
        };
        let pairs = [index(|p| p.0)?, index(|p| p.1)?];
        Ok(Self { q, k, v, out, pairs, factor, spec: *spec, features, chunk })
    }

    /// `[b, h, t, n]` → `[b, h, t, f]`.
    fn phi(&self, x: &Tensor) -> Result<Tensor> {
        let ([i, j], x) = (&self.pairs, x.contiguous()?);
        let product = (x.index_select(i, 3)? * x.index_select(j, 3)?)?;
        let product = product.broadcast_mul(&self.factor.to_dtype(x.dtype())?)?;
        let one = x.narrow(3, 0, 1)?.ones_like()?;
        let linear = (&x * (self.features as f64).powf(-0.25))?;
        Tensor::cat(&[&one, &linear, &product], 3)
    }

    fn width(&self) -> usize {
        1 + self.features + self.features * (self.features + 1) / 2
    }
}

impl Mixer for Based {
    fn run(&self, x: &Tensor, mut state: State, _: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let heads = |linear: &Linear| nets::split(&linear.run(x)?, self.spec.heads);
        let (q, k) = (self.phi(&heads(&self.q)?)?, self.phi(&heads(&self.k)?)?);
        let v = ops::with_ones(&heads(&self.v)?)?;
        let decay = vec![1.0; self.spec.heads];
        let (o, kv) = ops::decay_attend(&q, &k, &v, &decay, state.take("kv"), self.chunk)?;
        state.put("kv", kv);
        state.pos += x.dim(1)?;
        Ok((self.out.run(&nets::join(&ops::ratio(&o)?)?)?, state))
    }

    fn cost(&self, _: usize) -> Cost {
        let Spec { d_model: m, heads, .. } = self.spec;
        let state = heads * self.width() * (self.spec.head_dim() + 1);
        Cost { macs: 2 * m * m + 2 * m * heads * self.features + 2 * state, state }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{Lab, close};

    #[test]
    fn features_of_the_paper_have_153_numbers_and_give_the_polynomial() {
        for features in [1, 3, 16] {
            let mut lab = Lab::f64(32, 2, 2);
            let mixer = Based::new(&lab.spec, features, 64, &mut lab.params.init()).unwrap();
            assert!(features != 16 || mixer.width() == 153);
            let x = lab.input(1, 2).narrow(2, 0, features).unwrap().unsqueeze(0).unwrap();
            let phi: Vec<Vec<f64>> =
                mixer.phi(&x).unwrap().squeeze(0).unwrap().squeeze(0).unwrap().to_vec2().unwrap();
            let x: Vec<Vec<f64>> = x.squeeze(0).unwrap().squeeze(0).unwrap().to_vec2().unwrap();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let s = dot(&x[0], &x[1]) / (features as f64).sqrt();
            assert!((dot(&phi[0], &phi[1]) - (1.0 + s + s * s / 2.0)).abs() < 1e-12);
        }
    }

    fn slow(mixer: &Based, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (d, n) = (mixer.spec.head_dim(), mixer.features);
        let [q, k, v] = [&mixer.q, &mixer.k, &mixer.v].map(|w| Lab::rows(w, x));
        let cell = |i: usize, c: usize| {
            let at = c / d * n;
            let weight = |j: usize| {
                let s: f64 = (at..at + n).map(|n| q[i][n] * k[j][n]).sum::<f64>() / (n as f64).sqrt();
                1.0 + s + s * s / 2.0
            };
            (0..=i).map(|j| weight(j) * v[j][c]).sum::<f64>() / (0..=i).map(weight).sum::<f64>()
        };
        let row = |i| (0..mixer.spec.d_model).map(|c| cell(i, c)).collect();
        Lab::rows(&mixer.out, &(0..x.len()).map(row).collect::<Vec<Vec<f64>>>())
    }

    #[test]
    fn it_is_the_double_loop() {
        for (features, chunk, t) in [(4, 64, 1), (4, 4, 13), (3, 1, 5), (8, 5, 15)] {
            let mut lab = Lab::f64(8, 2, 2);
            let mixer = Based::new(&lab.spec, features, chunk, &mut lab.params.init()).unwrap();
            let x = lab.input(1, t);
            let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
            let want = slow(&mixer, &x.get(0).unwrap().to_vec2().unwrap());
            close(&y.get(0).unwrap().to_vec2().unwrap(), &want, 1e-12);
        }
    }
}
