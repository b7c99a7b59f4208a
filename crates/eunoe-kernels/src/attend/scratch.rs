//! Memory of one thread, kept between tasks.

use std::cell::RefCell;

use crate::math::Lanes;

use super::rows::LineMemory;
use super::slots::{Ahead, Buffers, TILE};

/// One cache line, so that vectors do not straddle two.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct CacheLine(#[allow(dead_code, reason = "seen as plain floats or words")] [f32; 16]);

#[derive(Default)]
struct Memory(Vec<CacheLine>);

impl Memory {
    /// `T` is `f32` or `u32`.
    fn get<T: Word>(&mut self, len: usize) -> &mut [T] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, CacheLine([0.0; 16]));
        }
        // SAFETY: `CacheLine` is exactly 16 floats, of which any bits are a `T`; at least `len` are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// Four bytes of which any bits are a value.
trait Word {}
impl Word for f32 {}
impl Word for u32 {}

/// What a task works in.
pub(super) struct Scratch<'a> {
    pub(super) buffers: Buffers<'a>,
    /// Queries of a block.
    pub(super) lines: LineMemory<'a>,
    /// Two more parts as the task asks.
    pub(super) first: &'a mut [f32],
    pub(super) second: &'a mut [f32],
}

/// Calls `work` with this thread's scratch: `lines` query lines of `head_dim`, and parts of `first` and `second`
/// floats. What they hold is left over from earlier tasks.
pub(super) fn with<R>(
    head_dim: usize,
    lines: usize,
    first: usize,
    second: usize,
    work: impl FnOnce(Scratch<'_>) -> R,
) -> R {
    thread_local! {
        static SCRATCH: RefCell<[Memory; 13]> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(
        |[keys, values, key_pairs, value_pairs, weights, sums, staged, turn, rest @ ..]| {
            let [floats, pairs, turn_lines, one, two] = rest;
            let (tile, words) = (TILE * head_dim, lines * head_dim);
            let buffers = Buffers {
                keys: keys.get(tile),
                values: values.get(tile),
                key_pairs: key_pairs.get(tile / 2),
                value_pairs: value_pairs.get(tile / 2),
                weights: weights.get(lines * TILE / 2),
                sums: sums.get(lines * size_of::<Lanes>() / 4).as_chunks_mut().0,
                staged: staged.get(tile),
                turn: turn.get(head_dim),
                ahead: Ahead::new(&[]),
            };
            let lines = LineMemory {
                floats: floats.get(words),
                pairs: pairs.get(words / 2),
                turn: turn_lines.get(head_dim),
            };
            work(Scratch { buffers, lines, first: one.get(first), second: two.get(second) })
        },
    )
}
