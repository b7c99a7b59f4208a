//! Parameters by name, and their first values, which depend on the seed and the name alone.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use crate::Result;
use crate::ops::Precision;

/// Numbers of one parameter, and of all: no model of this lab comes near, and more is a slip that would take the machine's
/// memory.
const MOST: [usize; 2] = [1 << 29, 1 << 31];

/// A parameter and how it is trained.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its values.
    pub var: Var,
    /// Whether weight decay pulls it to 0: matrices yes, gains, biases and decays no.
    pub decays: bool,
}

/// The parameters of a model by their dotted names, e.g. `layers.0.mixer.q.weight`.
#[derive(Clone, Debug)]
pub struct Params {
    list: BTreeMap<String, Param>,
    /// `None`: matrices begin as 0.
    seed: Option<u64>,
    /// The type that parameters are kept in.
    pub dtype: DType,
    /// Where they lie.
    pub device: Device,
    /// Of products with them.
    pub precision: Precision,
}

impl Params {
    /// No parameters yet.
    pub fn new(seed: u64, dtype: DType, device: &Device) -> Self {
        Self {
            list: BTreeMap::new(),
            seed: Some(seed),
            dtype,
            device: device.clone(),
            precision: Precision::F32,
        }
    }

    /// The same for a model whose matrices come from elsewhere: they begin as 0, which takes no time.
    pub fn zeros(dtype: DType, device: &Device) -> Self {
        Self { seed: None, ..Self::new(0, dtype, device) }
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.list.get(name)
    }

    /// Where a model's parameters are made.
    pub fn init(&mut self) -> Init<'_> {
        Init { params: self, path: String::new() }
    }

    /// All of them in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.list.iter().map(|(name, param)| (name.as_str(), param))
    }

    /// How many numbers they are.
    pub fn count(&self) -> usize {
        self.list.values().map(|param| param.var.elem_count()).sum()
    }
}

/// Makes parameters under a path.
pub struct Init<'p> {
    params: &'p mut Params,
    path: String,
}

impl Init<'_> {
    /// The same under `name`.
    pub fn at(&mut self, name: impl std::fmt::Display) -> Init<'_> {
        let path = self.name(name);
        Init { params: self.params, path }
    }

    /// The type that parameters are kept in.
    pub fn dtype(&self) -> DType {
        self.params.dtype
    }

    /// Of products with parameters.
    pub fn precision(&self) -> Precision {
        self.params.precision
    }

    /// Where parameters lie.
    pub fn device(&self) -> Device {
        self.params.device.clone()
    }

    /// Independent draws from N(0, std²); decays.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn normal(&mut self, name: &str, shape: &[usize], std: f64) -> Result<Tensor> {
        self.check_room(name, shape)?;
        let Some(seed) = self.params.seed else {
            return self.add(name, &Tensor::zeros(shape, self.params.dtype, &Device::Cpu)?, true);
        };
        let mut rng = fastrand::Rng::with_seed(seed ^ hash(self.name(name).as_bytes()));
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| normal(&mut rng) * std).collect();
        self.add(name, &Tensor::from_vec(values, shape, &Device::Cpu)?, true)
    }

    /// One value everywhere; does not decay.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn constant(&mut self, name: &str, shape: &[usize], value: f64) -> Result<Tensor> {
        self.check_room(name, shape)?;
        self.add(name, &Tensor::full(value, shape, &Device::Cpu)?, false)
    }

    /// Refuses a parameter before it is made.
    fn check_room(&self, name: &str, shape: &[usize]) -> Result<()> {
        let count = shape.iter().try_fold(1usize, |all, size| all.checked_mul(*size)).unwrap_or(usize::MAX);
        if count > MOST[0] || count > MOST[1] - self.params.count().min(MOST[1]) {
            let name = self.name(name);
            candle_core::bail!(
                "`{name}` would have {shape:?} numbers; at most {} a parameter and {} in all: make the model smaller",
                MOST[0],
                MOST[1]
            );
        }
        Ok(())
    }

    fn name(&self, name: impl std::fmt::Display) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    fn add(&mut self, name: &str, values: &Tensor, decays: bool) -> Result<Tensor> {
        let name = self.name(name);
        let var = Var::from_tensor(&values.to_dtype(self.params.dtype)?.to_device(&self.params.device)?)?;
        let tensor = var.as_tensor().clone();
        if self.params.list.insert(name.clone(), Param { var, decays }).is_some() {
            candle_core::bail!("two parameters are called `{name}`");
        }
        Ok(tensor)
    }
}

/// FNV-1a, 64 bits: the same on every machine.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// Box and Muller's first.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, names: &[&str]) -> Vec<Vec<f64>> {
        let mut params = Params::new(seed, DType::F64, &Device::Cpu);
        let make = |name: &&str| params.init().at("a").normal(name, &[1000], 0.5).unwrap();
        names.iter().map(make).map(|t| t.to_vec1().unwrap()).collect()
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let both = values(1, &["x", "y"]);
        assert_eq!(both[1], values(1, &["y"])[0]);
        assert_ne!(both[0], both[1]);
        assert_ne!(both[0], values(2, &["x"])[0]);
        let mean = both[0].iter().sum::<f64>() / 1000.0;
        let sd = (both[0].iter().map(|v| v * v).sum::<f64>() / 1000.0).sqrt();
        // 3 standard errors: 0.5 * 3 / sqrt(1000), and half of that over sqrt(2) for the deviation
        assert!(mean.abs() < 0.048 && (sd - 0.5).abs() < 0.034, "{mean} {sd}");
    }

    #[test]
    fn what_would_take_the_machine_is_refused() {
        let mut params = Params::zeros(DType::F32, &Device::Cpu);
        for shape in [&[1 << 15, 1 << 15][..], &[usize::MAX, 2]] {
            let error = params.init().at("a").normal("x", shape, 1.0).unwrap_err().to_string();
            assert!(
                error.contains("`a.x` would have") && error.contains("make the model smaller"),
                "{error}"
            );
            assert!(params.init().constant("y", shape, 1.0).is_err());
        }
        assert_eq!(params.count(), 0);
    }

    #[test]
    fn a_name_stands_for_one_parameter() {
        let mut params = Params::new(0, DType::F32, &Device::Cpu);
        params.init().constant("x", &[2], 1.0).unwrap();
        let error = params.init().constant("x", &[2], 1.0).unwrap_err().to_string();
        assert!(error.contains("two parameters are called `x`"), "{error}");
        assert_eq!((params.count(), params.iter().count()), (2, 1));
    }
}
