//! A product cut into blocks that caches hold: parts of `k`, in them some columns of `b`, in them some rows of `a`.

use super::batch::{self, Level};
use super::kernel::{Kernel, Shape, Tile, kernel, shape};
use super::pack::Element;
use super::side::Side;
use super::view::{Mat, Out};
use crate::memory::Memory;
use crate::{Isa, Pool};
use eunoe_core::{Error, Result};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

/// Most steps of a part of `k`: a panel of `b` stays in the first-level cache. The same for all instruction sets, since
/// sums are those of parts.
const MOST_STEPS: usize = 256;
/// Parts are multiples of this, the steps of the largest square that packing turns.
const STEPS: usize = 32;
/// Most columns of `b` that are packed at a time.
const MOST_COLS: usize = 2048;
/// Most rows of `a` that are packed at a time when several threads share them.
const MOST_ROWS: usize = 2048;
/// Most rows of a task: with the steps of a part they take a part of the second-level cache.
const TASK_ROWS: usize = 96;
/// Multiply-adds from which several threads are worth waking.
const LEAST_SHARED: usize = 1 << 18;
/// Multiply-adds of the smallest task of a product.
const LEAST_TASK: usize = 1 << 17;
/// Values that a thread packs at least before it looks for more to do.
const LEAST_PACKED: usize = 1 << 14;

/// Where one product of a batch begins, in elements after the first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Offsets {
    pub(super) a: usize,
    pub(super) b: usize,
    pub(super) out: usize,
}

/// Products whose sizes were checked.
pub(super) struct Product<'a, T> {
    isa: Isa,
    a: Mat<'a, T>,
    b: Mat<'a, T>,
    out: *mut f32,
    out_row: usize,
    add: bool,
    /// How many there are; this is the first.
    pub(super) count: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: `out` is written by `run` alone, which takes the product; who makes several of one promises (`at`) that no two
// are the same.
unsafe impl<T: Element> Sync for Product<'_, T> {}

impl<'a, T: Element> Product<'a, T> {
    pub(super) fn new(
        isa: Isa,
        a: Mat<'a, T>,
        b: Mat<'a, T>,
        out: Out<'a>,
        levels: &[Level],
    ) -> Result<Self> {
        if a.cols != b.rows {
            return Err(Error::shape("rows of the right operand", a.cols, b.rows));
        }
        let count = batch::count(levels)?;
        out.check(a.rows, b.cols, levels)?;
        a.check_levels("left operands", levels.iter().map(|l| (l.count, l.a)))?;
        b.check_levels("right operands", levels.iter().map(|l| (l.count, l.b)))?;
        let (out_row, add, out) = (out.row_stride, out.add, out.data.as_mut_ptr());
        Ok(Self { isa, a, b, out, out_row, add, count, borrowed: PhantomData })
    }

    /// One of the products.
    ///
    /// # Safety
    /// The offsets are those of a product that no other thread has.
    pub(super) unsafe fn at(&self, at: Offsets) -> Self {
        let a = Mat { data: self.a.data.get(at.a..).unwrap_or(&[]), ..self.a };
        let b = Mat { data: self.b.data.get(at.b..).unwrap_or(&[]), ..self.b };
        // An output without elements may lie past the end.
        Self { a, b, out: self.out.wrapping_add(at.out), count: 1, ..*self }
    }

    /// Multiply-adds.
    pub(super) fn work(&self) -> usize {
        self.a.rows.saturating_mul(self.a.cols).saturating_mul(self.b.cols)
    }

    /// Computes the product, by all threads of the pool or by this one.
    pub(super) fn run(self, pool: Option<&Pool>) {
        let pool = pool.filter(|pool| pool.threads() > 1 && self.work() >= LEAST_SHARED);
        let (rows, depth, cols) = (self.a.rows, self.a.cols, self.b.cols);
        if rows == 0 || cols == 0 || depth == 0 {
            self.clear();
            return;
        }
        let (order, shape) = (T::order(self.isa), shape(self.isa));
        let most_rows = if pool.is_some() { MOST_ROWS } else { TASK_ROWS };
        with_scratch(|[a_memory, b_memory]| {
            for cols in pieces(cols, MOST_COLS, shape.cols) {
                for steps in pieces(depth, MOST_STEPS, STEPS) {
                    let b = Side::new(self.b.t(), cols.clone(), steps.clone(), shape.cols, shape.lanes);
                    let b = b.placed(order, b_memory);
                    for rows in pieces(rows, most_rows, shape.rows) {
                        let height = rows.len().div_ceil(rows.len().div_ceil(shape.rows));
                        let a = Side::new(self.a, rows.clone(), steps.clone(), height, 1);
                        let a = a.placed(order, a_memory);
                        pack(pool, self.isa, &a, if rows.start == 0 { Some(&b) } else { None });
                        let block = Block {
                            a: &a,
                            b: &b,
                            kernel: kernel(self.isa, order),
                            depth: order.words(steps.len()),
                            out: self.out.wrapping_add(rows.start * self.out_row + cols.start),
                            out_row: self.out_row,
                            add: self.add || steps.start > 0,
                        };
                        block.run(pool, shape);
                    }
                }
            }
        });
    }

    /// A product over no steps is 0.
    fn clear(&self) {
        if self.add || self.b.cols == 0 {
            return;
        }
        for i in 0..self.a.rows {
            // SAFETY: row `i` is there, for this call alone.
            unsafe { std::slice::from_raw_parts_mut(self.out.add(i * self.out_row), self.b.cols) }.fill(0.0);
        }
    }
}

/// `0..len` in as few pieces of at most `most` as there can be, about equal, multiples of `unit`.
fn pieces(len: usize, most: usize, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let each = len.div_ceil(len.div_ceil(most).max(1)).next_multiple_of(unit).max(1);
    (0..len).step_by(each).map(move |start| start..len.min(start + each))
}

/// Calls `work` with this thread's memory for `a` and `b`.
fn with_scratch(work: impl FnOnce(&mut [Memory; 2])) {
    thread_local! {
        static SCRATCH: Cell<[Memory; 2]> = Cell::default();
    }
    let mut scratch = SCRATCH.take();
    work(&mut scratch);
    SCRATCH.set(scratch);
}

fn each(pool: Option<&Pool>, tasks: usize, work: impl Fn(usize) + Sync) {
    match pool {
        Some(pool) => pool.run(tasks, &work),
        None => (0..tasks).for_each(work),
    }
}

/// Packs what is not read in place.
fn pack<T: Element>(pool: Option<&Pool>, isa: Isa, a: &Side<'_, T>, b: Option<&Side<'_, T>>) {
    let sides = [Some(a), b].map(|side| side.filter(|side| side.is_packed()));
    let least = if pool.is_some() { LEAST_PACKED } else { usize::MAX };
    let tasks = sides.map(|side| side.map_or(0, |side| side.panels().div_ceil(side.panels_of(least))));
    each(pool, tasks[0] + tasks[1], |task| {
        let (side, task) = if task < tasks[0] { (sides[0], task) } else { (sides[1], task - tasks[0]) };
        let Some(side) = side else { return };
        let step = side.panels_of(least);
        // SAFETY: each panel is one task's, and nobody reads before the loop has ended.
        unsafe { side.pack(isa, task * step..side.panels().min((task + 1) * step)) };
    });
}

/// Panels of `a` and `b`, and where their products go.
struct Block<'a, T> {
    a: &'a Side<'a, T>,
    b: &'a Side<'a, T>,
    kernel: Kernel,
    depth: usize,
    out: *mut f32,
    out_row: usize,
    add: bool,
}

// SAFETY: tasks write tiles of their own.
unsafe impl<T: Element> Sync for Block<'_, T> {}

impl<T: Element> Block<'_, T> {
    fn run(&self, pool: Option<&Pool>, shape: Shape) {
        let (rows, cols) = (self.a.panels(), self.b.panels());
        let tall = TASK_ROWS.div_ceil(shape.rows).min(rows);
        let work = rows * cols * shape.rows * shape.cols * self.depth;
        let most = pool.map_or(1, |pool| (4 * pool.threads()).min(work / LEAST_TASK).max(1));
        let down = rows.div_ceil(tall);
        let wide = cols.div_ceil(most.div_ceil(down).min(cols));
        let across = cols.div_ceil(wide);
        each(pool, down * across, |task| {
            let (i, j) = (task / across * tall, task % across * wide);
            // SAFETY: panels of a task meet in no other one.
            unsafe { self.tiles(i..rows.min(i + tall), j..cols.min(j + wide)) };
        });
    }

    /// # Safety
    /// All panels are packed, and no other thread has one of these tiles.
    unsafe fn tiles(&self, rows: Range<usize>, cols: Range<usize>) {
        for j in cols {
            let b = self.b.panel(j);
            for i in rows.clone() {
                let a = self.a.panel(i);
                let c = self.out.wrapping_add(a.first * self.out_row + b.first);
                let tile = Tile {
                    depth: self.depth,
                    a: a.words,
                    a_row: a.lane,
                    a_step: a.step,
                    b: b.words,
                    b_step: b.step,
                    c,
                    c_row: self.out_row,
                    rows: a.lanes,
                    cols: b.lanes,
                    add: self.add,
                };
                // SAFETY: `Isa` proves the instruction set; sides give panels as the kernel wants them; `Product::new`
                // has checked that all of the output is there.
                unsafe { (self.kernel)(&tile) };
            }
        }
    }
}
