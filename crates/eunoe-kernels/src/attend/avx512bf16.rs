//! The kernels compiled for AVX-512 with BF16.

use std::arch::x86_64::*;

use crate::math::Lanes;

use super::avx512::Avx512;
use super::bf16::Pairs;
use super::form::Form;
use super::slots::{Buffers, TILE};
use super::tile::{self, Block, Partial, Peak, Update};

/// Made only inside functions that enable AVX-512 and BF16.
#[derive(Clone, Copy)]
struct Avx512Bf16(Avx512);

impl Form for Avx512Bf16 {
    #[inline(always)]
    fn halves(self, halves: &[u8; 32]) -> Lanes {
        self.0.halves(halves)
    }

    #[inline(always)]
    fn bytes(self, bytes: &[i8; 16]) -> Lanes {
        self.0.bytes(bytes)
    }

    #[inline(always)]
    fn transpose(self, rows: [Lanes; 16]) -> [Lanes; 16] {
        self.0.transpose(rows)
    }

    #[inline(always)]
    fn round(self, low: Lanes, high: Lanes) -> Pairs {
        // SAFETY: `self` proves BF16; a vector is 16 floats or 16 pairs.
        unsafe {
            let low = std::mem::transmute::<Lanes, __m512>(low);
            let high = std::mem::transmute::<Lanes, __m512>(high);
            std::mem::transmute::<__m512bh, Pairs>(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    #[inline(always)]
    fn interleave(self, low: Pairs, high: Pairs) -> [Pairs; 2] {
        self.0.interleave(low, high)
    }

    #[inline(always)]
    fn dot2(self, acc: Lanes, a: Pairs, b: Pairs) -> Lanes {
        // SAFETY: `self` proves BF16; a vector is 16 floats or 16 pairs.
        unsafe {
            let a = std::mem::transmute::<Pairs, __m512bh>(a);
            let b = std::mem::transmute::<Pairs, __m512bh>(b);
            let acc = std::mem::transmute::<Lanes, __m512>(acc);
            std::mem::transmute::<__m512, Lanes>(_mm512_dpbf16_ps(acc, a, b))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
pub(super) fn partition(block: &Block<'_>, part: usize, buffers: &mut Buffers<'_>, out: &mut Partial<'_>) {
    tile::partition::<_, 4, 4>(Avx512Bf16(Avx512(())), block, part, buffers, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
pub(super) fn columns(
    block: &Block<'_>,
    first: usize,
    update: Update<'_>,
    buffers: &mut Buffers<'_>,
    columns: &mut [f32; TILE],
) {
    tile::columns::<_, 4, 4>(Avx512Bf16(Avx512(())), block, first, update, buffers, columns);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
pub(super) fn peaks(block: &Block<'_>, first: usize, buffers: &mut Buffers<'_>, best: &mut [Peak]) {
    tile::peaks::<_, 4, 4>(Avx512Bf16(Avx512(())), block, first, buffers, best);
}
