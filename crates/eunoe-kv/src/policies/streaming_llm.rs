//! Keeps the first few tokens, on which models park surplus attention, and the newest ones.
//!
//! * Paper:    Xiao et al., 2023, arXiv 2309.17453, section 3.2
//! * Equation: kept = pos < sinks, and the highest positions; the model sees a token's rank in the strip
//! * Shapes:   no column; positions \[t\] → scores \[t\]
//! * Cost:     nothing beside the slots; what left the window is gone
//! * Differs:  `step` tokens leave at once, before a row is appended; the authors drop one after it
//! * Oracle:   the spans of section 3.2, written down: ranks [0, sinks) and the last ones

use eunoe_core::{Card, Shelf};

use crate::common::{STEP, sinks, step};
use crate::{Needs, Place, Policy, PolicyEntry};

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "streaming_llm",
        shelf: Shelf::Policy,
        name: "StreamingLLM",
        paper: "Xiao 2023, arXiv 2309.17453",
        idea: "keeps the first tokens and a window of the newest; forgets what lies between",
        args: &[sinks("4"), STEP],
    },
    make: |args, slots| Ok(Box::new(StreamingLlm { sinks: args.int("sinks"), step: step(args, slots) })),
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct StreamingLlm {
    sinks: u32,
    step: u32,
}

impl Policy for StreamingLlm {
    fn needs(&self) -> Needs {
        Needs { place: Place::Rank, sinks: self.sinks, step: self.step, ..Needs::PLAIN }
    }
}

#[cfg(test)]
mod tests {
    use crate::sim::{self, Text};

    #[test]
    fn two_sinks_and_the_newest_stay() {
        // cap 6, step 2: before row 6 the strip 0 1 2 3 4 5 loses 2 and 3; before row 8, 0 1 4 5 6 7 loses 4 and 5.
        let policy = sim::policy("streaming_llm(sinks=2, step=2)", 6);
        let kept = sim::stream(policy.as_ref(), 6, &Text::random(1, 1, 9));
        assert_eq!(kept[5], [0, 1, 2, 3, 4, 5]);
        assert_eq!(kept[6], [0, 1, 4, 5, 6]);
        assert_eq!(kept[8], [0, 1, 6, 7, 8]);
    }

    #[test]
    fn kept_spans_are_those_of_the_paper_and_order_survives_long_texts() {
        for (sinks, cap) in [(0, 3), (1, 7), (4, 13)] {
            let policy = sim::policy(&format!("streaming_llm(sinks={sinks}, step=1)"), cap);
            let kept = sim::stream(policy.as_ref(), cap, &Text::random(2, 1, 40));
            for (n, kept) in kept.iter().enumerate() {
                let len = (n + 1).min(cap as usize);
                let window = n + 1 - (len - len.min(sinks));
                let want: Vec<u32> =
                    (0..=n).filter(|&p| p < sinks.min(len) || p >= window).map(|p| p as u32).collect();
                assert_eq!(*kept, want, "sinks {sinks}, cap {cap}, row {n}");
            }
        }
        let policy = sim::policy("streaming_llm(sinks=0)", 8);
        let pos = [50_000_000, 50_000_001, 50_000_002];
        let scores = sim::scores(policy.as_ref(), &pos, &[], 50_000_002);
        assert!(scores[0] < scores[1] && scores[1] < scores[2]);
    }
}
