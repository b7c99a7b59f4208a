//! Row-wise operations between the matrix products. A row's bits depend on that row alone.

use crate::math::{Lanes, exp, fold};
use crate::pool::Shards;
use crate::{Isa, Pool};

/// The gate's activation in a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `g / (1 + e^-g)`
    Silu,
    /// `g (1 + tanh(sqrt(2 / pi) (g + 0.044715 g^3))) / 2`
    Gelu,
}

/// RMS norm of each row: `out = x / sqrt(mean(x^2) + eps) * weight`; `x`, `out` `[rows, weight.len()]`.
///
/// # Panics
/// When `x` and `out` are not the same whole rows.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(weight.len()), "rows of {}", weight.len());
    isa.run(
        #[inline(always)]
        || {
            for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
                let scale = 1.0 / (sum_squares(x) / x.len() as f32 + eps).sqrt();
                for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                    *out = x * scale * w;
                }
            }
        },
    );
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
    const PART: usize = 4096;
    assert_eq!(gate.len(), up.len(), "gate and up");
    let (len, shared) = (up.len(), Shards::new(up));
    pool.run(len.div_ceil(PART), &|i| {
        let range = i * PART..len.min((i + 1) * PART);
        // SAFETY: parts of different tasks are disjoint, and `up` outlives the loop.
        let up = unsafe { shared.part(range.start, range.len()) };
        let gate = &gate[range];
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

/// `x += y`, elementwise.
///
/// # Panics
/// When lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "summands");
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x = (3, 4), mean square 12.5, 1 / sqrt(12.5) = 0.2828427; weights (1, 2): (0.8485281, 2.2627417).
    #[test]
    fn rms_norm_by_hand() {
        for isa in Isa::available() {
            let mut out = [f32::NAN; 2];
            rms_norm(isa, &[3.0, 4.0], &[1.0, 2.0], 0.0, &mut out);
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
    fn instruction_sets_agree_bit_for_bit() {
        let x: Vec<f32> = (0..4099).map(|i| ((i * 37 % 1013) as f32 - 500.0) / 97.0).collect();
        let weight: Vec<f32> = (0..4099).map(|i| (i % 13) as f32 / 7.0).collect();
        let of = |isa: Isa| {
            let mut out = [vec![f32::NAN; 4099], weight.clone(), weight.clone()];
            rms_norm(isa, &x, &weight, 1e-6, &mut out[0]);
            glu(isa, &Pool::new(1), Gate::Silu, &x, &mut out[1]);
            glu(isa, &Pool::new(2), Gate::Gelu, &x, &mut out[2]);
            out.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        assert!(Isa::available().into_iter().all(|isa| of(isa) == of(Isa::Scalar)));
    }
}
