//! Attention that also learns how much each distance matters, per head and depending on the query.
//!
//! * Paper:    Huang, 2019, arXiv 1809.04281, section 3.4 (skewing)
//! * Equation: attn\[i, j\] = softmax_j((q\[i\]·k\[j\] + q\[i\]·e\[i − j\]) / √d)
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; table \[h, span, d\], its last row distance 0; state k, v \[b, h, t, d\]
//! * Cost:     3 t·m multiply-adds per token; the state grows with the text
//! * Differs:  `beyond=zero` gives no bias to distances past `span`, as the authors' code does; `clip` takes the longest,
//!   as the paper says. No relative values, no local form; no absolute positions besides
//! * Oracle:   the double loop in f64

use candle_core::{D, Tensor};
use eunoe_core::{Arg, Card, Kind, Shelf};

use super::{MixerEntry, Spec};
use crate::nets::{self, Init, Linear};
use crate::ops::matmul;
use crate::{Cost, Ctx, Mixer, Result, State, ops};

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "music_transformer",
        shelf: Shelf::Mixer,
        name: "Relative attention (Music Transformer)",
        paper: "Huang 2019, arXiv 1809.04281",
        idea: "attention that learns how much each distance matters",
        args: &[
            Arg {
                name: "span",
                kind: Kind::Int { min: 1, max: 1 << 16 },
                default: "256",
                help: "distances that have an embedding",
            },
            Arg {
                name: "beyond",
                kind: Kind::Choice(&["zero", "clip"]),
                default: "zero",
                help: "what longer distances have: nothing, or the embedding of the longest",
            },
        ],
    },
    make: |args, spec, init| {
        let clips = args.word("beyond") == "clip";
        Ok(Box::new(MusicTransformer::new(spec, args.int("span") as usize, clips, init)?))
    },
};

/// See the module.
pub struct MusicTransformer {
    qkv: [Linear; 3],
    out: Linear,
    table: Tensor,
    clips: bool,
    spec: Spec,
}

impl MusicTransformer {
    fn new(spec: &Spec, span: usize, clips: bool, init: &mut Init<'_>) -> Result<Self> {
        let (m, d) = (spec.d_model, spec.head_dim());
        let table = init.normal("table", &[spec.heads, span, d], (d as f64).powf(-0.5))?;
        let mut linear = |name, std| Linear::new(&mut init.at(name), m, m, std);
        let qkv = [linear("q", spec.std)?, linear("k", spec.std)?, linear("v", spec.std)?];
        Ok(Self { qkv, out: linear("out", spec.out_std)?, table, clips, spec: *spec })
    }

    /// Embeddings of the distances t − 1, …, 0: `[1, h, t, d]`.
    fn distances(&self, t: usize) -> Result<Tensor> {
        let (h, span, d) = self.table.dims3()?;
        let rows = match t.checked_sub(span) {
            None | Some(0) => self.table.narrow(1, span - t, t)?,
            Some(more) => {
                let far = match self.clips {
                    true => self.table.narrow(1, 0, 1)?.broadcast_as((h, more, d))?.contiguous()?,
                    false => Tensor::zeros((h, more, d), self.table.dtype(), self.table.device())?,
                };
                Tensor::cat(&[&far, &self.table], 1)?
            }
        };
        rows.unsqueeze(0)
    }
}

/// Moves row i of `[b, h, t_q, t_k]` left by t_q − 1 − i columns, so that column r, distance t_k − 1 − r, comes to stand
/// at key j = i + t_k − t_q − distance. What comes in from the right is another row's and belongs to keys ahead.
///
/// One more column makes rows of t_k + 1 numbers; read from t_q − 1 on in rows of t_k, each begins one further left.
fn skew(r: &Tensor) -> Result<Tensor> {
    let (b, h, t_q, t_k) = r.dims4()?;
    let padded = r.pad_with_zeros(D::Minus1, 0, 1)?.reshape((b, h, t_q * (t_k + 1)))?;
    padded.narrow(2, t_q - 1, t_q * t_k)?.reshape((b, h, t_q, t_k))
}

impl Mixer for MusicTransformer {
    fn run(&self, x: &Tensor, mut state: State, ctx: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let heads = |linear: &Linear| nets::split(&linear.run(x)?, self.spec.heads);
        let [q, k, v] = &self.qkv;
        let (q, k, v) = (heads(q)?, state.append("k", &heads(k)?, 2)?, state.append("v", &heads(v)?, 2)?);
        let (t_q, t_k) = (q.dim(2)?, k.dim(2)?);
        let e = self.distances(t_k)?.to_dtype(q.dtype())?;
        let (b, h, _, d) = k.dims4()?;
        let bias = skew(&matmul(&q, &e.broadcast_as((b, h, t_k, d))?.t()?)?)?;
        let scores = ((matmul(&q, &k.t()?)? + bias)? * (d as f64).powf(-0.5))?;
        let attn = ops::softmax(&ops::masked(&scores, &ops::causal(t_q, t_k, None, &scores)?)?)?;
        ctx.show("attn", || Ok(attn.clone()))?;
        let o = matmul(&attn, &v)?;
        state.put("k", k);
        state.put("v", v);
        state.pos += t_q;
        Ok((self.out.run(&nets::join(&o)?)?, state))
    }

    fn cost(&self, t: usize) -> Cost {
        let m = self.spec.d_model;
        Cost { macs: 4 * m * m + 3 * (t + 1) * m, state: 2 * t * m }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::laws::{Lab, close};

    #[test]
    fn three_rows_are_skewed_by_hand() {
        // Row i, column r holds 10 i + r, where r = 2 is distance 0, r = 1 distance 1, r = 0 distance 2.
        let r = Tensor::new(&[[[[0.0f64, 1.0, 2.0], [10.0, 11.0, 12.0], [20.0, 21.0, 22.0]]]], &Device::Cpu)
            .unwrap();
        let s: Vec<Vec<f64>> = skew(&r).unwrap().squeeze(0).unwrap().squeeze(0).unwrap().to_vec2().unwrap();
        assert_eq!((s[0][0], &s[1][..2], &s[2][..]), (2.0, &[11.0, 12.0][..], &[20.0, 21.0, 22.0][..]));
        // One query at the end of three keys, as in decode: the row as it is.
        let s: Vec<f64> =
            skew(&r.narrow(2, 2, 1).unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(s, [20.0, 21.0, 22.0]);
    }

    fn slow(mixer: &MusicTransformer, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let d = mixer.spec.head_dim();
        let table: Vec<Vec<Vec<f64>>> = mixer.table.to_vec3().unwrap();
        let span = table[0].len();
        let [q, k, v] = [0, 1, 2].map(|i| Lab::rows(&mixer.qkv[i], x));
        let cell = |i: usize, c: usize| {
            let h = c / d;
            let weight = |j: usize| {
                let far = if mixer.clips { (i - j).min(span - 1) } else { i - j };
                let e = |n: usize| if far < span { table[h][span - 1 - far][n] } else { 0.0 };
                let s: f64 = (0..d).map(|n| q[i][h * d + n] * (k[j][h * d + n] + e(n))).sum();
                (s / (d as f64).sqrt()).exp()
            };
            (0..=i).map(|j| weight(j) * v[j][c]).sum::<f64>() / (0..=i).map(weight).sum::<f64>()
        };
        let row = |i| (0..mixer.spec.d_model).map(|c| cell(i, c)).collect();
        Lab::rows(&mixer.out, &(0..x.len()).map(row).collect::<Vec<Vec<f64>>>())
    }

    #[test]
    fn it_is_the_double_loop() {
        for (span, clips, t) in [(8, false, 1), (16, false, 13), (5, false, 13), (5, true, 13), (1, true, 4)]
        {
            let mut lab = Lab::f64(8, 2, 2);
            let mixer = MusicTransformer::new(&lab.spec, span, clips, &mut lab.params.init()).unwrap();
            let x = lab.input(1, t);
            let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
            let want = slow(&mixer, &x.get(0).unwrap().to_vec2().unwrap());
            close(&y.get(0).unwrap().to_vec2().unwrap(), &want, 1e-12);
        }
    }
}
