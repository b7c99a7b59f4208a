//! Keeps what the last few queries look at, with its neighbours: the question at the end of a prompt picks its memory.
//!
//! * Paper:    Li et al., 2024, arXiv 2404.14469, section 4 and listing 1
//! * Equation: score\[k\] = pool_{|j - k| ≤ kernel/2} Σ_{q in the last window rows} attn\[q, j\] over slots j before
//!   the window; avg divides by `kernel` at the ends too (zero padding)
//! * Shapes:   column \[t\] → scores \[t\], per layer and KV head
//! * Cost:     a ring of `window` queries per layer, and window * t dot products per eviction; refused in no mode, but
//!   a small `step` makes streaming dear
//! * Differs:  one choice per KV head, attention folded over its query heads before pooling (authors: per query head,
//!   which stores each KV head several times); default streaming: the last rows seen choose whenever a strip is full,
//!   and neighbours are neighbouring slots; `prefill=dense` is the published mode. `window` is at most half the strip
//! * Oracle:   pooling over a padded copy, written down

use eunoe_core::{Arg, Card, Error, Kind, Result, Shelf};

use crate::common::{COUNT, KEEP, PREFILL, STEP, arg, dense, settle, sinks, step};
use crate::{Args, Column, Fold, Needs, Policy, PolicyEntry, Pos, Strip};

const WINDOW: Arg = arg(
    "window",
    COUNT,
    "32, at most slots/2",
    "last rows that choose, and newest tokens that are never evicted",
);
const KERNEL: Arg =
    arg("kernel", Kind::Int { min: 1, max: 255 }, "7", "slots that are pooled into one score; odd");
const POOLING: Arg =
    arg("pooling", Kind::Choice(&["max", "avg"]), "max", "how neighbouring slots are pooled");
const FOLD: Arg =
    arg("fold", Kind::Choice(&["mean", "max"]), "mean", "how the query heads of a KV head are folded");

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "snapkv",
        shelf: Shelf::Policy,
        name: "SnapKV",
        paper: "Li 2024, arXiv 2404.14469",
        idea: "keeps what the last queries attend to, with its neighbours",
        args: &[WINDOW, KERNEL, POOLING, FOLD, sinks("0"), STEP, PREFILL, KEEP],
    },
    make: |args, slots| Ok(Box::new(Snapkv::new(args, slots)?)),
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Snapkv {
    needs: Needs,
    kernel: usize,
    averages: bool,
}

impl Snapkv {
    fn new(args: &Args, slots: u32) -> Result<Self> {
        let kernel = args.int("kernel");
        if kernel.is_multiple_of(2) {
            let hint = kernel + 1;
            return Err(Error::Invalid(format!(
                "`kernel={kernel}` has no middle; an odd one, e.g. {hint}, has"
            )));
        }
        let keep = dense(args)?;
        let slots = keep.map_or(slots, |keep| keep.min(slots));
        let window = args.given_int("window").unwrap_or((slots / 2).clamp(1, 32));
        let needs = settle(Needs {
            column: Column::LastRows { rows: window },
            // The mean ranks as the sum does.
            fold: if args.word("fold") == "max" { Fold::Max } else { Fold::Sum },
            sinks: args.int("sinks"),
            recent: window,
            step: step(args, slots),
            keep,
            evicts_in_decode: keep.is_none(),
            ..Needs::PLAIN
        })?;
        Ok(Self { needs, kernel: kernel as usize, averages: args.word("pooling") == "avg" })
    }
}

impl Policy for Snapkv {
    fn needs(&self) -> Needs {
        self.needs
    }

    fn score(&self, _layer: usize, _kv_head: usize, strip: Strip<'_>, now: Pos, out: &mut [f32]) {
        let before = strip.pos.partition_point(|pos| pos.saturating_add(self.needs.recent) <= now);
        out[before..].copy_from_slice(&strip.column[before..]);
        let half = self.kernel / 2;
        for k in 0..before {
            let near = &strip.column[k.saturating_sub(half)..(k + half + 1).min(before)];
            out[k] = if self.averages {
                near.iter().sum::<f32>() / self.kernel as f32
            } else {
                near.iter().copied().fold(f32::MIN, f32::max)
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{self, Text};

    #[test]
    fn neighbours_of_a_hit_rise_and_the_window_stays_out() {
        // kernel 3; the window of 2 at now = 6 is slots 5 and 6, whose 9 must not leak into slot 4.
        // max: 0.4 0.4 0.3 0.3 0.3; avg: (0 + 0.4 + 0)/3, 0.4/3, 0.3/3, 0.3/3, 0.3/3.
        let (pos, column) = ([0, 1, 2, 3, 4, 5, 6], [0.4, 0.0, 0.0, 0.3, 0.0, 9.0, 9.0]);
        for (pooling, want) in
            [("max", [0.4, 0.4, 0.3, 0.3, 0.3]), ("avg", [0.13333, 0.13333, 0.1, 0.1, 0.1])]
        {
            let policy = sim::policy(&format!("snapkv(window=2, kernel=3, pooling={pooling})"), 7);
            let got = sim::scores(policy.as_ref(), &pos, &column, 6);
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-4), "{pooling}: {got:?}");
        }
    }

    /// Section 4 in f64: window sums, padded pooling over what lies before the window.
    fn equation(rows: &[sim::Row], live: &[Pos], window: usize, kernel: usize, pooling: &str) -> Vec<f64> {
        let before = live.iter().filter(|&&k| k as usize + window < rows.len()).count();
        let sum =
            |k| rows[rows.len().saturating_sub(window)..].iter().filter_map(|row| row.get(k)).sum::<f64>();
        let mut padded = vec![0.0; kernel / 2];
        padded.extend(live[..before].iter().map(sum));
        padded.extend(vec![0.0; kernel / 2]);
        let pool = |near: &[f64]| match pooling {
            "avg" => near.iter().sum::<f64>() / kernel as f64,
            _ => near.iter().copied().fold(0.0, f64::max),
        };
        padded.windows(kernel).map(pool).chain(live[before..].iter().map(|_| 0.0)).take(live.len()).collect()
    }

    #[test]
    fn kept_sets_are_those_of_the_equation() {
        let sizes = [(1, 9, 2, 1), (3, 17, 5, 3), (2, 33, 8, 7), (4, 12, 1, 1)];
        for (heads, cap, window, step) in sizes {
            for (kernel, pooling, fold) in
                [(1, "max", "mean"), (5, "avg", "mean"), (7, "max", "max"), (7, "avg", "max")]
            {
                let plan = format!(
                    "snapkv(window={window}, kernel={kernel}, pooling={pooling}, fold={fold}, step={step})"
                );
                let policy = sim::policy(&plan, cap);
                let text = Text::random(u64::from(cap), heads, 90).folded(policy.needs().fold);
                // The ring's queries see what is live when the strip is full, so their rows are taken afresh.
                let want = sim::literal_afresh(&text, cap, step, 0, window, |rows, live| {
                    equation(rows, live, window as usize, kernel, pooling)
                });
                assert_eq!(sim::stream(policy.as_ref(), cap, &text), want, "{plan} at {cap}");
            }
        }
    }

    #[test]
    fn the_published_mode_trims_once_and_then_grows() {
        let needs = sim::policy("snapkv(prefill=dense, keep=64)", u32::MAX).needs();
        assert_eq!((needs.keep, needs.evicts_in_decode, needs.recent), (Some(64), false, 32));
        let text = Text::random(5, 2, 50);
        let policy = sim::policy("snapkv(window=4, kernel=5, prefill=dense, keep=20)", 50);
        let rows = text.rows_over(50, &(0..50).collect::<Vec<_>>());
        let scores = equation(&rows, &(0..50).collect::<Vec<_>>(), 4, 5, "max");
        let want = sim::top(&scores, 0..46, 16).into_iter().chain(46..50).collect::<Vec<_>>();
        assert_eq!(sim::trim(policy.as_ref(), 20, &text), want);
    }
}
