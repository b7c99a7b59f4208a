//! A text of code words follows Zipf's law, and the three most frequent are asked for.
//!
//! * Paper:    Hsieh et al., 2024, arXiv 2404.06654, section 3; frequent words extraction, alpha = 2
//! * Equation: count of rank k = floor(N k^-alpha / zeta(alpha)); rank 1 is "..." and does not count; score =
//!   share of ranks 2 to 4 that stand in the answer
//! * Shapes:   (length - 50) / 50 code words of 6 letters, N of the text → one ask
//! * Cost:     one prompt, 50 new tokens
//! * Differs:  wordings are ours; N is searched per item, from the least that sets rank 4 off from rank 5.
//!   The answer stands everywhere by nature, and `depths` are all places of ranks 2 to 4; balanced: the k-th
//!   of r copies of a word stands in the k-th of r equal parts of the text
//! * Oracle:   words counted in the text

use eunoe_core::{Card, Result};

use super::{RULER, card, cwe, frame, write};
use crate::fit::largest;
use crate::random::{even, rng};
use crate::{Draw, Given, Item, Mark, Task, marks};

const ANSWER: usize = 50;
/// From here on rank 4 stands oftener than rank 5.
const LEAST: usize = 53;
/// Stands for rank 1.
const DOTS: &str = "...";

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Fwe {
    card: Card,
    is_balanced: bool,
}

const IDEA: &str = "the three code words that a long text repeats most often are asked for";

/// Official and balanced.
pub static TABLE: [Fwe; 2] = [
    Fwe { card: card("fwe", "Frequent words extraction", RULER, IDEA), is_balanced: false },
    Fwe { card: card("fwe_balanced", "Frequent words extraction, balanced", RULER, IDEA), is_balanced: true },
];

/// Copies of the word of rank `k`, from 1, in a text of `n`.
fn copies(n: usize, k: usize) -> usize {
    const ZETA_2: f64 = std::f64::consts::PI * std::f64::consts::PI / 6.0;
    (n as f64 / (k * k) as f64 / ZETA_2) as usize
}

impl Task for Fwe {
    fn card(&self) -> &Card {
        &self.card
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let id = self.card.id;
        let mut rng = rng(draw, id);
        let even = self.is_balanced.then(|| even(draw, id));
        let count = (draw.length.saturating_sub(50) / 50).max(5);
        let mut words = vec![DOTS.to_owned()];
        while words.len() < count {
            let word: String = (0..6).map(|_| rng.char('a'..='z')).collect();
            if !words.contains(&word) {
                words.push(word);
            }
        }
        let top = &words[1..4];
        let sized = |n| {
            let counted = words.iter().enumerate().map(|(i, word)| (word.as_str(), copies(n, i + 1)));
            let mut text = String::new();
            let mut at = Vec::new();
            for word in cwe::ordered(&mut rng.clone(), even, counted) {
                let space = if text.is_empty() { "" } else { " " };
                text.push_str(space);
                if top.iter().any(|top| top == word) {
                    at.push(text.len());
                }
                text.push_str(word);
            }
            let (context, depths) = frame(draw, "fwe.context", &[], &text, at);
            let asks = vec![write(draw, ["fwe.question", "fwe.cue"], &[], ANSWER, top.to_vec())];
            Ok(Item { context, asks, depths })
        };
        Ok(largest(draw, id, (LEAST, usize::MAX), sized)?.1)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        marks::ruler_all(item, given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn copies_follow_the_law() {
        // 100 / 1.644934 = 60.79; by 4, 9, 16 and 25: 15.2, 6.75, 3.80, 2.43.
        assert_eq!([1, 2, 3, 4, 5].map(|k| copies(100, k)), [60, 15, 6, 3, 2]);
        assert!((LEAST..20_000).all(|n| copies(n, 4) > copies(n, 5) && copies(n, 2) > copies(n, 3)));
        assert_eq!(copies(LEAST - 1, 4), copies(LEAST - 1, 5));
    }

    #[test]
    fn the_gold_is_what_counting_finds() {
        for id in ["fwe", "fwe_balanced"] {
            let item = toy::item(id, 4096, 2);
            let text = item.context.lines().nth(1).unwrap();
            let count = |word: &str| text.split(' ').filter(|other| *other == word).count();
            let gold = &toy::only(&item).gold;
            let mut others: Vec<&str> = text.split(' ').collect();
            others.sort_unstable();
            others.dedup();
            others.retain(|word| *word != DOTS && !gold.iter().any(|gold| gold == word));
            let most = others.iter().map(|word| count(word)).max().unwrap();
            assert!(gold.iter().all(|gold| count(gold) > most) && count(&gold[0]) > count(&gold[1]), "{id}");
            assert!(count(DOTS) > count(&gold[0]), "{id}");
            assert_eq!(item.depths.len(), gold.iter().map(|gold| count(gold)).sum::<usize>(), "{id}");
        }
    }
}
