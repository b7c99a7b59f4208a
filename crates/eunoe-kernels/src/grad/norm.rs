//! RMS norm of rows.
//!
//! * Paper:    Zhang and Sennrich, 2019, arXiv 1910.07467, equation 4
//! * Equation: y = x̂ weight, x̂ = x r, r = 1 / sqrt(mean x² + eps); dx = r (g - x̂ mean(g x̂)), g = dy weight;
//!   dweight = Σ dy x̂
//! * Shapes:   x, y, dx, dy [rows, width], weight [width]
//! * Cost:     rows are read twice; statistics are computed again in the backward pass
//! * Differs:  nothing
//! * Oracle:   the equation in f64, and its central differences

use std::ops::Range;

use eunoe_core::{Error, Result};

use crate::{Isa, Pool};

use super::parts::{check, in_rows, in_rows_and_sums, sum};

/// A norm and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Added to the mean square.
    pub eps: f32,
    /// Values of a row.
    pub width: usize,
    /// `[width]`; 1 where there is none.
    pub weight: Option<&'a [f32]>,
}

/// Gradients; that of the weight where it is wanted.
pub struct Grads<'a> {
    /// `[rows, width]`
    pub dx: &'a mut [f32],
    /// `[width]`
    pub dweight: Option<&'a mut [f32]>,
}

impl Norm<'_> {
    /// `y` of each row of `x`.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree.
    pub fn forward(&self, isa: Isa, pool: &Pool, x: &[f32], y: &mut [f32]) -> Result<()> {
        let rows = self.rows(x)?;
        check("normed rows", x.len(), y.len())?;
        let width = self.width;
        in_rows(pool, rows, width, [y], |rows, [y]| {
            isa.run(
                #[inline(always)]
                || {
                    let x = &x[rows.start * width..rows.end * width];
                    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                        self.row(x, y);
                    }
                },
            );
        });
        Ok(())
    }

    /// Gradients from that of `y`.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree.
    pub fn backward(&self, isa: Isa, pool: &Pool, x: &[f32], dy: &[f32], grads: Grads<'_>) -> Result<()> {
        let (rows, width) = (self.rows(x)?, self.width);
        check("gradient of normed rows", x.len(), dy.len())?;
        check("gradient of rows", x.len(), grads.dx.len())?;
        check("gradient of the weight", width, grads.dweight.as_ref().map_or(width, |grad| grad.len()))?;
        let dweight = grads.dweight.unwrap_or_default();
        in_rows_and_sums(
            (isa, pool),
            rows,
            width,
            [grads.dx],
            dweight,
            #[inline(always)]
            |rows, [dx], dweight| self.rows_backward(rows, x, dy, [dx, dweight]),
        );
        Ok(())
    }

    fn rows(&self, x: &[f32]) -> Result<usize> {
        check("weight of a norm", self.width, self.weight.map_or(self.width, <[f32]>::len))?;
        if self.width == 0 || !x.len().is_multiple_of(self.width) {
            return Err(Error::shape("values to norm", format!("rows of {}", self.width), x.len()));
        }
        Ok(x.len() / self.width)
    }

    /// r of a row.
    #[inline(always)]
    fn inverse(&self, x: &[f32]) -> f32 {
        1.0 / (sum([x], |[x]| x * x) / self.width as f32 + self.eps).sqrt()
    }

    #[inline(always)]
    fn row(&self, x: &[f32], y: &mut [f32]) {
        let inverse = self.inverse(x);
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * inverse;
        }
        if let Some(weight) = self.weight {
            for (y, w) in y.iter_mut().zip(weight) {
                *y *= w;
            }
        }
    }

    /// `dx` of these rows; sums of `dweight`, empty where not wanted.
    #[inline(always)]
    fn rows_backward(&self, rows: Range<usize>, x: &[f32], dy: &[f32], [dx, dweight]: [&mut [f32]; 2]) {
        for (row, dx) in rows.zip(dx.chunks_exact_mut(self.width)) {
            let at = row * self.width..(row + 1) * self.width;
            let (x, dy) = (&x[at.clone()], &dy[at]);
            let inverse = self.inverse(x);
            for ((dweight, dy), x) in dweight.iter_mut().zip(dy).zip(x) {
                *dweight += dy * (x * inverse);
            }
            match self.weight {
                Some(weight) => {
                    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                        *dx = dy * w;
                    }
                }
                None => dx.copy_from_slice(dy),
            }
            self.through(x, inverse, dx);
        }
    }

    /// From the gradient of x̂ to that of x, in place.
    #[inline(always)]
    fn through(&self, x: &[f32], inverse: f32, dx: &mut [f32]) {
        let along = sum([dx, x], |[g, x]| g * (x * inverse)) / self.width as f32;
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = (*dx - x * inverse * along) * inverse;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, dot, f64s, same_everywhere, slopes};
    use super::*;

    /// x = (3, 4), weight (1, 2), dy = (1, 1): mean square 12.5, r = 0.2828427, x̂ = (0.8485281, 1.1313708),
    /// y = (0.8485281, 2.2627417); g = (1, 2), mean(g x̂) = (0.8485281 + 2.2627417) / 2 = 1.5556349,
    /// dx = r (1 - 0.8485281 · 1.5556349, 2 - 1.1313708 · 1.5556349) = r (-0.32, 0.24) = (-0.0905097, 0.0678823);
    /// dweight = x̂.
    #[test]
    fn a_norm_by_hand() {
        let norm = Norm { eps: 0.0, width: 2, weight: Some(&[1.0, 2.0]) };
        let got = same_everywhere(|isa, pool| run(isa, pool, &norm, &[3.0, 4.0], &[1.0, 1.0]));
        let want = [[0.848_528_1, 2.262_741_7], [-0.090_509_7, 0.067_882_3], [0.848_528_1, 1.131_370_8]];
        for (got, want) in got.iter().zip(want) {
            assert_near(got, &want, 1e-6, "norm");
        }
    }

    /// y, dx, dweight.
    fn run(isa: Isa, pool: &Pool, norm: &Norm<'_>, x: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
        let mut outs = [x.len(), x.len(), norm.width].map(|len| vec![f32::NAN; len]);
        let [y, dx, dweight] = &mut outs;
        norm.forward(isa, pool, x, y).expect("sizes agree");
        norm.backward(isa, pool, x, dy, Grads { dx, dweight: Some(dweight) }).expect("sizes agree");
        outs.into()
    }

    /// The equation.
    fn oracle(eps: f32, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let (width, mut y) = (weight.len(), Vec::new());
        for row in x.chunks(width) {
            let square = row.iter().map(|x| x.powi(2)).sum::<f64>() / width as f64;
            let r = 1.0 / (square + f64::from(eps)).sqrt();
            y.extend((0..width).map(|j| row[j] * r * weight[j]));
        }
        y
    }

    #[test]
    fn norms_agree_with_f64_and_its_differences() {
        let mut noise = Noise(3);
        for (rows, width, plain) in
            [(0, 3, false), (1, 1, false), (3, 7, true), (5, 33, false), (2, 16, true)]
        {
            let (x, dy, weight) = (noise.vec(rows * width), noise.vec(rows * width), noise.vec(width));
            let norm = Norm { eps: 0.1, width, weight: (!plain).then_some(&*weight) };
            let got = same_everywhere(|isa, pool| run(isa, pool, &norm, &x, &dy));
            let weight = if plain { vec![1.0; width] } else { f64s(&weight) };
            let x = f64s(&x);
            assert_near(&got[0], &oracle(0.1, &x, &weight), 2e-6, "y");
            assert_near(&got[1], &slopes(&x, |x| dot(&oracle(0.1, x, &weight), &dy)), 1e-5, "dx");
            assert_near(&got[2], &slopes(&weight, |w| dot(&oracle(0.1, &x, w), &dy)), 1e-5, "dweight");
        }
    }

    /// 70 rows of 1000: 5 tasks of 16 rows, the last one short.
    #[test]
    fn sums_over_rows_do_not_depend_on_threads() {
        let mut noise = Noise(4);
        let (x, dy, weight) = (noise.vec(70_000), noise.vec(70_000), noise.vec(1000));
        let norm = Norm { eps: 1e-5, width: 1000, weight: Some(&weight) };
        same_everywhere(|isa, pool| run(isa, pool, &norm, &x, &dy));
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let norm = Norm { eps: 0.0, width: 2, weight: Some(&[1.0; 2]) };
        let (isa, pool) = (Isa::Scalar, &Pool::new(1));
        assert!(norm.forward(isa, pool, &[0.0; 3], &mut [0.0; 3]).is_err());
        assert!(norm.forward(isa, pool, &[0.0; 4], &mut [0.0; 2]).is_err());
        assert!(Norm { width: 0, weight: None, ..norm }.forward(isa, pool, &[], &mut []).is_err());
        assert!(Norm { weight: Some(&[0.0]), ..norm }.forward(isa, pool, &[0.0; 2], &mut [0.0; 2]).is_err());
        let grads = Grads { dx: &mut [0.0; 2], dweight: Some(&mut [0.0]) };
        assert!(norm.backward(isa, pool, &[0.0; 2], &[0.0; 2], grads).is_err());
    }
}
