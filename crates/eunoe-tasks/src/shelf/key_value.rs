//! A long JSON object of random keys and values is read, and the value of one key is asked for.
//!
//! * Paper:    Liu et al., 2023, arXiv 2307.03172, section 4
//! * Equation: score = 1 if the value stands in the answer
//! * Shapes:   n pairs of version 4 UUIDs → one ask
//! * Cost:     one prompt, 64 new tokens
//! * Differs:  wordings are ours; n is searched for the length instead of 75, 140 and 300 pairs; the key's
//!   place is even over samples instead of on a grid; 64 new tokens instead of 100
//! * Oracle:   the object parsed as JSON

use eunoe_core::{Card, Result};

use super::{card, frame, write};
use crate::fit::largest;
use crate::random::{even, rng, uuid};
use crate::{Draw, Given, Item, Mark, Task, marks};

const ANSWER: usize = 64;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct KeyValue;

static CARD: Card = card(
    "key_value",
    "Key-value retrieval",
    "Liu 2023, arXiv 2307.03172",
    "a long list of random keys and values is read and one value asked for",
);

impl Task for KeyValue {
    fn card(&self) -> &Card {
        &CARD
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let rng = rng(draw, CARD.id);
        let place = even(draw, CARD.id);
        let sized = |count: usize| {
            let mut rng = rng.clone();
            let pairs: Vec<[String; 2]> = (0..count).map(|_| [uuid(&mut rng), uuid(&mut rng)]).collect();
            let asked = (place * count as f64) as usize;
            let mut text = "{".to_owned();
            let mut at = 0;
            for (i, [key, value]) in pairs.iter().enumerate() {
                if i == asked {
                    at = text.len();
                }
                let end = if i + 1 == count { "}" } else { ",\n " };
                text.push_str(&format!("\"{key}\": \"{value}\"{end}"));
            }
            let [key, value] = pairs[asked].clone();
            let (context, depths) = frame(draw, "key_value.context", &[], &text, [at]);
            let names = ["key_value.question", "key_value.cue"];
            let asks = vec![write(draw, names, &[("key", &key)], ANSWER, vec![value])];
            Ok(Item { context, asks, depths })
        };
        Ok(largest(draw, CARD.id, (1, usize::MAX), sized)?.1)
    }

    fn mark(&self, item: &Item, given: &[Given]) -> Mark {
        let score =
            item.asks.first().map_or(0.0, |ask| marks::match_all(&marks::text(given.first()), &ask.gold));
        Mark::of(score)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::toy;

    #[test]
    fn the_object_has_the_asked_pair_at_its_depth() {
        for sample in 0..5 {
            let item = toy::item("key_value", 2048, sample);
            let ask = toy::only(&item);
            let text = &item.context[item.context.find('{').unwrap()..];
            let object: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
            // A pair has 80 bytes, 20 tokens.
            assert!((90..100).contains(&object.len()), "{}", object.len());
            let (key, value) = object.iter().find(|(key, _)| ask.question.contains(*key)).unwrap();
            assert_eq!(&ask.gold[0], value);
            assert!(toy::at(&item, item.depths[0]).starts_with(&format!("\"{key}\": \"{value}\"")));
            assert_eq!(toy::mark("key_value", &item, &[&value.to_uppercase()]).score, 1.0);
        }
    }
}
