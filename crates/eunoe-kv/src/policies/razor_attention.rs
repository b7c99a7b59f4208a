//! Keeps everything in the heads that look back for copies; in the others what leaves the buffer is folded into one
//! averaged key and value that weighs as many tokens as it stands for.
//!
//! * Paper:    Tang et al., 2024, arXiv 2407.15891, sections 3.2 and 3.3
//! * Equation: k̂, v̂ = means of the D dropped; out = (D e^{q·k̂} v̂ + Σ e^{q·k} v) / (D e^{q·k̂} + Σ e^{q·k})
//! * Shapes:   no column; positions \[t\] → scores \[t\]; one flag per layer and KV head; a side slot k̂, v̂ \[d\] per strip
//! * Cost:     KV slots ρ n + (1 - ρ) (sinks + max(least, n / share) + step)
//! * Differs:  tokens are folded `step` at a time while reading (paper: at the end of a dense prompt), with n the longest
//!   text asked for; sizes fit small models (paper: least 4000, share 5); `compensation=plain` is the authors' later code,
//!   which weighs the side slot as one token
//! * Oracle:   means and softmax of the equation, in f64

use eunoe_core::{Arg, Card, Kind, Result, Shape, Shelf};

use crate::common::{COUNT, TWO, arg, sinks};
use crate::profile::top;
use crate::{Claim, Fate, Needs, Policy, PolicyEntry, Profile};

const SHARE_KIND: Kind = Kind::Float { min: 0.0, max: 1.0 };
const INDUCTION: Arg =
    arg("induction", SHARE_KIND, "0.14", "share of KV heads kept whole for their induction score");
const ECHO: Arg = arg("echo", SHARE_KIND, "0.01", "share of KV heads kept whole for their echo score");
const LEAST: Arg = arg("least", TWO, "256", "newest tokens that the other heads keep at least");
const SHARE: Arg = arg("share", COUNT, "8", "the other heads keep the newest 1/share of the longest text");
const COMPENSATION: Arg = arg(
    "compensation",
    Kind::Choice(&["weighted", "plain", "off"]),
    "weighted",
    "the averaged slot weighs all that it stands for, or one token, or is not there",
);
const STEP: Arg = arg("step", COUNT, "16", "slots folded at once when a strip is full");

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "razor_attention",
        shelf: Shelf::Policy,
        name: "RazorAttention",
        paper: "Tang 2024, arXiv 2407.15891",
        idea: "keeps everything in the heads that look for copies; others average what they drop into one slot",
        args: &[INDUCTION, ECHO, sinks("4"), LEAST, SHARE, COMPENSATION, STEP],
    },
    make: |args, _| {
        Ok(Box::new(RazorAttention {
            induction: args.float("induction"),
            echo: args.float("echo"),
            sinks: args.int("sinks"),
            least: args.int("least"),
            share: args.int("share"),
            fate: match args.word("compensation") {
                "off" => Fate::Drop,
                word => Fate::Merge { weighted: word == "weighted" },
            },
            step: args.int("step"),
            kv_heads: 1,
            full: Vec::new(),
        }))
    },
};

/// See the module.
#[derive(Clone, Debug)]
pub struct RazorAttention {
    induction: f32,
    echo: f32,
    sinks: u32,
    least: u32,
    share: u32,
    fate: Fate,
    step: u32,
    kv_heads: usize,
    /// One per strip, layer-major: keeps the whole text.
    full: Vec<bool>,
}

impl Policy for RazorAttention {
    fn needs(&self) -> Needs {
        Needs { sinks: self.sinks, step: self.step, fate: self.fate, profile: true, ..Needs::PLAIN }
    }

    fn bind(&mut self, shape: &Shape, profile: Option<&Profile>) -> Result<()> {
        let profile = Profile::given(profile, shape)?;
        let (induction, echo) = (profile.of_strips(&profile.induction), profile.of_strips(&profile.echo));
        let quota = |share: f32| (f64::from(share) * induction.len() as f64).round() as usize;
        let lists = (top(&induction, &echo, quota(self.induction)), top(&echo, &induction, quota(self.echo)));
        self.kv_heads = profile.kv_heads;
        self.full = lists.0.iter().zip(&lists.1).map(|(a, b)| a | b).collect();
        Ok(())
    }

    fn claim(&self, layer: usize, kv_head: usize, longest: u32) -> Claim {
        match self.full.get(layer * self.kv_heads + kv_head) {
            Some(true) => Claim::Whole,
            _ => {
                let buffer = self.least.max(longest / self.share);
                Claim::Fixed(self.sinks.saturating_add(buffer).saturating_add(self.step - 1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::profile::tests::{SHAPE, small};
    use crate::{Claim, Fate, Plan};

    #[test]
    fn two_lists_are_joined_and_rounded_half_up() {
        let claims = |plan: &str| {
            let mut policy = Plan::parse(plan).unwrap().make_policy(99).unwrap();
            policy.bind(&SHAPE, Some(&small())).unwrap();
            [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(l, h)| policy.claim(l, h, 4000))
        };
        // 4 strips: 0.14 · 4 = 0.56 and 0.13 · 4 = 0.52 round to 1, 0.01 · 4 to 0. Induction of strips: 0.5 0.3 0 0.1;
        // echo: 0 0 0.7 0. The buffer of the others: max(256, 4000 / 8) = 500, 4 sinks,
        // and 15 until a step of 16 is due.
        let (whole, local) = (Claim::Whole, Claim::Fixed(519));
        assert_eq!(claims("razor_attention"), [whole, local, local, local]);
        assert_eq!(claims("razor_attention(echo=0.13)"), [whole, local, whole, local]);
        assert_eq!(claims("razor_attention(least=600, step=1)")[1], Claim::Fixed(604));
    }

    #[test]
    fn the_side_slot_can_be_weighed_plain_or_absent() {
        let fate = |plan: &str| Plan::parse(plan).unwrap().make_policy(99).unwrap().needs().fate;
        assert_eq!(fate("razor_attention"), Fate::Merge { weighted: true });
        assert_eq!(fate("razor_attention(compensation=plain)"), Fate::Merge { weighted: false });
        assert_eq!(fate("razor_attention(compensation=off)"), Fate::Drop);
    }
}
