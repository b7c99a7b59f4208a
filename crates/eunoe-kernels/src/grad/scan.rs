//! Sums and first-order recurrences along time.
//!
//! * Paper:    textbook
//! * Equation: y_t = Σ_{s ≤ t} x_s; h_t = a_t h_{t-1} + x_t, h_{-1} = start or 0;
//!   dx_t = dh_t + a_{t+1} dx_{t+1}, da_t = dx_t h_{t-1}, dstart = a_0 dx_0
//! * Shapes:   all [rows, t, cols], start [rows, cols]
//! * Cost:     one pass; rows and blocks of columns are tasks
//! * Differs:  nothing
//! * Oracle:   the equation in f64, and its central differences

use std::ops::Range;

use eunoe_core::Result;

use crate::pool::Shards;
use crate::{Isa, Pool};

use super::parts::{check, size};

/// Columns of one task.
const COLS: usize = 256;

/// Sizes of a sequence of each of some rows.
#[derive(Clone, Copy, Debug)]
pub struct Sequences {
    /// Sequences.
    pub rows: usize,
    /// Steps.
    pub t: usize,
    /// Values per step, each for itself.
    pub cols: usize,
}

/// The way a sum runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the first step on.
    Forward,
    /// From the last step back: the gradient of a forward sum.
    Back,
}

/// A recurrence's factors and where it starts.
#[derive(Clone, Copy)]
pub struct Decay<'a> {
    /// `[rows, t, cols]`
    pub a: &'a [f32],
    /// `[rows, cols]`; 0 where there is none.
    pub start: Option<&'a [f32]>,
}

/// Gradients of a recurrence; that of the start where it is wanted.
pub struct Grads<'a> {
    /// `[rows, t, cols]`
    pub da: &'a mut [f32],
    /// `[rows, t, cols]`
    pub dx: &'a mut [f32],
    /// `[rows, cols]`
    pub dstart: Option<&'a mut [f32]>,
}

impl Sequences {
    /// `y[t] = x[0] + … + x[t]`, or from the end.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn sum(&self, isa: Isa, pool: &Pool, way: Way, x: &[f32], y: &mut [f32]) -> Result<()> {
        check("terms", self.len(), x.len())?;
        check("sums", self.len(), y.len())?;
        let y = Shards::new(y);
        self.each(
            isa,
            pool,
            #[inline(always)]
            |row, cols, sums| {
                for i in 0..self.t {
                    let at = self.at(row, if way == Way::Forward { i } else { self.t - 1 - i }, &cols);
                    // SAFETY: tasks are different rows or columns, a step's part is gone before the next; `y` outlives
                    // the loop.
                    let y = unsafe { y.part(at.start, at.len()) };
                    for ((sum, x), y) in sums.iter_mut().zip(&x[at]).zip(y) {
                        *sum += x;
                        *y = *sum;
                    }
                }
            },
        );
        Ok(())
    }

    /// `h[t] = a[t] h[t - 1] + x[t]`.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn decay(&self, isa: Isa, pool: &Pool, decay: Decay<'_>, x: &[f32], h: &mut [f32]) -> Result<()> {
        self.check(&decay)?;
        check("terms", self.len(), x.len())?;
        check("states", self.len(), h.len())?;
        let h = Shards::new(h);
        self.each(
            isa,
            pool,
            #[inline(always)]
            |row, cols, state| {
                if let Some(start) = decay.start {
                    state.copy_from_slice(&start[row * self.cols..][cols.clone()]);
                }
                for t in 0..self.t {
                    let at = self.at(row, t, &cols);
                    // SAFETY: as in `sum`.
                    let h = unsafe { h.part(at.start, at.len()) };
                    for (((state, a), x), h) in state.iter_mut().zip(&decay.a[at.clone()]).zip(&x[at]).zip(h)
                    {
                        *state = a.mul_add(*state, *x);
                        *h = *state;
                    }
                }
            },
        );
        Ok(())
    }

    /// Gradients from those of the states, `dh`, where `h` is what [`Sequences::decay`] gave.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when sizes disagree.
    pub fn decay_backward(
        &self,
        isa: Isa,
        pool: &Pool,
        decay: Decay<'_>,
        h: &[f32],
        dh: &[f32],
        grads: Grads<'_>,
    ) -> Result<()> {
        self.check(&decay)?;
        for (what, got) in [("h", h.len()), ("dh", dh.len()), ("da", grads.da.len()), ("dx", grads.dx.len())]
        {
            check(what, self.len(), got)?;
        }
        let starts = size([self.rows, self.cols]);
        check("dstart", starts, grads.dstart.as_ref().map_or(starts, |dstart| dstart.len()))?;
        let [da, dx] = [grads.da, grads.dx].map(Shards::new);
        let dstart = grads.dstart.map(Shards::new);
        self.each(
            isa,
            pool,
            #[inline(always)]
            |row, cols, carry| {
                for t in (0..self.t).rev() {
                    let at = self.at(row, t, &cols);
                    // SAFETY: as in `sum`.
                    let (da, dx) = unsafe { (da.part(at.start, at.len()), dx.part(at.start, at.len())) };
                    let before = self.before(decay, h, row, t, &cols);
                    step_back(carry, &decay.a[at.clone()], &dh[at], before, da, dx);
                }
                if let Some(dstart) = dstart {
                    // SAFETY: tasks are different rows or columns; the buffer outlives the loop.
                    unsafe { dstart.part(row * self.cols + cols.start, cols.len()) }.copy_from_slice(carry);
                }
            },
        );
        Ok(())
    }

    fn len(&self) -> usize {
        size([self.rows, self.t, self.cols])
    }

    fn check(&self, decay: &Decay<'_>) -> Result<()> {
        let starts = size([self.rows, self.cols]);
        check("factors", self.len(), decay.a.len())?;
        check("starts", starts, decay.start.map_or(starts, <[f32]>::len))
    }

    /// Where the columns of a step lie.
    #[inline(always)]
    fn at(&self, row: usize, t: usize, cols: &Range<usize>) -> Range<usize> {
        let step = (row * self.t + t) * self.cols;
        step + cols.start..step + cols.end
    }

    /// The states before step `t`.
    #[inline(always)]
    fn before<'a>(
        &self,
        decay: Decay<'a>,
        h: &'a [f32],
        row: usize,
        t: usize,
        cols: &Range<usize>,
    ) -> &'a [f32] {
        match (t, decay.start) {
            (0, Some(start)) => &start[row * self.cols..][cols.clone()],
            (0, None) => &[0.0; COLS][..cols.len()],
            (t, _) => &h[self.at(row, t - 1, cols)],
        }
    }

    /// Calls `work(row, columns, state)` for each row and block of columns, the state 0.
    fn each(&self, isa: Isa, pool: &Pool, work: impl Fn(usize, Range<usize>, &mut [f32]) + Sync) {
        let blocks = self.cols.div_ceil(COLS);
        pool.run(self.rows * blocks, &|i| {
            let (row, first) = (i / blocks, i % blocks * COLS);
            let cols = first..self.cols.min(first + COLS);
            isa.run(
                #[inline(always)]
                || work(row, cols.clone(), &mut [0.0; COLS][..cols.len()]),
            );
        });
    }
}

#[inline(always)]
fn step_back(carry: &mut [f32], a: &[f32], dh: &[f32], before: &[f32], da: &mut [f32], dx: &mut [f32]) {
    for (((((carry, a), dh), before), da), dx) in carry.iter_mut().zip(a).zip(dh).zip(before).zip(da).zip(dx)
    {
        let grad = dh + *carry;
        *dx = grad;
        *da = grad * before;
        *carry = a * grad;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, dot, f64s, same_everywhere, slopes};
    use super::*;

    /// Two steps of two columns: (1, 2), (3, 5); sums (1, 2), (4, 7) and from the end (4, 7), (3, 5).
    #[test]
    fn sums_by_hand() {
        let of = Sequences { rows: 1, t: 2, cols: 2 };
        let got = same_everywhere(|isa, pool| sums(isa, pool, of, &[1.0, 2.0, 3.0, 5.0]));
        assert_eq!(got, [[1.0, 2.0, 4.0, 7.0], [4.0, 7.0, 3.0, 5.0]]);
    }

    fn sums(isa: Isa, pool: &Pool, of: Sequences, x: &[f32]) -> Vec<Vec<f32>> {
        let mut outs = [x.len(); 2].map(|len| vec![f32::NAN; len]);
        of.sum(isa, pool, Way::Forward, x, &mut outs[0]).expect("sizes agree");
        of.sum(isa, pool, Way::Back, x, &mut outs[1]).expect("sizes agree");
        outs.into()
    }

    /// start 2, a = (0.5, 3), x = (1, 4): h = (0.5 · 2 + 1, 3 · 2 + 4) = (2, 10). dh = (1, 10): dx_1 = 10,
    /// dx_0 = 1 + 3 · 10 = 31; da = (31 · 2, 10 · 2) = (62, 20); dstart = 0.5 · 31 = 15.5.
    #[test]
    fn a_recurrence_by_hand() {
        let of = Sequences { rows: 1, t: 2, cols: 1 };
        let decay = Decay { a: &[0.5, 3.0], start: Some(&[2.0]) };
        let got = same_everywhere(|isa, pool| decays(isa, pool, of, decay, &[1.0, 4.0], &[1.0, 10.0]));
        assert_eq!(got, [vec![2.0, 10.0], vec![62.0, 20.0], vec![31.0, 10.0], vec![15.5]]);
    }

    /// h, da, dx, dstart.
    fn decays(
        isa: Isa,
        pool: &Pool,
        of: Sequences,
        decay: Decay<'_>,
        x: &[f32],
        dh: &[f32],
    ) -> Vec<Vec<f32>> {
        let mut outs = [x.len(), x.len(), x.len(), of.rows * of.cols].map(|len| vec![f32::NAN; len]);
        let [h, da, dx, dstart] = &mut outs;
        of.decay(isa, pool, decay, x, h).expect("sizes agree");
        let grads = Grads { da, dx, dstart: Some(dstart) };
        of.decay_backward(isa, pool, decay, h, dh, grads).expect("sizes agree");
        outs.into()
    }

    const SHAPES: [Sequences; 5] = [
        Sequences { rows: 2, t: 0, cols: 3 },
        Sequences { rows: 0, t: 2, cols: 3 },
        Sequences { rows: 1, t: 1, cols: 1 },
        Sequences { rows: 3, t: 7, cols: 5 },
        Sequences { rows: 2, t: 3, cols: COLS + 3 },
    ];

    #[test]
    fn sums_agree_with_f64() {
        let mut noise = Noise(10);
        for of in SHAPES {
            let x = noise.vec(of.len());
            let got = same_everywhere(|isa, pool| sums(isa, pool, of, &x));
            let step = of.t * of.cols;
            let term = |i: usize, s: usize| f64::from(x[i / step * step + s * of.cols + i % of.cols]);
            let time = |i: usize| i % step / of.cols;
            let forward = (0..x.len()).map(|i| (0..=time(i)).map(|s| term(i, s)).sum()).collect::<Vec<f64>>();
            let back = (0..x.len()).map(|i| (time(i)..of.t).map(|s| term(i, s)).sum()).collect::<Vec<f64>>();
            assert_near(&got[0], &forward, 1e-6, "forward");
            assert_near(&got[1], &back, 1e-6, "back");
        }
    }

    fn oracle(of: Sequences, a: &[f64], x: &[f64], start: &[f64]) -> Vec<f64> {
        let mut h: Vec<f64> = Vec::new();
        for i in 0..x.len() {
            let (row, t, col) = (i / of.cols / of.t, i / of.cols % of.t, i % of.cols);
            let before = if t == 0 { start[row * of.cols + col] } else { h[i - of.cols] };
            h.push(a[i] * before + x[i]);
        }
        h
    }

    #[test]
    fn recurrences_agree_with_f64_and_its_differences() {
        let mut noise = Noise(11);
        for (of, starts) in SHAPES.iter().flat_map(|of| [(*of, true), (*of, false)]) {
            let (a, x, dh) = (noise.vec(of.len()), noise.vec(of.len()), noise.vec(of.len()));
            let start = if starts { noise.vec(of.rows * of.cols) } else { vec![0.0; of.rows * of.cols] };
            let decay = Decay { a: &a, start: starts.then_some(&start) };
            let got = same_everywhere(|isa, pool| decays(isa, pool, of, decay, &x, &dh));
            let [a, x, start] = [&a, &x, &start].map(|x| f64s(x));
            assert_near(&got[0], &oracle(of, &a, &x, &start), 1e-6, "h");
            if of.cols < COLS {
                let slopes = |x: &[f64], h: &dyn Fn(&[f64]) -> Vec<f64>| slopes(x, |x| dot(&h(x), &dh));
                assert_near(&got[1], &slopes(&a, &|a| oracle(of, a, &x, &start)), 2e-6, "da");
                assert_near(&got[2], &slopes(&x, &|x| oracle(of, &a, x, &start)), 2e-6, "dx");
                assert_near(&got[3], &slopes(&start, &|start| oracle(of, &a, &x, start)), 2e-6, "dstart");
            }
        }
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let (isa, pool, of) = (Isa::Scalar, &Pool::new(1), Sequences { rows: 1, t: 2, cols: 1 });
        let decay = Decay { a: &[0.0; 2], start: None };
        assert!(of.sum(isa, pool, Way::Back, &[0.0; 2], &mut [0.0; 3]).is_err());
        assert!(of.decay(isa, pool, Decay { a: &[0.0], ..decay }, &[0.0; 2], &mut [0.0; 2]).is_err());
        assert!(of.decay(isa, pool, Decay { start: Some(&[]), ..decay }, &[0.0; 2], &mut [0.0; 2]).is_err());
        let grads = Grads { da: &mut [0.0; 2], dx: &mut [0.0; 2], dstart: Some(&mut []) };
        assert!(of.decay_backward(isa, pool, decay, &[0.0; 2], &[0.0; 2], grads).is_err());
    }
}
