//! Keeps the tokens that received most attention so far ("heavy hitters"), and the newest half.
//!
//! * Paper:    Zhang et al., 2023, arXiv 2306.14048, algorithm 1
//! * Equation: score\[k\] = Σ_{q ≥ k} attn\[q, k\], summed over the query heads of the KV head
//! * Shapes:   column \[t\] → scores \[t\], per layer and KV head
//! * Cost:     one f32 per slot, and a pass over the probabilities of every row
//! * Differs:  one choice per KV head, where the authors choose per query head; default streaming: the prompt is
//!   evicted while it is read, `step` slots at a time, before a row is appended (theirs: one, after it), so that a cap
//!   of B + 1 here is their budget B; `prefill=dense` is the published mode
//! * Oracle:   the sum over the rows that were seen, written down

use eunoe_core::{Card, Shelf};

use crate::common::{EVICT, KEEP, POS, PREFILL, STEP, accumulated, recent, sinks};
use crate::{Needs, Policy, PolicyEntry, Pos, Strip};

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "h2o",
        shelf: Shelf::Policy,
        name: "H2O",
        paper: "Zhang 2023, arXiv 2306.14048",
        idea: "keeps the tokens that received most attention in total, and the newest half",
        args: &[recent("slots/2"), sinks("0"), STEP, POS, PREFILL, KEEP, EVICT],
    },
    make: |args, slots| Ok(Box::new(H2o { needs: accumulated(args, slots, 1.0, |slots| slots / 2)? })),
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct H2o {
    needs: Needs,
}

impl Policy for H2o {
    fn needs(&self) -> Needs {
        self.needs
    }

    fn score(&self, _layer: usize, _kv_head: usize, strip: Strip<'_>, _now: Pos, out: &mut [f32]) {
        out.copy_from_slice(strip.column);
    }
}

#[cfg(test)]
mod tests {
    use crate::sim::{self, Text};

    #[test]
    fn old_attention_counts_as_much_as_new() {
        // column[0] = 1 + 0.5 + 0.1 = 1.6, column[1] = 0.5 + 0.5 = 1.0, 2 is recent: 1 goes.
        // (a2sf with alpha = 0.2 drops 0 from the same rows.)
        let text = Text::of(&[&[1.0], &[0.5, 0.5], &[0.1, 0.5, 0.4], &[0.25; 4]]);
        let policy = sim::policy("h2o(recent=1, step=1)", 3);
        assert_eq!(sim::stream(policy.as_ref(), 3, &text)[3], [0, 2, 3]);
    }

    #[test]
    fn kept_sets_are_those_of_the_sum() {
        for (heads, cap, recent, step) in [(1, 5, 2, 1), (3, 9, 4, 1), (2, 17, 3, 5), (7, 33, 16, 7)] {
            let text = Text::random(u64::from(cap), heads, 120);
            let policy = sim::policy(&format!("h2o(recent={recent}, step={step})"), cap);
            let want = sim::literal(&text, cap, step, 0, recent, |rows, live| {
                live.iter().map(|k| rows.iter().filter_map(|row| row.get(k)).sum()).collect()
            });
            assert_eq!(sim::stream(policy.as_ref(), cap, &text), want, "{heads} heads, cap {cap}");
        }
    }
}
