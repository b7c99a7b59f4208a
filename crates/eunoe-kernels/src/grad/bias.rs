//! The same row added to all rows.
//!
//! * Paper:    none
//! * Equation: y = x + b; dx = dy, db = Σ_rows dy
//! * Shapes:   x, y, dy [rows, width], b, db [width]
//! * Cost:     one pass each way
//! * Differs:  nothing
//! * Oracle:   the sum in f64

use eunoe_core::{Error, Result};

use crate::{Isa, Pool};

use super::parts::{check, in_rows, in_rows_and_sums};

/// y.
///
/// # Errors
/// [`Error::Shape`] when sizes disagree.
pub fn forward(isa: Isa, pool: &Pool, x: &[f32], bias: &[f32], y: &mut [f32]) -> Result<()> {
    let (rows, width) = (rows(x, bias)?, bias.len());
    check("rows with a bias", x.len(), y.len())?;
    in_rows(pool, rows, width, [y], |rows, [y]| {
        isa.run(
            #[inline(always)]
            || {
                let x = x[rows.start * width..].chunks_exact(width);
                for (x, y) in x.zip(y.chunks_exact_mut(width)) {
                    for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
                        *y = x + b;
                    }
                }
            },
        );
    });
    Ok(())
}

/// db; dx is `dy` itself.
///
/// # Errors
/// [`Error::Shape`] when sizes disagree.
pub fn backward(isa: Isa, pool: &Pool, dy: &[f32], dbias: &mut [f32]) -> Result<()> {
    let (rows, width) = (rows(dy, dbias)?, dbias.len());
    in_rows_and_sums(
        (isa, pool),
        rows,
        width,
        [],
        dbias,
        #[inline(always)]
        |rows, [], sums| {
            for dy in dy[rows.start * width..rows.end * width].chunks_exact(width) {
                for (sum, dy) in sums.iter_mut().zip(dy) {
                    *sum += dy;
                }
            }
        },
    );
    Ok(())
}

fn rows(x: &[f32], bias: &[f32]) -> Result<usize> {
    if bias.is_empty() || !x.len().is_multiple_of(bias.len()) {
        return Err(Error::shape("values with a bias", format!("rows of {}", bias.len()), x.len()));
    }
    Ok(x.len() / bias.len())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, same_everywhere};
    use super::*;

    #[test]
    fn a_bias_is_added_to_every_row_and_its_gradient_is_their_sum() {
        let mut noise = Noise(8);
        // 700 rows of 100: several tasks, the last one short
        for (rows, width) in [(0, 3), (1, 1), (5, 17), (700, 100)] {
            let (x, bias) = (noise.vec(rows * width), noise.vec(width));
            let got = same_everywhere(|isa, pool| {
                let (mut y, mut dbias) = (vec![f32::NAN; x.len()], vec![f32::NAN; width]);
                forward(isa, pool, &x, &bias, &mut y).expect("sizes agree");
                backward(isa, pool, &x, &mut dbias).expect("sizes agree");
                vec![y, dbias]
            });
            let column = |c: usize| (0..rows).map(|row| f64::from(x[row * width + c])).sum();
            assert_near(&got[1], &(0..width).map(column).collect::<Vec<f64>>(), 1e-5, "dbias");
            let y: Vec<f32> = x.iter().zip(bias.iter().cycle()).map(|(x, b)| x + b).collect();
            assert_eq!(got[0], y);
        }
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        let (isa, pool) = (Isa::Scalar, &Pool::new(1));
        assert!(forward(isa, pool, &[0.0; 3], &[0.0; 2], &mut [0.0; 3]).is_err());
        assert!(forward(isa, pool, &[0.0; 4], &[0.0; 2], &mut [0.0; 2]).is_err());
        assert!(forward(isa, pool, &[], &[], &mut []).is_err());
        assert!(backward(isa, pool, &[0.0; 3], &mut [0.0; 2]).is_err());
    }
}
