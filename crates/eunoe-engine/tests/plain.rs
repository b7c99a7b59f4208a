//! The engine against a second backend and a second memory, both as plain as the equations: f64 sums over dequantised
//! weights, and dense attention over everything that was read.

mod toy;

use eunoe_core::{Dtype, Result};
use eunoe_engine::Arithmetic;
use eunoe_kernels::Pool;
use eunoe_kernels::matmul::Packed;
use eunoe_kernels::ops::Gate;
use eunoe_kernels::rope::Rope;
use eunoe_model::gguf::Gguf;
use eunoe_model::probe::NoProbe;
use eunoe_model::{Backend, Buffer, Config, Memory, Model};
use toy::{LLAMA, Toy, read, text};

struct Plain;

struct Matrix {
    cols: usize,
    w: Vec<f32>,
}

impl Backend for Plain {
    type Weight = Matrix;

    fn weight(&self, dtype: Dtype, rows: usize, cols: usize, bytes: &[u8]) -> Result<Matrix> {
        let packed = Packed::new(&Pool::new(1), dtype, rows, cols, bytes)?;
        let mut w = vec![0.0; rows * cols];
        w.chunks_exact_mut(cols).enumerate().for_each(|(r, row)| packed.row(r, row));
        Ok(Matrix { cols, w })
    }

    fn embed(&self, table: &Matrix, tokens: &[u32], scale: f32) -> Buffer {
        let row = |t: &u32| &table.w[*t as usize * table.cols..][..table.cols];
        tokens.iter().flat_map(row).map(|w| w * scale).collect::<Vec<_>>().into()
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32) -> Buffer {
        let norm = |row: &[f32]| {
            let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / row.len() as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            row.iter()
                .zip(weight)
                .map(|(x, w)| (f64::from(*x) * scale * f64::from(*w)) as f32)
                .collect::<Vec<_>>()
        };
        x.chunks_exact(weight.len()).flat_map(norm).collect::<Vec<_>>().into()
    }

    fn matmul<const N: usize>(&self, weights: [&Matrix; N], x: &[f32], cols: usize) -> [Buffer; N] {
        let dot =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        weights.map(|m| {
            let row = |x| m.w.chunks_exact(cols).map(move |w| dot(x, w) as f32);
            x.chunks_exact(cols).flat_map(row).collect::<Vec<_>>().into()
        })
    }

    fn rope(&self, rope: &Rope, angles: &[f32], head_dim: usize, x: &mut [f32]) {
        let rows = angles.len() / rope.dims();
        for (row, angles) in x.chunks_exact_mut(x.len() / rows).zip(angles.chunks_exact(rope.dims())) {
            row.chunks_exact_mut(head_dim).for_each(|head| rope.rotate(head, angles));
        }
    }

    fn glu(&self, kind: Gate, gate: &[f32], up: &mut [f32]) {
        for (u, g) in up.iter_mut().zip(gate) {
            let g = f64::from(*g);
            let act = match kind {
                Gate::Silu => g / (1.0 + (-g).exp()),
                Gate::Gelu => {
                    0.5 * g
                        * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g.powi(3))).tanh())
                }
            };
            *u = (f64::from(*u) * act) as f32;
        }
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        x.chunks_exact_mut(y.len()).for_each(|x| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
    }
}

/// All keys and values of one text, read in one pass.
struct Dense<'a>(&'a Config);

impl Memory for Dense<'_> {
    fn attend(&mut self, layer: usize, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) -> Result<()> {
        let c = self.0;
        let (d, group) = (c.head_dim, c.heads / c.kv_heads);
        let window = c.sliding.filter(|_| c.is_sliding(layer)).map_or(usize::MAX, |s| s.window);
        for (i, out) in out.chunks_exact_mut(c.heads * d).enumerate() {
            for (h, out) in out.chunks_exact_mut(d).enumerate() {
                let q = &q[(i * c.heads + h) * d..][..d];
                let row = |x: &'_ [f32], j: usize| x[(j * c.kv_heads + h / group) * d..][..d].to_vec();
                let seen = (i + 1).saturating_sub(window)..=i;
                let dot = |j: usize| -> f64 {
                    q.iter().zip(row(k, j)).map(|(q, k)| f64::from(*q) * f64::from(k)).sum()
                };
                let weights: Vec<f64> =
                    seen.clone().map(|j| (dot(j) * f64::from(c.attn_scale)).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (e, out) in out.iter_mut().enumerate() {
                    let mix: f64 = seen.clone().zip(&weights).map(|(j, w)| w * f64::from(row(v, j)[e])).sum();
                    *out = (mix / sum) as f32;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn the_engine_computes_what_the_equations_say() {
    let gemma = Toy { arch: "gemma3", layers: 7, heads: 4, kv_heads: 2, context: 4096 };
    let qwen = Toy { arch: "qwen2", layers: 2, heads: 7, kv_heads: 1, context: 4096 };
    for toy in [LLAMA, gemma, qwen] {
        let tokens = text(90);
        let gguf = Gguf::parse(toy.gguf()).unwrap();
        let plain = Model::load(&gguf, Plain, &mut |_| {}).unwrap();
        let pos: Vec<u32> = (0..90).collect();
        let x = plain.forward(&tokens, &pos, &mut Dense(&plain.config), &mut NoProbe).unwrap();
        let want = plain.logits(&x[89 * plain.config.d_model..]);
        for (arithmetic, tolerance) in [(Arithmetic::Exact, 1e-4), (Arithmetic::Fast, 0.1)] {
            let engine = toy.open_as(2, 40, arithmetic);
            let session = read(&engine, "full", &tokens);
            let size = want.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (got, want) in session.logits().iter().zip(&*want) {
                let off = (got - want).abs() / size;
                assert!(off <= tolerance, "{toy:?} {arithmetic:?}: {got} for {want}");
            }
        }
    }
}
