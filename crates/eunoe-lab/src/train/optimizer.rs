//! AdamW (Loshchilov, 2017, arXiv 1711.05101, algorithm 2), gradients clipped by their length over all parameters.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Tensor, Var};
use eunoe_kernels::grad::adamw as kernel;

use super::TrainConfig;
use crate::nets::Params;
use crate::{Result, ops};

/// Moments of every parameter.
pub struct AdamW {
    config: TrainConfig,
    /// Steps taken.
    pub step: u64,
    moments: BTreeMap<String, Moments>,
}

/// First and second moments of one parameter.
enum Moments {
    /// Where a kernel takes the step: an operation on tensors can change one of them only.
    Host([Vec<f32>; 2]),
    /// Anywhere else.
    Tensors([Var; 2]),
}

impl Moments {
    fn new(var: &Var) -> Result<Self> {
        if ops::fits(&[var.as_tensor()]) {
            return Ok(Self::Host([vec![0.0; var.elem_count()], vec![0.0; var.elem_count()]]));
        }
        let zeros = || Var::zeros(var.shape(), var.dtype(), var.device());
        Ok(Self::Tensors([zeros()?, zeros()?]))
    }

    fn step(&mut self, var: &Var, grad: &Tensor, now: &kernel::AdamW) -> Result<()> {
        match self {
            Self::Host([m, v]) => {
                let op = InPlace { now, moments: RefCell::new([m, v]) };
                var.as_tensor().inplace_op2(&grad.contiguous()?, &op)
            }
            Self::Tensors([m, v]) => {
                let grad = (grad * now.scale)?;
                let [b1, b2] = now.betas;
                m.set(&((m.as_tensor() * b1)? + (&grad * (1.0 - b1))?)?)?;
                v.set(&((v.as_tensor() * b2)? + (grad.sqr()? * (1.0 - b2))?)?)?;
                let correct = |beta: f64| 1.0 - beta.powf(f64::from(now.step));
                let root = ((v.as_tensor() / correct(b2))?.sqrt()? + now.eps)?;
                let step = ((m.as_tensor() / correct(b1))? / root)?;
                let kept = (var.as_tensor() * (1.0 - now.lr * now.decay))?;
                var.set(&(kept - (step * now.lr)?)?)
            }
        }
    }
}

/// A step of the kernel on a parameter.
struct InPlace<'a> {
    now: &'a kernel::AdamW,
    moments: RefCell<[&'a mut Vec<f32>; 2]>,
}

impl InplaceOp2 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, _: &Layout, g: &CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(p), Some((from, to))) = (p, layout.contiguous_offsets()) else {
            candle_core::bail!("a parameter is not in f32");
        };
        let ([m, v], (isa, pool)) = (&mut *self.moments.borrow_mut(), ops::backend());
        let state = kernel::State { p, m, v };
        let done = self.now.step(isa, pool, &g.as_slice::<f32>()?[from..to], state);
        done.map_err(|error| candle_core::Error::Msg(error.to_string()))
    }
}

/// What became of a gradient.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    /// Its length before clipping.
    pub norm: f64,
    /// What it was multiplied with.
    pub scale: f64,
}

impl AdamW {
    /// For all of `params`, which have taken no step yet.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn new(params: &Params, config: &TrainConfig) -> Result<Self> {
        let moments = params.iter().map(|(name, p)| Ok((name.to_owned(), Moments::new(&p.var)?)));
        Ok(Self { config: config.clone(), step: 0, moments: moments.collect::<Result<_>>()? })
    }

    /// First and second moments of the parameter `name`, shaped like `like`.
    ///
    /// # Errors
    /// A parameter that is not there.
    pub fn moments(&self, name: &str, like: &Tensor) -> Result<[Tensor; 2]> {
        match self.moments.get(name) {
            Some(Moments::Host([m, v])) => {
                let tensor = |values: &Vec<f32>| Tensor::from_slice(values, like.shape(), like.device());
                Ok([tensor(m)?, tensor(v)?])
            }
            Some(Moments::Tensors([m, v])) => Ok([m.as_tensor().clone(), v.as_tensor().clone()]),
            None => candle_core::bail!("`{name}` has no moments"),
        }
    }

    /// Sets what [`AdamW::moments`] gave.
    ///
    /// # Errors
    /// A parameter that is not there, or has another shape.
    pub fn set_moments(&mut self, name: &str, values: &[Tensor; 2]) -> Result<()> {
        match self.moments.get_mut(name) {
            Some(Moments::Host(own)) => {
                for (own, value) in own.iter_mut().zip(values) {
                    own.copy_from_slice(&value.flatten_all()?.to_vec1::<f32>()?);
                }
                Ok(())
            }
            Some(Moments::Tensors(own)) => own.iter().zip(values).try_for_each(|(own, value)| own.set(value)),
            None => candle_core::bail!("`{name}` has no moments"),
        }
    }

    /// One step along `grads`, which are sums over `passes`. A gradient whose length is no number changes nothing.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn step(&mut self, params: &Params, grads: &Grads, passes: usize) -> Result<Clip> {
        let norm = grads.norm()? / passes as f64;
        if !norm.is_finite() {
            return Ok(Clip { norm, scale: 0.0 });
        }
        let clip = if self.config.clip > 0.0 { (self.config.clip / norm).min(1.0) } else { 1.0 };
        let lr = self.config.lr_at(self.step);
        self.step += 1;
        let Ok(step) = u32::try_from(self.step) else {
            candle_core::bail!("{} steps are too many", self.step)
        };
        for (name, param) in params.iter() {
            let (Some(grad), Some(moments)) = (grads.0.get(name), self.moments.get_mut(name)) else {
                continue;
            };
            let decay = if param.decays { self.config.weight_decay } else { 0.0 };
            let (betas, eps) = (self.config.betas, self.config.eps);
            let now = kernel::AdamW { lr, betas, eps, decay, step, scale: clip / passes as f64 };
            moments.step(&param.var, grad, &now)?;
        }
        Ok(Clip { norm, scale: clip })
    }
}

/// Gradients by the names of their parameters, added up over passes.
#[derive(Default)]
pub struct Grads(BTreeMap<String, Tensor>);

impl Grads {
    /// Adds those of one pass.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn add(&mut self, params: &Params, mut store: GradStore) -> Result<()> {
        for (name, param) in params.iter() {
            let Some(grad) = store.remove(param.var.as_tensor()) else { continue };
            let sum = match self.0.remove(name) {
                Some(sum) => (sum + grad)?,
                None => grad,
            };
            self.0.insert(name.to_owned(), sum);
        }
        Ok(())
    }

    fn norm(&self) -> Result<f64> {
        let all: Vec<&Tensor> = self.0.values().collect();
        if !ops::fits(&all) {
            // one number comes back from the device, not one per parameter
            let squares = all.iter().map(|grad| grad.sqr()?.sum_all()?.to_dtype(DType::F64));
            return Tensor::stack(&squares.collect::<Result<Vec<_>>>()?, 0)?.sum_all()?.sqrt()?.to_scalar();
        }
        Ok(all.into_iter().map(ops::sum_squares).sum::<Result<f64>>()?.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// One parameter (1, 2) with the gradient `grad` each step, in f64 by tensors or in f32 by the kernel.
    fn after(config: &TrainConfig, grads: &[[f64; 2]], decays: bool) -> Vec<f64> {
        let [plain, kernel] = [DType::F64, DType::F32].map(|dtype| after_in(dtype, config, grads, decays));
        assert!(plain.iter().zip(kernel).all(|(a, b)| (a - b).abs() < 1e-6));
        plain
    }

    fn after_in(dtype: DType, config: &TrainConfig, grads: &[[f64; 2]], decays: bool) -> Vec<f64> {
        let mut params = Params::new(0, dtype, &Device::Cpu);
        let mut init = params.init();
        if decays { init.normal("w", &[2], 1.0) } else { init.constant("w", &[2], 0.0) }.unwrap();
        let (_, param) = params.iter().next().unwrap();
        let of = |values: &[f64; 2]| Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        param.var.set(&of(&[1.0, 2.0])).unwrap();
        let mut adam = AdamW::new(&params, config).unwrap();
        for grad in grads {
            adam.step(&params, &Grads(BTreeMap::from([("w".to_owned(), of(grad))])), 1).unwrap();
        }
        let (_, param) = params.iter().next().unwrap();
        param.var.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
    }

    fn config() -> TrainConfig {
        TrainConfig {
            steps: 1000,
            lr: 0.1,
            warmup: 0.0,
            decay_to: 1.0,
            eps: 0.0,
            clip: 0.0,
            ..TrainConfig::default()
        }
    }

    #[test]
    fn two_steps_by_hand() {
        // Step 1: m = 0.1 g, v = 0.05 g², both corrected to g and g², so the step is lr · sign(g): (0.9, 2.1).
        let got = after(&TrainConfig { weight_decay: 0.0, ..config() }, &[[3.0, -4.0]], true);
        assert!((got[0] - 0.9).abs() < 1e-12 && (got[1] - 2.1).abs() < 1e-12, "{got:?}");
        // Step 2 with g = (0, −4): m₁ = 0.27 / 0.19, v₁ = 0.4275 / 0.0975: the first moves by 0.1 · 1.421 / 2.0939.
        let got = after(&TrainConfig { weight_decay: 0.0, ..config() }, &[[3.0, -4.0], [0.0, -4.0]], true);
        let first = 0.9 - 0.1 * (0.27 / 0.19) / f64::sqrt(0.4275 / 0.0975);
        assert!((got[0] - first).abs() < 1e-12 && (got[1] - 2.2).abs() < 1e-12, "{got:?}");
    }

    #[test]
    fn decay_pulls_matrices_alone() {
        // 1 − lr · decay = 0.95, then the step of 0.1
        let config = TrainConfig { weight_decay: 0.5, ..config() };
        let (matrix, gain) = (after(&config, &[[1.0, 1.0]], true), after(&config, &[[1.0, 1.0]], false));
        assert!((matrix[0] - 0.85).abs() < 1e-12 && (matrix[1] - 1.8).abs() < 1e-12, "{matrix:?}");
        assert!((gain[0] - 0.9).abs() < 1e-12 && (gain[1] - 1.9).abs() < 1e-12, "{gain:?}");
    }

    #[test]
    fn a_long_gradient_is_cut_to_length() {
        let mut params = Params::new(0, DType::F64, &Device::Cpu);
        params.init().normal("w", &[2], 1.0).unwrap();
        let mut adam = AdamW::new(&params, &TrainConfig { clip: 1.0, ..config() }).unwrap();
        let of = |grad: &[f64; 2]| {
            Grads(BTreeMap::from([("w".to_owned(), Tensor::new(grad, &Device::Cpu).unwrap())]))
        };
        // a sum over two passes: its mean is (3, 4), of length 5
        let clip = adam.step(&params, &of(&[6.0, 8.0]), 2).unwrap();
        assert!((clip.norm - 5.0).abs() < 1e-12 && (clip.scale - 0.2).abs() < 1e-12);
        let (_, param) = params.iter().next().unwrap();
        let m: Vec<f64> = adam.moments("w", &param.var).unwrap()[0].to_vec1().unwrap();
        assert!((m[0] - 0.06).abs() < 1e-12 && (m[1] - 0.08).abs() < 1e-12, "{m:?}");
        let before: Vec<f64> = params.iter().next().unwrap().1.var.to_vec1().unwrap();
        let clip = adam.step(&params, &of(&[f64::NAN, 0.0]), 1).unwrap();
        let after: Vec<f64> = params.iter().next().unwrap().1.var.to_vec1().unwrap();
        assert!(clip.norm.is_nan() && clip.scale == 0.0);
        assert_eq!((adam.step, after), (1, before));
    }
}
