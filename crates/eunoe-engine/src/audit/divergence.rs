//! How far a plan's distributions are from those of full memory: sampled rows, and an interval for all of them.

use crate::engine::{Engine, likeliest, log_sum_exp};
use serde::Serialize;

/// A mean over rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    /// The mean.
    mean: f64,
    /// Its 95 % interval; the mean twice where every row was looked at.
    ci: [f64; 2],
}

/// How far from full memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Rows for which this holds.
    pub rows: usize,
    /// Rows that were looked at.
    pub sampled: usize,
    /// KL(full ‖ plan) in nats per row, mean.
    pub kl_mean: f64,
    /// Its 95 % interval.
    pub kl_ci: [f64; 2],
    /// Share of rows whose likeliest token is that of full memory.
    pub top1_agreement: f64,
    /// Its 95 % interval.
    pub top1_ci: [f64; 2],
}

/// One row under both memories.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    /// KL(full ‖ plan), nats.
    pub(super) kl: f64,
    /// The likeliest token is the same.
    pub(super) agrees: bool,
    /// `ln P` under the plan of the token that follows; 0 where none does.
    pub(super) log_prob: f64,
}

/// A row of a prompt, and how many rows it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) row: usize,
    pub(super) stands_for: usize,
}

/// Rows of a prompt, one of each of `samples` parts as equal as can be.
pub(super) fn strata(rows: usize, samples: usize, seed: u64) -> Vec<Drawn> {
    let mut random = fastrand::Rng::with_seed(seed);
    let samples = samples.min(rows);
    let edge = |i: usize| i * rows / samples.max(1);
    let part = |i| Drawn { row: random.usize(edge(i)..edge(i + 1)), stands_for: edge(i + 1) - edge(i) };
    (0..samples).map(part).collect()
}

/// Compares rows of two normalised streams `[rows, d_model]`; `next` has the token after each.
pub(super) fn compare(engine: &Engine, full: &[f32], plan: &[f32], next: &[Option<u32>]) -> Vec<Pair> {
    const ROWS: usize = 16;
    let (d, vocab) = (engine.config().d_model, engine.config().vocab);
    let mut pairs = Vec::with_capacity(next.len());
    for ((full, plan), next) in full.chunks(ROWS * d).zip(plan.chunks(ROWS * d)).zip(next.chunks(ROWS)) {
        let (full, plan) = (engine.model.logits(full), engine.model.logits(plan));
        let rows = full.chunks_exact(vocab).zip(plan.chunks_exact(vocab));
        pairs.extend(rows.zip(next).map(|((full, plan), next)| pair(full, plan, *next)));
    }
    pairs
}

fn pair(full: &[f32], plan: &[f32], next: Option<u32>) -> Pair {
    let (p, q) = (log_sum_exp(full), log_sum_exp(plan));
    let kl: f64 = full
        .iter()
        .zip(plan)
        .map(|(f, g)| {
            let (f, g) = (f64::from(*f) - p, f64::from(*g) - q);
            f.exp() * (f - g)
        })
        .sum();
    let log_prob = next.map_or(0.0, |token| f64::from(plan[token as usize]) - q);
    Pair { kl: kl.max(0.0), agrees: likeliest(full) == likeliest(plan), log_prob }
}

impl Divergence {
    /// Of all rows in `pairs`.
    pub(super) fn of_all(pairs: &[Pair]) -> Self {
        Self::blend(&[], &[], pairs)
    }

    /// Of the rows that `sampled` stand for, and all of `rest`; `drawn` has one entry per sampled row.
    pub(super) fn blend(drawn: &[Drawn], sampled: &[Pair], rest: &[Pair]) -> Self {
        let rows: usize = drawn.iter().map(|d| d.stands_for).sum();
        // a row of a larger part counts more
        let scale = sampled.len() as f64 / rows.max(1) as f64;
        let weighed = || drawn.iter().zip(sampled).map(|(d, pair)| (scale * d.stands_for as f64, pair));
        let kls: Vec<f64> = weighed().map(|(weight, pair)| weight * pair.kl).collect();
        let agree = weighed().filter(|(_, pair)| pair.agrees).map(|(weight, _)| weight).sum::<f64>();
        let all = (rows + rest.len()).max(1) as f64;
        let (ours, others) = (rows as f64 / all, 1.0 / all);
        let of_rest: f64 = rest.iter().map(|pair| pair.kl).sum::<f64>() * others;
        let agrees_rest = rest.iter().filter(|pair| pair.agrees).count() as f64 * others;
        let (kl, top1) = (mean_of(&kls, rows), share_of(agree, sampled.len(), rows));
        let scale = |e: Estimate, rest: f64| (e.mean * ours + rest, e.ci.map(|x| x * ours + rest));
        let ((kl_mean, kl_ci), (top1_agreement, top1_ci)) = (scale(kl, of_rest), scale(top1, agrees_rest));
        let (rows, sampled) = (rows + rest.len(), sampled.len() + rest.len());
        Self { rows, sampled, kl_mean, kl_ci, top1_agreement, top1_ci }
    }
}

/// Standard normal, 97.5 %.
const Z: f64 = 1.959_963_985;

/// Mean of values of which most are small and few large. Each end lies as far from the mean in its logarithm as a normal mean
/// would; the upper one as if one more row had been seen, of twice the largest value: what is rare was mostly not drawn.
fn mean_of(values: &[f64], of: usize) -> Estimate {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    if mean <= 0.0 || values.len() >= of {
        return Estimate { mean, ci: [mean; 2] };
    }
    let largest = values.iter().copied().fold(0.0, f64::max);
    let one_more: Vec<f64> = values.iter().copied().chain([2.0 * largest]).collect();
    let [_, upper] = log_normal(&one_more, of);
    Estimate { mean, ci: [log_normal(values, of)[0], upper] }
}

/// The 95 % interval of a mean, symmetric in its logarithm.
fn log_normal(values: &[f64], of: usize) -> [f64; 2] {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let factor = (Z * (spread / n * left(values.len(), of)).sqrt() / mean).exp();
    [mean / factor, mean * factor]
}

/// Share of `n` rows, Wilson's interval.
fn share_of(count: f64, n: usize, of: usize) -> Estimate {
    if n == 0 {
        return Estimate { mean: 0.0, ci: [0.0; 2] };
    }
    let (p, m) = ((count / n as f64).min(1.0), n as f64);
    let z = Z * left(n, of).sqrt();
    let middle = (p + z * z / (2.0 * m)) / (1.0 + z * z / m);
    let half = z / (1.0 + z * z / m) * (p * (1.0 - p) / m + z * z / (4.0 * m * m)).sqrt();
    Estimate { mean: p, ci: [(middle - half).max(0.0), (middle + half).min(1.0)] }
}

/// What is left of a variance when `n` of `of` rows were looked at.
fn left(n: usize, of: usize) -> f64 {
    (1.0 - n as f64 / (of.max(1) as f64)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: f64 = 1e-6;

    fn of(kl: f64, agrees: bool) -> Pair {
        Pair { kl, agrees, log_prob: 0.0 }
    }

    #[test]
    fn divergence_of_two_tokens_by_hand() {
        // p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812
        let pair = pair(&[3f32.ln(), 0.0], &[7.0, 7.0], Some(1));
        assert!((pair.kl - 0.130_812_036).abs() < NEAR, "{}", pair.kl);
        assert!((pair.log_prob + std::f64::consts::LN_2).abs() < NEAR);
        assert!(pair.agrees, "of equals the first");
        assert!(!super::pair(&[0.0, 1.0], &[1.0, 0.0], None).agrees);
    }

    #[test]
    fn every_part_of_a_prompt_gives_one_row() {
        let drawn = strata(1000, 10, 3);
        assert!(drawn.iter().enumerate().all(|(i, d)| d.row / 100 == i && d.stands_for == 100), "{drawn:?}");
        assert_ne!(drawn, strata(1000, 10, 4));
        assert_eq!(strata(5, 10, 0).iter().map(|d| d.row).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        // 7 rows in parts of 2, 2 and 3
        assert_eq!(strata(7, 3, 0).iter().map(|d| d.stands_for).collect::<Vec<_>>(), [2, 2, 3]);
        assert!(strata(0, 10, 0).is_empty());
    }

    #[test]
    fn rows_that_were_all_looked_at_have_no_interval() {
        let all = Divergence::of_all(&[of(0.5, true), of(1.5, false)]);
        assert_eq!((all.rows, all.sampled, all.kl_mean, all.top1_agreement), (2, 2, 1.0, 0.5));
        assert_eq!((all.kl_ci, all.top1_ci), ([1.0; 2], [0.5; 2]));
    }

    #[test]
    fn sampled_and_other_rows_are_weighed_by_how_many_they_stand_for() {
        // 8 rows stand behind 4 of mean 0.5; 2 more have 1.0 and 2.0: (8 · 0.5 + 3) / 10 = 0.7; agreement (8 · 1/2 + 1) / 10
        let sampled = [of(0.25, true), of(0.75, true), of(0.25, false), of(0.75, false)];
        let two = |row| Drawn { row, stands_for: 2 };
        let drawn = [two(0), two(2), two(4), two(6)];
        let got = Divergence::blend(&drawn, &sampled, &[of(1.0, true), of(2.0, false)]);
        assert!((got.kl_mean - 0.7).abs() < NEAR && (got.top1_agreement - 0.5).abs() < NEAR, "{got:?}");
        assert_eq!((got.rows, got.sampled), (10, 6));
        // below: s² = 4 · 0.0625 / 3, error √(1/12 / 4 · (1 - 4/8)) = 0.102062, 0.5 / exp(1.96 · 0.102062 / 0.5) = 0.335137;
        // above, with a fifth of 1.5: mean 0.7, s² = 1.05 / 4, error √(0.2625 / 5 · (1 - 5/8)) = 0.140312, 0.7 · 1.481219
        let want = [0.335_137, 0.7 * 1.481_219].map(|x: f64| x * 0.8 + 0.3);
        assert!(got.kl_ci.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-4), "{got:?} {want:?}");
    }

    #[test]
    fn a_row_of_a_larger_part_counts_more() {
        // (1 · 0.5 + 3 · 1.5) / 4 = 1.25; the second alone agrees: 3 of 4
        let drawn = [Drawn { row: 0, stands_for: 1 }, Drawn { row: 1, stands_for: 3 }];
        let got = Divergence::blend(&drawn, &[of(0.5, false), of(1.5, true)], &[]);
        assert!((got.kl_mean - 1.25).abs() < NEAR && (got.top1_agreement - 0.75).abs() < NEAR, "{got:?}");
    }

    #[test]
    fn an_interval_holds_the_mean_and_narrows() {
        let wide = share_of(5.0, 10, 1000);
        let narrow = share_of(50.0, 100, 1000);
        assert!(wide.ci[0] < narrow.ci[0] && narrow.ci[1] < wide.ci[1]);
        // Wilson of 5 in 10 without correction: 0.2366 … 0.7634
        let plain = share_of(5.0, 10, usize::MAX);
        assert!((plain.ci[0] - 0.2366).abs() < 1e-3 && (plain.ci[1] - 0.7634).abs() < 1e-3, "{plain:?}");
        assert_eq!(mean_of(&[0.0; 4], 8).ci, [0.0; 2]);
    }
}
