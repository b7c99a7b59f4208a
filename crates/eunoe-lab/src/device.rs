//! Where tensors are computed: the CPU, or CUDA cards where the program was built for them.

use candle_core::Device;
use eunoe_core::{Error, Result};

/// What cards are called where processors have the name of their instructions.
pub const CUDA: &str = "cuda";

/// The devices of one command, named as on its command line: `cpu`, `cuda`, `cuda:1`.
#[derive(Clone, Debug)]
pub struct Devices {
    cards: Vec<Option<usize>>,
}

impl Devices {
    /// Reads names with `,` between them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is none, and for cards where the program was built without CUDA.
    pub fn parse(names: &str) -> Result<Self> {
        let card = |name: &str| match name.trim() {
            "cpu" => Ok(None),
            "cuda" => Ok(Some(0)),
            other => other
                .strip_prefix("cuda:")
                .and_then(|number| number.parse::<u8>().ok())
                .map(|number| Some(number.into()))
                .ok_or_else(|| {
                    Error::Invalid(format!("no device is called `{other}`; expected cpu, cuda, or cuda:1"))
                }),
        };
        let cards = names.split(',').map(card).collect::<Result<Vec<_>>>()?;
        if cards.iter().any(Option::is_some) && !candle_core::utils::cuda_is_available() {
            let why = "this eunoe-lab was built without CUDA: build it with `--features cuda` (docs/gpu.md)";
            return Err(Error::Invalid(why.into()));
        }
        if cards.iter().any(Option::is_none) && cards.iter().any(Option::is_some) {
            return Err(Error::Invalid("cpu and cuda give other digits: name either, not both".into()));
        }
        Ok(Self { cards })
    }

    /// The instructions that results are computed with.
    pub fn isa(&self) -> String {
        match self.cards.iter().any(Option::is_some) {
            true => CUDA.into(),
            false => format!("{:?}", eunoe_kernels::Isa::detect()).to_lowercase(),
        }
    }

    /// How many are named.
    pub fn count(&self) -> usize {
        self.cards.len()
    }

    /// The device of a worker: they take turns, each on a stream of its own.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the card is not there.
    pub fn of(&self, worker: usize) -> Result<Device> {
        match self.cards[worker % self.cards.len()] {
            None => Ok(Device::Cpu),
            // a stream per thread, and no events between streams
            Some(card) => Device::new_cuda(card).map_err(|error| {
                Error::Invalid(format!(
                    "card {card} cannot be used: {error}; `nvidia-smi` lists those there are"
                ))
            }),
        }
    }

    /// The first of them alone.
    pub fn first(&self) -> Self {
        Self { cards: self.cards[..1].to_vec() }
    }

    /// The only one.
    ///
    /// # Errors
    /// [`Error::Invalid`] where several are named.
    pub fn one(&self) -> Result<Device> {
        match self.cards.len() {
            1 => self.of(0),
            _ => Err(Error::Invalid("several devices are named; this command uses one".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_what_is_not_there_is_told() {
        assert!(Devices::parse("cpu").unwrap().one().unwrap().is_cpu());
        let two = Devices::parse("cpu, cpu").unwrap();
        assert_eq!(two.count(), 2);
        assert!(two.of(7).unwrap().is_cpu());
        assert!(two.one().unwrap_err().to_string().contains("several devices"));
        for name in ["gpu", "cuda:", "cuda:x", "cuda:256", ""] {
            let error = Devices::parse(name).unwrap_err().to_string();
            assert!(error.contains(&format!("no device is called `{name}`")), "{error}");
        }
        if !candle_core::utils::cuda_is_available() {
            let error = Devices::parse("cpu,cuda:1").unwrap_err().to_string();
            assert!(error.contains("built without CUDA"), "{error}");
        }
    }
}
