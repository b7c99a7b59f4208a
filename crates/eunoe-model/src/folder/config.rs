//! `config.json`: sizes, constants, and what must not be asked for.

use std::path::Path;

use eunoe_core::{Error, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{CONFIG, json, unsupported};
use crate::config::ROPE_HALVES;
use crate::gguf::write::{GgufWriter, Put};

/// Values of `model_type` that are here; GGUF names the architectures the same.
const MODEL_TYPES: [&str; 2] = ["llama", "qwen2"];

#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

/// What counts of `config.json`.
#[derive(Deserialize)]
pub(super) struct Config {
    pub(super) model_type: String,
    pub(super) hidden_size: u32,
    intermediate_size: u32,
    pub(super) num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    max_position_embeddings: u32,
    pub(super) vocab_size: u32,
    rms_norm_eps: f32,
    tie_word_embeddings: Option<bool>,
    rope_theta: Option<f32>,
    rope_scaling: Option<Rope>,
    /// Where newer versions write all of the rotation.
    rope_parameters: Option<Rope>,
    partial_rotary_factor: Option<f32>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<u32>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<IgnoredAny>,
    pub(super) bos_token_id: Option<Ids>,
    pub(super) eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
struct Rope {
    rope_type: Option<String>,
    /// Its older name.
    r#type: Option<String>,
    factor: Option<f32>,
    rope_theta: Option<f32>,
    partial_rotary_factor: Option<f32>,
}

/// One token id or several.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    pub(super) fn all(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

impl Config {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(CONFIG);
        // first, since other kinds of model have other fields
        let Kind { model_type } = json(&file)?;
        if !MODEL_TYPES.contains(&&*model_type) {
            return Err(Error::Unsupported(format!(
                "`model_type` `{model_type}` in `{CONFIG}` is not supported; supported: {}",
                MODEL_TYPES.join(", ")
            )));
        }
        let config: Self = json(&file)?;
        config.refuse()?;
        Ok(config)
    }

    /// Refuses what would change the result and is not done.
    fn refuse(&self) -> Result<()> {
        let llama = self.model_type == "llama";
        let act = self.hidden_act.as_deref().unwrap_or("silu");
        let slides = |kinds: &Vec<String>| kinds.iter().any(|kind| kind != "full_attention");
        let rope = self.rope();
        let shares = [self.partial_rotary_factor, rope.and_then(|rope| rope.partial_rotary_factor)];
        let refused = [
            (self.quantization_config.is_some(), "`quantization_config`".to_owned()),
            (act != "silu", format!("`hidden_act` `{act}`")),
            (llama && self.attention_bias == Some(true), "`attention_bias`".into()),
            (self.mlp_bias == Some(true), "`mlp_bias`".into()),
            (self.use_sliding_window == Some(true), "`use_sliding_window`".into()),
            (llama && self.sliding_window.is_some(), "`sliding_window`".into()),
            (self.layer_types.as_ref().is_some_and(slides), "sliding attention of `layer_types`".into()),
            (shares.iter().flatten().any(|share| *share != 1.0), "`partial_rotary_factor`".into()),
            (
                self.rope_parameters.as_ref().is_some_and(|rope| rope.rope_theta.is_none()),
                "`rope_parameters` without `rope_theta`".into(),
            ),
        ];
        match refused.into_iter().find(|(is, _)| *is) {
            Some((_, what)) => Err(unsupported(CONFIG, what)),
            None => Ok(()),
        }
    }

    pub(super) fn is_tied(&self) -> bool {
        self.tie_word_embeddings.unwrap_or(false)
    }

    fn rope(&self) -> Option<&Rope> {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref())
    }

    /// The same under GGUF's keys.
    pub(super) fn write(&self, mut to: GgufWriter) -> GgufWriter {
        let arch = &self.model_type;
        let kv_heads = self.num_key_value_heads.unwrap_or(self.num_attention_heads);
        to = to.put("general.architecture", Put::Str(arch)).put(ROPE_HALVES, Put::Bool(true));
        for (key, size) in [
            ("block_count", Some(self.num_hidden_layers)),
            ("context_length", Some(self.max_position_embeddings)),
            ("embedding_length", Some(self.hidden_size)),
            ("feed_forward_length", Some(self.intermediate_size)),
            ("attention.head_count", Some(self.num_attention_heads)),
            ("attention.head_count_kv", Some(kv_heads)),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
        ] {
            if let Some(size) = size {
                to = to.put(&format!("{arch}.{key}"), Put::U32(size));
            }
        }
        let rope = self.rope();
        for (key, number) in [
            ("attention.layer_norm_rms_epsilon", Some(self.rms_norm_eps)),
            ("rope.freq_base", rope.and_then(|rope| rope.rope_theta).or(self.rope_theta)),
            ("rope.scaling.factor", rope.and_then(|rope| rope.factor)),
        ] {
            if let Some(number) = number {
                to = to.put(&format!("{arch}.{key}"), Put::F32(number));
            }
        }
        let scaling = rope.and_then(|rope| rope.rope_type.as_deref().or(rope.r#type.as_deref()));
        let scaling = scaling.filter(|scaling| *scaling != "default").unwrap_or("none");
        to.put(&format!("{arch}.rope.scaling.type"), Put::Str(scaling))
    }
}
