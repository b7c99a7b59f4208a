//! A causal convolution of each column with its last few rows.
//!
//! * Paper:    Arora, 2024, arXiv 2402.18668 (BaseConv); Yang, 2024, arXiv 2406.06484 (before queries, keys and values)
//! * Equation: y_i = Σ_j w_j ⊙ x_{i + j}, j < kernel; dx_p = Σ_j w_j ⊙ dy_{p - j}, dw_j = Σ_i dy_i ⊙ x_{i + j}
//! * Shapes:   x, dx [seqs, kernel - 1 + t, width], of which the first kernel - 1 rows stand before; y, dy [seqs, t, width],
//!   weight, dweight [kernel, width], the newest row last
//! * Cost:     `kernel` multiply-adds per value each way and for each gradient; rows are read from cache after the first time
//! * Differs:  nothing
//! * Oracle:   the sum in f64, and its central differences

use std::ops::Range;

use eunoe_core::Result;

use crate::{Isa, Pool};

use super::parts::{check, in_rows, in_rows_and_sums, size};

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub struct Conv {
    /// Sequences.
    pub seqs: usize,
    /// Rows of a sequence that are computed.
    pub t: usize,
    /// Columns.
    pub width: usize,
    /// Rows that each of them sees.
    pub kernel: usize,
}

/// Gradients.
pub struct Grads<'a> {
    /// `[seqs, kernel - 1 + t, width]`
    pub dx: &'a mut [f32],
    /// `[kernel, width]`
    pub dweight: &'a mut [f32],
}

impl Conv {
    /// y.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn forward(&self, isa: Isa, pool: &Pool, x: &[f32], weight: &[f32], y: &mut [f32]) -> Result<()> {
        self.check(x, weight, y)?;
        if self.width == 0 {
            return Ok(());
        }
        in_rows(pool, self.seqs * self.t, self.width, [y], |rows, [y]| {
            isa.run(
                #[inline(always)]
                || {
                    for (row, y) in rows.zip(y.chunks_exact_mut(self.width)) {
                        let seen = &x[self.seen(row)];
                        y.fill(0.0);
                        for (w, x) in weight.chunks_exact(self.width).zip(seen.chunks_exact(self.width)) {
                            add(y, w, x);
                        }
                    }
                },
            );
        });
        Ok(())
    }

    /// Gradients from that of y.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn backward(
        &self,
        isa: Isa,
        pool: &Pool,
        [x, weight, dy]: [&[f32]; 3],
        grads: Grads<'_>,
    ) -> Result<()> {
        self.check(x, weight, dy)?;
        check("dx", x.len(), grads.dx.len())?;
        check("dweight", weight.len(), grads.dweight.len())?;
        if self.width == 0 {
            return Ok(());
        }
        in_rows(pool, self.seqs * self.inputs(), self.width, [grads.dx], |rows, [dx]| {
            isa.run(
                #[inline(always)]
                || self.inputs_backward(rows, weight, dy, dx),
            );
        });
        in_rows_and_sums(
            (isa, pool),
            self.seqs * self.t,
            self.width,
            [],
            grads.dweight,
            #[inline(always)]
            |rows, [], dweight| self.weight_backward(rows, x, dy, dweight),
        );
        Ok(())
    }

    fn check(&self, x: &[f32], weight: &[f32], y: &[f32]) -> Result<()> {
        check("values", size([self.seqs, self.inputs(), self.width]), x.len())?;
        check("filter", size([self.kernel, self.width]), weight.len())?;
        check("filtered values", size([self.seqs, self.t, self.width]), y.len())
    }

    /// Rows of a sequence's input.
    fn inputs(&self) -> usize {
        self.kernel.saturating_sub(1).saturating_add(self.t)
    }

    /// What a row of the result sees.
    fn seen(&self, row: usize) -> Range<usize> {
        let from = (row / self.t * self.inputs() + row % self.t) * self.width;
        from..from + self.kernel * self.width
    }

    #[inline(always)]
    fn weight_backward(&self, rows: Range<usize>, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
        for (row, dy) in rows.clone().zip(dy[rows.start * self.width..].chunks_exact(self.width)) {
            let seen = x[self.seen(row)].chunks_exact(self.width);
            for (sum, x) in dweight.chunks_exact_mut(self.width).zip(seen) {
                add(sum, dy, x);
            }
        }
    }

    #[inline(always)]
    fn inputs_backward(&self, rows: Range<usize>, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
        for (row, dx) in rows.zip(dx.chunks_exact_mut(self.width)) {
            let (seq, p) = (row / self.inputs(), row % self.inputs());
            dx.fill(0.0);
            for (j, w) in weight.chunks_exact(self.width).enumerate() {
                if (j..j + self.t).contains(&p) {
                    add(dx, w, &dy[(seq * self.t + p - j) * self.width..][..self.width]);
                }
            }
        }
    }
}

/// sum += a ⊙ b.
#[inline(always)]
fn add(sum: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum = a.mul_add(*b, *sum);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, dot, f64s, same_everywhere, slopes};
    use super::*;

    /// y, dx, dweight.
    fn run(isa: Isa, pool: &Pool, of: Conv, [x, weight, dy]: [&[f32]; 3]) -> Vec<Vec<f32>> {
        let mut outs = [dy.len(), x.len(), weight.len()].map(|len| vec![f32::NAN; len]);
        let [y, dx, dweight] = &mut outs;
        of.forward(isa, pool, x, weight, y).expect("sizes agree");
        of.backward(isa, pool, [x, weight, dy], Grads { dx, dweight }).expect("sizes agree");
        outs.into()
    }

    /// x = 1, 2, 3 (the first stands before), w = 10, 1: y = 10 + 2, 20 + 3. dy = 1, 100: dx = 10, 1 + 1000, 100;
    /// dw = 1 · 1 + 100 · 2, 1 · 2 + 100 · 3.
    #[test]
    fn two_rows_by_hand() {
        let of = Conv { seqs: 1, t: 2, width: 1, kernel: 2 };
        let inputs = [&[1.0, 2.0, 3.0][..], &[10.0, 1.0], &[1.0, 100.0]];
        let got = same_everywhere(|isa, pool| run(isa, pool, of, inputs));
        assert_eq!(got, [vec![12.0, 23.0], vec![10.0, 1001.0, 100.0], vec![201.0, 302.0]]);
    }

    fn oracle(of: Conv, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let inputs = of.kernel - 1 + of.t;
        let cell = |n: usize| {
            let (seq, i, c) = (n / of.width / of.t, n / of.width % of.t, n % of.width);
            (0..of.kernel).map(|j| weight[j * of.width + c] * x[(seq * inputs + i + j) * of.width + c]).sum()
        };
        (0..of.seqs * of.t * of.width).map(cell).collect()
    }

    #[test]
    fn filters_agree_with_f64_and_its_differences() {
        let mut noise = Noise(21);
        for (seqs, t, width, kernel) in [
            (0, 3, 2, 3),
            (2, 0, 3, 2),
            (3, 4, 0, 2),
            (1, 1, 1, 1),
            (2, 3, 5, 4),
            (3, 2, 17, 3),
            (40, 30, 33, 3),
        ] {
            let of = Conv { seqs, t, width, kernel };
            let [x, weight, dy] =
                [seqs * (kernel - 1 + t), kernel, seqs * t].map(|rows| noise.vec(rows * width));
            let got = same_everywhere(|isa, pool| run(isa, pool, of, [&x, &weight, &dy]));
            let (x, weight, what) = (f64s(&x), f64s(&weight), format!("{of:?}"));
            assert_near(&got[0], &oracle(of, &x, &weight), 1e-6, &what);
            assert_near(&got[2], &slopes(&weight, |w| dot(&oracle(of, &x, w), &dy)), 1e-5, &what);
            if x.len() < 500 {
                assert_near(&got[1], &slopes(&x, |x| dot(&oracle(of, x, &weight), &dy)), 1e-5, &what);
            }
        }
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let (isa, pool, of) = (Isa::Scalar, &Pool::new(1), Conv { seqs: 1, t: 2, width: 1, kernel: 2 });
        let (two, three) = (&[0.0; 2], &[0.0; 3]);
        assert!(of.forward(isa, pool, three, two, &mut [0.0; 2]).is_ok());
        assert!(of.forward(isa, pool, two, two, &mut [0.0; 2]).is_err());
        assert!(of.forward(isa, pool, three, three, &mut [0.0; 2]).is_err());
        assert!(of.forward(isa, pool, three, two, &mut [0.0; 3]).is_err());
        for (dx, dweight) in [(2, 2), (3, 3)] {
            let (mut dx, mut dweight) = (vec![0.0; dx], vec![0.0; dweight]);
            let grads = Grads { dx: &mut dx, dweight: &mut dweight };
            assert!(of.backward(isa, pool, [three, two, two], grads).is_err());
        }
    }
}
