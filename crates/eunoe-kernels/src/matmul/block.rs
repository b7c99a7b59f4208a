//! Blocks of quants as model files hold them.

use super::BLOCK;
use eunoe_core::Dtype;
use half::f16;

/// One block of 32 inputs of one row, as the file says it.
pub(super) struct Block {
    /// Unsigned quants.
    pub(super) q: [u8; BLOCK],
    /// What goes into the scales of a chunk.
    pub(super) d: f16,
    pub(super) m: f16,
    pub(super) sc: [u8; 2],
}

impl Block {
    /// Part `part` (32 inputs) of one block of the file.
    #[inline(always)]
    pub(super) fn read(dtype: Dtype, bytes: &[u8], part: usize) -> Self {
        let half = |at: usize| f16::from_le_bytes(two(bytes, at));
        let mut q = [0u8; BLOCK];
        let (d, m, sc) = match dtype {
            Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q5_0 | Dtype::Q5_1 => {
                let affine = matches!(dtype, Dtype::Q4_1 | Dtype::Q5_1);
                let five = matches!(dtype, Dtype::Q5_0 | Dtype::Q5_1);
                let at = if affine { 4 } else { 2 };
                let high = if five { u32::from_le_bytes(four(bytes, at)) } else { 0 };
                let nibbles = &bytes[at + if five { 4 } else { 0 }..];
                for k in 0..BLOCK {
                    q[k] = nibbles[k % 16] >> (k / 16 * 4) & 15 | ((high >> k & 1) as u8) << 4;
                }
                (half(0), if affine { half(2) } else { f16::ZERO }, [0; 2])
            }
            Dtype::Q8_0 => {
                for k in 0..BLOCK {
                    q[k] = bytes[2 + k] ^ 0x80;
                }
                (half(0), f16::ZERO, [0; 2])
            }
            Dtype::Q4_K | Dtype::Q5_K => {
                let five = dtype == Dtype::Q5_K;
                let nibbles = &bytes[if five { 48 } else { 16 } + part / 2 * 32..][..32];
                for k in 0..BLOCK {
                    let high = if five { bytes[16 + k] >> part & 1 } else { 0 };
                    q[k] = nibbles[k] >> (part % 2 * 4) & 15 | high << 4;
                }
                (half(0), half(2), six_bit_scales(&bytes[4..16], part))
            }
            _ => {
                // Q6_K: 128 inputs share 64 bytes of low and 32 bytes of high bits
                let (h, quarter) = (part / 4, part % 4);
                for k in 0..BLOCK {
                    let low = bytes[h * 64 + quarter % 2 * 32 + k] >> (quarter / 2 * 4) & 15;
                    let high = bytes[128 + h * 32 + k] >> (quarter * 2) & 3;
                    q[k] = low | high << 4;
                }
                (half(208), f16::ZERO, [bytes[192 + part * 2], bytes[193 + part * 2]])
            }
        };
        Self { q, d, m, sc }
    }
}

/// Scale and minimum `j` of 8, six bits each, from the 12 bytes of a K-quant block.
fn six_bit_scales(s: &[u8], j: usize) -> [u8; 2] {
    if j < 4 {
        [s[j] & 63, s[j + 4] & 63]
    } else {
        [s[j + 4] & 15 | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4]
    }
}

#[inline(always)]
fn two(bytes: &[u8], at: usize) -> [u8; 2] {
    [bytes[at], bytes[at + 1]]
}

#[inline(always)]
pub(super) fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}
