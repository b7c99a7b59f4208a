//! AVX-512 BF16: 16 rows in 16 lanes, two inputs at a time.

use super::LANES;
use super::avx512::AHEAD;
use std::arch::x86_64::*;

/// As `scalar::pair_sums`.
///
/// # Safety
/// The processor has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn pair_sums<const T: usize>(w: &[u8], x: &[u32], sums: &mut [[f32; LANES]; T]) {
    let mut acc = [_mm512_setzero_ps(); T];
    for (w, x) in w.as_chunks::<64>().0.iter().zip(x.as_chunks::<T>().0) {
        // SAFETY: `w` is 64 bytes; a vector is 32 bf16; prefetching reads nothing that the program sees.
        unsafe {
            if T == 1 {
                _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(AHEAD).cast());
            }
            let w = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(w.as_ptr().cast()));
            for t in 0..T {
                let x = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x[t].cast_signed()));
                acc[t] = _mm512_dpbf16_ps(acc[t], w, x);
            }
        }
    }
    for t in 0..T {
        // SAFETY: a row of sums is 16 floats.
        unsafe { _mm512_storeu_ps(sums[t].as_mut_ptr(), acc[t]) };
    }
}
