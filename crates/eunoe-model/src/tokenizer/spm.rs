//! SentencePiece-style BPE: symbols are characters, any two neighbours that spell a token may merge, the token with
//! the highest score first; what spells no token falls back to bytes.

use super::merge::{NONE, Rules, Symbol};
use super::vocab::Vocab;

/// Scores and byte tokens.
pub(super) struct Spm {
    vocab: Vocab,
    /// By token: its score as a number that sorts best first.
    priorities: Vec<u32>,
    bytes: [u32; 256],
    neighbours: Neighbours,
}

impl Spm {
    /// `scores` has one entry per token; `unknown` stands for bytes that have no token.
    pub(super) fn new(vocab: Vocab, scores: &[f32], unknown: Option<u32>) -> Self {
        let mut neighbours = Neighbours::new();
        for id in 0..vocab.len() as u32 {
            if let Ok(text) = std::str::from_utf8(vocab.piece(id)) {
                text.chars().zip(text.chars().skip(1)).for_each(|(a, b)| neighbours.insert(a, b));
            }
        }
        let bytes = vocab.byte_tokens().map(|id| id.or(unknown).unwrap_or(NONE));
        Self { priorities: scores.iter().map(|&s| priority(s)).collect(), bytes, neighbours, vocab }
    }

    pub(super) fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// Cuts `text` where no token has the two characters side by side, so that no merge can cross.
    pub(super) fn split<'a>(&self, text: &'a str, piece: &mut dyn FnMut(&'a str)) {
        let (mut start, mut before) = (0, None);
        for (at, c) in text.char_indices() {
            if before.is_some_and(|b| !self.neighbours.contains(b, c)) {
                piece(&text[start..at]);
                start = at;
            }
            before = Some(c);
        }
        if start < text.len() {
            piece(&text[start..]);
        }
    }
}

/// Maps a float to a number that sorts the other way round.
fn priority(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !rising
}

impl Rules for Spm {
    fn symbols(&self, piece: &str, push: &mut dyn FnMut(usize, u32)) {
        for c in piece.chars() {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            push(bytes.len(), self.vocab.find(bytes).unwrap_or(NONE));
        }
    }

    fn pair(&self, piece: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        let id = self.vocab.find(&piece[left.start as usize..right.end() as usize])?;
        Some((self.priorities[id as usize], id))
    }

    fn fallback(&self, symbol: &[u8], out: &mut Vec<u32>) {
        out.extend(symbol.iter().map(|&b| self.bytes[b as usize]).filter(|&id| id != NONE));
    }
}

/// A set of character pairs that may claim to hold a pair it was never given: then a cut is missed, and the result is
/// the same.
struct Neighbours(Vec<u64>);

impl Neighbours {
    const BITS: u32 = 22;

    fn new() -> Self {
        Self(vec![0; 1 << (Self::BITS - 6)])
    }

    fn slot(a: char, b: char) -> (usize, u64) {
        let pair = u64::from(u32::from(a)) << 32 | u64::from(u32::from(b));
        let hash =
            (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ pair >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bit = (hash >> (64 - Self::BITS)) as usize;
        (bit / 64, 1 << (bit % 64))
    }

    fn insert(&mut self, a: char, b: char) {
        let (word, mask) = Self::slot(a, b);
        self.0[word] |= mask;
    }

    fn contains(&self, a: char, b: char) -> bool {
        let (word, mask) = Self::slot(a, b);
        self.0[word] & mask != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_scores_come_first() {
        let falling = [f32::INFINITY, 3.5, 0.0, -1.0, -1000.0, f32::NEG_INFINITY].map(priority);
        assert!(falling.is_sorted());
        assert_eq!(priority(0.0), priority(-0.0));
    }
}
