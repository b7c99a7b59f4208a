//! Linear attention that forgets at a fixed rate per head and is normalised after reading, not by a sum of weights.
//!
//! * Paper:    Qin, 2024, arXiv 2405.17381 (TransNormerLLM's block: 2307.14995); algorithm 1 for the chunks
//! * Equation: q, k, v = silu(W x); KV\[t\] = λ KV\[t−1\] + k\[t\] v\[t\]ᵀ, o\[t\] = q\[t\]ᵀ KV\[t\];
//!   y = W_o(σ(W₂ W₁ x) ⊙ SRMSNorm(o)); λ = exp(−2^(−8 h / H) (1 − l / (L − 1) + 1e-5)), h from 1, l from 0
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state kv \[b, h, d, d\]
//! * Cost:     2 d² multiply-adds per head and token, the same at every length; constant state
//! * Differs:  silu on v too (the released model file has none there); no LRPE in the first layer: decay alone gives
//!   positions; slopes of head counts that are no power of two follow the same formula instead of being interpolated; one
//!   layer alone counts as the last
//! * Oracle:   the recurrence in f64

use candle_core::Tensor;
use eunoe_core::{Arg, Card, Kind, Shelf};

use super::{CHUNK, MixerEntry, Spec};
use crate::nets::{self, Init, Linear, RmsNorm};
use crate::{Cost, Ctx, Mixer, Result, State, ops};

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "lightning_attention",
        shelf: Shelf::Mixer,
        name: "Lightning attention (TransNormerLLM)",
        paper: "Qin 2024, arXiv 2405.17381",
        idea: "linear attention that forgets at a fixed rate per head",
        args: &[
            CHUNK,
            Arg {
                name: "decay",
                kind: Kind::Choice(&["on", "off"]),
                default: "on",
                help: "whether heads forget; off is plain sums, for comparison",
            },
        ],
    },
    make: |args, spec, init| {
        let (chunk, decays) = (args.int("chunk") as usize, args.word("decay") == "on");
        Ok(Box::new(LightningAttention::new(spec, chunk, decays, init)?))
    },
};

/// See the module.
pub struct LightningAttention {
    qkv: [Linear; 3],
    gate: [Linear; 2],
    out: Linear,
    norm: RmsNorm,
    decay: Vec<f64>,
    spec: Spec,
    chunk: usize,
}

impl LightningAttention {
    fn new(spec: &Spec, chunk: usize, decays: bool, init: &mut Init<'_>) -> Result<Self> {
        let (m, d) = (spec.d_model, spec.head_dim());
        let mut linear = |name, inputs, outputs, std| Linear::new(&mut init.at(name), inputs, outputs, std);
        let qkv = [linear("q", m, m, spec.std)?, linear("k", m, m, spec.std)?, linear("v", m, m, spec.std)?];
        let gate = [linear("gate_in", m, d, spec.std)?, linear("gate_out", d, m, spec.std)?];
        let out = linear("out", m, m, spec.out_std)?;
        let decay = if decays { decays_of(spec) } else { vec![1.0; spec.heads] };
        Ok(Self { qkv, gate, out, norm: RmsNorm::plain(1e-6), decay, spec: *spec, chunk })
    }
}

/// λ per head.
fn decays_of(spec: &Spec) -> Vec<f64> {
    let depth = if spec.layers > 1 { spec.layer as f64 / (spec.layers - 1) as f64 } else { 1.0 };
    let slope = |h: usize| 2f64.powf(-8.0 * h as f64 / spec.heads as f64) * (1.0 - depth + 1e-5);
    (1..=spec.heads).map(|h| (-slope(h)).exp()).collect()
}

impl Mixer for LightningAttention {
    fn run(&self, x: &Tensor, mut state: State, _: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let heads = |linear: &Linear| nets::split(&ops::silu(&linear.run(x)?)?, self.spec.heads);
        let [q, k, v] = &self.qkv;
        let (q, k, v) = (heads(q)?, heads(k)?, heads(v)?);
        let (o, kv) = ops::decay_attend(&q, &k, &v, &self.decay, state.take("kv"), self.chunk)?;
        state.put("kv", kv);
        state.pos += x.dim(1)?;
        let gate = ops::sigmoid(&self.gate[1].run(&self.gate[0].run(x)?)?)?;
        Ok((self.out.run(&(gate * self.norm.run(&nets::join(&o)?)?)?)?, state))
    }

    fn cost(&self, _: usize) -> Cost {
        let (m, d) = (self.spec.d_model, self.spec.head_dim());
        Cost { macs: 4 * m * m + 2 * m * d + 2 * m * d, state: m * d }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{Lab, close};

    #[test]
    fn heads_forget_as_the_slopes_say() {
        let mut lab = Lab::f64(8, 2, 2);
        (lab.spec.layer, lab.spec.layers) = (1, 3);
        // 2^(−4) and 2^(−8), times 1 − 1/2 + 1e-5
        let want = [(-0.0625f64 * 0.50001).exp(), (-0.003_906_25f64 * 0.50001).exp()];
        assert!(decays_of(&lab.spec).iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15));
        lab.spec.layer = 2;
        assert!(decays_of(&lab.spec).iter().all(|d| *d > 0.999_999 && *d < 1.0));
    }

    fn slow(mixer: &LightningAttention, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (m, d) = (mixer.spec.d_model, mixer.spec.head_dim());
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let act = |rows: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            rows.into_iter().map(|r| r.into_iter().map(|x| x * sigmoid(x)).collect()).collect()
        };
        let [q, k, v] = [0, 1, 2].map(|i| act(Lab::rows(&mixer.qkv[i], x)));
        let gates = Lab::rows(&mixer.gate[1], &Lab::rows(&mixer.gate[0], x));
        let mut kv = vec![vec![0.0; d]; m];
        let rows = (0..x.len()).map(|t| {
            let mut o = vec![0.0; m];
            for n in 0..m {
                for c in 0..d {
                    kv[n][c] = mixer.decay[n / d] * kv[n][c] + k[t][n] * v[t][n / d * d + c];
                    o[n / d * d + c] += q[t][n] * kv[n][c];
                }
            }
            let rms = (o.iter().map(|v| v * v).sum::<f64>() / m as f64 + 1e-6).sqrt();
            o.iter().zip(&gates[t]).map(|(o, g)| sigmoid(*g) * o / rms).collect()
        });
        let rows: Vec<Vec<f64>> = rows.collect();
        Lab::rows(&mixer.out, &rows)
    }

    #[test]
    fn it_is_the_recurrence() {
        for (chunk, decays, t) in [(64, true, 1), (4, true, 13), (1, true, 5), (5, false, 15), (16, true, 33)]
        {
            let mut lab = Lab::f64(8, 2, 2);
            (lab.spec.layer, lab.spec.layers) = (0, 3);
            let mixer = LightningAttention::new(&lab.spec, chunk, decays, &mut lab.params.init()).unwrap();
            assert_eq!(mixer.decay, if decays { decays_of(&lab.spec) } else { vec![1.0; 2] });
            let x = lab.input(1, t);
            let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
            let want = slow(&mixer, &x.get(0).unwrap().to_vec2().unwrap());
            close(&y.get(0).unwrap().to_vec2().unwrap(), &want, 1e-12);
        }
    }
}
