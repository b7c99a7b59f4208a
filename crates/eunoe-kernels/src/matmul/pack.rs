//! Weights repacked into groups of 16 rows.
//!
//! A group is a run of chunks of up to 8 blocks of 32 inputs, each chunk its scales first, then its quants, so that a
//! product reads memory in order. Byte `(row, i)` of a 64-byte vector of quants belongs to lane `row`:
//! * 4 bits: vector `j` of 4 holds input `8j + i` low and `8j + 4 + i` high;
//! * 5 bits: then one vector whose bit `g` of byte `(row, i)` is the fifth bit of input `4g + i`;
//! * 6 bits: then two vectors; of vector `v`, bits `2c..2c + 2` are the high bits of input `4(4v + c) + i`;
//! * 8 bits: vector `g` of 8 holds input `4g + i`, as `q + 128`.
//!
//! Scales of a chunk: an f16 `d` per row and block (`PLAIN`), `d` and `m` (`AFFINE`); or once `d` per row, then per
//! block two bytes per row (`HALVES`); or once `d` and `m` per row, then the same (`SUPER`).
//! A group of floats is, for each input, its 16 rows; in bf16, for each pair of inputs (the last alone where their number
//! is odd).

use super::block::{Block, four};
use super::{BLOCK, Inputs, LANES, float, offset, scale};
use crate::float16::{even, odd};
use crate::pool::Shards;
use crate::vm::Huge;
use crate::{Isa, Pool};
use eunoe_core::{Dtype, Error, Result};

/// A weight matrix `[rows, cols]`, repacked.
pub struct Packed {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    data: Huge,
}

/// Blocks of one chunk.
pub(crate) const CHUNK: usize = 8;

/// One group of 16 rows of quants.
#[derive(Clone, Copy)]
pub(crate) struct Group<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) blocks: usize,
}

/// Up to 8 blocks of a group.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub(crate) scales: &'a [u8],
    pub(crate) quants: &'a [u8],
    pub(crate) blocks: usize,
}

impl<'a> Group<'a> {
    pub(crate) fn chunks(self) -> usize {
        self.blocks.div_ceil(CHUNK)
    }

    /// Chunk `c` of a group of this form.
    #[inline(always)]
    pub(crate) fn chunk(self, bits: usize, kind: u8, c: usize) -> Chunk<'a> {
        let blocks = (self.blocks - c * CHUNK).min(CHUNK);
        let bytes = &self.bytes[c * chunk_bytes(bits, kind, CHUNK)..][..chunk_bytes(bits, kind, blocks)];
        let (scales, quants) = bytes.split_at(scale_bytes(kind, blocks));
        Chunk { scales, quants, blocks }
    }
}

impl<'a> Chunk<'a> {
    /// Quants of block `b`.
    #[inline(always)]
    pub(crate) fn block(self, bits: usize, b: usize) -> &'a [u8] {
        &self.quants[b * bits * 64..][..bits * 64]
    }
}

/// Bits and scale kind of a quantised type; `None` for floats.
pub(crate) fn form(dtype: Dtype) -> Option<(usize, u8)> {
    Some(match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => return None,
        Dtype::Q4_0 => (4, scale::PLAIN),
        Dtype::Q4_1 => (4, scale::AFFINE),
        Dtype::Q5_0 => (5, scale::PLAIN),
        Dtype::Q5_1 => (5, scale::AFFINE),
        Dtype::Q8_0 => (8, scale::PLAIN),
        Dtype::Q4_K => (4, scale::SUPER),
        Dtype::Q5_K => (5, scale::SUPER),
        Dtype::Q6_K => (6, scale::HALVES),
    })
}

/// Bytes of the scales of a chunk of `blocks` blocks, whole cache lines.
#[inline(always)]
const fn scale_bytes(kind: u8, blocks: usize) -> usize {
    let bytes = match kind {
        scale::AFFINE => 64 * blocks,
        _ => header_bytes(kind) + 32 * blocks,
    };
    bytes.next_multiple_of(64)
}

/// Bytes of a chunk.
#[inline(always)]
pub(crate) const fn chunk_bytes(bits: usize, kind: u8, blocks: usize) -> usize {
    scale_bytes(kind, blocks) + blocks * bits * 64
}

/// Bytes of one group.
fn group_bytes(dtype: Dtype, cols: usize) -> usize {
    let blocks = cols.div_ceil(BLOCK);
    match form(dtype) {
        None if dtype == Dtype::BF16 => cols.div_ceil(2) * LANES * 4,
        None => (cols * LANES * dtype.block().1).next_multiple_of(64),
        Some((bits, kind)) => {
            let rest = match blocks % CHUNK {
                0 => 0,
                rest => chunk_bytes(bits, kind, rest),
            };
            blocks / CHUNK * chunk_bytes(bits, kind, CHUNK) + rest
        }
    }
}

impl Packed {
    /// Repacks `bytes`, a matrix of `rows` rows of `cols` inputs in the file's layout.
    ///
    /// # Errors
    /// [`Error::Shape`] when the rows are not whole blocks or `bytes` has another length.
    pub fn new(pool: &Pool, dtype: Dtype, rows: usize, cols: usize, bytes: &[u8]) -> Result<Self> {
        let (block, block_bytes) = dtype.block();
        if rows == 0 || cols == 0 || !cols.is_multiple_of(block) {
            return Err(Error::shape(
                format!("{} matrix", dtype.name()),
                format!("rows of {block}"),
                [rows, cols],
            ));
        }
        let row_bytes = cols / block * block_bytes;
        if Some(bytes.len()) != rows.checked_mul(row_bytes) {
            return Err(Error::shape(
                "bytes of a matrix",
                format!("{rows} rows of {row_bytes}"),
                bytes.len(),
            ));
        }
        let (group, groups) = (group_bytes(dtype, cols), rows.div_ceil(LANES));
        let size = groups
            .checked_mul(group)
            .ok_or_else(|| Error::shape("bytes of a matrix", "a size that memory can have", [rows, cols]))?;
        let mut packed = Self { dtype, rows, cols, data: Huge::new(size)? };
        let (isa, shared) = (Isa::detect(), Shards::new(&mut packed.data));
        pool.run(groups, &|g| {
            // SAFETY: one task per group, groups are disjoint, and `packed.data` outlives the loop.
            let group = unsafe { shared.part(g * group, group) };
            isa.run(
                #[inline(always)]
                || {
                    for lane in 0..LANES.min(rows - g * LANES) {
                        pack_row(dtype, lane, &bytes[(g * LANES + lane) * row_bytes..][..row_bytes], group);
                    }
                },
            );
        });
        Ok(packed)
    }

    /// The type in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that the repacked weights take.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// What `Arithmetic::Fast` rounds inputs to for these weights.
    pub(super) fn fast_inputs(&self) -> Inputs {
        match self.dtype {
            Dtype::F32 | Dtype::F16 => Inputs::Floats,
            Dtype::BF16 => Inputs::Pairs,
            _ => Inputs::Blocks,
        }
    }

    pub(crate) fn groups(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    pub(crate) fn group(&self, g: usize) -> Group<'_> {
        let size = self.data.len() / self.groups();
        Group { bytes: &self.data[g * size..][..size], blocks: self.cols.div_ceil(BLOCK) }
    }

    /// Dequantises row `r` into `out` (`cols` values).
    ///
    /// # Panics
    /// When `r` is not a row or `out` has another length.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows && out.len() == self.cols, "row {r} of {self:?}");
        let mut group = vec![[0.0; LANES]; self.cols];
        self.dequantise_group(r / LANES, &mut group);
        for (v, lanes) in out.iter_mut().zip(&group) {
            *v = lanes[r % LANES];
        }
    }

    /// Dequantises all rows: `[rows, cols]`.
    pub fn floats(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        let mut group = vec![[0.0; LANES]; self.cols];
        for (g, rows) in out.chunks_mut(LANES * self.cols).enumerate() {
            self.dequantise_group(g, &mut group);
            for (lane, row) in rows.chunks_exact_mut(self.cols).enumerate() {
                row.iter_mut().zip(&group).for_each(|(v, lanes)| *v = lanes[lane]);
            }
        }
        out
    }

    /// Dequantises group `g` into `out` (`[cols][16]`), rounding as ggml does.
    #[inline(always)]
    pub(crate) fn dequantise_group(&self, g: usize, out: &mut [[f32; LANES]]) {
        let group = self.group(g);
        match self.dtype {
            Dtype::F32 => floats::<{ float::F32 }>(group, out),
            Dtype::F16 => floats::<{ float::F16 }>(group, out),
            Dtype::BF16 => pairs(group, out),
            Dtype::Q4_0 => quants::<4, { scale::PLAIN }>(group, out),
            Dtype::Q4_1 => quants::<4, { scale::AFFINE }>(group, out),
            Dtype::Q5_0 => quants::<5, { scale::PLAIN }>(group, out),
            Dtype::Q5_1 => quants::<5, { scale::AFFINE }>(group, out),
            Dtype::Q8_0 => quants::<8, { scale::PLAIN }>(group, out),
            Dtype::Q4_K => quants::<4, { scale::SUPER }>(group, out),
            Dtype::Q5_K => quants::<5, { scale::SUPER }>(group, out),
            Dtype::Q6_K => quants::<6, { scale::HALVES }>(group, out),
        }
    }
}

#[inline(always)]
fn floats<const KIND: u8>(group: Group<'_>, out: &mut [[f32; LANES]]) {
    let size = float::bytes(KIND);
    for (out, row) in out.iter_mut().zip(group.bytes.chunks_exact(LANES * size)) {
        for (out, bytes) in out.iter_mut().zip(row.chunks_exact(size)) {
            *out = float::read(KIND, bytes);
        }
    }
}

#[inline(always)]
fn pairs(group: Group<'_>, out: &mut [[f32; LANES]]) {
    for (out, row) in out.chunks_mut(2).zip(group.bytes.as_chunks::<64>().0) {
        for (lane, bytes) in row.as_chunks().0.iter().enumerate() {
            let pair = u32::from_le_bytes(*bytes);
            out[0][lane] = even(pair);
            if let Some(second) = out.get_mut(1) {
                second[lane] = odd(pair);
            }
        }
    }
}

#[inline(always)]
fn quants<const BITS: usize, const KIND: u8>(group: Group<'_>, out: &mut [[f32; LANES]]) {
    for (b, out) in out.chunks_mut(BLOCK).enumerate() {
        let chunk = group.chunk(BITS, KIND, b / CHUNK);
        let s = Scales::read(KIND, chunk, b % CHUNK);
        let mut four = [0; 4 * LANES];
        for (k, out) in out.iter_mut().enumerate() {
            if k % 4 == 0 {
                quant_row::<BITS>(chunk.block(BITS, b % CHUNK), k / 4, &mut four);
            }
            for lane in 0..LANES {
                let q = (i32::from(four[lane * 4 + k % 4]) - offset(BITS, KIND)) as f32;
                out[lane] = match KIND {
                    scale::HALVES => s.weight[lane] * s.halves[k / 16][lane] as f32 * q,
                    scale::PLAIN => s.weight[lane] * q,
                    _ => s.weight[lane] * q + s.min[lane],
                };
            }
        }
    }
}

/// The scales of one block of 16 rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Scales {
    /// Factor of the quants.
    pub(crate) weight: [f32; LANES],
    /// What is added per unit of input (`AFFINE`, `SUPER`).
    pub(crate) min: [f32; LANES],
    /// Integer factors of the half blocks (`HALVES`).
    pub(crate) halves: [[i32; LANES]; 2],
}

impl Scales {
    pub(crate) const NONE: Self = Self { weight: [0.0; LANES], min: [0.0; LANES], halves: [[0; LANES]; 2] };

    /// Scales of block `b` of a chunk.
    #[inline(always)]
    pub(crate) fn read(kind: u8, chunk: Chunk<'_>, b: usize) -> Self {
        let mut s = Self::NONE;
        let at = scale_at(kind, b, 0);
        f16_row(&chunk.scales[at.d..], &mut s.weight);
        if matches!(kind, scale::AFFINE | scale::SUPER) {
            f16_row(&chunk.scales[at.d + 32..], &mut s.min);
        }
        let Some(sc) = at.sc else { return s };
        let sc: &[u8; 2 * LANES] = chunk.scales[sc..].first_chunk().expect("two rows of bytes per block");
        for lane in 0..LANES {
            let bytes = [sc[lane], sc[LANES + lane]];
            if kind == scale::SUPER {
                s.weight[lane] *= f32::from(bytes[0]);
                s.min[lane] = -(s.min[lane] * f32::from(bytes[1]));
            } else {
                (s.halves[0][lane], s.halves[1][lane]) =
                    (i32::from(bytes[0] as i8), i32::from(bytes[1] as i8));
            }
        }
        s
    }
}

#[inline(always)]
fn f16_row(bytes: &[u8], out: &mut [f32; LANES]) {
    let bytes: &[u8; 2 * LANES] = bytes.first_chunk().expect("an f16 per row");
    for lane in 0..LANES {
        out[lane] = crate::float16::f16_to_f32(u16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]));
    }
}

/// Where the scale of a block lies in its chunk: f16 `d` (and `m` 32 bytes on), bytes `sc` (and the second 16 on).
struct ScaleAt {
    d: usize,
    sc: Option<usize>,
}

#[inline(always)]
fn scale_at(kind: u8, b: usize, lane: usize) -> ScaleAt {
    match kind {
        scale::PLAIN => ScaleAt { d: b * 32 + lane * 2, sc: None },
        scale::AFFINE => ScaleAt { d: b * 64 + lane * 2, sc: None },
        kind => ScaleAt { d: lane * 2, sc: Some(header_bytes(kind) + b * 32 + lane) },
    }
}

/// Bytes of the f16 scales that a whole chunk shares.
#[inline(always)]
pub(crate) const fn header_bytes(kind: u8) -> usize {
    match kind {
        scale::SUPER => 64,
        scale::HALVES => 32,
        _ => 0,
    }
}

/// Quants of the 4-byte group `g` of a packed block: `[row][4]`, unsigned.
#[inline(always)]
pub(crate) fn quant_row<const BITS: usize>(block: &[u8], g: usize, out: &mut [u8; 4 * LANES]) {
    let vector = |v: usize| &block[v * 64..][..64];
    if BITS == 8 {
        out.copy_from_slice(vector(g));
        return;
    }
    for (out, pair) in out.iter_mut().zip(vector(g / 2)) {
        *out = pair >> (g % 2 * 4) & 15;
    }
    match BITS {
        5 => out.iter_mut().zip(vector(4)).for_each(|(q, high)| *q |= (high >> g & 1) << 4),
        6 => out.iter_mut().zip(vector(4 + g / 4)).for_each(|(q, high)| *q |= (high >> (g % 4 * 2) & 3) << 4),
        _ => {}
    }
}

#[inline(always)]
fn pack_row(dtype: Dtype, lane: usize, row: &[u8], group: &mut [u8]) {
    if dtype == Dtype::BF16 {
        /// 2^-54: products of what is left are so large that no sum of them is subnormal, which the instruction would
        /// take for 0.
        const LEAST: u16 = (127 - 54) << 7;
        for (k, v) in row.as_chunks().0.iter().enumerate() {
            let is_small = u16::from_le_bytes(*v) & 0x7FFF < LEAST;
            let v = if is_small { [0; 2] } else { *v };
            group[(k / 2 * LANES + lane) * 4 + k % 2 * 2..][..2].copy_from_slice(&v);
        }
        return;
    }
    let Some((bits, kind)) = form(dtype) else {
        let size = dtype.block().1;
        for (k, v) in row.chunks_exact(size).enumerate() {
            group[(k * LANES + lane) * size..][..size].copy_from_slice(v);
        }
        return;
    };
    let (block, block_bytes) = dtype.block();
    let of = block / BLOCK;
    let blocks = row.len() / block_bytes * of;
    for (c, chunk) in group.chunks_mut(chunk_bytes(bits, kind, CHUNK)).enumerate() {
        let count = (blocks - c * CHUNK).min(CHUNK);
        let (scales, quants) = chunk.split_at_mut(scale_bytes(kind, count));
        for b in 0..count {
            let i = c * CHUNK + b;
            let parsed = Block::read(dtype, &row[i / of * block_bytes..][..block_bytes], i % of);
            write_quants(bits, lane, &parsed.q, &mut quants[b * bits * 64..][..bits * 64]);
            let at = scale_at(kind, b, lane);
            scales[at.d..at.d + 2].copy_from_slice(&parsed.d.to_le_bytes());
            if matches!(kind, scale::AFFINE | scale::SUPER) {
                scales[at.d + 32..at.d + 34].copy_from_slice(&parsed.m.to_le_bytes());
            }
            if let Some(sc) = at.sc {
                scales[sc] = parsed.sc[0];
                scales[sc + LANES] = parsed.sc[1];
            }
        }
    }
}

/// Writes one row of a block: the four bytes of each 4-byte group at once.
#[inline(always)]
fn write_quants(bits: usize, lane: usize, q: &[u8; BLOCK], block: &mut [u8]) {
    let words: [u32; 8] = std::array::from_fn(|g| u32::from_le_bytes(four(q, 4 * g)));
    let mut write = |vector: usize, word: u32| {
        block[vector * 64 + lane * 4..][..4].copy_from_slice(&word.to_le_bytes());
    };
    if bits == 8 {
        words.iter().enumerate().for_each(|(g, word)| write(g, *word));
        return;
    }
    for j in 0..4 {
        write(j, words[2 * j] & 0x0f0f_0f0f | (words[2 * j + 1] & 0x0f0f_0f0f) << 4);
    }
    let high = |g: usize, mask: u32| words[g] >> 4 & mask;
    match bits {
        5 => write(4, (0..8).fold(0, |word, g| word | high(g, 0x0101_0101) << g)),
        6 => (0..2).for_each(|v| {
            write(4 + v, (0..4).fold(0, |word, c| word | high(4 * v + c, 0x0303_0303) << (2 * c)));
        }),
        _ => {}
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}, {}]", self.dtype.name(), self.rows, self.cols)
    }
}
