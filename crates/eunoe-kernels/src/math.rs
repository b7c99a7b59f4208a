//! Elementary functions whose bits are the same in every vector form, and folds over lanes in one fixed order.

/// One vector of values; loops over it compile to the widest vectors that the caller's features allow.
pub(crate) type Lanes = [f32; 16];

/// Above this (2^127.5) `exp` is infinite, a little early.
const EXP_MAX: f32 = 88.376_26;
/// Below this the result would be subnormal: `exp` is 0.
const EXP_MIN: f32 = -87.336_54;

/// e^x within about one unit in the last place; exactly 1 at 0, 0 below -87.34, infinite above 88.38, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it rounds to an integer, left in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Cephes' expf: minimax over |r| ≤ ln 2 / 2.
    const COEFFICIENTS: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
    let clamped = if x < EXP_MIN { EXP_MIN } else { x };
    let clamped = if clamped > EXP_MAX { EXP_MAX } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut poly = COEFFICIENTS[0];
    for c in &COEFFICIENTS[1..] {
        poly = poly.mul_add(r, *c);
    }
    let fraction = poly.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = fraction * power;
    let y = if x < EXP_MIN { 0.0 } else { y };
    if x > EXP_MAX { f32::INFINITY } else { y }
}

/// Below this `exp2` is 0.
const EXP2_MIN: f32 = -64.0;

/// 2^x for x < 127.5 (attention asks for no more than about 0) within a relative error of 4e-7; exactly 1 at 0, 0 below
/// -64, NaN for NaN.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    /// 1.5 · 2^23: adding it rounds to an integer, left in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // Minimax of the relative error over |r| ≤ 1/2, the constant held at 1.
    #[allow(clippy::approx_constant, reason = "the fit, near ln 2 but not it")]
    const COEFFICIENTS: [f32; 5] = [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 0.240_222_42, 0.693_147];
    let clamped = max(EXP2_MIN, x);
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    let mut poly = COEFFICIENTS[0];
    for c in &COEFFICIENTS[1..] {
        poly = poly.mul_add(r, *c);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = poly.mul_add(r, 1.0) * power;
    if x < EXP2_MIN { 0.0 } else { y }
}

/// The larger; the second where one is NaN.
#[inline(always)]
pub(crate) fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// All lanes folded by halves: 0 with 8, …, then 0 with 4, ….
#[inline(always)]
pub(crate) fn fold(mut x: Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            x[i] = f(x[i], x[i + width]);
        }
    }
    x[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_last_place() {
        let mut worst = 0.0f64;
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            let unit = f64::from((want as f32).next_up() - want as f32);
            worst = worst.max((f64::from(exp(x)) - want).abs() / unit);
        }
        assert!(worst <= 2.0, "{worst} units in the last place");
    }

    #[test]
    fn exp_is_exact_at_its_ends() {
        for (x, want) in [(0.0, 1.0), (-0.0, 1.0), (-88.0, 0.0), (f32::NEG_INFINITY, 0.0), (-1e30, 0.0)] {
            assert_eq!(exp(x), want, "at {x}");
        }
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exp2_is_within_four_ten_millionths() {
        let mut worst = 0.0f64;
        for i in -640_000..1_274_999 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp2();
            worst = worst.max((f64::from(exp2(x)) / want - 1.0).abs());
        }
        assert!(worst <= 4e-7, "{worst}");
        for (x, want) in [(0.0, 1.0), (-0.0, 1.0), (-64.01, 0.0), (f32::NEG_INFINITY, 0.0)] {
            assert_eq!(exp2(x), want, "at {x}");
        }
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn fold_goes_by_halves() {
        // ((1 + 1e8) - 1e8) is 0 in f32, so the order shows: lane 0 meets lane 8 first.
        let mut x = [0.0; 16];
        (x[0], x[8], x[4]) = (1.0, 1e8, -1e8);
        assert_eq!(fold(x, |a, b| a + b), 0.0);
    }
}
