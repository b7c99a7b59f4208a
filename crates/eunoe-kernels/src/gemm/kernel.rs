//! The innermost product, per instruction set.

use super::pack::Order;
use super::scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, avx512bf16};
use crate::Isa;

/// A few rows of `a` by a few columns of `b`: `c[rows, cols] = (c or 0) + sum`, where step `k` of row `i` is at
/// `a[i * a_row + k * a_step]`, and step `k` of column `j` at `b[j + k * b_step]`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) depth: usize,
    pub(super) a: *const f32,
    pub(super) a_row: usize,
    pub(super) a_step: usize,
    pub(super) b: *const f32,
    pub(super) b_step: usize,
    pub(super) c: *mut f32,
    pub(super) c_row: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) add: bool,
}

impl Tile {
    /// Whether both operands come from panels, without gaps.
    pub(super) fn is_packed(&self, lanes: usize) -> bool {
        let b_step = self.cols.next_multiple_of(lanes);
        self.a_row == 1 && self.a_step == self.rows && self.b_step == b_step
    }
}

/// Computes a tile.
///
/// # Safety
/// The processor has the instruction set. All of `a`, `b` (columns up to the next multiple of the lanes) and `c` is
/// there, `c` for this call alone; `rows` and `cols` are at least 1 and at most those of the [`Shape`].
pub(super) type Kernel = unsafe fn(&Tile);

/// What a kernel holds in registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Most rows of a tile.
    pub(super) rows: usize,
    /// Columns of one vector.
    pub(super) lanes: usize,
    /// Most columns of a tile.
    pub(super) cols: usize,
}

pub(super) fn shape(isa: Isa) -> Shape {
    match isa {
        Isa::Scalar => scalar::SHAPE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => avx2::SHAPE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => avx512::SHAPE,
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::SHAPE,
    }
}

pub(super) fn kernel(isa: Isa, order: Order) -> Kernel {
    match isa {
        Isa::Scalar => scalar::tile,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 if order == Order::Pairs => avx512bf16::tile,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => avx2::tile,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => avx512::tile,
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::tile,
    }
}
