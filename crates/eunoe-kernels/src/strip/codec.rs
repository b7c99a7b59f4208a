//! Keys and values to bytes and back.

use eunoe_core::Codec;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::float16::f16_to_f32;
use crate::math::{fold, max};

/// Values in one block of `Codec::Q8` and `Codec::Q4`.
pub(crate) const BLOCK: usize = 32;
/// Bytes of one block of `Codec::Q8`: an f16 scale and the signed bytes.
pub(crate) const BLOCK_BYTES: usize = 2 + BLOCK;
/// Bytes of one block of `Codec::Q4`: an f16 scale, an f16 minimum, and in the low halves of bytes values 0 … 15, in
/// the high halves values 16 … 31.
pub(crate) const NIBBLE_BYTES: usize = 4 + BLOCK / 2;

/// Stores `x` (a multiple of 32 values) in `codec.bytes(x.len())` bytes.
#[inline(always)]
pub(crate) fn encode(codec: Codec, x: &[f32], out: &mut [u8]) {
    debug_assert_eq!(out.len(), codec.bytes(x.len()));
    match codec {
        Codec::F32 => {
            for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(x) {
                *bytes = value.to_ne_bytes();
            }
        }
        Codec::F16 => {
            let mut halves = [f16::ZERO; BLOCK];
            for (bytes, values) in out.chunks_exact_mut(2 * BLOCK).zip(x.as_chunks::<BLOCK>().0) {
                halves.convert_from_f32_slice(values);
                for (pair, half) in bytes.as_chunks_mut().0.iter_mut().zip(halves) {
                    *pair = half.to_bits().to_ne_bytes();
                }
            }
        }
        Codec::Q8 => {
            for (block, values) in out.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0) {
                encode_block(values, block);
            }
        }
        Codec::Q4 => {
            for (block, values) in out.as_chunks_mut().0.iter_mut().zip(x.as_chunks().0) {
                encode_nibbles(values, block);
            }
        }
    }
}

/// Quantises against scale and minimum as they are stored.
#[inline(always)]
fn encode_nibbles(x: &[f32; BLOCK], out: &mut [u8; NIBBLE_BYTES]) {
    let (mut least, mut most, mut taint) = (x[0], x[0], 0.0);
    for v in x {
        least = -max(-least, -v);
        most = max(most, *v);
        taint += v * 0.0; // NaN once a value is not finite
    }
    let minimum = f16::from_f32(least + taint);
    let scale = f16::from_f32((most - minimum.to_f32()) / 15.0 + taint);
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    out[..2].copy_from_slice(&scale.to_bits().to_ne_bytes());
    out[2..4].copy_from_slice(&minimum.to_bits().to_ne_bytes());
    let number = |v: f32| ((v - minimum.to_f32()) * inverse).round_ties_even().clamp(0.0, 15.0) as u8;
    for (i, byte) in out[4..].iter_mut().enumerate() {
        *byte = number(x[i]) | number(x[i + BLOCK / 2]) << 4;
    }
}

/// Scale and minimum of a block of `Codec::Q4`.
#[inline(always)]
pub(crate) fn nibble_scale(block: &[u8; NIBBLE_BYTES]) -> (f32, f32) {
    let half = |at: usize| f16_to_f32(u16::from_ne_bytes([block[at], block[at + 1]]));
    (half(0), half(2))
}

/// Quantises against the scale as it is stored, so that rounding the scale costs no accuracy.
#[inline(always)]
fn encode_block(x: &[f32; BLOCK], out: &mut [u8; BLOCK_BYTES]) {
    let (mut peaks, mut taint) = ([0.0f32; 16], [0.0f32; 16]);
    for (i, v) in x.iter().enumerate() {
        peaks[i % 16] = max(v.abs(), peaks[i % 16]);
        taint[i % 16] += v * 0.0; // NaN once a value is not finite
    }
    let (peak, taint) = (fold(peaks, max), fold(taint, |a, b| a + b));
    let scale = f16::from_f32(peak / 127.0 + taint);
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    let (head, bytes) = out.split_at_mut(2);
    head.copy_from_slice(&scale.to_bits().to_ne_bytes());
    for (byte, value) in bytes.iter_mut().zip(x) {
        *byte = ((value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8).cast_unsigned();
    }
}

/// The values that `bytes` hold.
pub(crate) fn decode(codec: Codec, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), codec.bytes(out.len()), "bytes of a {}-value vector", out.len());
    match codec {
        Codec::F32 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_ne_bytes(*bytes);
            }
        }
        Codec::F16 => {
            for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *value = f16_to_f32(u16::from_ne_bytes(*bytes));
            }
        }
        Codec::Q4 => {
            for (values, block) in out.chunks_exact_mut(BLOCK).zip(bytes.as_chunks::<NIBBLE_BYTES>().0) {
                let (scale, minimum) = nibble_scale(block);
                for (i, byte) in block[4..].iter().enumerate() {
                    values[i] = f32::from(byte & 15).mul_add(scale, minimum);
                    values[i + BLOCK / 2] = f32::from(byte >> 4).mul_add(scale, minimum);
                }
            }
        }
        Codec::Q8 => {
            for (values, block) in out.chunks_exact_mut(BLOCK).zip(bytes.as_chunks::<BLOCK_BYTES>().0) {
                let scale = f16_to_f32(u16::from_ne_bytes([block[0], block[1]]));
                for (value, byte) in values.iter_mut().zip(&block[2..]) {
                    *value = f32::from(byte.cast_signed()) * scale;
                }
            }
        }
    }
}
