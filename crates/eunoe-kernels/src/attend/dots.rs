//! Products of queries with single keys, for policies that search.

use eunoe_core::Codec;

use crate::isa::Isa;
use crate::strip::Strip;

use super::form::Form;
use super::kernels;
use super::slots::{Ahead, lanes};

/// `scale · q · key` for each of `slots` and each query of `q` `[queries, head_dim]`, as `[slots, queries]`, in f32: 16
/// sums over the values, added up by halves. Keys come from anywhere in memory, so those of the next 16 slots are asked for
/// while 16 are multiplied.
///
/// # Panics
/// When a slot does not exist, or sizes disagree.
pub fn dots(isa: Isa, strip: &Strip, q: &[f32], scale: f32, slots: &[u32], out: &mut [f32]) {
    let head_dim = strip.layout().head_dim;
    assert!(q.len().is_multiple_of(head_dim), "whole queries");
    assert_eq!(out.len(), slots.len() * (q.len() / head_dim), "a product per slot and query");
    assert!(slots.iter().all(|slot| (*slot as usize) < strip.len()), "slots exist");
    // SAFETY: the assertions above.
    unsafe { kernels::dots(isa, &Search { strip, q, scale, slots }, out) }
}

/// Queries, and the slots of whose keys the products are wanted.
pub(super) struct Search<'a> {
    strip: &'a Strip,
    q: &'a [f32],
    scale: f32,
    slots: &'a [u32],
}

/// # Safety
/// Queries are whole, and the slots exist.
#[inline(always)]
pub(super) unsafe fn products<F: Form>(form: F, search: &Search<'_>, out: &mut [f32]) {
    match search.strip.layout().codec.k {
        // The codec is a constant in each branch, so the loop is compiled per codec.
        // SAFETY: the caller's promise.
        Codec::F32 => unsafe { products_of(form, Codec::F32, search, out) },
        // SAFETY: as above.
        Codec::F16 => unsafe { products_of(form, Codec::F16, search, out) },
        // SAFETY: as above.
        Codec::Q8 => unsafe { products_of(form, Codec::Q8, search, out) },
        // SAFETY: as above.
        Codec::Q4 => unsafe { products_of(form, Codec::Q4, search, out) },
    }
}

/// # Safety
/// As `products`, and keys are stored in `codec`.
#[inline(always)]
unsafe fn products_of<F: Form>(form: F, codec: Codec, search: &Search<'_>, out: &mut [f32]) {
    let Search { strip, q, scale, slots } = search;
    let (bytes, size, d) = (strip.slots(), strip.layout().bytes(), strip.layout().head_dim);
    let queries = q.len() / d;
    for (n, (slots, out)) in slots.chunks(16).zip(out.chunks_mut(16 * queries)).enumerate() {
        for later in search.slots.iter().skip(16 * (n + 1)).take(16) {
            Ahead::new(&bytes[*later as usize * size..][..codec.bytes(d)]).ask(usize::MAX);
        }
        for (h, q) in q.chunks_exact(d).enumerate() {
            let mut sums = [[0.0; 16]; 16];
            for (sums, slot) in sums.iter_mut().zip(slots) {
                // SAFETY: slots exist and start with their key.
                let key = unsafe { bytes.as_ptr().add(*slot as usize * size) };
                for (n, q) in q.as_chunks::<16>().0.iter().enumerate() {
                    // SAFETY: a key has as many values as a query.
                    let k = unsafe { lanes(form, codec, key, 16 * n) };
                    for i in 0..16 {
                        sums[i] = q[i].mul_add(k[i], sums[i]);
                    }
                }
            }
            let mut sums = form.transpose(sums);
            for width in [8, 4, 2, 1] {
                for row in 0..width {
                    for i in 0..16 {
                        sums[row][i] += sums[row + width][i];
                    }
                }
            }
            for (out, sum) in out[h..].iter_mut().step_by(queries).zip(sums[0]) {
                *out = scale * sum;
            }
        }
    }
}
