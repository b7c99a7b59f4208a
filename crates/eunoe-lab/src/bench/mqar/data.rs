//! The examples: what is learned from, what rates are chosen by, what is tested. No two of these share a seed.

use candle_core::Device;
use eunoe_core::Result;

use super::Settings;
use crate::streams::{Batch, Mqar, MqarShape, rng};

/// Lengths are below this.
pub(super) const MOST_TOKENS: usize = 1 << 20;

/// What examples are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// Learning, in the run of this seed.
    Training(u64),
    /// Choosing the rate and stopping; the same for all trainings.
    Validation,
    /// Measuring; the same for all trainings.
    Test,
}

impl For {
    /// The seed of examples of a shape, another for each. Seeds of runs are below 2¹⁶, lengths and pairs below 2²⁰.
    fn seed(self, shape: MqarShape) -> u64 {
        let purpose = match self {
            Self::Validation => 0,
            Self::Test => 1,
            Self::Training(seed) => 2 + seed,
        };
        purpose << 40 ^ (shape.t as u64) << 20 ^ shape.pairs as u64
    }
}

/// The examples of a grid.
pub(super) struct Data<'s> {
    settings: &'s Settings,
    task: Mqar,
}

impl<'s> Data<'s> {
    pub(super) fn new(settings: &'s Settings) -> Result<Self> {
        Ok(Self { settings, task: Mqar::new(settings.vocab, &settings.shapes)? })
    }

    /// The batch of a step: of one shape. A pass goes over each shape's examples in an order of its own, and what fills no
    /// batch at its end is left out.
    pub(super) fn batch(&self, seed: u64, step: u64, device: &Device) -> crate::Result<Batch> {
        let (shapes, rows) = (&self.settings.shapes, self.settings.batch);
        let (epoch, at) = (step / self.settings.batches() as u64, step as usize % self.settings.batches());
        let mut order = rng(seed, epoch);
        let mut slots: Vec<usize> = (0..self.settings.batches()).collect();
        order.shuffle(&mut slots);
        let (shape, part) = (slots[at] % shapes.len(), slots[at] / shapes.len());
        let mut examples: Vec<u64> = (0..(self.settings.examples / shapes.len()) as u64).collect();
        rng(For::Training(seed).seed(shapes[shape]), u64::MAX - epoch).shuffle(&mut examples);
        self.read(For::Training(seed), shapes[shape], &examples[part * rows..][..rows], device)
    }

    /// The first `count` examples of a shape in batches.
    pub(super) fn all(
        &self,
        purpose: For,
        shape: MqarShape,
        count: usize,
        device: &Device,
    ) -> impl Iterator<Item = crate::Result<Batch>> {
        let rows = self.settings.batch;
        (0..count).step_by(rows).map(move |from| {
            let examples: Vec<u64> = (from..count.min(from + rows)).map(|n| n as u64).collect();
            self.read(purpose, shape, &examples, device)
        })
    }

    fn read(
        &self,
        purpose: For,
        shape: MqarShape,
        examples: &[u64],
        device: &Device,
    ) -> crate::Result<Batch> {
        let seed = purpose.seed(shape);
        let draw = |example: &u64| self.task.draw(shape, &mut rng(seed, *example));
        let (tokens, targets): (Vec<_>, Vec<_>) = examples.iter().map(draw).unzip();
        Batch::new(tokens.concat(), targets.concat(), examples.len(), device)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn settings() -> Settings {
        let shapes = vec![MqarShape { t: 16, pairs: 2 }, MqarShape { t: 24, pairs: 3 }];
        Settings { vocab: 64, shapes, examples: 42, batch: 5, valid: 8, test: 9, ..Settings::default() }
    }

    fn rows(batch: crate::Result<Batch>) -> Vec<Vec<u32>> {
        batch.unwrap().tokens.to_vec2().unwrap()
    }

    #[test]
    fn a_pass_sees_each_example_once_in_batches_of_one_shape() {
        // 21 examples of each shape: 4 batches of 5, one example left out
        let settings = settings();
        let data = Data::new(&settings).unwrap();
        assert_eq!(settings.batches(), 8);
        let pass = |seed, epoch: u64| -> Vec<Vec<Vec<u32>>> {
            (0..8).map(|at| rows(data.batch(seed, epoch * 8 + at, &Device::Cpu))).collect()
        };
        let (first, second) = (pass(3, 0), pass(3, 1));
        assert_eq!(first, pass(3, 0));
        assert_ne!(first, second);
        for shape in [16, 24] {
            let of = |pass: &[Vec<Vec<u32>>]| -> HashSet<Vec<u32>> {
                pass.iter().filter(|batch| batch[0].len() == shape).flatten().cloned().collect()
            };
            let (a, b) = (of(&first), of(&second));
            assert_eq!((a.len(), b.len()), (20, 20));
            assert!(a.union(&b).count() <= 21, "passes draw from the same examples");
        }
        assert_ne!(first, pass(4, 0));
    }

    #[test]
    fn training_validation_and_test_are_disjoint() {
        let settings = settings();
        let data = Data::new(&settings).unwrap();
        for shape in &settings.shapes {
            let of = |purpose, count| -> HashSet<Vec<u32>> {
                data.all(purpose, *shape, count, &Device::Cpu).flat_map(rows).collect()
            };
            let all = [
                of(For::Training(0), 200),
                of(For::Training(1), 200),
                of(For::Validation, 8),
                of(For::Test, 9),
            ];
            let together: HashSet<_> = all.iter().flatten().collect();
            assert_eq!(together.len(), 417);
        }
    }
}
