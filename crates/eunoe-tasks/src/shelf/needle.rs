//! One invented sentence is put into a book, and a question about it is asked: does the model find it at any
//! depth?
//!
//! * Paper:    Kamradt, 2023, LLMTest_NeedleInAHaystack; no arXiv id
//! * Equation: score = share of the sentence's key words that are words of the answer; `strict` = 1 if all
//!   are
//! * Shapes:   n words and the needle at depth (sample mod 11) / 10 → one ask
//! * Cost:     one prompt, 64 new tokens
//! * Differs:  invented needles of ours instead of one about San Francisco, in turn over samples; the answer is begun;
//!   no judge;
//!   grid of 11 depths; the passage begins at a random sentence; the needle goes in front of the sentence
//!   that the depth falls into, as words, not tokens; `depths` says where it came to stand
//! * Oracle:   the needle found again; places by hand

use eunoe_core::{Card, Result};

use super::{card, frame, write};
use crate::fit::largest;
use crate::haystack::weave;
use crate::random::rng;
use crate::{Draw, Given, Item, Mark, Task, marks};

const ANSWER: usize = 64;
/// Depths of the grid.
pub(super) const GRID: usize = 11;
/// A sentence, a question, the beginning of the answer, and the words that neither gives away.
const NEEDLES: [(&str, &str, &str, &[&str]); 5] = [
    (
        "Every Thursday the lamplighter of Orvenholt feeds candied ginger to a one-eyed pelican.",
        "What does the lamplighter of Orvenholt do every Thursday?",
        "Every Thursday the lamplighter of Orvenholt feeds",
        &["candied", "ginger", "pelican"],
    ),
    (
        "The bridge of Tamsworth was painted turquoise to please a deaf clockmaker.",
        "In which colour was the bridge of Tamsworth painted, and to please whom?",
        "The bridge of Tamsworth was painted",
        &["turquoise", "deaf", "clockmaker"],
    ),
    (
        "The winner of the Quillmarsh regatta is paid in forty jars of smoked honey.",
        "In what is the winner of the Quillmarsh regatta paid?",
        "The winner of the Quillmarsh regatta is paid in",
        &["forty", "jars", "smoked", "honey"],
    ),
    (
        "Old Mother Pellow keeps the map to the silver well inside a hollow trombone.",
        "Where does Old Mother Pellow keep the map to the silver well?",
        "Old Mother Pellow keeps the map to the silver well inside a",
        &["hollow", "trombone"],
    ),
    (
        "The twins of Harrowdene learnt to whistle from a shipwrecked bishop.",
        "From whom did the twins of Harrowdene learn to whistle?",
        "The twins of Harrowdene learnt to whistle from a",
        &["shipwrecked", "bishop"],
    ),
];

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Needle;

static CARD: Card = card(
    "needle",
    "Needle in a haystack",
    "Kamradt 2023",
    "one invented sentence is hidden in a book at a depth of a grid and asked for",
);

/// The start of the sentence that holds the word at `depth`, from sentence starts in order; the end for depth
/// 1.
pub(super) fn before(sentences: &[usize], words: usize, depth: f64) -> usize {
    let word = (words as f64 * depth) as usize;
    let started = sentences.partition_point(|start| *start <= word);
    if word >= words { words } else { sentences[started.max(1) - 1] }
}

impl Task for Needle {
    fn card(&self) -> &Card {
        &CARD
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let hay = draw.sources.haystack()?;
        let start = hay.next_start(rng(draw, CARD.id).usize(..hay.len()));
        let (needle, question, cue, keywords) = NEEDLES[draw.sample % NEEDLES.len()];
        let depth = (draw.sample % GRID) as f64 / (GRID - 1) as f64;
        let sized = |words| {
            let at = before(&hay.sentences(start, words), words, depth);
            let (text, at) = weave(&hay.words(start, words), " ", &[(at, needle)]);
            let (context, depths) = frame(draw, "needle.context", &[], &text, at);
            let gold = keywords.iter().map(|word| (*word).to_owned()).collect();
            let names = ["needle.question", "needle.cue"];
            let asks = vec![write(draw, names, &[("question", question), ("cue", cue)], ANSWER, gold)];
            Ok(Item { context, asks, depths })
        };
        Ok(largest(draw, CARD.id, (1, usize::MAX), sized)?.1)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        let Some(ask) = item.asks.first() else { return Mark::default() };
        let recall = marks::keyword_recall(&marks::text(given.first()), &ask.gold);
        Mark::of(recall).with("strict", f64::from(u8::from(recall == 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn places_by_hand() {
        // Sentences start at 0, 4, 9 of 12 words. Depth 0.5 is word 6, in the sentence from 4 on.
        let place = |depth| before(&[0, 4, 9], 12, depth);
        assert_eq!([0.0, 0.3, 0.34, 0.5, 0.99, 1.0].map(place), [0, 0, 4, 4, 9, 12]);
    }

    #[test]
    fn the_needle_is_found_again_at_its_depth() {
        for sample in 0..22 {
            let item = toy::item("needle", 1024, sample);
            let (sentence, question, ..) = NEEDLES[sample % NEEDLES.len()];
            assert!(toy::at(&item, item.depths[0]).starts_with(sentence), "{sample}");
            assert_eq!(item.context.matches(sentence).count(), 1);
            assert!(toy::only(&item).question.contains(question));
            // One sentence of 9 tokens, the needle of 25 and the wordings before it, of some 950 tokens.
            let want = (sample % GRID) as f64 / 10.0;
            assert!((item.depths[0] - want).abs() < 0.05, "{sample}: {:?}", item.depths);
        }
    }

    #[test]
    fn questions_do_not_give_their_key_words_away() {
        for (sentence, question, cue, words) in NEEDLES {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(marks::keyword_recall(sentence, &words), 1.0);
            assert_eq!(marks::keyword_recall(question, &words), 0.0);
            assert!(sentence.starts_with(cue));
            assert_eq!(marks::keyword_recall(cue, &words), 0.0);
            let others = NEEDLES.iter().filter(|(other, ..)| *other != sentence);
            assert!(others.into_iter().all(|(other, ..)| marks::keyword_recall(other, &words) == 0.0));
        }
    }

    #[test]
    fn some_words_are_some_of_the_score() {
        // Needle 2 has 4 key words.
        let mark = toy::mark("needle", &toy::item("needle", 512, 2), &["In HONEY, smoked."]);
        assert_eq!((mark.score, mark.details["strict"]), (0.5, 0.0));
    }
}
