//! Rotation of heads by their positions.

use std::sync::Arc;

use candle_core::{D, Device, Shape, Tensor};
use eunoe_kernels::grad::rope::Turns;
use eunoe_kernels::rope::Rope;

use super::kernels::{Op, apply1, backend, fits, told};
use crate::Result;

/// Turns the halves of each head of `[b, h, t, d]` against each other: pair i of row t by (pos + t) · base^(−2i/d). `rope`
/// has the same angles for kernels.
///
/// # Errors
/// Positions of more than 32 bits, and those of tensor work.
pub fn rotate(x: &Tensor, rope: &Arc<Rope>, base: f64, pos: usize) -> Result<Tensor> {
    let t = x.dim(2)?;
    let Ok(first) = u32::try_from(pos) else { candle_core::bail!("position {pos} has more than 32 bits") };
    if fits(&[x]) {
        return apply1(Rotate { rope: Arc::clone(rope), first, t, shape: x.shape().clone() }, x);
    }
    let half = rope.dims() / 2;
    let rates: Vec<f64> = (0..half).map(|i| base.powf(-(i as f64) / half as f64)).collect();
    let positions: Vec<f64> = (pos..pos + t).map(|pos| pos as f64).collect();
    // in f64, as far positions times small rates need it
    let [positions, rates] = [(positions, (t, 1)), (rates, (1, half))]
        .map(|(values, shape)| Tensor::from_vec(values, shape, &Device::Cpu)?.to_device(x.device()));
    let angles = positions?.broadcast_mul(&rates?)?;
    let (cos, sin) = (angles.cos()?.to_dtype(x.dtype())?, angles.sin()?.to_dtype(x.dtype())?);
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    Tensor::cat(&[&first, &second], D::Minus1)
}

struct Rotate {
    rope: Arc<Rope>,
    first: u32,
    t: usize,
    shape: Shape,
}

impl Op for Rotate {
    const NAME: &'static str = "rotate";

    fn forward(&self, inputs: &[&[f32]]) -> Result<(Vec<f32>, Shape)> {
        let (isa, pool) = backend();
        let mut y = vec![0.0; inputs[0].len()];
        let turns = Turns::new(&self.rope, self.first, self.t).map_err(told)?;
        turns.forward(isa, pool, self.rope.dims(), inputs[0], &mut y).map_err(told)?;
        Ok((y, self.shape.clone()))
    }

    fn backward(&self, inputs: &[&[f32]], _: &[f32], dy: &[f32]) -> Result<Vec<Vec<f32>>> {
        let (isa, pool) = backend();
        let mut dx = vec![0.0; inputs[0].len()];
        let turns = Turns::new(&self.rope, self.first, self.t).map_err(told)?;
        turns.backward(isa, pool, self.rope.dims(), dy, &mut dx).map_err(told)?;
        Ok(vec![dx])
    }
}
