//! What a model file says of its architecture.

use crate::gguf::Gguf;
use eunoe_core::{Error, Result};
use eunoe_kernels::ops::Gate;
use eunoe_kernels::rope::{Rope, Style};

/// Architectures that the forward pass runs.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "gemma3"];

/// Our own key: `llama` weights that rotate halves of a head, as in folders; in GGUF files they rotate neighbours.
pub(crate) const ROPE_HALVES: &str = "eunoe.rope.halves";

/// The sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `llama`, `qwen2` or `gemma3`.
    pub arch: String,
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the gated MLP.
    pub d_ff: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key/value heads per layer.
    pub kv_heads: usize,
    /// Length of one query, key or value vector.
    pub head_dim: usize,
    /// Tokens.
    pub vocab: usize,
    /// The trained window, in tokens.
    pub context: usize,
    /// Epsilon of the RMS norms.
    pub rms_eps: f32,
    /// Activation of the gate.
    pub gate: Gate,
    /// Factor on embeddings.
    pub embed_scale: f32,
    /// Factor on attention scores.
    pub attn_scale: f32,
    /// Layers that see a window only, where there are some.
    pub sliding: Option<Sliding>,
    rope: RopeConfig,
}

/// Sliding-window layers: all but every `pattern`-th.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sliding {
    /// A row sees this many positions, its own included.
    pub window: usize,
    /// Layer `l` is global when `(l + 1) % pattern == 0`.
    pub pattern: usize,
    /// RoPE base of the sliding layers.
    pub rope_base: f64,
}

#[derive(Clone, Debug, PartialEq)]
struct RopeConfig {
    style: Style,
    dims: usize,
    base: f64,
    /// Factor on positions (linear scaling).
    scale: f64,
    factors: Option<Vec<f32>>,
}

impl Config {
    /// Reads the architecture from a model file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] naming an architecture or scaling that is not here, [`Error::Format`] for sizes that
    /// cannot be.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let arch = gguf.str("general.architecture")?.to_owned();
        if !ARCHITECTURES.contains(&arch.as_str()) {
            let known = ARCHITECTURES.join(", ");
            return Err(Error::Unsupported(format!(
                "architecture `{arch}` is not supported; supported: {known}"
            )));
        }
        let key = |name: &str| format!("{arch}.{name}");
        let size = |name: &str| positive(gguf, &key(name));
        let (layers, d_model, heads) =
            (size("block_count")?, size("embedding_length")?, size("attention.head_count")?);
        let kv_heads = match gguf.opt_u32(&key("attention.head_count_kv"))? {
            Some(_) => size("attention.head_count_kv")?,
            None => heads,
        };
        let head_dim = match gguf.opt_u32(&key("attention.key_length"))? {
            Some(d) => d as usize,
            None => d_model / heads,
        };
        let value_length = gguf.opt_u32(&key("attention.value_length"))?.map_or(head_dim, |v| v as usize);
        if !heads.is_multiple_of(kv_heads)
            || head_dim == 0
            || !head_dim.is_multiple_of(32)
            || value_length != head_dim
        {
            return Err(Error::Unsupported(format!(
                "attention of {heads} heads on {kv_heads} KV heads with keys of {head_dim} and values of \
                 {value_length} is not supported; needed: whole groups, and equal lengths that are a multiple of 32"
            )));
        }
        if gguf.opt_u32(&key("expert_count"))?.is_some_and(|n| n > 0) {
            return Err(Error::Unsupported("mixture-of-experts models are not supported".into()));
        }
        let gemma = arch == "gemma3";
        Ok(Self {
            layers,
            d_model,
            d_ff: size("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            vocab: vocab(gguf)?,
            context: size("context_length")?,
            rms_eps: epsilon(gguf, &key("attention.layer_norm_rms_epsilon"))?,
            gate: if gemma { Gate::Gelu } else { Gate::Silu },
            embed_scale: if gemma { (d_model as f32).sqrt() } else { 1.0 },
            attn_scale: attn_scale(gemma && layers == 62, d_model, heads, head_dim),
            sliding: if gemma { sliding(gguf, key)? } else { None },
            rope: rope(gguf, &arch, head_dim)?,
            arch,
        })
    }

    /// Whether layer `l` sees only a window.
    pub fn is_sliding(&self, l: usize) -> bool {
        self.sliding.is_some_and(|s| !(l + 1).is_multiple_of(s.pattern))
    }

    /// The rotation of global layers.
    ///
    /// # Errors
    /// [`Error::Shape`] for rotated dimensions that cannot be.
    pub fn rope(&self) -> Result<Rope> {
        let r = &self.rope;
        Rope::new(r.style, r.dims, r.base, r.scale, r.factors.as_deref())
    }

    /// Which values of a head the rotation of global layers pairs, and its base, where it is a plain one: of whole
    /// heads, at positions as they are.
    pub fn plain_rope(&self) -> Option<(Style, f64)> {
        let RopeConfig { style, dims, base, scale, ref factors } = self.rope;
        (dims == self.head_dim && scale == 1.0 && factors.is_none()).then_some((style, base))
    }

    /// The rotation of sliding layers, where there are some.
    ///
    /// # Errors
    /// [`Error::Shape`] for rotated dimensions that cannot be.
    pub fn sliding_rope(&self) -> Result<Option<Rope>> {
        let rope = |s: Sliding| Rope::new(self.rope.style, self.rope.dims, s.rope_base, 1.0, None);
        self.sliding.map(rope).transpose()
    }
}

fn epsilon(gguf: &Gguf, key: &str) -> Result<f32> {
    match gguf.f32(key)? {
        e if e.is_finite() && e >= 0.0 => Ok(e),
        e => Err(Error::format(format!("`{key}`"), 0, format!("expected a number from 0 up, got {e}"))),
    }
}

/// Gemma 3 27B alone scales scores by the width of a head in the residual stream.
fn attn_scale(by_width: bool, d_model: usize, heads: usize, head_dim: usize) -> f32 {
    let d = if by_width { d_model / heads } else { head_dim };
    1.0 / (d as f32).sqrt()
}

fn positive(gguf: &Gguf, key: &str) -> Result<usize> {
    /// No model comes near; what is larger is a broken file.
    const MOST: u32 = 1 << 24;
    match gguf.u32(key)? {
        n @ 1..=MOST => Ok(n as usize),
        n => Err(Error::format(format!("`{key}`"), 0, format!("expected 1 to {MOST}, got {n}"))),
    }
}

fn vocab(gguf: &Gguf) -> Result<usize> {
    let shape = &gguf.tensor("token_embd.weight")?.info.shape;
    shape.get(1).map(|v| *v as usize).ok_or_else(|| Error::shape("`token_embd.weight`", "2 axes", shape))
}

fn sliding(gguf: &Gguf, key: impl Fn(&str) -> String) -> Result<Option<Sliding>> {
    let Some(window) = gguf.opt_u32(&key("attention.sliding_window"))? else { return Ok(None) };
    let pattern = match gguf.opt_u32(&key("attention.sliding_window_pattern")) {
        Ok(p) => p.unwrap_or(6),
        Err(_) => {
            let why = "a sliding-window pattern that is not one number is not supported";
            return Err(Error::Unsupported(why.into()));
        }
    };
    let rope_base = gguf.opt_f32(&key("rope.freq_base_swa"))?.map_or(10_000.0, f64::from);
    if window == 0 || pattern == 0 {
        return Err(Error::format("sliding window", 0, format!("window {window} with pattern {pattern}")));
    }
    Ok(Some(Sliding { window: window as usize, pattern: pattern as usize, rope_base }))
}

fn rope(gguf: &Gguf, arch: &str, head_dim: usize) -> Result<RopeConfig> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    let factor = match gguf.opt_str(&key("scaling.type"))? {
        None => match gguf.opt_f32(&key("scaling.factor"))? {
            Some(factor) => factor,
            None => gguf.opt_f32(&key("scale_linear"))?.unwrap_or(1.0),
        },
        Some("none") => 1.0,
        Some("linear") => gguf.f32(&key("scaling.factor"))?,
        Some(other) => {
            let why = format!("RoPE scaling `{other}` is not supported; supported: none, linear");
            return Err(Error::Unsupported(why));
        }
    };
    let base = gguf.opt_f32(&key("freq_base"))?.unwrap_or(10_000.0);
    let dims = gguf.opt_u32(&key("dimension_count"))?.map_or(head_dim, |d| d as usize);
    if !(factor.is_finite() && factor > 0.0 && base.is_finite() && base > 1.0) || dims > head_dim {
        let why = format!("base {base}, scaling factor {factor}, {dims} of {head_dim} dimensions");
        return Err(Error::format("RoPE", 0, why));
    }
    let factors = match gguf.tensors.contains_key("rope_freqs.weight") {
        true => Some(crate::weights::floats(gguf, "rope_freqs.weight", dims / 2)?),
        false => None,
    };
    if let Some(bad) = factors.iter().flatten().find(|f| !(f.is_finite() && **f > 0.0)) {
        return Err(Error::format("`rope_freqs.weight`", 0, format!("a factor of {bad} is not above 0")));
    }
    let halves = arch != "llama" || gguf.opt_bool(ROPE_HALVES)?.unwrap_or(false);
    let style = if halves { Style::Neox } else { Style::Norm };
    Ok(RopeConfig { style, dims, base: f64::from(base), scale: 1.0 / f64::from(factor), factors })
}
