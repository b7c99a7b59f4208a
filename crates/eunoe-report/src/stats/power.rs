//! What a number of items can and cannot show: paired t-like approximation, 5 % two-sided, 80 % power.

use super::{Z95, sd};

/// 97.5 % and 80 % points of the normal distribution together.
const Z: f64 = Z95 + 0.841_621_233_572_914;
/// The fewest differing items, all in one direction, that an exact McNemar test calls a difference: 2 / 2^6 <
/// 5 %.
const FEWEST: f64 = 6.0;

/// Items needed to see a mean paired difference, given the standard deviation of the differences; none for a
/// difference of 0.
pub fn items_needed(difference: f64, sd: f64) -> Option<u64> {
    let items = (Z * sd / difference).powi(2).ceil();
    (difference != 0.0 && items.is_finite()).then_some(items.max(1.0) as u64)
}

/// The smallest mean paired difference that so many items can show, given the differences seen; none if not
/// even 1. Where fewer items differed than any exact test needs, their deviation says too little: the limit
/// is then at least what that many items would give, if these are right or wrong, and else what one item
/// differing by 1 would.
pub fn resolves(differences: &[f64], is_binary: bool) -> Option<f64> {
    let n = differences.len() as f64;
    let differing = differences.iter().filter(|difference| **difference != 0.0).count();
    let least = match (is_binary, (differing as f64) < FEWEST) {
        (true, _) => FEWEST / n,
        (false, true) => Z / n,
        (false, false) => 0.0,
    };
    let smallest = (Z * sd(differences)? / n.sqrt()).max(least);
    (smallest <= 1.0).then_some(smallest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::mcnemar;

    /// Differences of mean 0: half of them `by`, half `-by`.
    fn both_ways(n: usize, by: f64) -> Vec<f64> {
        (0..n).map(|i| if i % 2 == 0 { by } else { -by }).collect()
    }

    #[test]
    fn power_by_hand() {
        // (2.8016 * 0.5 / 0.1)² = 14.008² = 196.2, so 197 items.
        assert_eq!(items_needed(0.1, 0.5), Some(197));
        assert_eq!(items_needed(-0.1, 0.5), Some(197));
        assert_eq!((items_needed(0.0, 0.5), items_needed(0.0, 0.0)), (None, None));
        // 100 items ±0.5 and one 0: sd = sqrt(100 * 0.25 / 100) = 0.5; 2.80158 * 0.5 / sqrt(101) = 0.139384.
        let mut differences = both_ways(100, 0.5);
        differences.push(0.0);
        assert!((resolves(&differences, false).unwrap() - 0.139_384).abs() < 1e-6);
    }

    #[test]
    fn without_differences_the_exact_test_sets_the_limit() {
        // 6 of 20 = 0.3; of 5 items none can show anything.
        assert!((resolves(&[0.0; 20], true).unwrap() - 0.3).abs() < 1e-12);
        assert!(mcnemar(6, 0) < 0.05 && mcnemar(5, 0) > 0.05);
        assert_eq!(
            (resolves(&[0.0; 5], true), resolves(&[], false), resolves(&[0.0], false)),
            (None, None, None)
        );
        // 2.80158 / 20.
        assert!((resolves(&[0.0; 20], false).unwrap() - 0.140_08).abs() < 1e-5);
    }

    #[test]
    fn what_is_resolved_needs_these_items() {
        for n in [10, 46, 300] {
            for by in [0.1, 0.2, 0.37] {
                let differences = both_ways(n, by);
                let smallest = resolves(&differences, false).unwrap();
                let needed = items_needed(smallest * (1.0 + 1e-12), sd(&differences).unwrap()).unwrap();
                assert_eq!(needed, n as u64, "by {by}");
            }
        }
    }

    #[test]
    fn four_of_five_experiments_of_that_size_see_it() {
        // Simulated: differences of mean d and deviation 0.5, 80 items, called seen where |mean| > z sd /
        // sqrt(n).
        let n = 80;
        let differences = both_ways(n, 0.5);
        let (d, sd) = (resolves(&differences, false).unwrap(), sd(&differences).unwrap());
        let mut random = fastrand::Rng::with_seed(1);
        // A sum of 12 uniform numbers, less 6, is near normal with deviation 1.
        let mut normal = || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        let mut seen = 0u32;
        for _ in 0..4000 {
            let mean = (0..n).map(|_| d + sd * normal()).sum::<f64>() / n as f64;
            seen += u32::from(mean.abs() > Z95 * sd / (n as f64).sqrt());
        }
        assert!((f64::from(seen) / 4000.0 - 0.8).abs() < 0.025, "{seen}");
    }
}
