//! One operand of a block: rows of `a`, or columns of `b`, for a part of `k`.

use super::pack::{Element, Order, Source};
use super::view::Mat;
use crate::Isa;
use crate::memory::Memory;
use std::ops::Range;

/// Up to so many bytes from the first value to the last, plain floats are read where they are.
const PLAIN_BYTES: usize = 32 << 10;

/// Lanes in panels of `width`, packed or in place.
pub(super) struct Side<'a, T> {
    from: Source<'a, T>,
    width: usize,
    /// Panels are a multiple of this wide.
    unit: usize,
    /// Where packed panels are, and how far apart; `None` where values are read in place.
    packed: Option<(*mut f32, usize)>,
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
        Self { from, width, unit, packed: None }
    }

    /// With memory for its panels, where it needs any.
    pub(super) fn placed(mut self, order: Order, memory: &'a mut Memory) -> Self {
        if !self.is_plain() {
            // a vector may reach over the end, and panels begin on cache lines
            let room = (order.words(self.from.steps) * self.width + 16).next_multiple_of(16);
            self.packed = Some((memory.get::<f32>(self.panels() * room).as_mut_ptr(), room));
        }
        self
    }

    /// Whether a kernel can read the values where they are without missing the cache more often.
    fn is_plain(&self) -> bool {
        let Source { lane, step, lanes, steps, .. } = self.from;
        let span = (lanes - 1).saturating_mul(lane).saturating_add((steps - 1).saturating_mul(step));
        let fits = self.unit == 1 || lane == 1 && lanes.is_multiple_of(self.unit);
        T::plain(self.from.data).is_some() && fits && span < PLAIN_BYTES / size_of::<f32>()
    }

    pub(super) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    pub(super) fn panels(&self) -> usize {
        self.from.lanes.div_ceil(self.width)
    }

    /// Panels that hold about so many values.
    pub(super) fn panels_of(&self, values: usize) -> usize {
        (values / (self.width * self.from.steps)).max(1)
    }

    fn lanes(&self, panel: usize) -> usize {
        self.width.min(self.from.lanes - panel * self.width)
    }

    /// Packs a panel.
    ///
    /// # Safety
    /// No other thread has this panel.
    pub(super) unsafe fn pack(&self, isa: Isa, panel: usize) {
        let Some((at, room)) = self.packed else { return };
        let lanes = self.lanes(panel);
        let data = &self.from.data[panel * self.width * self.from.lane..];
        // SAFETY: `placed` has made room for all panels, and this one is the caller's.
        let out = unsafe { std::slice::from_raw_parts_mut(at.add(panel * room), room) };
        T::pack(isa, Source { data, lanes, ..self.from }, lanes.next_multiple_of(self.unit), out);
    }

    pub(super) fn panel(&self, panel: usize) -> Panel {
        let (first, lanes) = (panel * self.width, self.lanes(panel));
        match (self.packed, T::plain(self.from.data)) {
            (None, Some(data)) => {
                let words = data[first * self.from.lane..].as_ptr();
                Panel { words, lane: self.from.lane, step: self.from.step, first, lanes }
            }
            (packed, _) => {
                let (at, room) = packed.unwrap_or((std::ptr::null_mut(), 0));
                let step = lanes.next_multiple_of(self.unit);
                Panel { words: at.wrapping_add(panel * room), lane: 1, step, first, lanes }
            }
        }
    }
}
