//! A tiny random model as a GGUF file.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "test support")]

use eunoe_core::Dtype;
use eunoe_model::gguf::write::{GgufWriter, Put};

const LAYERS: usize = 2;
const D_MODEL: usize = 64;
const D_FF: usize = 96;
const VOCAB: usize = 100;

/// What a toy is made as.
#[derive(Clone, Copy, Debug)]
pub struct Toy {
    pub arch: &'static str,
    pub heads: usize,
    pub kv_heads: usize,
    pub tied: bool,
    /// Biases of queries, keys and values.
    pub biases: bool,
    /// The type of matrices.
    pub dtype: Dtype,
}

pub const LLAMA: Toy =
    Toy { arch: "llama", heads: 2, kv_heads: 1, tied: true, biases: false, dtype: Dtype::Q8_0 };

/// About normal, deviation `scale`.
struct Noise(fastrand::Rng);

impl Noise {
    fn next(&mut self, scale: f32) -> f32 {
        (0..4).map(|_| self.0.f32() - 0.5).sum::<f32>() * 1.7 * scale
    }

    fn bytes(&mut self, dtype: Dtype, len: usize, scale: f32) -> Vec<u8> {
        match dtype {
            Dtype::F32 => (0..len).flat_map(|_| self.next(scale).to_le_bytes()).collect(),
            Dtype::F16 => {
                (0..len).flat_map(|_| half::f16::from_f32(self.next(scale)).to_le_bytes()).collect()
            }
            // blocks of an f16 scale and 32 signed bytes
            Dtype::Q8_0 => (0..len / 32)
                .flat_map(|_| {
                    let quants: Vec<u8> =
                        (0..32).map(|_| self.next(40.0).clamp(-127.0, 127.0) as i8 as u8).collect();
                    [half::f16::from_f32(scale / 40.0).to_le_bytes().to_vec(), quants].concat()
                })
                .collect(),
            other => panic!("no toys in {other:?}"),
        }
    }
}

impl Toy {
    /// The model file, to which more can be put.
    pub fn gguf(self) -> GgufWriter {
        let key = |k: &str| format!("{}.{k}", self.arch);
        let d = 32;
        let names: Vec<String> = (0..VOCAB).map(|i| format!("t{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut w = GgufWriter::new().put("general.architecture", Put::Str(self.arch));
        for (k, size) in [
            ("block_count", LAYERS),
            ("context_length", 512),
            ("embedding_length", D_MODEL),
            ("feed_forward_length", D_FF),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", d),
            ("attention.value_length", d),
        ] {
            w = w.put(&key(k), Put::U32(size as u32));
        }
        w = w
            .put(&key("attention.layer_norm_rms_epsilon"), Put::F32(1e-5))
            .put(&key("rope.freq_base"), Put::F32(500.0))
            .put("tokenizer.ggml.model", Put::Str("gpt2"))
            .put("tokenizer.ggml.tokens", Put::Strs(&names))
            .put("tokenizer.ggml.merges", Put::Strs(&[]));
        let mut noise = Noise(fastrand::Rng::with_seed(7));
        let mut add = |w: GgufWriter, name: &str, shape: &[usize], dtype: Dtype, scale: f32| {
            let bytes = noise.bytes(dtype, shape.iter().product(), scale);
            let shape: Vec<u64> = shape.iter().rev().map(|n| *n as u64).collect();
            w.tensor(name, &shape, dtype, &bytes)
        };
        w = add(w, "token_embd.weight", &[VOCAB, D_MODEL], Dtype::F16, 1.0);
        w = add(w, "output_norm.weight", &[D_MODEL], Dtype::F32, 1.0);
        if !self.tied {
            w = add(w, "output.weight", &[VOCAB, D_MODEL], self.dtype, 0.3);
        }
        let (q, kv) = (self.heads * d, self.kv_heads * d);
        for l in 0..LAYERS {
            for norm in ["attn_norm", "ffn_norm"] {
                w = add(w, &format!("blk.{l}.{norm}.weight"), &[D_MODEL], Dtype::F32, 1.0);
            }
            for (part, rows, cols, scale) in [
                ("attn_q", q, D_MODEL, 0.3),
                ("attn_k", kv, D_MODEL, 0.3),
                ("attn_v", kv, D_MODEL, 0.2),
                ("attn_output", D_MODEL, q, 0.1),
                ("ffn_gate", D_FF, D_MODEL, 0.15),
                ("ffn_up", D_FF, D_MODEL, 0.15),
                ("ffn_down", D_MODEL, D_FF, 0.1),
            ] {
                w = add(w, &format!("blk.{l}.{part}.weight"), &[rows, cols], self.dtype, scale);
                if self.biases && ["attn_q", "attn_k", "attn_v"].contains(&part) {
                    w = add(w, &format!("blk.{l}.{part}.bias"), &[rows], Dtype::F32, 0.5);
                }
            }
        }
        w
    }
}
