//! Gives the few heads that fetch from far back the whole text, and all others the first tokens and the newest.
//!
//! * Paper:    Xiao et al., 2024, arXiv 2410.10819, section 2
//! * Equation: retrieval heads see k ≤ q; others see k < sinks or q - k < recent
//! * Shapes:   no column; positions \[t\] → scores \[t\]; one flag per layer and KV head
//! * Cost:     KV slots r n + (1 - r) (sinks + recent + step), and attention likewise
//! * Differs:  heads are chosen by detection scores of this machine (`eunoe probe retrieval_heads`), not by trained
//!   gates; the mask holds from the first token on (authors: the first chunk is dense); `step` tokens leave at once
//! * Oracle:   the mask of the equation, row by row

use eunoe_core::{Arg, Card, Kind, Result, Shape, Shelf};

use crate::common::{COUNT, TWO, arg, recent, sinks};
use crate::policies::random::mix;
use crate::profile::top;
use crate::{Claim, Needs, Policy, PolicyEntry, Profile};

const RATIO: Arg =
    arg("ratio", Kind::Float { min: 0.0, max: 1.0 }, "0.5", "share of KV heads that keep the whole text");
/// One token is protected while `step` others leave.
const RECENT: Arg = Arg { kind: TWO, ..recent("256") };
const SPLIT: Arg = arg(
    "split",
    Kind::Choice(&["top", "random", "bottom"]),
    "top",
    "which heads keep it: those that retrieve most, as many at random, or those that retrieve least",
);
const STEP: Arg = arg("step", COUNT, "16", "slots dropped at once when a strip is full");

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "duo_attention",
        shelf: Shelf::Policy,
        name: "DuoAttention",
        paper: "Xiao 2024, arXiv 2410.10819",
        idea: "keeps everything in the heads that retrieve, and the first and newest tokens in the others",
        args: &[RATIO, sinks("64"), RECENT, SPLIT, STEP],
    },
    make: |args, _| {
        Ok(Box::new(DuoAttention {
            ratio: args.float("ratio"),
            sinks: args.int("sinks"),
            recent: args.int("recent"),
            split: args.word("split"),
            step: args.int("step"),
            kv_heads: 1,
            full: Vec::new(),
        }))
    },
};

/// See the module.
#[derive(Clone, Debug)]
pub struct DuoAttention {
    ratio: f32,
    sinks: u32,
    recent: u32,
    split: &'static str,
    step: u32,
    kv_heads: usize,
    /// One per strip, layer-major: keeps the whole text.
    full: Vec<bool>,
}

impl Policy for DuoAttention {
    fn needs(&self) -> Needs {
        Needs { sinks: self.sinks, step: self.step, profile: true, ..Needs::PLAIN }
    }

    fn bind(&mut self, shape: &Shape, profile: Option<&Profile>) -> Result<()> {
        let profile = Profile::given(profile, shape)?;
        let retrieval = profile.of_strips(&profile.retrieval);
        let induction = profile.of_strips(&profile.induction);
        let count = (f64::from(self.ratio) * retrieval.len() as f64).round() as usize;
        self.kv_heads = profile.kv_heads;
        self.full = match self.split {
            "top" => top(&retrieval, &induction, count),
            "bottom" => top(&retrieval, &induction, retrieval.len() - count).iter().map(|top| !top).collect(),
            _ => {
                let drawn: Vec<f32> = (0..retrieval.len() as u64).map(|i| (mix(i) >> 40) as f32).collect();
                top(&drawn, &induction, count)
            }
        };
        Ok(())
    }

    fn claim(&self, layer: usize, kv_head: usize, _longest: u32) -> Claim {
        match self.full.get(layer * self.kv_heads + kv_head) {
            Some(true) => Claim::Whole,
            _ => Claim::Fixed(self.sinks.saturating_add(self.recent).saturating_add(self.step - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::profile::tests::{SHAPE, small};
    use crate::sim::{self, Text};
    use crate::{Claim, Plan};

    fn claims(plan: &str) -> Vec<bool> {
        let mut policy = Plan::parse(plan).unwrap().make_policy(99).unwrap();
        policy.bind(&SHAPE, Some(&small())).unwrap();
        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(l, h)| policy.claim(l, h, 500) == Claim::Whole).into()
    }

    #[test]
    fn the_heads_that_retrieve_keep_everything() {
        // Groups score 0.1, 0, 0, 0.9 by retrieval, and 0.5, 0.3, 0, 0.1 by induction, which breaks the tie.
        assert_eq!(claims("duo_attention"), [true, false, false, true]);
        assert_eq!(claims("duo_attention(ratio=0.75)"), [true, true, false, true]);
        assert_eq!(claims("duo_attention(ratio=0)"), [false; 4]);
        assert_eq!(claims("duo_attention(split=bottom)"), [false, true, true, false]);
        assert_eq!(claims("duo_attention(split=random)").iter().filter(|full| **full).count(), 2);
    }

    #[test]
    fn a_streaming_head_sees_the_sinks_and_the_newest() {
        let policy = sim::policy("duo_attention(sinks=2, recent=3, step=1)", 99);
        let Claim::Fixed(cap) = policy.claim(0, 0, 99) else { panic!("a fixed size") };
        let kept = sim::stream(policy.as_ref(), cap, &Text::random(1, 1, 40));
        for (q, kept) in (0u32..).zip(kept) {
            let want: Vec<u32> = (0..=q).filter(|k| *k < 2 || q - k < 3).collect();
            assert_eq!(kept, want, "row {q}");
        }
    }
}
