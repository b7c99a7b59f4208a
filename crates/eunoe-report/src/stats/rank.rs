//! Statistics of ranks.

use super::mean;

/// Ranks from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for equals in order.chunk_by(|&i, &j| values[i] == values[j]) {
        // Ranks below + 1 ..= below + len have this mean.
        let shared = below as f64 + (equals.len() + 1) as f64 / 2.0;
        equals.iter().for_each(|&i| ranks[i] = shared);
        below += equals.len();
    }
    ranks
}

/// Spearman's correlation; none where either list is constant, or they differ in length.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    if x.len() != y.len() {
        return None;
    }
    let (x, y) = (ranks(x), ranks(y));
    let (mx, my) = (mean(&x)?, mean(&y)?);
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(&y).map(|(x, y)| f(x - mx, y - my)).sum::<f64>();
    let spread = (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt();
    (spread > 0.0).then(|| sum(&|x, y| x * y) / spread)
}

/// The chance that an event has a higher score than a non-event, ties counted half; none without one of each.
pub fn auroc(scores: &[f64], events: &[bool]) -> Option<f64> {
    let hits = events.iter().filter(|event| **event).count();
    if scores.len() != events.len() || hits == 0 || hits == events.len() {
        return None;
    }
    let ranks = ranks(scores);
    let of_hits: f64 = ranks.iter().zip(events).filter(|(_, event)| **event).map(|(rank, _)| rank).sum();
    let (hits, misses) = (hits as f64, (events.len() - hits) as f64);
    Some((of_hits - hits * (hits + 1.0) / 2.0) / (hits * misses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_hand() {
        // Sorted: 1, 2, 2, 5; the two twos share ranks 2 and 3.
        assert_eq!(ranks(&[2.0, 5.0, 1.0, 2.0]), [2.5, 4.0, 1.0, 2.5]);
        assert_eq!(ranks(&[]), Vec::<f64>::new());
    }

    #[test]
    fn spearman_by_hand() {
        // Without ties 1 - 6 Σd² / (n (n² - 1)): ranks 1 2 3 4 against 1 3 2 4 give 1 - 6 * 2 / 60 = 0.8.
        assert!((spearman(&[1.0, 2.0, 3.0, 4.0], &[10.0, 30.0, 20.0, 90.0]).unwrap() - 0.8).abs() < 1e-12);
        assert_eq!(
            (spearman(&[1.0, 1.0], &[1.0, 2.0]), spearman(&[], &[]), spearman(&[1.0], &[])),
            (None, None, None)
        );
        let x = [0.3, 0.1, 0.9, 0.4];
        let cubes: Vec<f64> = x.iter().map(|x| x * x * x).collect();
        let down: Vec<f64> = x.iter().map(|x| -x).collect();
        assert!((spearman(&x, &cubes).unwrap() - 1.0).abs() < 1e-12);
        assert!((spearman(&x, &down).unwrap() + 1.0).abs() < 1e-12);
    }

    #[test]
    fn auroc_by_hand() {
        // Events 0.9, 0.5; others 0.5, 0.1: pairs won 1, 1, a tie 0.5, 1: 3.5 of 4.
        assert_eq!(auroc(&[0.9, 0.5, 0.5, 0.1], &[true, true, false, false]), Some(0.875));
        assert_eq!(auroc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(auroc(&[0.1], &[true, false]), None);
    }

    #[test]
    fn auroc_counts_pairs() {
        let mut random = fastrand::Rng::with_seed(3);
        for n in [2usize, 3, 10, 41] {
            let scores: Vec<f64> = (0..n).map(|_| f64::from(random.u32(..6))).collect();
            let events: Vec<bool> = (0..n).map(|i| i % 2 == 0).collect();
            let (mut won, mut pairs) = (0.0, 0.0);
            for i in (0..n).filter(|&i| events[i]) {
                for j in (0..n).filter(|&j| !events[j]) {
                    won += if scores[i] > scores[j] {
                        1.0
                    } else if scores[i] == scores[j] {
                        0.5
                    } else {
                        0.0
                    };
                    pairs += 1.0;
                }
            }
            assert!((auroc(&scores, &events).unwrap() - won / pairs).abs() < 1e-12);
        }
    }
}
