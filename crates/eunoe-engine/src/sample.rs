//! From logits to a token: penalties, temperature, top-k, top-p, min-p, and the logarithms of probabilities.

use crate::engine::log_sum_exp;
use crate::generate::Guide;
use eunoe_core::{Error, Result};
use std::collections::HashMap;

/// How the next token is chosen. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy: the likeliest token, the lower id of equals.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability; 1 is all.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest; 0 is all.
    pub min_p: f32,
    /// Divides positive logits of tokens that occurred, multiplies negative ones; 1 is none.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that the answer holds.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens for each time that the answer holds them.
    pub frequency_penalty: f32,
    /// Tokens with what is added to their logits after penalties; a token named twice gets both.
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same answer.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// # Errors
    /// [`Error::Invalid`] naming the value that cannot be.
    pub fn check(&self) -> Result<()> {
        let rules = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            ("repetition-penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "above 0"),
            ("presence-penalty", self.presence_penalty, true, "a number"),
            ("frequency-penalty", self.frequency_penalty, true, "a number"),
        ];
        for (name, value, holds, want) in rules {
            if !holds || !value.is_finite() {
                return Err(Error::Invalid(format!("{name} `{value}` is not {want}")));
            }
        }
        match self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            Some((token, bias)) => {
                Err(Error::Invalid(format!("logit-bias `{bias}` of token {token} is not a number")))
            }
            None => Ok(()),
        }
    }
}

/// Chooses tokens; remembers what was said, for penalties.
pub struct Sampler {
    rule: Sampling,
    random: fastrand::Rng,
    /// Times in the answer; 0 for tokens of the prompt only.
    counts: HashMap<u32, u32>,
}

impl Sampler {
    /// A sampler after `prompt`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the value that cannot be.
    pub fn new(rule: &Sampling, prompt: &[u32]) -> Result<Self> {
        rule.check()?;
        let counts = match rule.repetition_penalty == 1.0 {
            true => HashMap::new(),
            false => prompt.iter().map(|t| (*t, 0)).collect(),
        };
        Ok(Self { rule: rule.clone(), random: fastrand::Rng::with_seed(rule.seed), counts })
    }

    /// The next token. The order of operations: penalties, biases, guide, temperature, top-k, top-p, min-p, draw.
    ///
    /// # Errors
    /// Those of the guide, which says what may come after penalties and biases.
    pub fn next(&mut self, logits: &[f32], guide: Option<&mut (dyn Guide + 'static)>) -> Result<u32> {
        let mut logits = logits.to_vec();
        self.penalise(&mut logits);
        self.bias(&mut logits);
        if let Some(guide) = guide {
            guide.mask(&mut logits)?;
        }
        let token = match self.rule.temperature == 0.0 {
            true => top(&logits, 1)[0].0,
            false => self.draw(&logits),
        };
        *self.counts.entry(token).or_default() += 1;
        Ok(token)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let r = &self.rule;
        for (token, count) in &self.counts {
            let Some(logit) = logits.get_mut(*token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / r.repetition_penalty } else { *logit * r.repetition_penalty };
            if *count > 0 {
                *logit -= r.presence_penalty + r.frequency_penalty * *count as f32;
            }
        }
    }

    /// Tokens outside the vocabulary are passed over.
    fn bias(&self, logits: &mut [f32]) {
        for (token, bias) in &self.rule.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let r = &self.rule;
        let count = if r.top_k == 0 { logits.len() } else { r.top_k.min(logits.len()) };
        let mut kept = top(logits, count);
        let most = f64::from(kept[0].1);
        let mut weights: Vec<f64> =
            kept.iter().map(|(_, l)| ((f64::from(*l) - most) / f64::from(r.temperature)).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let nucleus = weights.iter().take_while(|w| {
            let before = sum;
            sum += **w / total;
            before < f64::from(r.top_p)
        });
        let keep = nucleus.count().max(1);
        // What a guide made impossible weighs nothing, and must not be what rounding leaves at the end.
        let stays = |w: &&f64| **w > 0.0 && **w >= f64::from(r.min_p);
        let keep = weights[..keep].iter().take_while(stays).count().max(1);
        kept.truncate(keep);
        weights.truncate(keep);
        let mut at = self.random.f64() * weights.iter().sum::<f64>();
        for ((token, _), weight) in kept.iter().zip(&weights) {
            at -= weight;
            if at < 0.0 {
                return *token;
            }
        }
        kept[keep - 1].0
    }
}

/// The `count` tokens of highest logit, highest first, of equals the lower id first; NaN ranks lowest.
pub(crate) fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let rank = |l: f32| if l.is_nan() { f32::NEG_INFINITY } else { l };
    let order = |a: &(u32, f32), b: &(u32, f32)| rank(b.1).total_cmp(&rank(a.1)).then(a.0.cmp(&b.0));
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    if count < all.len() && count > 0 {
        all.select_nth_unstable_by(count - 1, order);
    }
    all.truncate(count);
    all.sort_unstable_by(order);
    all
}

/// The `count` likeliest tokens with the logarithms of their probabilities.
pub fn top_log_probs(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let norm = log_sum_exp(logits);
    top(logits, count).into_iter().map(|(t, l)| (t, (f64::from(l) - norm) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(rule: Sampling) -> Sampler {
        Sampler::new(&rule, &[]).unwrap()
    }

    #[test]
    fn greedy_takes_the_lower_id_of_equals() {
        assert_eq!(sampler(Sampling::default()).next(&[1.0, 3.0, 3.0, f32::NAN], None).unwrap(), 1);
    }

    /// Logits ln 4, ln 3, ln 2, ln 1: probabilities 0.4, 0.3, 0.2, 0.1.
    #[test]
    fn truncations_keep_what_they_say() {
        let logits: Vec<f32> = [4.0f32, 3.0, 2.0, 1.0].iter().map(|p| p.ln()).collect();
        let seen = |rule: Sampling| {
            let mut hits = [0u32; 4];
            let mut sampler = sampler(rule);
            (0..4000).for_each(|_| {
                sampler.counts.clear();
                hits[sampler.next(&logits, None).unwrap() as usize] += 1;
            });
            hits
        };
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let all = seen(base.clone());
        for (hits, want) in all.iter().zip([1600, 1200, 800, 400]) {
            assert!(hits.abs_diff(want) < 150, "{all:?}");
        }
        let only = |hits: [u32; 4]| hits.map(|h| h > 0);
        assert_eq!(only(seen(Sampling { top_k: 2, ..base.clone() })), [true, true, false, false]);
        // 0.4 + 0.3 reaches 0.6, 0.4 + 0.3 + 0.2 is the first to reach 0.75; 0.2 is half of 0.4
        assert_eq!(only(seen(Sampling { top_p: 0.6, ..base.clone() })), [true, true, false, false]);
        assert_eq!(only(seen(Sampling { top_p: 0.75, ..base.clone() })), [true, true, true, false]);
        assert_eq!(only(seen(Sampling { min_p: 0.49, ..base.clone() })), [true, true, true, false]);
        assert_eq!(seen(base.clone()), seen(base), "same seed, same draws");
    }

    /// Token 0 said twice: 2.0 / 2 - 0.5 - 2 * 0.1 = 0.3; token 1 only in the prompt: -1 * 2 = -2.
    #[test]
    fn penalties_by_hand() {
        let rule = Sampling {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.1,
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(&rule, &[1]).unwrap();
        sampler.counts.insert(0, 2);
        let mut logits = [2.0, -1.0, 0.25];
        sampler.penalise(&mut logits);
        assert!((logits[0] - 0.3).abs() < 1e-6 && logits[1] == -2.0 && logits[2] == 0.25, "{logits:?}");
    }

    /// Repetition makes 2 of 4 for token 1, then the biases 2 + 0.5 - 1.5 = 1; the other way it would be
    /// (4 + 0.5 - 1.5) / 2 = 1.5. Token 0 has 0.5 + 0.75 = 1.25, between the two; token 9 is not there.
    #[test]
    fn biases_are_added_after_penalties_by_hand() {
        let logit_bias = vec![(1, 0.5), (9, 4.0), (0, 0.75), (1, -1.5)];
        let rule = Sampling { repetition_penalty: 2.0, logit_bias, ..Sampling::default() };
        let mut sampler = Sampler::new(&rule, &[1]).unwrap();
        assert_eq!(sampler.next(&[0.5, 4.0, -1.0], None).unwrap(), 0);
    }

    /// Only the token of the middle may come: the bias comes before that.
    struct Middle(Vec<f32>);

    impl Guide for Middle {
        fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
            self.0 = logits.to_vec();
            (logits[0], logits[2]) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            Ok(())
        }

        fn accept(&mut self, _: u32) -> Result<bool> {
            Ok(false)
        }
    }

    #[test]
    fn no_bias_outweighs_a_guide() {
        for temperature in [0.0, 1.0] {
            let logit_bias = vec![(0, 100.0), (1, -100.0)];
            let rule = Sampling { temperature, logit_bias, ..Sampling::default() };
            let mut guide = Middle(Vec::new());
            for seed in 0..50 {
                let mut sampler = sampler(Sampling { seed, ..rule.clone() });
                assert_eq!(sampler.next(&[0.0, 1.0, 2.0], Some(&mut guide)).unwrap(), 1);
            }
            assert_eq!(guide.0, [100.0, -99.0, 2.0]);
        }
    }

    #[test]
    fn values_that_cannot_be_are_named() {
        for (rule, name) in [
            (Sampling { temperature: -1.0, ..Sampling::default() }, "temperature"),
            (Sampling { top_p: 0.0, ..Sampling::default() }, "top-p"),
            (Sampling { min_p: f32::NAN, ..Sampling::default() }, "min-p"),
            (Sampling { repetition_penalty: 0.0, ..Sampling::default() }, "repetition-penalty"),
            (Sampling { logit_bias: vec![(7, f32::NAN)], ..Sampling::default() }, "of token 7"),
        ] {
            assert!(rule.check().unwrap_err().to_string().contains(name));
        }
    }

    #[test]
    fn log_probs_sum_to_one() {
        let all = top_log_probs(&[0.5, -3.0, 2.0], 3);
        let sum: f32 = all.iter().map(|(_, l)| l.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6 && all[0].0 == 2, "{all:?}");
    }
}
