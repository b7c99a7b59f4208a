//! Tiles of slots stored in f16, q8 or q4, unpacked once to pairs of bf16 for all lines of a block.

use eunoe_core::Codec;

use crate::math::Lanes;
use crate::rope::Rope;
use crate::strip::codec::BLOCK;

use super::bf16::{LEAST_STORED, Pairs, flush};
use super::form::Form;
use super::slots::{Ahead, Buffers, KEYS, TILE, Tile, VALUES, Vectors, as_bytes, lanes};

impl Tile<'_> {
    /// Keys as `[head_dim / 2, 64]` pairs of dimensions, moved to their rank where asked. Lanes past the last slot hold
    /// anything: they are always masked.
    #[inline(always)]
    pub(super) fn key_pairs<F: Form>(&self, form: F, rank: Option<&Rope>, buffers: &mut Buffers<'_>) {
        let (d, size) = (self.layout.head_dim, self.layout.bytes());
        let (codec, bytes, stride) = match rank {
            None => (self.layout.codec.k, self.bytes, size),
            Some(rope) => {
                self.unpack_rows(form, 0, self.layout.codec.k, buffers.staged, &mut buffers.ahead);
                self.move_keys(rope, buffers);
                buffers.staged[..self.len * d].iter_mut().for_each(|x| *x = flush(*x, LEAST_STORED));
                (Codec::F32, as_bytes(buffers.staged), 4 * d)
            }
        };
        let (keys, ahead) = (&mut *buffers.key_pairs, &mut buffers.ahead);
        assert!(keys.len() >= d / 2 * TILE && d.is_multiple_of(BLOCK), "room for a tile of keys");
        assert!(bytes.len() >= (self.len - 1) * stride + codec.bytes(d), "a tile of keys");
        let from = Vectors { bytes, stride, len: self.len, d };
        // The codec is a constant in each branch, so the loops are compiled per codec.
        match codec {
            // SAFETY: the assertions above.
            Codec::F32 => unsafe { columns(form, Codec::F32, from, keys, ahead) },
            // SAFETY: as above.
            Codec::F16 => unsafe { columns(form, Codec::F16, from, keys, ahead) },
            // SAFETY: as above.
            Codec::Q8 => unsafe { columns(form, Codec::Q8, from, keys, ahead) },
            // SAFETY: as above.
            Codec::Q4 => unsafe { columns(form, Codec::Q4, from, keys, ahead) },
        }
    }

    /// Values as `[32, head_dim]` pairs of slots. What lies past the last slot is anything.
    #[inline(always)]
    pub(super) fn value_pairs<F: Form>(&self, form: F, out: &mut [u32], ahead: &mut Ahead) {
        let (d, size, codec) = (self.layout.head_dim, self.layout.bytes(), self.layout.codec.v);
        let bytes = &self.bytes[self.layout.value_at()..];
        assert!(
            out.len() >= self.len.div_ceil(2) * d && d.is_multiple_of(BLOCK),
            "room for a tile of values"
        );
        assert!(bytes.len() >= (self.len - 1) * size + codec.bytes(d), "a tile of values");
        let from = Vectors { bytes, stride: size, len: self.len, d };
        match codec {
            // SAFETY: the assertions above.
            Codec::F16 => unsafe { rows(form, Codec::F16, from, out, ahead) },
            // SAFETY: as above.
            Codec::Q8 => unsafe { rows(form, Codec::Q8, from, out, ahead) },
            // SAFETY: as above.
            Codec::Q4 => unsafe { rows(form, Codec::Q4, from, out, ahead) },
            Codec::F32 => unreachable!("slots in f32 are computed in f32"),
        }
    }
}

/// `keys[at, j]` is the pair of values 2 at, 2 at + 1 of vector `j`.
///
/// # Safety
/// `bytes` hold `len` ≥ 1 vectors of `d` values, `stride` bytes apart; `keys` hold `[d / 2, 64]`; `d` is a multiple
/// of 32.
#[inline(always)]
unsafe fn columns<F: Form>(form: F, codec: Codec, from: Vectors<'_>, keys: &mut [u32], ahead: &mut Ahead) {
    let Vectors { bytes, stride, len, d } = from;
    let each = ahead.step(KEYS, len.div_ceil(16) * d / 32);
    for slot in (0..len).step_by(16) {
        for at in (0..d).step_by(32) {
            // SAFETY: vectors below `len` and values below `d` are inside, and so is row `at / 2 + 15` of the keys.
            unsafe {
                ahead.ask(each);
                let mut square = [[0.0; 16]; 16];
                for i in 0..16 {
                    let vector = bytes.as_ptr().add((slot + i).min(len - 1) * stride);
                    square[i] = pairs(form, codec, vector, at).map(f32::from_bits);
                }
                let square = form.transpose(square);
                for i in 0..16 {
                    keys.as_mut_ptr()
                        .add((at / 2 + i) * TILE + slot)
                        .cast::<Lanes>()
                        .write_unaligned(square[i]);
                }
            }
        }
    }
}

/// `out[j / 2, at]` is the pair of value `at` of vectors `j` and `j + 1`, for even `j`.
///
/// # Safety
/// `bytes` hold `len` ≥ 1 vectors of `d` values, `stride` bytes apart; `out` holds `[len / 2, d]`, rounded up; `d` is
/// a multiple of 32.
#[inline(always)]
unsafe fn rows<F: Form>(form: F, codec: Codec, from: Vectors<'_>, out: &mut [u32], ahead: &mut Ahead) {
    let Vectors { bytes, stride, len, d } = from;
    let each = ahead.step(VALUES, len.div_ceil(2) * d / 32);
    for j in (0..len).step_by(2) {
        for at in (0..d).step_by(32) {
            // SAFETY: vectors below `len`, values below `d`.
            unsafe {
                let even = bytes.as_ptr().add(j * stride);
                let odd = bytes.as_ptr().add((j + 1).min(len - 1) * stride);
                ahead.ask(each);
                let (low, high) = (pairs(form, codec, even, at), pairs(form, codec, odd, at));
                let both = form.interleave(low, high);
                out.as_mut_ptr().add(j / 2 * d + at).cast::<[Pairs; 2]>().write_unaligned(both);
            }
        }
    }
}

/// Values `at..at + 32` of a stored vector.
///
/// # Safety
/// The vector has at least `at + 32` values, and `at` is a multiple of 32.
#[inline(always)]
unsafe fn pairs<F: Form>(form: F, codec: Codec, vector: *const u8, at: usize) -> Pairs {
    // SAFETY: the caller's promise.
    unsafe { form.round(lanes(form, codec, vector, at), lanes(form, codec, vector, at + 16)) }
}
