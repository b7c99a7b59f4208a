//! Keeps the tokens that were hardest to predict when they came (names, numbers, rare words), and the newest ones.
//!
//! * Paper:    Yao et al., 2024, arXiv 2405.12528, section 3
//! * Equation: score\[k\] = -ln P(x_k | x_<k) * gamma^b, b = floor(now / every) - floor(pos_k / every)
//! * Shapes:   column \[t\], the same in every strip → scores \[t\]
//! * Cost:     one f32 per slot; the head's logits for prompt tokens too; a chunk is at most `recent` rows, since a
//!   surprisal is known only after the forward pass of its token
//! * Differs:  evicts when a strip is full, `step` slots at a time, where the authors evict between turns; fades per
//!   block of `every` tokens instead of per turn; `recent` is above their 0, for the reason given. Scores are
//!   logarithms, so that old ones do not underflow. The authors' code stores, for token i, the probability of a
//!   repeated x_{i-1}: it gathers the input token at the logits' own position. We follow the paper
//! * Oracle:   the product, written down, over random surprisals

use eunoe_core::{Arg, Card, Kind, Shelf};

use crate::common::{COUNT, STEP, arg, sinks, step};
use crate::{Column, Needs, Place, Policy, PolicyEntry, Pos, Strip};

const RECENT: Arg = arg(
    "recent",
    COUNT,
    "64, at most slots/4",
    "newest tokens that are never evicted, and the longest prefill chunk",
);
const GAMMA: Arg = arg(
    "gamma",
    Kind::Float { min: 0.0, max: 1.0 },
    "1",
    "what is left of a surprisal one block later; 1 never fades",
);
const EVERY: Arg = arg("every", COUNT, "64", "tokens in a block");

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "sirllm",
        shelf: Shelf::Policy,
        name: "SirLLM",
        paper: "Yao 2024, arXiv 2405.12528",
        idea: "keeps the tokens that were hardest to predict, fading with age if asked",
        args: &[sinks("4"), RECENT, GAMMA, EVERY, STEP],
    },
    make: |args, slots| {
        Ok(Box::new(Sirllm {
            sinks: args.int("sinks"),
            recent: args.given_int("recent").unwrap_or((slots / 4).clamp(1, 64)),
            gamma: args.float("gamma"),
            every: args.int("every"),
            step: step(args, slots),
        }))
    },
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Sirllm {
    sinks: u32,
    recent: u32,
    gamma: f32,
    every: u32,
    step: u32,
}

impl Policy for Sirllm {
    fn needs(&self) -> Needs {
        Needs {
            column: Column::Surprisal,
            place: Place::Rank,
            sinks: self.sinks,
            recent: self.recent,
            step: self.step,
            ..Needs::PLAIN
        }
    }

    fn score(&self, _layer: usize, _kv_head: usize, strip: Strip<'_>, now: Pos, out: &mut [f32]) {
        // Surprisals and gammas below the least normal f32 count as it: the logarithm stays finite.
        let ln = |x: f32| f64::from(x.max(f32::MIN_POSITIVE)).ln();
        for ((out, pos), surprisal) in out.iter_mut().zip(strip.pos).zip(strip.column) {
            let blocks = now / self.every - pos / self.every;
            *out = (ln(*surprisal) + f64::from(blocks) * ln(self.gamma)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{self, Text};

    #[test]
    fn surprisal_halves_with_every_block() {
        // every = 2, now = 6: blocks ago 3 3 2 2 1 1 0, counted from the start of the text, not from now;
        // 8/8 = 1, 1/8 = 0.125, 3/4 = 0.75, 1/4 = 0.25, 1/2 = 0.5, 0.5, 1.
        let policy = sim::policy("sirllm(gamma=0.5, every=2, recent=1)", 8);
        let pos = [0, 1, 2, 3, 4, 5, 6];
        let got = sim::scores(policy.as_ref(), &pos, &[8.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0], 6);
        let want = [1.0, 0.125, 0.75, 0.25, 0.5, 0.5, 1.0];
        assert!(got.iter().zip(want).all(|(got, want)| (got.exp() - want).abs() < 1e-5), "{got:?}");
    }

    #[test]
    fn kept_sets_are_those_of_the_equation() {
        for (gamma, every, cap, sinks, recent, step) in
            [(1.0, 64, 12, 4, 3, 1), (0.7, 4, 9, 0, 1, 1), (0.9, 7, 33, 2, 8, 5), (0.0, 8, 20, 1, 2, 3)]
        {
            let plan =
                format!("sirllm(gamma={gamma}, every={every}, sinks={sinks}, recent={recent}, step={step})");
            let text = Text::random(u64::from(cap), 1, 120);
            let want = sim::literal(&text, cap, step, sinks, recent, |rows, live| {
                let block = |pos: usize| (pos / every) as i32;
                let ago = |k: Pos| block(rows.len() - 1) - block(k as usize);
                let faded =
                    |k: &Pos| f64::from(text.surprisal[*k as usize]) * f64::max(gamma, 1e-30).powi(ago(*k));
                live.iter().map(faded).collect()
            });
            assert_eq!(sim::stream(sim::policy(&plan, cap).as_ref(), cap, &text), want, "{plan}");
        }
    }

    #[test]
    fn fading_makes_the_kept_younger_and_old_ones_keep_their_order() {
        let text = Text::random(3, 1, 400);
        let age = |gamma: &str| {
            let policy =
                sim::policy(&format!("sirllm(sinks=0, recent=1, every=16, step=1, gamma={gamma})"), 40);
            let kept = sim::stream(policy.as_ref(), 40, &text).pop().unwrap();
            400 - kept[kept.len() / 2]
        };
        assert!(age("0.7") < age("1") / 2, "{} {}", age("0.7"), age("1"));
        // 0.5^1000 underflows even in f64; the younger block must still win.
        let policy = sim::policy("sirllm(gamma=0.5, every=1)", 64);
        let scores = sim::scores(policy.as_ref(), &[0, 1, 1999], &[1.0, 1.0, 0.0], 1999);
        assert!(scores[0] < scores[1] && scores.iter().all(|s| s.is_finite()));
    }
}
