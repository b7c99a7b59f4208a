//! What happens row by row: norms, gates, cross-entropy.

use std::sync::OnceLock;

use candle_core::{D, DType, Shape, Tensor};
use eunoe_kernels::grad::bias;
use eunoe_kernels::grad::glu::{Act, Gated};
use eunoe_kernels::grad::norm::{Grads, Norm};
use eunoe_kernels::grad::softmax_loss::Targets;

use super::kernels::{Op, apply1, apply2, backend, fits, told};
use crate::Result;

/// x / sqrt(mean(x²) + eps) over the last axis, times `weight`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let op = RmsNorm { shape: x.shape().clone(), eps: eps as f32 };
    match weight {
        Some(weight) if fits(&[x, weight]) => return apply2(op, [x, weight]),
        None if fits(&[x]) => return apply1(op, x),
        _ => {}
    }
    let dtype = x.dtype();
    let wide = if dtype == DType::BF16 { x.to_dtype(DType::F32)? } else { x.clone() };
    let square = (wide.sqr()?.mean_keepdim(D::Minus1)? + eps)?;
    let y = wide.broadcast_div(&square.sqrt()?)?;
    let y = match weight {
        Some(weight) => y.broadcast_mul(&weight.to_dtype(y.dtype())?)?,
        None => y,
    };
    y.to_dtype(dtype)
}

struct RmsNorm {
    shape: Shape,
    eps: f32,
}

impl RmsNorm {
    fn norm<'a>(&self, inputs: &[&'a [f32]]) -> Norm<'a> {
        let width = self.shape.dims().last().copied().unwrap_or(0);
        Norm { eps: self.eps, width, weight: inputs.get(1).copied() }
    }
}

impl Op for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let mut y = vec![0.0; inputs[0].len()];
        self.norm(inputs).forward(isa, pool, inputs[0], &mut y).map_err(told)?;
        Ok((y, self.shape.clone()))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], dy: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let mut all: Vec<Vec<f32>> = inputs.iter().map(|input| vec![0.0; input.len()]).collect();
        let (dx, rest) = all.split_at_mut(1);
        let dweight = rest.first_mut().map(Vec::as_mut_slice);
        let grads = Grads { dx: &mut dx[0], dweight };
        self.norm(inputs).backward(isa, pool, inputs[0], dy, grads).map_err(told)?;
        Ok(all)
    }
}

/// x + bias, `[…, width]` and `[width]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    match fits(&[x, bias]) {
        true => apply2(Bias(x.shape().clone()), [x, bias]),
        false => x.broadcast_add(bias),
    }
}

struct Bias(Shape);

impl Op for Bias {
    const NAME: &'static str = "bias";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let mut y = vec![0.0; inputs[0].len()];
        bias::forward(isa, pool, inputs[0], inputs[1], &mut y).map_err(told)?;
        Ok((y, self.0.clone()))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], dy: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let mut dbias = vec![0.0; inputs[1].len()];
        bias::backward(isa, pool, dy, &mut dbias).map_err(told)?;
        Ok(vec![dy.to_vec(), dbias])
    }
}

/// silu(gate) ⊙ up.
///
/// # Errors
/// Shapes that differ.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match fits(&[gate, up]) {
        true => apply2(SiluMul(gate.shape().clone()), [gate, up]),
        false => gate.silu()? * up,
    }
}

struct SiluMul(Shape);

impl Op for SiluMul {
    const NAME: &'static str = "silu_mul";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let mut out = vec![0.0; inputs[0].len()];
        Act::Silu.glu(isa, pool, Gated { gate: inputs[0], up: inputs[1] }, &mut out).map_err(told)?;
        Ok((out, self.0.clone()))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], dout: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let (mut dgate, mut dup) = (vec![0.0; dout.len()], vec![0.0; dout.len()]);
        let gated = Gated { gate: inputs[0], up: inputs[1] };
        Act::Silu.glu_backward(isa, pool, gated, dout, &mut dgate, &mut dup).map_err(told)?;
        Ok(vec![dgate, dup])
    }
}

/// x σ(x).
///
/// # Errors
/// Those of tensor work.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if fits(&[x]) { apply1(Unary(Act::Silu, x.shape().clone()), x) } else { x.silu() }
}

/// 1 / (1 + e^−x).
///
/// # Errors
/// Those of tensor work.
pub fn sigmoid(x: &Tensor) -> Result<Tensor> {
    if fits(&[x]) {
        return apply1(Unary(Act::Sigmoid, x.shape().clone()), x);
    }
    // tanh neither overflows nor loses its gradient where e^x would
    ((x * 0.5)?.tanh()? + 1.0)? * 0.5
}

struct Unary(Act, Shape);

impl Op for Unary {
    const NAME: &'static str = "activation";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let mut y = vec![0.0; inputs[0].len()];
        self.0.forward(isa, pool, inputs[0], &mut y).map_err(told)?;
        Ok((y, self.1.clone()))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], dy: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let mut dx = vec![0.0; dy.len()];
        self.0.backward(isa, pool, inputs[0], dy, &mut dx).map_err(told)?;
        Ok(vec![dx])
    }
}

/// The target of a row that does not count.
pub const IGNORE: u32 = u32::MAX;

/// Mean negative log-likelihood in nats of `targets` `[r]` under `logits` `[r, v]`, over the rows whose target is not
/// [`IGNORE`]; 0 where there is none.
///
/// # Errors
/// A target that is no class.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let nll = nll(logits, targets)?;
    let count = targets.ne(IGNORE)?.to_dtype(nll.dtype())?.sum_all()?.maximum(1.0)?;
    nll.sum_all()? / count
}

/// Negative log-likelihood in nats of each row's target, 0 where it is [`IGNORE`].
///
/// # Errors
/// A target that is no class.
pub fn nll(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let logits = if logits.dtype() == DType::BF16 { logits.to_dtype(DType::F32)? } else { logits.clone() };
    if fits(&[&logits]) {
        let vocab = logits.dim(D::Minus1)?;
        return apply1(Loss { vocab, targets: targets.to_vec1()?, lse: OnceLock::new() }, &logits);
    }
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&max)?;
    let lse = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    let counts = targets.ne(IGNORE)?;
    let index = counts.where_cond(targets, &targets.zeros_like()?)?;
    let own = shifted.gather(&index.unsqueeze(1)?, D::Minus1)?;
    (lse - own)?.squeeze(1)? * counts.to_dtype(shifted.dtype())?
}

struct Loss {
    vocab: usize,
    targets: Vec<u32>,
    /// Of the forward pass, for the backward one.
    lse: OnceLock<Vec<f32>>,
}

impl Loss {
    fn of(&self) -> Targets<'_> {
        Targets { vocab: self.vocab, of: &self.targets, ignore: Some(IGNORE) }
    }
}

impl Op for Loss {
    const NAME: &'static str = "nll";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let rows = self.targets.len();
        let (mut loss, mut lse) = (vec![0.0; rows], vec![0.0; rows]);
        self.of().forward(isa, pool, inputs[0], &mut loss, &mut lse).map_err(told)?;
        self.lse.get_or_init(|| lse);
        Ok((loss, Shape::from(rows)))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], dloss: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let mut dlogits = vec![0.0; inputs[0].len()];
        let lse = self.lse.get().map_or(&[][..], Vec::as_slice);
        self.of().backward(isa, pool, inputs[0], lse, dloss, &mut dlogits).map_err(told)?;
        Ok(vec![dlogits])
    }
}
