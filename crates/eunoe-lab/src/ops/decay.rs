//! Linear attention with a decay per head, in chunks: (Q Kᵀ ⊙ M) V inside a chunk, one state across chunks.

use candle_core::{Device, Shape, Tensor};
use eunoe_kernels::grad::decay::{Grads, Inputs, Lightning, Outputs};

use super::kernels::{Op, apply3, backend, fits, told};
use super::{chunks, matmul};
use crate::Result;

/// o_t = q_tᵀ S_t with S_t = λ S_{t−1} + k_t v_tᵀ, and the last S.
///
/// `q`, `k` `[b, h, t, n]`, `v` `[b, h, t, d]`, `decay` λ in (0, 1] per head, `start` S_0 `[b, h, n, d]` (zeros where
/// absent) → o `[b, h, t, d]`, S_t `[b, h, n, d]`. Only powers of λ from 0 up are formed, so nothing overflows.
///
/// # Errors
/// Shapes that do not fit.
pub fn decay_attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    decay: &[f64],
    start: Option<Tensor>,
    chunk: usize,
) -> Result<(Tensor, Tensor)> {
    let (b, h, t, n) = q.dims4()?;
    // one token is less than the copies that bring the state to the kernel
    if t > 1 && fits(&[q, k, v]) {
        return scan(q, k, v, decay, start);
    }
    let mut s = match start {
        Some(s) => s,
        None => Tensor::zeros((b, h, n, v.dim(3)?), q.dtype(), q.device())?,
    };
    let mut outputs = Vec::with_capacity(t.div_ceil(chunk));
    // those of the last chunk: all but one are as long
    let mut known: Option<(usize, [Tensor; 4])> = None;
    let [q, k, v] = [q, k, v].map(|x| chunks(x, 2, chunk, 0));
    for ((q, k), v) in q?.iter().zip(k?).zip(v?) {
        let c = q.dim(2)?;
        let [inside, before, after, across] = match &known {
            Some((len, all)) if *len == c => all,
            _ => &known.insert((c, all_powers(decay, c, q)?)).1,
        };
        let own = matmul(&matmul(q, &k.t()?)?.broadcast_mul(inside)?, &v)?;
        outputs.push((own + matmul(&q.broadcast_mul(before)?, &s)?)?);
        s = (s.broadcast_mul(across)? + matmul(&k.broadcast_mul(after)?.t()?, &v)?)?;
    }
    Ok((Tensor::cat(&outputs, 2)?, s))
}

/// The same by a kernel. An operation of the tape has one result, so the state stands behind the outputs as `n` more rows;
/// and at most three arguments, so the start stands before the values.
fn scan(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    decay: &[f64],
    start: Option<Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (_, _, t, n) = q.dims4()?;
    let op = Scan {
        shape: v.dims().to_vec(),
        key_dim: n,
        decay: decay.iter().map(|d| *d as f32).collect(),
        starts: start.is_some(),
    };
    let v = match start {
        Some(start) => Tensor::cat(&[&start, v], 2)?,
        None => v.clone(),
    };
    let all = apply3(op, [q, k, &v])?;
    Ok((all.narrow(2, 0, t)?, all.narrow(2, t, n)?))
}

struct Scan {
    /// Of the values: b, h, t, d.
    shape: Vec<usize>,
    key_dim: usize,
    decay: Vec<f32>,
    /// Whether the start stands before the values.
    starts: bool,
}

impl Scan {
    fn lightning(&self) -> Lightning<'_> {
        let [batch, heads, t, value_dim] = [0, 1, 2, 3].map(|i| self.shape[i]);
        Lightning { batch, heads, t, key_dim: self.key_dim, value_dim, decay: &self.decay }
    }

    /// Numbers of the state and of the values per head.
    fn parts(&self) -> [usize; 2] {
        [self.key_dim * self.shape[3], self.shape[2] * self.shape[3]]
    }
}

/// `[heads, a + b]` as `[heads, a]` and `[heads, b]`.
fn apart(all: &[f32], [a, b]: [usize; 2]) -> (Vec<f32>, Vec<f32>) {
    let rows = || all.chunks_exact((a + b).max(1));
    (rows().flat_map(|row| &row[..a]).copied().collect(), rows().flat_map(|row| &row[a..]).copied().collect())
}

/// The way back.
fn together(a: &[f32], b: &[f32], [a_len, b_len]: [usize; 2]) -> Vec<f32> {
    let rows = a.chunks_exact(a_len.max(1)).zip(b.chunks_exact(b_len.max(1)));
    rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect()
}

impl Op for Scan {
    const NAME: &'static str = "decay_attend";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let ([states, values], heads) = (self.parts(), self.shape[0] * self.shape[1]);
        let split = self.starts.then(|| apart(inputs[2], [states, values]));
        let (start, v) = match &split {
            Some((start, v)) => (Some(start.as_slice()), v.as_slice()),
            None => (None, inputs[2]),
        };
        let (mut out, mut end) = (vec![0.0; heads * values], vec![0.0; heads * states]);
        let inputs = Inputs { q: inputs[0], k: inputs[1], v, start };
        self.lightning().forward(isa, pool, inputs, &mut out, &mut end).map_err(told)?;
        let [b, h, t, d] = [0, 1, 2, 3].map(|i| self.shape[i]);
        Ok((together(&out, &end, [values, states]), Shape::from((b, h, t + self.key_dim, d))))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], grad: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let [states, values] = self.parts();
        let split = self.starts.then(|| apart(inputs[2], [states, values]));
        let (start, v) = match &split {
            Some((start, v)) => (Some(start.as_slice()), v.as_slice()),
            None => (None, inputs[2]),
        };
        let (dout, dend) = apart(grad, [values, states]);
        let [mut dq, mut dk] = [0, 1].map(|i| vec![0.0; inputs[i].len()]);
        let mut dv = vec![0.0; v.len()];
        let mut dstart = vec![0.0; start.map_or(0, <[f32]>::len)];
        let grads = Grads {
            dq: &mut dq,
            dk: &mut dk,
            dv: &mut dv,
            dstart: self.starts.then_some(dstart.as_mut_slice()),
        };
        let inputs = Inputs { q: inputs[0], k: inputs[1], v, start };
        let outputs = Outputs { dout: &dout, dend: Some(&dend) };
        self.lightning().backward(isa, pool, inputs, outputs, grads).map_err(told)?;
        let dv = if self.starts { together(&dstart, &dv, [states, values]) } else { dv };
        Ok(vec![dq, dk, dv])
    }
}

/// Of a chunk of `c`, row i, column j, both from 0: λ^(i − j) inside; λ^(i + 1) for what was before; λ^(c − 1 − i) for what
/// is left behind; λ^c across.
fn all_powers(decay: &[f64], c: usize, like: &Tensor) -> Result<[Tensor; 4]> {
    Ok([
        powers(decay, (c, c), like, |i, j| (j <= i).then(|| i - j))?,
        powers(decay, (c, 1), like, |i, _| Some(i + 1))?,
        powers(decay, (c, 1), like, |i, _| Some(c - 1 - i))?,
        powers(decay, (1, 1), like, |_, _| Some(c))?,
    ])
}

/// `[1, h, rows, cols]` of λ^power, 0 where there is no power.
fn powers(
    decay: &[f64],
    (rows, cols): (usize, usize),
    like: &Tensor,
    power: impl Fn(usize, usize) -> Option<usize>,
) -> Result<Tensor> {
    let cell = |n: usize| power(n / cols % rows, n % cols).map(|p| decay[n / (rows * cols)].powi(p as i32));
    let values: Vec<f64> = (0..decay.len() * rows * cols).map(|n| cell(n).unwrap_or(0.0)).collect();
    Tensor::from_vec(values, (1, decay.len(), rows, cols), &Device::Cpu)?
        .to_dtype(like.dtype())?
        .to_device(like.device())
}
