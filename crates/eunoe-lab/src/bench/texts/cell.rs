//! One training of the grid, and its measurements.

use std::time::Instant;

use candle_core::Device;
use eunoe_core::Result;

use super::measure::{Sinks, by_position, mean, sinks};
use super::{Cell, Line, Point, Settings, Texts};
use crate::bench::grid::{Ended, Told};
use crate::invalid;
use crate::nets::Decoder;
use crate::train::Trainee;

/// Trains the model of a cell and measures it.
pub(super) fn train(
    settings: &Settings,
    texts: &Texts,
    cell: &Cell,
    device: &Device,
    told: Told<'_>,
) -> Result<Line> {
    let start = Instant::now();
    let (model, config) = (settings.model_of(&cell.mixer)?, settings.train_of(cell));
    let (t, every) = (config.seq_len, config.steps.div_ceil(settings.points));
    let mut trainee = Trainee::new(&model, &config, device)?;
    let (mut curve, mut busy) = (Vec::new(), 0.0);
    let ended = loop {
        let began = Instant::now();
        let step = trainee.step(|n| texts.train.batch(config.seed, n, (config.batch, t), device))?;
        busy += began.elapsed().as_secs_f64();
        if step.diverged().is_some() {
            break Ended::Diverged;
        }
        let taken = trainee.adam.step;
        told.step(taken, step.loss);
        if taken == 1 || taken.is_multiple_of(every) || taken == config.steps {
            let point = point(settings, texts, &trainee, device, told).map_err(invalid)?;
            told.valid("loss", point.valid.unwrap_or(f64::NAN));
            curve.push(point);
        }
        if taken == config.steps {
            break Ended::Steps;
        }
    };
    let tokens = trainee.adam.step as f64 * (config.batch * config.accumulate * t) as f64;
    let mut line = Line {
        mixer: cell.mixer.clone(),
        lr: cell.lr,
        seed: cell.seed,
        valid: None,
        test: None,
        positions: Vec::new(),
        curve,
        ended,
        steps: trainee.adam.step,
        d_ff: model.d_ff,
        params: trainee.params.count(),
        state_bytes: [t, t * settings.beyond].map(|t| state_bytes(&trainee.model, t)),
        tokens_per_s: tokens / busy,
        seconds: 0.0,
    };
    if ended == Ended::Steps {
        finish(settings, texts, &trainee.model, device, &mut line, told).map_err(invalid)?;
    }
    line.seconds = start.elapsed().as_secs_f64();
    Ok(line)
}

fn point(
    settings: &Settings,
    texts: &Texts,
    trainee: &Trainee,
    device: &Device,
    told: Told<'_>,
) -> crate::Result<Point> {
    let t = settings.train.seq_len;
    let valid = mean(&by_position(&trainee.model, &texts.valid, (t, t), settings.windows, device, told)?);
    let sinks = sinks(&trainee.model, &texts.valid, device)?;
    let of = |value: fn(Sinks) -> f64| sinks.map(value);
    let (sink, first, applied) = (of(|s| s.share), of(|s| s.mean), of(|s| s.applied));
    Ok(Point { step: trainee.adam.step, valid, sink, first, applied })
}

/// What is measured at the end of a training that did not diverge.
fn finish(
    settings: &Settings,
    texts: &Texts,
    model: &Decoder,
    device: &Device,
    line: &mut Line,
    told: Told<'_>,
) -> crate::Result<()> {
    let t = settings.train.seq_len;
    let all = |text, t, piece| by_position(model, text, (t, piece), usize::MAX, device, told);
    line.valid = mean(&all(&texts.valid, t, t)?);
    line.test = mean(&all(&texts.test, t, t)?);
    let long = all(&texts.test, t * settings.beyond, t)?;
    let parts = buckets(t, settings.beyond).into_iter();
    line.positions = parts.map(|(from, upto)| (from, upto, mean(&long[from..upto]))).collect();
    Ok(())
}

/// Up to an eighth of a window, a half, the whole, and its doublings.
fn buckets(t: usize, beyond: usize) -> Vec<(usize, usize)> {
    let mut ends = vec![0, t / 8, t / 2];
    ends.extend(std::iter::successors(Some(t), |end| Some(2 * end)).take_while(|end| *end < t * beyond));
    ends.push(t * beyond);
    ends.dedup();
    ends.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// Bytes that all layers keep of one sequence after `t` tokens.
fn state_bytes(model: &Decoder, t: usize) -> usize {
    model.blocks.iter().map(|block| block.mixer().cost(t).state * size_of::<f32>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_a_window() {
        let doublings = [(0, 64), (64, 256), (256, 512), (512, 1024), (1024, 2048), (2048, 4096)];
        assert_eq!(buckets(512, 8), doublings);
        assert_eq!(buckets(512, 3)[3..], [(512, 1024), (1024, 1536)]);
        assert_eq!(buckets(1, 1), [(0, 1)]);
    }
}
