//! A strip: the slots (key, value, position, mass column) of one layer and KV head, in contiguous memory.
//!
//! One slot is one record `[K | V | pos u32 | column f32 if asked]` without padding, so everything travels with its
//! slot on eviction, and live bytes are slots × `SlotLayout::bytes`. Physical memory is within one page of them, except
//! after `reset`: that keeps the pages of the most slots since the last eviction or truncation.

pub(crate) mod codec;
mod push;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use eunoe_core::{Codec, Codecs, Error, Result};

use crate::vm::{Arena, Reserved};

pub use push::{Push, push};

/// What one slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLayout {
    /// How keys and values are stored.
    pub codec: Codecs,
    /// Length of a key or value: a multiple of 32.
    pub head_dim: usize,
    /// Whether slots carry a column of attention mass.
    pub column: bool,
}

impl SlotLayout {
    /// Exact bytes of one slot.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.column_at() + if self.column { 4 } else { 0 }
    }

    /// Where the value starts.
    #[inline]
    pub(crate) fn value_at(&self) -> usize {
        self.codec.k.bytes(self.head_dim)
    }

    #[inline]
    pub(crate) fn pos_at(&self) -> usize {
        self.value_at() + self.codec.v.bytes(self.head_dim)
    }

    #[inline]
    pub(crate) fn column_at(&self) -> usize {
        self.pos_at() + 4
    }
}

/// The slots of one layer and KV head, oldest first.
pub struct Strip {
    layout: SlotLayout,
    memory: Reserved,
    len: usize,
    capacity: usize,
}

impl Strip {
    /// An empty strip that may grow to `max_slots`; only address space is taken.
    ///
    /// # Errors
    /// [`Error::Shape`] for a head dimension that is not a multiple of 32, or keys or values alone in f32;
    /// [`Error::Limit`] without address space.
    pub fn new(layout: SlotLayout, max_slots: usize) -> Result<Self> {
        let Codecs { k, v } = layout.codec;
        if (k == Codec::F32) != (v == Codec::F32) {
            return Err(Error::shape("codecs of keys and values", "both f32 or neither", layout.codec));
        }
        if layout.head_dim == 0 || !layout.head_dim.is_multiple_of(32) {
            return Err(Error::shape("head dimension", "a multiple of 32", layout.head_dim));
        }
        let memory = Reserved::new(max_slots.saturating_mul(layout.bytes()))?;
        Ok(Self { layout, memory, len: 0, capacity: max_slots })
    }

    /// Slots in use.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// No slot is in use.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most slots it may hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// What a slot holds.
    #[inline]
    pub fn layout(&self) -> SlotLayout {
        self.layout
    }

    /// Live bytes: slots in use × bytes of a slot.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.len * self.layout.bytes()
    }

    /// Physical pages behind the strip, where the system tells.
    pub fn resident_pages(&self) -> Option<usize> {
        self.memory.resident_pages()
    }

    /// Appends a slot; its column starts at 0.
    ///
    /// # Panics
    /// When the strip is full or `k` or `v` is not `head_dim` long.
    pub fn push(&mut self, k: &[f32], v: &[f32], pos: u32) {
        let layout = self.layout;
        assert!(self.len < self.capacity, "a strip of {} slots is full", self.capacity);
        assert_eq!((k.len(), v.len()), (layout.head_dim, layout.head_dim), "key and value length");
        self.len += 1;
        write(layout, self.slot_mut(self.len - 1), k, v, pos);
    }

    /// The absolute position of slot `i`.
    #[inline]
    pub fn pos(&self, i: usize) -> u32 {
        pos_of(self.slot(i), self.layout)
    }

    /// The mass column of slot `i`; 0 where slots carry none.
    pub fn column(&self, i: usize) -> f32 {
        if self.layout.column { column_of(self.slot(i), self.layout) } else { 0.0 }
    }

    /// Sets the mass column of slot `i`.
    ///
    /// # Panics
    /// When slots carry no column.
    pub fn set_column(&mut self, i: usize, value: f32) {
        assert!(self.layout.column, "slots without a column");
        let at = self.layout.column_at();
        self.slot_mut(i)[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    /// Appends the positions of all slots to `out`.
    pub fn positions(&self, out: &mut Vec<u32>) {
        out.extend(self.slots().chunks_exact(self.layout.bytes()).map(|slot| pos_of(slot, self.layout)));
    }

    /// Appends the columns of all slots to `out`; zeros where slots carry none.
    pub fn columns(&self, out: &mut Vec<f32>) {
        out.extend((0..self.len).map(|i| self.column(i)));
    }

    /// Removes the given slots, ascending and distinct; the others keep their order and everything they carry.
    ///
    /// # Panics
    /// When a slot does not exist or the order is wrong.
    pub fn evict(&mut self, slots: &[u32]) {
        let Some((&first, &last)) = slots.first().zip(slots.last()) else { return };
        assert!(slots.is_sorted_by(|a, b| a < b), "slots to evict are ascending and distinct");
        assert!((last as usize) < self.len, "slot {last} of {} to evict", self.len);
        let (bytes, len) = (self.layout.bytes(), self.len);
        let memory = self.memory.bytes_mut(first as usize * bytes, len * bytes);
        let mut to = first as usize;
        for (n, &gone) in slots.iter().enumerate() {
            let run = gone as usize + 1..slots.get(n + 1).map_or(len, |&next| next as usize);
            memory.copy_within(run.start * bytes..run.end * bytes, to * bytes);
            to += run.len();
        }
        self.truncate(to);
    }

    /// Keeps the first `len` slots and gives the memory of the others back.
    pub fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            self.memory.release_from(self.bytes());
        }
    }

    /// Removes every slot and keeps the memory, to be filled again at once.
    pub fn reset(&mut self) {
        self.len = 0;
    }

    /// The key of slot `i` as stored, decoded: `[head_dim]`.
    pub fn read_k(&self, i: usize, out: &mut [f32]) {
        codec::decode(self.layout.codec.k, &self.slot(i)[..self.layout.value_at()], out);
    }

    /// The value of slot `i` as stored, decoded: `[head_dim]`.
    pub fn read_v(&self, i: usize, out: &mut [f32]) {
        let layout = self.layout;
        codec::decode(layout.codec.v, &self.slot(i)[layout.value_at()..layout.pos_at()], out);
    }

    /// A strip of its own, for `max_slots`, with the first `len` slots of this one; pages that are in an arena are shared until one
    /// of both writes.
    ///
    /// # Errors
    /// [`Error::Limit`] without address space, or for more slots than there are or may be.
    pub fn fork(&self, max_slots: usize, len: usize) -> Result<Self> {
        if let Some(have) = [self.len, max_slots].into_iter().find(|have| *have < len) {
            let (what, hint) = ("slots of a strip".into(), "fork fewer".into());
            return Err(Error::Limit { what, asked: len as u64, have: have as u64, hint });
        }
        let bytes = self.layout.bytes();
        let memory = self.memory.fork(max_slots.saturating_mul(bytes), len * bytes)?;
        Ok(Self { layout: self.layout, memory, len, capacity: max_slots })
    }

    /// Moves its whole pages into an arena, where forks share them.
    ///
    /// # Errors
    /// There is no memory for it; nothing changes then.
    pub fn share(&mut self, arena: &Arc<Arena>) -> io::Result<()> {
        self.memory.share(self.bytes(), arena)
    }

    /// Whether it holds pages of an arena, in use or not.
    pub fn holds_shared(&self) -> bool {
        self.memory.holds_shared()
    }

    /// Bytes of whole pages that are in an arena and unchanged.
    pub fn shared_bytes(&self) -> usize {
        self.memory.shared_bytes()
    }

    /// The bytes of slots, one record after the other, as [`Strip::append`] takes them.
    ///
    /// # Panics
    /// When a slot does not exist.
    pub fn records(&self, slots: std::ops::Range<usize>) -> &[u8] {
        let bytes = self.layout.bytes();
        &self.slots()[slots.start * bytes..slots.end * bytes]
    }

    /// Appends slots, and gives their bytes to be filled with what [`Strip::records`] of a strip of the same layout gave.
    ///
    /// # Panics
    /// When there is no room.
    pub fn append(&mut self, slots: usize) -> &mut [u8] {
        assert!(self.len + slots <= self.capacity, "a strip of {} slots is full", self.capacity);
        let at = self.bytes();
        self.len += slots;
        let len = self.bytes();
        &mut self.memory.bytes_mut(at, len)[at..]
    }

    /// The bytes of all slots in use.
    #[inline]
    pub(crate) fn slots(&self) -> &[u8] {
        self.memory.bytes(self.bytes())
    }

    /// The bytes of all slots in use, to write from slot `from` on.
    #[inline]
    pub(crate) fn slots_mut(&mut self, from: usize) -> &mut [u8] {
        let bytes = self.layout.bytes();
        self.memory.bytes_mut(from * bytes, self.len * bytes)
    }

    fn slot(&self, i: usize) -> &[u8] {
        let bytes = self.layout.bytes();
        &self.slots()[i * bytes..(i + 1) * bytes]
    }

    fn slot_mut(&mut self, i: usize) -> &mut [u8] {
        let bytes = self.layout.bytes();
        &mut self.slots_mut(i)[i * bytes..(i + 1) * bytes]
    }
}

/// Writes a new slot.
#[inline(always)]
fn write(layout: SlotLayout, slot: &mut [u8], k: &[f32], v: &[f32], pos: u32) {
    codec::encode(layout.codec.k, k, &mut slot[..layout.value_at()]);
    codec::encode(layout.codec.v, v, &mut slot[layout.value_at()..layout.pos_at()]);
    slot[layout.pos_at()..layout.column_at()].copy_from_slice(&pos.to_ne_bytes());
    slot[layout.column_at()..].fill(0);
}

/// The position that a slot's bytes hold.
#[inline(always)]
pub(crate) fn pos_of(slot: &[u8], layout: SlotLayout) -> u32 {
    let at = layout.pos_at();
    u32::from_ne_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]])
}

/// The column that a slot's bytes hold.
#[inline(always)]
pub(crate) fn column_of(slot: &[u8], layout: SlotLayout) -> f32 {
    let at = layout.column_at();
    f32::from_ne_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]])
}
