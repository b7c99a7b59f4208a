//! Plain Rust: the reference.

use super::kernel::{Shape, Tile};

const ROWS: usize = 6;
const COLS: usize = 16;
pub(super) const SHAPE: Shape = Shape { rows: ROWS, lanes: 8, cols: COLS };

/// As `kernel::Kernel` says.
///
/// # Safety
/// As there.
pub(super) unsafe fn tile(t: &Tile) {
    let mut sums = [[0.0f32; COLS]; ROWS];
    for k in 0..t.depth {
        for i in 0..t.rows {
            // SAFETY: row `i` and step `k` are there, by the caller's promise.
            let left = unsafe { *t.a.add(i * t.a_row + k * t.a_step) };
            for j in 0..t.cols {
                // SAFETY: as above for column `j`.
                let right = unsafe { *t.b.add(j + k * t.b_step) };
                sums[i][j] = left.mul_add(right, sums[i][j]);
            }
        }
    }
    for i in 0..t.rows {
        for j in 0..t.cols {
            // SAFETY: element (i, j) is there for this call alone.
            let out = unsafe { &mut *t.c.add(i * t.c_row + j) };
            *out = if t.add { *out + sums[i][j] } else { sums[i][j] };
        }
    }
}
