//! One file per mixer. A new one takes its file and two lines here.

pub mod aaren;
pub mod based;
pub mod delta_rule;
pub mod gated_conv;
pub mod lightning_attention;
pub mod linear_attention;
pub mod music_transformer;
pub mod sink_attention;
pub mod softmax_attention;
pub mod titans;

use eunoe_core::{Arg, Args, Card, Kind, Parser, Result, meant};

use crate::Mixer;
use crate::nets::{Config, Init};

/// A mixer on the shelf.
pub struct MixerEntry {
    /// Its entry in every list.
    pub card: Card,
    /// Makes it from its arguments and the sizes of the model.
    pub make: fn(&Args, &Spec, &mut Init<'_>) -> crate::Result<Box<dyn Mixer>>,
}

/// Every mixer.
pub static LIST: &[&MixerEntry] = &[
    &softmax_attention::ENTRY,
    &music_transformer::ENTRY,
    &sink_attention::ENTRY,
    &gated_conv::ENTRY,
    &linear_attention::ENTRY,
    &lightning_attention::ENTRY,
    &based::ENTRY,
    &delta_rule::ENTRY,
    &aaren::ENTRY,
    &titans::ENTRY,
];

/// An argument of mixers that are computed in chunks.
pub(crate) const CHUNK: Arg = Arg {
    name: "chunk",
    kind: Kind::Int { min: 1, max: 1 << 16 },
    default: "64",
    help: "tokens that are computed at a time where no kernel computes them; changes nothing but speed",
};

/// What a mixer must know of the model around it.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Base of rotary positions.
    pub rope_base: f64,
    /// Added to the mean square in norms.
    pub norm_eps: f64,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Standard deviation of first weights.
    pub std: f64,
    /// The same for weights that write to the residual stream: less, the more layers there are.
    pub out_std: f64,
    /// The layer, from 0.
    pub layer: usize,
    /// How many layers there are.
    pub layers: usize,
}

impl Spec {
    /// What layer `layer` of a model has.
    pub fn of(config: &Config, layer: usize) -> Self {
        Self {
            d_model: config.d_model,
            heads: config.heads,
            kv_heads: config.kv_heads(),
            rope_base: config.rope_base,
            norm_eps: config.norm_eps,
            qkv_bias: config.qkv_bias,
            std: config.init_std,
            out_std: config.init_std / (2.0 * config.layers as f64).sqrt(),
            layer,
            layers: config.layers,
        }
    }

    /// Numbers per head.
    pub fn head_dim(&self) -> usize {
        self.d_model / self.heads
    }
}

/// Makes the mixer that `phrase` names, e.g. `based(features=16)`.
///
/// # Errors
/// [`eunoe_core::Error::Plan`] at the character at fault, [`eunoe_core::Error::Invalid`] for sizes that cannot be.
pub fn build(phrase: &str, spec: &Spec, init: &mut Init<'_>) -> Result<Box<dyn Mixer>> {
    let (entry, args) = parse(phrase)?;
    (entry.make)(&args, spec, init)
        .map_err(|error| eunoe_core::Error::Invalid(format!("mixer `{phrase}`: {error}")))
}

/// Reads a mixer's phrase.
///
/// # Errors
/// As [`build`].
pub fn parse(phrase: &str) -> Result<(&'static MixerEntry, Args)> {
    let mut parser = Parser::new("mixer", phrase);
    let name = parser.name("a mixer, e.g. `softmax_attention`")?;
    let names: Vec<_> = LIST.iter().map(|entry| entry.card.id).collect();
    let Some(entry) = LIST.iter().find(|entry| entry.card.id == name.text) else {
        let (got, near) = (name.text, meant(name.text, &names));
        let why = format!("no mixer is called `{got}`{near}; mixers: {}", names.join(", "));
        return Err(parser.error(name.column, why));
    };
    let args = parser.args(&entry.card)?;
    match parser.is_done() {
        true => Ok((*entry, args)),
        false => Err(parser.expected("the end")),
    }
}
