//! The operations that the forward pass is made of, and the processor that runs them.

use crate::buffer::{Buffer, Buffers};
use eunoe_core::{Dtype, Result};
use eunoe_kernels::matmul::{Acts, Arithmetic, Inputs, Packed, matmul};
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

    /// `len` values that the caller writes before it reads them.
    fn buffer(&self, len: usize) -> Buffer {
        vec![0.0; len].into()
    }

    /// Rows `tokens` of an embedding, times `scale`.
    fn embed(&self, table: &Self::Weight, tokens: &[u32], scale: f32) -> Buffer;

    /// `x / rms(x) * weight`, for each row of `weight.len()` values.
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32) -> Buffer;

    /// The products of the rows `x` (`[rows, cols]`) with several weights: `[rows, outputs]` each.
    fn matmul<const N: usize>(&self, weights: [&Self::Weight; N], x: &[f32], cols: usize) -> [Buffer; N];

    /// Rotates the heads of row `i` of `x` by `angles[i]` (`[rows, dims]`, as [`Rope::angles`] gives them).
    fn rope(&self, rope: &Rope, angles: &[f32], head_dim: usize, x: &mut [f32]);

    /// `up *= activation(gate)`.
    fn glu(&self, kind: Gate, gate: &[f32], up: &mut [f32]);

    /// `x += y`; a shorter `y` is one row, added to every row of `x`.
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
    buffers: Arc<Buffers>,
}

impl Cpu {
    /// The best instruction set of this processor, on `threads` threads.
    pub fn new(threads: usize, arithmetic: Arithmetic) -> Self {
        let pool = Arc::new(Pool::new(threads));
        Self { isa: Isa::detect(), pool, arithmetic, buffers: Arc::default() }
    }
}

impl Backend for Cpu {
    type Weight = Packed;

    fn weight(&self, dtype: Dtype, rows: usize, cols: usize, bytes: &[u8]) -> Result<Packed> {
        Packed::new(&self.pool, dtype, rows, cols, bytes)
    }

    fn buffer(&self, len: usize) -> Buffer {
        self.buffers.take(len)
    }

    fn embed(&self, table: &Packed, tokens: &[u32], scale: f32) -> Buffer {
        let mut out = self.buffer(tokens.len() * table.cols());
        ops::embed(self.isa, &self.pool, table, tokens, scale, &mut out);
        out
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32) -> Buffer {
        let mut out = self.buffer(x.len());
        ops::rms_norm(self.isa, &self.pool, x, weight, eps, &mut out);
        out
    }

    fn matmul<const N: usize>(&self, weights: [&Packed; N], x: &[f32], cols: usize) -> [Buffer; N] {
        let rows = x.len() / cols;
        let mut outs = weights.map(|w| self.buffer(rows * w.rows()));
        for inputs in [Inputs::Blocks, Inputs::Pairs, Inputs::Floats] {
            let (some, mut into): (Vec<&Packed>, Vec<&mut [f32]>) = weights
                .iter()
                .zip(&mut outs)
                .filter(|(w, _)| self.arithmetic.inputs(w) == inputs)
                .map(|(w, out)| (*w, &mut **out))
                .unzip();
            if !some.is_empty() {
                let acts = Acts::new(self.isa, &self.pool, x, cols, inputs);
                matmul(self.isa, &self.pool, &some, &acts, &mut into);
            }
        }
        outs
    }

    fn rope(&self, rope: &Rope, angles: &[f32], head_dim: usize, x: &mut [f32]) {
        ops::rotate(self.isa, &self.pool, rope, angles, head_dim, x);
    }

    fn glu(&self, kind: Gate, gate: &[f32], up: &mut [f32]) {
        ops::glu(self.isa, &self.pool, kind, gate, up);
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        ops::add(self.isa, &self.pool, x, y);
    }
}
