//! One operand of a block: rows of `a`, or columns of `b`, for a part of `k`.

use super::pack::{Element, Order, Panels, Source};
use super::view::Mat;
use crate::Isa;
use crate::memory::Memory;
use std::ops::Range;

/// Up to so many bytes from the first value to the last, plain floats are read where they are.
const PLAIN_BYTES: usize = 32 << 10;

/// Lanes in panels of `width`, packed or in place.
pub(super) struct Side<'a, T> {
    from: Source<'a, T>,
    to: Panels,
    /// Where packed panels are; `None` where values are read in place.
    packed: Option<*mut f32>,
}

// SAFETY: packed panels are written by `pack`, whose caller promises one writer and no reader; else they are only read.
unsafe impl<T: Element> Sync for Side<'_, T> {}

/// A panel as a kernel reads it.
pub(super) struct Panel {
    pub(super) words: *const f32,
    /// Distance of lanes, and of steps.
    pub(super) lane: usize,
    pub(super) step: usize,
    /// The first lane in the side, and how many.
    pub(super) first: usize,
    pub(super) lanes: usize,
}

impl<'a, T: Element> Side<'a, T> {
    /// Rows and columns of a view as lanes and steps.
    pub(super) fn new(
        of: Mat<'a, T>,
        lanes: Range<usize>,
        steps: Range<usize>,
        width: usize,
        unit: usize,
    ) -> Self {
        let start = lanes.start * of.row_stride + steps.start * of.col_stride;
        let (lane, step) = (of.row_stride, of.col_stride);
        let from = Source { data: &of.data[start..], lane, step, lanes: lanes.len(), steps: steps.len() };
        Self { from, to: Panels { width, unit, room: 0 }, packed: None }
    }

    /// With memory for its panels, where it needs any.
    pub(super) fn placed(mut self, order: Order, memory: &'a mut Memory) -> Self {
        if !self.is_plain() {
            // a vector may reach over the end, and panels begin on cache lines
            self.to.room = (order.words(self.from.steps) * self.to.width + 16).next_multiple_of(16);
            self.packed = Some(memory.get::<f32>(self.panels() * self.to.room).as_mut_ptr());
        }
        self
    }

    /// Whether a kernel can read the values where they are without missing the cache more often.
    fn is_plain(&self) -> bool {
        let Source { lane, step, lanes, steps, .. } = self.from;
        let span = (lanes - 1).saturating_mul(lane).saturating_add((steps - 1).saturating_mul(step));
        let fits = self.to.unit == 1 || lane == 1 && lanes.is_multiple_of(self.to.unit);
        T::plain(self.from.data).is_some() && fits && span < PLAIN_BYTES / size_of::<f32>()
    }

    pub(super) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    pub(super) fn panels(&self) -> usize {
        self.from.lanes.div_ceil(self.to.width)
    }

    /// Panels that hold about so many values.
    pub(super) fn panels_of(&self, values: usize) -> usize {
        (values / (self.to.width * self.from.steps)).max(1)
    }

    /// Packs some panels.
    ///
    /// # Safety
    /// No other thread has one of these panels.
    pub(super) unsafe fn pack(&self, isa: Isa, panels: Range<usize>) {
        let Some(at) = self.packed else { return };
        let Panels { width, room, .. } = self.to;
        let from = self.from.part(panels.start * width, panels.len() * width);
        // SAFETY: `placed` has made room for all panels, and these are the caller's.
        let out = unsafe { std::slice::from_raw_parts_mut(at.add(panels.start * room), panels.len() * room) };
        T::pack(isa, from, self.to, out);
    }

    pub(super) fn panel(&self, panel: usize) -> Panel {
        let first = panel * self.to.width;
        let Source { data, lane, step, lanes, .. } = self.from.part(first, self.to.width);
        match (self.packed, T::plain(data)) {
            (Some(at), _) => {
                let words = at.wrapping_add(panel * self.to.room);
                Panel { words, lane: 1, step: lanes.next_multiple_of(self.to.unit), first, lanes }
            }
            (None, plain) => {
                let words = plain.map_or(std::ptr::null(), <[f32]>::as_ptr);
                Panel { words, lane, step, first, lanes }
            }
        }
    }
}
