//! 95 % intervals: Wilson's for right and wrong, bootstrap percentiles for everything else.

use super::{Interval, RESAMPLES, SEED, Z95, is_binary};

/// Wilson's interval for `hits` of `n`; `[0, 1]` for nothing.
pub fn wilson(hits: usize, n: usize) -> Interval {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (p, n, z2) = (hits.min(n) as f64 / n as f64, n as f64, Z95 * Z95);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z95 / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    // At 0 and n the ends are exactly 0 and 1; rounding would leave 1e-17.
    let low = if p == 0.0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if p == 1.0 { 1.0 } else { (centre + half).min(1.0) };
    [low, high]
}

/// The interval of a mean score: Wilson's where all scores are 0 or 1, else the bootstrap; `[0, 1]` for
/// nothing.
pub fn score_interval(scores: &[f64]) -> Interval {
    if is_binary(scores) {
        return wilson(scores.iter().filter(|score| **score == 1.0).count(), scores.len());
    }
    bootstrap_mean(scores).unwrap_or([0.0, 1.0])
}

/// Bootstrap percentiles of the mean; none of nothing. Equal values have an interval without width, which
/// says only that these items did not differ.
pub fn bootstrap_mean(values: &[f64]) -> Option<Interval> {
    let first = *values.first()?;
    if values.iter().all(|value| *value == first) {
        return Some([first, first]);
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let n = values.len();
    let means = (0..RESAMPLES).map(|_| (0..n).map(|_| values[random.usize(..n)]).sum::<f64>() / n as f64);
    percentiles(means.collect())
}

/// Bootstrap percentiles of a ratio of means. Each stratum (task) holds pairs of (value, reference); pairs are
/// drawn within their stratum, strata count alike: `Σ mean(value) / Σ mean(reference)`. Resamples whose reference
/// is 0 have no ratio and are left out; none if that is all of them.
pub fn bootstrap_ratio(strata: &[Vec<(f64, f64)>]) -> Option<Interval> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut ratios = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let (mut above, mut below) = (0.0, 0.0);
        for pairs in strata.iter().filter(|pairs| !pairs.is_empty()) {
            let (mut values, mut references) = (0.0, 0.0);
            for _ in 0..pairs.len() {
                let (value, reference) = pairs[random.usize(..pairs.len())];
                values += value;
                references += reference;
            }
            above += values / pairs.len() as f64;
            below += references / pairs.len() as f64;
        }
        if below > 0.0 {
            ratios.push(above / below);
        }
    }
    percentiles(ratios)
}

/// The middle 95 % of what was drawn; none of nothing.
fn percentiles(mut drawn: Vec<f64>) -> Option<Interval> {
    let last = drawn.len().checked_sub(1)?;
    let tail = drawn.len() / 40;
    let (_, low, _) = drawn.select_nth_unstable_by(tail, f64::total_cmp);
    let low = *low;
    let (_, high, _) = drawn.select_nth_unstable_by(last - tail, f64::total_cmp);
    Some([low, *high])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(got: Interval, want: Interval, tolerance: f64) {
        let near = got.iter().zip(want).all(|(got, want)| (got - want).abs() <= tolerance);
        assert!(near, "got {got:?}, want {want:?}");
    }

    #[test]
    fn wilson_by_hand() {
        // 8 of 10: z² = 3.8415; centre (0.8 + 0.19207) / 1.38415 = 0.71674; half 1.95996 / 1.38415 *
        // sqrt(0.016 + 0.0096036) = 1.41601 * 0.16001 = 0.22658.
        assert_near(wilson(8, 10), [0.490_16, 0.943_32], 1e-5);
        // 0 of n: high end z² / (n + z²) = 3.8415 / 13.8415.
        assert_near(wilson(0, 10), [0.0, 0.277_53], 1e-5);
        assert_eq!((wilson(0, 10)[0], wilson(10, 10)[1], wilson(0, 0)), (0.0, 1.0, [0.0, 1.0]));
    }

    #[test]
    fn the_ends_of_wilson_solve_its_equation() {
        // Oracle: an end q is where |p - q| = z sqrt(q (1 - q) / n).
        for n in [1, 2, 7, 30, 501] {
            for hits in 0..=n {
                let p = hits as f64 / n as f64;
                for q in wilson(hits, n) {
                    let off = (p - q).abs() - Z95 * (q * (1.0 - q) / n as f64).sqrt();
                    assert!(off.abs() < 1e-9, "{hits} of {n}: {q}");
                }
            }
        }
    }

    #[test]
    fn a_bootstrap_of_two_values_by_hand() {
        // Of 0 and 1 a resample of two has mean 0, 0.5 or 1 with chances 1/4, 1/2, 1/4: both tails exceed 2.5
        // %.
        assert_eq!(bootstrap_mean(&[0.0, 1.0]), Some([0.0, 1.0]));
        assert_eq!(bootstrap_mean(&[0.3, 0.3, 0.3]), Some([0.3, 0.3]));
        assert_eq!(bootstrap_mean(&[]), None);
    }

    #[test]
    fn a_bootstrap_of_many_values_nears_the_normal_interval() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20) / 19.0).collect();
        let half = Z95 * super::super::sd(&values).unwrap() / 20.0;
        assert_near(bootstrap_mean(&values).unwrap(), [0.5 - half, 0.5 + half], 0.002);
        assert_eq!(bootstrap_mean(&values), bootstrap_mean(&values));
    }

    #[test]
    fn a_tail_holds_two_and_a_half_percent() {
        let drawn: Vec<f64> = (0..RESAMPLES).map(|i| i as f64).rev().collect();
        // 250 values lie below 250, and 250 above 9749.
        assert_eq!(percentiles(drawn), Some([250.0, 9749.0]));
        assert_eq!((percentiles(vec![3.0]), percentiles(vec![])), (Some([3.0, 3.0]), None));
    }

    #[test]
    fn a_ratio_counts_strata_alike() {
        // Strata of constants: (0.5 + 0.9) / (1 + 1), however many items each has.
        let strata = [vec![(0.5, 1.0); 2], vec![(0.9, 1.0); 30]];
        assert_near(bootstrap_ratio(&strata).unwrap(), [0.7, 0.7], 1e-12);
        assert_eq!(bootstrap_ratio(&[vec![(0.0, 0.0)]]), None);
        assert_eq!(bootstrap_ratio(&[]), None);
        // Of one hit in three 8 of 27 resamples have none; the others have a ratio of 1.
        assert_eq!(bootstrap_ratio(&[vec![(1.0, 1.0), (0.0, 0.0), (0.0, 0.0)]]), Some([1.0, 1.0]));
    }

    #[test]
    fn a_ratio_to_one_is_the_bootstrap_of_the_mean() {
        let values: Vec<f64> = (0..25).map(|i| f64::from(i % 5) / 4.0).collect();
        let pairs = values.iter().map(|value| (*value, 1.0)).collect();
        assert_near(bootstrap_ratio(&[pairs]).unwrap(), bootstrap_mean(&values).unwrap(), 1e-12);
    }
}
