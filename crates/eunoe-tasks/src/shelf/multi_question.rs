//! Five unlike facts are put into a book and asked for one by one, after it was read: memory cannot know the
//! question.
//!
//! * Paper:    of ours; the setting of one context and several questions is that of SCBench (2024, arXiv
//!   2412.10319)
//! * Equation: score = mean over 5 asks of 1 if the answer holds the fact
//! * Shapes:   n words and 5 sentences, k of 5 at `(place + k / 5) mod 1` → 5 asks on one context
//! * Cost:     one context, 5 * 24 new tokens
//! * Differs:  nothing; `place` is even over samples, the passage begins at a random sentence
//! * Oracle:   the facts found again by their sentences

use eunoe_core::{Card, Result};
use fastrand::Rng;

use super::{card, frame, niah::nearest, write};
use crate::fit::largest;
use crate::haystack::weave;
use crate::random::{even, rng, strata};
use crate::{Ask, Draw, Given, Item, Mark, Task, marks, words};

const ANSWER: usize = 24;
const TOWNS: [&str; 8] =
    ["Aldermoor", "Brackwell", "Corriemuir", "Dunsgate", "Eskerton", "Fallowhithe", "Gorsefield", "Hexwold"];
const FIRST: [&str; 6] = ["Tobias", "Winifred", "Ambrose", "Philippa", "Crispin", "Rosalind"];
const LAST: [&str; 6] = ["Harkaway", "Pennyfeather", "Stroud", "Lovelace", "Quennell", "Thackray"];

/// Sentence and question; `{}` stands for what is asked for.
const FACTS: [(&str, &str); 5] = [
    (
        "The safe of the customs house opens with the number {}.",
        "With which number does the safe of the customs house open?",
    ),
    ("The new organist of the chapel is called {}.", "What is the new organist of the chapel called?"),
    (
        "The travelling circus will spend the winter in {}.",
        "Where will the travelling circus spend the winter?",
    ),
    ("The password of the night watch is {}.", "What is the password of the night watch?"),
    (
        "One thing was left behind by the thief, namely: {}.",
        "What was the only thing that the thief left behind?",
    ),
];

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct MultiQuestion;

static CARD: Card = card(
    "multi_question",
    "Several questions on one text",
    "",
    "five facts are hidden in one text and asked for after memory was cut",
);

fn answers(rng: &mut Rng) -> [String; 5] {
    let one = |rng: &mut Rng, list: &[&str]| list[rng.usize(..list.len())].to_owned();
    [
        rng.u32(10_000..100_000).to_string(),
        format!("{} {}", one(rng, &FIRST), one(rng, &LAST)),
        one(rng, &TOWNS),
        words::pair(rng),
        format!("{} made of {}", words::noun(rng), one(rng, &["glass", "brass", "wax", "slate", "amber"])),
    ]
}

impl Task for MultiQuestion {
    fn card(&self) -> &Card {
        &CARD
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let hay = draw.sources.haystack()?;
        let mut rng = rng(draw, CARD.id);
        let start = hay.next_start(rng.usize(..hay.len()));
        let mut facts: Vec<(String, Ask)> = FACTS
            .iter()
            .zip(answers(&mut rng))
            .map(|((sentence, question), answer)| {
                let names = ["multi_question.question", "multi_question.cue"];
                let asked = write(draw, names, &[("question", question)], ANSWER, vec![answer.clone()]);
                (sentence.replace("{}", &answer), asked)
            })
            .collect();
        rng.shuffle(&mut facts);
        let asks: Vec<Ask> = facts.iter().map(|(_, ask)| ask.clone()).collect();
        let places = strata(even(draw, CARD.id), facts.len());
        let sized = |words| {
            let mut ends = hay.sentences(start, words);
            ends.push(words);
            let at = places.iter().map(|place| nearest(&ends, place * words as f64));
            let mut inserts: Vec<(usize, &str)> =
                at.zip(facts.iter().map(|(fact, _)| fact.as_str())).collect();
            inserts.sort_unstable();
            let (text, at) = weave(&hay.words(start, words), " ", &inserts);
            let (context, depths) = frame(draw, "multi_question.context", &[], &text, at);
            Ok(Item { context, asks: asks.clone(), depths })
        };
        Ok(largest(draw, CARD.id, (1, usize::MAX), sized)?.1)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        let right = |(i, ask): (usize, &Ask)| marks::match_all(&marks::text(given.get(i)), &ask.gold);
        let sum: f64 = item.asks.iter().enumerate().map(right).sum();
        Mark::of(sum / item.asks.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn each_fact_stands_once_and_is_asked_once() {
        for sample in 0..4 {
            let item = toy::item("multi_question", 4096, sample);
            assert_eq!((item.asks.len(), item.depths.len()), (5, 5));
            for (sentence, question) in FACTS {
                let ask = item.asks.iter().find(|ask| ask.question.contains(question)).unwrap();
                let fact = sentence.replace("{}", &ask.gold[0]);
                assert_eq!(item.context.matches(&fact).count(), 1);
                assert!(item.depths.iter().any(|depth| toy::at(&item, *depth).starts_with(&fact)));
            }
            assert!(
                item.depths.windows(2).all(|pair| (pair[1] - pair[0] - 0.2).abs() < 0.02),
                "{:?}",
                item.depths
            );
        }
    }

    #[test]
    fn two_of_five_are_two_fifths() {
        let item = toy::item("multi_question", 1024, 0);
        let gold = |i: usize| item.asks[i].gold[0].as_str();
        let answers = [gold(0), gold(0), gold(2), ""];
        assert!((toy::mark("multi_question", &item, &answers).score - 0.4).abs() < 1e-12);
    }
}
