//! A value is handed on from variable to variable through a long text, and all variables that hold it are
//! asked for.
//!
//! * Paper:    Hsieh et al., 2024, arXiv 2404.06654, section 3; variable tracking, 1 chain of 4 hops
//! * Equation: score = share of the 5 names that stand in the answer
//! * Shapes:   n lines of noise and 5 statements, after a worked example → one ask
//! * Cost:     one prompt, 30 new tokens
//! * Differs:  wordings are ours; the size is searched per item to the line; the example takes at most 500
//!   tokens as there, and at most a quarter of the length. Balanced: statement i of 5 stands in the i-th
//!   fifth of the lines (so the chain keeps its order), at a place that is even over samples; depth is even
//!   behind the example
//! * Oracle:   the chain followed by reading the statements back

use eunoe_core::{Card, Result};
use fastrand::Rng;

use super::{RULER, card, frame, write};
use crate::fit::largest;
use crate::haystack::weave;
use crate::random::{even, rng};
use crate::{Draw, Given, Item, Mark, Task, marks};

const ANSWER: usize = 30;
/// Variables of a chain.
const CHAIN: usize = 5;
/// Most tokens of the worked example.
const EXAMPLE: usize = 500;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Vt {
    card: Card,
    is_balanced: bool,
}

const IDEA: &str = "a value is handed on from variable to variable, and all its holders are asked for";

/// Official and balanced.
pub static TABLE: [Vt; 2] = [
    Vt { card: card("vt", "Variable tracking", RULER, IDEA), is_balanced: false },
    Vt { card: card("vt_balanced", "Variable tracking, balanced", RULER, IDEA), is_balanced: true },
];

/// A value and the names that hold it, in the order in which they get it.
struct Chain {
    value: String,
    names: Vec<String>,
}

impl Chain {
    fn new(rng: &mut Rng, letters: usize) -> Self {
        let value = rng.u32(10_000..99_999).to_string();
        let mut names: Vec<String> = Vec::new();
        while names.len() < CHAIN {
            let name: String = (0..letters).map(|_| rng.char('A'..='Z')).collect();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Self { value, names }
    }

    fn statements(&self, draw: &Draw<'_>) -> Vec<String> {
        let prompts = draw.sources.prompts();
        let statement = |i: usize| match i.checked_sub(1) {
            None => prompts.fill("vt.first", &[("name", &self.names[0]), ("value", &self.value)]),
            Some(from) => prompts.fill("vt.next", &[("name", &self.names[i]), ("from", &self.names[from])]),
        };
        (0..CHAIN).map(statement).collect()
    }

    /// The item of `lines` lines of noise with the statements before the lines `at`.
    fn item(&self, draw: &Draw<'_>, lines: usize, at: &[usize]) -> Item {
        let noise = draw.sources.prompts().fill("noise", &[]);
        let statements = self.statements(draw);
        let inserts: Vec<(usize, &str)> =
            at.iter().copied().zip(statements.iter().map(String::as_str)).collect();
        let (text, places) = weave(&vec![noise.as_str(); lines], "\n", &inserts);
        let (context, depths) = frame(draw, "vt.context", &[], &text, places);
        let spoken = [("value", self.value.as_str()), ("count", &CHAIN.to_string())];
        let asks = vec![write(draw, ["vt.question", "vt.cue"], &spoken, ANSWER, self.names.clone())];
        Item { context, asks, depths }
    }
}

/// `CHAIN` distinct places among `lines`, in order.
fn random(rng: &mut Rng, lines: usize) -> Vec<usize> {
    let mut at = rng.choose_multiple(0..lines, CHAIN);
    at.sort_unstable();
    at
}

/// One place in each fifth of the lines.
fn spread(place: f64, lines: usize) -> Vec<usize> {
    (0..CHAIN).map(|i| ((i as f64 + place) / CHAIN as f64 * lines as f64) as usize).collect()
}

/// A question and its answer, of fewer letters.
fn example(draw: &Draw<'_>, id: &str, rng: &mut Rng) -> Result<String> {
    let chain = Chain::new(rng, 3);
    let length = EXAMPLE.min(draw.length / 4);
    let small = Draw { length, overhead: 0, ..*draw };
    let sized = |lines| Ok(chain.item(&small, lines, &random(&mut rng.clone(), lines)));
    let item = match largest(&small, id, (CHAIN, EXAMPLE), sized) {
        Ok((_, item)) => item,
        Err(_) => chain.item(&small, 0, &[0; CHAIN]),
    };
    let ask = &item.asks[0];
    Ok(format!("{}{}\n{} {}\n\n", item.context, ask.question, ask.cue, chain.names.join(" ")))
}

impl Task for Vt {
    fn card(&self) -> &Card {
        &self.card
    }

    fn draw(&self, draw: &Draw<'_>) -> Result<Item> {
        let id = self.card.id;
        let mut rng = rng(draw, id);
        let chain = Chain::new(&mut rng, 5);
        let example = example(draw, id, &mut rng)?;
        let place = even(draw, id);
        let sized = |lines| {
            let at = if self.is_balanced { spread(place, lines) } else { random(&mut rng.clone(), lines) };
            let item = chain.item(draw, lines, &at);
            let context = [&example, item.context.as_str()].concat();
            let moved = |depth: &f64| {
                (example.len() as f64 + depth * item.context.len() as f64) / context.len() as f64
            };
            let depths = item.depths.iter().map(moved).collect();
            Ok(Item { context, depths, ..item })
        };
        Ok(largest(draw, id, (CHAIN, usize::MAX), sized)?.1)
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
    fn places_by_hand() {
        // Fifths of 10 lines are 2 lines each: 0.5 of the way is 1, 3, 5, 7, 9.
        assert_eq!(spread(0.5, 10), [1, 3, 5, 7, 9]);
        assert_eq!(spread(0.0, 10), [0, 2, 4, 6, 8]);
        let at = random(&mut Rng::with_seed(3), 5);
        assert_eq!(at, [0, 1, 2, 3, 4]);
    }

    /// The names that hold a value, by reading line after line.
    fn holders(text: &str, value: &str) -> Vec<String> {
        let mut held: HashMap<&str, &str> = HashMap::new();
        let mut names = Vec::new();
        for line in text.lines() {
            let Some((name, given)) = line.strip_prefix("VAR ").and_then(|line| line.split_once(" = "))
            else {
                continue;
            };
            let given = given.strip_prefix("VAR ").map_or(given, |from| held[from]);
            held.insert(name, given);
            if given == value {
                names.push(name.to_owned());
            }
        }
        names
    }

    #[test]
    fn the_chain_leads_to_the_gold() {
        for id in ["vt", "vt_balanced"] {
            for (length, sample) in [(1024, 0), (4096, 1), (4096, 2)] {
                let item = toy::item(id, length, sample);
                let ask = toy::only(&item);
                let value = ask.question.split_whitespace().find(|word| word.parse::<u32>().is_ok()).unwrap();
                assert_eq!(holders(&item.context, value), ask.gold, "{id}");
                // The example has a chain of its own, and its answer.
                assert_eq!(item.context.matches("VAR ").count(), 2 * (1 + 2 * 4), "{id}");
                for (depth, name) in item.depths.iter().zip(&ask.gold) {
                    assert!(toy::at(&item, *depth).starts_with(&format!("VAR {name} =")), "{id}");
                }
            }
        }
    }

    #[test]
    fn the_example_is_small() {
        let sources = toy::sources();
        for (length, most) in [(8192, 500), (1024, 256)] {
            let example = example(&toy::draw(&sources, length, 0), "vt", &mut Rng::with_seed(1)).unwrap();
            assert!(toy::tokens(&example) <= most + 10, "{length}");
        }
    }
}
