//! Which passages of the prompt were forgotten, though the answer would have looked at them.

use crate::dense::{Held, Mass};
use crate::engine::Engine;
use serde::Serialize;

/// Tokens of a passage.
const TOKENS: usize = 32;

/// A passage that was forgotten in some strips at least.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Passage {
    /// Its first token.
    pub from: usize,
    /// The token after its last.
    pub to: usize,
    /// Share of the answer's attention, under full memory, that falls on it in strips that no longer hold it.
    pub mass: f64,
    /// Its text.
    pub text: String,
}

/// The `count` passages of most forgotten mass, most first; those without any are left out.
pub(super) fn passages(
    engine: &Engine,
    tokens: &[u32],
    mass: &Mass,
    held: &Held,
    count: usize,
) -> Vec<Passage> {
    let by_position = mass.forgotten_by_position(held);
    let mut best: Vec<(usize, f64)> =
        by_position.chunks(TOKENS).map(|part| part.iter().sum()).enumerate().collect();
    best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let passage = |(part, mass): (usize, f64)| {
        let (from, to) = (part * TOKENS, (part * TOKENS + TOKENS).min(tokens.len()));
        Passage { from, to, mass, text: engine.tokenizer.decode(&tokens[from..to]) }
    };
    best.into_iter().filter(|(_, mass)| *mass > 0.0).take(count).map(passage).collect()
}
