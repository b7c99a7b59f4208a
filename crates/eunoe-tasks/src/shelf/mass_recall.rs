//! Of the attention that full memory pays, how much falls on what a plan keeps: forgetting without any
//! answer.
//!
//! * Paper:    of ours; attention recall is used by e.g. Quest (2024, arXiv 2406.10774) and H2O (2023, arXiv
//!   2306.14048)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn the_share_is_the_score() {
        let item = toy::item("mass_recall", 1024, 0);
        let score = |share| MassRecall.mark(&item, &[Given::Share(share)]).score;
        assert_eq!([0.25, 1.0, 1.0000001, f64::NAN].map(score), [0.25, 1.0, 1.0, 0.0]);
        assert_eq!(MassRecall.mark(&item, &[]).score, 0.0);
    }

    #[test]
    fn some_32_tokens_attend() {
        let sources = toy::sources();
        let hay = sources.haystack().unwrap();
        let whole = hay.passage(0, hay.len());
        for sample in 0..4 {
            let item = MassRecall.draw(&toy::draw(&sources, 1024, sample)).unwrap();
            let Reply::Attend { text } = &toy::only(&item).reply else { unreachable!() };
            assert!((24..=ROWS).contains(&toy::tokens(text)), "{text}");
            assert!(whole.contains(&format!("{}{text}", item.context)));
        }
    }
}
