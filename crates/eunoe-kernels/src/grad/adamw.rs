//! One step of AdamW, and the sum of squares that clipping needs.
//!
//! * Paper:    Loshchilov and Hutter, 2017, arXiv 1711.05101, algorithm 2
//! * Equation: g ← scale g; m ← β₁ m + (1 - β₁) g; v ← β₂ v + (1 - β₂) g²;
//!   p ← p (1 - lr decay) - lr m̂ / (sqrt v̂ + eps), m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ)
//! * Shapes:   p, g, m, v of one length
//! * Cost:     one pass: four reads, three writes
//! * Differs:  decay is multiplied by the learning rate, as everybody does
//! * Oracle:   the equation in f64

use eunoe_core::{Error, Result};

use crate::pool::Shards;
use crate::{Isa, Pool};

use super::parts::{PART, check, in_rows};

/// One step's numbers.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// β₁, β₂.
    pub betas: [f64; 2],
    /// Added to the root of v̂.
    pub eps: f64,
    /// Weight decay.
    pub decay: f64,
    /// t, from 1.
    pub step: u32,
    /// Factor on the gradient: what clipping leaves of it.
    pub scale: f64,
}

/// What a step changes.
pub struct State<'a> {
    /// Parameters.
    pub p: &'a mut [f32],
    /// First moment.
    pub m: &'a mut [f32],
    /// Second moment.
    pub v: &'a mut [f32],
}

impl AdamW {
    /// One step with the gradient `g`.
    ///
    /// # Errors
    /// [`Error::Shape`] when lengths differ, [`Error::Invalid`] at step 0.
    pub fn step(&self, isa: Isa, pool: &Pool, g: &[f32], state: State<'_>) -> Result<()> {
        let State { p, m, v } = state;
        for (what, got) in [("parameters", p.len()), ("first moments", m.len()), ("second moments", v.len())]
        {
            check(what, g.len(), got)?;
        }
        if self.step == 0 {
            return Err(Error::Invalid("steps of AdamW count from 1".to_owned()));
        }
        let [b1, b2] = self.betas.map(|beta| beta as f32);
        let [c1, c2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let [fix1, fix2] = self.betas.map(|beta| 1.0 - beta.powf(f64::from(self.step)));
        let (rate, root) = ((self.lr / fix1) as f32, (1.0 / fix2) as f32);
        let (keep, eps, scale) = ((1.0 - self.lr * self.decay) as f32, self.eps as f32, self.scale as f32);
        in_rows(pool, g.len(), 1, [p, m, v], |rows, [p, m, v]| {
            let g = &g[rows];
            isa.run(
                #[inline(always)]
                || {
                    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                        let g = g * scale;
                        *m = b1.mul_add(*m, c1 * g);
                        *v = b2.mul_add(*v, c2 * (g * g));
                        *p = keep * *p - rate * *m / ((*v * root).sqrt() + eps);
                    }
                },
            );
        });
        Ok(())
    }
}

/// Σ x², in f64 and in one fixed order.
pub fn sum_squares(isa: Isa, pool: &Pool, x: &[f32]) -> f64 {
    let mut parts = vec![0.0f64; x.len().div_ceil(PART)];
    let shared = Shards::new(&mut parts);
    pool.run(x.len().div_ceil(PART), &|i| {
        // SAFETY: one part per task; `parts` outlives the loop.
        let part = unsafe { shared.part(i, 1) };
        part[0] = isa.run(
            #[inline(always)]
            || squares(&x[i * PART..x.len().min((i + 1) * PART)]),
        );
    });
    parts.iter().sum()
}

/// In 16 lanes, folded one after the other.
#[inline(always)]
fn squares(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        for i in 0..16 {
            lanes[i] += f64::from(x[i]) * f64::from(x[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*x) * f64::from(*x);
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, f64s, same_everywhere};
    use super::*;

    const ADAM: AdamW = AdamW { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, decay: 0.5, step: 1, scale: 0.5 };

    /// p, m, v after a step.
    fn run(isa: Isa, pool: &Pool, adam: AdamW, g: &[f32], state: [&[f32]; 3]) -> Vec<Vec<f32>> {
        let [mut p, mut m, mut v] = state.map(<[f32]>::to_vec);
        adam.step(isa, pool, g, State { p: &mut p, m: &mut m, v: &mut v }).expect("sizes agree");
        vec![p, m, v]
    }

    /// g = 4 · 0.5 = 2; m = 0.1 · 2 = 0.2, v = 0.01 · 4 = 0.04; m̂ = 0.2 / 0.1 = 2, v̂ = 0.04 / 0.01 = 4;
    /// p = 3 (1 - 0.1 · 0.5) - 0.1 · 2 / 2 = 2.75. The next step, with g = 0: m = 0.18, v = 0.0396,
    /// m̂ = 0.18 / 0.19 = 0.9473684, v̂ = 0.0396 / 0.0199 = 1.9899497, p = 2.6125 - 0.09473684 / 1.4106558 = 2.5453419.
    #[test]
    fn two_steps_by_hand() {
        let got = same_everywhere(|isa, pool| run(isa, pool, ADAM, &[4.0], [&[3.0], &[0.0], &[0.0]]));
        assert_near(&got.concat(), &[2.75, 0.2, 0.04], 1e-6, "step 1");
        let next = AdamW { step: 2, ..ADAM };
        let got = same_everywhere(|isa, pool| run(isa, pool, next, &[0.0], [&got[0], &got[1], &got[2]]));
        assert_near(&got.concat(), &[2.545_341_9, 0.18, 0.0396], 1e-6, "step 2");
    }

    #[test]
    fn steps_agree_with_f64() {
        let mut noise = Noise(8);
        for len in [0, 1, 19, 50_000] {
            let (g, p, m) = (noise.vec(len), noise.vec(len), noise.vec(len));
            let v: Vec<f32> = noise.vec(len).iter().map(|v| v.abs()).collect();
            let adam = AdamW { step: 1000, decay: 0.01, ..ADAM };
            let got = same_everywhere(|isa, pool| run(isa, pool, adam, &g, [&p, &m, &v]));
            let [g, p, m, v] = [&g, &p, &m, &v].map(|x| f64s(x));
            let m: Vec<f64> = (0..len).map(|i| 0.9 * m[i] + 0.1 * 0.5 * g[i]).collect();
            let v: Vec<f64> = (0..len).map(|i| 0.99 * v[i] + 0.01 * (0.5 * g[i]).powi(2)).collect();
            let corrected = |i: usize| (v[i] / (1.0 - 0.99f64.powi(1000))).sqrt() + 1e-8;
            let step = |i: usize| p[i] * 0.999 - 0.1 * m[i] / (1.0 - 0.9f64.powi(1000)) / corrected(i);
            assert_near(&got[0], &(0..len).map(step).collect::<Vec<_>>(), 1e-6, "p");
            assert_near(&got[1], &m, 1e-6, "m");
            assert_near(&got[2], &v, 1e-6, "v");
        }
    }

    #[test]
    fn squares_are_summed_in_one_order() {
        assert_eq!(sum_squares(Isa::detect(), &Pool::new(1), &[3.0, 4.0]), 25.0);
        let mut noise = Noise(9);
        for len in [0, 1, 31, 3 * PART + 5] {
            let x = noise.vec(len);
            let want = f64s(&x).iter().map(|x| x * x).sum::<f64>();
            let got = sum_squares(Isa::Scalar, &Pool::new(1), &x);
            assert!((got - want).abs() <= 1e-12 * want, "{got}, expected {want}");
            for isa in Isa::available() {
                assert!([1, 3].iter().all(|n| sum_squares(isa, &Pool::new(*n), &x) == got), "{isa:?}");
            }
        }
    }

    #[test]
    fn what_is_no_step_is_refused() {
        let (isa, pool, [p, m, v]) = (Isa::Scalar, &Pool::new(1), &mut [[0.0; 2]; 3]);
        assert!(ADAM.step(isa, pool, &[0.0], State { p, m, v }).is_err());
        let first = AdamW { step: 0, ..ADAM };
        assert!(first.step(isa, pool, &[0.0; 2], State { p, m, v }).is_err());
    }
}
