//! Lets finished blocks wait in a cold tier and reads them in two steps: a landmark per block says how much attention the
//! block gets, and inside it attention is shared out anew.
//!
//! * Paper:    Mohtashami & Jaggi, 2023, arXiv 2305.16300, sections 3.1 and 3.2
//! * Equation: p = softmax over the tokens of the unfinished block and the landmarks of the k best others; a token of a
//!   block gets p\[landmark\] · softmax inside the block
//! * Shapes:   gates \[rows, group, blocks\] → k blocks per layer and KV head
//! * Cost:     hot: a block per strip, and (k + 2) blocks per KV head of what came back; a row meets (k + 1) · block slots and a landmark per block
//! * Differs:  without `token` no landmarks are trained: a landmark is the mean key of its block at the block's last
//!   position, `weighted` by ln(block), which bounds the block's mass from below; blocks keep their own positions; a KV
//!   head chooses for its group, by the most that any of its heads and rows would give
//! * Oracle:   the two-level softmax written down

use std::ops::Range;

use eunoe_core::{Arg, Card, Kind, Result, Shelf};

use crate::common::{COLD, COUNT, TIER, arg};
use crate::recall::{Grouped, Recall, Sizes, by_likeness};
use crate::{Claim, Needs, Policy, PolicyEntry, Pos};

const BLOCK: Arg = arg("block", Kind::Int { min: 2, max: 1 << 16 }, "64", "tokens of a block");
const BLOCKS: Arg =
    arg("blocks", COUNT, "4", "blocks that come back for each block of rows, per layer and KV head");
const GATE: Arg = arg(
    "gate",
    Kind::Choice(&["weighted", "plain"]),
    "weighted",
    "whether a landmark weighs as many tokens as its block has, or one",
);

const TOKEN: Arg = arg(
    "token",
    Kind::Int { min: 0, max: u32::MAX },
    "none",
    "id of the landmark token that the model was trained with: one is put at the end of every block",
);

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "landmark_attention",
        shelf: Shelf::Policy,
        name: "Landmark Attention",
        paper: "Mohtashami 2023, arXiv 2305.16300",
        idea: "gives every block a landmark; the blocks whose landmarks attract come back and share what those got",
        args: &[BLOCK, BLOCKS, GATE, TOKEN, COLD, TIER],
    },
    make: |args, _| Ok(Box::new(make(args)?)),
};

fn make(args: &crate::Args) -> Result<Landmark> {
    let (block, blocks) = (args.int("block"), args.int("blocks"));
    Ok(Landmark {
        blocks,
        next: 0,
        sizes: Sizes {
            local: block,
            slots: block.saturating_mul(blocks),
            block,
            pass: block,
            keys: block,
            own: true,
            surprisal: false,
            grouped: Some(Grouped {
                weighted: args.word("gate") == "weighted",
                token: args.given_int("token"),
            }),
            cold: args.given_bytes("cold"),
            disk: args.word("tier") == "disk",
        },
    })
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Landmark {
    blocks: u32,
    sizes: Sizes,
    /// First position of the next block.
    next: Pos,
}

impl Policy for Landmark {
    fn needs(&self) -> Needs {
        Needs { recall: Some(self.sizes), ..Needs::PLAIN }
    }

    fn claim(&self, _layer: usize, _kv_head: usize, _longest: u32) -> Claim {
        Claim::Fixed(self.sizes.block)
    }

    fn attended(&self, _tokens: u32) -> Option<f64> {
        Some(f64::from(self.sizes.slots) + f64::from(self.sizes.block) / 2.0)
    }

    fn recall(&mut self) -> Option<&mut dyn Recall> {
        Some(self)
    }
}

impl Recall for Landmark {
    fn blocks(&mut self, end: Pos) -> Vec<Pos> {
        let ends: Vec<Pos> = (self.next / self.sizes.block + 1..=end / self.sizes.block)
            .map(|i| i * self.sizes.block)
            .collect();
        self.next = ends.last().copied().unwrap_or(self.next);
        ends
    }

    fn choose(&mut self, _layer: usize, likeness: &[f32], _blocks: &[Range<Pos>]) -> Vec<u32> {
        let mut chosen = by_likeness(likeness);
        chosen.truncate(self.blocks as usize);
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use crate::Plan;

    #[test]
    fn blocks_end_at_multiples_and_the_best_gates_are_chosen() {
        let plan = Plan::parse("landmark_attention(block=8, blocks=2)").unwrap();
        let mut policy = plan.make_policy(u32::MAX).unwrap();
        let recall = policy.recall().unwrap();
        assert_eq!((recall.blocks(7), recall.blocks(17), recall.blocks(24)), (vec![], vec![8, 16], vec![24]));
        assert_eq!(recall.choose(3, &[0.2, 0.5, 0.3], &[0..8, 8..16, 16..24]), [1, 2]);
        assert_eq!(recall.choose(3, &[0.2, 0.2, 0.2], &[0..8, 8..16, 16..24]), [0, 1]);
    }
}
