//! The heads of a layer share its slots: the lowest scores of the whole layer go first, so that heads which spread
//! their attention keep more.
//!
//! * Paper:    Feng et al., 2024, arXiv 2407.11550, algorithm 1
//! * Equation: evicted = lowest scores over all strips of a layer, each strip keeping floor * its part
//! * Shapes:   shape → weights \[layers * kv_heads\], all 1
//! * Cost:     a sort over the layer's slots per eviction
//! * Differs:  the floor is a bound on every strip (authors: the shares found by score are mixed with equal ones,
//!   (1 - floor) * share + floor * mean) and counts protected slots; default 0.2 as in the paper, 0.5 in the code
//! * Oracle:   `select::evict_pooled`, against a literal sort there

use eunoe_core::{Arg, Card, Kind, Shape, Shelf};

use crate::common::arg;
use crate::{Allocate, AllocatorEntry};

const FLOOR: Arg =
    arg("floor", Kind::Float { min: 0.0, max: 0.9 }, "0.2", "share of its own part that every KV head keeps");

/// The method's entry.
pub static ENTRY: AllocatorEntry = AllocatorEntry {
    card: Card {
        id: "ada",
        shelf: Shelf::Allocator,
        name: "Ada-KV",
        paper: "Feng 2024, arXiv 2407.11550",
        idea: "lets the KV heads of a layer compete for its slots by score",
        args: &[FLOOR],
    },
    make: |args| Ok(Box::new(Ada { floor: args.float("floor") })),
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Ada {
    floor: f32,
}

impl Allocate for Ada {
    fn weights(&self, shape: &Shape) -> Vec<f32> {
        vec![1.0; shape.strips()]
    }

    fn pooled(&self) -> Option<f32> {
        Some(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use crate::Plan;
    use crate::select::{Pooled, evict_pooled};
    use crate::sim;

    #[test]
    fn a_head_that_spreads_its_attention_keeps_more() {
        // h2o(recent=1) on two heads of 5 slots, newest 4. Head 0 looks at one token, head 1 at all: the four lowest
        // of the layer are 0.1 (head 0, three times) and 0.2 (head 1). With floor 0.5 head 0 keeps 2 of 5, which the
        // three evictions leave; with floor 0.8 it keeps 4, so one 0.1 goes and then one 0.2, and no more may.
        let policy = sim::policy("h2o(recent=1, step=1)", 5);
        let pos = [0, 1, 2, 3, 4];
        let heads = [[0.7, 0.1, 0.1, 0.1, 0.0], [0.25, 0.25, 0.3, 0.2, 0.0]];
        let scores = heads.map(|column| sim::scores(policy.as_ref(), &pos, &column, 4));
        let strips = [0, 1].map(|h: usize| Pooled { scores: &scores[h], pos: &pos, part: 5 });
        let drop = |floor: &str, count| {
            let plan = Plan::parse(&format!("h2o | ada(floor={floor})")).unwrap();
            let floor = plan.make_allocator().unwrap().pooled().unwrap();
            let mut out = vec![Vec::new(); 2];
            evict_pooled(&policy.needs(), &strips, 4, floor, count, &mut out).map(|()| out)
        };
        assert_eq!(drop("0.5", 4).unwrap(), [vec![1, 2, 3], vec![3]]);
        assert_eq!(drop("0.8", 2).unwrap(), [vec![3], vec![3]]);
        assert!(drop("0.8", 3).is_err());
    }
}
