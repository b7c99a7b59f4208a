//! What earlier sequences remember, kept so that a text that begins as theirs need not be read again.
//!
//! Slots that are as they were written serve every text that shares some of its beginning, page by page. What a plan has marked
//! or evicted serves only a text that begins with all that was read, under the same plan with the same sizes.

use std::sync::Arc;

use eunoe_core::Result;
use eunoe_kernels::vm::Arena;

use crate::engine::{Engine, Session};
use crate::layout::StateKey;

/// Fewest tokens that are worth it.
const LEAST: usize = 16;
/// Tokens of a prompt after which what is marked or evicted is kept once more.
pub(super) const STRIDE: usize = 512;
/// Most strips of all that is kept: each takes up to six of the maps, of which a process may have 65,530.
const STRIPS: usize = 6_000;

/// What is kept, the oldest first.
pub(super) struct Prefixes {
    arena: Option<Arc<Arena>>,
    kept: Vec<Kept>,
    /// Most bytes.
    most: u64,
}

struct Kept {
    tokens: Vec<u32>,
    session: Session,
    /// Whether its slots are all as they were written.
    is_plain: bool,
    /// Bytes beside those in the arena, and those in it.
    bytes: [u64; 2],
}

impl Kept {
    fn new(tokens: Vec<u32>, session: Session) -> Self {
        let logits = std::mem::size_of_val(session.logits()) as u64;
        let bytes = [own_bytes(&session) + logits, session.shared_bytes()];
        Self { tokens, is_plain: session.kv.is_plain(), session, bytes }
    }

    /// Whether any part of it is what fewer tokens would leave under `key`.
    fn serves_in_part(&self, key: &StateKey) -> bool {
        self.is_plain && self.session.kv.key.as_ref().is_some_and(|own| own.is_like(key))
    }
}

/// KV bytes of a sequence beside those in the arena.
pub(super) fn own_bytes(session: &Session) -> u64 {
    session.kv.ledger().live.saturating_sub(session.shared_bytes())
}

/// Where a sequence can begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) tokens: usize,
    /// Bytes of pages that are shared.
    pub(super) shared_bytes: u64,
    index: usize,
}

impl Prefixes {
    pub(super) fn new(most: u64) -> Self {
        // without files in memory, slots are copied
        Self { arena: (most > 0).then(Arena::new).and_then(std::result::Result::ok), kept: Vec::new(), most }
    }

    /// Bytes of all that is kept or shared.
    pub(super) fn bytes(&self) -> u64 {
        let arena = self.arena.as_ref().map_or(0, |arena| arena.bytes());
        arena + self.kept.iter().map(|kept| kept.bytes[0]).sum::<u64>()
    }

    /// Bytes of all that would go if nothing were kept and sequences held `shared` bytes of the pages.
    pub(super) fn bytes_but(&self, shared: u64) -> u64 {
        self.bytes().saturating_sub(shared)
    }

    /// The longest beginning of `text` that is remembered.
    pub(super) fn find(&self, key: Option<&StateKey>, text: &[u32]) -> Option<Found> {
        let key = key?;
        let of = |(index, kept): (usize, &Kept)| {
            let tokens = key.reuse(kept.session.kv.key.as_ref()?, !kept.is_plain, &kept.tokens, text);
            let is_whole = tokens == text.len() && kept.session.logits().is_empty();
            let tokens = if is_whole { 0 } else { tokens };
            let share = tokens as f64 / kept.tokens.len() as f64;
            Some(Found { tokens, shared_bytes: (kept.bytes[1] as f64 * share) as u64, index })
        };
        let found = self.kept.iter().enumerate().filter_map(of).max_by_key(|found| found.tokens);
        found.filter(|found| found.tokens >= LEAST)
    }

    /// Begins a sequence with what was found.
    pub(super) fn begin(&self, found: Found, session: &mut Session) -> Result<()> {
        take_over(session, &self.kept[found.index].session, found.tokens)
    }

    /// What was found is the newest now.
    pub(super) fn touch(&mut self, found: Found) {
        let kept = self.kept.remove(found.index);
        self.kept.push(kept);
    }

    /// Puts the pages of a sequence that goes on where others can share them, and begins another with them.
    pub(super) fn begin_beside(
        &self,
        from: &mut Session,
        tokens: usize,
        session: &mut Session,
    ) -> Result<()> {
        if let Some(arena) = &self.arena {
            from.share(arena).ok(); // they are copied otherwise
        }
        take_over(session, from, tokens)
    }

    /// Keeps what a sequence remembers of `tokens`, which are all that it read, within `room` bytes.
    pub(super) fn keep(&mut self, engine: &Engine, tokens: &[u32], session: &mut Session, room: u64) {
        let Some(key) = session.kv.key.clone() else { return };
        if self.most == 0 || tokens.len() < LEAST || self.has(tokens, session, &key) {
            return;
        }
        let (is_plain, strips) = (session.kv.is_plain(), session.kv.strips());
        let most = self.most.min(room);
        // pages of its own move, all else is copied
        let copied =
            if is_plain && self.arena.is_some() { own_bytes(session) } else { session.kv.ledger().live };
        if copied > most {
            return;
        }
        while !self.kept.is_empty()
            && (self.bytes() + copied > most || (self.kept.len() + 1) * strips > STRIPS)
        {
            self.forget_oldest();
        }
        if self.bytes() + copied > most {
            return;
        }
        if let (true, Some(arena)) = (is_plain, &self.arena)
            && session.share(arena).is_err()
        {
            return;
        }
        if let Ok(Some(fork)) = engine.fork(session) {
            let is_within = |kept: &Kept| kept.serves_in_part(&key) && tokens.starts_with(&kept.tokens);
            self.kept.retain(|kept| !(is_plain && is_within(kept)));
            self.kept.push(Kept::new(tokens.to_vec(), fork));
        }
    }

    /// Whether as much is kept already; it is the newest then.
    fn has(&mut self, tokens: &[u32], session: &Session, key: &StateKey) -> bool {
        let is_plain = session.kv.is_plain();
        let same = |kept: &Kept| {
            let is_whole = kept.tokens == tokens && kept.session.kv.key.as_ref() == Some(key);
            is_whole || (is_plain && kept.serves_in_part(key) && kept.tokens.starts_with(tokens))
        };
        let Some(index) = self.kept.iter().position(same) else { return false };
        let kept = self.kept.remove(index);
        self.kept.push(kept);
        true
    }

    /// Lets go of what was not asked for the longest; `false` if nothing is left.
    pub(super) fn forget_oldest(&mut self) -> bool {
        match self.kept.is_empty() {
            true => false,
            false => {
                self.kept.remove(0);
                true
            }
        }
    }
}

fn take_over(session: &mut Session, from: &Session, tokens: usize) -> Result<()> {
    match from.kv.is_plain() && session.kv.key.as_ref().is_some_and(StateKey::is_plain) {
        true => session.become_part(from, tokens as u32),
        false => session.become_fork(from),
    }?;
    session.kv.reused = session.kv.ledger.live;
    Ok(())
}
