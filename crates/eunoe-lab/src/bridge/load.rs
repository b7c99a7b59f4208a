//! A model file's weights in the lab's decoder, as f32.

use candle_core::{DType, Device, Tensor};
use eunoe_core::{Error, Result};
use eunoe_kernels::matmul::{Arithmetic, Packed};
use eunoe_kernels::rope::Style;
use eunoe_model::gguf::Gguf;
use eunoe_model::{Cpu, Layer, Linear, Model};

use crate::invalid;
use crate::nets::{Config, Decoder, Mlp, Params};
use crate::ops::Precision;

/// Architectures that are softmax attention and SwiGLU with nothing besides.
const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// Reads a model of `llama` or `qwen2` into a decoder, and its parameters beside it. Tokens are the model's own.
///
/// # Errors
/// [`Error::Unsupported`] naming what the decoder does not do, and those of [`Model::load`].
pub fn load(gguf: &Gguf, precision: Precision, device: &Device) -> Result<(Decoder, Params)> {
    let style = refuse(&eunoe_model::Config::from_gguf(gguf)?)?;
    let model = Model::load(gguf, Cpu::new(1, Arithmetic::Exact), &mut |_| {})?;
    let config = config(&model)?;
    let mut params = Params::zeros(DType::F32, device);
    params.precision = precision;
    let decoder = Decoder::new(&config, &mut params)?;
    let mut to = Target { params: &params, head_dim: config.head_dim(), style, set: 0 };
    to.matrix("embed", &model.embed)?;
    to.vector("norm.weight", model.final_norm)?;
    if let Some(head) = &model.head {
        to.matrix("head", head)?;
    }
    for (l, layer) in model.layers.into_iter().enumerate() {
        to.layer(l, layer)?;
    }
    let (set, all) = (to.set, params.iter().count());
    match set == all {
        true => Ok((decoder, params)),
        false => Err(Error::Invalid(format!("{set} of the decoder's {all} parameters are in this model"))),
    }
}

/// Refuses what the decoder does not do; says which values of a head are rotated against each other.
fn refuse(c: &eunoe_model::Config) -> Result<Style> {
    let no = |what: String| Err(Error::Unsupported(format!("the lab does not load {what}")));
    if !ARCHITECTURES.contains(&c.arch.as_str()) {
        return no(format!("architecture `{}`; it loads {}", c.arch, ARCHITECTURES.join(", ")));
    }
    if c.heads * c.head_dim != c.d_model {
        let (heads, d, m) = (c.heads, c.head_dim, c.d_model);
        return no(format!("{heads} heads of {d} on a stream of {m}: they must be as wide together"));
    }
    match c.plain_rope() {
        Some((style, _)) => Ok(style),
        None => no("RoPE scaling, frequency factors, or a rotation of a part of each head".into()),
    }
}

fn config(model: &Model<Cpu>) -> Result<Config> {
    let c = &model.config;
    let has_bias = |l: &Layer<Packed>| [&l.q, &l.k, &l.v].iter().any(|linear| linear.bias.is_some());
    let extra = model.layers.iter().find_map(|l| {
        let norms = l.qk_norm.is_some().then_some("norms of queries and keys");
        let posts =
            (l.attn_post_norm.is_some() || l.mlp_post_norm.is_some()).then_some("norms after a layer");
        norms.or(posts).or(l.out.bias.is_some().then_some("a bias behind attention"))
    });
    if let Some(what) = extra {
        return Err(Error::Unsupported(format!("the lab does not load {what}")));
    }
    Ok(Config {
        vocab: c.vocab,
        d_model: c.d_model,
        layers: c.layers,
        heads: c.heads,
        kv_heads: c.kv_heads,
        d_ff: c.d_ff,
        mlp: Mlp::SwiGlu,
        mixers: vec!["softmax_attention".into()],
        rope_base: c.plain_rope().map_or(Config::default().rope_base, |(_, base)| base),
        norm_eps: c.rms_eps.into(),
        qkv_bias: model.layers.iter().any(has_bias),
        tied: model.head.is_none(),
        ..Config::default()
    })
}

/// The decoder's parameters, set one by one.
struct Target<'a> {
    params: &'a Params,
    head_dim: usize,
    style: Style,
    set: usize,
}

impl Target<'_> {
    fn layer(&mut self, l: usize, layer: Layer<Packed>) -> Result<()> {
        let at = |name: &str| format!("layers.{l}.{name}");
        self.vector(&at("mixer_norm.weight"), layer.attn_norm)?;
        self.vector(&at("mlp_norm.weight"), layer.mlp_norm)?;
        self.rotated(&at("mixer.q"), layer.q)?;
        self.rotated(&at("mixer.k"), layer.k)?;
        let Linear { weight, bias } = layer.v;
        self.matrix(&at("mixer.v"), &weight)?;
        self.bias(&at("mixer.v"), bias)?;
        for (name, weight) in
            [("mixer.out", layer.out.weight), ("gate", layer.gate), ("up", layer.up), ("down", layer.down)]
        {
            self.matrix(&at(name), &weight)?;
        }
        Ok(())
    }

    /// Queries or keys, turned to the order in which halves of a head are rotated.
    fn rotated(&mut self, name: &str, linear: Linear<Packed>) -> Result<()> {
        let turned = |rows: Vec<f32>, cols: usize| match self.style {
            Style::Neox => rows,
            Style::Norm => halves(&rows, cols, self.head_dim),
        };
        let weight = turned(linear.weight.floats(), linear.weight.cols());
        let bias = linear.bias.map(|bias| turned(bias, 1));
        self.vector(&format!("{name}.weight"), weight)?;
        self.bias(name, bias)
    }

    /// A model without this bias has zeros where others of its layers have one.
    fn bias(&mut self, name: &str, bias: Option<Vec<f32>>) -> Result<()> {
        let name = format!("{name}.bias");
        match (bias, self.params.get(&name)) {
            (Some(bias), _) => self.vector(&name, bias),
            (None, Some(_)) => {
                self.set += 1;
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    fn matrix(&mut self, name: &str, weight: &Packed) -> Result<()> {
        self.vector(&format!("{name}.weight"), weight.floats())
    }

    /// Values in the order of the parameter's shape.
    fn vector(&mut self, name: &str, values: Vec<f32>) -> Result<()> {
        let Some(param) = self.params.get(name) else {
            return Err(Error::Invalid(format!("the decoder has no parameter `{name}`")));
        };
        let (want, got) = (param.var.elem_count(), values.len());
        if want != got {
            return Err(Error::shape(format!("`{name}`"), want, got));
        }
        let set = Tensor::from_vec(values, param.var.dims(), &Device::Cpu)
            .and_then(|values| param.var.set(&values.to_device(param.var.device())?));
        self.set += 1;
        set.map_err(invalid)
    }
}

/// Rows `[heads · d, cols]` whose neighbours are rotated in pairs, in the order that pairs i with i + d / 2.
fn halves(rows: &[f32], cols: usize, d: usize) -> Vec<f32> {
    let order = || (0..d).step_by(2).chain((1..d).step_by(2));
    let head =
        |head: &[f32]| -> Vec<f32> { order().flat_map(|i| &head[i * cols..][..cols]).copied().collect() };
    rows.chunks_exact(d * cols).flat_map(head).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_part_into_halves() {
        // two heads of four rows with two inputs: rows 0 2 1 3, then 4 6 5 7
        let rows: Vec<f32> = (0..16).map(|n| n as f32).collect();
        let want = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15].map(|n| n as f32);
        assert_eq!(halves(&rows, 2, 4), want);
    }
}
