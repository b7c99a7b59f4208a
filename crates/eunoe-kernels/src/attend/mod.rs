//! Attention of query rows over strips, exact, in tiles with an online softmax; and the mass that it puts on slots.
//!
//! The bits of a row's output depend only on its query, its slot and the slots that it sees: not on the rows that
//! come in the same call, the number of threads, batch mates or the instruction set. Hence:
//! * tiles of 64 and partitions of 1024 slots lie at fixed slot indices; partials of partitions are merged in
//!   ascending order, whoever computed them;
//! * a score is one chain of fused steps over d, an output value one chain over the slots of a tile;
//! * a slot that a row does not see is never multiplied for it, and a tile or partition without any is a no-op.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod form;
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

pub use eunoe_core::Fold;
pub use mass::{LastRows, RecordRun, Rule, last_rows, record};

use rows::{Queries, Rows};
use scratch::Scratch;
use slots::{Buffers, TILE};
use tile::{Block, PARTITION, Partial, Update};

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
    let stride = shape.heads * head_dim;
    let prepared: Vec<Rows<'_>> = runs
        .iter()
        .map(|run| {
            let q = &q[run.rows.start * stride + run.head * head_dim..];
            let queries = Queries { q, stride, group: shape.group, scale: shape.scale };
            Rows::in_slots(run.strip, run.first, run.rows.len(), run.window, run.rank, queries)
        })
        .collect();
    let mut tasks = Vec::new();
    for (run, rows) in prepared.iter().enumerate() {
        let step = rows.block_rows();
        tasks.extend((0..rows.len()).step_by(step).map(|r| (run, r..(r + step).min(rows.len()))));
    }
    // Late rows see most: they start first.
    tasks.sort_by_key(|(run, rows)| std::cmp::Reverse(runs[*run].first + rows.end));
    let call = Call {
        isa,
        runs,
        rows: &prepared,
        shape,
        head_dim,
        out: Shards::new(out),
        lse: lse.map(Shards::new),
    };
    if pool.threads() == 1 || tasks.len() >= 2 * pool.threads() {
        pool.run(tasks.len(), &|i| call.whole_block(tasks[i].0, tasks[i].1.clone()));
    } else {
        call.split(pool, &tasks);
    }
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
        assert!(run.first + run.rows.len() <= run.strip.len(), "rows sit in slots that exist");
        assert!(run.rank.is_none_or(|rope| rope.dims() <= head_dim), "rotated dimensions");
    }
    let mut places: Vec<_> =
        runs.iter().filter(|r| !r.rows.is_empty()).map(|r| (r.head, r.rows.start, r.rows.end)).collect();
    places.sort_unstable();
    let disjoint = places.windows(2).all(|w| w[0].0 != w[1].0 || w[0].2 <= w[1].1);
    assert!(disjoint, "two runs write the same row and head");
    Some(head_dim)
}

/// One call of `attend`, checked: runs write disjoint parts of `out` and `lse`.
struct Call<'a> {
    isa: Isa,
    runs: &'a [Run<'a>],
    rows: &'a [Rows<'a>],
    shape: Heads,
    head_dim: usize,
    out: Shards<f32>,
    lse: Option<Shards<f32>>,
}

impl Call<'_> {
    /// Every partition that the rows see, one after the other.
    fn whole_block(&self, run: usize, rows: Range<usize>) {
        let lines = rows.len() * self.shape.group;
        let floats = Partial::floats(lines, self.head_dim);
        scratch::with(self.head_dim, lines, floats, floats, |scratch| {
            let Scratch { mut buffers, lines: queries, first, second } = scratch;
            let (mut total, mut part) = (Partial::new(first, lines), Partial::new(second, lines));
            total.clear();
            self.rows[run].prepare(rows.clone(), buffers.turn, queries);
            let block = self.block(run, rows.clone(), queries);
            for p in 0..self.partitions(run, &rows) {
                partition(self.isa, &block, p, &mut buffers, &mut part);
                total.merge(&part);
            }
            self.write(run, rows, &total);
        });
    }

    /// Few blocks for many threads: partitions in parallel, then the same merge.
    fn split(&self, pool: &Pool, tasks: &[(usize, Range<usize>)]) {
        let mut pieces = Vec::new();
        let mut floats = 0;
        for (run, rows) in tasks {
            for p in 0..self.partitions(*run, rows) {
                pieces.push((*run, rows.clone(), p, floats));
                floats += self.partial_floats(rows);
            }
        }
        let mut partials = vec![0.0; floats];
        let shared = Shards::new(&mut partials);
        pool.run(pieces.len(), &|i| {
            let (run, rows, p, at) = pieces[i].clone();
            let lines = rows.len() * self.shape.group;
            // SAFETY: each piece has its own part of `partials`, which outlives the loop.
            let memory = unsafe { shared.part(at, self.partial_floats(&rows)) };
            scratch::with(self.head_dim, lines, 0, 0, |scratch| {
                let Scratch { mut buffers, lines: queries, .. } = scratch;
                self.rows[run].prepare(rows.clone(), buffers.turn, queries);
                let block = self.block(run, rows, queries);
                partition(self.isa, &block, p, &mut buffers, &mut Partial::new(memory, lines));
            });
        });
        let mut rest = partials.as_mut_slice();
        for (run, rows) in tasks {
            let lines = rows.len() * self.shape.group;
            let mut total = vec![0.0; self.partial_floats(rows)];
            let mut total = Partial::new(&mut total, lines);
            total.clear();
            for _ in 0..self.partitions(*run, rows) {
                let (part, after) = rest.split_at_mut(self.partial_floats(rows));
                total.merge(&Partial::new(part, lines));
                rest = after;
            }
            self.write(*run, rows.clone(), &total);
        }
    }

    fn partial_floats(&self, rows: &Range<usize>) -> usize {
        Partial::floats(rows.len() * self.shape.group, self.head_dim)
    }

    /// Partitions up to the last row's slot.
    fn partitions(&self, run: usize, rows: &Range<usize>) -> usize {
        (self.runs[run].first + rows.end).div_ceil(PARTITION)
    }

    fn block<'b>(&'b self, run: usize, rows: Range<usize>, lines: &'b [f32]) -> Block<'b> {
        let (strip, prepared) = (self.runs[run].strip, &self.rows[run]);
        let (sights, rank) = (&prepared.sights[rows], prepared.rank);
        let (slots, layout) = (strip.slots(), strip.layout());
        Block { slots, base: 0, layout, lines, group: self.shape.group, sights, rank }
    }

    fn write(&self, run: usize, rows: Range<usize>, total: &Partial<'_>) {
        let (group, d, run) = (self.shape.group, self.head_dim, &self.runs[run]);
        for (n, row) in rows.enumerate() {
            for h in 0..group {
                let at = (run.rows.start + row) * self.shape.heads + run.head + h;
                // SAFETY: `check` found that no two runs share a row and head; blocks of a run share no row.
                let out = unsafe { self.out.part(at * d, d) };
                let lse = total.finish(n * group + h, out);
                if let Some(all) = &self.lse {
                    // SAFETY: as above.
                    unsafe { all.part(at, 1) }.fill(lse);
                }
            }
        }
    }
}

fn partition(isa: Isa, block: &Block<'_>, part: usize, buffers: &mut Buffers<'_>, out: &mut Partial<'_>) {
    match isa {
        Isa::Scalar => scalar::partition(block, part, buffers, out),
        // SAFETY: vector variants of `Isa` are only made where the processor has them.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::partition(block, part, buffers, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512::partition(block, part, buffers, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::partition(block, part, buffers, out),
    }
}

fn columns(
    isa: Isa,
    block: &Block<'_>,
    first: usize,
    update: Update<'_>,
    buffers: &mut Buffers<'_>,
    out: &mut [f32; TILE],
) {
    match isa {
        Isa::Scalar => scalar::columns(block, first, update, buffers, out),
        // SAFETY: vector variants of `Isa` are only made where the processor has them.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::columns(block, first, update, buffers, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512::columns(block, first, update, buffers, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::columns(block, first, update, buffers, out),
    }
}
