//! One block of query lines against the tiles of one partition in bf16: scores are binary logarithms, weights and
//! values meet as pairs of slots. Maxima, exponentials and sums are f32; the sum takes weights before they are rounded.

use crate::math::{self, Lanes};

use super::bf16::{LEAST_SUM, Words, flush, half_step, product};
use super::form::{Form, MOST_ROWS};
use super::slots::{Ahead, Buffers, SCORES, SUMS, TILE};
use super::tile::{Block, PARTITION, Partial, hide, next_group};

/// Words of one line's weights of a tile.
const PAIRS: usize = TILE / 2;

/// As `tile::partition`, for slots in f16, q8 or q4.
#[inline(always)]
pub(super) fn partition<F: Form, const W: usize>(
    form: F,
    block: &Block<'_>,
    part: usize,
    buffers: &mut Buffers<'_>,
    out: &mut Partial<'_>,
) {
    out.clear();
    buffers.sums.fill([0.0; 16]);
    let room = std::mem::take(&mut buffers.gathered);
    let end = block.end().min((part + 1) * PARTITION);
    for first in (part * PARTITION..end).step_by(TILE) {
        if !block.takes(first) {
            continue;
        }
        let tile = block.tile(first, room);
        let Some(masks) = block.masks(&tile) else { continue };
        buffers.ahead = Ahead::new(block.after(first));
        let step = |percent| buffers.ahead.step(percent, block.lines());
        let (per_scores, per_sums) = (step(SCORES), step(SUMS));
        tile.key_pairs(form, block.rank, buffers);
        let mut line = 0;
        while line < block.lines() {
            let count = next_group(block.lines() - line);
            let mut scores = [[0.0; 16]; MOST_ROWS * TILE / 16];
            block.score_pairs::<F, W>(form, line, count, buffers.key_pairs, scores.as_flattened_mut());
            for (n, scores) in scores.as_chunks_mut().0[..count].iter_mut().enumerate() {
                let seen = masks[(line + n) / block.group];
                buffers.ahead.ask(per_scores);
                soften(form, scores, seen, line + n, buffers, out);
            }
            line += count;
        }
        if out.acc.is_empty() {
            continue;
        }
        tile.value_pairs(form, buffers.value_pairs, &mut buffers.ahead);
        let mut line = 0;
        while line < block.lines() {
            let count = next_group(block.lines() - line);
            let mut seen = [0; MOST_ROWS];
            for (n, mask) in seen[..count].iter_mut().enumerate() {
                *mask = masks[(line + n) / block.group];
            }
            buffers.ahead.ask(per_sums * count);
            add_values::<F, W>(form, &seen[..count], line, buffers, out);
            line += count;
        }
    }
    buffers.gathered = room;
    for (sum, lanes) in out.sum.iter_mut().zip(&*buffers.sums) {
        *sum = math::fold(*lanes, |a, b| a + b);
    }
}

/// Scores of one line become weights relative to the line's new maximum; where that grew, earlier sums are rescaled.
#[inline(always)]
fn soften<F: Form>(
    form: F,
    scores: &mut [Lanes; TILE / 16],
    seen: u64,
    line: usize,
    buffers: &mut Buffers<'_>,
    out: &mut Partial<'_>,
) {
    if seen == 0 {
        return;
    }
    hide(scores.as_flattened_mut(), seen);
    let mut peaks = scores[0];
    for x in &scores[1..] {
        for i in 0..16 {
            peaks[i] = math::max(peaks[i], x[i]);
        }
    }
    let (before, sums) = (out.max[line], &mut buffers.sums[line]);
    let mut above = 0;
    for i in 0..16 {
        above |= u32::from(peaks[i] > before);
    }
    let mut base = before;
    if above != 0 {
        base = math::max(before, math::fold(peaks, math::max));
        out.max[line] = base;
        let rescale = math::exp2(before - base);
        for i in 0..16 {
            sums[i] *= rescale;
        }
        let d = out.acc.len() / out.max.len();
        for a in &mut out.acc[line * d..][..d] {
            *a = flush(*a * rescale, LEAST_SUM);
        }
    }
    let base = if base == f32::NEG_INFINITY { 0.0 } else { base };
    for x in scores.iter_mut() {
        for i in 0..16 {
            x[i] = math::exp2(x[i] - base);
        }
    }
    for i in 0..16 {
        sums[i] += (scores[0][i] + scores[1][i]) + (scores[2][i] + scores[3][i]);
    }
    let weights = &mut buffers.weights.as_chunks_mut::<PAIRS>().0[line].as_chunks_mut().0;
    weights[0] = form.round(scores[0], scores[1]);
    weights[1] = form.round(scores[2], scores[3]);
}

/// `acc += weights · values` per line over the slots from its first to its last seen one, ascending: all lines at once
/// where all see both slots of a pair, one by one at the edges; of a pair at the edge of a line's sight, the unseen half
/// is 0, so that it cannot reach the line even as 0 · inf.
#[inline(always)]
fn add_values<F: Form, const W: usize>(
    form: F,
    seen: &[u64],
    line: usize,
    buffers: &Buffers<'_>,
    out: &mut Partial<'_>,
) {
    let d = out.acc.len() / out.max.len();
    let start = |mask: u64| mask.trailing_zeros() as usize;
    let end = |mask: u64| TILE - mask.leading_zeros() as usize;
    let (mut from, mut to) = (0, PAIRS);
    for mask in seen {
        from = from.max(start(*mask).div_ceil(2));
        to = to.min(end(*mask) / 2);
    }
    let to = to.max(from);
    let (weights, acc) = (&buffers.weights[line * PAIRS..], &mut out.acc[line * d..]);
    let (whole, values) = (to - from == PAIRS, &*buffers.value_pairs);
    if !whole {
        for (n, mask) in seen.iter().enumerate() {
            let slots = start(*mask)..end(*mask).min(2 * from);
            add_line::<F, W>(form, &weights[n * PAIRS..], values, slots, &mut acc[n * d..][..d]);
        }
    }
    if from < to {
        let a = Words { data: &weights[from..], stride: PAIRS };
        let b = Words { data: &values[from * d..], stride: d };
        product::<F, W, true>(form, seen.len(), a, b, to - from, acc, d);
    }
    if !whole {
        for (n, mask) in seen.iter().enumerate() {
            let slots = start(*mask).max(2 * to)..end(*mask);
            add_line::<F, W>(form, &weights[n * PAIRS..], values, slots, &mut acc[n * d..][..d]);
        }
    }
}

/// One line over `slots` of a tile.
#[inline(always)]
fn add_line<F: Form, const W: usize>(
    form: F,
    weights: &[u32],
    values: &[u32],
    slots: std::ops::Range<usize>,
    acc: &mut [f32],
) {
    if slots.is_empty() {
        return;
    }
    let d = acc.len();
    let at = |pair: usize| {
        (Words { data: &weights[pair..], stride: 0 }, Words { data: &values[pair * d..], stride: d })
    };
    if slots.start % 2 == 1 {
        let (a, b) = at(slots.start / 2);
        half_step::<F, W>(form, a, b, acc, d, 0xFFFF_0000);
    }
    let (from, to) = (slots.start.div_ceil(2), slots.end / 2);
    if from < to {
        let (a, b) = at(from);
        product::<F, W, true>(form, 1, a, b, to - from, acc, d);
    }
    if slots.end % 2 == 1 && slots.start < slots.end {
        let (a, b) = at(slots.end / 2);
        half_step::<F, W>(form, a, b, acc, d, 0xFFFF);
    }
}
