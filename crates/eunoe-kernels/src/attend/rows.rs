//! Query rows against one strip: what each sees, and how it is scaled and moved before it meets keys.

use std::ops::Range;

use crate::rope::Rope;
use crate::strip::Strip;

use super::slots::{TILE, Tile};

/// Most rows in one block: with a group of g heads they share each unpacked tile.
pub(super) const MOST_BLOCK_ROWS: usize = 64;
/// Lines (row × head of the group) that a block aims for: enough to hide unpacking, few enough for the cache.
const BLOCK_LINES: usize = 128;

/// The slots that one row sees: those before `end` with a position in `low..=high`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) end: usize,
    pub(super) low: u32,
    pub(super) high: u32,
}

impl Sight {
    /// One bit per slot of the tile.
    #[inline(always)]
    pub(super) fn mask(&self, tile: &Tile<'_>) -> u64 {
        let seen = self.end.saturating_sub(tile.first).min(TILE);
        let prefix = if seen == 0 { 0 } else { u64::MAX >> (TILE - seen) };
        if self.low == 0 && self.high == u32::MAX {
            return prefix;
        }
        let mut mask = 0;
        for j in 0..tile.len {
            let pos = tile.pos(j);
            mask |= u64::from(self.low <= pos && pos <= self.high) << j;
        }
        mask & prefix
    }
}

/// The query rows of one run, in slot order.
pub(super) struct Rows<'a> {
    /// Row 0 starts here.
    pub(super) q: &'a [f32],
    /// Floats from one row to the next.
    pub(super) stride: usize,
    pub(super) head_dim: usize,
    pub(super) group: usize,
    pub(super) scale: f32,
    pub(super) sights: Vec<Sight>,
    pub(super) rank: Option<&'a Rope>,
    /// Per row with `rank`: its rank less its own position.
    pub(super) moves: Vec<i64>,
}

impl<'a> Rows<'a> {
    /// Rows that sit in slots `first..first + rows` of `strip`.
    pub(super) fn in_slots(
        strip: &Strip,
        first: usize,
        rows: usize,
        window: Option<u32>,
        rank: Option<&'a Rope>,
        query: Queries<'a>,
    ) -> Self {
        let sight = |slot: usize| {
            let low = window.map_or(0, |w| (u64::from(strip.pos(slot)) + 1).saturating_sub(u64::from(w)));
            Sight { end: slot + 1, low: u32::try_from(low).unwrap_or(u32::MAX), high: u32::MAX }
        };
        let step = |slot: usize| slot as i64 - i64::from(strip.pos(slot));
        let slots = first..first + rows;
        let moves = if rank.is_some() { slots.clone().map(step).collect() } else { Vec::new() };
        let Queries { q, stride, group, scale } = query;
        let head_dim = strip.layout().head_dim;
        Self { q, stride, head_dim, group, scale, sights: slots.map(sight).collect(), rank, moves }
    }

    pub(super) fn len(&self) -> usize {
        self.sights.len()
    }

    /// How many rows to take at once.
    pub(super) fn block_rows(&self) -> usize {
        (BLOCK_LINES / self.group).clamp(1, MOST_BLOCK_ROWS)
    }

    /// Queries of `rows` as `[rows, group, head_dim]`: moved to their rank, then scaled.
    pub(super) fn prepare(&self, rows: Range<usize>, turn: &mut [f32], out: &mut [f32]) {
        let d = self.head_dim;
        for (row, lines) in rows.zip(out.chunks_exact_mut(self.group * d)) {
            lines.copy_from_slice(&self.q[row * self.stride..][..self.group * d]);
            if let Some(rope) = self.rank.filter(|_| self.moves[row] != 0) {
                let turn = &mut turn[..rope.dims()];
                rope.shift(self.moves[row], turn);
                lines.chunks_exact_mut(d).for_each(|line| rope.rotate(line, turn));
            }
            lines.iter_mut().for_each(|x| *x *= self.scale);
        }
    }
}

/// Where a run's queries lie.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    pub(super) q: &'a [f32],
    pub(super) stride: usize,
    pub(super) group: usize,
    pub(super) scale: f32,
}
