//! Tokens that are found in the text before any merging.

use std::collections::BTreeMap;

use hashbrown::HashMap;

type Tokens = HashMap<Box<[u8]>, u32>;

/// A set of tokens to look for. The longest are placed first, each wherever it still fits, leftmost first.
pub(super) struct Specials {
    /// Byte length → tokens of that length; longest first.
    by_len: Vec<(usize, Tokens)>,
    /// Whether some token starts with these two bytes; of one-byte tokens any second byte will do.
    starts: Vec<bool>,
}

/// A token found at `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) id: u32,
}

impl Specials {
    pub(super) fn new<'a>(tokens: impl Iterator<Item = (u32, &'a [u8])>) -> Self {
        let mut by_len: BTreeMap<usize, Tokens> = BTreeMap::new();
        let mut starts = vec![false; 1 << 16];
        for (id, text) in tokens {
            match *text {
                [] => continue,
                [a] => (0..=255).for_each(|b| starts[slot(a, b)] = true),
                [a, b, ..] => starts[slot(a, b)] = true,
            }
            by_len.entry(text.len()).or_default().entry(text.into()).or_insert(id);
        }
        Self { by_len: by_len.into_iter().rev().collect(), starts }
    }

    /// The token with exactly this text.
    pub(super) fn get(&self, text: &[u8]) -> Option<u32> {
        self.by_len.iter().find(|(len, _)| *len == text.len())?.1.get(text).copied()
    }

    /// Whether some token is longer than `part` and begins with it.
    pub(super) fn begins(&self, part: &[u8]) -> bool {
        let longer = self.by_len.iter().take_while(|(len, _)| *len > part.len());
        longer.flat_map(|(_, tokens)| tokens.keys()).any(|token| token.starts_with(part))
    }

    /// Bytes of the longest token.
    pub(super) fn longest(&self) -> usize {
        self.by_len.first().map_or(0, |(len, _)| *len)
    }

    /// Every match in `text`, in order, none overlapping.
    pub(super) fn find(&self, text: &str) -> Vec<Match> {
        let text = text.as_bytes();
        let may_start = |&at: &usize| self.starts[slot(text[at], text.get(at + 1).copied().unwrap_or(0))];
        let mut places: Vec<usize> = (0..text.len()).filter(may_start).collect();
        let mut found = BTreeMap::new();
        for (len, tokens) in &self.by_len {
            let mut free = 0;
            // Places inside a match drop out, so that long runs of one special token stay linear.
            places.retain(|&start| {
                if start < free {
                    return false;
                }
                let end = start + len;
                let Some(&id) = text.get(start..end).and_then(|t| tokens.get(t)) else { return true };
                if overlaps(&found, start, end) {
                    return true;
                }
                found.insert(start, Match { start, end, id });
                free = end;
                false
            });
            if places.is_empty() {
                break;
            }
        }
        found.into_values().collect()
    }
}

fn slot(a: u8, b: u8) -> usize {
    usize::from(a) << 8 | usize::from(b)
}

fn overlaps(found: &BTreeMap<usize, Match>, start: usize, end: usize) -> bool {
    found.range(..end).next_back().is_some_and(|(_, before)| before.end > start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(tokens: &[&str], text: &str) -> Vec<(usize, u32)> {
        let tokens = tokens.iter().enumerate().map(|(id, t)| (id as u32, t.as_bytes()));
        Specials::new(tokens).find(text).iter().map(|m| (m.start, m.id)).collect()
    }

    #[test]
    fn longer_tokens_win_even_when_they_start_later() {
        assert_eq!(find(&["ab", "bcd"], "abcd ab"), [(1, 1), (5, 0)]);
        assert_eq!(find(&["\n", "\n\n", "\n\n\n"], "\n\n\n\n\nx\n"), [(0, 2), (3, 1), (6, 0)]);
    }

    #[test]
    fn a_token_at_the_end_is_found() {
        assert_eq!(find(&["<", "<a>"], "x<a><"), [(1, 1), (4, 0)]);
        assert_eq!(find(&["", "é"], "aé"), [(1, 1)]);
        assert_eq!(find(&[], "aé"), []);
    }
}
