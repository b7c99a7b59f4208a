//! The kernels as compiled for each instruction set.

use crate::isa::Isa;

use super::dots::Search;
use super::scalar;
use super::slots::{Buffers, TILE};
use super::tile::{Block, Partial, Peak, Update};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, avx512bf16};

pub(super) fn partition(
    isa: Isa,
    block: &Block<'_>,
    part: usize,
    buffers: &mut Buffers<'_>,
    out: &mut Partial<'_>,
) {
    match isa {
        Isa::Scalar => scalar::partition(block, part, buffers, out),
        // SAFETY: vector variants of `Isa` are only made where the processor has them.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::partition(block, part, buffers, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::partition(block, part, buffers, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { avx512bf16::partition(block, part, buffers, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::partition(block, part, buffers, out),
    }
}

pub(super) fn columns(
    isa: Isa,
    block: &Block<'_>,
    first: usize,
    update: Update<'_>,
    buffers: &mut Buffers<'_>,
    out: &mut [f32; TILE],
) {
    match isa {
        Isa::Scalar => scalar::columns(block, first, update, buffers, out),
        // SAFETY: vector variants of `Isa` are only made where the processor has them.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::columns(block, first, update, buffers, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::columns(block, first, update, buffers, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { avx512bf16::columns(block, first, update, buffers, out) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::columns(block, first, update, buffers, out),
    }
}

pub(super) fn peaks(isa: Isa, block: &Block<'_>, first: usize, buffers: &mut Buffers<'_>, best: &mut [Peak]) {
    match isa {
        Isa::Scalar => scalar::peaks(block, first, buffers, best),
        // SAFETY: vector variants of `Isa` are only made where the processor has them.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => unsafe { avx2::peaks(block, first, buffers, best) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::peaks(block, first, buffers, best) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => unsafe { avx512bf16::peaks(block, first, buffers, best) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => scalar::peaks(block, first, buffers, best),
    }
}

/// # Safety
/// As `dots::products`.
pub(super) unsafe fn dots(isa: Isa, search: &Search<'_>, out: &mut [f32]) {
    // SAFETY: vector variants of `Isa` are only made where the processor has them; the rest is the caller's promise.
    unsafe {
        match isa {
            Isa::Scalar => scalar::dots(search, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => avx2::dots(search, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => avx512::dots(search, out),
            #[cfg(not(target_arch = "x86_64"))]
            _ => scalar::dots(search, out),
        }
    }
}
