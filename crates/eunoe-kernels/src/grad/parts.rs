//! What the operations share: checks of sizes, rows on several threads, sums over lanes.

use std::ops::Range;

use eunoe_core::{Error, Result};

use crate::math::{Lanes, fold};
use crate::pool::Shards;
use crate::{Isa, Pool};

/// Values of one task: less is not worth another thread.
pub(super) const PART: usize = 1 << 14;

/// A product of sizes; what does not fit is more than any slice has.
pub(super) fn size<const N: usize>(dims: [usize; N]) -> usize {
    if dims.contains(&0) { 0 } else { dims.into_iter().fold(1, usize::saturating_mul) }
}

/// # Errors
/// [`Error::Shape`] unless `got` is `want`.
pub(super) fn check(what: &str, want: usize, got: usize) -> Result<()> {
    if want == got { Ok(()) } else { Err(Error::shape(what, want, got)) }
}

/// Rows of one task, where a row costs as much as `width` values; the same for every number of threads.
pub(super) fn rows_of_task(width: usize) -> usize {
    (PART / width.max(1)).max(1)
}

/// Calls `work(rows, parts)` for runs of rows, on several threads where there is enough to do; `parts` are those rows
/// of `outs`.
pub(super) fn in_rows<const N: usize>(
    pool: &Pool,
    rows: usize,
    width: usize,
    outs: [&mut [f32]; N],
    work: impl Fn(Range<usize>, [&mut [f32]; N]) + Sync,
) {
    debug_assert!(outs.iter().all(|out| out.len().is_multiple_of(rows.max(1))), "whole rows");
    let step = rows_of_task(width);
    let outs = outs.map(|out| (out.len() / rows.max(1), Shards::new(out)));
    pool.run(rows.div_ceil(step), &|i| {
        let rows = i * step..rows.min((i + 1) * step);
        // SAFETY: tasks are different rows, and the outputs are different slices that outlive the loop.
        let parts = outs.map(|(width, out)| unsafe { out.part(rows.start * width, rows.len() * width) });
        work(rows, parts);
    });
}

/// As [`in_rows`], under the instructions of `isa`, and with sums over all rows: `work` adds those of its rows to its last
/// argument, which begins as zeros. Tasks have their own, which are added in the order of tasks.
pub(super) fn in_rows_and_sums<const N: usize>(
    (isa, pool): (Isa, &Pool),
    rows: usize,
    width: usize,
    outs: [&mut [f32]; N],
    sums: &mut [f32],
    work: impl Fn(Range<usize>, [&mut [f32]; N], &mut [f32]) + Sync,
) {
    let (step, len) = (rows_of_task(width), sums.len());
    let mut parts = vec![0.0; rows.div_ceil(step) * len];
    let shards = Shards::new(&mut parts);
    in_rows(pool, rows, width, outs, |rows, outs| {
        // SAFETY: one part per task; the parts outlive the loop.
        let part = unsafe { shards.part(rows.start / step * len, len) };
        isa.run(
            #[inline(always)]
            || work(rows, outs, part),
        );
    });
    sums.fill(0.0);
    isa.run(
        #[inline(always)]
        || {
            for part in parts.chunks_exact(len.max(1)) {
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum += part;
                }
            }
        },
    );
}

/// The sum of `term` over the columns of some rows: 16 lanes, folded in one fixed order.
#[inline(always)]
pub(super) fn sum<const N: usize>(rows: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    debug_assert!(rows.iter().all(|row| row.len() == rows[0].len()), "rows of one length");
    let mut lanes: Lanes = [0.0; 16];
    let chunks = rows.map(|row| row.as_chunks::<16>());
    for c in 0..chunks[0].0.len() {
        let chunk = chunks.map(|(whole, _)| whole[c]);
        for i in 0..16 {
            lanes[i] += term(chunk.map(|x| x[i]));
        }
    }
    for i in 0..chunks[0].1.len() {
        lanes[i] += term(chunks.map(|(_, rest)| rest[i]));
    }
    fold(lanes, |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_handed_out_once() {
        for (rows, width) in [(0, 3), (1, 1), (7, PART), (3, 2 * PART), (70_000, 2)] {
            let (mut a, mut b) = (vec![f32::NAN; rows * 2], vec![f32::NAN; rows]);
            in_rows(&Pool::new(3), rows, width, [&mut a, &mut b], |rows, [a, b]| {
                assert_eq!((a.len(), b.len()), (2 * rows.len(), rows.len()));
                rows.zip(b).for_each(|(row, b)| *b = row as f32);
                a.fill(1.0);
            });
            assert!(a.iter().all(|a| *a == 1.0) && b.iter().enumerate().all(|(i, b)| *b == i as f32));
        }
    }

    /// 1 · 2 + 2 · 3 + … + 20 · 21 = 20 · 21 · 22 / 3 = 3080.
    #[test]
    fn a_sum_takes_every_column() {
        let rows: [Vec<f32>; 2] = [1, 2].map(|first| (first..first + 20).map(|x| x as f32).collect());
        assert_eq!(sum([&rows[0], &rows[1]], |[a, b]| a * b), 3080.0);
        assert_eq!(sum([&[]], |[a]| a), 0.0);
    }

    #[test]
    fn a_size_that_does_not_fit_is_no_length() {
        assert_eq!(size([usize::MAX, 2, 3]), usize::MAX);
        assert_eq!(size([usize::MAX, 2, 0]), 0);
    }
}
