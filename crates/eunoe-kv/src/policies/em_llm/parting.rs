//! Where a stretch of text falls in two: how well each place parts its tokens, by the likeness of their keys.

use std::ops::Range;

/// How well `t` parts `n` tokens of likeness `a` (`[n, n]`): higher is better.
pub(super) struct Parting {
    /// `[n + 1, n + 1]` sums of `a` over the rectangle before each corner.
    sums: Vec<f64>,
    n: usize,
}

impl Parting {
    pub(super) fn new(a: &[f32]) -> Self {
        let n = a.len().isqrt();
        let mut sums = vec![0.0; (n + 1) * (n + 1)];
        for i in 0..n {
            let mut row = 0.0;
            for j in 0..n {
                row += f64::from(a[i * n + j]);
                sums[(i + 1) * (n + 1) + j + 1] = sums[i * (n + 1) + j + 1] + row;
            }
        }
        Self { sums, n }
    }

    /// No tokens, or none that are alike.
    pub(super) fn is_nothing(&self) -> bool {
        self.n == 0 || self.sum(0..self.n, 0..self.n) <= 0.0
    }

    fn sum(&self, rows: Range<usize>, columns: Range<usize>) -> f64 {
        let at = |i: usize, j: usize| self.sums[i * (self.n + 1) + j];
        at(rows.end, columns.end) - at(rows.start, columns.end) - at(rows.end, columns.start)
            + at(rows.start, columns.start)
    }

    /// Σ over both sides of within / 2m - (degree / 2m)².
    pub(super) fn modularity(&self, t: usize) -> f64 {
        let all = self.sum(0..self.n, 0..self.n);
        [0..t, t..self.n]
            .into_iter()
            .map(|side| {
                let degree = self.sum(side.clone(), 0..self.n) / all;
                self.sum(side.clone(), side) / all - degree * degree
            })
            .sum()
    }

    /// -cut / min volume.
    pub(super) fn conductance(&self, t: usize) -> f64 {
        let cut = self.sum(0..t, t..self.n);
        -cut / self.sum(0..t, 0..self.n).min(self.sum(t..self.n, 0..self.n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modularity_and_conductance_are_the_equations() {
        let n = 9;
        let mut a = vec![0.0f32; n * n];
        for i in 0..n {
            for j in i..n {
                a[i * n + j] = ((i * 37 + j * 11) % 23) as f32 / 23.0;
                a[j * n + i] = a[i * n + j];
            }
        }
        let parting = Parting::new(&a);
        let at = |i: usize, j: usize| f64::from(a[i * n + j]);
        let degree = |i: usize| (0..n).map(|j| at(i, j)).sum::<f64>();
        let double_m = (0..n).map(degree).sum::<f64>();
        for t in 1..n {
            let (mut q, mut cut) = (0.0, 0.0);
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                match (i < t) == (j < t) {
                    true => q += (at(i, j) - degree(i) * degree(j) / double_m) / double_m,
                    false => cut += at(i, j) / 2.0,
                }
            }
            assert!((parting.modularity(t) - q).abs() < 1e-9);
            let volume = (0..t).map(degree).sum::<f64>();
            assert!((parting.conductance(t) + cut / volume.min(double_m - volume)).abs() < 1e-9);
        }
    }
}
