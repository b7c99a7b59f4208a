//! What a sequence remembers as bytes, to go on another day with the same bits.
//!
//! The records of slots are kept apart from all else: where no slot was marked or evicted, only those of new rows need be
//! written again.

use std::ops::Range;

use eunoe_core::{Error, Result};
use eunoe_kernels::strip::Strip;
use eunoe_kv::{Column, Plan};
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, Session};
use crate::layout::Length;
use crate::ring::Ring;
use crate::side::Side;
use crate::store::{Head, Met};

/// All but the records of slots.
#[derive(Serialize, Deserialize)]
struct State {
    next: u32,
    prompt_ended: bool,
    /// Only where the next row needs them.
    logits: Vec<f32>,
    dropped: (u64, f64),
    met: Met,
    peak: u64,
    /// Layer by layer, KV head by KV head.
    heads: Vec<HeadState>,
}

#[derive(Serialize, Deserialize)]
struct HeadState {
    slots: u32,
    /// Of the strip of newest slots in full precision.
    newest: u32,
    seen: u64,
    evicted: u64,
    ring: Option<Ring>,
    side: Option<Side>,
}

impl Session {
    /// Whether it can be saved: its policy itself remembers nothing, and no pass broke off.
    pub fn is_saveable(&self) -> bool {
        !self.is_broken && self.kv.key.is_some()
    }

    /// All that it remembers but the records of slots.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where it cannot be saved.
    pub fn state(&self) -> Result<Vec<u8>> {
        if !self.is_saveable() {
            return Err(unsaveable(&self.plan));
        }
        let needs_logits = self.kv.needs().column == Column::Surprisal;
        let heads = self.kv.layers.iter().flat_map(|layer| &layer.heads);
        let state = State {
            next: self.kv.next,
            prompt_ended: self.prompt_ended,
            logits: if needs_logits { self.logits.to_vec() } else { Vec::new() },
            dropped: self.kv.dropped,
            met: self.kv.met,
            peak: self.kv.ledger.peak,
            heads: heads.map(HeadState::of).collect(),
        };
        postcard::to_stdvec(&state).map_err(|e| Error::Invalid(e.to_string()))
    }

    /// Whether the records of rows that were saved earlier are still what they were.
    pub fn keeps_records(&self) -> bool {
        self.kv.is_plain()
    }

    /// Layers, each with records of its own.
    pub fn layers(&self) -> usize {
        self.kv.layers.len()
    }

    /// Bytes of the records of a layer's slots from slot `from` on, each strip's after the other.
    pub fn records(&self, layer: usize, from: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for head in &self.kv.layers[layer].heads {
            let strips = std::iter::once(&head.strip).chain(head.residual.as_ref().map(|r| &r.strip));
            for strip in strips {
                bytes.extend_from_slice(strip.records((from as usize).min(strip.len())..strip.len()));
            }
        }
        bytes
    }
}

impl HeadState {
    fn of(head: &Head) -> Self {
        Self {
            slots: head.strip.len() as u32,
            newest: head.residual.as_ref().map_or(0, |r| r.strip.len() as u32),
            seen: head.seen,
            evicted: head.evicted,
            ring: head.ring.clone(),
            side: head.side.clone(),
        }
    }
}

/// Gives the records of a layer that were saved as one part: what [`Session::records`] gave.
pub(crate) type Records<'a> = &'a mut dyn FnMut(usize, usize) -> Result<Vec<u8>>;

impl Engine {
    /// # Errors
    /// [`Error::Unsupported`] for a plan whose memory cannot be saved, since its policy itself remembers.
    pub fn check_saveable(&self, plan: &Plan, length: Length) -> Result<()> {
        match self.layout(plan, length)?.key() {
            Some(_) => Ok(()),
            None => Err(unsaveable(plan)),
        }
    }

    /// The sequence that `state` and its records are of. `parts` are the slots of each strip that were saved together, one range
    /// after the other; `records` gives those of a part and a layer.
    ///
    /// # Errors
    /// [`Error::Format`] for bytes that are not of such a sequence; those of [`Engine::session`] and of `records`.
    pub fn restore(
        &self,
        plan: &Plan,
        length: Length,
        state: &[u8],
        parts: &[Range<u32>],
        records: Records<'_>,
    ) -> Result<Session> {
        let state: State = postcard::from_bytes(state).map_err(|e| broken(&e.to_string()))?;
        let mut session = self.session(plan, length)?;
        let strips = session.kv.strips();
        if state.heads.len() != strips || state.next > length.longest {
            return Err(broken("it is of another shape"));
        }
        if !state.logits.is_empty() && state.logits.len() != self.config().vocab {
            return Err(broken("it is of another vocabulary"));
        }
        let (mut saved, state_next) = (state.heads.into_iter(), state.next);
        for layer in 0..session.kv.layers.len() {
            let mut states: Vec<HeadState> =
                saved.by_ref().take(session.kv.layers[layer].heads.len()).collect();
            for (part, slots) in parts.iter().enumerate() {
                let bytes = records(part, layer)?;
                let mut rest = &bytes[..];
                for (head, state) in session.kv.layers[layer].heads.iter_mut().zip(&states) {
                    let to = slots.end.min(state.slots);
                    let count = to.saturating_sub(slots.start) as usize;
                    session.kv.ledger.take((count * head.strip.layout().bytes()) as u64)?;
                    rest = append(&mut head.strip, count, rest)?;
                    if let Some(newest) = &mut head.residual {
                        let count = state.newest as usize;
                        session.kv.ledger.take((count * newest.strip.layout().bytes()) as u64)?;
                        rest = append(&mut newest.strip, count, rest)?;
                    }
                }
                if !rest.is_empty() {
                    return Err(broken("it holds more slots than it says"));
                }
            }
            for (head, state) in session.kv.layers[layer].heads.iter_mut().zip(states.drain(..)) {
                head.resume(state, state_next)?;
            }
        }
        session.kv.ledger.peak = session.kv.ledger.peak.max(state.peak.min(session.kv.ledger.cap));
        (session.kv.dropped, session.kv.met, session.kv.next) = (state.dropped, state.met, state.next);
        session.kv.reused = session.kv.ledger.live;
        (session.logits, session.prompt_ended) = (state.logits.into(), state.prompt_ended);
        Ok(session)
    }
}

impl Head {
    fn resume(&mut self, state: HeadState, next: u32) -> Result<()> {
        let mut pos = Vec::new();
        self.strip.positions(&mut pos);
        if !pos.is_sorted_by(|a, b| a < b) || pos.last().is_some_and(|last| *last >= next) {
            return Err(broken("its positions are in disorder"));
        }
        let newest = self.residual.as_ref().map_or(0, |r| r.strip.len() as u32);
        let fits = self.strip.len() as u32 == state.slots
            && newest == state.newest
            && self.ring.as_ref().zip(state.ring.as_ref()).is_none_or(|(own, other)| own.is_like(other))
            && self.side.as_ref().zip(state.side.as_ref()).is_none_or(|(own, other)| own.is_like(other))
            && (self.ring.is_some(), self.side.is_some()) == (state.ring.is_some(), state.side.is_some());
        if !fits {
            return Err(broken("its slots are not those that it says"));
        }
        (self.seen, self.evicted, self.ring, self.side) = (state.seen, state.evicted, state.ring, state.side);
        Ok(())
    }
}

/// Fills `count` slots from the front of `bytes`; gives what is left.
fn append<'b>(strip: &mut Strip, count: usize, bytes: &'b [u8]) -> Result<&'b [u8]> {
    let size = count * strip.layout().bytes();
    if bytes.len() < size || strip.len() + count > strip.capacity() {
        return Err(broken("it holds fewer slots than it says, or more than the plan allows"));
    }
    strip.append(count).copy_from_slice(&bytes[..size]);
    Ok(&bytes[size..])
}

fn unsaveable(plan: &Plan) -> Error {
    Error::Unsupported(format!("saving a memory under `{plan}`, whose policy itself remembers"))
}

fn broken(why: &str) -> Error {
    Error::format("saved memory", 0, format!("{why}: it is damaged, or of another model or plan"))
}
