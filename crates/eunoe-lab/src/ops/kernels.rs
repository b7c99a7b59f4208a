//! How kernels join the tape: an operation on slices of f32 becomes one of tensors.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Shape, Storage, Tensor,
};
use eunoe_kernels::{Isa, Pool};

use crate::Result;

/// An operation on row-major f32 tensors.
pub(super) trait Op: Send + Sync + 'static {
    const NAME: &'static str;

    /// The result and its shape.
    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)>;

    /// Gradients of the inputs, in their order and shaped like them.
    fn backward(&self, inputs: &[&[f32]], result: &[f32], grad: &[f32]) -> Result<Vec<Vec<f32>>>;
}

static THREADS: OnceLock<usize> = OnceLock::new();
static PLAIN: AtomicBool = AtomicBool::new(false);

/// Sets how many threads kernels use, before the first of them runs; by default all of the machine.
pub fn set_threads(threads: usize) {
    THREADS.get_or_init(|| threads);
}

/// How many threads kernels use.
pub fn threads() -> usize {
    backend().1.threads()
}

/// Whether plain forms are used where a kernel is there: for comparison.
pub fn set_plain(plain: bool) {
    PLAIN.store(plain, Ordering::Relaxed);
}

/// The pool of all kernels, and the instructions of this machine.
pub(crate) fn backend() -> (Isa, &'static Pool) {
    static BACKEND: OnceLock<(Isa, Pool)> = OnceLock::new();
    let (isa, pool) =
        BACKEND.get_or_init(|| (Isa::detect(), Pool::new(*THREADS.get_or_init(Pool::available))));
    (*isa, pool)
}

/// Whether a kernel may take these.
pub(crate) fn fits(tensors: &[&Tensor]) -> bool {
    let fits = |t: &&Tensor| t.dtype() == DType::F32 && t.device().is_cpu();
    tensors.iter().all(fits) && !PLAIN.load(Ordering::Relaxed)
}

/// Σ x², for what [`fits`].
pub(crate) fn sum_squares(x: &Tensor) -> Result<f64> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("a tensor of another device") };
    let (isa, pool) = backend();
    Ok(eunoe_kernels::grad::adamw::sum_squares(isa, pool, part(storage, layout)?))
}

pub(super) fn apply1<O: Op>(op: O, x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Custom(op))
}

pub(super) fn apply2<O: Op>(op: O, x: [&Tensor; 2]) -> Result<Tensor> {
    let [a, b] = x.map(Tensor::contiguous);
    a?.apply_op2(&b?, Custom(op))
}

pub(super) fn apply3<O: Op>(op: O, x: [&Tensor; 3]) -> Result<Tensor> {
    let [a, b, c] = x.map(Tensor::contiguous);
    a?.apply_op3(&b?, &c?, Custom(op))
}

/// Errors of kernels as those of tensors.
pub(super) fn told(error: eunoe_core::Error) -> candle_core::Error {
    candle_core::Error::Msg(error.to_string())
}

struct Custom<O>(O);

fn part<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => candle_core::bail!("a kernel got rows with gaps"),
    }
}

impl<O: Op> Custom<O> {
    fn run(&self, inputs: &[&[f32]]) -> Result<(CpuStorage, Shape)> {
        let (values, shape) = self.0.forward(inputs)?;
        Ok((CpuStorage::F32(values), shape))
    }

    fn back<const N: usize>(
        &self,
        args: [&Tensor; N],
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; N]> {
        let grad = grad.contiguous()?;
        let all: Vec<&Tensor> = args.into_iter().chain([result, &grad]).collect();
        let stored: Vec<_> = all.iter().map(|t| t.storage_and_layout()).collect();
        let mut slices = Vec::with_capacity(all.len());
        for (storage, layout) in &stored {
            match &**storage {
                Storage::Cpu(storage) => slices.push(part(storage, layout)?),
                _ => candle_core::bail!("a kernel got a tensor of another device"),
            }
        }
        let (inputs, rest) = slices.split_at(N);
        let mut grads = self.0.backward(inputs, rest[0], rest[1])?.into_iter();
        let tensor = |arg: &Tensor| {
            grads.next().map(|values| Tensor::from_vec(values, arg.shape(), &Device::Cpu)).transpose()
        };
        let tensors: Vec<Option<Tensor>> = args.into_iter().map(tensor).collect::<Result<_>>()?;
        tensors.try_into().map_err(|_| candle_core::Error::Msg("a gradient is missing".into()))
    }
}

impl<O: Op> CustomOp1 for Custom<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(&[part(s, l)?])
    }

    fn bwd(&self, a: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let [a] = self.back([a], result, grad)?;
        Ok(a)
    }
}

impl<O: Op> CustomOp2 for Custom<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(&[part(s1, l1)?, part(s2, l2)?])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.back([a, b], result, grad)?;
        Ok((a, b))
    }
}

type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl<O: Op> CustomOp3 for Custom<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(&[part(s1, l1)?, part(s2, l2)?, part(s3, l3)?])
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, c: &Tensor, result: &Tensor, grad: &Tensor) -> Result<Three> {
        let [a, b, c] = self.back([a, b, c], result, grad)?;
        Ok((a, b, c))
    }
}
