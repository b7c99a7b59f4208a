//! The operations that the forward pass is made of, and the processor that runs them.

use eunoe_core::{Dtype, Result};
use eunoe_kernels::matmul::{Acts, Arithmetic, Packed, matmul};
use eunoe_kernels::ops::{self, Gate};
use eunoe_kernels::rope::Rope;
use eunoe_kernels::{Isa, Pool};
use std::sync::Arc;

/// Where and how the forward pass computes. Rows are f32, row-major; a row's result depends on that row alone.
pub trait Backend {
    /// A weight matrix as this backend holds it.
    type Weight: Send + Sync;

    /// Takes over a matrix of `rows` outputs and `cols` inputs in the file's layout.
    ///
    /// # Errors
    /// When shape and bytes disagree.
    fn weight(&self, dtype: Dtype, rows: usize, cols: usize, bytes: &[u8]) -> Result<Self::Weight>;

    /// Row `token` of an embedding, times `scale`, into `out`.
    fn embed(&self, table: &Self::Weight, token: u32, scale: f32, out: &mut [f32]);

    /// `x / rms(x) * weight`, for each row of `weight.len()` values.
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32) -> Vec<f32>;

    /// The products of the rows `x` (`[rows, cols]`) with several weights: `[rows, outputs]` each.
    fn matmul<const N: usize>(&self, weights: [&Self::Weight; N], x: &[f32], cols: usize) -> [Vec<f32>; N];

    /// Rotates the heads of row `i` of `x` by `angles[i]` (`[rows, dims]`, as [`Rope::angles`] gives them).
    fn rope(&self, rope: &Rope, angles: &[f32], head_dim: usize, x: &mut [f32]);

    /// `up *= activation(gate)`.
    fn glu(&self, kind: Gate, gate: &[f32], up: &mut [f32]);

    /// `x += y`.
    fn add(&self, x: &mut [f32], y: &[f32]);
}

/// The processor: own kernels over repacked quantised weights.
#[derive(Clone)]
pub struct Cpu {
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// Threads.
    pub pool: Arc<Pool>,
    /// How inputs enter matrix products.
    pub arithmetic: Arithmetic,
}

impl Cpu {
    /// The best instruction set of this processor, on `threads` threads.
    pub fn new(threads: usize, arithmetic: Arithmetic) -> Self {
        Self { isa: Isa::detect(), pool: Arc::new(Pool::new(threads)), arithmetic }
    }
}

impl Backend for Cpu {
    type Weight = Packed;

    fn weight(&self, dtype: Dtype, rows: usize, cols: usize, bytes: &[u8]) -> Result<Packed> {
        Packed::new(&self.pool, dtype, rows, cols, bytes)
    }

    fn embed(&self, table: &Packed, token: u32, scale: f32, out: &mut [f32]) {
        table.row(token as usize, out);
        if scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= scale);
        }
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        ops::rms_norm(self.isa, x, weight, eps, &mut out);
        out
    }

    fn matmul<const N: usize>(&self, weights: [&Packed; N], x: &[f32], cols: usize) -> [Vec<f32>; N] {
        let rows = x.len() / cols;
        let mut outs = weights.map(|w| vec![0.0; rows * w.rows()]);
        for quantised in [true, false] {
            let (some, mut into): (Vec<&Packed>, Vec<&mut [f32]>) = weights
                .iter()
                .zip(&mut outs)
                .filter(|(w, _)| self.arithmetic.quantises(w) == quantised)
                .map(|(w, out)| (*w, out.as_mut_slice()))
                .unzip();
            if !some.is_empty() {
                let acts = Acts::new(self.isa, &self.pool, x, cols, self.arithmetic, quantised);
                matmul(self.isa, &self.pool, &some, &acts, &mut into);
            }
        }
        outs
    }

    fn rope(&self, rope: &Rope, angles: &[f32], head_dim: usize, x: &mut [f32]) {
        let rows = angles.len() / rope.dims();
        for (row, angles) in x.chunks_exact_mut(x.len() / rows).zip(angles.chunks_exact(rope.dims())) {
            row.chunks_exact_mut(head_dim).for_each(|head| rope.rotate(head, angles));
        }
    }

    fn glu(&self, kind: Gate, gate: &[f32], up: &mut [f32]) {
        ops::glu(self.isa, &self.pool, kind, gate, up);
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        ops::add(x, y);
    }
}
