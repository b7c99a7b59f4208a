//! One call of `attend`: blocks of rows and partitions of slots over the threads of a pool.

use std::ops::Range;

use crate::isa::Isa;
use crate::pool::{Pool, Shards};
use crate::strip::Strip;

use super::kernels::{partition, peaks};
use super::mask::TileMask;
use super::rows::Rows;
use super::scratch::{self, Scratch};
use super::slots::TILE;
use super::tile::{Base, Block, Lines, PARTITION, Partial};

/// Blocks per thread from which on each is done by one thread: the last ones leave few threads idle.
const BLOCKS_PER_THREAD: usize = 8;

/// Rows of one run; with a mask, for one of its heads.
pub(super) struct Job<'a> {
    pub(super) strip: &'a Strip,
    pub(super) list: Option<&'a [u32]>,
    pub(super) rows: Rows<'a>,
    /// Slot of the first row.
    pub(super) first: usize,
    /// Index of the first row in the call's `[rows, heads]`.
    pub(super) row: usize,
    /// First query head.
    pub(super) head: usize,
    /// With the head's index in it.
    pub(super) mask: Option<(&'a TileMask, usize)>,
}

/// One call of `attend`, checked: jobs write disjoint parts of `out` and `lse`.
pub(super) struct Call<'a> {
    pub(super) isa: Isa,
    pub(super) jobs: Vec<Job<'a>>,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) out: Shards<f32>,
    pub(super) lse: Option<Shards<f32>>,
}

/// Rows of a job that are done at once.
#[derive(Clone)]
struct Task {
    job: usize,
    rows: Range<usize>,
}

impl Call<'_> {
    pub(super) fn run(&self, pool: &Pool) {
        let tasks = self.tasks();
        if pool.threads() == 1 || tasks.len() >= BLOCKS_PER_THREAD * pool.threads() {
            pool.run(tasks.len(), &|i| self.whole_block(&tasks[i]));
        } else {
            self.split(pool, &tasks);
        }
    }

    fn tasks(&self) -> Vec<Task> {
        let mut tasks = Vec::new();
        for (job, Job { rows, .. }) in self.jobs.iter().enumerate() {
            tasks.extend(rows.blocks().map(|rows| Task { job, rows }));
        }
        // Late rows see most: they start first.
        tasks.sort_by_key(|task| std::cmp::Reverse(self.jobs[task.job].first + task.rows.end));
        tasks
    }

    /// The slot of each line's highest score, to `slots`; `out` and `lse` are not touched.
    pub(super) fn arg_max(&self, pool: &Pool, slots: &Shards<u32>) {
        let tasks = self.tasks();
        pool.run(tasks.len(), &|i| {
            let task = &tasks[i];
            let job = &self.jobs[task.job];
            let mut best = vec![(f32::NEG_INFINITY, u32::MAX); self.lines(task)];
            scratch::with(self.head_dim, self.lines(task), 0, 0, |scratch| {
                let Scratch { mut buffers, lines: mut memory, .. } = scratch;
                let block = self.block(task, job.rows.prepare(self.isa, task.rows.clone(), &mut memory));
                for first in (0..job.first + task.rows.end).step_by(TILE) {
                    peaks(self.isa, &block, first, &mut buffers, &mut best);
                }
            });
            for (row, best) in task.rows.clone().zip(best.chunks_exact(job.rows.group)) {
                let at = (job.row + row) * self.heads + job.head;
                // SAFETY: as in `write`.
                let slots = unsafe { slots.part(at, best.len()) };
                slots.iter_mut().zip(best).for_each(|(slot, peak)| *slot = peak.1);
            }
        });
    }

    /// Every partition that the rows see, one after the other.
    fn whole_block(&self, task: &Task) {
        let (lines, floats) = (self.lines(task), self.partial_floats(task));
        scratch::with(self.head_dim, lines, floats, floats, |scratch| {
            let Scratch { mut buffers, lines: mut memory, first, second } = scratch;
            let (mut total, mut part) = (self.partial(task, first), self.partial(task, second));
            total.clear();
            let queries = self.jobs[task.job].rows.prepare(self.isa, task.rows.clone(), &mut memory);
            let block = self.block(task, queries);
            for p in 0..self.partitions(task) {
                partition(self.isa, &block, p, &mut buffers, &mut part);
                total.merge(self.isa, &part);
            }
            self.write(task, &total);
        });
    }

    /// Few blocks for many threads: partitions in parallel, then the same merge.
    fn split(&self, pool: &Pool, tasks: &[Task]) {
        let mut pieces = Vec::new();
        let mut floats = 0;
        for task in tasks {
            for p in 0..self.partitions(task) {
                pieces.push((task, p, floats));
                floats += self.partial_floats(task);
            }
        }
        let mut partials = vec![0.0; floats];
        let shared = Shards::new(&mut partials);
        pool.run(pieces.len(), &|i| {
            let (task, p, at) = pieces[i];
            // SAFETY: each piece has its own part of `partials`, which outlives the loop.
            let memory = unsafe { shared.part(at, self.partial_floats(task)) };
            scratch::with(self.head_dim, self.lines(task), 0, 0, |scratch| {
                let Scratch { mut buffers, lines: mut memory_of_lines, .. } = scratch;
                let rows = &self.jobs[task.job].rows;
                let queries = rows.prepare(self.isa, task.rows.clone(), &mut memory_of_lines);
                let block = self.block(task, queries);
                partition(self.isa, &block, p, &mut buffers, &mut self.partial(task, memory));
            });
        });
        let mut rest = partials.as_mut_slice();
        for task in tasks {
            let (first, after) = rest.split_at_mut(self.partial_floats(task));
            let mut total = self.partial(task, first);
            rest = after;
            for _ in 1..self.partitions(task) {
                let (part, after) = rest.split_at_mut(self.partial_floats(task));
                total.merge(self.isa, &self.partial(task, part));
                rest = after;
            }
            self.write(task, &total);
        }
    }

    fn lines(&self, task: &Task) -> usize {
        task.rows.len() * self.jobs[task.job].rows.group
    }

    fn partial_floats(&self, task: &Task) -> usize {
        Partial::floats(self.lines(task), self.head_dim)
    }

    fn partial<'b>(&self, task: &Task, memory: &'b mut [f32]) -> Partial<'b> {
        Partial::new(memory, self.lines(task), Base::of(self.jobs[task.job].strip.layout().codec.k))
    }

    /// Partitions up to the last row's slot.
    fn partitions(&self, task: &Task) -> usize {
        (self.jobs[task.job].first + task.rows.end).div_ceil(PARTITION)
    }

    fn block<'b>(&'b self, task: &Task, lines: Lines<'b>) -> Block<'b> {
        let Job { strip, list, rows, mask, .. } = &self.jobs[task.job];
        Block {
            list: *list,
            tiles: mask.map(|(mask, head)| mask.row(head, task.rows.start)),
            ..rows.block(strip, &task.rows, lines)
        }
    }

    fn write(&self, task: &Task, total: &Partial<'_>) {
        let (job, d) = (&self.jobs[task.job], self.head_dim);
        for (n, row) in task.rows.clone().enumerate() {
            for h in 0..job.rows.group {
                let at = (job.row + row) * self.heads + job.head + h;
                // SAFETY: `check` found that no two runs share a row and head; blocks of a run share no row, jobs of one
                // no head.
                let out = unsafe { self.out.part(at * d, d) };
                let lse = total.finish(n * job.rows.group + h, out);
                if let Some(all) = &self.lse {
                    // SAFETY: as above.
                    unsafe { all.part(at, 1) }.fill(lse);
                }
            }
        }
    }
}
