//! Attention without the softmax: features of keys times values are summed into one matrix that every query reads.
//!
//! * Paper:    Katharopoulos, 2020, arXiv 2006.16236, equations 10 to 12; as in Sieber, 2024, arXiv 2405.15731
//! * Equation: o\[i\] = Σ_{j ≤ i} φ(q\[i\])·φ(k\[j\]) v\[j\] / Σ_{j ≤ i} φ(q\[i\])·φ(k\[j\]), φ(x) = elu(x) + 1
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state kv \[b, h, d, d + 1\], the last column the sum of features
//! * Cost:     2 d (d + 1) multiply-adds per head and token, the same at every length; constant state
//! * Differs:  nothing; chunks of `chunk` tokens are a way to compute it
//! * Oracle:   the double loop in f64

use candle_core::Tensor;
use eunoe_core::{Card, Shelf};

use super::{CHUNK, MixerEntry, Spec};
use crate::nets::{self, Init, Linear};
use crate::{Cost, Ctx, Mixer, Result, State, ops};

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "linear_attention",
        shelf: Shelf::Mixer,
        name: "Linear attention",
        paper: "Katharopoulos 2020, arXiv 2006.16236",
        idea: "sums features of keys times values into one matrix that queries read",
        args: &[CHUNK],
    },
    make: |args, spec, init| Ok(Box::new(LinearAttention::new(spec, args.int("chunk") as usize, init)?)),
};

/// See the module.
pub struct LinearAttention {
    qkv: [Linear; 3],
    out: Linear,
    spec: Spec,
    chunk: usize,
}

impl LinearAttention {
    fn new(spec: &Spec, chunk: usize, init: &mut Init<'_>) -> Result<Self> {
        let m = spec.d_model;
        let mut linear = |name, std| Linear::new(&mut init.at(name), m, m, std);
        let qkv = [linear("q", spec.std)?, linear("k", spec.std)?, linear("v", spec.std)?];
        Ok(Self { qkv, out: linear("out", spec.out_std)?, spec: *spec, chunk })
    }
}

impl Mixer for LinearAttention {
    fn run(&self, x: &Tensor, mut state: State, _: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let [q, k, v] = &self.qkv;
        let heads = |linear: &Linear| nets::split(&linear.run(x)?, self.spec.heads);
        let (q, k) = ((heads(q)?.elu(1.0)? + 1.0)?, (heads(k)?.elu(1.0)? + 1.0)?);
        let v = ops::with_ones(&heads(v)?)?;
        let decay = vec![1.0; self.spec.heads];
        let (o, kv) = ops::decay_attend(&q, &k, &v, &decay, state.take("kv"), self.chunk)?;
        state.put("kv", kv);
        state.pos += x.dim(1)?;
        Ok((self.out.run(&nets::join(&ops::ratio(&o)?)?)?, state))
    }

    fn cost(&self, _: usize) -> Cost {
        let (m, d) = (self.spec.d_model, self.spec.head_dim());
        Cost { macs: 4 * m * m + 2 * m * (d + 1), state: m * (d + 1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{Lab, close};

    fn slow(mixer: &LinearAttention, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let d = mixer.spec.head_dim();
        let [q, k, v] = [0, 1, 2].map(|i| Lab::rows(&mixer.qkv[i], x));
        let phi = |x: f64| if x > 0.0 { x + 1.0 } else { x.exp() };
        let cell = |i: usize, c: usize| {
            let at = c / d * d;
            let weight = |j: usize| (at..at + d).map(|n| phi(q[i][n]) * phi(k[j][n])).sum::<f64>();
            let total: f64 = (0..=i).map(weight).sum();
            (0..=i).map(|j| weight(j) * v[j][c]).sum::<f64>() / total
        };
        let rows: Vec<Vec<f64>> =
            (0..x.len()).map(|i| (0..mixer.spec.d_model).map(|c| cell(i, c)).collect()).collect();
        Lab::rows(&mixer.out, &rows)
    }

    #[test]
    fn it_is_the_double_loop() {
        for (chunk, t) in [(64, 1), (4, 13), (1, 5), (5, 15)] {
            let mut lab = Lab::f64(8, 2, 2);
            let mixer = LinearAttention::new(&lab.spec, chunk, &mut lab.params.init()).unwrap();
            let x = lab.input(1, t);
            let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
            let want = slow(&mixer, &x.get(0).unwrap().to_vec2().unwrap());
            close(&y.get(0).unwrap().to_vec2().unwrap(), &want, 1e-12);
        }
    }
}
