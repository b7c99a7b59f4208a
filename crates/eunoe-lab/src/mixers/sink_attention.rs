//! Attention without the surplus that has to go somewhere: weights that need not sum to one, or a key that takes the rest.
//!
//! * Paper:    Gu, 2024, arXiv 2410.10781, sections 5 and 6
//! * Equation: o\[i\] = Σ_{j ≤ i} f(q\[i\]·k\[j\] / √d) v\[j\] / Z\[i\]; `form` chooses f and Z
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state k, v \[b, h, t, d\]
//! * Cost:     2 t·m multiply-adds per token; the state grows with the text
//! * Differs:  key and value biases are learned per head; row sums have 1e-8 added; no linear kernels
//! * Oracle:   the double loop in f64
//!
//! | form | f(s) | Z |
//! |---|---|---|
//! | `softmax` | e^s | Σ f |
//! | `off_by_one` | e^s | 1 + Σ f |
//! | `k_bias` | e^s | e^(q·k* / √d) + Σ f |
//! | `kv_bias` | e^s | as `k_bias`, and v* is among the values |
//! | `v_bias` | e^s | Σ f, and v* is added |
//! | `sigmoid` | σ(s) | 1 |
//! | `sigmoid_norm` | σ(s) | Σ f |
//! | `elu` | elu(s) + 1 | 1 |
//! | `elu_norm` | elu(s) + 1 | Σ f |

use candle_core::{D, Tensor};
use eunoe_core::{Arg, Card, Kind, Shelf};

use super::{MixerEntry, Spec};
use crate::nets::{self, Init, Linear, Rope};
use crate::ops::matmul;
use crate::{Cost, Ctx, Mixer, Result, State, ops};

const FORMS: &[&str] =
    &["softmax", "off_by_one", "k_bias", "kv_bias", "v_bias", "sigmoid", "sigmoid_norm", "elu", "elu_norm"];

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "sink_attention",
        shelf: Shelf::Mixer,
        name: "Attention without sinks",
        paper: "Gu 2024, arXiv 2410.10781",
        idea: "attention whose weights need not sum to one, or have a key that takes the rest",
        args: &[Arg {
            name: "form",
            kind: Kind::Choice(FORMS),
            default: "sigmoid",
            help: "what scores become and what their sum is divided by",
        }],
    },
    make: |args, spec, init| Ok(Box::new(SinkAttention::new(spec, args.word("form"), init)?)),
};

/// See the module.
pub struct SinkAttention {
    qkv: [Linear; 3],
    out: Linear,
    /// `[h, d]` each, where the form has them.
    k_bias: Option<Tensor>,
    v_bias: Option<Tensor>,
    form: &'static str,
    rope: Rope,
    spec: Spec,
}

impl SinkAttention {
    fn new(spec: &Spec, form: &'static str, init: &mut Init<'_>) -> Result<Self> {
        let (m, d) = (spec.d_model, spec.head_dim());
        let mut bias =
            |name, has: bool| has.then(|| init.normal(name, &[spec.heads, d], spec.std)).transpose();
        let k_bias = bias("k_bias", form.starts_with('k'))?;
        let v_bias = bias("v_bias", form.ends_with("v_bias"))?;
        let mut linear = |name, std| Linear::new(&mut init.at(name), m, m, std);
        let qkv = [linear("q", spec.std)?, linear("k", spec.std)?, linear("v", spec.std)?];
        let out = linear("out", spec.out_std)?;
        Ok(Self { qkv, out, k_bias, v_bias, form, rope: Rope::new(spec.rope_base, d)?, spec: *spec })
    }

    /// Weights before division `[b, h, t_q, t_k]`, 0 where `mask` is, and their divisor `[b, h, t_q, 1]` where there is
    /// one; `rest` is the score of the key that takes the rest.
    fn weights(
        &self,
        scores: &Tensor,
        mask: &Tensor,
        rest: Option<Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        match self.form {
            "sigmoid_norm" | "elu" | "elu_norm" => {
                let sigmoid = self.form == "sigmoid_norm";
                let f = if sigmoid { ops::sigmoid(scores)? } else { (scores.elu(1.0)? + 1.0)? };
                let f = f.broadcast_mul(mask)?;
                let z = self.form.ends_with("norm").then(|| f.sum_keepdim(D::Minus1)? + 1e-8).transpose()?;
                Ok((f, z))
            }
            _ => {
                let scores = ops::masked(scores, mask)?;
                let mut max = scores.max_keepdim(D::Minus1)?;
                if let Some(rest) = &rest {
                    max = max.maximum(rest)?;
                }
                // the maximum cancels, so it needs no gradient
                let max = max.detach();
                let f = scores.broadcast_sub(&max)?.exp()?;
                let mut z = f.sum_keepdim(D::Minus1)?;
                if let Some(rest) = rest {
                    z = (z + (rest - &max)?.exp()?)?;
                }
                Ok((f, Some(z)))
            }
        }
    }

    /// The forms that have a kernel.
    fn fused([q, k, v]: [&Tensor; 3], weights: ops::Weights, ctx: &mut Ctx<'_>) -> Result<Tensor> {
        ctx.show("attn", || ops::attn(q, k, None, weights))?;
        ops::attend(q, k, v, None, weights)
    }

    /// The other forms.
    fn attend(&self, [q, k, v]: [&Tensor; 3], ctx: &mut Ctx<'_>) -> Result<Tensor> {
        let scores = (matmul(q, &k.t()?)? * (self.spec.head_dim() as f64).powf(-0.5))?;
        let mask = ops::causal(q.dim(2)?, k.dim(2)?, None, &scores)?;
        // the bias stands at no position, so its key meets the query as it was rotated
        let rest = self.rest(q)?;
        let (f, z) = self.weights(&scores, &mask, rest.clone())?;
        let attn = match &z {
            Some(z) => f.broadcast_div(z)?,
            None => f,
        };
        ctx.show("attn", || Ok(attn.clone()))?;
        let mut o = matmul(&attn, v)?;
        if let Some(bias) = &self.v_bias {
            let bias = bias.to_dtype(o.dtype())?.unsqueeze(1)?;
            let share = match &rest {
                Some(_) => attn.sum_keepdim(D::Minus1)?.affine(-1.0, 1.0)?,
                None => attn.narrow(D::Minus1, 0, 1)?.ones_like()?,
            };
            o = (o + share.broadcast_mul(&bias)?)?;
        }
        Ok(o)
    }

    /// The score of the key that takes the rest, `[b, h, t_q, 1]`.
    fn rest(&self, q: &Tensor) -> Result<Option<Tensor>> {
        let scale = (self.spec.head_dim() as f64).powf(-0.5);
        match (&self.k_bias, self.form) {
            (Some(k), _) => {
                let k = k.to_dtype(q.dtype())?.unsqueeze(1)?;
                Ok(Some((q.broadcast_mul(&k)?.sum_keepdim(D::Minus1)? * scale)?))
            }
            (None, "off_by_one") => Ok(Some(q.narrow(D::Minus1, 0, 1)?.zeros_like()?)),
            _ => Ok(None),
        }
    }
}

impl Mixer for SinkAttention {
    fn run(&self, x: &Tensor, mut state: State, ctx: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let heads = |linear: &Linear| nets::split(&linear.run(x)?, self.spec.heads);
        let [q, k, v] = &self.qkv;
        let plain = heads(q)?;
        let q = self.rope.run(&plain, state.pos)?;
        let k = state.append("k", &self.rope.run(&heads(k)?, state.pos)?, 2)?;
        let v = state.append("v", &heads(v)?, 2)?;
        let o = match self.form {
            "softmax" => Self::fused([&q, &k, &v], ops::Weights::Softmax, ctx)?,
            "sigmoid" => Self::fused([&q, &k, &v], ops::Weights::Sigmoid, ctx)?,
            _ => self.attend([&q, &k, &v], ctx)?,
        };
        state.put("k", k);
        state.put("v", v);
        state.pos += x.dim(1)?;
        Ok((self.out.run(&nets::join(&o)?)?, state))
    }

    fn cost(&self, t: usize) -> Cost {
        let m = self.spec.d_model;
        Cost { macs: 4 * m * m + 2 * (t + 1) * m, state: 2 * t * m }
    }
}

#[cfg(test)]
mod tests {
    use super::super::softmax_attention::SoftmaxAttention;
    use super::*;
    use crate::laws::{Lab, close, turned};
    use crate::nets::Params;

    fn made(form: &'static str) -> (Lab, SinkAttention) {
        let mut lab = Lab::f64(8, 2, 2);
        let mixer = SinkAttention::new(&lab.spec, form, &mut lab.params.init()).unwrap();
        (lab, mixer)
    }

    fn outputs(mixer: &dyn Mixer, x: &Tensor) -> Vec<Vec<f64>> {
        mixer.run(x, State::default(), &mut Ctx::default()).unwrap().0.get(0).unwrap().to_vec2().unwrap()
    }

    /// Attention maps of the first head.
    fn maps(mixer: &dyn Mixer, x: &Tensor) -> Vec<Vec<f64>> {
        let mut seen = None;
        let mut keep = |_: &'static str, attn: &Tensor| {
            seen = Some(attn.get(0)?.get(0)?.to_vec2::<f64>()?);
            Ok(())
        };
        mixer.run(x, State::default(), &mut Ctx { probe: Some(&mut keep), ..Ctx::default() }).unwrap();
        seen.unwrap()
    }

    /// The double loop over tokens, head by head, with the table's f and Z.
    fn slow(mixer: &SinkAttention, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (heads, d, base) = (mixer.spec.heads, mixer.spec.head_dim(), mixer.spec.rope_base);
        let [q, k, v] = [0, 1, 2].map(|n| Lab::rows(&mixer.qkv[n], x));
        let [k_star, v_star] = [&mixer.k_bias, &mixer.v_bias].map(|bias| match bias {
            Some(bias) => bias.to_vec2::<f64>().unwrap(),
            None => Vec::new(),
        });
        let mixed = |i: usize, h: usize| {
            let part = |row: &[f64]| row[h * d..(h + 1) * d].to_vec();
            let query = turned(&part(&q[i]), i, base);
            let score = |key: &[f64]| (0..d).map(|n| query[n] * key[n]).sum::<f64>() / (d as f64).sqrt();
            let (mut o, mut sum) = (vec![0.0; d], 0.0);
            for j in 0..=i {
                let s = score(&turned(&part(&k[j]), j, base));
                let f = match mixer.form {
                    "sigmoid" | "sigmoid_norm" => 1.0 / (1.0 + (-s).exp()),
                    "elu" | "elu_norm" if s > 0.0 => s + 1.0,
                    _ => s.exp(),
                };
                sum += f;
                part(&v[j]).iter().zip(&mut o).for_each(|(v, o)| *o += f * v);
            }
            let rest = match mixer.form {
                "off_by_one" => 1.0,
                "k_bias" | "kv_bias" => score(&k_star[h]).exp(),
                "sigmoid_norm" | "elu_norm" => 1e-8,
                _ => 0.0,
            };
            let z = if ["sigmoid", "elu"].contains(&mixer.form) { 1.0 } else { sum + rest };
            let extra = |c: usize| match mixer.form {
                "kv_bias" => rest / z * v_star[h][c],
                "v_bias" => v_star[h][c],
                _ => 0.0,
            };
            (0..d).map(|c| o[c] / z + extra(c)).collect::<Vec<f64>>()
        };
        let row = |i| (0..heads).flat_map(|h| mixed(i, h)).collect();
        Lab::rows(&mixer.out, &(0..x.len()).map(row).collect::<Vec<Vec<f64>>>())
    }

    #[test]
    fn every_form_is_the_double_loop() {
        for form in FORMS {
            let (lab, mixer) = made(form);
            for t in [1, 13] {
                let x = lab.input(2, t);
                let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
                for b in 0..2 {
                    let want = slow(&mixer, &x.get(b).unwrap().to_vec2().unwrap());
                    close(&y.get(b).unwrap().to_vec2().unwrap(), &want, 1e-12);
                }
            }
        }
    }

    #[test]
    fn softmax_is_the_reference() {
        let (lab, mixer) = made("softmax");
        let mut params = Params::new(7, lab.params.dtype, &lab.params.device);
        let reference = SoftmaxAttention::new(&lab.spec, None, &mut params.init()).unwrap();
        let x = lab.input(1, 13);
        close(&outputs(&mixer, &x), &outputs(&reference, &x), 1e-12);
    }

    #[test]
    fn every_form_is_its_row_of_the_table() {
        for form in FORMS {
            let (lab, mixer) = made(form);
            let (softmax, x) = (made("softmax").1, lab.input(1, 9));
            // scores of the first head up to a constant per row: the same weights, the same scores
            let reference = maps(&softmax, &x);
            let sums: Vec<f64> = maps(&mixer, &x).iter().map(|row| row.iter().sum()).collect();
            let is_one = |s: &f64| (s - 1.0).abs() < 1e-6;
            match *form {
                "softmax" | "v_bias" | "sigmoid_norm" | "elu_norm" => {
                    assert!(sums.iter().all(is_one), "{form}")
                }
                "off_by_one" | "k_bias" | "kv_bias" => {
                    assert!(sums.iter().all(|s| *s < 1.0 - 1e-6), "{form}")
                }
                _ => assert!(!is_one(&sums[0]) && sums[8] > sums[0], "{form}"),
            }
            if !form.starts_with("sig") && !form.starts_with("elu") {
                // e^s over another divisor: the ratios inside a row stay
                let got = maps(&mixer, &x);
                let ratio = |m: &[Vec<f64>]| m[8][3] / m[8][5];
                assert!((ratio(&got) / ratio(&reference) - 1.0).abs() < 1e-9, "{form}");
            }
        }
    }

    #[test]
    fn a_key_bias_is_one_more_key_whose_value_is_nothing() {
        let (lab, mixer) = made("k_bias");
        let x = lab.input(1, 5);
        let rows: Vec<Vec<f64>> = x.get(0).unwrap().to_vec2().unwrap();
        let (q, k) = (Lab::rows(&mixer.qkv[0], &rows), Lab::rows(&mixer.qkv[1], &rows));
        let bias: Vec<Vec<f64>> = mixer.k_bias.as_ref().unwrap().to_vec2().unwrap();
        // At position 0 nothing is rotated, so the first row can be written down: two keys, the own and the bias.
        let dot = |a: &[f64], b: &[f64]| (0..4).map(|n| a[n] * b[n]).sum::<f64>() / 2.0;
        let (own, rest) = (dot(&q[0][..4], &k[0][..4]).exp(), dot(&q[0][..4], &bias[0]).exp());
        assert!((maps(&mixer, &x)[0][0] - own / (own + rest)).abs() < 1e-12);
    }
}
