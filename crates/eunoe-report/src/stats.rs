//! Statistics over scores: intervals, paired tests, ranks, reliability, power.
//!
//! Everything is deterministic: what is drawn is drawn from a fixed seed, so the same records give the same
//! numbers.

mod interval;
mod paired;
mod power;
mod rank;
mod reliability;

pub use interval::{bootstrap_mean, bootstrap_ratio, score_interval, wilson};
pub use paired::{mcnemar, paired_difference, sign_flip};
pub use power::{items_needed, resolves};
pub use rank::{auroc, ranks, spearman};
pub use reliability::{Bin, reliability};

/// Lower and upper end.
pub type Interval = [f64; 2];

/// Resamples of a bootstrap, and flips of a permutation test that is not enumerated.
pub(crate) const RESAMPLES: usize = 10_000;
/// Seed of everything that is drawn.
pub(crate) const SEED: u64 = 0x0065_756e_6f65;
/// The 97.5 % point of the normal distribution.
pub(crate) const Z95: f64 = 1.959_963_984_540_054;

/// The mean; none of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation with `n - 1` below; none for fewer than two values.
pub fn sd(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The value below which a share `at` of the sorted values lies, interpolated; none of nothing.
pub fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = at.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}

/// Whether all scores are right or wrong and nothing between.
pub fn is_binary(scores: &[f64]) -> bool {
    scores.iter().all(|score| *score == 0.0 || *score == 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_and_deviations_by_hand() {
        // Mean of 1, 2, 6 is 3; squares 4 + 1 + 9 = 14; 14 / 2 = 7.
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(sd(&[1.0, 2.0, 6.0]), Some(7f64.sqrt()));
        assert_eq!((mean(&[]), sd(&[]), sd(&[1.0])), (None, None, None));
    }

    #[test]
    fn a_quantile_stands_between_its_neighbours() {
        // 0.25 of the way over 4 gaps is the second value; 0.3 is 1.2 gaps: 2 + 0.2 * (6 - 2).
        let sorted = [1.0, 2.0, 6.0, 7.0, 9.0];
        assert_eq!(quantile(&sorted, 0.25), Some(2.0));
        assert!((quantile(&sorted, 0.3).unwrap() - 2.8).abs() < 1e-12);
        assert_eq!(
            (quantile(&sorted, 0.0), quantile(&sorted, 1.0), quantile(&[], 0.5)),
            (Some(1.0), Some(9.0), None)
        );
    }

    #[test]
    fn binary_is_only_zero_and_one() {
        assert!(is_binary(&[0.0, 1.0, 1.0]) && is_binary(&[]));
        assert!(!is_binary(&[0.0, 0.5]) && !is_binary(&[f64::NAN]));
    }
}
