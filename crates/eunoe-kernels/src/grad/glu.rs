//! Activations and gated products, elementwise.
//!
//! * Paper:    Hendrycks and Gimpel, 2016, arXiv 1606.08415 (GELU, its tanh form; SiLU); Shazeer, 2020, arXiv 2002.05202
//! * Equation: y = act(x), dx = act'(x) dy; out = act(gate) up, dgate = act'(gate) up dout, dup = act(gate) dout
//! * Shapes:   all of one length
//! * Cost:     nothing is kept: the backward pass starts from the inputs
//! * Differs:  nothing
//! * Oracle:   the equation in f64, and its central differences

use eunoe_core::Result;

use crate::math::exp;
use crate::{Isa, Pool};

use super::parts::{check, in_rows};

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// x / (1 + e^-x)
    Silu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))) / 2
    Gelu,
}

/// A gate and what passes it.
#[derive(Clone, Copy)]
pub struct Gated<'a> {
    /// What the activation is applied to.
    pub gate: &'a [f32],
    /// What it is multiplied with.
    pub up: &'a [f32],
}

impl Act {
    /// `y = act(x)`.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when lengths differ.
    pub fn forward(self, isa: Isa, pool: &Pool, x: &[f32], y: &mut [f32]) -> Result<()> {
        check("activations", x.len(), y.len())?;
        match self {
            Self::Sigmoid => map(isa, pool, [x], [y], |[x]| [sigmoid(x)[0]]),
            Self::Silu => map(isa, pool, [x], [y], |[x]| [silu(x)[0]]),
            Self::Gelu => map(isa, pool, [x], [y], |[x]| [gelu(x)[0]]),
        }
        Ok(())
    }

    /// `dx = act'(x) dy`.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when lengths differ.
    pub fn backward(self, isa: Isa, pool: &Pool, x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<()> {
        check("gradient of activations", x.len(), dy.len())?;
        check("gradient of their inputs", x.len(), dx.len())?;
        match self {
            Self::Sigmoid => map(isa, pool, [x, dy], [dx], |[x, dy]| [sigmoid(x)[1] * dy]),
            Self::Silu => map(isa, pool, [x, dy], [dx], |[x, dy]| [silu(x)[1] * dy]),
            Self::Gelu => map(isa, pool, [x, dy], [dx], |[x, dy]| [gelu(x)[1] * dy]),
        }
        Ok(())
    }

    /// `out = act(gate) up`.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when lengths differ.
    pub fn glu(self, isa: Isa, pool: &Pool, x: Gated<'_>, out: &mut [f32]) -> Result<()> {
        let Gated { gate, up } = x;
        check("up", gate.len(), up.len())?;
        check("gated", gate.len(), out.len())?;
        match self {
            Self::Sigmoid => map(isa, pool, [gate, up], [out], |[g, up]| [sigmoid(g)[0] * up]),
            Self::Silu => map(isa, pool, [gate, up], [out], |[g, up]| [silu(g)[0] * up]),
            Self::Gelu => map(isa, pool, [gate, up], [out], |[g, up]| [gelu(g)[0] * up]),
        }
        Ok(())
    }

    /// `dgate = act'(gate) up dout`, `dup = act(gate) dout`.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Shape`] when lengths differ.
    pub fn glu_backward(
        self,
        isa: Isa,
        pool: &Pool,
        x: Gated<'_>,
        dout: &[f32],
        dgate: &mut [f32],
        dup: &mut [f32],
    ) -> Result<()> {
        let len = x.gate.len();
        for (what, got) in
            [("up", x.up.len()), ("dout", dout.len()), ("dgate", dgate.len()), ("dup", dup.len())]
        {
            check(what, len, got)?;
        }
        let (ins, outs) = ([x.gate, x.up, dout], [dgate, dup]);
        match self {
            Self::Sigmoid => map(isa, pool, ins, outs, |x| through(sigmoid(x[0]), x)),
            Self::Silu => map(isa, pool, ins, outs, |x| through(silu(x[0]), x)),
            Self::Gelu => map(isa, pool, ins, outs, |x| through(gelu(x[0]), x)),
        }
        Ok(())
    }
}

#[inline(always)]
fn through([value, slope]: [f32; 2], [_, up, dout]: [f32; 3]) -> [f32; 2] {
    [slope * up * dout, value * dout]
}

/// Value and slope.
#[inline(always)]
fn sigmoid(x: f32) -> [f32; 2] {
    let s = 1.0 / (1.0 + exp(-x));
    [s, s * (1.0 - s)]
}

/// Value and slope.
#[inline(always)]
fn silu(x: f32) -> [f32; 2] {
    let power = 1.0 + exp(-x);
    let s = 1.0 / power;
    [x / power, s * (1.0 + x * (1.0 - s))]
}

/// Value and slope.
#[inline(always)]
fn gelu(x: f32) -> [f32; 2] {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    const CUBIC: f32 = 0.044_715;
    let inner = SQRT_2_OVER_PI * (x + CUBIC * x * x * x);
    // tanh = 1 - 2 rest, with nothing lost where it is near 1
    let rest = 1.0 / (exp(2.0 * inner) + 1.0);
    let steep = SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x);
    [x * (1.0 - rest), (1.0 - rest) + 2.0 * x * rest * (1.0 - rest) * steep]
}

/// `f` of each element, on several threads where there is enough to do.
#[inline(always)]
fn map<const N: usize, const M: usize>(
    isa: Isa,
    pool: &Pool,
    ins: [&[f32]; N],
    outs: [&mut [f32]; M],
    f: impl Fn([f32; N]) -> [f32; M] + Sync + Copy,
) {
    in_rows(pool, ins[0].len(), 1, outs, |rows, mut outs| {
        let ins = ins.map(|x| &x[rows.clone()]);
        isa.run(
            #[inline(always)]
            || {
                let len = outs[0].len();
                // one bound for all, so that the loop has no checks
                let ins = ins.map(|x| &x[..len]);
                let mut outs = outs.each_mut().map(|out| &mut out[..len]);
                for i in 0..len {
                    let y = f(ins.map(|x| x[i]));
                    for (out, y) in outs.iter_mut().zip(y) {
                        out[i] = y;
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Noise, assert_near, f64s, same_everywhere, slopes};
    use super::*;

    const ALL: [Act; 3] = [Act::Sigmoid, Act::Silu, Act::Gelu];

    fn oracle(act: Act, x: f64) -> f64 {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        match act {
            Act::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Act::Silu => x / (1.0 + (-x).exp()),
            Act::Gelu => x * (1.0 + inner.tanh()) / 2.0,
        }
    }

    /// At 0: sigmoid 1/2 with slope 1/4, silu and gelu 0 with slope 1/2. At 100 and -100 they are lines.
    #[test]
    fn activations_by_hand() {
        let (x, dy) = ([0.0, 100.0, -100.0], [4.0, 1.0, 1.0]);
        let cases = [
            (Act::Sigmoid, [0.5, 1.0, 0.0], [1.0, 0.0, 0.0]),
            (Act::Silu, [0.0, 100.0, 0.0], [2.0, 1.0, 0.0]),
            (Act::Gelu, [0.0, 100.0, 0.0], [2.0, 1.0, 0.0]),
        ];
        for (act, y, dx) in cases {
            let got = same_everywhere(|isa, pool| run(isa, pool, act, &x, &x, &dy));
            assert_near(&got[0], &y, 1e-6, "y");
            assert_near(&got[1], &dx, 1e-6, "dx");
        }
    }

    /// silu(1) = 0.7310586, silu'(1) = 0.7310586 (1 + 0.2689414) = 0.9276706; with up 2 and dout 3: out 1.4621172,
    /// dgate = 0.9276706 · 6 = 5.5660236, dup = 2.1931758.
    #[test]
    fn a_gate_by_hand() {
        let got = same_everywhere(|isa, pool| run(isa, pool, Act::Silu, &[1.0], &[2.0], &[3.0]));
        assert_near(&got[2], &[1.462_117_2], 1e-6, "out");
        assert_near(&got[3], &[5.566_023_6], 1e-6, "dgate");
        assert_near(&got[4], &[2.193_175_8], 1e-6, "dup");
    }

    /// y and dx at the gate; out, dgate, dup.
    fn run(isa: Isa, pool: &Pool, act: Act, gate: &[f32], up: &[f32], dout: &[f32]) -> Vec<Vec<f32>> {
        let mut outs: [_; 5] = std::array::from_fn(|_| vec![f32::NAN; gate.len()]);
        let [y, dx, out, dgate, dup] = &mut outs;
        act.forward(isa, pool, gate, y).expect("sizes agree");
        act.backward(isa, pool, gate, dout, dx).expect("sizes agree");
        act.glu(isa, pool, Gated { gate, up }, out).expect("sizes agree");
        act.glu_backward(isa, pool, Gated { gate, up }, dout, dgate, dup).expect("sizes agree");
        outs.into()
    }

    #[test]
    fn activations_and_gates_agree_with_f64_and_its_differences() {
        let mut noise = Noise(6);
        for act in ALL {
            for len in [0, 1, 7, 100, 40_000] {
                let gate: Vec<f32> = noise.vec(len).iter().map(|x| x * 6.0).collect();
                let (up, dout) = (noise.vec(len), noise.vec(len));
                let got = same_everywhere(|isa, pool| run(isa, pool, act, &gate, &up, &dout));
                let value = |i: usize| oracle(act, f64::from(gate[i]));
                let slope = |i: usize| slopes(&f64s(&gate[i..=i]), |x| oracle(act, x[0]))[0];
                let of = |f: &dyn Fn(usize) -> f64| (0..len).map(f).collect::<Vec<_>>();
                let [up, dout] = [&up, &dout].map(|x| f64s(x));
                assert_near(&got[0], &of(&value), 1e-6, "y");
                assert_near(&got[1], &of(&|i| slope(i) * dout[i]), 2e-6, "dx");
                assert_near(&got[2], &of(&|i| value(i) * up[i]), 1e-6, "out");
                assert_near(&got[3], &of(&|i| slope(i) * up[i] * dout[i]), 2e-6, "dgate");
                assert_near(&got[4], &of(&|i| value(i) * dout[i]), 1e-6, "dup");
            }
        }
    }

    #[test]
    fn lengths_that_differ_are_refused() {
        let (isa, pool, [a, b]) = (Isa::Scalar, &Pool::new(1), &mut [[0.0; 2]; 2]);
        let x = Gated { gate: &[1.0; 2], up: &[1.0; 2] };
        assert!(Act::Silu.forward(isa, pool, &[1.0; 3], a).is_err());
        assert!(Act::Silu.backward(isa, pool, &[1.0; 2], &[1.0; 3], a).is_err());
        assert!(Act::Silu.glu(isa, pool, Gated { up: &[1.0], ..x }, a).is_err());
        assert!(Act::Silu.glu_backward(isa, pool, x, &[1.0; 2], &mut a[..1], b).is_err());
    }
}
