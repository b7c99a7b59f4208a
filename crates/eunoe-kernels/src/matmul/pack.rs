//! Weights repacked into groups of 16 rows.
//!
//! A group holds its quants first (64-byte aligned, per block of 32 inputs), then its scales. Byte `(row, i)` of a
//! 64-byte vector belongs to lane `row`:
//! * 4 bits: vector `j` of 4 holds input `8j + i` low and `8j + 4 + i` high;
//! * 5 bits: then one vector whose bit `g` of byte `(row, i)` is the fifth bit of input `4g + i`;
//! * 6 bits: then two vectors; of vector `v`, bits `2c..2c + 2` are the high bits of input `4(4v + c) + i`;
//! * 8 bits: vector `g` of 8 holds input `4g + i`, as `q + 128`;
//! * floats: for each input, its 16 rows.

use super::{Arithmetic, BLOCK, LANES, offset, scale};
use crate::Pool;
use crate::pool::Shards;
use eunoe_core::{Dtype, Error, Result};
use half::f16;

/// A weight matrix `[rows, cols]`, repacked.
pub struct Packed {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    data: Vec<Line>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// One group of 16 rows: its quants and its scales, `blocks` blocks each.
#[derive(Clone, Copy)]
pub(crate) struct Group<'a> {
    pub(crate) quants: &'a [u8],
    pub(crate) scales: &'a [u8],
    pub(crate) blocks: usize,
}

/// One block of 32 inputs of one row, as the file says it.
struct Block {
    /// Unsigned quants.
    q: [u8; BLOCK],
    /// What goes into the scale region, see `Layout::write_scales`.
    d: f16,
    m: f16,
    sc: [u8; 2],
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

/// Bytes of the quants and of the scales of one group.
fn group_bytes(dtype: Dtype, cols: usize) -> (usize, usize) {
    let blocks = cols.div_ceil(BLOCK);
    match form(dtype) {
        None => (cols * LANES * dtype.block().1, 0),
        Some((bits, kind)) => {
            let scales = match kind {
                scale::PLAIN => 32 * blocks,
                scale::AFFINE => 64 * blocks,
                scale::SUPER => 64 * blocks.div_ceil(8) + 32 * blocks,
                _ => 32 * blocks.div_ceil(8) + 32 * blocks,
            };
            (blocks * bits * 64, scales)
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
        let (quants, scales) = group_bytes(dtype, cols);
        let lines = (quants + scales).div_ceil(64);
        let groups = rows.div_ceil(LANES);
        let mut packed = Self { dtype, rows, cols, data: vec![Line([0; 64]); groups * lines] };
        advise_huge_pages(&packed.data);
        let shared = Shards::new(&mut packed.data);
        pool.run(groups, &|g| {
            // SAFETY: one task per group, groups are disjoint, and `packed.data` outlives the loop.
            let group = as_bytes_mut(unsafe { shared.part(g * lines, lines) });
            let (q, s) = group.split_at_mut(quants);
            for lane in 0..LANES.min(rows - g * LANES) {
                pack_row(dtype, lane, &bytes[(g * LANES + lane) * row_bytes..][..row_bytes], q, s);
            }
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
        self.data.len() * 64
    }

    /// Whether [`Arithmetic::Fast`] means 8-bit inputs for these weights.
    pub fn is_quantised(&self) -> bool {
        form(self.dtype).is_some()
    }

    pub(crate) fn groups(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    pub(crate) fn group(&self, g: usize) -> Group<'_> {
        let lines = self.data.len() / self.groups();
        let (quants, scales) = group_bytes(self.dtype, self.cols);
        let bytes = &as_bytes(&self.data)[g * lines * 64..][..quants + scales];
        let (quants, scales) = bytes.split_at(quants);
        Group { quants, scales, blocks: self.cols.div_ceil(BLOCK) }
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

    /// Dequantises group `g` into `out` (`[cols][16]`), rounding as ggml does.
    #[inline(always)]
    pub(crate) fn dequantise_group(&self, g: usize, out: &mut [[f32; LANES]]) {
        let group = self.group(g);
        match self.dtype {
            Dtype::F32 => floats::<4>(group, out, f32::from_le_bytes),
            Dtype::F16 => floats::<2>(group, out, |b| crate::float16::f16_to_f32(u16::from_le_bytes(b))),
            Dtype::BF16 => {
                floats::<2>(group, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            }
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
fn floats<const SIZE: usize>(group: Group<'_>, out: &mut [[f32; LANES]], read: impl Fn([u8; SIZE]) -> f32) {
    for (out, row) in out.iter_mut().zip(group.quants.as_chunks::<SIZE>().0.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            out[lane] = read(row[lane]);
        }
    }
}

#[inline(always)]
fn quants<const BITS: usize, const KIND: u8>(group: Group<'_>, out: &mut [[f32; LANES]]) {
    for (b, out) in out.chunks_mut(BLOCK).enumerate() {
        let block = &group.quants[b * BITS * 64..][..BITS * 64];
        let scales: [BlockScale; LANES] = std::array::from_fn(|lane| BlockScale::read(KIND, group, b, lane));
        for (k, out) in out.iter_mut().enumerate() {
            for lane in 0..LANES {
                let (q, s) = (i32::from(quant(BITS, block, lane, k)) - offset(BITS, KIND), &scales[lane]);
                out[lane] = match KIND {
                    scale::HALVES => s.d * f32::from(s.sc[k / 16] as i8) * q as f32,
                    scale::SUPER => s.d * f32::from(s.sc[0]) * q as f32 - s.m * f32::from(s.sc[1]),
                    scale::AFFINE => s.d * q as f32 + s.m,
                    _ => s.d * q as f32,
                };
            }
        }
    }
}

/// The scale of one block of one row, as floats and raw bytes.
pub(crate) struct BlockScale {
    pub(crate) d: f32,
    pub(crate) m: f32,
    pub(crate) sc: [u8; 2],
}

impl BlockScale {
    #[inline(always)]
    pub(crate) fn read(kind: u8, group: Group<'_>, b: usize, lane: usize) -> Self {
        let half = |at: usize| crate::float16::f16_to_f32(u16::from_le_bytes(two(group.scales, at)));
        let at = scale_at(kind, group.blocks, b, lane);
        let m = if matches!(kind, scale::AFFINE | scale::SUPER) { half(at.d + 32) } else { 0.0 };
        let sc = at.sc.map_or([0; 2], |sc| [group.scales[sc], group.scales[sc + LANES]]);
        Self { d: half(at.d), m, sc }
    }
}

/// Where the scale of a block lies: f16 `d` (and `m` 32 bytes on), bytes `sc` (and the second 16 bytes on).
struct ScaleAt {
    d: usize,
    sc: Option<usize>,
}

#[inline(always)]
fn scale_at(kind: u8, blocks: usize, b: usize, lane: usize) -> ScaleAt {
    match kind {
        scale::PLAIN => ScaleAt { d: b * 32 + lane * 2, sc: None },
        scale::AFFINE => ScaleAt { d: b * 64 + lane * 2, sc: None },
        kind => {
            let header = header_bytes(kind);
            let sc = header * blocks.div_ceil(8) + b * 32 + lane;
            ScaleAt { d: b / 8 * header + lane * 2, sc: Some(sc) }
        }
    }
}

/// Bytes of the f16 scales of 256 inputs of a group.
#[inline(always)]
pub(crate) const fn header_bytes(kind: u8) -> usize {
    if kind == scale::SUPER { 64 } else { 32 }
}

/// Quant `k` of row `lane` in a packed block.
#[inline(always)]
pub(crate) fn quant(bits: usize, block: &[u8], lane: usize, k: usize) -> u8 {
    let (g, i) = (k / 4, lane * 4 + k % 4);
    if bits == 8 {
        return block[g * 64 + i];
    }
    let low = block[g / 2 * 64 + i] >> (g % 2 * 4) & 15;
    match bits {
        5 => low | (block[256 + i] >> g & 1) << 4,
        6 => low | (block[256 + g / 4 * 64 + i] >> (g % 4 * 2) & 3) << 4,
        _ => low,
    }
}

fn pack_row(dtype: Dtype, lane: usize, row: &[u8], quants: &mut [u8], scales: &mut [u8]) {
    let Some((bits, kind)) = form(dtype) else {
        let size = dtype.block().1;
        for (k, v) in row.chunks_exact(size).enumerate() {
            quants[(k * LANES + lane) * size..][..size].copy_from_slice(v);
        }
        return;
    };
    let (block, block_bytes) = dtype.block();
    let blocks = row.len() / block_bytes * (block / BLOCK);
    for b in 0..blocks {
        let of = block / BLOCK;
        let parsed = Block::read(dtype, &row[b / of * block_bytes..][..block_bytes], b % of);
        write_quants(bits, lane, &parsed.q, &mut quants[b * bits * 64..][..bits * 64]);
        let at = scale_at(kind, blocks, b, lane);
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

fn write_quants(bits: usize, lane: usize, q: &[u8; BLOCK], block: &mut [u8]) {
    for (k, q) in q.iter().enumerate() {
        let (g, i) = (k / 4, lane * 4 + k % 4);
        match bits {
            8 => block[g * 64 + i] = *q,
            _ => block[g / 2 * 64 + i] |= (q & 15) << (g % 2 * 4),
        }
        match bits {
            5 => block[256 + i] |= (q >> 4) << g,
            6 => block[256 + g / 4 * 64 + i] |= (q >> 4) << (g % 4 * 2),
            _ => {}
        }
    }
}

impl Block {
    /// Part `part` (32 inputs) of one block of the file.
    fn read(dtype: Dtype, bytes: &[u8], part: usize) -> Self {
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
fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]
}

/// Asks for 2 MiB pages, which read up to half faster; only a hint.
fn advise_huge_pages(lines: &[Line]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let start = (lines.as_ptr() as usize).next_multiple_of(PAGE);
        let end = (lines.as_ptr() as usize + lines.len() * 64) / PAGE * PAGE;
        if end > start {
            // SAFETY: whole pages inside the allocation; the advice does not change what they hold.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = lines;
}

fn as_bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: `Line` is 64 plain bytes without padding.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 64) }
}

fn as_bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: `Line` is 64 plain bytes without padding, and every byte pattern is a `Line`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * 64) }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}, {}]", self.dtype.name(), self.rows, self.cols)
    }
}

impl Arithmetic {
    /// Whether inputs for `weights` are quantised.
    pub fn quantises(self, weights: &Packed) -> bool {
        self == Self::Fast && weights.is_quantised()
    }
}
