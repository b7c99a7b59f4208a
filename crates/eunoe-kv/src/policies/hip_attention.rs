//! Finds the keys that a query would attend to most without scoring them all: a search down a tree of intervals, in
//! which one key speaks for its neighbours.
//!
//! * Paper:    Lee et al., 2024, arXiv 2406.09827, section 3
//! * Equation: M = k / block intervals; each is halved, a half scores max q·key over its centre block of keys, the best M
//!   halves stay, until an interval is one block; attention over these, the first `sinks` and the last `window` tokens
//! * Shapes:   queries \[heads, d\] and keys on request → slots, per layer and query head
//! * Cost:     2 k log₂(n / k) dot products per search, k + window + sinks slots attended per row; no memory is saved
//! * Differs:  one search serves a block of rows and asks with its first row (authors: the best of every second row of
//!   the block), so that no row's result depends on later ones; `mask=kv_head` is
//!   ours: the max also runs over the query heads of a KV head, which then read the same keys
//! * Oracle:   a search that keeps intervals in sorted lists, and exact top M where one round suffices

use std::cmp::Ordering;
use std::ops::Range;

use eunoe_core::{Arg, Card, Error, Kind, Result, Shape, Shelf};

use crate::common::{COUNT, SIZE, arg};
use crate::{Blocks, Claim, Dots, Keys, Look, Needs, Policy, PolicyEntry, Pos, Profile, View};

const K: Arg = arg("k", COUNT, "512", "keys that the search finds for each query head");
const BLOCK: Arg = arg("block", COUNT, "2", "neighbouring keys that are found together");
const WINDOW: Arg = arg("window", COUNT, "128", "newest tokens that every row sees");
const SINKS: Arg = arg("sinks", SIZE, "16", "first tokens that every row sees");
const ROWS: Arg = arg("rows", COUNT, "32", "rows of a prompt that share one search");
const MASK: Arg = arg(
    "mask",
    Kind::Choice(&["query_head", "kv_head"]),
    "query_head",
    "whether each query head has keys of its own, or those of a KV head share what the best of them finds",
);
const REFRESH: Arg = arg("refresh", COUNT, "8", "rows of an answer that share one search");
const DENSE: Arg = arg("dense_layers", SIZE, "3", "first layers that see everything");

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "hip_attention",
        shelf: Shelf::Policy,
        name: "HiP Attention",
        paper: "Lee 2024, arXiv 2406.09827",
        idea: "forgets nothing, but finds the keys worth reading by a tree search and reads only those",
        args: &[K, BLOCK, WINDOW, SINKS, ROWS, REFRESH, DENSE, MASK],
    },
    make: |args, _| Ok(Box::new(make(args)?)),
};

fn make(args: &crate::Args) -> Result<Hip> {
    let (k, block) = (args.int("k"), args.int("block"));
    if k < block {
        return Err(Error::Invalid(format!("`k={k}` keys are less than one block of {block}")));
    }
    Ok(Hip {
        groups: k / block,
        block,
        window: args.int("window"),
        sinks: args.int("sinks"),
        blocks: Blocks { prompt: args.int("rows"), answer: args.int("refresh") },
        dense_layers: args.int("dense_layers") as usize,
        shared: args.word("mask") == "kv_head",
        dense: 0.0,
        found: Vec::new(),
    })
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Hip {
    /// M of the equation.
    groups: u32,
    block: u32,
    window: u32,
    sinks: u32,
    blocks: Blocks,
    dense_layers: usize,
    /// One mask per KV head, not per query head.
    shared: bool,
    /// Share of layers that read everything.
    dense: f64,
    /// The last search of each layer.
    found: Vec<Option<Found>>,
}

/// What a search found.
#[derive(Clone, Debug)]
struct Found {
    /// Position of the row that asked.
    asked: Pos,
    /// Whether it was the prompt's.
    is_prompt: bool,
    /// Per head of the mask: slots, ascending.
    slots: Vec<Vec<u32>>,
}

/// Blocks of keys `start..start + size`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Interval {
    start: u32,
    size: u32,
}

impl Interval {
    /// The two halves, without empty ones.
    fn halves(self) -> impl Iterator<Item = Self> {
        let left = self.size / 2;
        let halves = [
            Self { start: self.start, size: left },
            Self { start: self.start + left, size: self.size - left },
        ];
        halves.into_iter().filter(|half| half.size > 0)
    }

    fn centre(self) -> u32 {
        self.start + self.size / 2
    }
}

impl Hip {
    /// The block of rows that share the search of a row.
    fn block_of(&self, pos: Pos, is_prompt: bool) -> Range<Pos> {
        let rows = if is_prompt { self.blocks.prompt } else { self.blocks.answer };
        pos / rows * rows..(pos / rows + 1).saturating_mul(rows)
    }

    /// The slots between sinks and window that each head of the mask finds, of `old` slots older than the row.
    fn search(&self, look: &Look<'_>, old: u32) -> Vec<Vec<u32>> {
        let heads = if self.shared { look.shape.kv_heads } else { look.shape.heads };
        let (group, width) = (heads / look.shape.kv_heads, look.shape.heads / heads * look.shape.head_dim);
        let span = old.saturating_sub(self.window + self.sinks);
        let blocks = span.div_ceil(self.block);
        let slots = |block: u32| {
            let start = self.sinks + block * self.block;
            start..(start + self.block).min(self.sinks + span)
        };
        let start = |i: u32| (u64::from(blocks) * u64::from(i) / u64::from(self.groups)) as u32;
        let queries = width / look.shape.head_dim;
        let first: Vec<Interval> =
            (0..self.groups).map(|i| Interval { start: start(i), size: start(i + 1) - start(i) }).collect();
        let mut found = vec![first; heads];
        let mut nominal = f64::from(blocks) / f64::from(self.groups);
        while nominal > 1.0 {
            let halves: Vec<Vec<Interval>> =
                found.iter().map(|found| found.iter().flat_map(|i| i.halves()).collect()).collect();
            let mut asks: Vec<Dots<'_>> = halves
                .iter()
                .enumerate()
                .map(|(h, halves)| Dots {
                    kv_head: h / group,
                    q: &look.q[h * width..][..width],
                    slots: halves.iter().flat_map(|half| slots(half.centre())).collect(),
                    out: Vec::new(),
                })
                .collect();
            look.store.dots(&mut asks);
            for ((found, halves), ask) in found.iter_mut().zip(&halves).zip(asks) {
                let mut scores = ask.out.as_slice();
                let highest = |half: &Interval| {
                    let (own, rest) = scores.split_at(slots(half.centre()).len() * queries);
                    scores = rest;
                    own.iter().copied().fold(f32::NEG_INFINITY, f32::max)
                };
                let scores: Vec<f32> = halves.iter().map(highest).collect();
                *found = best(halves, &scores, self.groups as usize);
            }
            nominal /= 2.0;
        }
        found.into_iter().map(|found| found.into_iter().flat_map(|i| slots(i.start)).collect()).collect()
    }
}

/// The `count` halves of highest score, of equals the earlier, in the order that they have.
fn best(halves: &[Interval], scores: &[f32], count: usize) -> Vec<Interval> {
    if halves.len() <= count {
        return halves.to_vec();
    }
    let mut order = scores.to_vec();
    let (above, least, _) = order.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    let mut equals = count - above.iter().filter(|score| score.total_cmp(least).is_gt()).count();
    let mut stays = |score: &f32| match score.total_cmp(least) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => {
            let is_left = equals > 0;
            equals -= usize::from(is_left);
            is_left
        }
    };
    halves.iter().zip(scores).filter(|(_, score)| stays(score)).map(|(half, _)| *half).collect()
}

impl Policy for Hip {
    fn bind(&mut self, shape: &Shape, _profile: Option<&Profile>) -> Result<()> {
        self.dense = (self.dense_layers as f64 / shape.layers.max(1) as f64).min(1.0);
        Ok(())
    }

    fn attended(&self, tokens: u32) -> Option<f64> {
        let sparse = f64::from(self.groups * self.block + self.window + self.sinks).min(tokens.into());
        Some(self.dense * f64::from(tokens) + (1.0 - self.dense) * sparse)
    }

    fn needs(&self) -> Needs {
        Needs { view: Some(self.blocks), ..Needs::PLAIN }
    }

    fn claim(&self, _layer: usize, _kv_head: usize, _longest: u32) -> Claim {
        Claim::Whole
    }

    fn view(&mut self, look: &Look<'_>) -> Option<View> {
        let (layer, pos) = (look.layer, look.pos.start);
        let seen = self.groups * self.block + self.window + self.sinks;
        let block = self.block_of(pos, look.is_prompt);
        if layer < self.dense_layers || block.start <= seen {
            return None; // as the block's first row, in whatever pieces the text comes
        }
        if self.found.len() <= layer {
            self.found.resize_with(layer + 1, || None);
        }
        let asked = |found: &Found| found.is_prompt == look.is_prompt && block.contains(&found.asked);
        if !self.found[layer].as_ref().is_some_and(asked) {
            let slots = self.search(look, pos);
            self.found[layer] = Some(Found { asked: pos, is_prompt: look.is_prompt, slots });
        }
        let found = self.found[layer].as_ref()?;
        let window = found.asked - self.window.min(found.asked);
        let list = |slots: &Vec<u32>| {
            Keys::List((0..self.sinks).chain(slots.iter().copied()).chain(window..pos).collect())
        };
        Some(View { heads: found.slots.iter().map(list).collect() })
    }
}

#[cfg(test)]
mod tests {
    use eunoe_core::{Fold, Shape};

    use super::*;
    use crate::policies::random::mix;
    use crate::{Plan, Store};

    /// Keys of one KV head whose product with any query is listed.
    struct Scores(Vec<f32>);

    impl Store for Scores {
        fn len(&self, _kv_head: usize) -> usize {
            self.0.len()
        }

        fn dots(&self, asks: &mut [Dots<'_>]) {
            for ask in asks {
                ask.out =
                    ask.slots.iter().flat_map(|s| ask.q.iter().map(|q| self.0[*s as usize] * q)).collect();
            }
        }

        fn mass(&self, _kv_head: usize, _q: &[f32], _pos: Pos, _fold: Fold, _out: &mut [f32]) {
            unreachable!("HiP asks for no attention")
        }
    }

    fn random(n: u64) -> Vec<f32> {
        (0..n).map(|i| (mix(i) >> 40) as f32 / (1 << 24) as f32).collect()
    }

    /// What the row at `pos` sees of older slots.
    fn sees(policy: &mut dyn Policy, scores: &[f32], pos: Pos) -> Option<Vec<u32>> {
        let store = Scores(scores.to_vec());
        let shape = Shape { layers: 9, heads: 1, kv_heads: 1, head_dim: 1 };
        let look = Look { layer: 5, pos: pos..pos + 1, is_prompt: true, q: &[1.0], shape, store: &store };
        let view = policy.view(&look)?;
        let [Keys::List(slots)] = view.heads.as_slice() else { panic!("one list") };
        Some(slots.clone())
    }

    fn hip(args: &str) -> Box<dyn Policy> {
        Plan::parse(&format!("hip_attention({args})")).unwrap().make_policy(99).unwrap()
    }

    #[test]
    fn what_fits_is_seen_whole() {
        let mut policy = hip("k=8, block=2, window=4, sinks=2, rows=1");
        assert_eq!(sees(policy.as_mut(), &random(15), 14), None);
        assert!(sees(policy.as_mut(), &random(16), 15).is_some());
        // Row 15 is read with the block of row 8, even where it comes alone; row 16 begins the next one.
        let mut policy = hip("k=8, block=2, window=4, sinks=2, rows=8");
        assert_eq!(sees(policy.as_mut(), &random(16), 15), None);
        assert!(sees(policy.as_mut(), &random(17), 16).is_some());
    }

    #[test]
    fn one_round_finds_the_exact_best() {
        // 16 searchable blocks of one key, M = 8: intervals of two, halved once, each half its own representative.
        let scores = random(23);
        let mut policy = hip("k=8, block=1, window=4, sinks=2, rows=1");
        let slots = sees(policy.as_mut(), &scores, 22).unwrap();
        let mut order: Vec<u32> = (2..18).collect();
        order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
        let mut want: Vec<u32> = order[..8].iter().copied().chain([0, 1, 18, 19, 20, 21]).collect();
        want.sort_unstable();
        assert_eq!(slots, want);
    }

    #[test]
    fn heads_that_share_a_mask_find_what_the_best_of_them_finds() {
        // Two query heads of one KV head ask for the highest and for the lowest: together for the largest. As above,
        // one round over 16 searchable blocks of one key finds the exact best 8.
        let scores: Vec<f32> = random(23).iter().map(|s| s - 0.5).collect();
        let mut policy = hip("k=8, block=1, window=4, sinks=2, rows=1, mask=kv_head");
        let (store, shape) =
            (Scores(scores.clone()), Shape { layers: 9, heads: 2, kv_heads: 1, head_dim: 1 });
        let look = Look { layer: 5, pos: 22..23, is_prompt: true, q: &[1.0, -1.0], shape, store: &store };
        let mut order: Vec<u32> = (2..18).collect();
        order.sort_by(|a, b| scores[*b as usize].abs().total_cmp(&scores[*a as usize].abs()));
        let mut want: Vec<u32> = order[..8].iter().copied().chain([0, 1, 18, 19, 20, 21]).collect();
        want.sort_unstable();
        assert_eq!(policy.view(&look), Some(View { heads: vec![Keys::List(want)] }));
    }

    #[test]
    fn of_equal_halves_the_earlier_stay() {
        let halves: Vec<Interval> = (0..6).map(|start| Interval { start, size: 1 }).collect();
        let kept = |scores: [f32; 6], count| -> Vec<u32> {
            best(&halves, &scores, count).iter().map(|half| half.start).collect()
        };
        assert_eq!(kept([1.0, 2.0, 1.0, 3.0, 1.0, 2.0], 4), [0, 1, 3, 5]);
        assert_eq!(kept([1.0, 2.0, 1.0, 3.0, 1.0, 2.0], 2), [1, 3]);
        assert_eq!(kept([1.0; 6], 3), [0, 1, 2]);
        assert_eq!(kept([1.0; 6], 6).len(), 6);
    }

    #[test]
    fn a_smooth_peak_is_found_and_lists_are_ascending() {
        // One bump of width 40 in 4000 keys; 64 blocks of two find its top.
        let scores: Vec<f32> = (0..4001).map(|i| (-((i as f32 - 2500.0) / 40.0).powi(2)).exp()).collect();
        let mut policy = hip("k=128, block=2, window=16, sinks=4, rows=1");
        let slots = sees(policy.as_mut(), &scores, 4000).unwrap();
        assert!(slots.is_sorted_by(|a, b| a < b));
        assert_eq!(slots.len(), 128 + 16 + 4);
        let found = |range: std::ops::Range<u32>| slots.iter().filter(|s| range.contains(s)).count();
        assert!(found(2440..2560) >= 110, "{}", found(2440..2560));
    }

    #[test]
    fn a_block_of_rows_shares_its_first_rows_search() {
        let mut policy = hip("k=8, block=2, window=4, sinks=2, rows=8");
        let first = sees(policy.as_mut(), &random(101), 96).unwrap();
        let other: Vec<f32> = random(104).iter().map(|s| 1.0 - s).collect();
        let later = sees(policy.as_mut(), &other, 99).unwrap();
        let want: Vec<u32> = first.iter().copied().chain(96..99).collect();
        assert_eq!(later, want);
        assert_ne!(sees(policy.as_mut(), &other, 104).unwrap()[2..10], first[2..10]);
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        assert!(
            Plan::parse("hip_attention(k=1, block=2)")
                .unwrap_err()
                .to_string()
                .contains("less than one block")
        );
    }
}
