//! What the tests share: noise, comparisons, finite differences.

pub(super) use crate::noise::Noise;
use crate::{Isa, Pool};

pub(super) fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Every value within `tolerance` times 1 + |want|.
#[track_caller]
pub(super) fn assert_near(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(*got) - want).abs();
        let near = off <= tolerance * (1.0 + want.abs()) || f64::from(*got) == *want;
        assert!(near, "{what}[{i}]: {got}, expected {want}");
    }
}

/// The gradient of `f` at `x` by central differences.
pub(super) fn slopes(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let side = |i: usize, step: f64| {
        let mut x = x.to_vec();
        x[i] += step;
        f(&x)
    };
    (0..x.len()).map(|i| (side(i, STEP) - side(i, -STEP)) / (2.0 * STEP)).collect()
}

pub(super) fn dot(a: &[f64], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

/// What `of` gives has the same bits on every instruction set and every number of threads; gives it.
#[track_caller]
pub(super) fn same_everywhere(of: impl Fn(Isa, &Pool) -> Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let bits = |out: &[Vec<f32>]| out.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    let want = of(Isa::Scalar, &Pool::new(1));
    for isa in Isa::available() {
        for threads in [1, 2, 5] {
            assert!(bits(&of(isa, &Pool::new(threads))) == bits(&want), "{isa:?}, {threads} threads");
        }
    }
    want
}
