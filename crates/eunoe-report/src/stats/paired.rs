//! Differences on the same items.

use super::{Interval, RESAMPLES, SEED, bootstrap_mean, mean};

/// Up to so many differing items, all sign patterns are tried.
const ENUMERATED: usize = 13;

/// Mean of `a - b` and its bootstrap interval; none of nothing or of lists that differ in length.
pub fn paired_difference(a: &[f64], b: &[f64]) -> Option<(f64, Interval)> {
    if a.len() != b.len() {
        return None;
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    Some((mean(&differences)?, bootstrap_mean(&differences)?))
}

/// Exact two-sided McNemar: how likely a split of the differing items at least as uneven as `gained` to
/// `lost` is, were both alike. 1 without any.
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    let (n, fewer) = (gained + lost, gained.min(lost));
    // Binomial terms by their logarithms: 2^-n alone would vanish from n = 1075 on.
    let mut ln_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = ln_term.exp();
    for i in 1..=fewer {
        ln_term += ((n - i + 1) as f64 / i as f64).ln();
        tail += ln_term.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Two-sided sign-flip test of a mean difference of 0: the share of sign patterns whose mean is at least as
/// far from 0. All patterns for few items, else drawn ones, the observed one counted among them. 1 without
/// differences.
pub fn sign_flip(differences: &[f64]) -> f64 {
    let values: Vec<f64> = differences.iter().copied().filter(|value| *value != 0.0).collect();
    let seen = values.iter().sum::<f64>().abs();
    // Sums in another order differ in their last bits and must count as equal.
    let reached = |sum: f64| sum.abs() >= seen - 1e-12 * values.len() as f64;
    let sum_of = |flips: u64| {
        let signed =
            values.iter().enumerate().map(|(i, value)| if flips >> i & 1 == 1 { -value } else { *value });
        signed.sum::<f64>()
    };
    if values.len() <= ENUMERATED {
        let patterns = 1u64 << values.len();
        let hits = (0..patterns).filter(|flips| reached(sum_of(*flips))).count();
        return hits as f64 / patterns as f64;
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let drawn = |random: &mut fastrand::Rng| values.iter().map(|v| if random.bool() { -v } else { *v }).sum();
    let hits = (0..RESAMPLES).filter(|_| reached(drawn(&mut random))).count();
    (hits + 1) as f64 / (RESAMPLES + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_by_hand() {
        // 1 of 6: 2 * (1 + 6) / 64 = 14 / 64. 0 of 5: 2 / 32. 3 of 6: more than 1, so 1.
        assert!((mcnemar(1, 5) - 0.218_75).abs() < 1e-12);
        assert!((mcnemar(5, 0) - 0.0625).abs() < 1e-12);
        assert_eq!((mcnemar(3, 3), mcnemar(0, 0)), (1.0, 1.0));
    }

    #[test]
    fn mcnemar_is_the_sign_test_of_ones() {
        // Oracle: the enumerated sign flips of that many +1 and -1.
        for n in 0..=ENUMERATED {
            for lost in 0..=n {
                let ones: Vec<f64> = (0..n).map(|i| if i < lost { -1.0 } else { 1.0 }).collect();
                assert!((mcnemar(n - lost, lost) - sign_flip(&ones)).abs() < 1e-9, "{lost} of {n}");
            }
        }
    }

    #[test]
    fn mcnemar_survives_thousands() {
        // 950 of 2000 lies 50 / sqrt(500) = 2.236 deviations out, 2.214 with the continuity correction: p =
        // 0.0268.
        assert!((mcnemar(950, 1050) - 0.0268).abs() < 3e-4);
        assert_eq!(mcnemar(0, 5000), 0.0);
    }

    #[test]
    fn sign_flips_by_hand() {
        // 0.5, 0.2, 0.1: only all-plus and all-minus reach 0.8: 2 of 8. With -0.1: 0.6 is reached by ±0.8,
        // ±0.6: 4 of 8.
        assert_eq!(sign_flip(&[0.5, 0.2, 0.1, 0.0]), 0.25);
        assert_eq!(sign_flip(&[0.5, 0.2, -0.1]), 0.5);
        assert_eq!(sign_flip(&[]), 1.0);
    }

    #[test]
    fn drawn_flips_near_the_exact_ones() {
        // 20 items, 15 up and 5 down: exact 2 * (1 + 20 + 190 + 1140 + 4845 + 15504) / 2^20 = 0.0414.
        let ones: Vec<f64> = (0..20).map(|i| if i < 5 { -1.0 } else { 1.0 }).collect();
        assert!((sign_flip(&ones) - 0.0414).abs() < 0.006);
        assert_eq!(sign_flip(&ones), sign_flip(&ones));
    }

    #[test]
    fn a_paired_difference_has_its_mean_and_interval() {
        // 1-1, 0-1, 0-1, 1-1: mean -0.5.
        let (difference, [low, high]) = paired_difference(&[1.0, 0.0, 0.0, 1.0], &[1.0; 4]).unwrap();
        assert_eq!((difference, low, high), (-0.5, -1.0, 0.0));
        assert_eq!(paired_difference(&[1.0], &[]), None);
        assert_eq!(paired_difference(&[], &[]), None);
    }
}
