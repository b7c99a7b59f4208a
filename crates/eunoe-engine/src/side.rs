//! The side slot of a strip: one averaged key and value that stand for all slots that were folded into it.

use eunoe_kernels::strip::Strip;
use serde::{Deserialize, Serialize};

/// Means in f32, and how many tokens they stand for.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Side {
    k: Vec<f32>,
    v: Vec<f32>,
    count: u32,
    /// Whether it weighs as many tokens as it stands for, or one.
    weighted: bool,
}

impl Side {
    pub(crate) fn new(head_dim: usize, weighted: bool) -> Self {
        Self { k: vec![0.0; head_dim], v: vec![0.0; head_dim], count: 0, weighted }
    }

    /// Whether another is one of the same sizes and rule.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (self.k.len(), self.v.len(), self.weighted) == (other.k.len(), other.v.len(), other.weighted)
    }

    /// Bytes of keys, values and count.
    pub(crate) fn bytes(&self) -> u64 {
        Self::bytes_of(self.k.len())
    }

    pub(crate) fn bytes_of(head_dim: usize) -> u64 {
        (2 * head_dim as u64 + 1) * 4
    }

    /// Folds slots into the means, one after the other: m ← m + (x - m) / count.
    pub(crate) fn fold(&mut self, strip: &Strip, slots: &[u32]) {
        let mut x = vec![0.0; self.k.len()];
        for slot in slots {
            self.count += 1;
            let part = 1.0 / self.count as f32;
            for (mean, is_key) in [(&mut self.k, true), (&mut self.v, false)] {
                match is_key {
                    true => strip.read_k(*slot as usize, &mut x),
                    false => strip.read_v(*slot as usize, &mut x),
                }
                mean.iter_mut().zip(&x).for_each(|(mean, x)| *mean += (x - *mean) * part);
            }
        }
    }

    /// Adds the side slot to one head's attention `out` over the strip, whose log-sum-exp is `lse`, as one key more in
    /// the same softmax; gives the new log-sum-exp.
    pub(crate) fn attend(&self, q: &[f32], scale: f32, out: &mut [f32], lse: f32) -> f32 {
        if self.count == 0 {
            return lse;
        }
        let dot = q.iter().zip(&self.k).fold(0.0, |sum, (q, k)| q.mul_add(*k, sum));
        let weight = if self.weighted { (self.count as f32).ln() } else { 0.0 };
        merge(out, lse, &self.v, dot.mul_add(scale, weight))
    }
}

/// Two parts of one softmax: `out` with log-sum-exp `lse` takes in `more` with `score`, and the new log-sum-exp comes
/// back. One of the two is finite.
pub(crate) fn merge(out: &mut [f32], lse: f32, more: &[f32], score: f32) -> f32 {
    let peak = lse.max(score);
    let (old, own) = ((lse - peak).exp(), (score - peak).exp());
    let sum = old + own;
    for (out, more) in out.iter_mut().zip(more) {
        *out = (*out * old + more * own) / sum;
    }
    peak + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use eunoe_core::Codec;
    use eunoe_kernels::strip::SlotLayout;

    fn value(i: usize, j: usize) -> f32 {
        ((i * 37 + j * 11) % 23) as f32 / 11.5 - 1.0
    }

    fn strip(slots: usize) -> Strip {
        let mut strip =
            Strip::new(SlotLayout { codec: Codec::F32.into(), head_dim: 32, column: false }, slots).unwrap();
        for i in 0..slots {
            let (k, v): (Vec<_>, Vec<_>) = (0..32).map(|j| (value(i, j), value(j, i))).unzip();
            strip.push(&k, &v, i as u32);
        }
        strip
    }

    #[test]
    fn one_by_one_or_all_at_once_the_mean_is_the_mean() {
        let strip = strip(50);
        let (mut once, mut steps) = (Side::new(32, true), Side::new(32, true));
        once.fold(&strip, &(3..40).collect::<Vec<_>>());
        (3..40).for_each(|i| steps.fold(&strip, &[i]));
        assert_eq!((once.count, &once.k), (37, &steps.k));
        for j in 0..32 {
            let mean = (3..40).map(|i| f64::from(value(i, j))).sum::<f64>() / 37.0;
            assert!((f64::from(once.k[j]) - mean).abs() < 1e-6);
        }
    }

    #[test]
    fn it_is_one_more_key_that_weighs_what_it_stands_for() {
        // softmax over ln 2 and 0 + ln 3: weights 2 / 5 and 3 / 5. Unweighted: 2 / 3 and 1 / 3.
        for (weighted, share) in [(true, 0.6), (false, 1.0 / 3.0)] {
            let side = Side { k: vec![0.0; 32], v: vec![10.0; 32], count: 3, weighted };
            let mut out = [1.0; 32];
            let lse = side.attend(&[1.0; 32], 0.5, &mut out, 2f32.ln());
            assert!((out[0] - (1.0 + 9.0 * share)).abs() < 1e-5, "{}", out[0]);
            assert!((lse - (2.0 + if weighted { 3f32 } else { 1.0 }).ln()).abs() < 1e-6);
        }
        let empty = Side::new(32, true);
        let mut out = [1.0; 32];
        assert_eq!((empty.attend(&[1.0; 32], 0.5, &mut out, 0.25), out[0]), (0.25, 1.0));
    }
}
