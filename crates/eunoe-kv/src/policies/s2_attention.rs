//! Every head sees a window of blocks and every v-th block of the text, each head another of the v: together they see
//! everything, and a block that a head will not see again is dropped for good.
//!
//! * Paper:    Lin et al., 2024, arXiv 2407.17678, section 3
//! * Equation: block j ≤ i is seen by KV head h iff i - j < window or (j + h δ) mod v = 0, δ = max(1, ⌊v / KV heads⌋)
//! * Shapes:   positions only; blocks of `block` tokens
//! * Cost:     KV slots and attention of about n / v + window · block (1 - 1 / v) per token
//! * Differs:  the pattern is per KV head, so that memory is saved; δ counts KV heads (authors: query heads), and v phases
//!   are covered only by v or more KV heads; `sink_block` lets every head see the first block, without which models
//!   that were not trained with the pattern lose their sink; the first `dense_layers` layers keep everything
//! * Oracle:   the authors' table for one head (8 blocks, window 2, v = 3), and the equation, row by row

use std::ops::Range;

use eunoe_core::{Arg, Card, Kind, Result, Shape, Shelf};

use crate::common::{COUNT, SIZE, arg};
use crate::{Blocks, Claim, Needs, Policy, PolicyEntry, Pos, Profile};

const BLOCK: Arg = arg("block", COUNT, "64", "tokens of a block");
const WINDOW: Arg = arg("window", COUNT, "16", "blocks that every head sees, the row's own included");
const STRIDE: Arg = arg("stride", COUNT, "8", "v: of the older blocks a head sees every v-th");
const SINK: Arg =
    arg("sink_block", Kind::Choice(&["on", "off"]), "on", "whether every head also sees the first block");
const DENSE: Arg = arg("dense_layers", SIZE, "1", "first layers that keep everything");

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "s2_attention",
        shelf: Shelf::Policy,
        name: "S2-Attention",
        paper: "Lin 2024, arXiv 2407.17678",
        idea: "each head keeps a window and every v-th block of the text, each another one",
        args: &[BLOCK, WINDOW, STRIDE, SINK, DENSE],
    },
    make: |args, _| {
        let stride = args.int("stride");
        Ok(Box::new(S2 {
            block: args.int("block"),
            window: args.int("window"),
            stride,
            shift: 1,
            sink: args.word("sink_block") == "on",
            dense_layers: args.int("dense_layers") as usize,
        }))
    },
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct S2 {
    block: u32,
    window: u32,
    stride: u32,
    /// Blocks by which one KV head's phase differs from the next one's.
    shift: u32,
    sink: bool,
    dense_layers: usize,
}

impl S2 {
    /// Whether a block outside the window is seen.
    fn strides(&self, kv_head: usize, block: u32) -> bool {
        let phase = kv_head as u64 * u64::from(self.shift);
        (self.sink && block == 0) || (u64::from(block) + phase).is_multiple_of(u64::from(self.stride))
    }

    /// Most slots that a strip of a text of `longest` tokens ever holds.
    fn most(&self, kv_head: usize, longest: u32) -> u32 {
        let blocks = longest.div_ceil(self.block);
        let (old, stride) = (u64::from(blocks.saturating_sub(self.window)), u64::from(self.stride));
        let phase = kv_head as u64 * u64::from(self.shift);
        let sink = u64::from(self.sink && old > 0 && !phase.is_multiple_of(stride));
        let strided = (old + phase).div_ceil(stride) - phase.div_ceil(stride);
        let most = (strided + sink + u64::from(self.window.min(blocks))) * u64::from(self.block);
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}

impl Policy for S2 {
    fn bind(&mut self, shape: &Shape, _profile: Option<&Profile>) -> Result<()> {
        self.shift = (self.stride / shape.kv_heads as u32).max(1);
        Ok(())
    }

    fn needs(&self) -> Needs {
        Needs { view: Some(Blocks { prompt: self.block, answer: self.block }), ..Needs::PLAIN }
    }

    fn claim(&self, layer: usize, kv_head: usize, longest: u32) -> Claim {
        if layer < self.dense_layers {
            Claim::Whole
        } else {
            Claim::Fixed(self.most(kv_head, longest).max(2))
        }
    }

    fn retire(&self, layer: usize, kv_head: usize, next: Pos) -> Range<Pos> {
        let leaves = (next / self.block).checked_sub(self.window).filter(|_| layer >= self.dense_layers);
        match leaves {
            Some(block) if !self.strides(kv_head, block) => block * self.block..(block + 1) * self.block,
            _ => 0..0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Plan;

    fn made(plan: &str, kv_heads: usize) -> Box<dyn Policy> {
        let mut policy = Plan::parse(plan).unwrap().make_policy(99).unwrap();
        policy.bind(&Shape { layers: 9, heads: kv_heads, kv_heads, head_dim: 64 }, None).unwrap();
        policy
    }

    /// The blocks that a head holds while each block of rows is read.
    fn held(policy: &dyn Policy, kv_head: usize, blocks: u32, block: u32) -> Vec<Vec<u32>> {
        let mut held = Vec::new();
        (0..blocks)
            .map(|i| {
                let gone = policy.retire(9, kv_head, i * block);
                held.retain(|j| !gone.contains(&(j * block)));
                held.push(i);
                held.clone()
            })
            .collect()
    }

    #[test]
    fn one_head_sees_what_the_authors_table_says() {
        let policy = made("s2_attention(block=16, window=2, stride=3, sink_block=off)", 1);
        let got = held(policy.as_ref(), 0, 8, 16);
        let want: [&[u32]; 8] =
            [&[0], &[0, 1], &[0, 1, 2], &[0, 2, 3], &[0, 3, 4], &[0, 3, 4, 5], &[0, 3, 5, 6], &[0, 3, 6, 7]];
        assert_eq!(got, want);
    }

    #[test]
    fn heads_follow_the_equation_and_fill_their_claim() {
        for (stride, kv_heads, window, sink) in
            [(8, 2, 16, "on"), (3, 3, 1, "off"), (4, 4, 2, "on"), (1, 2, 3, "off")]
        {
            let plan = format!("s2_attention(block=8, window={window}, stride={stride}, sink_block={sink})");
            let policy = made(&plan, kv_heads as usize);
            let mut union = std::collections::BTreeSet::new();
            for h in 0..kv_heads {
                let held = held(policy.as_ref(), h as usize, 50, 8);
                for (i, held) in (0u32..).zip(&held) {
                    let sees = |j: &u32| {
                        i - j < window
                            || (j + h * (stride / kv_heads).max(1)).is_multiple_of(stride)
                            || (sink == "on" && *j == 0)
                    };
                    assert_eq!(
                        *held,
                        (0..=i).filter(sees).collect::<Vec<_>>(),
                        "{plan}, head {h}, block {i}"
                    );
                }
                let most = held.iter().map(Vec::len).max().unwrap_or(0) as u32;
                assert_eq!(policy.claim(1, h as usize, 400), Claim::Fixed(most * 8), "{plan}, head {h}");
                union.extend(held[49].iter().copied());
            }
            assert_eq!(union.len() == 50, stride <= kv_heads, "{plan}: v heads see everything together");
            assert_eq!(policy.claim(0, 0, 400), Claim::Whole);
        }
    }

    #[test]
    fn resident_share_is_the_dossiers() {
        // 128 blocks, window 16, v = 8: 14 of the 112 older ones and 16: 30 / 128 = 0.234.
        let policy = made("s2_attention(sink_block=off)", 2);
        assert_eq!(policy.claim(1, 0, 8192), Claim::Fixed(30 * 64));
    }
}
