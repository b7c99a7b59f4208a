//! A second sequence that goes on from where another stands.

use std::io;
use std::sync::Arc;

use crate::engine::{Engine, Session};
use crate::ledger::Ledger;
use crate::residual::Residual;
use crate::store::{Head, Kv};
use eunoe_core::Result;
use eunoe_kernels::vm::Arena;

impl Engine {
    /// A sequence of its own that remembers what `session` does, so that several questions can follow one reading; `None`
    /// where its policy itself remembers (it says what rows see, or recalls blocks), or a pass broke off.
    ///
    /// # Errors
    /// [`Error::Limit`](eunoe_core::Error::Limit) without address space.
    pub fn fork(&self, session: &Session) -> Result<Option<Session>> {
        if session.is_broken || session.kv.key.is_none() {
            return Ok(None);
        }
        let mut fork = self.session(&session.plan, session.length)?;
        fork.become_fork(session)?;
        Ok(Some(fork))
    }
}

impl Session {
    /// Takes over what `other` remembers, whose state is the same as this one's would be.
    ///
    /// # Errors
    /// [`Error::Limit`](eunoe_core::Error::Limit) without address space.
    pub(crate) fn become_fork(&mut self, other: &Self) -> Result<()> {
        self.kv.become_fork(&other.kv)?;
        self.logits = other.logits.to_vec().into();
        self.prompt_ended = other.prompt_ended;
        Ok(())
    }

    /// Takes over the first `rows` rows of `other`, whose slots are all as they were written; the next row follows.
    ///
    /// # Errors
    /// [`Error::Limit`](eunoe_core::Error::Limit) without address space, or where they do not fit.
    pub(crate) fn become_part(&mut self, other: &Self, rows: u32) -> Result<()> {
        let Kv { layers, ledger, .. } = &mut self.kv;
        for (layer, from) in layers.iter_mut().zip(&other.kv.layers) {
            for (head, from) in layer.heads.iter_mut().zip(&from.heads) {
                ledger.take(u64::from(rows) * head.strip.layout().bytes() as u64)?;
                head.strip = from.strip.fork(head.strip.capacity(), rows as usize)?;
                head.seen = rows.into();
            }
        }
        self.kv.met_all(rows);
        self.prompt_ended = rows >= self.length.prompt;
        Ok(())
    }

    /// Moves its whole pages into an arena, where forks share them.
    ///
    /// # Errors
    /// There is no memory for them; it goes on as before.
    pub(crate) fn share(&mut self, arena: &Arc<Arena>) -> io::Result<()> {
        let mut heads = self.kv.layers.iter_mut().flat_map(|layer| &mut layer.heads);
        heads.try_for_each(|head| head.strip.share(arena))
    }

    /// Whether it holds pages of an arena, seen or not.
    pub(crate) fn holds_shared(&self) -> bool {
        self.kv.layers.iter().flat_map(|layer| &layer.heads).any(|head| head.strip.holds_shared())
    }

    /// Bytes of its pages that are in an arena and unchanged.
    pub(crate) fn shared_bytes(&self) -> u64 {
        let heads = self.kv.layers.iter().flat_map(|layer| &layer.heads);
        heads.map(|head| head.strip.shared_bytes() as u64).sum()
    }
}

impl Kv {
    /// Takes over what `other`, of the same layout, holds.
    fn become_fork(&mut self, other: &Self) -> Result<()> {
        for (layer, from) in self.layers.iter_mut().zip(&other.layers) {
            for (head, from) in layer.heads.iter_mut().zip(&from.heads) {
                *head = head.fork_of(from)?;
            }
        }
        self.ledger = Ledger { cap: self.ledger.cap, ..other.ledger };
        (self.dropped, self.met, self.next) = (other.dropped, other.met, other.next);
        Ok(())
    }
}

impl Head {
    /// What another holds, with as much room as there is here: a longer text may follow.
    fn fork_of(&self, other: &Self) -> Result<Self> {
        let residual = |(own, r): (&Residual, &Residual)| {
            Ok(Residual { strip: r.strip.fork(own.strip.capacity(), r.strip.len())?, slots: r.slots })
        };
        Ok(Self {
            strip: other.strip.fork(self.strip.capacity(), other.strip.len())?,
            residual: self.residual.as_ref().zip(other.residual.as_ref()).map(residual).transpose()?,
            ring: other.ring.clone(),
            side: other.side.clone(),
            // the end of a prompt may have lowered it
            cap: if self.keep.is_some() { other.cap } else { self.cap },
            ..*other
        })
    }
}
