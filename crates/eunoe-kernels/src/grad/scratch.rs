//! Memory of one thread, kept between tasks.

use std::cell::RefCell;

/// Floats of one cache line: parts start at one, so that vectors do not straddle two.
const LINE: usize = 16;

/// Calls `work` with this thread's memory in parts of the given lengths. What they hold is left over from earlier
/// tasks.
pub(super) fn with<const N: usize, R>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out, so that a task which runs inside another one finds none and makes its own.
    let mut memory = SCRATCH.take();
    let len = LINE + lens.iter().map(|len| len.next_multiple_of(LINE)).sum::<usize>();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    if cfg!(test) {
        memory.fill(f32::NAN);
    }
    let skip = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let mut rest = &mut memory[skip..];
    let result = work(lens.map(|len| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(LINE));
        rest = after;
        &mut part[..len]
    }));
    SCRATCH.set(memory);
    result
}

#[cfg(test)]
mod tests {
    #[test]
    fn parts_are_apart_and_aligned_and_tasks_nest() {
        super::with([3, 0, 17], |[a, b, c]| {
            assert_eq!((a.len(), b.len(), c.len()), (3, 0, 17));
            a.fill(1.0);
            c.fill(2.0);
            super::with([40], |[d]| d.fill(3.0));
            assert!(a == [1.0; 3] && c == [2.0; 17]);
            assert!([a.as_ptr(), c.as_ptr()].iter().all(|at| at.align_offset(64) == 0));
        });
    }
}
