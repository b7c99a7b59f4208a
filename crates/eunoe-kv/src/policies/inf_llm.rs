//! Lets old slots wait in a cold tier as blocks of one length, and brings back those that the rows are likely to need.
//!
//! * Paper:    Xiao et al., 2024, arXiv 2402.04617
//! * Equation: block = `block` tokens; its key = mean of the `keys` keys with the highest Σ attn\[·, j\] while near; blocks
//!   of highest (mean query · key) return, as many as fit `memory`
//! * Shapes:   mean query and block keys \[kv heads, d\] → block numbers, one set per layer for all heads
//! * Cost:     hot: sinks + local + memory slots; cold: the text; a product per block and layer, for each pass
//! * Differs:  attention is summed over a group, so its heads agree on a block's key; blocks are read anew for each pass
//!   (authors: 32 blocks stay loaded); the budget of what returns does not shrink by what is in no block yet
//! * Oracle:   attention written down over the blocks that brute force ranks first

use std::ops::Range;

use eunoe_core::{Card, Result, Shelf};

use crate::common::{BLOCK, COLD, FAR, KEYS, LOCAL, MEMORY, PASS, TIER, recall, recalls, sinks};
use crate::recall::{Recall, Sizes, by_likeness};
use crate::{Claim, Needs, Policy, PolicyEntry, Pos};

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "inf_llm",
        shelf: Shelf::Policy,
        name: "InfLLM",
        paper: "Xiao 2024, arXiv 2402.04617",
        idea: "keeps a window and lets the rest wait outside in blocks, of which the likeliest come back",
        args: &[sinks("128"), LOCAL, MEMORY, BLOCK, KEYS, PASS, FAR, COLD, TIER],
    },
    make: |args, _| Ok(Box::new(make(args)?)),
};

fn make(args: &crate::Args) -> Result<InfLlm> {
    let (sinks, sizes) = recall(args)?;
    Ok(InfLlm { sinks, sizes, next: sinks })
}

/// See the module.
#[derive(Clone, Debug)]
pub struct InfLlm {
    sinks: u32,
    sizes: Sizes,
    /// First position of the next block.
    next: Pos,
}

impl Policy for InfLlm {
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

impl Recall for InfLlm {
    fn blocks(&mut self, end: Pos) -> Vec<Pos> {
        let count = end.saturating_sub(self.next) / self.sizes.block;
        let first = self.next;
        self.next += count * self.sizes.block;
        (1..=count).map(|i| first + i * self.sizes.block).collect()
    }

    fn choose(&mut self, _layer: usize, likeness: &[f32], _blocks: &[Range<Pos>]) -> Vec<u32> {
        let mut chosen = by_likeness(likeness);
        chosen.truncate((self.sizes.slots / self.sizes.block) as usize);
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use crate::Plan;

    #[test]
    fn blocks_follow_each_other_and_the_likeliest_return() {
        let plan = Plan::parse("inf_llm(sinks=2, local=8, pass=8, block=4, memory=9)").unwrap();
        let mut policy = plan.make_policy(u32::MAX).unwrap();
        let recall = policy.recall().unwrap();
        assert_eq!(recall.blocks(5), []);
        assert_eq!(recall.blocks(11), [6, 10]);
        assert_eq!(recall.blocks(14), [14]);
        let blocks = [2..6, 6..10, 10..14];
        assert_eq!(recall.choose(0, &[0.5, 2.0, 0.5], &blocks), [0, 1], "two of 4 fit 9; ties go down");
        assert_eq!(recall.choose(0, &[-3.0], &blocks[..1]), [0]);
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        for (plan, why) in [
            ("inf_llm(local=64, pass=128)", "`pass=128` rows see each other and `local=64`"),
            ("inf_llm(block=128, memory=100)", "`memory=100` holds no block of 128"),
            ("inf_llm(keys=200)", "`keys=200` are more than a block of 128"),
        ] {
            let error = Plan::parse(plan).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
