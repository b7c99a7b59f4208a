//! Memory of one thread, kept between tasks.

use std::cell::RefCell;

use super::slots::{Buffers, TILE};

/// One cache line, so that vectors do not straddle two.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct CacheLine(#[allow(dead_code, reason = "seen as plain floats")] [f32; 16]);

#[derive(Default)]
struct Floats(Vec<CacheLine>);

impl Floats {
    fn get(&mut self, len: usize) -> &mut [f32] {
        let lines = len.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, CacheLine([0.0; 16]));
        }
        // SAFETY: `CacheLine` is exactly 16 floats, and at least `len` of them are initialised.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), len) }
    }
}

/// What a task works in.
pub(super) struct Scratch<'a> {
    pub(super) buffers: Buffers<'a>,
    /// Scaled queries of a block.
    pub(super) lines: &'a mut [f32],
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
        static SCRATCH: RefCell<[Floats; 7]> = RefCell::default();
    }
    SCRATCH.with_borrow_mut(|[keys, values, staged, turn, queries, one, two]| {
        let tile = TILE * head_dim;
        let buffers = Buffers {
            keys: keys.get(tile),
            values: values.get(tile),
            staged: staged.get(tile),
            turn: turn.get(head_dim),
        };
        let lines = queries.get(lines * head_dim);
        work(Scratch { buffers, lines, first: one.get(first), second: two.get(second) })
    })
}
