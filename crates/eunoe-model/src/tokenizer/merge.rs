//! The merge loop that byte-level and SentencePiece tokenizers share.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The id of a symbol that is no token.
pub(super) const NONE: u32 = u32::MAX;

/// What differs between the two kinds of tokenizer.
pub(super) trait Rules {
    /// Cuts `piece` into its first symbols: consecutive, none empty.
    fn symbols(&self, piece: &str, push: &mut dyn FnMut(usize, u32));

    /// If two neighbours may merge: when (least first, then leftmost), and into which token.
    fn pair(&self, piece: &[u8], left: &Symbol, right: &Symbol) -> Option<(u32, u32)>;

    /// Tokens of a symbol that is none itself.
    fn fallback(&self, symbol: &[u8], out: &mut Vec<u32>);
}

/// A part of the piece; symbols form a list by index.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    pub(super) start: u32,
    /// In bytes; 0 once merged into the symbol before it.
    len: u32,
    pub(super) id: u32,
    prev: u32,
    next: u32,
}

impl Symbol {
    pub(super) fn end(&self) -> u32 {
        self.start + self.len
    }
}

/// A possible merge. Ordered by its first two fields.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u32,
    left: u32,
    right: u32,
    len: u32,
    id: u32,
}

/// The buffers of the loop, kept from piece to piece.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Appends the tokens of `piece`, which is shorter than 4 GiB.
    pub(super) fn merge(&mut self, rules: &impl Rules, piece: &str, out: &mut Vec<u32>) {
        let bytes = piece.as_bytes();
        self.start(rules, piece);
        for left in 1..self.symbols.len() as u32 {
            self.offer(rules, bytes, left - 1, left);
        }
        while let Some(Reverse(c)) = self.queue.pop() {
            let (left, right) = (self.symbols[c.left as usize], self.symbols[c.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != c.len {
                continue;
            }
            self.symbols[c.left as usize] = Symbol { len: c.len, id: c.id, next: right.next, ..left };
            self.symbols[c.right as usize].len = 0;
            if right.next != NONE {
                self.symbols[right.next as usize].prev = c.left;
                self.offer(rules, bytes, c.left, right.next);
            }
            if left.prev != NONE {
                self.offer(rules, bytes, left.prev, c.left);
            }
        }
        for s in self.symbols.iter().filter(|s| s.len > 0) {
            match s.id {
                NONE => rules.fallback(&bytes[s.start as usize..s.end() as usize], out),
                id => out.push(id),
            }
        }
    }

    fn start(&mut self, rules: &impl Rules, piece: &str) {
        self.symbols.clear();
        let mut start = 0;
        rules.symbols(piece, &mut |len, id| {
            let at = self.symbols.len() as u32;
            let prev = at.checked_sub(1).unwrap_or(NONE);
            self.symbols.push(Symbol { start, len: len as u32, id, prev, next: at + 1 });
            start += len as u32;
        });
        if let Some(last) = self.symbols.last_mut() {
            last.next = NONE;
        }
    }

    fn offer(&mut self, rules: &impl Rules, piece: &[u8], left: u32, right: u32) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((priority, id)) = rules.pair(piece, l, r) {
            self.queue.push(Reverse(Candidate { priority, left, right, len: l.len + r.len, id }));
        }
    }
}
