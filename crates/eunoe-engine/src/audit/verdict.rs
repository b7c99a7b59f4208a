//! How likely it is that full memory would have answered right where a plan did not.
//!
//! A logistic model of a few measurements; its weights were fitted on some items of an evaluation and tested on others.
//! `docs/audit.md` says which, and how well it tells the two apart.

use super::canary::Canaries;
use super::divergence::Divergence;
use super::weights;
use serde::Serialize;

/// Nats added before a logarithm, so that no divergence is a number.
const FLOOR: f64 = 1e-3;

/// Risk below which a plan counts as harmless, and from which as harmful.
const BORDERS: [f64; 2] = [0.15, 0.5];

/// A risk as a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Full memory would hardly have answered better.
    Harmless,
    /// It cannot be told.
    Doubtful,
    /// Full memory would probably have answered better.
    Harmful,
}

impl Verdict {
    /// The word for a risk.
    pub fn of(risk: f64) -> Self {
        match risk {
            risk if risk < BORDERS[0] => Self::Harmless,
            risk if risk < BORDERS[1] => Self::Doubtful,
            _ => Self::Harmful,
        }
    }

    /// The word in a sentence.
    pub(super) fn words(self, risk: f64) -> String {
        let percent = 100.0 * risk;
        match self {
            Self::Harmless => format!(
                "harmless: full memory would hardly have answered better (estimated chance {percent:.0} %)"
            ),
            Self::Doubtful => {
                format!("doubtful: full memory might have answered better (estimated chance {percent:.0} %)")
            }
            Self::Harmful => format!(
                "harmful: full memory would probably have answered better (estimated chance {percent:.0} %); give more \
                 memory, or let the plan grow with `run --escalate`"
            ),
        }
    }
}

/// What can be told of an answer without full memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Outlook {
    /// `ln P` of the answer's tokens under the plan, mean.
    pub log_prob_mean: f64,
    /// The least of them.
    pub log_prob_min: f64,
    /// Share of the planted sentences that the plan does not repeat; 0 where none were planted.
    pub canaries_lost: f64,
    /// Whether they could be planted; where not, the risk is at least that of doubt.
    pub is_planted: bool,
    /// Share of slots evicted or waiting in a cold tier.
    pub gone: f64,
    /// Chance, 0 to 1, that full memory would have answered right where the plan did not, as calibrated.
    pub risk: f64,
}

impl Outlook {
    /// Of the answer's log-probabilities, the planted sentences repeated, if any could be planted, and the share of slots that
    /// are gone.
    pub(super) fn new(log_probs: &[f64], recited: Option<&[bool]>, gone: f64) -> Self {
        let log_prob_mean = log_probs.iter().sum::<f64>() / log_probs.len().max(1) as f64;
        let log_prob_min = log_probs.iter().copied().fold(0.0, f64::min);
        let of = recited.unwrap_or_default();
        let lost = of.iter().filter(|has| !**has).count();
        let canaries_lost = lost as f64 / of.len().max(1) as f64;
        let is_planted = recited.is_some();
        let x = [log_prob_mean, log_prob_min, canaries_lost];
        // where nothing is gone, nothing is lost
        let risk = match gone > 0.0 {
            true => at_least_doubt(logistic(&weights::OUTLOOK, &x), is_planted),
            false => 0.0,
        };
        Self { log_prob_mean, log_prob_min, canaries_lost, is_planted, gone, risk }
    }
}

/// A risk told without planted sentences is no less than doubt.
pub(super) fn at_least_doubt(risk: f64, is_planted: bool) -> f64 {
    if is_planted { risk } else { risk.max(BORDERS[0]) }
}

/// The measurements from which the risk is told, in the order of the weights.
pub(super) fn measurements(
    whole: &Divergence,
    answer: &Divergence,
    forgotten: f64,
    canaries: Option<&Canaries>,
) -> [f64; 5] {
    let log = |kl: f64| (kl + FLOOR).ln();
    let lost = canaries.map_or(0.0, |c| 1.0 - c.survived);
    [log(answer.kl_mean), 1.0 - answer.top1_agreement, forgotten, lost, log(whole.kl_mean)]
}

/// Chance that full memory would have answered right where the plan did not.
pub(super) fn risk(measurements: &[f64; 5]) -> f64 {
    logistic(&weights::AUDIT, measurements)
}

/// `1 / (1 + exp(-(w₀ + Σ wᵢ xᵢ)))`.
fn logistic(weights: &[f64], x: &[f64]) -> f64 {
    let sum = weights[0] + weights[1..].iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
    1.0 / (1.0 + (-sum).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_model_by_hand() {
        // 1 + 2 · 3 - 1 · 7 = 0: one half
        assert_eq!(logistic(&[1.0, 2.0, -1.0], &[3.0, 7.0]), 0.5);
        assert!((logistic(&[3f64.ln()], &[]) - 0.75).abs() < 1e-12);
    }

    #[test]
    fn risks_become_words() {
        assert_eq!([0.0, 0.149, 0.15, 0.499, 0.5, 1.0].map(Verdict::of).map(|v| v as u8), [0, 0, 1, 1, 2, 2]);
        assert!(Verdict::Harmful.words(0.75).contains("75 %"));
    }

    #[test]
    fn an_outlook_has_the_mean_and_the_least_and_no_risk_where_nothing_is_gone() {
        let outlook = Outlook::new(&[-1.0, -3.0], Some(&[true, false, false, false]), 0.5);
        assert_eq!((outlook.log_prob_mean, outlook.log_prob_min, outlook.canaries_lost), (-2.0, -3.0, 0.75));
        assert!(outlook.risk > 0.0);
        assert_eq!(Outlook::new(&[-9.0], Some(&[]), 0.0).risk, 0.0);
        assert!(Outlook::new(&[0.0], None, 0.001).risk >= BORDERS[0]);
    }
}
