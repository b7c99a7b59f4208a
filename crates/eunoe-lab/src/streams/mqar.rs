//! Multi-query associative recall (Arora, 2023, arXiv 2312.04927): pairs of keys and values, then each key once more, and
//! its value is asked for.
//!
//! Sequence: k₁ v₁ … k_n v_n, then a region of fillers in which each key stands once, at an even offset 2 g; g is drawn
//! without replacement with p(g) ∝ a (g + 1)^(a − 1), so that most questions come soon. Keys are 1 … V/2 − 1, values V/2 …
//! V − 1, both distinct in a sequence; fillers are 0, which is no key, so that no key comes a third time.

use candle_core::Device;
use eunoe_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Batch, rng};
use crate::ops::IGNORE;

/// The exponent a of the distances.
const POWER: f64 = 0.01;

/// How long, and how many pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Tokens, an even number.
    pub t: usize,
    /// Pairs of a key and a value; one per 4 tokens at most.
    pub pairs: usize,
}

/// The task with a vocabulary.
#[derive(Clone, Copy, Debug)]
pub struct Mqar {
    vocab: usize,
}

impl Mqar {
    /// For a vocabulary of `vocab` tokens, and sequences of `shapes`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for shapes that do not hold their pairs.
    pub fn new(vocab: usize, shapes: &[Shape]) -> Result<Self> {
        for Shape { t, pairs } in shapes {
            if t % 2 == 1 || *pairs > t / 4 || *pairs == 0 {
                let why = format!(
                    "{pairs} pairs in {t} tokens; expected an even length of 4 tokens per pair at least"
                );
                return Err(Error::Invalid(why));
            }
            if *pairs >= vocab / 2 {
                let why =
                    format!("{pairs} pairs need {} keys and values; the vocabulary has {vocab}", 2 * pairs);
                return Err(Error::Invalid(why));
            }
        }
        Ok(Self { vocab })
    }

    /// One sequence: tokens and targets.
    pub fn draw(&self, Shape { t, pairs }: Shape, rng: &mut fastrand::Rng) -> (Vec<u32>, Vec<u32>) {
        let half = self.vocab / 2;
        let keys = distinct(rng, 1..half, pairs);
        let values = distinct(rng, half..self.vocab, pairs);
        let (mut tokens, mut targets) = (vec![0; t], vec![IGNORE; t]);
        for (i, (key, value)) in keys.iter().zip(&values).enumerate() {
            (tokens[2 * i], tokens[2 * i + 1]) = (*key, *value);
        }
        let mut weights: Vec<f64> =
            (0..(t - 2 * pairs) / 2).map(|g| ((g + 1) as f64).powf(POWER - 1.0)).collect();
        for (key, value) in keys.iter().zip(&values) {
            let gap = weighted(rng, &weights);
            weights[gap] = 0.0;
            let at = 2 * pairs + 2 * gap;
            (tokens[at], targets[at]) = (*key, *value);
        }
        (tokens, targets)
    }

    /// `rows` sequences of one shape, those of `step` in the run `seed`.
    ///
    /// # Errors
    /// Those of tensor work.
    pub fn batch(
        &self,
        seed: u64,
        step: u64,
        shape: Shape,
        rows: usize,
        device: &Device,
    ) -> crate::Result<Batch> {
        let mut rng = rng(seed, step);
        let (tokens, targets): (Vec<_>, Vec<_>) = (0..rows).map(|_| self.draw(shape, &mut rng)).unzip();
        Batch::new(tokens.concat(), targets.concat(), rows, device)
    }
}

/// `count` distinct numbers of a range, in random order.
fn distinct(rng: &mut fastrand::Rng, range: std::ops::Range<usize>, count: usize) -> Vec<u32> {
    let mut all: Vec<u32> = range.map(|n| n as u32).collect();
    for i in 0..count {
        let j = rng.usize(i..all.len());
        all.swap(i, j);
    }
    all.truncate(count);
    all
}

/// An index with probability in proportion to its weight.
fn weighted(rng: &mut fastrand::Rng, weights: &[f64]) -> usize {
    let mut left = rng.f64() * weights.iter().sum::<f64>();
    let passed = weights.iter().position(|w| {
        left -= w;
        left < 0.0
    });
    // rounding may leave a rest behind the last weight
    passed.unwrap_or_else(|| weights.iter().rposition(|w| *w > 0.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_asked_for_once_and_its_value_is_the_target() {
        let shape = Shape { t: 64, pairs: 16 };
        let task = Mqar::new(64, &[shape]).unwrap();
        let mut rng = rng(1, 1);
        for _ in 0..50 {
            let (tokens, targets) = task.draw(shape, &mut rng);
            let mut asked: Vec<u32> = Vec::new();
            for (i, target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORE) {
                assert!(i >= 32 && i % 2 == 0);
                let at = (0..16).position(|p| tokens[2 * p] == tokens[i]).unwrap();
                assert_eq!(tokens[2 * at + 1], *target);
                asked.push(tokens[i]);
            }
            asked.sort_unstable();
            asked.dedup();
            assert_eq!(asked.len(), 16);
            assert!(tokens[..32].iter().step_by(2).all(|key| (1..32).contains(key)));
            assert!(tokens[1..32].iter().step_by(2).all(|value| (32..64).contains(value)));
            // no key besides those, so none comes a third time
            assert_eq!(tokens[32..].iter().filter(|token| **token != 0).count(), 16);
        }
    }

    #[test]
    fn questions_come_soon() {
        // One pair in 16 tokens: 7 places, p(g) ∝ (g + 1)^−0.99. The first has 1 / Σ = 1 / 2.6106.
        let shape = Shape { t: 16, pairs: 1 };
        let task = Mqar::new(12, &[shape]).unwrap();
        let total: f64 = (1..=7).map(|g| f64::from(g).powf(-0.99)).sum();
        let mut rng = rng(2, 0);
        let first =
            (0..20_000).filter(|_| task.draw(shape, &mut rng).1[2] != IGNORE).count() as f64 / 20_000.0;
        // 4 standard errors
        assert!(
            (first - 1.0 / total).abs() < 4.0 * (0.24f64 / 20_000.0).sqrt(),
            "{first} for {}",
            1.0 / total
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (vocab, t, pairs, why) in [
            (64, 15, 2, "an even length"),
            (64, 16, 5, "5 pairs in 16 tokens"),
            (16, 64, 8, "8 pairs need 16 keys and values; the vocabulary has 16"),
            (64, 16, 0, "0 pairs"),
            (1, 16, 2, "2 pairs need 4 keys and values; the vocabulary has 1"),
            (64, 16, usize::MAX, "pairs in 16 tokens"),
        ] {
            let error = Mqar::new(vocab, &[Shape { t, pairs }]).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
