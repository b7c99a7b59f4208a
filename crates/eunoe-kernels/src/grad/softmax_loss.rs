//! Cross-entropy of rows of logits.
//!
//! * Paper:    textbook
//! * Equation: loss = lse - logits[target], lse = ln Σ e^logits; dlogits = (e^(logits - lse) - onehot) dloss
//! * Shapes:   logits, dlogits [rows, vocab], targets, loss, lse, dloss [rows]
//! * Cost:     logits are read twice forward, once backward; no matrix of probabilities is kept
//! * Differs:  rows whose target is `ignore` have loss 0 and gradient 0
//! * Oracle:   the equation in f64, and its central differences

use eunoe_core::{Error, Result};

use crate::math::{Lanes, exp, fold, max};
use crate::{Isa, Pool};

use super::parts::{check, in_rows, size, sum};

/// What rows are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// Columns of the logits.
    pub vocab: usize,
    /// The right column of each row.
    pub of: &'a [u32],
    /// Rows with this target count nothing.
    pub ignore: Option<u32>,
}

impl Targets<'_> {
    /// Loss of each row, and the logarithm of its sum of e^logit (of ignored rows too).
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree or a target is not a column.
    pub fn forward(
        &self,
        isa: Isa,
        pool: &Pool,
        logits: &[f32],
        loss: &mut [f32],
        lse: &mut [f32],
    ) -> Result<()> {
        self.check(logits.len())?;
        check("losses", self.of.len(), loss.len())?;
        check("sums of rows", self.of.len(), lse.len())?;
        let vocab = self.vocab;
        in_rows(pool, self.of.len(), vocab, [loss, lse], |rows, [loss, lse]| {
            for (i, row) in rows.enumerate() {
                let logits = &logits[row * vocab..][..vocab];
                lse[i] = isa.run(
                    #[inline(always)]
                    || log_sum_exp(logits),
                );
                loss[i] = self.column(row).map_or(0.0, |column| lse[i] - logits[column]);
            }
        });
        Ok(())
    }

    /// Gradient of the logits from that of each row's loss.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree or a target is not a column.
    pub fn backward(
        &self,
        isa: Isa,
        pool: &Pool,
        logits: &[f32],
        lse: &[f32],
        dloss: &[f32],
        dlogits: &mut [f32],
    ) -> Result<()> {
        self.check(logits.len())?;
        check("gradient of the logits", logits.len(), dlogits.len())?;
        check("sums of rows", self.of.len(), lse.len())?;
        check("gradients of losses", self.of.len(), dloss.len())?;
        let vocab = self.vocab;
        in_rows(pool, self.of.len(), vocab, [dlogits], |rows, [dlogits]| {
            for (row, out) in rows.zip(dlogits.chunks_exact_mut(vocab)) {
                let Some(column) = self.column(row) else {
                    out.fill(0.0);
                    continue;
                };
                let logits = &logits[row * vocab..][..vocab];
                let (lse, dloss) = (lse[row], dloss[row]);
                isa.run(
                    #[inline(always)]
                    || {
                        for (out, x) in out.iter_mut().zip(logits) {
                            *out = exp(x - lse) * dloss;
                        }
                    },
                );
                out[column] -= dloss;
            }
        });
        Ok(())
    }

    fn check(&self, logits: usize) -> Result<()> {
        check("logits", size([self.of.len(), self.vocab]), logits)?;
        let is_column = |target: u32| (target as usize) < self.vocab || self.ignore == Some(target);
        match self.of.iter().find(|target| !is_column(**target)) {
            Some(target) => Err(Error::shape("target", format!("below {}", self.vocab), target)),
            None => Ok(()),
        }
    }

    /// The right column of a row that counts.
    fn column(&self, row: usize) -> Option<usize> {
        let target = self.of[row];
        (self.ignore != Some(target)).then_some(target as usize)
    }
}

/// Values whose powers are summed at a time.
const PIECE: usize = 256;

#[inline(always)]
fn log_sum_exp(row: &[f32]) -> f32 {
    let mut best: Lanes = [f32::NEG_INFINITY; 16];
    let (whole, rest) = row.as_chunks::<16>();
    for x in whole {
        for i in 0..16 {
            best[i] = max(x[i], best[i]);
        }
    }
    for (best, x) in best.iter_mut().zip(rest) {
        *best = max(*x, *best);
    }
    let best = fold(best, max);
    // a row of -∞ alone: ln 0
    let base = if best == f32::NEG_INFINITY { 0.0 } else { best };
    let mut total = 0.0;
    for row in row.chunks(PIECE) {
        // powers first: a loop that also folds them would not compile to vectors
        let powers = &mut [0.0; PIECE][..row.len()];
        for (power, x) in powers.iter_mut().zip(row) {
            *power = exp(x - base);
        }
        total += sum([powers], |[power]| power);
    }
    base + total.ln()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, f64s, same_everywhere, slopes};
    use super::*;

    /// Row (0, ln 3): lse = ln 4, probabilities 1/4 and 3/4. Target 0, dloss 2: loss ln 4, dlogits (-1.5, 1.5).
    #[test]
    fn a_row_by_hand() {
        let logits = [0.0, 3f32.ln(), 5.0, 5.0];
        let targets = Targets { vocab: 2, of: &[0, 9], ignore: Some(9) };
        let got = same_everywhere(|isa, pool| run(isa, pool, &targets, &logits, &[2.0, 2.0]));
        let ln2 = std::f64::consts::LN_2;
        assert_near(&got[0], &[2.0 * ln2, 0.0], 1e-6, "loss");
        assert_near(&got[1], &[2.0 * ln2, 5.0 + ln2], 1e-6, "lse");
        assert_near(&got[2], &[-1.5, 1.5, 0.0, 0.0], 1e-6, "dlogits");
    }

    /// Loss, lse, dlogits.
    fn run(isa: Isa, pool: &Pool, targets: &Targets<'_>, logits: &[f32], dloss: &[f32]) -> Vec<Vec<f32>> {
        let rows = targets.of.len();
        let mut outs = [rows, rows, logits.len()].map(|len| vec![f32::NAN; len]);
        let [loss, lse, dlogits] = &mut outs;
        targets.forward(isa, pool, logits, loss, lse).expect("sizes agree");
        targets.backward(isa, pool, logits, lse, dloss, dlogits).expect("sizes agree");
        outs.into()
    }

    #[test]
    fn losses_agree_with_f64_and_its_differences() {
        let mut noise = Noise(5);
        for (rows, vocab) in [(0, 4), (1, 1), (3, 2), (4, 17), (9, 50), (2, 20_000)] {
            let (logits, dloss) = (noise.vec(rows * vocab), noise.vec(rows));
            let of: Vec<u32> =
                (0..rows).map(|i| if i % 3 == 2 { 77_777 } else { (i * 7 % vocab) as u32 }).collect();
            let targets = Targets { vocab, of: &of, ignore: Some(77_777) };
            let got = same_everywhere(|isa, pool| run(isa, pool, &targets, &logits, &dloss));
            let losses = |logits: &[f64]| -> Vec<f64> {
                let row = |i: usize| &logits[i * vocab..(i + 1) * vocab];
                let lse = |i: usize| row(i).iter().map(|x| x.exp()).sum::<f64>().ln();
                (0..rows).map(|i| if i % 3 == 2 { 0.0 } else { lse(i) - row(i)[of[i] as usize] }).collect()
            };
            let logits = f64s(&logits);
            assert_near(&got[0], &losses(&logits), 1e-6, "loss");
            if vocab < 100 {
                let total = |x: &[f64]| losses(x).iter().zip(&dloss).map(|(l, g)| l * f64::from(*g)).sum();
                assert_near(&got[2], &slopes(&logits, total), 1e-6, "dlogits");
            }
        }
    }

    #[test]
    fn far_logits_neither_overflow_nor_vanish() {
        let logits = [1000.0, 0.0, f32::NEG_INFINITY, -1000.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let targets = Targets { vocab: 3, of: &[1, 7], ignore: Some(7) };
        let got = same_everywhere(|isa, pool| run(isa, pool, &targets, &logits, &[1.0, 1.0]));
        assert_eq!(got[0], [1000.0, 0.0]);
        assert_eq!(got[1], [1000.0, -1000.0]);
        assert_eq!(got[2], [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn sizes_and_targets_that_disagree_are_refused() {
        let (isa, pool) = (Isa::Scalar, &Pool::new(1));
        let targets = Targets { vocab: 2, of: &[2], ignore: None };
        let [loss, lse] = &mut [[0.0], [0.0]];
        assert!(targets.forward(isa, pool, &[0.0; 2], loss, lse).is_err(), "target 2 of 2 columns");
        let targets = Targets { of: &[1], ..targets };
        assert!(targets.forward(isa, pool, &[0.0; 2], loss, lse).is_ok());
        assert!(targets.forward(isa, pool, &[0.0; 4], loss, lse).is_err());
        assert!(targets.forward(isa, pool, &[0.0; 2], &mut [], lse).is_err());
        assert!(targets.backward(isa, pool, &[0.0; 2], lse, &[1.0], &mut [0.0; 1]).is_err());
        assert!(targets.backward(isa, pool, &[0.0; 2], lse, &[], &mut [0.0; 2]).is_err());
    }
}
