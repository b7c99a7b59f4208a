//! Every channel looks at its last few tokens through a learned filter and is gated by the token itself.
//!
//! * Paper:    Arora, 2024, arXiv 2402.18668 (BaseConv), as its hybrid uses it
//! * Equation: \[u₁, u₂\] = W_in x, y = W_out(silu(conv(u₁)) ⊙ u₂), conv causal over `kernel` tokens, channel by channel
//! * Shapes:   x \[b, t, m\] → \[b, t, m\]; state tail \[b, kernel − 1, expand · m\]
//! * Cost:     3 · expand · m² multiply-adds per token, the same at every length; constant state
//! * Differs:  nothing
//! * Oracle:   the sum over the filter in f64

use candle_core::Tensor;
use eunoe_core::{Arg, Card, Kind, Shelf};

use super::{MixerEntry, Spec};
use crate::nets::{Init, Linear, ShortConv};
use crate::{Cost, Ctx, Mixer, Result, State, ops};

/// The mixer's entry.
pub static ENTRY: MixerEntry = MixerEntry {
    card: Card {
        id: "gated_conv",
        shelf: Shelf::Mixer,
        name: "Gated short convolution (BaseConv)",
        paper: "Arora 2024, arXiv 2402.18668",
        idea: "mixes the last few tokens with learned filters",
        args: &[
            Arg {
                name: "kernel",
                kind: Kind::Int { min: 1, max: 256 },
                default: "3",
                help: "tokens that a filter sees",
            },
            Arg {
                name: "expand",
                kind: Kind::Int { min: 1, max: 16 },
                default: "2",
                help: "width inside, in widths of the model",
            },
        ],
    },
    make: |args, spec, init| {
        let (kernel, expand) = (args.int("kernel") as usize, args.int("expand") as usize);
        Ok(Box::new(GatedConv::new(spec, kernel, expand, init)?))
    },
};

/// See the module.
pub struct GatedConv {
    conv_in: Linear,
    gate: Linear,
    conv: ShortConv,
    out: Linear,
    spec: Spec,
    kernel: usize,
    width: usize,
}

impl GatedConv {
    fn new(spec: &Spec, kernel: usize, expand: usize, init: &mut Init<'_>) -> Result<Self> {
        let (m, width) = (spec.d_model, expand * spec.d_model);
        let mut linear = |name, inputs, outputs, std| -> Result<Linear> {
            let mut init = init.at(name);
            Linear::new(&mut init, inputs, outputs, std)?.with_bias(&mut init, 0.0)
        };
        let (conv_in, gate) = (linear("in", m, width, spec.std)?, linear("gate", m, width, spec.std)?);
        let out = linear("out", width, m, spec.out_std)?;
        let conv = ShortConv::new(&mut init.at("conv"), width, kernel, true)?;
        Ok(Self { conv_in, gate, conv, out, spec: *spec, kernel, width })
    }
}

impl Mixer for GatedConv {
    fn run(&self, x: &Tensor, mut state: State, _: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let inner = ops::silu(&self.conv.run(&self.conv_in.run(x)?, &mut state, "tail")?)?;
        state.pos += x.dim(1)?;
        Ok((self.out.run(&(inner * self.gate.run(x)?)?)?, state))
    }

    fn cost(&self, _: usize) -> Cost {
        let macs = 3 * self.spec.d_model * self.width + self.kernel * self.width;
        Cost { macs, state: ShortConv::state(self.kernel, self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{Lab, close};

    #[test]
    fn it_is_the_sum_over_the_filter() {
        for kernel in [1, 3, 4] {
            let mut lab = Lab::f64(8, 2, 2);
            let mixer = GatedConv::new(&lab.spec, kernel, 2, &mut lab.params.init()).unwrap();
            // biases begin as 0, which would hide them
            for (n, (_, bias)) in lab.params.iter().filter(|(name, _)| name.ends_with("bias")).enumerate() {
                let values = (bias.var.ones_like().unwrap() * (0.3 + n as f64)).unwrap();
                bias.var.set(&values).unwrap();
            }
            let bias: Vec<f64> = lab.params.get("conv.bias").unwrap().var.to_vec1().unwrap();
            let x = lab.input(1, 6);
            let (y, _) = mixer.run(&x, State::default(), &mut Ctx::default()).unwrap();
            let rows: Vec<Vec<f64>> = x.get(0).unwrap().to_vec2().unwrap();
            let (u, gate) = (Lab::rows(&mixer.conv_in, &rows), Lab::rows(&mixer.gate, &rows));
            let filter: Vec<Vec<f64>> = mixer.conv.weight().to_vec2().unwrap();
            let cell = |t: usize, c: usize| {
                let seen = (0..kernel).filter(|j| t + j + 1 >= kernel);
                let a = bias[c] + seen.map(|j| filter[j][c] * u[t + j + 1 - kernel][c]).sum::<f64>();
                a / (1.0 + (-a).exp()) * gate[t][c]
            };
            let inner: Vec<Vec<f64>> = (0..6).map(|t| (0..16).map(|c| cell(t, c)).collect()).collect();
            close(&y.get(0).unwrap().to_vec2().unwrap(), &Lab::rows(&mixer.out, &inner), 1e-12);
        }
    }
}
