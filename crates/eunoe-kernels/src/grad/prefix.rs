//! Sums over every prefix with weights e^score: softmax attention whose query is the same at every step.
//!
//! * Paper:    Feng, 2024, arXiv 2405.13956 (Aaren), section 3
//! * Equation: m_t = max(m_{t-1}, s_t), y_t = e^(m_{t-1} - m_t) y_{t-1} + e^(s_t - m_t) x_t, y_{-1} = 0;
//!   R_t = dy_t + e^(m_t - m_{t+1}) R_{t+1}, dx_t = e^(s_t - m_t) R_t, ds_t = x_t · dx_t
//! * Shapes:   s, ds [rows, t], x, dx, y, dy [rows, t, cols]
//! * Cost:     one pass, the same at every step; a row is a task
//! * Differs:  gradients hold m constant: the quotient of two columns, which is what is attended, does not depend on it
//! * Oracle:   the sums in f64, and their central differences

use eunoe_core::Result;

use crate::math::{exp, max};
use crate::pool::Shards;
use crate::{Isa, Pool};

use super::parts::{check, size, sum};
use super::scratch;

/// Sizes of the sequences; scores are finite.
#[derive(Clone, Copy, Debug)]
pub struct Prefixes {
    /// Sequences.
    pub rows: usize,
    /// Steps.
    pub t: usize,
    /// Values per step.
    pub cols: usize,
}

/// Scores and values.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[rows, t]`
    pub s: &'a [f32],
    /// `[rows, t, cols]`
    pub x: &'a [f32],
}

/// Gradients of the inputs, shaped like them.
pub struct Grads<'a> {
    /// `[rows, t]`
    pub ds: &'a mut [f32],
    /// `[rows, t, cols]`
    pub dx: &'a mut [f32],
}

impl Prefixes {
    /// The weighted sums of every prefix.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn forward(&self, isa: Isa, pool: &Pool, inputs: Inputs<'_>, y: &mut [f32]) -> Result<()> {
        self.check(inputs)?;
        check("sums", inputs.x.len(), y.len())?;
        let [t, len] = [self.t, self.t * self.cols];
        let y = Shards::new(y);
        pool.run(self.rows, &|row| {
            let (s, x) = (&inputs.s[row * t..][..t], &inputs.x[row * len..][..len]);
            // SAFETY: tasks are different rows; `y` outlives the loop.
            let y = unsafe { y.part(row * len, len) };
            isa.run(
                #[inline(always)]
                || self.row(s, x, y),
            );
        });
        Ok(())
    }

    /// Gradients from that of the sums.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn backward(
        &self,
        isa: Isa,
        pool: &Pool,
        inputs: Inputs<'_>,
        dy: &[f32],
        grads: Grads<'_>,
    ) -> Result<()> {
        self.check(inputs)?;
        check("dy", inputs.x.len(), dy.len())?;
        check("ds", inputs.s.len(), grads.ds.len())?;
        check("dx", inputs.x.len(), grads.dx.len())?;
        let [t, len] = [self.t, self.t * self.cols];
        let [ds, dx] = [grads.ds, grads.dx].map(Shards::new);
        pool.run(self.rows, &|row| {
            let (s, x) = (&inputs.s[row * t..][..t], &inputs.x[row * len..][..len]);
            // SAFETY: as in `forward`.
            let (ds, dx) = unsafe { (ds.part(row * t, t), dx.part(row * len, len)) };
            scratch::with([t, self.cols], |[tops, carry]| {
                isa.run(
                    #[inline(always)]
                    || {
                        self.row_backward(
                            Inputs { s, x },
                            &dy[row * len..][..len],
                            [tops, carry],
                            Grads { ds, dx },
                        )
                    },
                );
            });
        });
        Ok(())
    }

    fn check(&self, inputs: Inputs<'_>) -> Result<()> {
        check("scores", size([self.rows, self.t]), inputs.s.len())?;
        check("values", size([self.rows, self.t, self.cols]), inputs.x.len())
    }

    #[inline(always)]
    fn row(&self, s: &[f32], x: &[f32], y: &mut [f32]) {
        let mut top = f32::NEG_INFINITY;
        for (t, s) in s.iter().enumerate() {
            let (before, y) = y.split_at_mut(t * self.cols);
            let (x, y) = (&x[t * self.cols..][..self.cols], &mut y[..self.cols]);
            let next = max(top, *s);
            let (left, own) = (exp(top - next), exp(s - next));
            top = next;
            for (y, x) in y.iter_mut().zip(x) {
                *y = own * x;
            }
            for (y, before) in y.iter_mut().zip(before.rchunks_exact(self.cols.max(1)).next().unwrap_or(&[]))
            {
                *y = left.mul_add(*before, *y);
            }
        }
    }

    /// `tops` is memory for m of every step, `carry` for R.
    #[inline(always)]
    fn row_backward(&self, inputs: Inputs<'_>, dy: &[f32], [tops, carry]: [&mut [f32]; 2], grads: Grads<'_>) {
        let mut top = f32::NEG_INFINITY;
        for (m, s) in tops.iter_mut().zip(inputs.s) {
            top = max(top, *s);
            *m = top;
        }
        carry.fill(0.0);
        for t in (0..self.t).rev() {
            let at = t * self.cols..(t + 1) * self.cols;
            let (x, dy, dx) = (&inputs.x[at.clone()], &dy[at.clone()], &mut grads.dx[at]);
            let (left, own) = (exp(tops[t] - top), exp(inputs.s[t] - tops[t]));
            top = tops[t];
            for ((carry, dy), dx) in carry.iter_mut().zip(dy).zip(dx.iter_mut()) {
                *carry = left.mul_add(*carry, *dy);
                *dx = own * *carry;
            }
            grads.ds[t] = sum([x, dx], |[x, dx]| x * dx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, dot, f64s, same_everywhere, slopes};
    use super::*;

    /// y, ds, dx.
    fn run(isa: Isa, pool: &Pool, of: Prefixes, inputs: Inputs<'_>, dy: &[f32]) -> Vec<Vec<f32>> {
        let mut outs = [dy.len(), inputs.s.len(), dy.len()].map(|len| vec![f32::NAN; len]);
        let [y, ds, dx] = &mut outs;
        of.forward(isa, pool, inputs, y).expect("sizes agree");
        of.backward(isa, pool, inputs, dy, Grads { ds, dx }).expect("sizes agree");
        outs.into()
    }

    /// s = ln (2, 1, 4), so that weights are (1), (1, 1/2), (1/2, 1/4, 1) of x = (3, 4, 5): y = 3, 5, 1.5 + 1 + 5.
    /// dy = (1, 10, 100): dx_0 = 1 + 10 + 50, dx_1 = (10 + 50) / 2, dx_2 = 100; ds = x dx.
    #[test]
    fn three_steps_by_hand() {
        let of = Prefixes { rows: 1, t: 3, cols: 1 };
        let s = [2f32, 1.0, 4.0].map(f32::ln);
        let inputs = Inputs { s: &s, x: &[3.0, 4.0, 5.0] };
        let got = same_everywhere(|isa, pool| run(isa, pool, of, inputs, &[1.0, 10.0, 100.0]));
        let want = [[3.0, 5.0, 7.5], [183.0, 120.0, 500.0], [61.0, 30.0, 100.0]];
        for (got, want) in got.iter().zip(want) {
            assert_near(got, &want, 1e-6, "by hand");
        }
    }

    /// The largest score of every prefix.
    fn tops(of: Prefixes, s: &[f64]) -> Vec<f64> {
        let most = |i: usize| s[i / of.t * of.t..=i].iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (0..s.len()).map(most).collect()
    }

    fn oracle(of: Prefixes, s: &[f64], x: &[f64], tops: &[f64]) -> Vec<f64> {
        let cell = |n: usize| {
            let (step, c) = (n / of.cols, n % of.cols);
            (step / of.t * of.t..=step).map(|i| (s[i] - tops[step]).exp() * x[i * of.cols + c]).sum()
        };
        (0..x.len()).map(cell).collect()
    }

    #[test]
    fn prefixes_agree_with_f64_and_its_differences() {
        let mut noise = Noise(12);
        for (rows, t, cols) in
            [(0, 3, 2), (2, 0, 3), (3, 4, 0), (1, 1, 1), (3, 9, 5), (2, 40, 17), (5, 200, 65)]
        {
            for spread in [1.0, 30.0] {
                let of = Prefixes { rows, t, cols };
                let s: Vec<f32> = noise.vec(rows * t).iter().map(|s| s * spread).collect();
                let (x, dy) = (noise.vec(rows * t * cols), noise.vec(rows * t * cols));
                let got = same_everywhere(|isa, pool| run(isa, pool, of, Inputs { s: &s, x: &x }, &dy));
                let (s, x) = (f64s(&s), f64s(&x));
                let tops = tops(of, &s);
                let what = format!("{of:?} {spread}");
                assert_near(&got[0], &oracle(of, &s, &x, &tops), 1e-5, &what);
                if x.len() < 500 {
                    let slopes = |x: &[f64], y: &dyn Fn(&[f64]) -> Vec<f64>| slopes(x, |x| dot(&y(x), &dy));
                    assert_near(&got[1], &slopes(&s, &|s| oracle(of, s, &x, &tops)), 1e-5, &what);
                    assert_near(&got[2], &slopes(&x, &|x| oracle(of, &s, x, &tops)), 1e-5, &what);
                }
            }
        }
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let (isa, pool, of) = (Isa::Scalar, &Pool::new(1), Prefixes { rows: 1, t: 2, cols: 1 });
        let (two, inputs) = ([0.0; 2], Inputs { s: &[0.0; 2], x: &[0.0; 2] });
        assert!(of.forward(isa, pool, inputs, &mut [0.0; 3]).is_err());
        assert!(of.forward(isa, pool, Inputs { s: &[0.0], ..inputs }, &mut [0.0; 2]).is_err());
        let ([ds, dx], one) = (&mut [[0.0; 2]; 2], &mut [0.0]);
        assert!(of.backward(isa, pool, inputs, &two, Grads { ds: one, dx }).is_err());
        assert!(of.backward(isa, pool, inputs, &two, Grads { ds, dx }).is_ok());
        assert!(of.backward(isa, pool, inputs, &[], Grads { ds, dx }).is_err());
    }
}
