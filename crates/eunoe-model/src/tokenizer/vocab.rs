//! Tokens: the bytes each stands for, its kind, and the way back from bytes to token.

use eunoe_core::{Error, Result};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

use crate::gguf::Gguf;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    /// Matched in the text before anything else.
    User,
    Unused,
    /// One byte that no other token covers.
    Byte,
}

/// How token texts of a file spell bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// One character of GPT-2's alphabet per byte.
    ByteLevel,
    /// UTF-8 with `▁` for a space.
    Spm,
}

/// All tokens of a model.
pub(super) struct Vocab {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    /// Tokens that merging can reach, by their bytes.
    reachable: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl Vocab {
    /// Reads tokens and their kinds; tokens that `is_control` claims are control tokens whatever the file says.
    pub(super) fn read(gguf: &Gguf, spelling: Spelling, is_control: impl Fn(&str) -> bool) -> Result<Self> {
        let texts = gguf.strs("tokenizer.ggml.tokens")?;
        let kinds = gguf.opt_i32s("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![1; texts.len()]);
        if kinds.len() != texts.len() || texts.len() >= u32::MAX as usize {
            return Err(Error::shape("tokenizer.ggml.token_type", texts.len(), kinds.len()));
        }
        let mut vocab = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(texts.len()),
            kinds: Vec::with_capacity(texts.len()),
            reachable: HashTable::with_capacity(texts.len()),
            hasher: DefaultHashBuilder::default(),
            longest: 0,
        };
        for (text, kind) in texts.zip(kinds) {
            let kind = if is_control(text) { Kind::Control } else { Kind::of(kind) };
            vocab.push(text, kind, spelling)?;
        }
        Ok(vocab)
    }

    fn push(&mut self, text: &str, kind: Kind, spelling: Spelling) -> Result<()> {
        let id = self.ends.len() as u32;
        let start = self.bytes.len();
        match (kind, spelling) {
            (Kind::Normal, Spelling::Spm) => self.bytes.extend(text.replace('▁', " ").bytes()),
            (Kind::Normal, Spelling::ByteLevel) => match byte_level(text) {
                Some(bytes) => self.bytes.extend(bytes),
                None => self.bytes.extend(text.bytes()),
            },
            (Kind::Byte, _) => self.bytes.push(byte(text).ok_or_else(|| {
                Error::format(
                    "tokenizer vocabulary",
                    0,
                    format!("byte token {id} is `{text}`, not like `<0x0A>`"),
                )
            })?),
            (Kind::Unused, _) => {}
            (Kind::Control | Kind::User | Kind::Unknown, _) => self.bytes.extend(text.bytes()),
        }
        self.ends.push(self.bytes.len());
        self.kinds.push(kind);
        if self.bytes.len() > start && is_reachable(text, kind, spelling) {
            self.longest = self.longest.max(self.bytes.len() - start);
            self.remember(id);
        }
        Ok(())
    }

    /// Of tokens with the same bytes the last one is found.
    fn remember(&mut self, id: u32) {
        let (bytes, ends, hasher) = (&self.bytes, &self.ends, &self.hasher);
        let hash = |&id: &u32| hasher.hash_one(slice(bytes, ends, id));
        let same = |&other: &u32| slice(bytes, ends, other) == slice(bytes, ends, id);
        *self.reachable.entry(hash(&id), same, hash).or_insert(id).into_mut() = id;
    }

    /// The token that merging makes of exactly these bytes.
    pub(super) fn find(&self, piece: &[u8]) -> Option<u32> {
        if piece.len() > self.longest {
            return None;
        }
        let same = |&id: &u32| self.piece(id) == piece;
        self.reachable.find(self.hasher.hash_one(piece), same).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token, special ones included; empty beyond the vocabulary.
    pub(super) fn piece(&self, id: u32) -> &[u8] {
        if (id as usize) < self.len() { slice(&self.bytes, &self.ends, id) } else { &[] }
    }

    /// The kind of a token; unused beyond the vocabulary.
    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    /// Tokens of these kinds, with their bytes.
    pub(super) fn of_kinds(&self, kinds: &[Kind]) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.len() as u32).filter(|&id| kinds.contains(&self.kind(id))).map(|id| (id, self.piece(id)))
    }

    /// The byte token of each byte.
    pub(super) fn byte_tokens(&self) -> [Option<u32>; 256] {
        let mut out = [None; 256];
        for (id, piece) in self.of_kinds(&[Kind::Byte]) {
            out[piece[0] as usize] = Some(id);
        }
        out
    }
}

impl Kind {
    /// GGUF's number of a kind; what it does not define is unused.
    fn of(id: i32) -> Self {
        match id {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::User,
            6 => Self::Byte,
            _ => Self::Unused,
        }
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[usize], id: u32) -> &'a [u8] {
    let id = id as usize;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &bytes[start..ends[id]]
}

/// Whether merges can make this token: its text must be what text looks like after the tokenizer's own spelling.
fn is_reachable(text: &str, kind: Kind, spelling: Spelling) -> bool {
    match (kind, spelling) {
        (Kind::Byte | Kind::Unused, _) => false,
        (Kind::Normal, Spelling::ByteLevel) => byte_level(text).is_some(),
        (_, Spelling::ByteLevel) => text.bytes().all(|b| b.is_ascii_graphic()),
        (Kind::Normal, Spelling::Spm) => !text.contains(' '),
        (_, Spelling::Spm) => !text.contains([' ', '▁']),
    }
}

/// The bytes that a text in GPT-2's alphabet spells: printable Latin-1 characters stand for their own byte, and
/// U+0100 to U+0143 for the other bytes in order.
pub(super) fn byte_level(text: &str) -> Option<Vec<u8>> {
    text.chars()
        .map(|c| match u32::from(c) {
            n @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(n as u8),
            n @ 0x100..=0x120 => Some((n - 0x100) as u8),
            n @ 0x121..=0x142 => Some((n - 0x121 + 0x7f) as u8),
            0x143 => Some(0xad),
            _ => None,
        })
        .collect()
}

/// The byte that `<0x0A>` names.
fn byte(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u8::from_str_radix(hex, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_has_every_byte_once() {
        // 33 control characters and space, 34 from DEL to NBSP, and the soft hyphen move up.
        let printable = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xff);
        let text: String = printable.chain(0x100..=0x143).filter_map(char::from_u32).collect();
        let mut bytes = byte_level(&text).unwrap();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_level("Ġa").unwrap(), b" a");
        assert_eq!(byte_level("Ċ").unwrap(), b"\n");
        assert_eq!(byte_level("漢"), None);
    }

    #[test]
    fn a_byte_token_is_two_hex_digits() {
        assert_eq!(byte("<0x0A>"), Some(10));
        assert_eq!(byte("<0xff>"), Some(255));
        assert_eq!(byte("<0xA>"), None);
        assert_eq!(byte("<0x+A>"), None);
    }
}
