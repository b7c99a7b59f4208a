//! Tiles of slots: 64 at fixed slot indices; those stored in f32 unpacked once for all lines of a block.

use eunoe_core::Codec;

use crate::float16::f16_to_f32;
use crate::math::Lanes;
use crate::rope::Rope;
use crate::strip::codec::{BLOCK, BLOCK_BYTES, NIBBLE_BYTES, nibble_scale};
use crate::strip::{SlotLayout, pos_of};

use super::form::Form;

/// Slots of one tile.
pub(super) const TILE: usize = 64;

/// One tile's slots as stored.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// `len` whole slots.
    pub(super) bytes: &'a [u8],
    pub(super) layout: SlotLayout,
    /// Slot index of the first.
    pub(super) first: usize,
    /// At least 1.
    pub(super) len: usize,
}

impl<'a> Tile<'a> {
    /// The tile that starts at slot `first`; `bytes` are whole slots from slot `base` on.
    #[inline(always)]
    pub(super) fn at(bytes: &'a [u8], base: usize, first: usize, layout: SlotLayout) -> Self {
        let size = layout.bytes();
        let bytes = &bytes[(first - base) * size..];
        let len = (bytes.len() / size).min(TILE);
        Self { bytes: &bytes[..len * size], layout, first, len }
    }

    #[inline(always)]
    pub(super) fn pos(&self, j: usize) -> u32 {
        pos_of(&self.bytes[j * self.layout.bytes()..], self.layout)
    }

    /// Keys as `[head_dim, 64]`, moved to their rank where asked. Lanes past the last slot hold anything: they are
    /// always masked.
    #[inline(always)]
    pub(super) fn unpack_keys<F: Form>(&self, form: F, rank: Option<&Rope>, buffers: &mut Buffers<'_>) {
        let (d, size) = (self.layout.head_dim, self.layout.bytes());
        let (bytes, stride) = match rank {
            None => (self.bytes, size),
            Some(rope) => {
                self.unpack_rows(form, 0, self.layout.codec.k, buffers.staged, &mut buffers.ahead);
                self.move_keys(rope, buffers);
                (as_bytes(buffers.staged), 4 * d)
            }
        };
        let keys = &mut *buffers.keys;
        assert!(keys.len() >= d * TILE && d.is_multiple_of(BLOCK), "room for a tile of keys");
        assert!(bytes.len() >= (self.len - 1) * stride + 4 * d, "a tile of keys");
        // SAFETY: the assertions above.
        unsafe { columns(form, Vectors { bytes, stride, len: self.len, d }, keys, &mut buffers.ahead) }
    }

    /// Values as `[64, head_dim]`; rows past the last slot keep what they held.
    #[inline(always)]
    pub(super) fn unpack_values<F: Form>(&self, form: F, buffers: &mut Buffers<'_>) {
        let (start, codec) = (self.layout.value_at(), self.layout.codec.v);
        self.unpack_rows(form, start, codec, buffers.values, &mut buffers.ahead);
    }

    #[inline(always)]
    pub(super) fn unpack_rows<F: Form>(
        &self,
        form: F,
        start: usize,
        codec: Codec,
        out: &mut [f32],
        ahead: &mut Ahead,
    ) {
        let (d, size) = (self.layout.head_dim, self.layout.bytes());
        let bytes = &self.bytes[start..];
        assert!(out.len() >= self.len * d && d.is_multiple_of(BLOCK), "room for a tile of rows");
        assert!(bytes.len() >= (self.len - 1) * size + codec.bytes(d), "a tile of rows");
        let from = Vectors { bytes, stride: size, len: self.len, d };
        match codec {
            // SAFETY: the assertions above.
            Codec::F32 => unsafe { rows(form, Codec::F32, from, out, ahead) },
            // SAFETY: as above.
            Codec::F16 => unsafe { rows(form, Codec::F16, from, out, ahead) },
            // SAFETY: as above.
            Codec::Q8 => unsafe { rows(form, Codec::Q8, from, out, ahead) },
            // SAFETY: as above.
            Codec::Q4 => unsafe { rows(form, Codec::Q4, from, out, ahead) },
        }
    }

    /// Rotates the staged keys from their own positions to their slot indices.
    #[inline(always)]
    pub(super) fn move_keys(&self, rope: &Rope, buffers: &mut Buffers<'_>) {
        let turn = &mut buffers.turn[..rope.dims()];
        let mut made = 0;
        for (j, key) in buffers.staged.chunks_exact_mut(self.layout.head_dim).take(self.len).enumerate() {
            let delta = (self.first + j) as i64 - i64::from(self.pos(j));
            if delta == 0 {
                continue;
            }
            if delta != made {
                rope.shift(delta, turn);
                made = delta;
            }
            rope.rotate(key, turn);
        }
    }
}

/// Memory that one task unpacks into.
pub(super) struct Buffers<'a> {
    /// `[head_dim, 64]`.
    pub(super) keys: &'a mut [f32],
    /// `[64, head_dim]`.
    pub(super) values: &'a mut [f32],
    /// `[head_dim / 2, 64]`.
    pub(super) key_pairs: &'a mut [u32],
    /// `[32, head_dim]`.
    pub(super) value_pairs: &'a mut [u32],
    /// `[lines, 32]`: weights of a tile's slots, in pairs.
    pub(super) weights: &'a mut [u32],
    /// `[lines]`: sums of weights, lane by lane.
    pub(super) sums: &'a mut [Lanes],
    /// `[64, head_dim]`: keys on their way to another position.
    pub(super) staged: &'a mut [f32],
    /// Cosines and sines of one move.
    pub(super) turn: &'a mut [f32],
    /// 64 slots of any codec, where those of a list are put side by side.
    pub(super) gathered: &'a mut [u8],
    pub(super) ahead: Ahead,
}

/// Percent of the next tile that is asked for while keys are unpacked (which wait for this one already), while values
/// are, while lines are scored, and while they sum values.
pub(super) const KEYS: usize = 10;
pub(super) const VALUES: usize = 30;
pub(super) const SCORES: usize = 30;
pub(super) const SUMS: usize = 30;

/// The tile that is met next, asked for a few cache lines at a time while this one is computed on: memory works all the
/// while, and never has so many requests at once that the processor waits for it. It goes to the second cache: the
/// first is full of this tile.
pub(super) struct Ahead {
    next: *const u8,
    left: usize,
    all: usize,
}

impl Ahead {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let lines = bytes.len().div_ceil(64);
        Self { next: bytes.as_ptr(), left: lines, all: lines }
    }

    /// Lines to ask for in each of `pieces` pieces of work that take `percent` of a tile's time.
    #[inline(always)]
    pub(super) fn step(&self, percent: usize, pieces: usize) -> usize {
        (self.all * percent).div_ceil(100 * pieces)
    }

    #[inline(always)]
    pub(super) fn ask(&mut self, lines: usize) {
        let lines = lines.min(self.left);
        for _ in 0..lines {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch of any address reads nothing that the program can see.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T1>(self.next.cast());
            }
            self.next = self.next.wrapping_add(64);
        }
        self.left -= lines;
    }
}

pub(super) fn as_bytes(x: &[f32]) -> &[u8] {
    // SAFETY: a float is four bytes without padding, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), size_of_val(x)) }
}

/// Stored keys or values.
#[derive(Clone, Copy)]
pub(super) struct Vectors<'a> {
    pub(super) bytes: &'a [u8],
    /// Bytes from one vector to the next.
    pub(super) stride: usize,
    pub(super) len: usize,
    /// Values of one.
    pub(super) d: usize,
}

/// `keys[at, j]` is value `at` of vector `j`.
///
/// # Safety
/// `bytes` hold `len` ≥ 1 vectors of `d` floats, `stride` bytes apart; `keys` hold `[d, 64]`; `d` is a multiple of 32.
#[inline(always)]
unsafe fn columns<F: Form>(form: F, from: Vectors<'_>, keys: &mut [f32], ahead: &mut Ahead) {
    let Vectors { bytes, stride, len, d } = from;
    let each = ahead.step(KEYS, len.div_ceil(16) * d / 16);
    for slot in (0..len).step_by(16) {
        for at in (0..d).step_by(16) {
            ahead.ask(each);
            // SAFETY: vectors below `len` and values below `d` are inside, and so is row `at + 15` of the keys.
            unsafe {
                let mut square = [[0.0; 16]; 16];
                for i in 0..16 {
                    let vector = bytes.as_ptr().add((slot + i).min(len - 1) * stride);
                    square[i] = lanes(form, Codec::F32, vector, at);
                }
                let square = form.transpose(square);
                for i in 0..16 {
                    keys.as_mut_ptr().add((at + i) * TILE + slot).cast::<Lanes>().write_unaligned(square[i]);
                }
            }
        }
    }
}

/// `out[j]` is vector `j`.
///
/// # Safety
/// `bytes` hold `len` vectors of `d` values, `stride` bytes apart; `out` holds `[len, d]`; `d` is a multiple of 32.
#[inline(always)]
unsafe fn rows<F: Form>(form: F, codec: Codec, from: Vectors<'_>, out: &mut [f32], ahead: &mut Ahead) {
    let Vectors { bytes, stride, len, d } = from;
    let each = ahead.step(VALUES, len);
    for j in 0..len {
        ahead.ask(each);
        for at in (0..d).step_by(16) {
            // SAFETY: vector `j` below `len`, values below `d`.
            unsafe {
                let vector = bytes.as_ptr().add(j * stride);
                let x = lanes(form, codec, vector, at);
                out.as_mut_ptr().add(j * d + at).cast::<Lanes>().write_unaligned(x);
            }
        }
    }
}

/// Values `at..at + 16` of a stored vector; no alignment is needed.
///
/// # Safety
/// The vector has at least `at + 16` values, and `at` is a multiple of 16.
#[inline(always)]
pub(super) unsafe fn lanes<F: Form>(form: F, codec: Codec, vector: *const u8, at: usize) -> Lanes {
    // SAFETY: all reads are unaligned ones of values that the caller promises.
    unsafe {
        match codec {
            Codec::F32 => vector.add(4 * at).cast::<Lanes>().read_unaligned(),
            Codec::F16 => form.halves(&*vector.add(2 * at).cast()),
            Codec::Q4 => {
                let block = &*vector.add(at / BLOCK * NIBBLE_BYTES).cast::<[u8; NIBBLE_BYTES]>();
                let (scale, minimum) = nibble_scale(block);
                let (mut bytes, shift) = ([0i8; 16], at % BLOCK / 4);
                for i in 0..16 {
                    bytes[i] = (block[4 + i] >> shift & 15) as i8;
                }
                let mut x = form.bytes(&bytes);
                for x in &mut x {
                    *x = x.mul_add(scale, minimum);
                }
                x
            }
            Codec::Q8 => {
                let block = vector.add(at / BLOCK * BLOCK_BYTES);
                let scale = f16_to_f32(block.cast::<u16>().read_unaligned());
                let mut x = form.bytes(&*block.add(2 + at % BLOCK).cast());
                for x in &mut x {
                    *x *= scale;
                }
                x
            }
        }
    }
}
