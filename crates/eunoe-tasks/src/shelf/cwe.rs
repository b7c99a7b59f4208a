//! A long numbered list repeats ten words more often than all others, and these ten are asked for.
//!
//! * Paper:    Hsieh et al., 2024, arXiv 2404.06654, section 3; common words extraction
//! * Equation: score = share of the 10 common words that stand in the answer
//! * Shapes:   n distinct words: 10 of them 30 times, the others 3 times (6 and 1 below 4096 tokens), after a
//!   worked example of 40 words, 10 times and 3 times (20 words, 3 and 1) → one ask
//! * Cost:     one prompt, 120 new tokens
//! * Differs:  wordings and words are ours, beyond 900 words pairs of an adjective and a noun; the size is
//!   searched per item to the distinct word; below 1024 tokens the example has 12 words. The answer stands
//!   everywhere by nature, and `depths` are all places of common words; balanced: the k-th of r copies of a
//!   word stands in the k-th of r equal parts of the list, so that no stretch holds more of them than
//!   another; depth is even behind the example
//! * Oracle:   words counted in the list

use eunoe_core::{Card, Result};
use fastrand::Rng;

use super::{RULER, RULER_SMALL, card, frame, write};
use crate::fit::largest;
use crate::random::{even, golden, rng};
use crate::{Draw, Given, Item, Mark, Task, marks, words};

const ANSWER: usize = 120;
/// Words that are asked for.
const COMMON: usize = 10;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Cwe {
    card: Card,
    is_balanced: bool,
}

const IDEA: &str = "the ten words that a long list repeats most often are asked for";

/// Official and balanced.
pub static TABLE: [Cwe; 2] = [
    Cwe { card: card("cwe", "Common words extraction", RULER, IDEA), is_balanced: false },
    Cwe { card: card("cwe_balanced", "Common words extraction, balanced", RULER, IDEA), is_balanced: true },
];

/// Copies in an order: each has a place from 0 to 1, by which they are sorted. Counts are per item.
pub(super) fn ordered<'a>(
    rng: &mut Rng,
    even: Option<f64>,
    items: impl Iterator<Item = (&'a str, usize)>,
) -> Vec<&'a str> {
    let mut placed: Vec<(f64, &str)> = Vec::new();
    for (i, (item, count)) in items.enumerate() {
        // Where in its part each copy stands is the item's own, so that items do not march in step.
        let phase = even.map(|even| golden(even, i));
        for k in 0..count {
            let place = phase.map_or_else(|| rng.f64(), |phase| (k as f64 + phase) / count as f64);
            placed.push((place, item));
        }
    }
    placed.sort_by(|a, b| a.0.total_cmp(&b.0));
    placed.into_iter().map(|(_, item)| item).collect()
}

/// A list of `words`, the first ten `often` times and the others `seldom`, and where the ten stand.
fn list(
    rng: &mut Rng,
    even: Option<f64>,
    words: &[String],
    often: usize,
    seldom: usize,
) -> (String, Vec<usize>) {
    let counted = words.iter().enumerate();
    let counted = counted.map(|(i, word)| (word.as_str(), if i < COMMON { often } else { seldom }));
    let mut text = String::new();
    let mut at = Vec::new();
    for (i, word) in ordered(rng, even, counted).into_iter().enumerate() {
        let space = if i == 0 { "" } else { " " };
        text.push_str(&format!("{space}{}. ", i + 1));
        if words[..COMMON].iter().any(|common| common == word) {
            at.push(text.len());
        }
        text.push_str(word);
    }
    (text, at)
}

fn item(draw: &Draw<'_>, before: &str, (text, at): (String, Vec<usize>), common: &[String]) -> Item {
    let (context, _) = frame(draw, "cwe.context", &[], &text, []);
    let context = [before, &context].concat();
    let begin = context.len() - draw.sources.prompts().around("cwe.context", &[]).1.len() - text.len();
    let depths = at.iter().map(|at| (begin + at) as f64 / context.len() as f64).collect();
    let asks = vec![write(draw, ["cwe.question", "cwe.cue"], &[], ANSWER, common.to_vec())];
    Item { context, asks, depths }
}

fn example(draw: &Draw<'_>, rng: &mut Rng) -> String {
    let (count, often, seldom) = match draw.length {
        RULER_SMALL.. => (40, 10, 3),
        1024.. => (20, 3, 1),
        _ => (12, 3, 1),
    };
    let words = words::distinct(rng, count);
    let shown = item(draw, "", list(rng, None, &words, often, seldom), &words[..COMMON]);
    let named = words[..COMMON].iter().enumerate().map(|(i, word)| format!("{}. {word}", i + 1));
    let ask = &shown.asks[0];
    format!("{}{}\n{} {}\n\n", shown.context, ask.question, ask.cue, named.collect::<Vec<_>>().join(" "))
}

impl Task for Cwe {
    fn card(&self) -> &Card {
        &self.card
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let id = self.card.id;
        let mut rng = rng(draw, id);
        let example = example(draw, &mut rng);
        let even = self.is_balanced.then(|| even(draw, id));
        let (often, seldom) = if draw.length < RULER_SMALL { (6, 1) } else { (30, 3) };
        let sized = |count| {
            let mut rng = rng.clone();
            let words = words::distinct(&mut rng, count);
            let listed = list(&mut rng, even, &words, often, seldom);
            Ok(item(draw, &example, listed, &words[..COMMON]))
        };
        Ok(largest(draw, id, (COMMON + 1, usize::MAX), sized)?.1)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        marks::ruler_all(item, given)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::toy;

    #[test]
    fn copies_stand_one_in_each_part() {
        // a at 0 and 1/2; b, moved on by 0.618, at 0.618 / 3, 1.618 / 3, 2.618 / 3 = 0.206, 0.539, 0.873.
        let counted = [("a", 2), ("b", 3)];
        let got = ordered(&mut Rng::with_seed(1), Some(0.0), counted.into_iter());
        assert_eq!(got, ["a", "b", "a", "b", "b"]);
    }

    #[test]
    fn a_list_is_numbered_and_its_words_are_found() {
        let words: Vec<String> = (0..11).map(|i| format!("w{i}x")).collect();
        let (text, at) = list(&mut Rng::with_seed(1), None, &words, 2, 1);
        assert!(text.starts_with("1. w") && text.contains(" 21. w") && !text.contains("22."));
        assert_eq!(at.len(), 20);
        assert!(at.iter().all(|at| text[*at..].starts_with('w') && !text[*at..].starts_with("w10x")));
    }

    /// How often each word stands in the list that ends a context.
    fn counts(context: &str) -> HashMap<&str, usize> {
        let list = &context[context.rfind("\n1. ").unwrap()..];
        let words = list.split_whitespace().filter(|word| !word.ends_with('.'));
        words.fold(HashMap::new(), |mut counts, word| {
            *counts.entry(word).or_default() += 1;
            counts
        })
    }

    #[test]
    fn the_gold_is_what_counting_finds() {
        for (id, length, often, seldom) in [
            ("cwe", 4096, 30, 3),
            ("cwe_balanced", 8192, 30, 3),
            ("cwe", 2048, 6, 1),
            ("cwe_balanced", 1024, 6, 1),
        ] {
            let item = toy::item(id, length, 1);
            let (counts, gold) = (counts(&item.context), &toy::only(&item).gold);
            assert!(counts.len() > COMMON, "{id}");
            for (word, count) in &counts {
                let want = if gold.iter().any(|gold| gold == word) { often } else { seldom };
                assert_eq!(*count, want, "{id}: {word}");
            }
            assert_eq!((gold.len(), item.depths.len()), (COMMON, COMMON * often), "{id}");
            assert!(
                item.depths.iter().all(|at| gold.iter().any(|word| toy::at(&item, *at).starts_with(word)))
            );
        }
    }
}
