//! Products of matrices: x Wᵀ, and batches of any layout.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor};
use eunoe_kernels::gemm::{Element, Level, Mat, Out, gemm, gemm_batch};
use half::bf16;
use half::slice::HalfFloatSliceExt as _;
use serde::{Deserialize, Serialize};

use super::kernels::{Op, apply2, backend, fits, told};
use crate::Result;

/// What products of activations with weights are made of; sums, and all else, are in the type of the activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to 8 bits of mantissa.
    Bf16,
}

/// x Wᵀ: `[…, k]` and `[n, k]` → `[…, n]`.
///
/// # Errors
/// Widths that differ.
pub fn linear(x: &Tensor, weight: &Tensor, precision: Precision) -> Result<Tensor> {
    let (n, k) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == k => *last = n,
        _ => candle_core::bail!("a matrix of [{n}, {k}] on {:?}", x.dims()),
    }
    let rows = x.elem_count() / k.max(1);
    if fits(&[x, weight]) {
        return apply2(Linear { rows, n, k, shape, precision }, [x, weight]);
    }
    let (x, dtype) = (x.reshape((rows, k))?, x.dtype());
    let y = match precision {
        Precision::F32 => x.matmul(&weight.t()?)?,
        Precision::Bf16 => {
            let [x, weight] = [&x, weight].map(|x| x.to_dtype(DType::BF16));
            x?.matmul(&weight?.t()?)?.to_dtype(dtype)?
        }
    };
    y.reshape(shape)
}

struct Linear {
    rows: usize,
    n: usize,
    k: usize,
    shape: Vec<usize>,
    precision: Precision,
}

/// A row-major matrix, or its transpose.
#[derive(Clone, Copy)]
struct Rows<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    turned: bool,
}

impl Rows<'_> {
    fn of<T: Element>(self, data: &[T]) -> Result<Mat<'_, T>> {
        let mat = Mat::row_major(data, self.rows, self.cols).map_err(told)?;
        Ok(if self.turned { mat.t() } else { mat })
    }

    fn t(self) -> Self {
        Self { turned: !self.turned, ..self }
    }
}

impl Linear {
    fn product(&self, a: Rows<'_>, b: Rows<'_>) -> Result<Vec<f32>> {
        match self.precision {
            Precision::F32 => product(a.of(a.data)?, b.of(b.data)?),
            Precision::Bf16 => {
                let [x, y] = [a.data, b.data].map(rounded);
                product(a.of(&x)?, b.of(&y)?)
            }
        }
    }
}

fn rounded(data: &[f32]) -> Vec<bf16> {
    let mut out = vec![bf16::ZERO; data.len()];
    out.convert_from_f32_slice(data);
    out
}

/// a b.
fn product<T: Element>(a: Mat<'_, T>, b: Mat<'_, T>) -> Result<Vec<f32>> {
    let ((isa, pool), cols) = (backend(), b.cols());
    let mut out = vec![0.0; a.rows() * cols];
    gemm(isa, pool, a, b, Out::set(&mut out, cols)).map_err(told)?;
    Ok(out)
}

fn rows(data: &[f32], rows: usize, cols: usize) -> Rows<'_> {
    Rows { data, rows, cols, turned: false }
}

impl Op for Linear {
    const NAME: &'static str = "linear";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let Self { rows: r, n, k, ref shape, .. } = *self;
        let out = self.product(rows(inputs[0], r, k), rows(inputs[1], n, k).t())?;
        Ok((out, Shape::from(shape.as_slice())))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], grad: &[f32]) -> Result<Vec<Vec<f32>>> {
        let Self { rows: r, n, k, .. } = *self;
        let dx = self.product(rows(grad, r, n), rows(inputs[1], n, k))?;
        let dw = self.product(rows(grad, r, n).t(), rows(inputs[0], r, k))?;
        Ok(vec![dx, dw])
    }
}

/// Products of the last two axes; the axes before them are equal.
///
/// # Errors
/// Shapes that do not fit.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let batch = |x: &Tensor| x.dims()[..x.rank().saturating_sub(2)].to_vec();
    if fits(&[a, b]) && a.rank() >= 2 && a.rank() <= 5 && batch(a) == batch(b) {
        return a.apply_op2(b, Batch);
    }
    a.contiguous()?.matmul(&b.contiguous()?)
}

/// Reads any layout: transposed and broadcast operands are not copied.
struct Batch;

impl CustomOp2 for Batch {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let axes = l1.dims().len() - 2;
        let ((m, k), (k_b, n)) =
            ((l1.dims()[axes], l1.dims()[axes + 1]), (l2.dims()[axes], l2.dims()[axes + 1]));
        if k != k_b {
            candle_core::bail!("a product of {:?} and {:?}", l1.dims(), l2.dims());
        }
        let mut out_stride = m * n;
        let mut levels: Vec<Level> = Vec::with_capacity(axes);
        for i in (0..axes).rev() {
            let count = l1.dims()[i];
            levels.push(Level { count, a: l1.stride()[i], b: l2.stride()[i], out: out_stride });
            out_stride *= count;
        }
        levels.reverse();
        let mut dims = l1.dims()[..axes].to_vec();
        dims.extend([m, n]);
        let mut out = vec![0.0; out_stride];
        if !out.is_empty() {
            let (a, b) =
                (&s1.as_slice::<f32>()?[l1.start_offset()..], &s2.as_slice::<f32>()?[l2.start_offset()..]);
            let a = Mat::new(a, [m, k], [l1.stride()[axes], l1.stride()[axes + 1]]).map_err(told)?;
            let b = Mat::new(b, [k, n], [l2.stride()[axes], l2.stride()[axes + 1]]).map_err(told)?;
            let (isa, pool) = backend();
            gemm_batch(isa, pool, &levels, a, b, Out::set(&mut out, n)).map_err(told)?;
        }
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let da = grad.apply_op2_no_bwd(&b.t()?, &Batch)?;
        let db = a.t()?.apply_op2_no_bwd(grad, &Batch)?;
        Ok((Some(da), Some(db)))
    }
}
