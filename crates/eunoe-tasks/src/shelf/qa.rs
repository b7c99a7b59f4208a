//! A question is asked about one or two documents among many.
//!
//! * Paper:    Hsieh et al., 2024, arXiv 2404.06654, section 3; QA on SQuAD (2018, arXiv 1806.03822) and HotpotQA (2018,
//!   arXiv 1809.09600)
//! * Equation: score = 1 if any right answer stands in the reply (`official`); `harness` = share of right answers that do
//! * Shapes:   n documents, 1 or 2 of them gold → one ask
//! * Cost:     one prompt, 32 new tokens
//! * Differs:  wordings are ours, the built-in questions too. Official: n is searched for sample 0 and lessened where
//!   another sample does not fit, by 10 as there, by 1 from 10 down; documents are shuffled as by a fresh Python
//!   `Random(42)`, which puts the gold one at one place per n; gold documents come first, those that belong to the
//!   question next, then random ones, again from the first when all are used. Balanced: n is searched per item, gold
//!   document k of K stands at `(place + k / K) mod 1`, `place` even over samples; depth is even to 1/n
//! * Oracle:   places from Python; documents found again by their text

use eunoe_core::{Card, Result};
use fastrand::Rng;

use super::{RULER, card, frame, write};
use crate::fit::{largest, tokens, too_short};
use crate::random::{even, python_shuffle, rng, strata};
use crate::sources::{Library, Question};
use crate::{Draw, Given, Item, Mark, Task, marks};

const ANSWER: usize = 32;
/// RULER's seed, and by how many documents it lessens what does not fit.
const SEED: u32 = 42;
const STEP: usize = 10;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Qa {
    card: Card,
    is_two_hop: bool,
    is_balanced: bool,
}

const ONE: &str = "a question is answered from one document among many";
const TWO: &str = "a question is answered from two documents among many";

/// The official two, then the balanced two.
pub static TABLE: [Qa; 4] = [
    Qa { card: card("qa_1", "QA 1: SQuAD", RULER, ONE), is_two_hop: false, is_balanced: false },
    Qa { card: card("qa_2", "QA 2: HotpotQA", RULER, TWO), is_two_hop: true, is_balanced: false },
    Qa {
        card: card("qa_1_balanced", "QA 1: SQuAD, balanced", RULER, ONE),
        is_two_hop: false,
        is_balanced: true,
    },
    Qa {
        card: card("qa_2_balanced", "QA 2: HotpotQA, balanced", RULER, TWO),
        is_two_hop: true,
        is_balanced: true,
    },
];

/// `count` documents that do not answer the question: its own first, then others at random, again when all are used.
fn others(rng: &mut Rng, library: &Library, question: &Question, count: usize) -> Vec<usize> {
    let mut list = question.near.clone();
    let mut rest: Vec<usize> = (0..library.documents.len()).collect();
    rest.retain(|document| !question.gold.contains(document) && !list.contains(document));
    rng.shuffle(&mut rest);
    list.append(&mut rest);
    list.into_iter().cycle().take(count).collect()
}

impl Qa {
    fn library<'a>(&self, draw: &Draw<'a>) -> Result<&'a Library> {
        if self.is_two_hop { draw.sources.two_hop() } else { draw.sources.questions() }
    }

    /// Documents in their order, and where the gold ones are.
    fn order(&self, draw: &Draw<'_>, gold: &[usize], others: &[usize]) -> Vec<usize> {
        let mut order = [gold, others].concat();
        if !self.is_balanced {
            python_shuffle(SEED, &mut order);
            return order;
        }
        let count = order.len();
        let places = strata(even(draw, self.card.id), gold.len());
        let mut at: Vec<(usize, usize)> =
            places.iter().map(|place| (place * count as f64) as usize).zip(gold.iter().copied()).collect();
        at.sort_unstable();
        order = others.to_vec();
        for (place, document) in at {
            order.insert(place.min(order.len()), document);
        }
        order
    }

    fn item(&self, draw: &Draw<'_>, count: usize) -> Result<Item> {
        let library = self.library(draw)?;
        let question = &library.questions[draw.sample % library.questions.len()];
        let count = count.saturating_sub(question.gold.len());
        let others = others(&mut rng(draw, self.card.id), library, question, count);
        let mut text = String::new();
        let mut at = Vec::new();
        for (i, document) in self.order(draw, &question.gold, &others).into_iter().enumerate() {
            text.push_str(if i == 0 { "" } else { "\n\n" });
            if question.gold.contains(&document) {
                at.push(text.len());
            }
            let number = (i + 1).to_string();
            let spoken = [("number", number.as_str()), ("text", &library.documents[document])];
            text.push_str(&draw.sources.prompts().fill("qa.document", &spoken));
        }
        let (context, depths) = frame(draw, "qa.context", &[], &text, at);
        let spoken = [("question", question.text.as_str())];
        let asks = vec![write(draw, ["qa.question", "qa.cue"], &spoken, ANSWER, question.answers.clone())];
        Ok(Item { context, asks, depths })
    }
}

impl Task for Qa {
    fn card(&self) -> &Card {
        &self.card
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let (id, least) = (self.card.id, if self.is_two_hop { 2 } else { 1 });
        // One document has nothing to repeat.
        let most = if self.library(draw)?.documents.len() > least { usize::MAX } else { least };
        if self.is_balanced {
            return Ok(largest(draw, id, (least, most), |count| self.item(draw, count))?.1);
        }
        let first = Draw { sample: 0, ..*draw };
        let (mut count, mut item) = largest(&first, id, (least, most), |count| self.item(&first, count))?;
        if draw.sample > 0 {
            item = self.item(draw, count)?;
        }
        loop {
            let needs = tokens(draw, &item);
            if needs <= draw.length {
                return Ok(item);
            }
            if count <= least {
                return Err(too_short(draw, id, needs));
            }
            count -= if count > STEP { STEP } else { 1 };
            item = self.item(draw, count)?;
        }
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        marks::ruler_part(item, given)
    }
}
