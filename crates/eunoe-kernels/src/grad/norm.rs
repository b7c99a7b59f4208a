//! RMS norm and layer norm of rows.
//!
//! * Paper:    Zhang and Sennrich, 2019, arXiv 1910.07467, equation 4; Ba et al., 2016, arXiv 1607.06450, equation 4
//! * Equation: y = x̂ weight + bias, x̂ = (x - μ) r, r = 1 / sqrt(mean (x - μ)² + eps), μ = mean x or 0 (RMS);
//!   dx = r (g - mean g - x̂ mean(g x̂)), g = dy weight, without mean g for RMS; dweight = Σ dy x̂, dbias = Σ dy
//! * Shapes:   x, y, dx, dy [rows, width], weight, bias [width]
//! * Cost:     rows are read twice; statistics are computed again in the backward pass
//! * Differs:  nothing
//! * Oracle:   the equation in f64, and its central differences

use std::ops::Range;

use eunoe_core::{Error, Result};

use crate::pool::Shards;
use crate::{Isa, Pool};

use super::parts::{check, in_rows, rows_of_task, sum};

/// What rows are measured from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Centre {
    /// From 0: RMS norm.
    Zero,
    /// From their mean: layer norm.
    Mean,
}

/// A norm and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// What rows are measured from.
    pub centre: Centre,
    /// Added to the mean square.
    pub eps: f32,
    /// Values of a row.
    pub width: usize,
    /// `[width]`; 1 where there is none.
    pub weight: Option<&'a [f32]>,
    /// `[width]`; 0 where there is none.
    pub bias: Option<&'a [f32]>,
}

/// Gradients; those of weight and bias where they are wanted.
pub struct Grads<'a> {
    /// `[rows, width]`
    pub dx: &'a mut [f32],
    /// `[width]`
    pub dweight: Option<&'a mut [f32]>,
    /// `[width]`
    pub dbias: Option<&'a mut [f32]>,
}

/// μ and r of a row.
#[derive(Clone, Copy)]
struct Stats {
    mean: f32,
    inverse: f32,
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
        for (what, grad) in
            [("gradient of the weight", &grads.dweight), ("gradient of the bias", &grads.dbias)]
        {
            check(what, width, grad.as_ref().map_or(width, |grad| grad.len()))?;
        }
        // sums over rows: one partial sum per task, added in the order of tasks
        let tasks = rows.div_ceil(rows_of_task(width));
        let partial = |wanted: bool| vec![0.0; if wanted { tasks * width } else { 0 }];
        let (mut dweights, mut dbiases) = (partial(grads.dweight.is_some()), partial(grads.dbias.is_some()));
        let shards = (Shards::new(&mut dweights), Shards::new(&mut dbiases));
        let (has_weight, has_bias) = (grads.dweight.is_some(), grads.dbias.is_some());
        in_rows(pool, rows, width, [grads.dx], |rows, [dx]| {
            let at = rows.start / rows_of_task(width) * width;
            // SAFETY: one part per task; the partial sums outlive the loop.
            let (dweight, dbias) = unsafe {
                (
                    shards.0.part(at * usize::from(has_weight), width * usize::from(has_weight)),
                    shards.1.part(at * usize::from(has_bias), width * usize::from(has_bias)),
                )
            };
            isa.run(
                #[inline(always)]
                || self.rows_backward(rows, x, dy, [dx, dweight, dbias]),
            );
        });
        for (total, partial) in [(grads.dweight, &dweights), (grads.dbias, &dbiases)] {
            let Some(total) = total else { continue };
            total.fill(0.0);
            isa.run(
                #[inline(always)]
                || {
                    for part in partial.chunks_exact(width) {
                        add(total, part);
                    }
                },
            );
        }
        Ok(())
    }

    fn rows(&self, x: &[f32]) -> Result<usize> {
        for (what, part) in [("weight of a norm", self.weight), ("bias of a norm", self.bias)] {
            check(what, self.width, part.map_or(self.width, <[f32]>::len))?;
        }
        if self.width == 0 || !x.len().is_multiple_of(self.width) {
            return Err(Error::shape("values to norm", format!("rows of {}", self.width), x.len()));
        }
        Ok(x.len() / self.width)
    }

    #[inline(always)]
    fn stats(&self, x: &[f32]) -> Stats {
        let width = self.width as f32;
        let mean = match self.centre {
            Centre::Zero => 0.0,
            Centre::Mean => sum([x], |[x]| x) / width,
        };
        let squares = sum([x], |[x]| (x - mean) * (x - mean));
        Stats { mean, inverse: 1.0 / (squares / width + self.eps).sqrt() }
    }

    #[inline(always)]
    fn row(&self, x: &[f32], y: &mut [f32]) {
        let Stats { mean, inverse } = self.stats(x);
        for (y, x) in y.iter_mut().zip(x) {
            *y = (x - mean) * inverse;
        }
        if let Some(weight) = self.weight {
            for (y, w) in y.iter_mut().zip(weight) {
                *y *= w;
            }
        }
        if let Some(bias) = self.bias {
            for (y, b) in y.iter_mut().zip(bias) {
                *y += b;
            }
        }
    }

    /// `grads`: `dx` of these rows; sums of `dweight` and `dbias`, empty where not wanted.
    #[inline(always)]
    fn rows_backward(&self, rows: Range<usize>, x: &[f32], dy: &[f32], grads: [&mut [f32]; 3]) {
        let [dx, dweight, dbias] = grads;
        for (row, dx) in rows.zip(dx.chunks_exact_mut(self.width)) {
            let at = row * self.width..(row + 1) * self.width;
            let (x, dy) = (&x[at.clone()], &dy[at]);
            let stats = self.stats(x);
            let Stats { mean, inverse } = stats;
            for ((dweight, dy), x) in dweight.iter_mut().zip(dy).zip(x) {
                *dweight += dy * ((x - mean) * inverse);
            }
            add(dbias, dy);
            match self.weight {
                Some(weight) => {
                    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                        *dx = dy * w;
                    }
                }
                None => dx.copy_from_slice(dy),
            }
            self.through(x, stats, dx);
        }
    }

    /// From the gradient of x̂ to that of x, in place.
    #[inline(always)]
    fn through(&self, x: &[f32], stats: Stats, dx: &mut [f32]) {
        let (width, Stats { mean, inverse }) = (self.width as f32, stats);
        let level = match self.centre {
            Centre::Zero => 0.0,
            Centre::Mean => sum([dx], |[g]| g) / width,
        };
        let along = sum([dx, x], |[g, x]| g * ((x - mean) * inverse)) / width;
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = (*dx - level - (x - mean) * inverse * along) * inverse;
        }
    }
}

#[inline(always)]
fn add(total: &mut [f32], part: &[f32]) {
    for (total, part) in total.iter_mut().zip(part) {
        *total += part;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, dot, f64s, same_everywhere, slopes};
    use super::*;

    /// x = (3, 4), weight (1, 2), dy = (1, 1). RMS: mean square 12.5, r = 0.2828427, x̂ = (0.8485281, 1.1313708),
    /// y = (0.8485281, 2.2627417); g = (1, 2), mean(g x̂) = (0.8485281 + 2.2627417) / 2 = 1.5556349,
    /// dx = r (1 - 0.8485281 · 1.5556349, 2 - 1.1313708 · 1.5556349) = r (-0.32, 0.24) = (-0.0905097, 0.0678823);
    /// dweight = x̂, dbias = dy. Layer: μ = 3.5, mean square 0.25, r = 2, x̂ = (-1, 1), y = (-1, 2); mean g = 1.5,
    /// mean(g x̂) = 0.5, dx = 2 (1 - 1.5 + 0.5, 2 - 1.5 - 0.5) = 0; a row of two is normed to signs.
    #[test]
    fn norms_by_hand() {
        let (x, weight) = ([3.0, 4.0], [1.0, 2.0]);
        let root = [0.848_528_1, 1.131_370_8];
        let cases = [
            (Centre::Zero, [0.848_528_1, 2.262_741_7], root, [-0.090_509_7, 0.067_882_3]),
            (Centre::Mean, [-1.0, 2.0], [-1.0, 1.0], [0.0, 0.0]),
        ];
        for (centre, y, dweight, dx) in cases {
            let norm = Norm { centre, eps: 0.0, width: 2, weight: Some(&weight), bias: None };
            for isa in Isa::available() {
                let got = run(isa, &Pool::new(1), &norm, &x, &[1.0, 1.0]);
                for (got, want) in got.iter().zip([y, dx, dweight, [1.0, 1.0]]) {
                    assert_near(got, &want, 1e-6, "norm");
                }
            }
        }
    }

    /// y, dx, dweight, dbias.
    fn run(isa: Isa, pool: &Pool, norm: &Norm<'_>, x: &[f32], dy: &[f32]) -> Vec<Vec<f32>> {
        let mut outs = [x.len(), x.len(), norm.width, norm.width].map(|len| vec![f32::NAN; len]);
        let [y, dx, dweight, dbias] = &mut outs;
        norm.forward(isa, pool, x, y).expect("sizes agree");
        let grads = Grads { dx, dweight: Some(dweight), dbias: Some(dbias) };
        norm.backward(isa, pool, x, dy, grads).expect("sizes agree");
        outs.into()
    }

    /// The equation; `x`, then weight and bias.
    fn oracle(centre: Centre, eps: f32, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let (width, mut y) = (weight.len(), Vec::new());
        for row in x.chunks(width) {
            let mean = if centre == Centre::Mean { row.iter().sum::<f64>() / width as f64 } else { 0.0 };
            let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let r = 1.0 / (square + f64::from(eps)).sqrt();
            y.extend((0..width).map(|j| (row[j] - mean) * r * weight[j] + bias[j]));
        }
        y
    }

    #[test]
    fn norms_agree_with_f64_and_its_differences() {
        let mut noise = Noise(3);
        for centre in [Centre::Zero, Centre::Mean] {
            for (rows, width, plain) in
                [(0, 3, false), (1, 1, false), (3, 7, true), (5, 33, false), (2, 16, true)]
            {
                let (x, dy) = (noise.vec(rows * width), noise.vec(rows * width));
                let (weight, bias) = (noise.vec(width), noise.vec(width));
                let (w, b) = if plain { (None, None) } else { (Some(&*weight), Some(&*bias)) };
                let norm = Norm { centre, eps: 0.1, width, weight: w, bias: b };
                let got = same_everywhere(|isa, pool| run(isa, pool, &norm, &x, &dy));
                let weight = if plain { vec![1.0; width] } else { f64s(&weight) };
                let bias = if plain { vec![0.0; width] } else { f64s(&bias) };
                let (x, of) = (f64s(&x), |x: &[f64], w: &[f64], b: &[f64]| oracle(centre, 0.1, x, w, b));
                assert_near(&got[0], &of(&x, &weight, &bias), 2e-6, "y");
                assert_near(&got[1], &slopes(&x, |x| dot(&of(x, &weight, &bias), &dy)), 1e-5, "dx");
                assert_near(&got[2], &slopes(&weight, |w| dot(&of(&x, w, &bias), &dy)), 1e-5, "dweight");
                assert_near(&got[3], &slopes(&bias, |b| dot(&of(&x, &weight, b), &dy)), 1e-5, "dbias");
            }
        }
    }

    /// 70 rows of 1000: 5 tasks of 16 rows, the last one short.
    #[test]
    fn sums_over_rows_do_not_depend_on_threads() {
        let mut noise = Noise(4);
        let (x, dy, weight) = (noise.vec(70_000), noise.vec(70_000), noise.vec(1000));
        let norm = Norm { centre: Centre::Mean, eps: 1e-5, width: 1000, weight: Some(&weight), bias: None };
        same_everywhere(|isa, pool| run(isa, pool, &norm, &x, &dy));
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let norm = Norm { centre: Centre::Zero, eps: 0.0, width: 2, weight: Some(&[1.0; 2]), bias: None };
        let (isa, pool) = (Isa::Scalar, &Pool::new(1));
        assert!(norm.forward(isa, pool, &[0.0; 3], &mut [0.0; 3]).is_err());
        assert!(norm.forward(isa, pool, &[0.0; 4], &mut [0.0; 2]).is_err());
        assert!(Norm { width: 0, weight: None, ..norm }.forward(isa, pool, &[], &mut []).is_err());
        assert!(Norm { bias: Some(&[0.0]), ..norm }.forward(isa, pool, &[0.0; 2], &mut [0.0; 2]).is_err());
        let grads = Grads { dx: &mut [0.0; 2], dweight: Some(&mut [0.0]), dbias: None };
        assert!(norm.backward(isa, pool, &[0.0; 2], &[0.0; 2], grads).is_err());
    }
}
