//! Rotation of heads by their positions, and back.
//!
//! * Paper:    Su et al., 2021, arXiv 2104.09864, equation 15 (angles as [`crate::rope`] says)
//! * Equation: the pair (a, b) at position p → (a cos pθ - b sin pθ, a sin pθ + b cos pθ); its gradient turns back
//! * Shapes:   x, y [.., t, d]; the first `rope.dims()` of d turn
//! * Cost:     angles are computed once per model and length
//! * Differs:  nothing
//! * Oracle:   the equation in f64; turning back is the transpose

use eunoe_core::{Error, Result};

use crate::rope::Rope;
use crate::{Isa, Pool};

use super::parts::{check, in_rows, size};

/// The rotations of `t` positions one after another.
pub struct Turns<'a> {
    rope: &'a Rope,
    t: usize,
    /// `[t, dims]`: cosines, then sines.
    forward: Vec<f32>,
    /// The same with negative sines.
    back: Vec<f32>,
}

impl<'a> Turns<'a> {
    /// The rotations of positions `offset`, …, `offset + t - 1`.
    ///
    /// # Errors
    /// [`Error::Limit`] when a position has more than 32 bits.
    pub fn new(rope: &'a Rope, offset: u32, t: usize) -> Result<Self> {
        let dims = rope.dims();
        if t as u64 > (1 << 32) - u64::from(offset) {
            let hint = "start earlier or take shorter sequences".to_owned();
            let asked = u64::from(offset).saturating_add(t as u64);
            return Err(Error::Limit { what: "positions".to_owned(), asked, have: 1 << 32, hint });
        }
        let mut forward = vec![0.0; t * dims];
        forward.chunks_exact_mut(dims).zip(offset..=u32::MAX).for_each(|(turn, pos)| rope.angles(pos, turn));
        let mut back = forward.clone();
        for turn in back.chunks_exact_mut(dims) {
            turn[dims / 2..].iter_mut().for_each(|sin| *sin = -*sin);
        }
        Ok(Self { rope, t, forward, back })
    }

    /// Turns each head of `x` `[.., t, head_dim]` by its position.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree.
    pub fn forward(&self, isa: Isa, pool: &Pool, head_dim: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
        self.turn(isa, pool, &self.forward, head_dim, x, y)
    }

    /// Turns each head of `dy` back: the gradient of what [`Turns::forward`] turned.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree.
    pub fn backward(&self, isa: Isa, pool: &Pool, head_dim: usize, dy: &[f32], dx: &mut [f32]) -> Result<()> {
        self.turn(isa, pool, &self.back, head_dim, dy, dx)
    }

    fn turn(
        &self,
        isa: Isa,
        pool: &Pool,
        turns: &[f32],
        head_dim: usize,
        x: &[f32],
        y: &mut [f32],
    ) -> Result<()> {
        let dims = self.rope.dims();
        check("turned heads", x.len(), y.len())?;
        let positions = size([self.t, head_dim]);
        if head_dim < dims || !(x.is_empty() || positions > 0 && x.len().is_multiple_of(positions)) {
            let want = format!("heads of at least {dims}, {} positions each", self.t);
            return Err(Error::shape("heads to turn", want, (x.len(), head_dim)));
        }
        in_rows(pool, x.len() / head_dim, head_dim, [y], |rows, [y]| {
            isa.run(
                #[inline(always)]
                || {
                    y.copy_from_slice(&x[rows.start * head_dim..rows.end * head_dim]);
                    for (row, head) in rows.zip(y.chunks_exact_mut(head_dim)) {
                        self.rope.rotate(head, &turns[row % self.t * dims..][..dims]);
                    }
                },
            );
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, same_everywhere};
    use super::*;
    use crate::rope::Style;

    /// Scale π/2 and one pair: position 1 is a quarter turn, (1, 2) → (-2, 1), position 2 a half one, (3, 4) → (-3, -4).
    /// The third value does not turn. Backward: (1, 2) → (2, -1) and (3, 4) → (-3, -4).
    #[test]
    fn turns_by_hand() {
        let rope = Rope::new(Style::Neox, 2, 1e4, std::f64::consts::FRAC_PI_2, None).expect("even");
        let turns = Turns::new(&rope, 1, 2).expect("few");
        let x = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let got = same_everywhere(|isa, pool| run(isa, pool, &turns, 3, &x));
        assert_near(&got[0], &[-2.0, 1.0, 9.0, -3.0, -4.0, 9.0], 1e-6, "forward");
        assert_near(&got[1], &[2.0, -1.0, 9.0, -3.0, -4.0, 9.0], 1e-6, "backward");
    }

    fn run(isa: Isa, pool: &Pool, turns: &Turns<'_>, head_dim: usize, x: &[f32]) -> Vec<Vec<f32>> {
        let mut outs = [x.len(); 2].map(|len| vec![f32::NAN; len]);
        turns.forward(isa, pool, head_dim, x, &mut outs[0]).expect("sizes agree");
        turns.backward(isa, pool, head_dim, x, &mut outs[1]).expect("sizes agree");
        outs.into()
    }

    #[test]
    fn turns_agree_with_f64_and_back_is_the_transpose() {
        let mut noise = Noise(7);
        for (heads, t, head_dim, dims, offset) in [(0, 2, 4, 4, 0), (3, 1, 8, 6, 5), (5, 70, 66, 64, 1000)] {
            let rope = Rope::new(Style::Neox, dims, 1e4, 1.0, None).expect("even");
            let turns = Turns::new(&rope, offset, t).expect("few");
            let x = noise.vec(heads * t * head_dim);
            let got = same_everywhere(|isa, pool| run(isa, pool, &turns, head_dim, &x));
            for (got, sign) in got.iter().zip([1.0, -1.0]) {
                let of = |i: usize| {
                    let (at, pos) = (i % head_dim, f64::from(offset) + (i / head_dim % t) as f64);
                    let pair = at % (dims / 2);
                    let (sin, cos) = (sign * pos * 1e4f64.powf(-2.0 * pair as f64 / dims as f64)).sin_cos();
                    let value = |at: usize| f64::from(x[i / head_dim * head_dim + at]);
                    match at {
                        at if at < dims / 2 => value(at) * cos - value(at + dims / 2) * sin,
                        at if at < dims => value(pair) * sin + value(at) * cos,
                        at => value(at),
                    }
                };
                assert_near(got, &(0..x.len()).map(of).collect::<Vec<_>>(), 1e-6, "turned");
            }
        }
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let rope = Rope::new(Style::Neox, 4, 1e4, 1.0, None).expect("even");
        let (isa, pool, turns) = (Isa::Scalar, &Pool::new(1), Turns::new(&rope, 0, 2).expect("few"));
        assert!(turns.forward(isa, pool, 4, &[0.0; 8], &mut [0.0; 8]).is_ok());
        assert!(turns.forward(isa, pool, 4, &[0.0; 8], &mut [0.0; 4]).is_err());
        assert!(turns.forward(isa, pool, 4, &[0.0; 4], &mut [0.0; 4]).is_err(), "half of the positions");
        assert!(
            turns.backward(isa, pool, 2, &[0.0; 8], &mut [0.0; 8]).is_err(),
            "a head shorter than what turns"
        );
        assert!(Turns::new(&rope, u32::MAX, 1).is_ok() && Turns::new(&rope, u32::MAX, 2).is_err());
    }
}
