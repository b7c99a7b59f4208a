//! One training of the grid, and what it is measured by.

use std::time::Instant;

use candle_core::{D, Device};
use eunoe_core::Result;

use super::data::{Data, For};
use super::{Cell, Line, Settings};
use crate::bench::grid::{Ended, Told};
use crate::invalid;
use crate::nets::Decoder;
use crate::ops::IGNORE;
use crate::streams::{Batch, MqarShape};
use crate::train::Trainee;
use crate::{Ctx, Mixer};

/// Trains the model of a cell, and measures it on `shapes`.
pub(super) fn train(
    settings: &Settings,
    cell: &Cell,
    shapes: &[MqarShape],
    device: &Device,
    told: Told<'_>,
) -> Result<Vec<Line>> {
    let start = Instant::now();
    let data = Data::new(settings)?;
    let mut trainee = Trainee::new(&settings.model(&cell.mixer), &settings.train(cell), device)?;
    let (ended, loss) = loop {
        let step = trainee.step(|step| data.batch(cell.seed, step, device))?;
        if step.diverged().is_some() {
            break (Ended::Diverged, step.loss);
        }
        told.step(trainee.adam.step, step.loss);
        if !trainee.adam.step.is_multiple_of(settings.batches() as u64) {
            continue;
        }
        let least = least(settings, &data, &trainee.model, device).map_err(invalid)?;
        told.valid("accuracy", least);
        if least >= settings.stop_at {
            break (Ended::Solved, step.loss);
        }
        if trainee.adam.step == settings.steps() {
            break (Ended::Steps, step.loss);
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    let line = |shape: &MqarShape| -> crate::Result<Line> {
        let measure = |purpose, count| accuracy(&trainee.model, data.all(purpose, *shape, count, device));
        Ok(Line {
            mixer: cell.mixer.clone(),
            lr: cell.lr,
            seed: cell.seed,
            t: shape.t,
            pairs: shape.pairs,
            accuracy: measure(For::Test, settings.test)?,
            valid: measure(For::Validation, settings.valid)?,
            ended,
            steps: trainee.adam.step,
            loss: Some(loss).filter(|loss| loss.is_finite()),
            params: trainee.params.count(),
            state_bytes: state_bytes(&trainee.model, shape.t),
            seconds,
        })
    };
    shapes.iter().map(line).collect::<crate::Result<_>>().map_err(invalid)
}

/// The lowest accuracy of any shape on what training is stopped by.
fn least(settings: &Settings, data: &Data<'_>, model: &Decoder, device: &Device) -> crate::Result<f64> {
    settings.shapes.iter().try_fold(1.0f64, |least, shape| {
        let batches = data.all(For::Validation, *shape, settings.valid, device);
        Ok(least.min(accuracy(model, batches)?))
    })
}

/// Bytes that the mixer under test keeps of one sequence after `t` tokens.
fn state_bytes(model: &Decoder, t: usize) -> usize {
    let mixer: Option<&dyn Mixer> = model.blocks.last().map(|block| block.mixer());
    mixer.map_or(0, |mixer| mixer.cost(t).state * size_of::<f32>())
}

/// Accuracy of a model, the likeliest of all tokens being its answer.
fn accuracy(model: &Decoder, batches: impl Iterator<Item = crate::Result<Batch>>) -> crate::Result<f64> {
    let mut shares = Vec::new();
    for batch in batches {
        let batch = batch?;
        let (logits, targets) = model.answers(&batch, &mut Ctx::default())?;
        let (given, targets) = (logits.detach().argmax(D::Minus1)?.to_vec1()?, targets.to_vec1()?);
        // a batch is of one shape: as many questions in each sequence
        let each = (given.len() / batch.tokens.dim(0)?).max(1);
        shares.extend(given.chunks(each).zip(targets.chunks(each)).map(|(given, own)| share(given, own)));
    }
    Ok(shares.iter().sum::<f64>() / shares.len().max(1) as f64)
}

/// Share of a sequence's questions whose answer is the target.
fn share(given: &[u32], targets: &[u32]) -> f64 {
    let asked = || given.iter().zip(targets).filter(|(_, target)| **target != IGNORE);
    asked().filter(|(given, target)| given == target).count() as f64 / asked().count().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::{Mqar, rng};

    const SHAPE: MqarShape = MqarShape { t: 64, pairs: 8 };

    /// Mean share over sequences that `answer` is given up to each token.
    fn scored(answer: impl Fn(&[u32]) -> u32) -> f64 {
        let task = Mqar::new(64, &[SHAPE]).unwrap();
        let score = |n| {
            let (tokens, targets) = task.draw(SHAPE, &mut rng(5, n));
            let given: Vec<u32> = (0..tokens.len()).map(|i| answer(&tokens[..=i])).collect();
            share(&given, &targets)
        };
        (0..400).map(score).sum::<f64>() / 400.0
    }

    #[test]
    fn a_table_of_the_context_scores_1() {
        let looked_up = |seen: &[u32]| {
            let key = seen[seen.len() - 1];
            let pair = seen[..2 * SHAPE.pairs.min(seen.len() / 2)].chunks_exact(2).find(|p| p[0] == key);
            pair.map_or(0, |pair| pair[1])
        };
        assert_eq!(scored(looked_up), 1.0);
    }

    #[test]
    fn the_latest_value_scores_one_of_the_pairs_and_a_guess_one_of_the_values() {
        // the last value of the context answers exactly one of 8 questions
        let latest = |seen: &[u32]| seen.iter().rev().copied().find(|token| *token >= 32).unwrap_or(0);
        assert_eq!(scored(latest), 1.0 / 8.0);
        // 32 values: 1 / 32 within 4 standard errors of 3200 questions
        let fixed = scored(|_| 40);
        assert!((fixed - 1.0 / 32.0).abs() < 4.0 * (0.031f64 / 3200.0).sqrt(), "{fixed}");
        assert_eq!(scored(|_| 0), 0.0);
    }

    #[test]
    fn a_share_counts_questions_alone() {
        assert_eq!(share(&[7, 3, 9, 4], &[IGNORE, 3, IGNORE, 5]), 0.5);
    }
}
