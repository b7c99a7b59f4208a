//! Text from tokens as they come.

use super::Tokenizer;

/// Collects the bytes of tokens and releases only whole characters.
#[derive(Clone)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    pending: Vec<u8>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new() }
    }

    /// The text that is complete after this token; invalid bytes become U+FFFD, control tokens nothing.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.extend_from_slice(self.tokenizer.piece(id));
        let whole = self.pending.len() - unfinished(&self.pending);
        let text = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
        self.pending.drain(..whole);
        text
    }

    /// What is left: U+FFFD for an unfinished character, else nothing.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Bytes at the end that could still become a character.
fn unfinished(bytes: &[u8]) -> usize {
    let last = bytes.utf8_chunks().last();
    last.map_or(0, |chunk| {
        let tail = chunk.invalid();
        // Of an invalid tail only a cut-off character has no more specific error.
        match std::str::from_utf8(tail) {
            Err(e) if e.error_len().is_none() => tail.len(),
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::unfinished;

    #[test]
    fn only_a_cut_off_character_waits() {
        assert_eq!(unfinished(b""), 0);
        assert_eq!(unfinished("aé".as_bytes()), 0);
        assert_eq!(unfinished(&"a🧑".as_bytes()[..4]), 3);
        assert_eq!(unfinished(b"a\xff"), 0);
        assert_eq!(unfinished(b"\xf0\x9f\xff"), 0);
        assert_eq!(unfinished(b"\xff\xc3"), 1);
    }
}
