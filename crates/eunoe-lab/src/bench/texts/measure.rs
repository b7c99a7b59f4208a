//! What a trained model is measured by: losses by position, and attention to the first token.

use candle_core::{DType, Device, Tensor};

use crate::bench::grid::Told;
use crate::nets::Decoder;
use crate::streams::{Batch, Text};
use crate::{Ctx, Result, State, ops};

/// Windows at a time, at the length of training.
const ROWS: usize = 32;
/// Length of the windows of the sink metric, and how many there are at most: the metric depends on the length, so both are
/// the paper's (Gu, 2024, arXiv 2410.10781).
const SINK_T: usize = 64;
const SINK_WINDOWS: usize = 100;
/// A head attends to the first token above this mean weight.
const SINK_ABOVE: f64 = 0.3;

/// Mean nats per symbol at each position of windows of `t`, at most `most` of them, each from an empty state, which is
/// carried from one piece of `piece` symbols to the next.
pub(super) fn by_position(
    model: &Decoder,
    text: &Text,
    (t, piece): (usize, usize),
    most: usize,
    device: &Device,
    told: Told<'_>,
) -> Result<Vec<f64>> {
    let (mut sums, mut count) = (vec![0.0; t], 0);
    let mut windows = text.windows((ROWS * piece / t).max(1), t, most);
    while let Some(batch) = windows.next_on(device) {
        let Batch { tokens, targets, .. } = batch?;
        let mut states = Vec::new();
        for from in (0..t).step_by(piece) {
            let c = piece.min(t - from);
            let (tokens, targets) = (tokens.narrow(1, from, c)?, targets.narrow(1, from, c)?);
            let (logits, after) = model.run(&tokens.contiguous()?, states, &mut Ctx::default())?;
            states = after.iter().map(State::detach).collect();
            let nll = ops::nll(&logits.detach().flatten_to(1)?, &targets.flatten_all()?)?;
            for (n, nll) in nll.to_vec1::<f32>()?.into_iter().enumerate() {
                sums[from + n % c] += f64::from(nll);
            }
        }
        count += tokens.dim(0)?;
        told.measures();
    }
    Ok(sums.into_iter().map(|sum| sum / count.max(1) as f64).collect())
}

/// The mean; `None` where it is no number, as behind the length of training it may be.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    mean.is_finite().then_some(mean)
}

/// Attention to the first token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sinks {
    /// Share of heads whose mean weight on it is above 0.3.
    pub(super) share: f64,
    /// Mean weight of all heads.
    pub(super) mean: f64,
    /// The same of the sizes of the weights that values are multiplied by.
    pub(super) applied: f64,
}

/// Attention to the first token over windows of 64 tokens: per head the mean weight over the rows that see it, which are
/// all. Weights that need not sum to one are divided by the sum of their sizes, and told as they are too: a head that is off
/// everywhere looks at something. `None` where no layer shows its weights.
pub(super) fn sinks(model: &Decoder, text: &Text, device: &Device) -> Result<Option<Sinks>> {
    let (mut heads, mut applied) = (Vec::new(), Vec::new());
    let mut windows = text.windows(ROWS, SINK_T, SINK_WINDOWS);
    while let Some(batch) = windows.next_on(device) {
        let mut take = |name: &'static str, weights: &Tensor| -> Result<()> {
            if name == "attn" {
                let [of_all, as_they_are] = first_column(weights)?;
                heads.extend(of_all);
                applied.extend(as_they_are);
            }
            Ok(())
        };
        let mut ctx = Ctx { probe: Some(&mut take), ..Ctx::default() };
        model.run(&batch?.tokens, Vec::new(), &mut ctx)?;
    }
    let above = heads.iter().filter(|weight| **weight > SINK_ABOVE).count();
    let share = above as f64 / heads.len() as f64;
    Ok(mean(&heads).zip(mean(&applied)).map(|(mean, applied)| Sinks { share, mean, applied }))
}

/// Mean size of the first key's weight over all rows, per sequence and head, of weights `[b, h, t, t]`: as a share of all sizes,
/// and as it is.
fn first_column(weights: &Tensor) -> Result<[Vec<f64>; 2]> {
    let sizes = weights.detach().abs()?.to_dtype(DType::F32)?;
    let total = (sizes.sum_keepdim(3)? + f64::from(f32::MIN_POSITIVE))?;
    let first = sizes.narrow(3, 0, 1)?;
    let mean = |weights: Tensor| weights.mean(2)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1();
    Ok([mean(first.broadcast_div(&total)?)?, mean(first)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::grid::Silent;
    use crate::nets::{Config, Params};

    #[test]
    fn the_share_of_the_first_token_by_hand() {
        // head 0 is uniform over what it sees: (1 + 1/2 + 1/3) / 3; head 1 looks at the first token alone, in weights that
        // do not sum to one, one of them below 0
        let uniform = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0 / 3.0; 3]];
        let first = [[0.2, 0.0, 0.0], [-3.0, 0.0, 0.0], [7.0, 0.0, 0.0]];
        let weights = Tensor::new(&[[uniform, first]], &Device::Cpu).unwrap();
        let [shares, applied] = first_column(&weights).unwrap();
        let near = |got: &[f64], want: [f64; 2]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(&shares, [11.0 / 18.0, 1.0]), "{shares:?}");
        assert!(near(&applied, [11.0 / 18.0, (0.2 + 3.0 + 7.0) / 3.0]), "{applied:?}");
    }

    fn model(mixer: &str) -> Decoder {
        let mixers = vec![mixer.to_owned()];
        let config = Config { d_model: 8, layers: 2, heads: 2, d_ff: 8, mixers, ..Config::default() };
        Decoder::new(&config, &mut Params::new(3, DType::F32, &Device::Cpu)).unwrap()
    }

    #[test]
    fn only_mixers_with_weights_have_sinks() {
        let text = Text::new((0..200).collect(), 0).unwrap();
        // with first weights that are nearly 0 attention is uniform: the mean of 1 / i up to 64 is 0.0741
        let near = |mixer: &str, weight: f64, applied: f64| {
            let found = sinks(&model(mixer), &text, &Device::Cpu).unwrap().unwrap();
            assert!(found.share == 0.0 && (found.mean - weight).abs() < 1e-3, "{mixer}: {found:?}");
            assert!((found.applied - applied).abs() < 1e-3, "{mixer}: {found:?}");
        };
        near("softmax_attention", 0.0741, 0.0741);
        // a sigmoid of nearly 0 is a half, however many keys there are
        near("sink_attention(form=sigmoid)", 0.0741, 0.5);
        // a window of one token is all on the token itself, which is the first in one row of 64
        near("softmax_attention(window=1)", 1.0 / 64.0, 1.0 / 64.0);
        assert_eq!(sinks(&model("lightning_attention"), &text, &Device::Cpu).unwrap(), None);
    }

    #[test]
    fn a_carried_state_gives_the_losses_of_one_piece() {
        let text = Text::new((0..=255).cycle().take(500).collect(), 0).unwrap();
        let model = model("softmax_attention");
        let told = Told { worker: 0, progress: &Silent };
        let whole = by_position(&model, &text, (48, 48), 9, &Device::Cpu, told).unwrap();
        let pieces = by_position(&model, &text, (48, 20), 9, &Device::Cpu, told).unwrap();
        let far = whole.iter().zip(&pieces).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(whole.len() == 48 && far < 1e-5, "{far}");
        let total = crate::train::evaluate(&model, &text, 48, 9, &Device::Cpu).unwrap();
        assert!((mean(&whole).unwrap() - total).abs() < 1e-6, "{whole:?} {total}");
    }

    #[test]
    fn a_mean_is_a_number_or_nothing() {
        assert_eq!(
            [mean(&[1.0, 3.0]), mean(&[1.0, f64::NAN]), mean(&[f64::INFINITY]), mean(&[])],
            [Some(2.0), None, None, None]
        );
    }
}
