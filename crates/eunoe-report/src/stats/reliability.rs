//! Does what was called likely happen as often as said?

use serde::Serialize;

use super::{Interval, mean, wilson};

/// One bin of a reliability diagram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Predictions in it.
    pub n: usize,
    /// Their mean.
    pub predicted: f64,
    /// Share of them that happened.
    pub seen: f64,
    /// Wilson interval of that share.
    pub interval: Interval,
}

/// Bins of equal width over 0 to 1, empty ones left out; 1 belongs to the last. Predictions outside 0 to 1
/// are left out.
pub fn reliability(predicted: &[f64], happened: &[bool], bins: usize) -> Vec<Bin> {
    let mut binned = vec![(Vec::new(), 0usize); bins.max(1)];
    let pairs = predicted.iter().zip(happened).filter(|(p, _)| (0.0..=1.0).contains(*p));
    for (p, happened) in pairs {
        let at = ((p * bins as f64) as usize).min(binned.len() - 1);
        binned[at].0.push(*p);
        binned[at].1 += usize::from(*happened);
    }
    let bin = |(predicted, hits): &(Vec<f64>, usize)| {
        let n = predicted.len();
        Some(Bin {
            n,
            predicted: mean(predicted)?,
            seen: *hits as f64 / n as f64,
            interval: wilson(*hits, n),
        })
    };
    binned.iter().filter_map(bin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_by_hand() {
        // Two bins: 0.1 and 0.3 (mean 0.2, one happened), 0.5 and 1 (mean 0.75, both).
        let bins =
            reliability(&[0.1, 0.3, 0.5, 1.0, f64::NAN, 1.5], &[false, true, true, true, true, true], 2);
        assert_eq!(bins.iter().map(|bin| bin.n).collect::<Vec<_>>(), [2, 2]);
        assert!((bins[0].predicted - 0.2).abs() < 1e-12 && bins[0].seen == 0.5);
        assert!((bins[1].predicted - 0.75).abs() < 1e-12 && bins[1].seen == 1.0);
        assert_eq!(bins[1].interval, wilson(2, 2));
    }

    #[test]
    fn each_prediction_is_counted_once() {
        let predicted: Vec<f64> = (0..=100).map(|i| f64::from(i) / 100.0).collect();
        let happened: Vec<bool> = (0..=100).map(|i| i % 3 == 0).collect();
        for bins in [1, 3, 10] {
            let found = reliability(&predicted, &happened, bins);
            assert_eq!(found.iter().map(|bin| bin.n).sum::<usize>(), 101);
            let hits: f64 = found.iter().map(|bin| bin.seen * bin.n as f64).sum();
            assert!((hits - 34.0).abs() < 1e-9);
        }
        assert!(reliability(&[], &[], 10).is_empty());
        assert_eq!(reliability(&[0.5], &[true], 0).len(), 1);
    }
}
