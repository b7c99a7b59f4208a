//! The kernels in plain Rust.

use super::dots::{self, Search};
use super::form::Scalar;
use super::slots::{Buffers, TILE};
use super::tile::{self, Block, Partial, Peak, Update};

pub(super) fn partition(block: &Block<'_>, part: usize, buffers: &mut Buffers<'_>, out: &mut Partial<'_>) {
    tile::partition::<_, 1, 1>(Scalar, block, part, buffers, out);
}

pub(super) fn columns(
    block: &Block<'_>,
    first: usize,
    update: Update<'_>,
    buffers: &mut Buffers<'_>,
    columns: &mut [f32; TILE],
) {
    tile::columns::<_, 1, 1>(Scalar, block, first, update, buffers, columns);
}

pub(super) fn peaks(block: &Block<'_>, first: usize, buffers: &mut Buffers<'_>, best: &mut [Peak]) {
    tile::peaks::<_, 1, 1>(Scalar, block, first, buffers, best);
}

/// # Safety
/// As `dots::products`.
pub(super) unsafe fn dots(search: &Search<'_>, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { dots::products(Scalar, search, out) }
}
