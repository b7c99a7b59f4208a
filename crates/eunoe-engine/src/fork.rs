//! A second sequence that goes on from where another stands.

use crate::engine::{Engine, Session};
use crate::residual::Residual;
use crate::store::{Head, Kv};
use eunoe_core::Result;

impl Engine {
    /// A sequence of its own that remembers what `session` does, so that several questions can follow one reading; `None`
    /// where its policy itself remembers (it says what rows see, or recalls blocks), or a pass broke off.
    ///
    /// # Errors
    /// [`Error::Limit`](eunoe_core::Error::Limit) without address space.
    pub fn fork(&self, session: &Session) -> Result<Option<Session>> {
        let needs = session.kv.needs();
        if session.is_broken || needs.view.is_some() || needs.recall.is_some() {
            return Ok(None);
        }
        let mut fork = self.session(&session.plan, session.length)?;
        fork.kv.become_copy(&session.kv)?;
        fork.logits = session.logits.to_vec().into();
        fork.prompt_ended = session.prompt_ended;
        Ok(Some(fork))
    }
}

impl Kv {
    /// Takes over what `other`, of the same layout, holds.
    fn become_copy(&mut self, other: &Self) -> Result<()> {
        for (layer, from) in self.layers.iter_mut().zip(&other.layers) {
            for (head, from) in layer.heads.iter_mut().zip(&from.heads) {
                *head = from.try_clone()?;
            }
        }
        (self.ledger, self.dropped, self.met, self.next) =
            (other.ledger, other.dropped, other.met, other.next);
        Ok(())
    }
}

impl Head {
    fn try_clone(&self) -> Result<Self> {
        let residual = |r: &Residual| Ok(Residual { strip: r.strip.try_clone()?, slots: r.slots });
        Ok(Self {
            strip: self.strip.try_clone()?,
            residual: self.residual.as_ref().map(residual).transpose()?,
            ring: self.ring.clone(),
            side: self.side.clone(),
            ..*self
        })
    }
}
