//! Causal attention.

use std::sync::OnceLock;

use candle_core::{Shape, Tensor};
pub use eunoe_kernels::grad::attend::Weights;
use eunoe_kernels::grad::attend::{Attention, Grads, Inputs, Outputs};

use super::kernels::{Op, apply3, backend, fits, told};
use super::{causal, masked, matmul, repeat_heads, sigmoid, softmax};
use crate::Result;

/// Attention weights `[b, h, t_q, t_k]` of `q` `[b, h, t_q, d]` over `k` `[b, h_kv, t_k, d]`: the last query stands
/// with the last key, no query looks ahead or further back than `window`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attn(q: &Tensor, k: &Tensor, window: Option<usize>, weights: Weights) -> Result<Tensor> {
    let (_, heads, t_q, d) = q.dims4()?;
    let k = repeat_heads(k, heads)?;
    let scores = (matmul(q, &k.t()?)? * (d as f64).powf(-0.5))?;
    let mask = causal(t_q, k.dim(2)?, window, &scores)?;
    match weights {
        Weights::Softmax => softmax(&masked(&scores, &mask)?),
        Weights::Sigmoid => sigmoid(&scores)?.broadcast_mul(&mask),
    }
}

/// Causal attention, `[b, h, t_q, d]`: [`attn`] times `v` `[b, h_kv, t_k, d]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, window: Option<usize>, weights: Weights) -> Result<Tensor> {
    if !fits(&[q, k, v]) {
        return matmul(&attn(q, k, window, weights)?, &repeat_heads(v, q.dim(1)?)?);
    }
    let ((batch, heads, t_q, head_dim), (_, kv_heads, t_k, _)) = (q.dims4()?, k.dims4()?);
    let attention = Attention {
        batch,
        heads,
        kv_heads,
        t_q,
        t_k,
        head_dim,
        value_dim: v.dim(3)?,
        scale: (head_dim as f32).powf(-0.5),
        window,
        weights,
    };
    apply3(Attend { attention, lse: OnceLock::new() }, [q, k, v])
}

struct Attend {
    attention: Attention,
    /// Of the forward pass, for the backward one.
    lse: OnceLock<Vec<f32>>,
}

impl Op for Attend {
    const NAME: &'static str = "attend";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let Attention { batch, heads, t_q, value_dim, .. } = self.attention;
        let (isa, pool) = backend();
        let mut out = vec![0.0; batch * heads * t_q * value_dim];
        let mut lse = vec![0.0; self.attention.lse_len()];
        let inputs = Inputs { q: inputs[0], k: inputs[1], v: inputs[2] };
        self.attention.forward(isa, pool, inputs, &mut out, &mut lse).map_err(told)?;
        self.lse.get_or_init(|| lse);
        Ok((out, Shape::from((batch, heads, t_q, value_dim))))
    }

    fn backward(&self, inputs: &[&[f32]], out: &[f32], dout: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| vec![0.0; inputs[i].len()]);
        let lse = self.lse.get().map_or(&[][..], Vec::as_slice);
        let inputs = Inputs { q: inputs[0], k: inputs[1], v: inputs[2] };
        let grads = Grads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        self.attention.backward(isa, pool, inputs, Outputs { out, lse, dout }, grads).map_err(told)?;
        Ok(vec![dq, dk, dv])
    }
}
