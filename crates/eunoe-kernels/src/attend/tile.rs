//! One block of query lines against the tiles of one partition: scores, online softmax, sums of values; and the
//! second pass that turns scores into attention mass per slot. Written once, compiled per instruction set. Slots in f32
//! are computed in f32, those in f16, q8 and q4 in bf16 (`bf16_sweep`).

use std::f32::consts::{LN_2, LOG2_E};

use eunoe_core::Codec;

use crate::isa::Isa;
use crate::math::{self, Lanes};
use crate::rope::Rope;
use crate::strip::SlotLayout;

use super::bf16::{self, Words};
use super::bf16_sweep;
use super::form::{Form, MOST_ROWS, Matrix, product};
use super::rows::{MOST_BLOCK_ROWS, Sight};
use super::slots::{Ahead, Buffers, KEYS, SCORES, SUMS, TILE, Tile};

/// Slots of one partition: partials of whole partitions are merged in ascending order.
pub(super) const PARTITION: usize = 1024;

/// Query lines of one block and the slots that they meet.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    /// Whole slots, from slot `base` on.
    pub(super) slots: &'a [u8],
    pub(super) base: usize,
    pub(super) layout: SlotLayout,
    pub(super) lines: Lines<'a>,
    pub(super) group: usize,
    /// One per row.
    pub(super) sights: &'a [Sight],
    pub(super) rank: Option<&'a Rope>,
    /// One bit per tile from slot 0 on: those that these rows may look at; all where `None`.
    pub(super) tiles: Option<&'a [u64]>,
    /// Which of `slots` stand for slots 0, 1, …; `base` is 0 then.
    pub(super) list: Option<&'a [u32]>,
}

/// Queries of a block, scaled, `[rows, group, head_dim]`.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    /// For slots in f32.
    pub(super) floats: &'a [f32],
    /// For others: in pairs, and by log2 e more, so that scores are binary logarithms.
    pub(super) pairs: &'a [u32],
}

impl Block<'_> {
    #[inline(always)]
    pub(super) fn lines(&self) -> usize {
        self.sights.len() * self.group
    }

    /// The slot after the last.
    #[inline(always)]
    pub(super) fn end(&self) -> usize {
        self.list.map_or_else(|| self.base + self.slots.len() / self.layout.bytes(), <[u32]>::len)
    }

    /// The tile that starts at slot `first`; the slots of a list are copied side by side into `room`, and
    /// those of its next tile, which lie anywhere, are asked for.
    #[inline(always)]
    pub(super) fn tile<'b>(&'b self, first: usize, room: &'b mut [u8]) -> Tile<'b> {
        let Some(list) = self.list else { return Tile::at(self.slots, self.base, first, self.layout) };
        let size = self.layout.bytes();
        let (list, later) = list[first..].split_at(TILE.min(list.len() - first));
        let ask = |slots: &[u32]| {
            slots
                .iter()
                .for_each(|slot| Ahead::new(&self.slots[*slot as usize * size..][..size]).ask(usize::MAX));
        };
        if first.is_multiple_of(PARTITION) {
            ask(list);
        }
        ask(&later[..later.len().min(TILE)]);
        let room = &mut room[..list.len() * size];
        for (copy, slot) in room.chunks_exact_mut(size).zip(list) {
            copy.copy_from_slice(&self.slots[*slot as usize * size..][..size]);
        }
        Tile { bytes: room, layout: self.layout, first, len: list.len() }
    }

    /// Whether the tile that starts at slot `first` is looked at.
    #[inline(always)]
    pub(super) fn takes(&self, first: usize) -> bool {
        let tile = first / TILE;
        self.tiles.is_none_or(|bits| bits[tile / 64] >> (tile % 64) & 1 == 1)
    }

    /// The tile that is looked at next after the one that starts at slot `first`.
    #[inline(always)]
    pub(super) fn after(&self, first: usize) -> &[u8] {
        if self.list.is_some() {
            return &[]; // `tile` has asked for it
        }
        let next = (first + TILE..self.end()).step_by(TILE).find(|next| self.takes(*next));
        next.map_or(&[], |next| Tile::at(self.slots, self.base, next, self.layout).bytes)
    }

    /// What each row sees of the tile; `None` when no row sees anything.
    #[inline(always)]
    pub(super) fn masks(&self, tile: &Tile<'_>) -> Option<[u64; MOST_BLOCK_ROWS]> {
        let mut masks = [0; MOST_BLOCK_ROWS];
        let mut any = 0;
        for (mask, sight) in masks.iter_mut().zip(self.sights) {
            *mask = sight.mask(tile);
            any |= *mask;
        }
        (any != 0).then_some(masks)
    }

    /// Scores of `count` lines from `line` on: `[count, 64]`.
    #[inline(always)]
    fn scores<const W: usize>(&self, line: usize, count: usize, keys: &[f32], out: &mut [f32]) {
        let d = self.layout.head_dim;
        let queries = Matrix { data: &self.lines.floats[line * d..], stride: d };
        product::<W, false>(count, queries, Matrix { data: keys, stride: TILE }, d, out, TILE);
    }

    /// The same in bf16.
    #[inline(always)]
    pub(super) fn score_pairs<F: Form, const P: usize>(
        &self,
        form: F,
        line: usize,
        count: usize,
        keys: &[u32],
        out: &mut [f32],
    ) {
        let k = self.layout.head_dim / 2;
        let queries = Words { data: &self.lines.pairs[line * k..], stride: k };
        bf16::product::<F, P, false>(form, count, queries, Words { data: keys, stride: TILE }, k, out, TILE);
    }
}

/// Lines are taken in near-equal groups of at most `MOST_ROWS`: the first of `left` lines.
#[inline(always)]
pub(super) fn next_group(left: usize) -> usize {
    left.div_ceil(left.div_ceil(MOST_ROWS))
}

/// What a block's lines know after some slots: maximum score, sum of exponentials, unnormalised output.
pub(super) struct Partial<'a> {
    pub(super) max: &'a mut [f32],
    pub(super) sum: &'a mut [f32],
    /// `[lines, head_dim]`; empty where only the log-sum-exp is wanted.
    pub(super) acc: &'a mut [f32],
    base: Base,
}

/// What scores are logarithms to.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Base {
    E,
    Two,
}

impl Base {
    /// Slots in f32 are scored as they are, others in binary logarithms.
    pub(super) fn of(codec: Codec) -> Self {
        if codec == Codec::F32 { Self::E } else { Self::Two }
    }

    #[inline(always)]
    fn exp(self, x: f32) -> f32 {
        if self == Self::E { math::exp(x) } else { math::exp2(x) }
    }
}

impl<'a> Partial<'a> {
    /// Floats that a partial of `lines` lines takes.
    pub(super) fn floats(lines: usize, acc_dim: usize) -> usize {
        lines * (2 + acc_dim)
    }

    pub(super) fn new(memory: &'a mut [f32], lines: usize, base: Base) -> Self {
        let (max, rest) = memory.split_at_mut(lines);
        let (sum, acc) = rest.split_at_mut(lines);
        Self { max, sum, acc, base }
    }

    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.acc.fill(0.0);
    }

    /// Adds a later partition. One that saw nothing changes nothing.
    pub(super) fn merge(&mut self, isa: Isa, later: &Partial<'_>) {
        isa.run(
            #[inline(always)]
            || self.add(later),
        );
    }

    #[inline(always)]
    fn add(&mut self, later: &Partial<'_>) {
        let d = self.acc.len() / self.max.len();
        for line in 0..self.max.len() {
            if later.max[line] == f32::NEG_INFINITY {
                continue;
            }
            let peak = math::max(self.max[line], later.max[line]);
            let old = self.base.exp(self.max[line] - peak);
            let new = self.base.exp(later.max[line] - peak);
            self.max[line] = peak;
            self.sum[line] = self.sum[line] * old + later.sum[line] * new;
            let (acc, add) = (&mut self.acc[line * d..][..d], &later.acc[line * d..][..d]);
            for (a, b) in acc.iter_mut().zip(add) {
                *a = *a * old + b * new;
            }
        }
    }

    /// Attention output of a line (0 where it saw nothing) and its log-sum-exp.
    pub(super) fn finish(&self, line: usize, out: &mut [f32]) -> f32 {
        let sum = self.sum[line];
        let empty = self.max[line] == f32::NEG_INFINITY;
        let inverse = if empty { 0.0 } else { 1.0 / sum };
        let acc = &self.acc[line * out.len()..];
        for (o, a) in out.iter_mut().zip(acc) {
            // A sum that underflowed to -0 depends on how many zeros were added; + 0 makes it 0.
            *o = a * inverse + 0.0;
        }
        let max = self.max[line] * if self.base == Base::E { 1.0 } else { LN_2 };
        if empty { f32::NEG_INFINITY } else { max + sum.ln() }
    }
}

/// Fills `out` from the slots of partition `part` that `block.slots` holds. Bits depend only on what a line sees:
/// scores are one chain over d, tiles and partitions lie at fixed slots, and a masked slot is never multiplied.
///
/// `W` is how many lanes-wide columns a register block holds in f32, `P` in bf16.
#[inline(always)]
pub(super) fn partition<F: Form, const W: usize, const P: usize>(
    form: F,
    block: &Block<'_>,
    part: usize,
    buffers: &mut Buffers<'_>,
    out: &mut Partial<'_>,
) {
    if block.layout.codec.k != Codec::F32 {
        return bf16_sweep::partition::<F, P>(form, block, part, buffers, out);
    }
    out.clear();
    let room = std::mem::take(&mut buffers.gathered);
    let end = block.end().min((part + 1) * PARTITION);
    for first in (part * PARTITION..end).step_by(TILE) {
        if !block.takes(first) {
            continue;
        }
        let tile = block.tile(first, room);
        let Some(masks) = block.masks(&tile) else { continue };
        buffers.ahead = Ahead::new(block.after(first));
        let per_line = buffers.ahead.step(SCORES + SUMS, block.lines());
        tile.unpack_keys(form, block.rank, buffers);
        if !out.acc.is_empty() {
            tile.unpack_values(form, buffers);
        }
        let mut line = 0;
        while line < block.lines() {
            let count = next_group(block.lines() - line);
            let mut seen = [0; MOST_ROWS];
            for (n, mask) in seen[..count].iter_mut().enumerate() {
                *mask = masks[(line + n) / block.group];
            }
            buffers.ahead.ask(per_line * count);
            if seen.iter().any(|mask| *mask != 0) {
                let mut attn = [0.0; MOST_ROWS * TILE];
                block.scores::<W>(line, count, buffers.keys, &mut attn);
                for n in 0..count {
                    soften(&mut attn[n * TILE..][..TILE], seen[n], line + n, out);
                }
                add_values::<W>(&attn, &seen[..count], buffers.values, line, out);
            }
            line += count;
        }
    }
    buffers.gathered = room;
}

/// Scores of one line become weights relative to the line's new maximum; its earlier sums are rescaled.
#[inline(always)]
fn soften(scores: &mut [f32], seen: u64, line: usize, out: &mut Partial<'_>) {
    if seen == 0 {
        return;
    }
    hide(scores, seen);
    let lanes: &mut [Lanes] = scores.as_chunks_mut().0;
    let mut peaks = lanes[0];
    for x in &lanes[1..] {
        for i in 0..16 {
            peaks[i] = math::max(peaks[i], x[i]);
        }
    }
    let before = out.max[line];
    let peak = math::max(before, math::fold(peaks, math::max));
    let base = if peak == f32::NEG_INFINITY { 0.0 } else { peak };
    for x in lanes.iter_mut() {
        for i in 0..16 {
            x[i] = math::exp(x[i] - base);
        }
    }
    let mut sums = [0.0; 16];
    for i in 0..16 {
        sums[i] = (lanes[0][i] + lanes[1][i]) + (lanes[2][i] + lanes[3][i]);
    }
    let rescale = math::exp(before - base);
    out.max[line] = peak;
    out.sum[line] = out.sum[line].mul_add(rescale, math::fold(sums, |a, b| a + b));
    if rescale != 1.0 {
        let d = out.acc.len() / out.max.len();
        out.acc[line * d..][..d].iter_mut().for_each(|a| *a *= rescale);
    }
}

/// Scores of slots that are not seen become -inf.
#[inline(always)]
pub(super) fn hide(scores: &mut [f32], seen: u64) {
    if seen != u64::MAX {
        for (j, score) in scores.iter_mut().enumerate() {
            *score = if seen >> j & 1 == 1 { *score } else { f32::NEG_INFINITY };
        }
    }
}

/// `acc += attn · values` per line over the slots from its first to its last seen one, ascending: all lines at once
/// where all see, one by one at the edges, so that a slot outside a line's sight cannot reach it even as 0 · inf.
#[inline(always)]
fn add_values<const W: usize>(
    attn: &[f32],
    seen: &[u64],
    values: &[f32],
    line: usize,
    out: &mut Partial<'_>,
) {
    let d = out.acc.len() / out.max.len();
    if d == 0 {
        return;
    }
    let start = |mask: &u64| mask.trailing_zeros() as usize;
    let end = |mask: &u64| TILE - mask.leading_zeros() as usize;
    let from = seen.iter().map(start).max().unwrap_or(TILE);
    let to = seen.iter().map(end).min().unwrap_or(0).max(from);
    let slots = |attn_line: usize, from: usize| {
        (
            Matrix { data: &attn[attn_line * TILE + from.min(TILE - 1)..], stride: TILE },
            Matrix { data: &values[from.min(TILE - 1) * d..], stride: d },
        )
    };
    let acc = &mut out.acc[line * d..];
    for (n, mask) in seen.iter().enumerate() {
        let (a, b) = slots(n, start(mask));
        let until = from.min(end(mask));
        product::<W, true>(1, a, b, until.saturating_sub(start(mask)), &mut acc[n * d..], d);
    }
    let (a, b) = slots(0, from);
    product::<W, true>(seen.len(), a, b, to - from, acc, d);
    for (n, mask) in seen.iter().enumerate() {
        let after = to.max(start(mask));
        let (a, b) = slots(n, after);
        product::<W, true>(1, a, b, end(mask).saturating_sub(after), &mut acc[n * d..], d);
    }
}

/// How the heads of a group fold into one mass, and what a row does to the mass that is there.
#[derive(Clone, Copy)]
pub(super) struct Update<'a> {
    /// Log-sum-exp of each line of the block.
    pub(super) lse: &'a [f32],
    pub(super) decay: f32,
    pub(super) fold_max: bool,
}

/// `columns[j] = decay · columns[j] + fold over the group of exp(score - lse)` for each slot that a row sees, row
/// after row, for the tile that starts at slot `first`.
#[inline(always)]
pub(super) fn columns<F: Form, const W: usize, const P: usize>(
    form: F,
    block: &Block<'_>,
    first: usize,
    update: Update<'_>,
    buffers: &mut Buffers<'_>,
    columns: &mut [f32; TILE],
) {
    let mut mass = [0.0; TILE];
    let each = |n: usize, seen: u64, scores: &mut [f32; TILE]| {
        match Base::of(block.layout.codec.k) {
            Base::E => scores.iter_mut().for_each(|x| *x = math::exp(*x - update.lse[n])),
            Base::Two => {
                let lse = update.lse[n] * LOG2_E;
                scores.iter_mut().for_each(|x| *x = math::exp2(*x - lse));
            }
        }
        fold_head(scores, update.fold_max, n.is_multiple_of(block.group), &mut mass);
        if (n + 1).is_multiple_of(block.group) {
            for (j, (column, mass)) in columns.iter_mut().zip(&mass).enumerate() {
                let new = update.decay.mul_add(*column, *mass);
                *column = if seen >> j & 1 == 1 { new } else { *column };
            }
        }
    };
    each_line::<F, W, P>(form, block, first, buffers, each);
}

/// The highest score of a line so far, and its slot; `u32::MAX` before any.
pub(super) type Peak = (f32, u32);

/// Raises each line's peak to the highest score in the tile that starts at slot `first`; of equals the first stays.
#[inline(always)]
pub(super) fn peaks<F: Form, const W: usize, const P: usize>(
    form: F,
    block: &Block<'_>,
    first: usize,
    buffers: &mut Buffers<'_>,
    best: &mut [Peak],
) {
    let each = |n: usize, seen: u64, scores: &mut [f32; TILE]| {
        hide(scores, seen);
        for (j, score) in scores.iter().enumerate() {
            if *score > best[n].0 {
                best[n] = (*score, (first + j) as u32);
            }
        }
    };
    each_line::<F, W, P>(form, block, first, buffers, each);
}

/// Calls `each` with every line, what it sees of the tile that starts at slot `first`, and its scores there; not at all
/// when no line sees anything.
#[inline(always)]
fn each_line<F: Form, const W: usize, const P: usize>(
    form: F,
    block: &Block<'_>,
    first: usize,
    buffers: &mut Buffers<'_>,
    each: impl FnMut(usize, u64, &mut [f32; TILE]),
) {
    let room = std::mem::take(&mut buffers.gathered);
    let tile = block.tile(first, room);
    if let Some(masks) = block.masks(&tile).filter(|_| block.takes(first)) {
        each_line_of::<F, W, P>(form, block, (&tile, &masks), buffers, each);
    }
    buffers.gathered = room;
}

/// Of a tile of which something is seen.
#[inline(always)]
fn each_line_of<F: Form, const W: usize, const P: usize>(
    form: F,
    block: &Block<'_>,
    (tile, masks): (&Tile<'_>, &[u64; MOST_BLOCK_ROWS]),
    buffers: &mut Buffers<'_>,
    mut each: impl FnMut(usize, u64, &mut [f32; TILE]),
) {
    buffers.ahead = Ahead::new(block.after(tile.first));
    let per_line = buffers.ahead.step(100 - KEYS, block.lines());
    match Base::of(block.layout.codec.k) {
        Base::E => tile.unpack_keys(form, block.rank, buffers),
        Base::Two => tile.key_pairs(form, block.rank, buffers),
    }
    let mut line = 0;
    while line < block.lines() {
        let count = next_group(block.lines() - line);
        let mut scores = [0.0; MOST_ROWS * TILE];
        buffers.ahead.ask(per_line * count);
        match Base::of(block.layout.codec.k) {
            Base::E => block.scores::<W>(line, count, buffers.keys, &mut scores),
            Base::Two => block.score_pairs::<F, P>(form, line, count, buffers.key_pairs, &mut scores),
        }
        for (n, scores) in scores.as_chunks_mut().0[..count].iter_mut().enumerate() {
            each(line + n, masks[(line + n) / block.group], scores);
        }
        line += count;
    }
}

#[inline(always)]
fn fold_head(heads: &[f32; TILE], fold_max: bool, is_first: bool, mass: &mut [f32; TILE]) {
    for (mass, &p) in mass.iter_mut().zip(heads) {
        *mass = match (is_first, fold_max) {
            (true, _) => p,
            (false, true) => math::max(*mass, p),
            (false, false) => *mass + p,
        };
    }
}
