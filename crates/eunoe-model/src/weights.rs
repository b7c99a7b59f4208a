//! A model's tensors, checked against its configuration and handed to a backend.

use crate::backend::Backend;
use crate::config::Config;
use crate::gguf::Gguf;
use eunoe_core::{Dtype, Error, Result};
use eunoe_kernels::Pool;
use eunoe_kernels::matmul::Packed;
use eunoe_kernels::rope::Rope;
use std::collections::HashSet;

/// The weights of one block; each is `[outputs, inputs]`.
pub struct Layer<W> {
    /// Norm before attention.
    pub attn_norm: Vec<f32>,
    /// Queries `[heads * head_dim, d_model]`, keys and values `[kv_heads * head_dim, d_model]`.
    pub q: Linear<W>,
    /// Keys.
    pub k: Linear<W>,
    /// Values.
    pub v: Linear<W>,
    /// Norms of single query and key heads.
    pub qk_norm: Option<[Vec<f32>; 2]>,
    /// `[d_model, heads * head_dim]`.
    pub out: Linear<W>,
    /// Norm of what attention adds.
    pub attn_post_norm: Option<Vec<f32>>,
    /// Norm before the MLP.
    pub mlp_norm: Vec<f32>,
    /// `[d_ff, d_model]`.
    pub gate: W,
    /// `[d_ff, d_model]`.
    pub up: W,
    /// `[d_model, d_ff]`.
    pub down: W,
    /// Norm of what the MLP adds.
    pub mlp_post_norm: Option<Vec<f32>>,
    /// Whether the layer sees a window only.
    pub is_sliding: bool,
}

/// A matrix with an optional bias.
pub struct Linear<W> {
    /// The matrix.
    pub weight: W,
    /// One value per output.
    pub bias: Option<Vec<f32>>,
}

/// A model on a backend.
pub struct Model<B: Backend> {
    /// Sizes and constants.
    pub config: Config,
    /// Where it computes.
    pub backend: B,
    /// Token embedding `[vocab, d_model]`.
    pub embed: B::Weight,
    /// Blocks.
    pub layers: Vec<Layer<B::Weight>>,
    /// Norm before the head.
    pub final_norm: Vec<f32>,
    /// The head `[vocab, d_model]` where it is not the embedding.
    pub head: Option<B::Weight>,
    /// Rotation of global layers.
    pub rope: Rope,
    /// Rotation of sliding layers, where there are some.
    pub sliding_rope: Option<Rope>,
}

impl<B: Backend> Model<B> {
    /// Loads a model; `progress` gets the share done, 0 to 1.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what Eunoe does not run (a tensor it would have to ignore included),
    /// [`Error::Format`] or [`Error::Shape`] for a broken file.
    pub fn load(gguf: &Gguf, backend: B, progress: &mut dyn FnMut(f32)) -> Result<Self> {
        let config = Config::from_gguf(gguf)?;
        let mut file = File { gguf, backend: &backend, read: HashSet::new() };
        let (d, vocab) = (config.d_model, config.vocab);
        let embed = file.matrix("token_embd.weight", vocab, d)?;
        let mut layers = Vec::new();
        for l in 0..config.layers {
            progress(l as f32 / config.layers as f32);
            layers.push(file.layer(&config, l)?);
        }
        let final_norm = file.vector("output_norm.weight", d)?;
        let head = match file.has("output.weight") {
            true => Some(file.matrix("output.weight", vocab, d)?),
            false => None,
        };
        file.read.insert("rope_freqs.weight".into());
        if let Some(name) = gguf.tensors.keys().find(|name| !file.read.contains(*name)) {
            let why = format!("tensor `{name}` is not part of a `{}` model as Eunoe runs it", config.arch);
            return Err(Error::Unsupported(why));
        }
        let (rope, sliding_rope) = (config.rope()?, config.sliding_rope()?);
        progress(1.0);
        Ok(Self { config, backend, embed, layers, final_norm, head, rope, sliding_rope })
    }
}

impl Model<crate::Cpu> {
    /// Bytes of weights that one decoded token reads: everything but an embedding that is not the head.
    pub fn bytes_per_token(&self) -> usize {
        self.matrices().map(Packed::bytes).sum::<usize>() + self.output().bytes()
    }

    /// Multiply-adds of one token in the blocks' weights, and in the head.
    pub fn macs_per_token(&self) -> [u64; 2] {
        let macs = |w: &Packed| w.rows() as u64 * w.cols() as u64;
        [self.matrices().map(macs).sum(), macs(self.output())]
    }

    /// The matrices of all blocks.
    fn matrices(&self) -> impl Iterator<Item = &Packed> {
        self.layers.iter().flat_map(|l| {
            let attention = [&l.q, &l.k, &l.v, &l.out].map(|l| &l.weight);
            attention.into_iter().chain([&l.gate, &l.up, &l.down])
        })
    }

    fn output(&self) -> &Packed {
        self.head.as_ref().unwrap_or(&self.embed)
    }
}

struct File<'a, B: Backend> {
    gguf: &'a Gguf,
    backend: &'a B,
    /// Names of tensors that were asked for.
    read: HashSet<String>,
}

impl<B: Backend> File<'_, B> {
    fn has(&self, name: &str) -> bool {
        self.gguf.tensors.contains_key(name)
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<B::Weight> {
        self.read.insert(name.to_owned());
        let tensor = self.gguf.tensor(name)?;
        if tensor.info.shape != [cols as u64, rows as u64] {
            return Err(Error::shape(format!("`{}`", tensor.info.name), [cols, rows], &tensor.info.shape));
        }
        let weight = self.backend.weight(tensor.info.dtype, rows, cols, tensor.bytes)?;
        // what is repacked is not held twice
        self.gguf.release(tensor.info);
        Ok(weight)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.read.insert(name.to_owned());
        floats(self.gguf, name, len)
    }

    fn opt_vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.has(name).then(|| self.vector(name, len)).transpose()
    }

    fn linear(&mut self, prefix: &str, rows: usize, cols: usize) -> Result<Linear<B::Weight>> {
        Ok(Linear {
            weight: self.matrix(&format!("{prefix}.weight"), rows, cols)?,
            bias: self.opt_vector(&format!("{prefix}.bias"), rows)?,
        })
    }

    fn layer(&mut self, c: &Config, l: usize) -> Result<Layer<B::Weight>> {
        let name = |part: &str| format!("blk.{l}.{part}");
        let (d, q, kv) = (c.d_model, c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let qk_norm = match self.opt_vector(&name("attn_q_norm.weight"), c.head_dim)? {
            Some(q) => Some([q, self.vector(&name("attn_k_norm.weight"), c.head_dim)?]),
            None => None,
        };
        Ok(Layer {
            attn_norm: self.vector(&name("attn_norm.weight"), d)?,
            q: self.linear(&name("attn_q"), q, d)?,
            k: self.linear(&name("attn_k"), kv, d)?,
            v: self.linear(&name("attn_v"), kv, d)?,
            qk_norm,
            out: self.linear(&name("attn_output"), d, q)?,
            attn_post_norm: self.opt_vector(&name("post_attention_norm.weight"), d)?,
            mlp_norm: self.vector(&name("ffn_norm.weight"), d)?,
            gate: self.matrix(&name("ffn_gate.weight"), c.d_ff, d)?,
            up: self.matrix(&name("ffn_up.weight"), c.d_ff, d)?,
            down: self.matrix(&name("ffn_down.weight"), d, c.d_ff)?,
            mlp_post_norm: self.opt_vector(&name("post_ffw_norm.weight"), d)?,
            is_sliding: c.is_sliding(l),
        })
    }
}

/// A vector of `len` values of any type, as f32.
pub(crate) fn floats(gguf: &Gguf, name: &str, len: usize) -> Result<Vec<f32>> {
    let tensor = gguf.tensor(name)?;
    if tensor.info.shape != [len as u64] {
        return Err(Error::shape(format!("`{}`", tensor.info.name), [len], &tensor.info.shape));
    }
    if tensor.info.dtype == Dtype::F32 {
        return Ok(tensor.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect());
    }
    let mut out = vec![0.0; len];
    Packed::new(&Pool::new(1), tensor.info.dtype, 1, len, tensor.bytes)?.row(0, &mut out);
    Ok(out)
}
