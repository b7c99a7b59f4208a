//! Rotary positions (Su 2021, arXiv 2104.09864), halves of a head rotated against each other.

use std::sync::Arc;

use candle_core::Tensor;
use eunoe_kernels::rope::{Rope as Table, Style};

use crate::{Result, ops};

/// Angles per position: pair i of a head turns by pos · base^(−2i/d).
#[derive(Clone)]
pub struct Rope {
    table: Arc<Table>,
    base: f64,
}

impl Rope {
    /// For heads of `dims` numbers.
    ///
    /// # Errors
    /// An odd width, which cannot be rotated.
    pub fn new(base: f64, dims: usize) -> Result<Self> {
        if dims % 2 == 1 {
            candle_core::bail!("heads of {dims} numbers cannot be rotated: `d_model` / `heads` must be even");
        }
        let table = Table::new(Style::Neox, dims, base, 1.0, None);
        let table = table.map_err(|error| candle_core::Error::Msg(error.to_string()))?;
        Ok(Self { table: Arc::new(table), base })
    }

    /// Rotates `[b, h, t, d]`, whose first row stands at `pos`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn run(&self, x: &Tensor, pos: usize) -> Result<Tensor> {
        ops::rotate(x, &self.table, self.base, pos)
    }
}
