//! Byte-level BPE: symbols are bytes, merges are ranked pairs of tokens.

use eunoe_core::{Error, Result};
use hashbrown::HashMap;

use super::merge::{NONE, Rules, Symbol};
use super::vocab::{Vocab, byte_level};

/// The merge table.
pub(super) struct Bpe {
    /// The token of each byte; a byte without one is dropped, as llama.cpp does.
    bytes: [u32; 256],
    /// `left << 32 | right` → rank and merged token.
    ranks: HashMap<u64, (u32, u32)>,
}

impl Bpe {
    /// `merges` are pairs of token texts with a space between, best first.
    pub(super) fn new<'a>(vocab: &Vocab, merges: impl ExactSizeIterator<Item = &'a str>) -> Result<Self> {
        let mut ranks = HashMap::with_capacity(merges.len());
        for (rank, merge) in merges.enumerate() {
            let bad =
                |why: &str| Error::format("tokenizer merges", 0, format!("merge {rank} `{merge}` {why}"));
            // A space can be the first character of the left part, never its separator.
            let space = merge.char_indices().skip(1).find(|&(_, c)| c == ' ');
            let (left, right) =
                space.map(|(at, _)| (&merge[..at], &merge[at + 1..])).ok_or_else(|| bad("is no pair"))?;
            let (Some(mut left), Some(right)) = (byte_level(left), byte_level(right)) else {
                return Err(bad("has a character outside the byte alphabet"));
            };
            let ids = (vocab.find(&left), vocab.find(&right));
            left.extend(right);
            let (Some(l), Some(r), Some(id)) = (ids.0, ids.1, vocab.find(&left)) else {
                return Err(bad("names a token that the vocabulary lacks"));
            };
            ranks.entry(key(l, r)).or_insert((rank as u32, id));
        }
        let bytes = std::array::from_fn(|b| vocab.find(&[b as u8]).unwrap_or(NONE));
        Ok(Self { bytes, ranks })
    }
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Rules for Bpe {
    fn symbols(&self, piece: &str, push: &mut dyn FnMut(usize, u32)) {
        piece.bytes().for_each(|b| push(1, self.bytes[b as usize]));
    }

    fn pair(&self, _: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)> {
        self.ranks.get(&key(left.id, right.id)).copied()
    }

    fn fallback(&self, _: &[u8], _: &mut Vec<u32>) {}
}
