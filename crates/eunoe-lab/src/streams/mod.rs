//! What models are trained on: streams of batches, each drawn from a seed and its number alone, so that a run resumes
//! where it was without remembering what it drew.

mod chorales;
mod mqar;
mod text;

pub use chorales::Chorales;
pub use mqar::{Mqar, Shape as MqarShape};
pub use text::{Text, Windows, apart};

use candle_core::{Device, Tensor};

use crate::Result;
use crate::ops::IGNORE;

/// Tokens and what should follow each.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[b, t]`.
    pub tokens: Tensor,
    /// `[b, t]`; [`IGNORE`] where nothing is asked.
    pub targets: Tensor,
    /// `[r]`: where something is asked, counted over the flat batch; none where that is everywhere, or nowhere.
    pub asked: Option<Tensor>,
}

impl Batch {
    /// From rows of equal length.
    ///
    /// # Errors
    /// Rows that differ in length.
    pub fn new(tokens: Vec<u32>, targets: Vec<u32>, rows: usize, device: &Device) -> Result<Self> {
        let t = tokens.len() / rows.max(1);
        let asked = (0u32..).zip(&targets).filter(|(_, target)| **target != IGNORE).map(|(at, _)| at);
        let asked: Vec<u32> = asked.collect();
        let in_part = !asked.is_empty() && asked.len() < targets.len();
        let asked = in_part.then(|| Tensor::new(asked, device)).transpose()?;
        let tensor = |values| Tensor::from_vec(values, (rows, t), &Device::Cpu)?.to_device(device);
        Ok(Self { tokens: tensor(tokens)?, targets: tensor(targets)?, asked })
    }
}

/// A generator for the batch `step` of the run `seed`.
pub(crate) fn rng(seed: u64, step: u64) -> fastrand::Rng {
    // two rounds of splitmix64, so that neighbouring seeds and steps have nothing in common
    let mix = |x: u64| {
        let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    fastrand::Rng::with_seed(mix(
        mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    ))
}
