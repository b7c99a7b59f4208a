//! Query rows against one strip: what each sees, and how it is scaled and moved before it meets keys.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use eunoe_core::Codec;

use crate::isa::Isa;
use crate::rope::Rope;
use crate::strip::{SlotLayout, Strip};

use super::bf16::{self, LEAST_LINE};
use super::slots::{TILE, Tile};
use super::tile::{Base, Block, Lines};

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
    pub(super) codec: Codec,
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
        let (codec, head_dim) = (strip.layout().codec.k, strip.layout().head_dim);
        Self { q, stride, codec, head_dim, group, scale, sights: slots.map(sight).collect(), rank, moves }
    }

    pub(super) fn len(&self) -> usize {
        self.sights.len()
    }

    /// The rows in parts that are done at once.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (step, len) = ((BLOCK_LINES / self.group).clamp(1, MOST_BLOCK_ROWS), self.len());
        (0..len).step_by(step).map(move |r| r..(r + step).min(len))
    }

    /// Prepared lines of `rows` against a whole strip.
    pub(super) fn block<'b>(&'b self, strip: &'b Strip, rows: &Range<usize>, lines: Lines<'b>) -> Block<'b> {
        self.block_of(strip.slots(), 0, strip.layout(), rows, lines)
    }

    /// Prepared lines of `rows` against whole slots from slot `base` on.
    pub(super) fn block_of<'b>(
        &'b self,
        slots: &'b [u8],
        base: usize,
        layout: SlotLayout,
        rows: &Range<usize>,
        lines: Lines<'b>,
    ) -> Block<'b> {
        let (sights, rank) = (&self.sights[rows.clone()], self.rank);
        Block { slots, base, layout, lines, group: self.group, sights, rank, tiles: None, list: None }
    }

    /// Queries of `rows` as `[rows, group, head_dim]`: moved to their rank, then scaled; in pairs where the codec asks.
    pub(super) fn prepare<'b>(
        &self,
        isa: Isa,
        rows: Range<usize>,
        memory: &'b mut LineMemory<'_>,
    ) -> Lines<'b> {
        isa.run(
            #[inline(always)]
            || self.fill(rows, memory),
        );
        Lines { floats: memory.floats, pairs: memory.pairs }
    }

    #[inline(always)]
    fn fill(&self, rows: Range<usize>, memory: &mut LineMemory<'_>) {
        let (d, is_f32) = (self.head_dim, Base::of(self.codec) == Base::E);
        let scale = if is_f32 { self.scale } else { self.scale * LOG2_E };
        for (row, lines) in rows.zip(memory.floats.chunks_exact_mut(self.group * d)) {
            lines.copy_from_slice(&self.q[row * self.stride..][..self.group * d]);
            if let Some(rope) = self.rank.filter(|_| self.moves[row] != 0) {
                let turn = &mut memory.turn[..rope.dims()];
                rope.shift(self.moves[row], turn);
                lines.chunks_exact_mut(d).for_each(|line| rope.rotate(line, turn));
            }
            lines.iter_mut().for_each(|x| *x *= scale);
        }
        if !is_f32 {
            let near = |x: f32| bf16::nearest(bf16::flush(x, LEAST_LINE));
            for (pair, x) in memory.pairs.iter_mut().zip(memory.floats.as_chunks::<2>().0) {
                *pair = near(x[0]) | near(x[1]) << 16;
            }
        }
    }
}

/// Where a block's queries are prepared.
pub(super) struct LineMemory<'a> {
    pub(super) floats: &'a mut [f32],
    pub(super) pairs: &'a mut [u32],
    /// Cosines and sines of one move.
    pub(super) turn: &'a mut [f32],
}

/// Where a run's queries lie.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    pub(super) q: &'a [f32],
    pub(super) stride: usize,
    pub(super) group: usize,
    pub(super) scale: f32,
}
