//! A number of five digits stands in a desert of idle sentences and is asked for.
//!
//! * Paper:    Mohtashami & Jaggi, 2023, arXiv 2305.16300, section 4.2
//! * Equation: score = 1 if the first run of digits of the answer is the key as an integer
//! * Shapes:   n idle sentences and the key at depth (sample mod 11) / 10 → one ask
//! * Cost:     one prompt, 10 new tokens
//! * Differs:  wordings are ours; length in tokens, not characters; sentences stay whole; keys from 10000 to
//!   99999 (there 1 to 50000); depth on a grid instead of at random
//! * Oracle:   the key found again; places by hand

use eunoe_core::{Card, Result};

use super::needle::GRID;
use super::{card, frame, write};
use crate::fit::largest;
use crate::haystack::weave;
use crate::random::rng;
use crate::{Draw, Given, Haystack, Item, Mark, Task, marks};

const ANSWER: usize = 10;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Passkey;

static CARD: Card = card(
    "passkey",
    "Passkey retrieval",
    "Mohtashami 2023, arXiv 2305.16300",
    "a number of five digits is hidden among idle sentences and asked for",
);

impl Task for Passkey {
    fn card(&self) -> &Card {
        &CARD
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let prompts = draw.sources.prompts();
        let key = rng(draw, CARD.id).u32(10_000..100_000).to_string();
        let spoken = [("key", key.as_str())];
        let needle = prompts.fill("passkey.needle", &spoken);
        let noise = Haystack::new(&[&prompts.fill("noise", &[])]);
        let starts = noise.sentences(0, noise.len());
        let ends = starts[1..].iter().copied().chain([noise.len()]);
        let sentences: Vec<String> =
            starts.iter().zip(ends).map(|(from, to)| noise.words(*from, to - from).join(" ")).collect();
        let depth = draw.sample % GRID;
        let sized = |count: usize| {
            let idle: Vec<&str> = sentences.iter().map(String::as_str).cycle().take(count).collect();
            let (text, at) = weave(&idle, " ", &[(count * depth / (GRID - 1), needle.as_str())]);
            let (context, depths) = frame(draw, "passkey.context", &[], &text, at);
            let asks =
                vec![write(draw, ["passkey.question", "passkey.cue"], &spoken, ANSWER, vec![key.clone()])];
            Ok(Item { context, asks, depths })
        };
        Ok(largest(draw, CARD.id, (1, usize::MAX), sized)?.1)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        let said = marks::first_integer(&marks::text(given.first()));
        let gold = item.asks.first().and_then(|ask| ask.gold.first()?.parse().ok());
        Mark::of(f64::from(u8::from(said.is_some() && said == gold)))
    }
}

#[cfg(test)]
mod tests {
    use crate::toy;

    #[test]
    fn the_key_stands_at_every_depth_of_the_grid() {
        for sample in 0..11 {
            let item = toy::item("passkey", 512, sample);
            let text = item.context.split("\n\n").nth(1).unwrap();
            let key = &toy::only(&item).gold[0];
            let (before, after) = text.split_once(&format!("The pass key is {key}.")).unwrap();
            assert!(toy::at(&item, item.depths[0]).starts_with("The pass key is "));
            let sentences = |text: &str| text.matches('.').count();
            // The statement has one more full stop behind the key.
            let (before, after) = (sentences(before), sentences(after) - 1);
            assert_eq!(before, (before + after) * sample / 10, "{sample}");
        }
    }

    #[test]
    fn the_first_number_counts() {
        let mut item = toy::item("passkey", 512, 0);
        item.asks[0].gold = vec!["12345".into()];
        let score = |answer| toy::mark("passkey", &item, &[answer]).score;
        assert_eq!(
            [" 12345.", "is 012345", "123456", "5 12345", "none"].map(score),
            [1.0, 1.0, 0.0, 0.0, 0.0]
        );
    }
}
