//! The same random weights as a folder of safetensors, and as the GGUF file that its conversion makes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use eunoe_core::Dtype;
use eunoe_model::gguf::write::{GgufWriter, Put};
use serde_json::{Value, json};

use super::byte_tokens;

const D: usize = 64;
const D_FF: usize = 96;
const HEAD_DIM: usize = 32;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const LAYERS: usize = 2;
pub const VOCAB: usize = 260;

/// Weights `[outputs, inputs]` by their names in a folder, and what `config.json` and `tokenizer.json` say of them.
pub struct Model {
    pub arch: &'static str,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    pub config: Value,
    pub tokenizer: Value,
}

/// `llama` or `qwen2`, with a head of its own or without; 257 of its 260 tokens are tokens, three of them rows only.
pub fn model(arch: &'static str, tied: bool) -> Model {
    let mut random = fastrand::Rng::with_seed(5);
    let mut tensors = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize], mean: f32, scale: f32| {
        let len = shape.iter().product();
        let values = (0..len).map(|_| mean + scale * (random.f32() - 0.5)).collect();
        tensors.insert(name.to_owned(), (shape.to_vec(), values));
    };
    add("model.embed_tokens.weight", &[VOCAB, D], 0.0, 2.0);
    add("model.norm.weight", &[D], 1.0, 0.2);
    if !tied {
        add("lm_head.weight", &[VOCAB, D], 0.0, 1.0);
    }
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    for l in 0..LAYERS {
        for (name, rows, cols) in [
            ("self_attn.q_proj", q, D),
            ("self_attn.k_proj", kv, D),
            ("self_attn.v_proj", kv, D),
            ("self_attn.o_proj", D, q),
            ("mlp.gate_proj", D_FF, D),
            ("mlp.up_proj", D_FF, D),
            ("mlp.down_proj", D, D_FF),
        ] {
            add(&format!("model.layers.{l}.{name}.weight"), &[rows, cols], 0.0, 0.8);
            if arch == "qwen2" && ["q_proj", "k_proj", "v_proj"].iter().any(|part| name.ends_with(part)) {
                add(&format!("model.layers.{l}.{name}.bias"), &[rows], 0.0, 0.5);
            }
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("model.layers.{l}.{norm}.weight"), &[D], 1.0, 0.2);
        }
    }
    Model { arch, tensors, config: config(arch, tied), tokenizer: tokenizer() }
}

fn config(arch: &str, tied: bool) -> Value {
    json!({
        "model_type": arch, "hidden_size": D, "intermediate_size": D_FF, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 500.0, "vocab_size": VOCAB,
        "tie_word_embeddings": tied, "hidden_act": "silu", "rope_scaling": null, "eos_token_id": 256,
    })
}

/// A token for every byte, one that is special, and no merges.
fn tokenizer() -> Value {
    let vocab: BTreeMap<String, usize> = byte_tokens().into_iter().zip(0..).collect();
    json!({
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false },
        "added_tokens": [{ "id": 256, "content": "<|end|>", "special": true }],
    })
}

fn stored(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        other => panic!("{other:?} is not a type of folders"),
    }
}

/// A safetensors file: the header's length, the header, the bytes.
pub fn safetensors(header: &Value, bytes: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), bytes].concat()
}

impl Model {
    /// Writes the folder, its tensors in one file or dealt out to several.
    pub fn write(&self, folder: &Path, dtype: Dtype, files: usize) {
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        fs::write(folder.join("tokenizer.json"), self.tokenizer.to_string()).unwrap();
        let mut map = BTreeMap::new();
        for i in 0..files {
            let (mut header, mut bytes) = (json!({ "__metadata__": { "format": "pt" } }), Vec::new());
            for (name, (shape, values)) in self.tensors.iter().skip(i).step_by(files) {
                let start = bytes.len();
                bytes.extend(stored(values, dtype));
                header[name] =
                    json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [start, bytes.len()] });
                map.insert(name, part(i, files));
            }
            fs::write(folder.join(part(i, files)), safetensors(&header, &bytes)).unwrap();
        }
        if files > 1 {
            let index = json!({ "metadata": {}, "weight_map": map });
            fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
        }
    }

    /// The GGUF file; `neighbours`: rows of `q` and `k` in the order of `llama`'s files.
    pub fn gguf(&self, dtype: Dtype, neighbours: bool) -> GgufWriter {
        let key = |k: &str| format!("{}.{k}", self.arch);
        let tokens = byte_tokens();
        let mut names: Vec<&str> = tokens.iter().map(String::as_str).collect();
        names.extend(["<|end|>", "", "", ""]);
        let kinds: Vec<i32> = [vec![1; 256], vec![3, 5, 5, 5]].concat();
        let mut w = GgufWriter::new()
            .put("general.architecture", Put::Str(self.arch))
            .put(&key("block_count"), Put::U32(LAYERS as u32))
            .put(&key("context_length"), Put::U32(512))
            .put(&key("embedding_length"), Put::U32(D as u32))
            .put(&key("feed_forward_length"), Put::U32(D_FF as u32))
            .put(&key("attention.head_count"), Put::U32(HEADS as u32))
            .put(&key("attention.head_count_kv"), Put::U32(KV_HEADS as u32))
            .put(&key("attention.key_length"), Put::U32(HEAD_DIM as u32))
            .put(&key("attention.value_length"), Put::U32(HEAD_DIM as u32))
            .put(&key("attention.layer_norm_rms_epsilon"), Put::F32(1e-5))
            .put(&key("rope.freq_base"), Put::F32(500.0))
            .put("tokenizer.ggml.model", Put::Str("gpt2"))
            .put("tokenizer.ggml.tokens", Put::Strs(&names))
            .put("tokenizer.ggml.token_type", Put::I32s(&kinds))
            .put("tokenizer.ggml.merges", Put::Strs(&[]))
            .put("tokenizer.ggml.eos_token_id", Put::U32(256));
        for (name, (shape, values)) in &self.tensors {
            let turned = neighbours && ["q_proj", "k_proj"].iter().any(|part| name.contains(part));
            let values = if turned { interleaved(values, values.len() / shape[0]) } else { values.clone() };
            let shape: Vec<u64> = shape.iter().rev().map(|n| *n as u64).collect();
            w = w.tensor(&gguf_name(name), &shape, dtype, &stored(&values, dtype));
        }
        w
    }
}

fn part(i: usize, files: usize) -> String {
    match files {
        1 => "model.safetensors".into(),
        _ => format!("model-{:05}-of-{files:05}.safetensors", i + 1),
    }
}

/// Rows of every head: i and i + 16 become neighbours.
fn interleaved(rows: &[f32], cols: usize) -> Vec<f32> {
    let row = |head: usize, i: usize| &rows[(head * HEAD_DIM + i) * cols..][..cols];
    let heads = rows.len() / cols / HEAD_DIM;
    (0..heads)
        .flat_map(|h| (0..HEAD_DIM / 2).flat_map(move |i| [row(h, i), row(h, i + HEAD_DIM / 2)]))
        .flatten()
        .copied()
        .collect()
}

fn gguf_name(name: &str) -> String {
    let mut name = name.replace("model.layers.", "blk.");
    for (here, there) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(here, there);
    }
    name
}
