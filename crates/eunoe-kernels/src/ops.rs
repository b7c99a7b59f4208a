//! Row-wise operations between the matrix products. A row's bits depend on that row alone.

use crate::math::{Lanes, exp, fold};
use crate::matmul::Packed;
use crate::pool::Shards;
use crate::rope::Rope;
use crate::{Isa, Pool};

/// The gate's activation in a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `g / (1 + e^-g)`
    Silu,
    /// `g (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))) / 2`
    Gelu,
}

/// Values of one task: less is not worth another thread.
pub(crate) const PART: usize = 1 << 14;

/// Calls `work(start, part)` for parts of `out` that are whole rows of `width` values, on several threads where there
/// is enough to do.
fn in_parts(pool: &Pool, width: usize, out: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    let part = (PART / width).max(1) * width;
    let (len, shared) = (out.len(), Shards::new(out));
    pool.run(len.div_ceil(part), &|i| {
        let start = i * part;
        // SAFETY: parts of different tasks are disjoint, and `out` outlives the loop.
        work(start, unsafe { shared.part(start, part.min(len - start)) });
    });
}

/// Rows `tokens` of an embedding, times `scale`: `[tokens, table.cols()]`.
///
/// # Panics
/// When a token is not a row, or `out` has another length.
pub fn embed(isa: Isa, pool: &Pool, table: &Packed, tokens: &[u32], scale: f32, out: &mut [f32]) {
    let width = table.cols();
    assert_eq!(out.len(), tokens.len() * width, "rows of {width}");
    in_parts(pool, width, out, |start, out| {
        for (token, out) in tokens[start / width..].iter().zip(out.chunks_exact_mut(width)) {
            table.row(*token as usize, out);
        }
        if scale != 1.0 {
            isa.run(
                #[inline(always)]
                || out.iter_mut().for_each(|x| *x *= scale),
            );
        }
    });
}

/// RMS norm of each row: `out = x / sqrt(mean(x^2) + eps) * weight`; `x`, `out` `[rows, weight.len()]`.
///
/// # Panics
/// When `x` and `out` are not the same whole rows.
pub fn rms_norm(isa: Isa, pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(width), "rows of {width}");
    in_parts(pool, width, out, |start, out| {
        isa.run(
            #[inline(always)]
            || {
                for (x, out) in x[start..].chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                    let scale = 1.0 / (sum_squares(x) / width as f32 + eps).sqrt();
                    for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                        *out = x * scale * w;
                    }
                }
            },
        );
    });
}

/// Sum of squares in 16 lanes, folded in one fixed order.
#[inline(always)]
fn sum_squares(x: &[f32]) -> f32 {
    let mut lanes: Lanes = [0.0; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        for i in 0..16 {
            lanes[i] = x[i].mul_add(x[i], lanes[i]);
        }
    }
    for (i, x) in rest.iter().enumerate() {
        lanes[i] = x.mul_add(*x, lanes[i]);
    }
    fold(lanes, |a, b| a + b)
}

/// `up *= activation(gate)`, elementwise.
///
/// # Panics
/// When lengths differ.
pub fn glu(isa: Isa, pool: &Pool, kind: Gate, gate: &[f32], up: &mut [f32]) {
    assert_eq!(gate.len(), up.len(), "gate and up");
    in_parts(pool, 1, up, |start, up| {
        let gate = &gate[start..];
        isa.run(
            #[inline(always)]
            || match kind {
                Gate::Silu => up.iter_mut().zip(gate).for_each(|(u, g)| *u *= g / (1.0 + exp(-g))),
                Gate::Gelu => up.iter_mut().zip(gate).for_each(|(u, g)| *u *= gelu(*g)),
            },
        );
    });
}

#[inline(always)]
fn gelu(g: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = SQRT_2_OVER_PI * (g + 0.044_715 * g * g * g);
    let tanh = 1.0 - 2.0 / (exp(2.0 * inner) + 1.0);
    0.5 * g * (1.0 + tanh)
}

/// `x += y`, elementwise; a shorter `y` is one row, added to every row of `x`.
///
/// # Panics
/// When `x` is not whole rows of `y`.
pub fn add(isa: Isa, pool: &Pool, x: &mut [f32], y: &[f32]) {
    assert!(x.len().is_multiple_of(y.len()), "rows of {}", y.len());
    let width = if x.len() == y.len() { 1 } else { y.len() };
    in_parts(pool, width, x, |start, x| {
        let y = &y[start % y.len()..];
        isa.run(
            #[inline(always)]
            || x.chunks_mut(y.len()).for_each(|x| x.iter_mut().zip(y).for_each(|(x, y)| *x += y)),
        );
    });
}

/// Rotates the heads of row `i` of `x` by `angles[i]` (`[rows, dims]`, as [`Rope::angles`] gives them).
///
/// # Panics
/// When `x` is not as many rows as `angles`, or a head is shorter than what is rotated.
pub fn rotate(isa: Isa, pool: &Pool, rope: &Rope, angles: &[f32], head_dim: usize, x: &mut [f32]) {
    let rows = angles.len() / rope.dims();
    assert!(x.len().is_multiple_of(rows * head_dim), "{} values in {rows} rows of heads", x.len());
    let width = x.len() / rows;
    in_parts(pool, width, x, |start, x| {
        let angles = angles[start / width * rope.dims()..].chunks_exact(rope.dims());
        isa.run(
            #[inline(always)]
            || {
                for (row, angles) in x.chunks_exact_mut(width).zip(angles) {
                    row.chunks_exact_mut(head_dim).for_each(|head| rope.rotate(head, angles));
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rope::Style;

    /// x = (3, 4), mean square 12.5, 1 / sqrt(12.5) = 0.2828427; weights (1, 2): (0.8485281, 2.2627417).
    #[test]
    fn rms_norm_by_hand() {
        for isa in Isa::available() {
            let mut out = [f32::NAN; 2];
            rms_norm(isa, &Pool::new(1), &[3.0, 4.0], &[1.0, 2.0], 0.0, &mut out);
            assert!((out[0] - 0.848_528_1).abs() < 1e-6 && (out[1] - 2.262_741_7).abs() < 1e-6, "{out:?}");
        }
    }

    /// silu(1) = 0.7310586, gelu_tanh(1) = 0.841192, both times up = 2; large gates pass or close.
    #[test]
    fn gates_by_hand() {
        let pool = Pool::new(2);
        for isa in Isa::available() {
            for (kind, at_one) in [(Gate::Silu, 0.731_058_6), (Gate::Gelu, 0.841_192)] {
                let mut up = [2.0, 2.0, 2.0, 2.0];
                glu(isa, &pool, kind, &[1.0, 0.0, 100.0, -100.0], &mut up);
                assert!((up[0] - 2.0 * at_one).abs() < 1e-5, "{kind:?} {up:?}");
                assert!(up[1] == 0.0 && up[2] == 200.0 && up[3].abs() < 1e-30, "{kind:?} {up:?}");
            }
        }
    }

    #[test]
    fn sums_and_rotations_by_hand() {
        // angles of row 0: a quarter turn, (1, 2) to (-2, 1); of row 1: none
        let rope = Rope::new(Style::Norm, 2, 1e4, 1.0, None).expect("even");
        for isa in Isa::available() {
            let (pool, mut x) = (Pool::new(2), [1.0, 2.0, 3.0, 4.0]);
            rotate(isa, &pool, &rope, &[0.0, 1.0, 1.0, 0.0], 2, &mut x);
            assert_eq!(x, [-2.0, 1.0, 3.0, 4.0]);
            add(isa, &pool, &mut x, &[1.0, 2.0, 3.0, 4.0]);
            assert_eq!(x, [-1.0, 3.0, 6.0, 8.0]);
            add(isa, &pool, &mut x, &[10.0, 20.0]);
            assert_eq!(x, [9.0, 23.0, 16.0, 28.0], "one row, added to both");
        }
    }

    /// Rows of 4096: a task takes 4 of them, so 35 rows are 8 tasks of 4 and one of 3.
    #[test]
    fn instruction_sets_and_threads_agree_bit_for_bit() {
        const WIDTH: usize = 4096;
        let value = |i: usize| ((i * 37 % 1013) as f32 - 500.0) / 97.0;
        let x: Vec<f32> = (0..35 * WIDTH).map(value).collect();
        let weight: Vec<f32> = (0..WIDTH).map(|i| (i % 13) as f32 / 7.0).collect();
        let rope = Rope::new(Style::Neox, 48, 1e4, 1.0, None).expect("even");
        let mut angles = vec![0.0; 35 * 48];
        angles.chunks_exact_mut(48).zip(0..).for_each(|(angles, pos)| rope.angles(pos, angles));
        let of = |isa: Isa, threads: usize| {
            let pool = Pool::new(threads);
            let mut out = [vec![f32::NAN; x.len()], x.clone(), x.clone(), x.clone(), x.clone(), x.clone()];
            rms_norm(isa, &pool, &x, &weight, 1e-6, &mut out[0]);
            glu(isa, &pool, Gate::Silu, &x, &mut out[1]);
            glu(isa, &pool, Gate::Gelu, &x, &mut out[2]);
            add(isa, &pool, &mut out[3], &x);
            add(isa, &pool, &mut out[4], &weight);
            rotate(isa, &pool, &rope, &angles, 64, &mut out[5]);
            out.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let want = of(Isa::Scalar, 1);
        for isa in Isa::available() {
            assert!(of(isa, 1) == want && of(isa, 3) == want, "{isa:?}");
        }
        // rows keep their bits whatever comes with them
        let mut row = vec![f32::NAN; WIDTH];
        rms_norm(Isa::Scalar, &Pool::new(1), &x[34 * WIDTH..], &weight, 1e-6, &mut row);
        assert!(row.iter().zip(&want[34 * WIDTH..]).all(|(a, b)| a.to_bits() == *b));
    }
}
