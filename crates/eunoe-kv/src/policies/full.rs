//! Keeps everything: the model's own attention, and the ceiling that the others are measured against.
//!
//! * Paper:    Vaswani et al., 2017, arXiv 1706.03762
//! * Equation: kept = all
//! * Shapes:   no column; the score is not used
//! * Cost:     one slot per token in every strip; refused where the text may outgrow the budget
//! * Differs:  nothing
//! * Oracle:   the caps: room for the whole text in every strip, or an error with both numbers

use eunoe_core::{Card, Shelf};

use crate::{Claim, Needs, Policy, PolicyEntry};

/// The method's entry.
pub static ENTRY: PolicyEntry = PolicyEntry {
    card: Card {
        id: "full",
        shelf: Shelf::Policy,
        name: "Full memory",
        paper: "Vaswani 2017, arXiv 1706.03762",
        idea: "keeps every token; refused if the text may outgrow the budget",
        args: &[],
    },
    make: |_, _| Ok(Box::new(Full)),
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Full;

impl Policy for Full {
    fn needs(&self) -> Needs {
        Needs { evicts_in_decode: false, ..Needs::PLAIN }
    }

    fn claim(&self, _layer: usize, _kv_head: usize, _longest: u32) -> Claim {
        Claim::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::{Ask, Room, caps};

    #[test]
    fn every_strip_gets_the_whole_text_or_nothing_runs() {
        // 2 strips * 10 slots * 100 bytes = 2000.
        let (needs, claims) = (Full.needs(), [Full.claim(0, 0, 9), Full.claim(0, 1, 9)]);
        let ask = Ask { needs: &needs, claims: &claims, weights: &[1.0, 1.0], floor: 0.0, longest: 10 };
        assert_eq!(caps(&ask, Room::Bytes { bytes: 2000, slot: 100 }).unwrap(), [10, 10]);
        let error = caps(&ask, Room::Bytes { bytes: 1999, slot: 100 }).unwrap_err().to_string();
        assert!(error.contains("2000 asked, 1999 available"), "{error}");
    }
}
