//! Attention of query rows over strips, exact, in tiles with an online softmax; and the mass that it puts on slots.
//!
//! The bits of a row's output depend only on its query, its slot and the slots that it sees: not on the rows that
//! come in the same call, the number of threads, batch mates or the instruction set. Hence:
//! * slots in f32 are computed in f32, those in f16, q8 and q4 with bf16 operands and f32 sums (`bf16`);
//! * tiles of 64 and partitions of 1024 slots lie at fixed slot indices; partials of partitions are merged in
//!   ascending order, whoever computed them;
//! * a score is one chain of fused steps over d, an output value one chain over the slots of a partition;
//! * a slot that a row does not see is never multiplied for it, and a tile or partition without any is a no-op.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod bf16;
mod bf16_sweep;
mod bf16_tile;
mod call;
mod dots;
mod form;
mod kernels;
mod mask;
mod mass;
mod rows;
mod scalar;
mod scratch;
mod slots;
#[cfg(test)]
mod tests;
mod tile;

use std::ops::Range;

use crate::isa::Isa;
use crate::pool::{Pool, Shards};
use crate::rope::Rope;
use crate::strip::Strip;

pub use dots::dots;
pub use eunoe_core::Fold;
pub use mask::TileMask;
pub use mass::{LastRows, RecordRun, Rule, last_rows, record};

use call::{Call, Job};
use rows::{Queries, Rows};

/// Query rows of one sequence against one strip.
pub struct Run<'a> {
    /// The keys and values; the rows' own slots are already in it.
    pub strip: &'a Strip,
    /// Rows of `q` and `out`.
    pub rows: Range<usize>,
    /// Slot of the first row: row `r` sits in slot `first + (r - rows.start)` and sees the slots up to its own.
    pub first: usize,
    /// First query head of the group that shares this strip.
    pub head: usize,
    /// A row sees only slots with `pos + window >` its own position.
    pub window: Option<u32>,
    /// Positions are slot indices: keys and queries, given rotated at their own position, are rotated on to their
    /// slot. Where both agree nothing is done.
    pub rank: Option<&'a Rope>,
    /// The tiles of slots that tiles of rows look at; all where `None`. A row that sees nothing gives 0, and -∞ as its
    /// log-sum-exp.
    pub tiles: Option<&'a TileMask>,
    /// The slots of the strip that stand for slots 0, 1, … of this run, as if they lay side by side: the rows' own stand
    /// last. With neither `window` nor `rank`.
    pub list: Option<&'a [u32]>,
}

impl<'a> Run<'a> {
    /// Rows that see everything up to their own slot.
    pub fn new(strip: &'a Strip, rows: Range<usize>, first: usize, head: usize) -> Self {
        Self { strip, rows, first, head, window: None, rank: None, tiles: None, list: None }
    }
}

/// The shape of one attention call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads of a row.
    pub heads: usize,
    /// Query heads that share one strip.
    pub group: usize,
    /// Factor on scores, as a rule 1 / √head_dim.
    pub scale: f32,
}

/// Attention: `q`, `out` are `[rows, heads, head_dim]`, `lse` (log-sum-exp of the scores) is `[rows, heads]`. Only
/// what runs name is written.
///
/// # Panics
/// When sizes disagree, a row's slot does not exist, or two runs name the same row and head.
pub fn attend(
    isa: Isa,
    pool: &Pool,
    runs: &[Run<'_>],
    shape: Heads,
    q: &[f32],
    out: &mut [f32],
    lse: Option<&mut [f32]>,
) {
    let Some(head_dim) = check(runs, shape, q, out.len(), lse.as_deref().map(<[f32]>::len)) else { return };
    let jobs = runs.iter().flat_map(|run| jobs(run, shape, q, head_dim)).collect();
    let (out, lse) = (Shards::new(out), lse.map(Shards::new));
    Call { isa, jobs, heads: shape.heads, head_dim, out, lse }.run(pool);
}

/// Per row and query head (`[rows, heads]`) the slot of the highest score, the first of equals; `u32::MAX` where the row
/// sees nothing. Only what runs name is written.
///
/// # Panics
/// As [`attend`].
pub fn arg_max(isa: Isa, pool: &Pool, runs: &[Run<'_>], shape: Heads, q: &[f32], slots: &mut [u32]) {
    let Some(head_dim) = check(runs, shape, q, q.len(), Some(slots.len())) else { return };
    let jobs = runs.iter().flat_map(|run| jobs(run, shape, q, head_dim)).collect();
    let call = Call { isa, jobs, heads: shape.heads, head_dim, out: Shards::new(&mut []), lse: None };
    call.arg_max(pool, &Shards::new(slots));
}

/// A run as one job, or with a mask as one per head of the group.
fn jobs<'a>(
    run: &'a Run<'_>,
    shape: Heads,
    q: &'a [f32],
    head_dim: usize,
) -> impl Iterator<Item = Job<'a>> + 'a {
    let (stride, Heads { scale, .. }) = (shape.heads * head_dim, shape);
    let group = if run.tiles.is_some() { 1 } else { shape.group };
    (0..shape.group).step_by(group).map(move |h| {
        let (head, row) = (run.head + h, run.rows.start);
        let queries = Queries { q: &q[row * stride + head * head_dim..], stride, group, scale };
        let rows = Rows::in_slots(run.strip, run.first, run.rows.len(), run.window, run.rank, queries);
        let (list, mask) = (run.list, run.tiles.map(|mask| (mask, h)));
        Job { strip: run.strip, list, rows, first: run.first, row, head, mask }
    })
}

/// Checks what `attend` promises to check; the head dimension, or `None` without any run.
fn check(runs: &[Run<'_>], shape: Heads, q: &[f32], out: usize, lse: Option<usize>) -> Option<usize> {
    let head_dim = runs.first()?.strip.layout().head_dim;
    let Heads { heads, group, .. } = shape;
    assert!(group > 0 && heads.is_multiple_of(group), "{heads} heads in groups of {group}");
    let rows = q.len() / (heads * head_dim);
    assert_eq!(q.len(), rows * heads * head_dim, "queries are [rows, heads, head_dim]");
    assert_eq!(out, q.len(), "outputs are shaped like queries");
    assert!(lse.is_none_or(|len| len == rows * heads), "log-sum-exps are [rows, heads]");
    for run in runs {
        assert_eq!(run.strip.layout().head_dim, head_dim, "one head dimension per call");
        assert!(run.head.is_multiple_of(group) && run.head < heads, "head {} of {heads}", run.head);
        assert!(run.rows.start <= run.rows.end && run.rows.end <= rows, "rows {:?} of {rows}", run.rows);
        let slots = run.list.map_or(run.strip.len(), <[u32]>::len);
        assert!(run.first + run.rows.len() <= slots, "rows sit in slots that exist");
        if let Some(list) = run.list {
            assert!(run.window.is_none() && run.rank.is_none(), "a list has neither window nor rank");
            assert!(list.iter().all(|slot| (*slot as usize) < run.strip.len()), "listed slots exist");
        }
        assert!(run.rank.is_none_or(|rope| rope.dims() <= head_dim), "rotated dimensions");
        let (count, end) = (run.rows.len(), run.first + run.rows.len());
        assert!(run.tiles.is_none_or(|mask| mask.covers(group, count, end)), "a mask of the run's shape");
    }
    let mut places: Vec<_> =
        runs.iter().filter(|r| !r.rows.is_empty()).map(|r| (r.head, r.rows.start, r.rows.end)).collect();
    places.sort_unstable();
    let disjoint = places.windows(2).all(|w| w[0].0 != w[1].0 || w[0].2 <= w[1].1);
    assert!(disjoint, "two runs write the same row and head");
    Some(head_dim)
}
