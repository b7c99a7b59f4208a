//! The reference kernels: the order of operations that the vector forms repeat, lane by lane.

use super::acts::Tile;
use super::pack::{BlockScale, Group, quant};
use super::{BLOCK, LANES, offset, scale};

/// Sums of one group for a tile of quantised inputs. Per block, with integer `i = sum (q_w - offset) * q_x`
/// (half blocks weighed by their integer scales for `HALVES`):
/// `sum = fma(i, s_w * d_x, sum)`, then `sum = fma(m_w, d_x * sum(q_x), sum)` where there is a minimum.
pub(super) fn int_sums<const BITS: usize, const SCALE: u8, const T: usize>(
    g: Group<'_>,
    x: Tile<'_>,
    sums: &mut [[f32; LANES]; T],
) {
    for b in 0..g.blocks {
        let block = &g.quants[b * BITS * 64..][..BITS * 64];
        for lane in 0..LANES {
            let s = BlockScale::read(SCALE, g, b, lane);
            let (weight, min) = match SCALE {
                scale::SUPER => (s.d * f32::from(s.sc[0]), -(s.m * f32::from(s.sc[1]))),
                _ => (s.d, s.m),
            };
            let w: [i32; BLOCK] = std::array::from_fn(|k| i32::from(quant(BITS, block, lane, k)));
            for t in 0..T {
                let input = x.scales[b * T + t];
                let at = |k: usize| i32::from(x.quants[((b * 8 + k / 4) * T + t) * 4 + k % 4]);
                let half = |h: usize| -> i32 {
                    let dot: i32 = (h * 16..h * 16 + 16).map(|k| w[k] * at(k)).sum();
                    dot - offset(BITS, SCALE) * input.sums[h]
                };
                let int = match SCALE {
                    scale::HALVES => half(0) * i32::from(s.sc[0] as i8) + half(1) * i32::from(s.sc[1] as i8),
                    _ => half(0) + half(1),
                };
                let sum = &mut sums[t][lane];
                *sum = (int as f32).mul_add(weight * input.d, *sum);
                if matches!(SCALE, scale::AFFINE | scale::SUPER) {
                    *sum = min.mul_add(input.d * (input.sums[0] + input.sums[1]) as f32, *sum);
                }
            }
        }
    }
}

/// Sums of one group of dequantised weights (`[cols][16]`) for a tile of float inputs (`[cols][T]`): one fused
/// multiply-add per input, in input order.
pub(super) fn float_sums<const T: usize>(w: &[[f32; LANES]], x: &[f32], sums: &mut [[f32; LANES]; T]) {
    for (w, x) in w.iter().zip(x.chunks_exact(T)) {
        for t in 0..T {
            for lane in 0..LANES {
                sums[t][lane] = w[lane].mul_add(x[t], sums[t][lane]);
            }
        }
    }
}
