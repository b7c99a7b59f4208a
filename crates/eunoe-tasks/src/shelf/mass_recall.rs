//! Of the attention that full memory pays, how much falls on what a plan keeps: forgetting without any answer.
//!
//! * Paper:    of ours; attention recall is used by e.g. Quest (2024, arXiv 2406.10774) and H2O (2023, arXiv 2306.14048)
//! * Equation: score = share of the attention of the continuation's rows that falls on kept slots, as given
//! * Shapes:   n words, of which the last (about 32 tokens) attend → one ask
//! * Cost:     one prompt, under full memory and under the plan
//! * Differs:  nothing; a passage starts at a random place and does not begin again at the text's end
//! * Oracle:   context and continuation stand in the text one after the other

use eunoe_core::{Card, Result};

use super::{card, perplexity};
use crate::{Draw, Given, Item, Mark, Reply, Task};

/// Most tokens that attend.
const ROWS: usize = 32;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct MassRecall;

static CARD: Card = card(
    "mass_recall",
    "Attention mass recall",
    "",
    "how much of the attention under full memory falls on what was kept",
);

impl Task for MassRecall {
    fn card(&self) -> &Card {
        &CARD
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        perplexity::passage(draw, CARD.id, ROWS, |text| Reply::Attend { text })
    }

    fn mark(&self, _item: &Item, given: &[Given]) -> Mark {
        match given.first() {
            Some(Given::Share(share)) if share.is_finite() => Mark::of(share.clamp(0.0, 1.0)),
            _ => Mark::default(),
        }
    }

    fn is_raw(&self) -> bool {
        true
    }
}
