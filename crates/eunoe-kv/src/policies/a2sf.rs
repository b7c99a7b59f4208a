//! Keeps the tokens that received most attention lately: a running sum with a forgetting factor, so that a token is
//! not favoured for being old.
//!
//! * Paper:    Jo & Shin, 2024, arXiv 2407.20485, equation of section 3
//! * Equation: score\[k\] = Σ_{q = k..now} alpha^(now - q) * attn\[q, k\], summed over the query heads of the KV head
//! * Shapes:   column \[t\] → scores \[t\], per layer and KV head
//! * Cost:     one f32 per slot, and a pass over the probabilities of every row
//! * Differs:  `recent` is an eighth of the strip (authors: 16 of 256); default streaming: the prompt is evicted while
//!   it is read, `step` slots at a time, before a row is appended (paper: one, after it), so that a cap of B + 1 here
//!   is its budget B; `prefill=dense, evict=off` is the authors' code of 2026, `prefill=dense` the paper
//! * Oracle:   the weighted sum over the rows that were seen, written down

use eunoe_core::{Arg, Card, Kind, Shelf};

use crate::common::{EVICT, KEEP, POS, PREFILL, STEP, accumulated, arg, recent, sinks};
use crate::{Needs, Policy, PolicyEntry, Pos, Strip};

const ALPHA: Arg = arg(
    "alpha",
    Kind::Float { min: 0.0, max: 1.0 },
    "0.95",
    "what is left of received attention after one more query; 1 is h2o's sum",
);

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "a2sf",
        shelf: Shelf::Policy,
        name: "A2SF",
        paper: "Jo 2024, arXiv 2407.20485",
        idea: "keeps the tokens that received most attention, older attention counting less",
        args: &[ALPHA, recent("slots/8"), sinks("0"), STEP, POS, PREFILL, KEEP, EVICT],
    },
    make: |args, slots| {
        Ok(Box::new(A2sf { needs: accumulated(args, slots, args.float("alpha"), |slots| slots / 8)? }))
    },
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct A2sf {
    needs: Needs,
}

impl Policy for A2sf {
    fn needs(&self) -> Needs {
        self.needs
    }

    fn score(&self, _layer: usize, _kv_head: usize, strip: Strip<'_>, _now: Pos, out: &mut [f32]) {
        out.copy_from_slice(strip.column);
    }
}

#[cfg(test)]
mod tests {
    use crate::Column;
    use crate::sim::{self, Text};

    /// A\[k\] after `n` rows of uniform attention, S\[q, k\] = 1 / (q + 1).
    fn uniform(alpha: f64, n: i32, k: i32) -> f64 {
        (k..n).map(|q| alpha.powi(n - 1 - q) / f64::from(q + 1)).sum()
    }

    #[test]
    fn old_attention_fades() {
        // alpha = 0.2: column[0] = (1 * 0.2 + 0.5) * 0.2 + 0.1 = 0.24, column[1] = 0.5 * 0.2 + 0.5 = 0.6,
        // 2 is recent: 0 goes. (h2o drops 1 from the same rows.)
        let text = Text::of(&[&[1.0], &[0.5, 0.5], &[0.1, 0.5, 0.4], &[0.25; 4]]);
        let policy = sim::policy("a2sf(alpha=0.2, recent=1, step=1)", 3);
        assert_eq!(sim::stream(policy.as_ref(), 3, &text)[3], [1, 2, 3]);
    }

    #[test]
    fn a_mass_follows_its_slot_through_eviction() {
        // cap 3, alpha = 0.5. Columns after row 2: 0.6, 0.35, 0.8 with 2 recent, so 1 goes. Row 3 gives 0.2, 0.2, 0.6
        // to 0, 2, 3: columns 0.3 + 0.2 = 0.5, 0.4 + 0.2 = 0.6 and 0.6 with 3 recent, so 0 goes. Had 0.35 stayed
        // behind in slot 1, position 2 would have had 0.175 + 0.2 = 0.375 and gone.
        let text = Text::of(&[&[1.0], &[0.5, 0.5], &[0.1, 0.1, 0.8], &[0.2, 0.5, 0.2, 0.6], &[0.2; 5]]);
        let policy = sim::policy("a2sf(alpha=0.5, recent=1, step=1)", 3);
        let kept = sim::stream(policy.as_ref(), 3, &text);
        assert_eq!((&kept[3][..], &kept[4][..]), (&[0, 2, 3][..], &[2, 3, 4][..]));
    }

    #[test]
    fn kept_sets_are_those_of_the_equation() {
        for (heads, alpha, cap, recent, step) in [
            (1, 0.9, 5, 2, 1),
            (3, 0.5, 9, 4, 1),
            (2, 0.95, 17, 3, 5),
            (7, 0.2, 33, 9, 7),
            (2, 0.0, 12, 1, 1),
        ] {
            let text = Text::random(u64::from(cap), heads, 120);
            let policy = sim::policy(&format!("a2sf(alpha={alpha}, recent={recent}, step={step})"), cap);
            let want = sim::literal(&text, cap, step, 0, recent, |rows, live| {
                let age = |q: usize| (rows.len() - 1 - q) as i32;
                let weighed = |k| {
                    let seen = rows.iter().enumerate();
                    seen.filter_map(|(q, row)| Some(f64::powi(alpha, age(q)) * row.get(k)?)).sum()
                };
                live.iter().map(weighed).collect()
            });
            assert_eq!(sim::stream(policy.as_ref(), cap, &text), want, "alpha {alpha}, cap {cap}");
        }
    }

    #[test]
    fn uniform_attention_does_not_favour_the_old() {
        // The dossier's numbers: H(2000) - H(10) over H(2000) - H(1000) = 5.2494 / 0.6929 for the plain sum.
        let ratio = |alpha| uniform(alpha, 2000, 10) / uniform(alpha, 2000, 1000);
        assert!((ratio(1.0) - 7.576).abs() < 1e-3);
        assert!((ratio(0.95) - 1.0).abs() < 1e-6);
        for (alpha, want) in [(0.95, 20.19), (0.5, 2.001), (0.2, 1.250)] {
            let got = uniform(alpha, 2000, 0) / uniform(alpha, 2000, 1999);
            assert!((got - want).abs() < 5e-3, "{alpha}: {got}");
        }
    }

    #[test]
    fn modes_and_sizes_follow_the_plan() {
        let needs = |plan| sim::policy(plan, 256).needs();
        assert_eq!(needs("a2sf").column, Column::Running { decay: 0.95 });
        assert_eq!((needs("a2sf").recent, needs("a2sf").step), (32, 16));
        let dense = needs("a2sf(prefill=dense, keep=64, evict=off)");
        assert_eq!((dense.keep, dense.evicts_in_decode, dense.recent), (Some(64), false, 8));
    }
}
