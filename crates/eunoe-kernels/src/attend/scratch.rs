//! Memory of one thread, kept between tasks.

use std::cell::RefCell;

use eunoe_core::Codec;

use crate::math::Lanes;
use crate::memory::Memory;
use crate::strip::SlotLayout;

use super::rows::LineMemory;
use super::slots::{Ahead, Buffers, TILE};

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
        static SCRATCH: RefCell<[Memory; 14]> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(
        |[keys, values, key_pairs, value_pairs, weights, sums, staged, turn, gathered, rest @ ..]| {
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
                gathered: gathered
                    .get(TILE * SlotLayout { codec: Codec::F32.into(), head_dim, column: true }.bytes()),
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
