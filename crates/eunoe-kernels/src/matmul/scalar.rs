//! The reference kernels: the order of operations that the vector forms repeat, lane by lane.

use crate::float16::{even, odd};

use super::acts::{Acts, Sums, Tile};
use super::pack::{CHUNK, Group, Scales, quant_row};
use super::panel::{BIAS, PanelBlock, is_biased};
use super::{BLOCK, LANES, Task, first_rows, float, offset, scale};

pub(super) fn direct<const BITS: usize, const SCALE: u8, const T: usize>(task: &Task<'_>, sums: &mut [Sums]) {
    for (group, tile, sums) in task.cells(sums) {
        int_sums::<BITS, SCALE, T>(task.w.group(group), task.x.quantised(tile), first_rows(sums));
    }
}

/// Sums of one group for a tile of quantised inputs. Per block, with integer `i = sum (q_w - offset) * q_x`
/// (half blocks weighed by their integer scales for `HALVES`):
/// `sum = fma(i, s_w * d_x, sum)`, then `sum = fma(m_w, d_x * sum(q_x), sum)` where there is a minimum.
fn int_sums<const BITS: usize, const SCALE: u8, const T: usize>(
    g: Group<'_>,
    x: Tile<'_>,
    sums: &mut [[f32; LANES]; T],
) {
    *sums = [[0.0; LANES]; T];
    for b in 0..g.blocks {
        let chunk = g.chunk(BITS, SCALE, b / CHUNK);
        let mut quants = [[0; 4 * LANES]; BLOCK / 4];
        for (k, quants) in quants.iter_mut().enumerate() {
            quant_row::<BITS>(chunk.block(BITS, b % CHUNK), k, quants);
        }
        let scales = Scales::read(SCALE, chunk, b % CHUNK);
        for (t, sums) in sums.iter_mut().enumerate() {
            let input = Input { x, b, t, width: T };
            input.add::<SCALE>(&quants, offset(BITS, SCALE), &scales, sums);
        }
    }
}

/// As `int_sums`, for the blocks of a panel, onto what `sums` hold.
pub(super) fn panel_sums<const SCALE: u8>(panel: &[PanelBlock], x: Tile<'_>, sums: &mut Sums) {
    let offset = if is_biased(SCALE) { BIAS } else { 0 };
    for (b, w) in panel.iter().enumerate() {
        for (t, sums) in sums.iter_mut().enumerate() {
            Input { x, b, t, width: Acts::MAX_WIDTH }.add::<SCALE>(&w.quants, offset, &w.scales, sums);
        }
    }
}

/// Block `b` of row `t` of a tile.
struct Input<'a> {
    x: Tile<'a>,
    b: usize,
    t: usize,
    width: usize,
}

impl Input<'_> {
    /// Adds the products with one block of 16 rows to their sums.
    fn add<const SCALE: u8>(
        &self,
        quants: &[[u8; 4 * LANES]; BLOCK / 4],
        offset: i32,
        s: &Scales,
        sums: &mut [f32; LANES],
    ) {
        let Self { x, b, t, width } = *self;
        let (d, d_sum) = (x.scales[2 * b * width + t], x.scales[(2 * b + 1) * width + t]);
        for (lane, sum) in sums.iter_mut().enumerate() {
            let half = |h: usize| -> i32 {
                let products = (h * 16..h * 16 + 16).map(|k| {
                    let q = i32::from(quants[k / 4][lane * 4 + k % 4]) - offset;
                    q * i32::from(x.quants[((b * 8 + k / 4) * width + t) * 4 + k % 4])
                });
                products.sum()
            };
            let int = match SCALE {
                scale::HALVES => half(0) * s.halves[0][lane] + half(1) * s.halves[1][lane],
                _ => half(0) + half(1),
            };
            *sum = (int as f32).mul_add(s.weight[lane] * d, *sum);
            if matches!(SCALE, scale::AFFINE | scale::SUPER) {
                *sum = s.min[lane].mul_add(d_sum, *sum);
            }
        }
    }
}

/// Sums of one group of float weights (`[cols][16]`) for a tile of float inputs (`[cols][T]`): one fused multiply-add
/// per input, in input order.
pub(super) fn float_sums<const KIND: u8, const T: usize>(w: &[u8], x: &[f32], sums: &mut [[f32; LANES]; T]) {
    *sums = [[0.0; LANES]; T];
    let size = float::bytes(KIND);
    for (w, x) in w.chunks_exact(LANES * size).zip(x.as_chunks::<T>().0) {
        for t in 0..T {
            for (sum, w) in sums[t].iter_mut().zip(w.chunks_exact(size)) {
                *sum = float::read(KIND, w).mul_add(x[t], *sum);
            }
        }
    }
}

/// Sums of one group of bf16 weights (`[pair][16]` words) for a tile of inputs in pairs (`[pair][T]`): per pair a fused
/// multiply-add of the second inputs, then one of the first, as the instruction does.
#[inline(always)]
pub(super) fn pair_sums<const T: usize>(w: &[u8], x: &[u32], sums: &mut [[f32; LANES]; T]) {
    *sums = [[0.0; LANES]; T];
    for (w, x) in w.as_chunks::<64>().0.iter().zip(x.as_chunks::<T>().0) {
        let mut words = [0; LANES];
        for (word, bytes) in words.iter_mut().zip(w.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        for t in 0..T {
            for lane in 0..LANES {
                let sum = odd(words[lane]).mul_add(odd(x[t]), sums[t][lane]);
                sums[t][lane] = even(words[lane]).mul_add(even(x[t]), sum);
            }
        }
    }
}
