//! Every token looks at all before it and mixes their values by how well its query fits their keys.
//!
//! * Paper:    Vaswani, 2017, arXiv 1706.03762, equation 1; rotary positions Su, 2021, arXiv 2104.09864, equation 34;
//!   grouped KV heads Ainslie, 2023, arXiv 2305.13245
//! * Equation: o\[i\] = Σ_{j ≤ i} softmax_j(q\[i\]·k\[j\] / √d) v\[j\]
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state k, v \[b, h_kv, t, d\]
//! * Cost:     t·m multiply-adds for scores and as many for values per token; the state grows with the text, or holds
//!   `window` − 1 tokens
//! * Differs:  `window` is a control: it shows what a mixer's own memory adds to attention to the last tokens
//! * Oracle:   the double loop in f64

use candle_core::Tensor;
use eunoe_core::{Arg, Card, Kind, Shelf};

use super::{MixerEntry, Spec};
use crate::nets::{self, Init, Linear, Rope};
use crate::{Cost, Ctx, Mixer, Result, State, ops};

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "softmax_attention",
        shelf: Shelf::Mixer,
        name: "Softmax attention",
        paper: "Vaswani 2017, arXiv 1706.03762",
        idea: "looks at every token before, or at the last few",
        args: &[Arg {
            name: "window",
            kind: Kind::Int { min: 0, max: 1 << 24 },
            default: "0",
            help: "tokens a token sees, itself included; 0 for all",
        }],
    },
    make: |args, spec, init| {
        let window = Some(args.int("window") as usize).filter(|w| *w > 0);
        Ok(Box::new(SoftmaxAttention::new(spec, window, init)?))
    },
};

/// See the module.
pub struct SoftmaxAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    rope: Rope,
    spec: Spec,
    window: Option<usize>,
}

impl SoftmaxAttention {
    /// Over all tokens, or over `window`.
    ///
    /// # Errors
    /// Heads of an odd width, which cannot be rotated.
    pub fn new(spec: &Spec, window: Option<usize>, init: &mut Init<'_>) -> Result<Self> {
        let (m, d) = (spec.d_model, spec.head_dim());
        let mut linear = |name, outputs| -> Result<Linear> {
            let mut init = init.at(name);
            let linear = Linear::new(&mut init, m, outputs, spec.std)?;
            if spec.qkv_bias { linear.with_bias(&mut init, 0.0) } else { Ok(linear) }
        };
        Ok(Self {
            q: linear("q", m)?,
            k: linear("k", spec.kv_heads * d)?,
            v: linear("v", spec.kv_heads * d)?,
            out: Linear::new(&mut init.at("out"), m, m, spec.out_std)?,
            rope: Rope::new(spec.rope_base, d)?,
            spec: *spec,
            window,
        })
    }
}

impl Mixer for SoftmaxAttention {
    fn run(&self, x: &Tensor, mut state: State, ctx: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let q = self.rope.run(&nets::split(&self.q.run(x)?, self.spec.heads)?, state.pos)?;
        let k = self.rope.run(&nets::split(&self.k.run(x)?, self.spec.kv_heads)?, state.pos)?;
        let v = nets::split(&self.v.run(x)?, self.spec.kv_heads)?;
        let (k, v) = (state.append("k", &k, 2)?, state.append("v", &v, 2)?);
        ctx.show("attn", || ops::attn(&q, &k, self.window, ops::Weights::Softmax))?;
        let o = ops::attend(&q, &k, &v, self.window, ops::Weights::Softmax)?;
        let most = self.window.map_or(usize::MAX, |w| w - 1);
        state.keep_last("k", &k, 2, most)?;
        state.keep_last("v", &v, 2, most)?;
        state.pos += x.dim(1)?;
        Ok((self.out.run(&nets::join(&o)?)?, state))
    }

    fn cost(&self, t: usize) -> Cost {
        let (m, kv) = (self.spec.d_model, self.spec.kv_heads * self.spec.head_dim());
        let (seen, kept) = match self.window {
            Some(w) => ((t + 1).min(w), t.min(w - 1)),
            None => (t + 1, t),
        };
        Cost { macs: 2 * m * m + 2 * m * kv + 2 * seen * m, state: 2 * kept * kv }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{Lab, close, turned};

    /// The double loop over tokens, head by head.
    fn slow(mixer: &SoftmaxAttention, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let Spec { heads, kv_heads, rope_base, .. } = mixer.spec;
        let d = mixer.spec.head_dim();
        let [q, k, v] = [&mixer.q, &mixer.k, &mixer.v].map(|w| Lab::rows(w, x));
        let head = |rows: &[Vec<f64>], i: usize, h: usize| rows[i][h * d..(h + 1) * d].to_vec();
        let mixed = (0..x.len()).map(|i| {
            let mut out = Vec::new();
            for h in 0..heads {
                let g = h * kv_heads / heads;
                let query = turned(&head(&q, i, h), i, rope_base);
                let first = mixer.window.map_or(0, |w| (i + 1).saturating_sub(w));
                let dot = |j: usize| -> f64 {
                    turned(&head(&k, j, g), j, rope_base).iter().zip(&query).map(|(a, b)| a * b).sum()
                };
                let weights: Vec<f64> = (first..=i).map(|j| (dot(j) / (d as f64).sqrt()).exp()).collect();
                let total: f64 = weights.iter().sum();
                let value = |c: usize| -> f64 {
                    (first..=i).zip(&weights).map(|(j, w)| w * v[j][g * d + c]).sum::<f64>() / total
                };
                out.extend((0..d).map(value));
            }
            out
        });
        Lab::rows(&mixer.out, &mixed.collect::<Vec<_>>())
    }

    #[test]
    fn the_map_that_is_shown_ends_at_the_window() {
        let mut lab = Lab::f64(8, 2, 1);
        let mixer = SoftmaxAttention::new(&lab.spec, Some(3), &mut lab.params.init()).unwrap();
        let mut seen = Vec::new();
        let mut keep = |_: &'static str, attn: &Tensor| {
            seen = attn.get(0)?.get(1)?.to_vec2::<f64>()?;
            Ok(())
        };
        let mut ctx = Ctx { probe: Some(&mut keep), ..Ctx::default() };
        mixer.run(&lab.input(1, 7), State::default(), &mut ctx).unwrap();
        assert_eq!(seen.len(), 7);
        for (i, row) in seen.iter().enumerate() {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12, "row {i}");
            assert!((0..7).all(|j| (row[j] > 0.0) == (j <= i && i - j < 3)), "row {i}: {row:?}");
        }
    }

    #[test]
    fn it_is_the_double_loop() {
        for (heads, kv_heads, window, t) in
            [(1, 1, None, 1), (4, 2, None, 13), (4, 1, Some(3), 17), (2, 2, Some(1), 5)]
        {
            let mut lab = Lab::f64(8, heads, kv_heads);
            let mixer = SoftmaxAttention::new(&lab.spec, window, &mut lab.params.init()).unwrap();
            let x = lab.input(2, t);
            let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
            for b in 0..2 {
                let want = slow(&mixer, &x.get(b).unwrap().to_vec2().unwrap());
                close(&y.get(b).unwrap().to_vec2().unwrap(), &want, 1e-12);
            }
        }
    }
}
