//! Cuts the text into events where it surprises, lets them wait in a cold tier, and brings back those that the rows are
//! likely to need, with their neighbours in time.
//!
//! * Paper:    Fountas et al., 2024, arXiv 2407.09450
//! * Equation: an event begins at t where s\[t\] > μ + γ σ of the `local` surprisals before the pass; with `refine` at the
//!   split of most modularity Σ over both sides (within / 2m - (degree / 2m)²), or least conductance cut / min volume
//! * Shapes:   surprisal \[rows\], key likeness \[n, n\] → ends of events; mean query · event keys → event numbers
//! * Cost:     as `inf_llm`, with logits for every row; refining n² d per event, head and later layer
//! * Differs:  as `inf_llm`; an event begins at the surprising token (authors' code: one before); what returns is never
//!   more than `memory` (authors: the last event may cross); in an answer an event ends before it can be refined past
//!   the newest token
//! * Oracle:   brute force over every split, and the walk by likeness written down

mod parting;

use std::collections::VecDeque;
use std::ops::Range;

use eunoe_core::{Arg, Card, Kind, Result, Shelf};

use self::parting::Parting;
use crate::common::{COLD, FAR, KEYS, LOCAL, MEMORY, PASS, SHARE, TIER, arg, recall, recalls, sinks};
use crate::recall::{Likeness, Recall, Sizes, by_likeness};
use crate::{Claim, Needs, Policy, PolicyEntry, Pos};

const GAMMA: Arg = arg(
    "gamma",
    Kind::Float { min: -10.0, max: 10.0 },
    "1",
    "standard deviations above the mean from which a token is surprising",
);
const BLOCK: Arg = arg("block", Kind::Int { min: 1, max: 1 << 16 }, "128", "most tokens of an event");
const LEAST: Arg = arg("least", Kind::Int { min: 1, max: 1 << 16 }, "8", "fewest tokens of an event");
const REFINE: Arg = arg(
    "refine",
    Kind::Choice(&["off", "modularity", "conductance"]),
    "off",
    "whether the begin of an event moves to where keys part best, and by which measure",
);
const NEIGHBOURS: Arg =
    arg("neighbours", SHARE, "0.3", "share of `memory` for the events beside those that return");

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "em_llm",
        shelf: Shelf::Policy,
        name: "EM-LLM",
        paper: "Fountas 2024, arXiv 2407.09450",
        idea: "cuts the text into events where it surprises; the likeliest come back with their neighbours in time",
        args: &[
            sinks("128"),
            LOCAL,
            MEMORY,
            BLOCK,
            LEAST,
            GAMMA,
            REFINE,
            NEIGHBOURS,
            KEYS,
            PASS,
            FAR,
            COLD,
            TIER,
        ],
    },
    make: |args, _| Ok(Box::new(make(args)?)),
};

fn make(args: &crate::Args) -> Result<EmLlm> {
    let (sinks, sizes) = recall(args)?;
    Ok(EmLlm {
        sinks,
        sizes: Sizes { surprisal: true, ..sizes },
        least: args.int("least").min(sizes.block),
        gamma: f64::from(args.float("gamma")),
        refine: args.word("refine"),
        neighbours: args.float("neighbours"),
        surprisal: VecDeque::new(),
        starts: Vec::new(),
        next: sinks,
        buffers: Vec::new(),
    })
}

/// See the module.
#[derive(Clone, Debug)]
pub struct EmLlm {
    sinks: u32,
    sizes: Sizes,
    least: u32,
    gamma: f64,
    refine: &'static str,
    neighbours: f32,
    /// Of the newest `local` tokens.
    surprisal: VecDeque<f32>,
    /// Where events begin, ascending; those that were passed are gone.
    starts: Vec<Pos>,
    /// First position of the next block.
    next: Pos,
    /// Neighbours brought back, per layer, the newest first.
    buffers: Vec<VecDeque<u32>>,
}

/// Mean + `gamma` standard deviations, of finite values.
fn threshold<'a>(values: impl Iterator<Item = &'a f32> + Clone, gamma: f64) -> f64 {
    let finite = values.filter(|s| s.is_finite()).map(|s| f64::from(*s));
    let n = finite.clone().count().max(1) as f64;
    let mean = finite.clone().sum::<f64>() / n;
    let variance = finite.map(|s| (s - mean).powi(2)).sum::<f64>() / n;
    mean + gamma * variance.sqrt()
}

impl EmLlm {
    /// Where the event that surprises at `b`, after one that begins at `a`, begins.
    fn refined(&self, a: Pos, b: Pos, newest: Pos, keys: &dyn Likeness) -> Pos {
        if self.refine == "off" || b - a <= self.least {
            return b;
        }
        let half = (b - a) / 2;
        let window = a.saturating_sub(half).max(self.next)..(b + half).min(newest) + 1;
        let parting = Parting::new(&keys.of(window.clone()));
        if parting.is_nothing() {
            return b;
        }
        let good = |t: Pos| match self.refine {
            "modularity" => parting.modularity((t - window.start) as usize),
            _ => parting.conductance((t - window.start) as usize),
        };
        let better = |best: Pos, t: Pos| if good(t) > good(best) { t } else { best };
        ((a + self.least).max(window.start + 1)..b).fold(b, better)
    }
}

impl Policy for EmLlm {
    fn needs(&self) -> Needs {
        recalls(self.sinks, self.sizes)
    }

    fn claim(&self, _layer: usize, _kv_head: usize, _longest: u32) -> Claim {
        Claim::Fixed(self.sizes.hot(self.sinks))
    }

    fn attended(&self, _tokens: u32) -> Option<f64> {
        Some(self.sizes.attended(self.sinks))
    }

    fn recall(&mut self) -> Option<&mut dyn Recall> {
        Some(self)
    }
}

impl Recall for EmLlm {
    fn surprised(&mut self, first: Pos, surprisal: &[f32], keys: &dyn Likeness) {
        let above = match self.surprisal.is_empty() {
            true => threshold(surprisal.iter(), self.gamma),
            false => threshold(self.surprisal.iter(), self.gamma),
        };
        let newest = first + surprisal.len() as Pos - 1;
        for (pos, s) in (first..).zip(surprisal) {
            if f64::from(*s) > above && pos > self.next {
                let before = self.starts.last().copied().unwrap_or(self.next);
                let start = self.refined(before, pos, newest, keys);
                self.starts.push(start);
            }
        }
        self.surprisal.extend(surprisal);
        let old = self.surprisal.len().saturating_sub(self.sizes.local as usize);
        self.surprisal.drain(..old);
    }

    fn blocks(&mut self, end: Pos) -> Vec<Pos> {
        let mut ends = Vec::new();
        loop {
            let begins = self.starts.iter().copied().find(|start| *start >= self.next + self.least);
            let longest = self.next + self.sizes.block;
            let next = begins.map_or(longest, |begins| begins.min(longest));
            if next > end {
                self.starts.retain(|start| *start > self.next);
                return ends;
            }
            ends.push(next);
            self.next = next;
        }
    }

    fn choose(&mut self, layer: usize, likeness: &[f32], blocks: &[Range<Pos>]) -> Vec<u32> {
        let len = |block: u32| blocks[block as usize].len();
        let room = self.sizes.slots as usize;
        if blocks.iter().map(Range::len).sum::<usize>() <= room {
            return (0..blocks.len() as u32).collect();
        }
        let most = room - (self.neighbours * room as f32) as usize;
        let (mut chosen, mut used) = (Vec::new(), 0);
        for block in by_likeness(likeness) {
            let after = used + len(block);
            if after > room || (used > 0 && after > most && after - most > most - used) {
                break;
            }
            chosen.push(block);
            used = after;
            if used >= most {
                break;
            }
        }
        if self.buffers.len() <= layer {
            self.buffers.resize(layer + 1, VecDeque::new());
        }
        let buffer = &mut self.buffers[layer];
        let beside = chosen.iter().flat_map(|block| [block + 1, block.wrapping_sub(1)]);
        let mut beside: Vec<u32> = beside.filter(|b| (*b as usize) < blocks.len()).collect();
        let mut all = chosen;
        let fresh = |b: &u32| !all.contains(b);
        beside.retain(fresh);
        buffer.retain(|b| fresh(b) && !beside.contains(b));
        for block in beside.into_iter().rev() {
            buffer.retain(|b| *b != block);
            buffer.push_front(block);
        }
        let mut left = room - used;
        let fits = buffer.iter().take_while(|b| left.checked_sub(len(**b)).map(|rest| left = rest).is_some());
        let count = fits.count();
        buffer.truncate(count);
        all.extend(buffer.iter());
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;

    /// Likeness of made-up keys.
    struct Keys(Vec<f32>);

    impl Likeness for Keys {
        fn of(&self, pos: Range<Pos>) -> Vec<f32> {
            let n = self.0.len().isqrt();
            pos.clone().flat_map(|i| pos.clone().map(move |j| self.0[i as usize * n + j as usize])).collect()
        }
    }

    fn made(args: &str) -> EmLlm {
        let Ok(plan) = Plan::parse(&format!("em_llm({args})")) else { panic!("{args}") };
        make(&plan.args).unwrap()
    }

    /// Two parties: alike within, `across` between.
    fn parties(n: usize, split: usize, across: f32) -> Keys {
        Keys((0..n * n).map(|i| if (i / n < split) == (i % n < split) { 1.0 } else { across }).collect())
    }

    #[test]
    fn events_begin_at_the_surprising_token_within_their_sizes() {
        let mut em = made("sinks=2, local=8, pass=8, block=10, least=3, memory=20, neighbours=0");
        // mean 9/7, deviation 0.7: 3 surprises at 5, not the first token, of which nothing is known
        let keys = Keys(Vec::new());
        em.surprised(0, &[f32::INFINITY, 1.0, 1.0, 1.0, 1.0, 3.0, 1.0, 1.0], &keys);
        assert_eq!(em.starts, [5]);
        // against what came before the pass, not against itself
        em.surprised(8, &[9.0, 1.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0], &keys);
        assert_eq!(em.starts, [5, 8, 10]);
        assert_eq!(em.blocks(4), []);
        assert_eq!(em.blocks(7), [5]);
        // 10 begins 2 after 8: too short, merged forward into one of 10 at most
        assert_eq!(em.blocks(19), [8, 18]);
    }

    #[test]
    fn the_threshold_counts_deviations_of_what_is_finite() {
        // mean 3, variance (4 + 1 + 0 + 9) / 4
        let threshold = threshold([1.0, f32::INFINITY, 2.0, 3.0, 6.0].iter(), 2.0);
        assert!((threshold - (3.0 + 2.0 * 3.5f64.sqrt())).abs() < 1e-9, "{threshold}");
    }

    #[test]
    fn the_refined_begin_is_the_best_of_all_splits() {
        for refine in ["modularity", "conductance"] {
            for split in 12..=22 {
                let em = made(&format!("sinks=0, local=64, pass=64, refine={refine}"));
                let keys = parties(40, split, 0.1);
                assert_eq!(em.refined(4, 22, 39, &keys), split as u32, "{refine}");
            }
        }
    }

    #[test]
    fn likely_events_return_with_their_neighbours_and_never_more_than_fit() {
        let mut em = made("sinks=0, local=8, pass=8, block=8, least=1, memory=20, neighbours=0.4");
        let blocks: Vec<Range<Pos>> = (0..8).map(|i| i * 4..(i + 1) * 4).collect();
        // 12 of 20 for the likeliest: 2, 6, 4; then 3 and 1 beside 2
        let likeness = [0.0, 0.1, 0.9, 0.0, 0.5, 0.0, 0.8, 0.0];
        assert_eq!(em.choose(0, &likeness, &blocks), [1, 2, 3, 4, 6]);
        // the buffer of the layer stays: 0 is now likeliest; of its neighbours only 1 is there; 3 goes on
        let likeness = [0.9, 0.1, 0.0, 0.0, 0.5, 0.0, 0.8, 0.0];
        assert_eq!(em.choose(0, &likeness, &blocks), [0, 1, 4, 6, 7]);
        assert_eq!(em.choose(1, &likeness[..3], &blocks[..3]), [0, 1, 2], "all where all fit");
        // all room for neighbours: the likeliest alone, and then what stands beside it
        let mut em = made("sinks=0, local=8, pass=8, block=8, least=1, memory=20, neighbours=1");
        let likeness = [0.0, 0.1, 0.9, 0.0, 0.5, 0.0, 0.8, 0.0];
        assert_eq!(em.choose(0, &likeness, &blocks), [1, 2, 3]);
    }
}
