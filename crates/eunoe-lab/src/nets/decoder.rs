//! The decoder: embedding, blocks of a mixer and an MLP, norm, head. One for all mixers.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Init, Linear, Params, RmsNorm};
use crate::mixers::{self, Spec};
use crate::ops::Precision;
use crate::streams::Batch;
use crate::{Ctx, Mixer, Result, State, invalid, ops};

/// The sizes of a decoder, as its file has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Tokens.
    pub vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads of a mixer that has heads.
    pub heads: usize,
    /// Key/value heads of `softmax_attention`; 0 for as many as `heads`.
    pub kv_heads: usize,
    /// Width of the MLP; 0 for blocks without one.
    pub d_ff: usize,
    /// What the MLP does.
    pub mlp: Mlp,
    /// The mixers of the layers, repeated until there are `layers`, e.g. `["gated_conv", "based(features=16)"]`.
    pub mixers: Vec<String>,
    /// Base of rotary positions, for mixers that rotate.
    pub rope_base: f64,
    /// Added to the mean square in norms.
    pub norm_eps: f64,
    /// Whether queries, keys and values of `softmax_attention` have biases.
    pub qkv_bias: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Standard deviation of the first weights.
    pub init_std: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            vocab: 256,
            d_model: 256,
            layers: 4,
            heads: 4,
            kv_heads: 0,
            d_ff: 704,
            mlp: Mlp::SwiGlu,
            mixers: vec!["softmax_attention".into()],
            rope_base: 10_000.0,
            norm_eps: 1e-5,
            qkv_bias: false,
            tied: true,
            init_std: 0.02,
        }
    }
}

/// No model of this lab comes near.
const MOST_LAYERS: usize = 1 << 10;

/// What stands after the mixer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mlp {
    /// W₃(silu(W₁x) ⊙ W₂x).
    SwiGlu,
    /// W₃(W₁x ⊙ W₂x), without an activation (TransNormerLLM).
    Sglu,
}

/// A gated MLP.
struct GatedMlp {
    kind: Mlp,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl GatedMlp {
    fn run(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = (self.gate.run(x)?, self.up.run(x)?);
        let inner = match self.kind {
            Mlp::SwiGlu => ops::silu_mul(&gate, &up)?,
            Mlp::Sglu => (gate * up)?,
        };
        self.down.run(&inner)
    }
}

/// x + mixer(norm(x)), then x + MLP(norm(x)).
pub struct Block {
    mixer_norm: RmsNorm,
    mixer: Box<dyn Mixer>,
    mlp: Option<(RmsNorm, GatedMlp)>,
}

impl Block {
    fn new(init: &mut Init<'_>, config: &Config, layer: usize) -> eunoe_core::Result<Self> {
        let Config { d_model, d_ff, norm_eps, init_std, .. } = *config;
        let phrase = &config.mixers[layer % config.mixers.len()];
        let spec = Spec::of(config, layer);
        let mixer = mixers::build(phrase, &spec, &mut init.at("mixer"))?;
        let mixer_norm = RmsNorm::new(&mut init.at("mixer_norm"), d_model, norm_eps).map_err(invalid)?;
        let mlp = (d_ff > 0).then(|| -> Result<_> {
            let mut linear =
                |name, inputs, outputs, std| Linear::new(&mut init.at(name), inputs, outputs, std);
            let (gate, up) =
                (linear("gate", d_model, d_ff, init_std)?, linear("up", d_model, d_ff, init_std)?);
            let mlp =
                GatedMlp { kind: config.mlp, gate, up, down: linear("down", d_ff, d_model, spec.out_std)? };
            Ok((RmsNorm::new(&mut init.at("mlp_norm"), d_model, norm_eps)?, mlp))
        });
        Ok(Self { mixer_norm, mixer, mlp: mlp.transpose().map_err(invalid)? })
    }

    fn run(&self, x: &Tensor, state: State, ctx: &mut Ctx<'_>) -> Result<(Tensor, State)> {
        let (y, state) = self.mixer.run(&self.mixer_norm.run(x)?, state, ctx)?;
        let x = (x + y)?;
        let x = match &self.mlp {
            Some((norm, mlp)) => (&x + mlp.run(&norm.run(&x)?)?)?,
            None => x,
        };
        Ok((x, state))
    }

    /// The mixer.
    pub fn mixer(&self) -> &dyn Mixer {
        self.mixer.as_ref()
    }
}

/// A language model around a mixer per layer.
pub struct Decoder {
    /// Its sizes.
    pub config: Config,
    /// Its blocks.
    pub blocks: Vec<Block>,
    embed: Tensor,
    norm: RmsNorm,
    head: Option<Linear>,
    precision: Precision,
}

impl Decoder {
    /// Makes a model whose parameters are added to `params`.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Invalid`] for sizes that cannot be, [`eunoe_core::Error::Plan`] for a mixer that is not there.
    pub fn new(config: &Config, params: &mut Params) -> eunoe_core::Result<Self> {
        config.check()?;
        let mut init = params.init();
        let (vocab, d_model) = (config.vocab, config.d_model);
        let embed = init.at("embed").normal("weight", &[vocab, d_model], config.init_std).map_err(invalid)?;
        let blocks = (0..config.layers).map(|l| Block::new(&mut init.at("layers").at(l), config, l));
        let blocks = blocks.collect::<eunoe_core::Result<_>>()?;
        let norm = RmsNorm::new(&mut init.at("norm"), d_model, config.norm_eps).map_err(invalid)?;
        let head = match config.tied {
            true => None,
            false => {
                let head = Linear::new(&mut init.at("head"), d_model, vocab, config.init_std);
                Some(head.map_err(invalid)?)
            }
        };
        Ok(Self { config: config.clone(), blocks, embed, norm, head, precision: params.precision })
    }

    /// Continues from `states` (one per layer, or none at the start) with `tokens` `[b, t]`: logits `[b, t, v]`.
    ///
    /// # Errors
    /// A token that is not in the vocabulary, and those of tensor work.
    pub fn run(
        &self,
        tokens: &Tensor,
        states: Vec<State>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(Tensor, Vec<State>)> {
        let (x, states) = self.features(tokens, states, ctx)?;
        Ok((self.head(&x)?, states))
    }

    /// What the head reads, `[b, t, m]`.
    fn features(
        &self,
        tokens: &Tensor,
        states: Vec<State>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(Tensor, Vec<State>)> {
        let (b, t) = tokens.dims2()?;
        let flat = tokens.flatten_all()?;
        let mut x = ops::embed(&self.embed, &flat)?.reshape((b, t, self.config.d_model))?;
        let mut before = states.into_iter();
        let mut states = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let (y, state) = block.run(&x, before.next().unwrap_or_default(), ctx)?;
            x = y;
            states.push(state);
        }
        Ok((x, states))
    }

    fn head(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.run(x)?;
        match &self.head {
            Some(head) => head.run(&x),
            None => ops::linear(&x, &self.embed, self.precision),
        }
    }

    /// Logits `[r, v]` and targets `[r]` where a batch asks for something, from an empty state; of every token where it
    /// does not say where that is.
    ///
    /// # Errors
    /// Those of [`Decoder::run`].
    pub fn answers(&self, batch: &Batch, ctx: &mut Ctx<'_>) -> Result<(Tensor, Tensor)> {
        let (x, _) = self.features(&batch.tokens, Vec::new(), ctx)?;
        let (x, targets) = (x.flatten_to(1)?, batch.targets.flatten_all()?);
        match &batch.asked {
            Some(at) => Ok((self.head(&x.index_select(at, 0)?)?, targets.index_select(at, 0)?)),
            None => Ok((self.head(&x)?, targets)),
        }
    }

    /// Mean loss of a batch from an empty state, nats per token that is asked for.
    ///
    /// # Errors
    /// Those of [`Decoder::run`], and a target that is no token.
    pub fn loss(&self, batch: &Batch, ctx: &mut Ctx<'_>) -> Result<Tensor> {
        let (logits, targets) = self.answers(batch, ctx)?;
        ops::cross_entropy(&logits, &targets)
    }
}

impl Config {
    /// Refuses sizes that cannot be.
    ///
    /// # Errors
    /// [`eunoe_core::Error::Invalid`] that names them.
    pub fn check(&self) -> eunoe_core::Result<()> {
        let kv_heads = self.kv_heads();
        let wrong = |why: String| Err(eunoe_core::Error::Invalid(why));
        for (name, size) in [("vocab", self.vocab), ("d_model", self.d_model), ("layers", self.layers)] {
            if size == 0 || size > 1 << 24 {
                return wrong(format!("`{name}` is {size}; expected 1 to {}", 1 << 24));
            }
        }
        if self.d_ff > 1 << 24 {
            return wrong(format!("`d_ff` is {}; expected 0 to {}", self.d_ff, 1 << 24));
        }
        if self.layers > MOST_LAYERS {
            return wrong(format!("`layers` is {}; expected {MOST_LAYERS} at most", self.layers));
        }
        if self.heads == 0 || !self.d_model.is_multiple_of(self.heads) {
            return wrong(format!("`heads` {} does not divide `d_model` {}", self.heads, self.d_model));
        }
        if !self.heads.is_multiple_of(kv_heads) {
            return wrong(format!("`kv_heads` {kv_heads} does not divide `heads` {}", self.heads));
        }
        if self.mixers.is_empty() {
            return wrong(
                "`mixers` is empty; expected one mixer at least, such as `softmax_attention`".into(),
            );
        }
        if self.mixers.len() > self.layers {
            let (named, layers) = (self.mixers.len(), self.layers);
            return wrong(format!(
                "`mixers` names {named}, the model has `layers` {layers}: the rest would be left out"
            ));
        }
        if !(self.norm_eps > 0.0 && self.rope_base > 1.0 && self.init_std > 0.0) {
            return wrong("`norm_eps` and `init_std` must be above 0, `rope_base` above 1".into());
        }
        Ok(())
    }

    /// Key/value heads.
    pub fn kv_heads(&self) -> usize {
        if self.kv_heads == 0 { self.heads } else { self.kv_heads }
    }

    /// Numbers per head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.heads
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::ops::IGNORE;

    #[test]
    fn a_loss_is_the_mean_over_what_is_asked() {
        let config = Config { vocab: 7, d_model: 8, layers: 1, heads: 2, d_ff: 8, ..Config::default() };
        let model = Decoder::new(&config, &mut Params::new(1, DType::F64, &Device::Cpu)).unwrap();
        let tokens: Vec<u32> = (0..10).map(|i| i * 3 % 7).collect();
        let loss = |targets: &[u32]| {
            let batch = Batch::new(tokens.clone(), targets.to_vec(), 2, &Device::Cpu).unwrap();
            let asked = batch.asked.as_ref().map(|at| at.to_vec1::<u32>().unwrap());
            let loss = model.loss(&batch, &mut Ctx::default()).unwrap().to_scalar::<f64>().unwrap();
            let whole = Batch { asked: None, ..batch };
            let same = model.loss(&whole, &mut Ctx::default()).unwrap().to_scalar::<f64>().unwrap();
            assert!((loss - same).abs() < 1e-12, "{loss} {same}");
            asked
        };
        const NONE: u32 = IGNORE;
        assert_eq!(loss(&[NONE, 2, NONE, NONE, 6, NONE, NONE, NONE, 0, NONE]), Some(vec![1, 4, 8]));
        assert_eq!(loss(&[3; 10]), None);
        assert_eq!(loss(&[NONE; 10]), None);
    }
}
