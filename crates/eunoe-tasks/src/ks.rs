//! Whether numbers are spread evenly: the Kolmogorov-Smirnov test against the uniform distribution on 0 to 1.

/// The greatest distance between the share of numbers up to `x` and `x`; 0 for none.
pub fn uniform_distance(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let gaps = sorted.iter().enumerate().map(|(i, x)| {
        let (below, upto) = (i as f64 / n, (i + 1) as f64 / n);
        (x - below).max(upto - x)
    });
    gaps.fold(0.0, f64::max)
}

/// The asymptotic p-value of [`uniform_distance`] (Kolmogorov's series, with Stephens's correction for few
/// numbers): how often even numbers, drawn independently, are at least so uneven; 1 for none.
pub fn uniform_p(values: &[f64]) -> f64 {
    let root = (values.len() as f64).sqrt();
    if root == 0.0 {
        return 1.0;
    }
    survival((root + 0.12 + 0.11 / root) * uniform_distance(values))
}

/// `2 sum_k (-1)^(k - 1) exp(-2 k^2 x^2)`.
fn survival(x: f64) -> f64 {
    // Below this the sum is 1 to twelve digits, and slow.
    if x < 0.2 {
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * f64::from(k * k) * x * x).exp()
    };
    (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_by_hand() {
        // Shares 1/2 and 1 at 0.1 and 0.4: 0.5 - 0.1 = 0.4 at the first, 1 - 0.4 = 0.6 at the second.
        assert!((uniform_distance(&[0.4, 0.1]) - 0.6).abs() < 1e-12);
        assert!((uniform_distance(&[0.5]) - 0.5).abs() < 1e-12);
        assert_eq!((uniform_distance(&[]), uniform_p(&[])), (0.0, 1.0));
    }

    #[test]
    fn survival_is_that_of_the_tables() {
        for (x, want) in [(1.2238, 0.10), (1.3581, 0.05), (1.6276, 0.01)] {
            assert!((survival(x) - want).abs() < 1e-4, "{x}");
        }
        assert!((survival(0.2) - 1.0).abs() < 1e-11);
    }

    #[test]
    fn uneven_numbers_are_told_from_even_ones() {
        let even: Vec<f64> = (0..200).map(|i| (f64::from(i) + 0.5) / 200.0).collect();
        assert!(uniform_p(&even) > 0.99);
        assert!(uniform_p(&even.iter().map(|x| x * x).collect::<Vec<_>>()) < 1e-6);
        assert!(uniform_p(&[0.913; 200]) < 1e-12);
    }

    #[test]
    fn p_is_itself_even_for_even_numbers() {
        let mut rng = fastrand::Rng::with_seed(7);
        let p: Vec<f64> =
            (0..2000).map(|_| uniform_p(&(0..50).map(|_| rng.f64()).collect::<Vec<_>>())).collect();
        let below = p.iter().filter(|p| **p < 0.05).count() as f64 / 2000.0;
        assert!((below - 0.05).abs() < 0.015, "{below}");
    }
}
