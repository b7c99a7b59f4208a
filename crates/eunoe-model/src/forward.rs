//! The forward pass: tokens -> embed -> layers x (norm, qkv, rope, attend, out, norm, mlp) -> norm -> logits.

use crate::backend::Backend;
use crate::buffer::Buffer;
use crate::probe::{Point, Probe, tap};
use crate::weights::{Layer, Linear, Model};
use eunoe_core::Result;
use eunoe_kernels::rope::Rope;

/// Keys and values of earlier rows: the engine's business. The forward pass hands over a layer's new rows and gets
/// back what their attention sees.
pub trait Memory {
    /// Stores the keys and values of the rows (`k`, `v`: `[rows, kv_heads, head_dim]`, keys rotated) and attends:
    /// `q`, `out`: `[rows, heads, head_dim]`.
    ///
    /// # Errors
    /// When memory cannot be had.
    fn attend(&mut self, layer: usize, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) -> Result<()>;
}

/// Positions of the rows and their rotations `[rows, dims]`, for global and for sliding layers.
struct Rows<'a> {
    pos: &'a [u32],
    angles: Vec<f32>,
    sliding: Option<Vec<f32>>,
}

fn angles(rope: &Rope, pos: &[u32]) -> Vec<f32> {
    let mut angles = vec![0.0; pos.len() * rope.dims()];
    angles.chunks_exact_mut(rope.dims()).zip(pos).for_each(|(angles, pos)| rope.angles(*pos, angles));
    angles
}

impl<B: Backend> Model<B> {
    /// Runs `tokens`, row `i` at absolute position `pos[i]`, through all layers; gives the final, normalised stream
    /// `[rows, d_model]`. Rows of several sequences may come together: `memory` knows whose they are.
    ///
    /// # Errors
    /// Those of `memory`.
    ///
    /// # Panics
    /// When a token is not in the vocabulary, or `tokens` and `pos` differ in length.
    pub fn forward<P: Probe>(
        &self,
        tokens: &[u32],
        pos: &[u32],
        memory: &mut dyn Memory,
        probe: &mut P,
    ) -> Result<Buffer> {
        assert_eq!(tokens.len(), pos.len(), "one position per token");
        let (b, c) = (&self.backend, &self.config);
        let mut x = b.embed(&self.embed, tokens, c.embed_scale);
        tap(probe, Point::Embed, 0, pos, &mut x);
        let rows = Rows {
            pos,
            angles: angles(&self.rope, pos),
            sliding: self.sliding_rope.as_ref().map(|r| angles(r, pos)),
        };
        for (l, layer) in self.layers.iter().enumerate() {
            tap(probe, Point::ResidPre, l, pos, &mut x);
            let mut attn = self.attention(l, layer, &x, &rows, memory, probe)?;
            tap(probe, Point::AttnOut, l, pos, &mut attn);
            b.add(&mut x, &attn);
            tap(probe, Point::ResidMid, l, pos, &mut x);
            let mut mlp = self.mlp(l, layer, &x, pos, probe);
            tap(probe, Point::MlpOut, l, pos, &mut mlp);
            b.add(&mut x, &mlp);
            tap(probe, Point::ResidPost, l, pos, &mut x);
        }
        Ok(b.rms_norm(&x, &self.final_norm, c.rms_eps))
    }

    /// Logits `[rows, vocab]` of normalised rows `[rows, d_model]`.
    pub fn logits(&self, x: &[f32]) -> Buffer {
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let [logits] = self.backend.matmul([head], x, self.config.d_model);
        logits
    }

    /// What attention adds to the stream.
    fn attention<P: Probe>(
        &self,
        l: usize,
        layer: &Layer<B::Weight>,
        x: &[f32],
        rows: &Rows<'_>,
        memory: &mut dyn Memory,
        probe: &mut P,
    ) -> Result<Buffer> {
        let (b, c, pos) = (&self.backend, &self.config, rows.pos);
        let h = b.rms_norm(x, &layer.attn_norm, c.rms_eps);
        let [mut q, mut k, mut v] =
            b.matmul([&layer.q.weight, &layer.k.weight, &layer.v.weight], &h, c.d_model);
        for (rows, linear) in [(&mut q, &layer.q), (&mut k, &layer.k), (&mut v, &layer.v)] {
            self.bias(linear, rows);
        }
        if let Some([q_norm, k_norm]) = &layer.qk_norm {
            q = b.rms_norm(&q, q_norm, c.rms_eps);
            k = b.rms_norm(&k, k_norm, c.rms_eps);
        }
        tap(probe, Point::Q, l, pos, &mut q);
        tap(probe, Point::K, l, pos, &mut k);
        tap(probe, Point::V, l, pos, &mut v);
        let (rope, angles) = match (&self.sliding_rope, &rows.sliding) {
            (Some(rope), Some(angles)) if layer.is_sliding => (rope, angles),
            _ => (&self.rope, &rows.angles),
        };
        b.rope(rope, angles, c.head_dim, &mut q);
        b.rope(rope, angles, c.head_dim, &mut k);
        tap(probe, Point::QRot, l, pos, &mut q);
        tap(probe, Point::KRot, l, pos, &mut k);
        let mut z = b.buffer(q.len());
        memory.attend(l, &q, &k, &v, &mut z)?;
        tap(probe, Point::Z, l, pos, &mut z);
        let [mut out] = b.matmul([&layer.out.weight], &z, c.heads * c.head_dim);
        self.bias(&layer.out, &mut out);
        Ok(match &layer.attn_post_norm {
            Some(norm) => b.rms_norm(&out, norm, c.rms_eps),
            None => out,
        })
    }

    /// What the gated MLP adds to the stream.
    fn mlp<P: Probe>(
        &self,
        l: usize,
        layer: &Layer<B::Weight>,
        x: &[f32],
        pos: &[u32],
        probe: &mut P,
    ) -> Buffer {
        let (b, c) = (&self.backend, &self.config);
        let mut h = b.rms_norm(x, &layer.mlp_norm, c.rms_eps);
        tap(probe, Point::MlpIn, l, pos, &mut h);
        let [gate, mut act] = b.matmul([&layer.gate, &layer.up], &h, c.d_model);
        b.glu(c.gate, &gate, &mut act);
        tap(probe, Point::MlpAct, l, pos, &mut act);
        let [out] = b.matmul([&layer.down], &act, c.d_ff);
        match &layer.mlp_post_norm {
            Some(norm) => b.rms_norm(&out, norm, c.rms_eps),
            None => out,
        }
    }

    fn bias(&self, linear: &Linear<B::Weight>, rows: &mut [f32]) {
        if let Some(bias) = &linear.bias {
            self.backend.add(rows, bias);
        }
    }
}
