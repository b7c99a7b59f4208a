//! The second pass: attention mass per slot, for policies that ask.

use std::ops::Range;

use eunoe_core::Fold;

use crate::isa::Isa;
use crate::pool::{Pool, Shards};
use crate::rope::Rope;
use crate::strip::{SlotLayout, Strip, column_of};

use super::Heads;
use super::kernels::{columns, partition};
use super::rows::{Queries, Rows, Sight};
use super::scratch::{self, Scratch};
use super::slots::TILE;
use super::tile::{Base, PARTITION, Partial, Update};

/// Slots of one task: its columns are touched by no other.
const TASK_SLOTS: usize = 4 * TILE;

/// What a row does to the mass of the slots that it sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Factor on the mass that is there.
    pub decay: f32,
    /// How the heads of the group fold.
    pub fold: Fold,
}

/// Rows whose attention mass goes to the columns of their strip; as [`super::Run`], after `attend` gave `lse`.
pub struct RecordRun<'a> {
    /// Slots with a column.
    pub strip: &'a mut Strip,
    /// Rows of `q` and `lse`.
    pub rows: Range<usize>,
    /// Slot of the first row.
    pub first: usize,
    /// First query head of the group.
    pub head: usize,
    /// As in `attend`.
    pub window: Option<u32>,
    /// As in `attend`.
    pub rank: Option<&'a Rope>,
}

/// For each row in order and each slot j that it sees:
/// `column[j] = decay · column[j] + fold over the group of exp(score - lse)`. `q` is `[rows, heads, head_dim]`,
/// `lse` `[rows, heads]` as `attend` gave it.
///
/// # Panics
/// When sizes disagree, a row's slot does not exist, or a strip has no columns.
pub fn record(
    isa: Isa,
    pool: &Pool,
    runs: &mut [RecordRun<'_>],
    shape: Heads,
    q: &[f32],
    lse: &[f32],
    rule: Rule,
) {
    let Heads { heads, group, .. } = shape;
    assert!(group > 0 && heads.is_multiple_of(group), "{heads} heads in groups of {group}");
    let mut sweeps = Vec::new();
    for run in runs.iter_mut().filter(|run| !run.rows.is_empty()) {
        let sweep = Sweep::new(isa, run, shape, q, lse, rule);
        sweeps.push((sweep, Shards::new(run.strip.slots_mut(0))));
    }
    let mut tasks = Vec::new();
    for (n, (sweep, _)) in sweeps.iter().enumerate() {
        tasks.extend((0..sweep.end()).step_by(TASK_SLOTS).map(|first| (n, first)));
    }
    pool.run(tasks.len(), &|i| {
        let (n, first) = tasks[i];
        let (sweep, strip) = &sweeps[n];
        let size = sweep.layout.bytes();
        let len = (sweep.end() - first).min(TASK_SLOTS);
        // SAFETY: runs borrow different strips, and tasks of a run are different slots.
        sweep.update(unsafe { strip.part(first * size, len * size) }, first);
    });
}

/// Rows on their way over the slots that they see.
struct Sweep<'a> {
    isa: Isa,
    rows: Rows<'a>,
    /// `[rows, group]`.
    lse: Vec<f32>,
    layout: SlotLayout,
    rule: Rule,
}

impl<'a> Sweep<'a> {
    fn new(isa: Isa, run: &RecordRun<'a>, shape: Heads, q: &'a [f32], lse: &[f32], rule: Rule) -> Self {
        let (layout, Heads { heads, group, scale }) = (run.strip.layout(), shape);
        let stride = heads * layout.head_dim;
        assert!(layout.column, "slots without a column");
        assert!(run.head.is_multiple_of(group) && run.head < heads, "head {} of {heads}", run.head);
        assert!(run.rows.end * stride <= q.len() && run.rows.end * heads <= lse.len(), "rows of q and lse");
        assert!(run.first + run.rows.len() <= run.strip.len(), "rows sit in slots that exist");
        assert!(run.rank.is_none_or(|rope| rope.dims() <= layout.head_dim), "rotated dimensions");
        let q = &q[run.rows.start * stride + run.head * layout.head_dim..];
        let queries = Queries { q, stride, group, scale };
        let rows = Rows::in_slots(run.strip, run.first, run.rows.len(), run.window, run.rank, queries);
        let lse = run.rows.clone().flat_map(|row| &lse[row * heads + run.head..][..group]).copied().collect();
        Self { isa, rows, lse, layout, rule }
    }

    /// Updates the columns of the slots from `first` on, whose bytes are `slots`.
    fn update(&self, slots: &mut [u8], first: usize) {
        let (size, at) = (self.layout.bytes(), self.layout.column_at());
        let mut mass = [0.0; TASK_SLOTS];
        for (mass, slot) in mass.iter_mut().zip(slots.chunks_exact(size)) {
            *mass = column_of(slot, self.layout);
        }
        self.fold_into(slots, first, &mut mass);
        for (mass, slot) in mass.iter().zip(slots.chunks_exact_mut(size)) {
            slot[at..at + 4].copy_from_slice(&mass.to_ne_bytes());
        }
    }

    /// The first slot that no row sees.
    fn end(&self) -> usize {
        self.rows.sights.iter().map(|sight| sight.end).max().unwrap_or(0)
    }

    /// Folds every row, in order, into the mass of the slots from `first` on, whose bytes are `slots`.
    fn fold_into(&self, slots: &[u8], first: usize, mass: &mut [f32; TASK_SLOTS]) {
        let (group, d) = (self.rows.group, self.rows.head_dim);
        let end = first + slots.len() / self.layout.bytes();
        for rows in self.rows.blocks() {
            scratch::with(d, rows.len() * group, 0, 0, |scratch| {
                let Scratch { mut buffers, lines: mut memory, .. } = scratch;
                let lines = self.rows.prepare(self.isa, rows.clone(), &mut memory);
                let block = self.rows.block_of(slots, first, self.layout, &rows, lines);
                let lse = &self.lse[rows.start * group..rows.end * group];
                let update = Update { lse, decay: self.rule.decay, fold_max: self.rule.fold == Fold::Max };
                for (at, mass) in (first..end).step_by(TILE).zip(mass.as_chunks_mut().0) {
                    columns(self.isa, &block, at, update, &mut buffers, mass);
                }
            });
        }
    }
}

/// Query rows, as a rule the last of a text, that look over a whole strip.
pub struct LastRows<'a> {
    /// The slots that are left.
    pub strip: &'a Strip,
    /// `[rows, group, head_dim]`, rotated at their own positions.
    pub q: &'a [f32],
    /// Position of each row; it sees the slots with a position up to its own.
    pub pos: &'a [u32],
    /// Factor on scores.
    pub scale: f32,
    /// How the heads of the group fold.
    pub fold: Fold,
    /// Positions are slot indices; a row's rank is the number of slots that it sees, less one.
    pub rank: Option<&'a Rope>,
}

/// The mass of each slot: softmax over the slots that a row sees, folded over the group, summed over rows. `out` has
/// one value per slot.
///
/// # Panics
/// When sizes disagree.
pub fn last_rows(isa: Isa, pool: &Pool, last: &LastRows<'_>, out: &mut [f32]) {
    let (strip, layout) = (last.strip, last.strip.layout());
    assert_eq!(out.len(), strip.len(), "one mass per slot");
    assert!(last.rank.is_none_or(|rope| rope.dims() <= layout.head_dim), "rotated dimensions");
    out.fill(0.0);
    if last.pos.is_empty() || strip.is_empty() {
        assert!(last.q.is_empty() || strip.is_empty(), "queries without positions");
        return;
    }
    let stride = last.q.len() / last.pos.len();
    let group = stride / layout.head_dim;
    assert!(group > 0, "queries are [rows, group, head_dim]");
    assert_eq!(last.q.len(), last.pos.len() * group * layout.head_dim, "queries are [rows, group, head_dim]");
    let mut positions = Vec::with_capacity(strip.len());
    strip.positions(&mut positions);
    let rank_of = |pos: u32| positions.iter().filter(|p| **p <= pos).count() as i64 - 1;
    let rows = Rows {
        q: last.q,
        stride,
        codec: layout.codec.k,
        head_dim: layout.head_dim,
        group,
        scale: last.scale,
        sights: last.pos.iter().map(|&high| Sight { end: strip.len(), low: 0, high }).collect(),
        rank: last.rank,
        moves: last.pos.iter().map(|&p| rank_of(p) - i64::from(p)).collect(),
    };
    let lse = log_sum_exp(isa, pool, strip, &rows);
    let sweep = Sweep { isa, rows, lse, layout, rule: Rule { decay: 1.0, fold: last.fold } };
    let (shared, slots, size) = (Shards::new(out), strip.slots(), layout.bytes());
    pool.run(strip.len().div_ceil(TASK_SLOTS), &|i| {
        let first = i * TASK_SLOTS;
        let len = (strip.len() - first).min(TASK_SLOTS);
        let mut mass = [0.0; TASK_SLOTS];
        sweep.fold_into(&slots[first * size..(first + len) * size], first, &mut mass);
        // SAFETY: tasks are different slots, and `out` outlives the loop.
        unsafe { shared.part(first, len) }.copy_from_slice(&mass[..len]);
    });
}

/// `[rows, group]`: partials per block and partition, merged in ascending order.
fn log_sum_exp(isa: Isa, pool: &Pool, strip: &Strip, rows: &Rows<'_>) -> Vec<f32> {
    let (group, parts) = (rows.group, strip.len().div_ceil(PARTITION));
    let base = Base::of(strip.layout().codec.k);
    let mut partials = vec![0.0; parts * Partial::floats(rows.len() * group, 0)];
    let shared = Shards::new(&mut partials);
    let pieces: Vec<_> = rows.blocks().flat_map(|b| (0..parts).map(move |part| (b.clone(), part))).collect();
    pool.run(pieces.len(), &|i| {
        let (block, part) = pieces[i].clone();
        let lines = block.len() * group;
        let at = Partial::floats((parts * block.start + part * block.len()) * group, 0);
        // SAFETY: blocks lie one after the other, their partitions within them; `partials` outlives the loop.
        let memory = unsafe { shared.part(at, Partial::floats(lines, 0)) };
        scratch::with(rows.head_dim, lines, 0, 0, |scratch| {
            let Scratch { mut buffers, lines: mut memory_of_lines, .. } = scratch;
            let queries = rows.prepare(isa, block.clone(), &mut memory_of_lines);
            let block = rows.block(strip, &block, queries);
            partition(isa, &block, part, &mut buffers, &mut Partial::new(memory, lines, base));
        });
    });
    let mut lse = Vec::with_capacity(rows.len() * group);
    let mut rest = partials.as_mut_slice();
    for block in rows.blocks() {
        let lines = block.len() * group;
        let mut total = vec![0.0; Partial::floats(lines, 0)];
        let mut total = Partial::new(&mut total, lines, base);
        total.clear();
        for _ in 0..parts {
            let (part, after) = rest.split_at_mut(Partial::floats(lines, 0));
            total.merge(isa, &Partial::new(part, lines, base));
            rest = after;
        }
        lse.extend((0..lines).map(|line| total.finish(line, &mut [])));
    }
    lse
}
